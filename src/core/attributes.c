/* SPDX-License-Identifier: MIT */
/* Access control lists and the user's own attributes of a file that is replaced, where the system has them. */
#include "core/file_private.h"

#ifdef __linux__

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

static const char acl[] = "system.posix_acl_access";

/* Linux has no longer values, nor longer lists. */
enum { most_bytes = 1 << 16 };

static bool is_kept(const char *name)
{
    return strcmp(name, acl) == 0 || strncmp(name, "user.", 5) == 0;
}

tenon_status tn_keep_attributes(int file, const char *old, tenon_error *error)
{
    char *names = malloc(2 * (size_t)most_bytes);
    if (names == NULL) return tn_fail_memory(error, old);
    char *value = names + most_bytes;
    const ssize_t length = listxattr(old, names, most_bytes);
    bool has_acl = false;
    for (const char *name = names; name < names + length; name += strlen(name) + 1) {
        if (!is_kept(name)) continue;
        has_acl = has_acl || strcmp(name, acl) == 0;
        const ssize_t size = getxattr(old, name, value, most_bytes);
        if (size >= 0) (void)!fsetxattr(file, name, value, (size_t)size, 0);
    }
    /* A new file may have one from its folder, which lets in whom the old one did not. */
    if (length >= 0 && !has_acl) (void)!fremovexattr(file, acl);
    free(names);
    return TENON_OK;
}

#else

tenon_status tn_keep_attributes(int file, const char *old, tenon_error *error)
{
    (void)file;
    (void)old;
    (void)error;
    return TENON_OK;
}

#endif
