/* SPDX-License-Identifier: MIT */
/* Files: positioned reads of a file that must not change, and outputs that appear whole or not at all. All POSIX file
 * calls of the library are behind this header. */
#ifndef TN_CORE_FILE_H
#define TN_CORE_FILE_H

#include "tenon/tenon.h"

/* A regular file open for reading. Its size, inode and modification time are remembered; a read that finds them changed
 * fails. */
typedef struct tn_input tn_input;
tenon_status tn_input_open(const char *path, tn_input **input, tenon_error *error);

/* Opens `name`, a relative path that the file `path` mentions, in the folder of `path`; where it is not there and
 * `path` is a symbolic link, in the folder of the file that it leads to. TENON_NOT_FOUND: it is in neither.
 * TENON_BAD_FILE: symbolic links lead out of that folder. One way out is allowed: a Hugging Face cache keeps a
 * repository's files in blobs/ and links snapshots/<revision>/<file> and snapshots/<revision>/<folders>/<file> to them.
 */
tenon_status tn_input_open_beside(const char *path, const char *name, tn_input **input, tenon_error *error);

/* What a descriptor delivers until its end, which is read now and copied to a nameless file in $TMPDIR (/tmp); a
 * regular file that is at its beginning is read in place. `name` is for messages. The descriptor stays the caller's. */
tenon_status tn_input_open_stream(int descriptor, const char *name, tn_input **input, tenon_error *error);
bool tn_input_is_stream(const tn_input *input);

void tn_input_close(tn_input *input);
uint64_t tn_input_size(const tn_input *input);
const char *tn_input_path(const tn_input *input);

/* Reads exactly `size` bytes at `offset` (safe from many threads), or fails: TENON_IO, or TENON_BAD_FILE when the file
 * ends before or has changed since it was opened. */
tenon_status tn_input_read(const tn_input *input, uint64_t offset, void *data, size_t size, tenon_error *error);

/* True when `path` names a folder; when it names anything. */
bool tn_is_folder(const char *path);
bool tn_path_exists(const char *path);

/* The entries of a folder that end in `suffix` (hidden ones aside), in alphabetical order; the caller frees them. */
typedef struct tn_folder_list {
    char **name;
    size_t count;
} tn_folder_list;
tenon_status tn_folder_list_read(const char *path, const char *suffix, tn_folder_list *names, tenon_error *error);
void tn_folder_list_free(tn_folder_list *names);

/* The file that a symbolic link leads to in the end; the caller frees with free(). NULL: `path` is no link, or leads
 * nowhere. */
char *tn_path_follow(const char *path);

/* The folder part of a path, "." when there is none, joined with `name`; the caller frees with free(). NULL: no
 * memory.*/
char *tn_path_beside(const char *path, const char *name);

/* `folder` and `name` joined; the caller frees with free(). NULL: no memory. */
char *tn_path_join(const char *folder, const char *name);

/* A file being written beside its target. Nothing shows under the target's name until tn_output_commit, which syncs the
 * data, renames, and syncs the folder. A target that exists and is no regular file is refused; one that is a symbolic
 * link is written through. */
typedef tenon_atomic_file tn_output;
tenon_status tn_output_open(const char *path, tn_output **output, tenon_error *error);

/* A descriptor instead: what is written is gone at once, so it is written in order, and nothing of it is atomic. */
tenon_status tn_output_open_stream(int descriptor, const char *name, tn_output **output, tenon_error *error);

/* Bytes up to the end of what has been written: where a stream goes on. */
uint64_t tn_output_end(const tn_output *output);
bool tn_output_is_stream(const tn_output *output);

tenon_status tn_output_write(tn_output *output, uint64_t offset, const void *data, size_t size, tenon_error *error);

/* From now on what is aligned to TN_DIRECT_ALIGN, in the file and in memory, is written past the cache of the system
 * (O_DIRECT), where the file system can do that. The multiple suits every disk's blocks. */
enum { TN_DIRECT_ALIGN = 4096 };
void tn_output_set_direct(tn_output *output);

tenon_status tn_output_commit(tn_output *output, tenon_error *error);

/* Frees; an output that was not committed leaves nothing behind. NULL is allowed. */
void tn_output_free(tn_output *output);

#endif
