/* SPDX-License-Identifier: MIT */
/* Whether a number is finite is told by its bits: the exponent has not all of them set. Blocks are counted without a
 * branch, at the speed of memory; the first block with a hit is looked at once more. */
#include "ops/finite.h"

enum { block = 4096 };

static int64_t count_words(const char *data, int64_t count, uint32_t exponent)
{
    int64_t hits = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, sizeof bits);
        hits += (bits & exponent) == exponent;
    }
    return hits;
}

static int64_t count_halves(const char *data, int64_t count, uint16_t exponent)
{
    int64_t hits = 0;
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        hits += (bits & exponent) == exponent;
    }
    return hits;
}

static int64_t count_doubles(const char *data, int64_t count)
{
    const uint64_t exponent = UINT64_C(0x7ff) << 52;
    int64_t hits = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, data + 8 * i, sizeof bits);
        hits += (bits & exponent) == exponent;
    }
    return hits;
}

static int64_t count_block(const char *data, tn_dtype dtype, int64_t count)
{
    switch (dtype) {
    case TN_F32:
        return count_words(data, count, 0x7f800000u);
    case TN_BF16:
        return count_halves(data, count, 0x7f80u);
    case TN_F16:
        return count_halves(data, count, 0x7c00u);
    case TN_F64:
        return count_doubles(data, count);
    }
    return 0;
}

int64_t tn_count_nonfinite(const void *data, tn_dtype dtype, int64_t count, int64_t *first)
{
    const int64_t size = (int64_t)tn_dtype_size(dtype);
    const char *bytes = data;
    int64_t total = 0;
    for (int64_t start = 0; start < count; start += block) {
        const int64_t now = count - start < block ? count - start : block;
        const int64_t hits = count_block(bytes + start * size, dtype, now);
        for (int64_t i = start; total == 0 && hits > 0 && i < start + now; i++) {
            if (count_block(bytes + i * size, dtype, 1) == 0) continue;
            *first = i;
            break;
        }
        total += hits;
    }
    return total;
}
