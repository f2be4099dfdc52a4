/* SPDX-License-Identifier: MIT */
/* manifest.json of an output folder: what made it, and which shards are finished.
 *
 *     {"format": 1, "tenon": "0.1.0", "weights": HASH, "options": {...}, "options_hash": HASH,
 *      "shards": {"a.npy": {"images": 4, "tokens": 324, "nonfinite": {}, "features": {"hash": HASH, "stamp": S},
 *                           "tokens_file": ...}},
 *      "last_run": {"bad": {"b.npy": REASON}, "changed": {"a.npy": true}}}
 *
 * The file is replaced whole, so a reader sees the old one or the new one.
 *
 * Where several ranks fill a folder, rank 0 writes that file, and each other rank a part of its own for the shards that
 * it finished, .manifest.rank-N.json. Rank 0 takes the parts in, at the end, or when the next run opens the folder
 * after a rank has died. */
#ifndef TN_CLI_MANIFEST_H
#define TN_CLI_MANIFEST_H

#include "json.h"
#include "tenon/tenon.h"

#define TN_MANIFEST_NAME "manifest.json"
#define TN_MANIFEST_PART_NAME(rank) ".manifest.rank-" rank ".json"

typedef struct tn_manifest tn_manifest;

/* The name of a rank's part. */
enum { TN_MANIFEST_PART_SIZE = 40 };
void tn_manifest_part_name(int rank, char name[TN_MANIFEST_PART_SIZE]);

/* Opens folder/manifest.json, or starts one where there is none or `fresh` says so, and writes it, with the parts that
 * ranks have left. `weights` and `options` (borrowed) say what this run would make; a manifest that says otherwise is
 * refused with what differs. On success the caller owns *manifest. */
bool tn_manifest_open(const char *folder, const char *weights, const json_t *options, bool fresh,
                      tn_manifest **manifest, tenon_error *error);

/* Reads the manifest that rank 0 has opened, and starts this rank's part. */
bool tn_manifest_open_part(const char *folder, const char *weights, const json_t *options, int rank,
                           tn_manifest **manifest, tenon_error *error);

/* Takes the parts that all ranks have saved into the manifest of rank 0 and removes them. */
bool tn_manifest_take_parts(tn_manifest *manifest, tenon_error *error);
void tn_manifest_free(tn_manifest *manifest);

/* Lists of the shards that the present run met, by name: objects of objects, which the parts of other ranks add to.
 * `last_run` is borrowed. */
bool tn_manifest_set_last_run(tn_manifest *manifest, json_t *last_run, tenon_error *error);
const json_t *tn_manifest_last_run(const tn_manifest *manifest);

const char *tn_manifest_path(const tn_manifest *manifest);

/* The entry of a finished shard; NULL when there is none. The manifest keeps it. */
json_t *tn_manifest_find(const tn_manifest *manifest, const char *shard);

/* Records a finished shard (takes `entry`, also on failure) and writes the file, unless writing it after every shard
 * would take more than a tenth of the time; the next call or tn_manifest_save catches up. */
bool tn_manifest_add(tn_manifest *manifest, const char *shard, json_t *entry, tenon_error *error);

/* Writes the file if it is behind. */
bool tn_manifest_save(tn_manifest *manifest, tenon_error *error);

#endif
