/* SPDX-License-Identifier: MIT */
/* Allocation through the caller's allocator, or the system's. */
#ifndef TN_CORE_MEMORY_H
#define TN_CORE_MEMORY_H

#include "tenon/tenon.h"

/* Alignment of everything that kernels read: a cache line. */
enum { TN_ALIGN = 64 };

/* The C library's memory behind tenon_allocator, from 2 MiB on in large pages; `context` is unused. */
extern const tenon_allocator tn_system_allocator;

/* Data of `size` bytes aligned to TN_ALIGN in *data (never NULL, even for 0 bytes); tn_free gives it back. `what` names
 * it in the sentence of TENON_NO_MEMORY. */
tenon_status tn_alloc(const tenon_allocator *allocator, size_t size, const char *what, void **data, tenon_error *error);
void tn_free(const tenon_allocator *allocator, void *data, size_t size);

#endif
