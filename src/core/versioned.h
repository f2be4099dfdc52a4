/* SPDX-License-Identifier: MIT */
/* Public structs that begin with their size: callers compiled against older or newer headers hand in shorter or longer
 * ones. */
#ifndef TN_CORE_VERSIONED_H
#define TN_CORE_VERSIONED_H

#include "tenon/tenon.h"

/* Size of a struct up to and including `last`: with the last field that the struct had in its first version, this is
 * the least that a caller can have meant. */
#define TN_FIRST_SIZE(type, last) (offsetof(type, last) + sizeof(((const type *)0)->last))

/* Copies the caller's struct over the defaults in `to` (to_size bytes; NULL: the defaults stay). A shorter struct keeps
 * the defaults of the fields it lacks. TENON_INVALID: shorter than its first version, as one that was never initialised
 * is. TENON_UNSUPPORTED: a field that this version does not know is not zero. */
tenon_status tn_struct_read(void *to, size_t to_size, const void *from, size_t first_size, const char *name,
                            tenon_error *error);

/* Copies as much of `from` (from_size bytes) as the caller's struct has, its size field excepted. TENON_INVALID as
 * above. */
tenon_status tn_struct_write(void *to, const void *from, size_t from_size, size_t first_size, const char *name,
                             tenon_error *error);

#endif
