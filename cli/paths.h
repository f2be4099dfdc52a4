/* SPDX-License-Identifier: MIT */
/* File names: joining, comparing, listing a folder of shards. */
#ifndef TN_CLI_PATHS_H
#define TN_CLI_PATHS_H

#include "tenon/tenon.h"

bool tn_paths_is_folder(const char *path);
bool tn_paths_exists(const char *path);
bool tn_paths_has_suffix(const char *path, const char *suffix);

/* "folder/name", freed with free(); NULL: no memory. */
char *tn_paths_join(const char *folder, const char *name);

/* `name` with another suffix after its last dot, likewise. */
char *tn_paths_with_suffix(const char *name, const char *suffix);

/* The last part of a path. */
const char *tn_paths_base(const char *path);

/* Is it the name of a shard: .npy or .safetensors, and not hidden? */
bool tn_paths_is_shard_name(const char *name);

/* The names in `folder` that end in .npy or .safetensors, sorted by their bytes; or, with `others`, those of everything
 * else, folders with a '/' at their end. Hidden ones are left out; there may be none. On success the caller frees the
 * list with tn_paths_free_list. */
bool tn_paths_list(const char *folder, bool others, char ***names, size_t *count, tenon_error *error);

/* The first kind, of which there must be one. */
bool tn_paths_list_shards(const char *folder, char ***names, size_t *count, tenon_error *error);
void tn_paths_free_list(char **names, size_t count);

/* Size, times and inode of a file in one word: while it stays the same, so does the file. Empty: no such file. */
enum { TN_STAMP_SIZE = 96 };
void tn_paths_stamp(const char *path, char stamp[TN_STAMP_SIZE]);

#endif
