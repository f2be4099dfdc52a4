/* SPDX-License-Identifier: MIT */
/* What the input and output halves of core/file.h share. */
#ifndef TN_CORE_FILE_PRIVATE_H
#define TN_CORE_FILE_PRIVATE_H

#include "tenon/tenon.h"
#include <sys/stat.h>

struct tn_input {
    int file;
    struct stat opened;
    char *path;
    bool is_stream; /* came through a descriptor: there is nothing beside it */
};

/* Waits until a descriptor that does not wait by itself is ready (POLLIN, POLLOUT). */
void tn_wait_for(int descriptor, short events);

/* "path: what: the system's reason", as TENON_NOT_FOUND, TENON_NO_MEMORY or TENON_IO by the reason. */
tenon_status tn_fail_errno(tenon_error *error, const char *path, const char *what, int number);
tenon_status tn_fail_memory(tenon_error *error, const char *path);

/* Gives `file` the access control list and the user's attributes of the file `old`, as far as that can be.
 * TENON_NO_MEMORY alone is a failure. */
tenon_status tn_keep_attributes(int file, const char *old, tenon_error *error);

/* "a folder", "a device", ...: what a file that is not regular is. */
const char *tn_file_type(const struct stat *status);

#endif
