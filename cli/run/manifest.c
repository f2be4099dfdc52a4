/* SPDX-License-Identifier: MIT */
#include "manifest.h"

#include "paths.h"
#include "progress.h"
#include "report.h"
#include "run.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORMAT = 1 };

struct tn_manifest {
    char *folder;
    char *path;
    json_t *root;
    json_t *others; /* of a part: the manifest it belongs to; NULL: it is no part */
    bool is_behind; /* the file lacks a finished shard */
    double written; /* when the file was last written, and how long that took */
    double cost;
};

/* ---- writing ---- */

static bool replace_file(const tn_manifest *manifest, const char *text, tenon_error *error)
{
    tenon_atomic_file *file;
    if (tenon_atomic_file_new(manifest->path, &file, error) != TENON_OK) return false;
    const bool good = tenon_atomic_file_write(file, text, strlen(text), error) == TENON_OK &&
                      tenon_atomic_file_commit(file, error) == TENON_OK;
    tenon_atomic_file_free(file);
    return good;
}

bool tn_manifest_save(tn_manifest *manifest, tenon_error *error)
{
    if (!manifest->is_behind) return true;
    double started = tn_seconds();
    char *text = json_dumps(manifest->root, JSON_INDENT(1));
    if (!text) return tn_error(error, "%s: out of memory while writing the manifest", manifest->path);
    bool good = replace_file(manifest, text, error);
    free(text);
    if (good) manifest->is_behind = false;
    manifest->written = tn_seconds();
    manifest->cost = manifest->written - started;
    return good;
}

bool tn_manifest_add(tn_manifest *manifest, const char *shard, json_t *entry, tenon_error *error)
{
    json_t *shards = json_object_get(manifest->root, "shards");
    char *key = tn_json_key(shard);
    bool good = key && json_object_set(shards, key, entry) == 0;
    json_decref(entry);
    free(key);
    if (!good) return tn_error(error, "%s: out of memory", manifest->path);
    manifest->is_behind = true;
    /* A folder of 10^5 shards has a manifest of many MiB; rewriting it each time would cost more than the work. */
    if (tn_seconds() - manifest->written < 10 * manifest->cost) return true;
    return tn_manifest_save(manifest, error);
}

json_t *tn_manifest_find(const tn_manifest *manifest, const char *shard)
{
    char *key = tn_json_key(shard);
    json_t *found = key ? json_object_get(json_object_get(manifest->root, "shards"), key) : NULL;
    if (key && !found) found = json_object_get(json_object_get(manifest->others, "shards"), key);
    free(key);
    return found;
}

bool tn_manifest_set_last_run(tn_manifest *manifest, json_t *last_run, tenon_error *error)
{
    json_t *old = json_object_get(manifest->root, "last_run");
    if (old && last_run && json_equal(old, last_run)) return true;
    if (!last_run || json_object_set(manifest->root, "last_run", last_run) != 0)
        return tn_error(error, "%s: out of memory", manifest->path);
    manifest->is_behind = true;
    return true;
}

const json_t *tn_manifest_last_run(const tn_manifest *manifest)
{
    return json_object_get(manifest->root, "last_run");
}

const char *tn_manifest_path(const tn_manifest *manifest)
{
    return manifest->path;
}

/* ---- opening ---- */

static void hash_options(const json_t *options, char hash[TN_HASH_SIZE])
{
    char *text = json_dumps(options, JSON_COMPACT | JSON_SORT_KEYS);
    tn_hasher *hasher = text ? tn_hasher_new(0, NULL) : NULL;
    if (hasher) tn_hasher_add(hasher, text, strlen(text));
    tn_hasher_finish(hasher, hash);
    free(text);
}

static json_t *new_root(const char *weights, const json_t *options)
{
    char hash[TN_HASH_SIZE];
    hash_options(options, hash);
    return json_pack("{s:i, s:s, s:s, s:o, s:s, s:{}}", "format", FORMAT, "tenon", TENON_VERSION_STRING, "weights",
                     weights, "options", json_deep_copy(options), "options_hash", hash, "shards");
}

/* A value of the options as a word for a sentence; the caller frees it. */
static char *value_text(const json_t *value)
{
    return value ? json_dumps(value, JSON_ENCODE_ANY) : strdup("not there");
}

/* Names the first option that differs. */
static bool compare_options(const tn_manifest *manifest, const json_t *options, tenon_error *error)
{
    const json_t *old = json_object_get(manifest->root, "options");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)options, name, value)
    {
        const json_t *before = json_object_get(old, name);
        if (before && json_equal(before, value)) continue;
        char *was = value_text(before);
        char *now = value_text(value);
        tn_error(error,
                 "%s: the folder was made with other options: %s was %s and is now %s; use another folder, or --force "
                 "to redo every shard",
                 manifest->path, name, was ? was : "?", now ? now : "?");
        free(was);
        free(now);
        return false;
    }
    return true;
}

static bool check_identity(const tn_manifest *manifest, const char *weights, const json_t *options, tenon_error *error)
{
    const char *old = json_string_value(json_object_get(manifest->root, "weights"));
    bool well_formed = old && json_is_object(json_object_get(manifest->root, "options")) &&
                       json_is_object(json_object_get(manifest->root, "shards"));
    json_int_t format = json_integer_value(json_object_get(manifest->root, "format"));
    if (!well_formed || format != FORMAT)
        return tn_error(error,
                        "%s: is no manifest of this version (format %d); use another folder, or --force to redo every "
                        "shard",
                        manifest->path, FORMAT);
    if (strcmp(old, weights) != 0)
        return tn_error(
            error,
            "%s: the folder was made with other weights (hash %s, now %s); use another folder, or --force to "
            "redo every shard",
            manifest->path, old, weights);
    return compare_options(manifest, options, error);
}

