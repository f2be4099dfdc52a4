/* SPDX-License-Identifier: MIT */
/* Copying structs between versions of the header. */
#include "core/versioned.h"

#include "core/error.h"
#include <string.h>

static size_t size_of(const void *versioned)
{
    size_t size;
    memcpy(&size, versioned, sizeof size); /* the first field */
    return size;
}

static tenon_status check_size(size_t size, size_t first_size, const char *name, tenon_error *error)
{
    if (size >= first_size) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "a %s has size %zu, expected at least %zu; call %s_init first", name, size,
                   first_size, name);
}

tenon_status tn_struct_read(void *to, size_t to_size, const void *from, size_t first_size, const char *name,
                            tenon_error *error)
{
    if (from == NULL) return TENON_OK;
    const size_t size = size_of(from);
    TN_TRY(check_size(size, first_size, name, error));
    for (size_t i = to_size; i < size; i++) {
        if (((const char *)from)[i] == 0) continue;
        return tn_fail(error, TENON_UNSUPPORTED, "a %s of %zu bytes has settings that tenon %s does not know", name,
                       size, TENON_VERSION_STRING);
    }
    memcpy(to, from, size < to_size ? size : to_size);
    return TENON_OK;
}

tenon_status tn_struct_write(void *to, const void *from, size_t from_size, size_t first_size, const char *name,
                             tenon_error *error)
{
    const size_t size = size_of(to);
    TN_TRY(check_size(size, first_size, name, error));
    const size_t known = size < from_size ? size : from_size;
    memcpy((char *)to + sizeof size, (const char *)from + sizeof size, known - sizeof size);
    return TENON_OK;
}
