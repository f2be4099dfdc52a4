/* SPDX-License-Identifier: MIT */
/* Checked arithmetic. Every product of sizes that come from a caller or a file goes through here. */
#ifndef TN_CORE_SIZE_H
#define TN_CORE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *result = a op b; false, and *result unspecified, when it does not fit. */
static inline bool tn_mul_i64(int64_t a, int64_t b, int64_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

static inline bool tn_add_i64(int64_t a, int64_t b, int64_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

static inline bool tn_mul_size(size_t a, size_t b, size_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

static inline bool tn_add_size(size_t a, size_t b, size_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

/* *bytes = shape[0] * ... * shape[ndim - 1] * element; false for a negative dimension or a product past size_t or
 * int64_t. A zero dimension gives 0 whatever the others are, provided that they are not negative. */
static inline bool tn_shape_bytes(int ndim, const int64_t *shape, size_t element, size_t *bytes)
{
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0) return false;
        empty = empty || shape[i] == 0;
    }
    size_t total = empty ? 0 : element;
    for (int i = 0; i < ndim && !empty; i++) {
        if (!tn_mul_size(total, (size_t)shape[i], &total) || total > INT64_MAX) return false;
    }
    *bytes = total;
    return true;
}

static inline int64_t tn_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t tn_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline size_t tn_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline int64_t tn_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/* Rounds up to a multiple of `align`, a power of two; for sizes far from the end of size_t. */
static inline size_t tn_align_up(size_t size, size_t align)
{
    return (size + align - 1) & ~(align - 1);
}

#endif