/* NULL: no JSON. */
static json_t *read_root(const char *path, tenon_error *error)
{
    json_error_t reason;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &reason);
    if (!root)
        tn_error(error, "%s: cannot read the manifest: %s, line %d; mend it, or --force to redo every shard", path,
                 reason.text, reason.line);
    return root;
}

static bool read_or_start(tn_manifest *manifest, const char *weights, const json_t *options, bool fresh,
                          tenon_error *error)
{
    if (!fresh && tn_paths_exists(manifest->path)) {
        manifest->root = read_root(manifest->path, error);
        return manifest->root && check_identity(manifest, weights, options, error);
    }
    manifest->root = new_root(weights, options);
    if (!manifest->root) return tn_error(error, "%s: out of memory", manifest->path);
    /* Written before any shard, so that a killed run's folder is known as ours. */
    manifest->is_behind = true;
    if (!tn_manifest_save(manifest, error)) return false;
    manifest->cost = 0;
    return true;
}

/* A manifest that is written to folder/name; its root is to be filled. */
static bool start(const char *folder, const char *name, tn_manifest **manifest, tenon_error *error)
{
    tn_manifest *made = calloc(1, sizeof *made);
    if (!made) return tn_error(error, "out of memory");
    made->folder = strdup(folder);
    made->path = tn_paths_join(folder, name);
    if (made->folder && made->path) {
        *manifest = made;
        return true;
    }
    tn_manifest_free(made);
    return tn_error(error, "out of memory");
}

bool tn_manifest_open(const char *folder, const char *weights, const json_t *options, bool fresh,
                      tn_manifest **manifest, tenon_error *error)
{
    tn_manifest *made = NULL;
    if (!start(folder, TN_MANIFEST_NAME, &made, error)) return false;
    if (read_or_start(made, weights, options, fresh, error) && tn_manifest_take_parts(made, error)) {
        *manifest = made;
        return true;
    }
    tn_manifest_free(made);
    return false;
}

/* ---- parts ---- */

void tn_manifest_part_name(int rank, char name[TN_MANIFEST_PART_SIZE])
{
    snprintf(name, TN_MANIFEST_PART_SIZE, TN_MANIFEST_PART_NAME("%d"), rank);
}

bool tn_manifest_open_part(const char *folder, const char *weights, const json_t *options, int rank,
                           tn_manifest **manifest, tenon_error *error)
{
    char name[TN_MANIFEST_PART_SIZE];
    tn_manifest *made = NULL;
    tn_manifest_part_name(rank, name);
    if (!start(folder, name, &made, error)) return false;
    char *whole = tn_paths_join(folder, TN_MANIFEST_NAME);
    made->root = new_root(weights, options);
    made->others = whole ? read_root(whole, error) : NULL;
    bool good = made->root && made->others;
    if (!whole || !made->root) tn_error(error, "%s: out of memory", made->path);
    free(whole);
    if (good)
        *manifest = made;
    else
        tn_manifest_free(made);
    return good;
}

static bool is_part(const char *name)
{
    return tenon_name_matches(TN_MANIFEST_PART_NAME("*"), name);
}

/* What a part says of its run, list by list. */
static bool take_last_run(tn_manifest *manifest, const json_t *part)
{
    json_t *own = json_object_get(manifest->root, "last_run");
    const char *name;
    json_t *list;
    bool good = true;
    json_object_foreach(json_object_get(part, "last_run"), name, list)
    {
        json_t *to = json_object_get(own, name);
        good = good && (!to || json_object_update(to, list) == 0);
    }
    return good;
}

/* A part of a run with the same weights and options adds its shards; any other is of a folder that --force began anew.
 */
static bool take_part(tn_manifest *manifest, const char *path, tenon_error *error)
{
    static const char *const same[] = {"format", "weights", "options_hash"};
    json_t *part = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    bool fits = json_is_object(json_object_get(part, "shards"));
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        fits = fits && json_equal(json_object_get(part, same[i]), json_object_get(manifest->root, same[i]));
    bool good =
        !fits || (json_object_update(json_object_get(manifest->root, "shards"), json_object_get(part, "shards")) == 0 &&
                  take_last_run(manifest, part));
    json_decref(part);
    manifest->is_behind = manifest->is_behind || fits;
    return good || tn_error(error, "%s: out of memory", path);
}

/* Calls `what` for every part in the folder. */
static bool each_part(tn_manifest *manifest, bool (*what)(tn_manifest *, const char *, tenon_error *),
                      tenon_error *error)
{
    DIR *listing = opendir(manifest->folder);
    struct dirent *entry;
    bool good = true;
    while (good && listing && (entry = readdir(listing))) {
        if (!is_part(entry->d_name)) continue;
        char *path = tn_paths_join(manifest->folder, entry->d_name);
        good = path ? what(manifest, path, error) : tn_error(error, "out of memory");
        free(path);
    }
    if (listing) closedir(listing);
    return good;
}

static bool remove_part(tn_manifest *manifest, const char *path, tenon_error *error)
{
    (void)manifest;
    (void)error;
    unlink(path); /* one that stays is taken in again, to the same end */
    return true;
}

bool tn_manifest_take_parts(tn_manifest *manifest, tenon_error *error)
{
    return each_part(manifest, take_part, error) && tn_manifest_save(manifest, error) &&
           each_part(manifest, remove_part, error);
}

void tn_manifest_free(tn_manifest *manifest)
{
    if (!manifest) return;
    json_decref(manifest->root);
    json_decref(manifest->others);
    free(manifest->folder);
    free(manifest->path);
    free(manifest);
}
