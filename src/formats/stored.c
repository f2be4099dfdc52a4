/* SPDX-License-Identifier: MIT */
/* Numbers of one float type as another one stores them, and how far that moves them. */
#include "formats/format.h"

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/size.h"
#include <math.h>
#include <stdlib.h>

static void keep_largest(double *moved, double distance)
{
    if (distance > *moved) *moved = distance;
}

/* Elements [0, count), a whole number of blocks, become f32 of Q8_0; *moved: the largest error. */
static void round_blocks(float *values, size_t count, const tn_encoding *encoding, double *moved)
{
    enum { block = 32 };
    for (size_t i = 0; i < count; i += block) {
        unsigned char stored[64];
        float back[block];
        tn_encode_q8_0(stored, values + i, block);
        encoding->convert(back, stored, block);
        for (size_t j = 0; j < block; j++)
            keep_largest(moved, fabs((double)back[j] - (double)values[i + j]));
    }
}

static void convert(void *to, const void *from, tn_dtype dtype, size_t count, tn_dtype target, double *moved)
{
    for (size_t i = 0; i < count; i++) {
        const double value = tn_load(from, dtype, (int64_t)i);
        tn_store(to, target, (int64_t)i, value);
        keep_largest(moved, fabs(tn_load(to, target, (int64_t)i) - value));
    }
}

tenon_status tn_store_as(void **stored, double *moved, const void *from, tn_dtype dtype, size_t count,
                         const tn_encoding *encoding, tenon_error *error)
{
    tn_dtype target = TN_F32;
    size_t bytes;
    (void)tn_dtype_from_dlpack(encoding->dtype, &target); /* writers write F32, F16 and BF16 alone of the floats */
    *moved = 0;
    *stored = tn_mul_size(count, tn_dtype_size(target), &bytes) ? malloc(bytes + 1) : NULL;
    if (*stored == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory for %zu numbers", count);
    tn_environment environment; /* to nearest, whatever the caller's mode is */
    tn_environment_enter(&environment);
    convert(*stored, from, dtype, count, target, moved);
    if (encoding->block > 0) round_blocks(*stored, count, encoding, moved);
    tn_environment_leave(&environment);
    return TENON_OK;
}
