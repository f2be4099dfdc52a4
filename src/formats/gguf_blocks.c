/* SPDX-License-Identifier: MIT */
/* The element types of GGUF, and the values of its quantised blocks.
 *
 * A block holds 32 or 256 consecutive elements of a row as small integers q with a scale d (f16), and some with a
 * minimum m:
 *
 *     Q8_0, Q4_0, Q5_0    x = d (q - z), z half of the range of an unsigned q
 *     Q4_1, Q5_1          x = d q + m
 *     Q2_K, Q4_K, Q5_K    x = (d s) q - (dmin m), s and m small integers of each 16 or 32 elements
 *     Q3_K, Q6_K          x = (d s) (q - z)
 *
 * The products are rounded in this order, so the values are the reference's (the PyPI package gguf) to the bit. */
#include "formats/gguf.h"

#include "core/dtype.h"
#include <math.h>
#include <string.h>

enum { small = 32, large = 256 };

/* The f16 at `bytes`, little-endian. */
static float half_at(const uint8_t *bytes)
{
    return tn_f16_to_f32((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* ---- 32 elements: the lower four bits of element i, then those of element i + 16, share a byte ---- */

static void decode_q8_0(float *x, const uint8_t *b)
{
    const float d = half_at(b);
    for (int i = 0; i < small; i++)
        x[i] = d * (float)(int8_t)b[2 + i];
}

static int nibble(const uint8_t *qs, int i)
{
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

/* The fifth bits are a bit field of 32. */
static int five_bits(const uint8_t *high, const uint8_t *qs, int i)
{
    return nibble(qs, i) | (high[i / 8] >> i % 8 & 1) << 4;
}

static void decode_q4_0(float *x, const uint8_t *b)
{
    const float d = half_at(b);
    for (int i = 0; i < small; i++)
        x[i] = d * (float)(nibble(b + 2, i) - 8);
}

static void decode_q4_1(float *x, const uint8_t *b)
{
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < small; i++)
        x[i] = d * (float)nibble(b + 4, i) + m;
}

static void decode_q5_0(float *x, const uint8_t *b)
{
    const float d = half_at(b);
    for (int i = 0; i < small; i++)
        x[i] = d * (float)(five_bits(b + 2, b + 6, i) - 16);
}

static void decode_q5_1(float *x, const uint8_t *b)
{
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < small; i++)
        x[i] = d * (float)five_bits(b + 4, b + 8, i) + m;
}

/* ---- 256 elements ---- */

/* Two bits of element i: 32 bytes hold the lowest two bits of 32 elements, then the next two of the next 32, ... */
static int two_bits(const uint8_t *qs, int i)
{
    return qs[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

/* A byte of `scales` for each 16 elements: the scale below, the minimum above. */
static void decode_q2_k(float *x, const uint8_t *b)
{
    const uint8_t *scales = b, *qs = b + 16;
    const float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int i = 0; i < large; i++) {
        const uint8_t scale = scales[i / 16];
        x[i] = d * (float)(scale & 15) * (float)two_bits(qs, i) - dmin * (float)(scale >> 4);
    }
}

/* Scale j of 16, of six bits: four of them in the nibbles of eight bytes, two in four bytes more. */
static int q3_scale(const uint8_t *scales, int j)
{
    const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
    return (low | (scales[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32;
}

/* A third bit that is not set takes 4 away. */
static void decode_q3_k(float *x, const uint8_t *b)
{
    const uint8_t *high = b, *qs = b + 32, *scales = b + 96;
    const float d = half_at(b + 108);
    for (int i = 0; i < large; i++) {
        const int q = two_bits(qs, i) - ((high[i % 32] >> i / 32 & 1) != 0 ? 0 : 4);
        x[i] = d * (float)q3_scale(scales, i / 16) * (float)q;
    }
}

/* Scale and minimum j of 8, of six bits each, in twelve bytes: four scales and four minima whole, with the upper bits
 * of the other four above them; the lower bits of these are the nibbles of the last four bytes. */
static void six_bits(const uint8_t *packed, int j, int *scale, int *minimum)
{
    const uint8_t *s = packed, *m = packed + 4, *both = packed + 8;
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = m[j] & 63;
    } else {
        *scale = (both[j - 4] & 15) | (s[j - 4] >> 2 & 48);
        *minimum = both[j - 4] >> 4 | (m[j - 4] >> 2 & 48);
    }
}

/* 32 bytes hold the nibbles of 64 elements, the lower ones first. `high`: the fifth bits, NULL: there are none. */
static void decode_with_minima(float *x, const uint8_t *b, const uint8_t *high, const uint8_t *qs)
{
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        int scale, minimum;
        six_bits(b + 4, j, &scale, &minimum);
        const float ds = d * (float)scale, dm = dmin * (float)minimum;
        for (int i = 0; i < 32; i++) {
            const int low = qs[j / 2 * 32 + i] >> j % 2 * 4 & 15;
            const int q = high != NULL ? low | (high[i] >> j & 1) << 4 : low;
            x[j * 32 + i] = ds * (float)q - dm;
        }
    }
}

static void decode_q4_k(float *x, const uint8_t *b)
{
    decode_with_minima(x, b, NULL, b + 16);
}

static void decode_q5_k(float *x, const uint8_t *b)
{
    decode_with_minima(x, b, b + 16, b + 48);
}

/* Four bits in 64 bytes for each 128 elements, nibbles of elements i and i + 64; two bits above them as in two_bits. */
static void decode_q6_k(float *x, const uint8_t *b)
{
    const uint8_t *low = b, *high = b + 128;
    const int8_t *scales = (const int8_t *)(b + 192);
    const float d = half_at(b + 208);
    for (int i = 0; i < large; i++) {
        const int four = low[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 15;
        x[i] = d * (float)scales[i / 16] * (float)((four | two_bits(high, i) << 4) - 32);
    }
}

/* Many blocks: what an encoding's `convert` is. */
#define BLOCKS(type, elements, bytes)                                                                                  \
    static void widen_##type(void *to, const void *from, size_t count)                                                 \
    {                                                                                                                  \
        for (size_t i = 0; i < count / (elements); i++)                                                                \
            decode_##type((float *)to + i * (elements), (const uint8_t *)from + i * (bytes));                          \
    }
BLOCKS(q4_0, 32, 18)
BLOCKS(q4_1, 32, 20)
BLOCKS(q5_0, 32, 22)
BLOCKS(q5_1, 32, 24)
BLOCKS(q8_0, 32, 34)
BLOCKS(q2_k, 256, 84)
BLOCKS(q3_k, 256, 110)
BLOCKS(q4_k, 256, 144)
BLOCKS(q5_k, 256, 176)
BLOCKS(q6_k, 256, 210)

/* ---- writing Q8_0 ---- */

/* Ties away from zero, as the reference rounds. */
static int round_to_int8(float value)
{
    const float size = fabsf(value), whole = floorf(size), rounded = whole + floorf(2 * (size - whole));
    if (!(rounded <= 127)) return 0; /* NaN: no number survives it anyway */
    return value < 0 ? -(int)rounded : (int)rounded;
}

/* d = max |x| / 127, q = x / d. */
static void encode_q8_0(uint8_t *block, const float *x)
{
    float largest = 0;
    for (int i = 0; i < small; i++)
        largest = fabsf(x[i]) > largest || isnan(x[i]) ? fabsf(x[i]) : largest;
    const float d = largest / 127, inverse = d > 0 ? 1 / d : 0;
    const uint16_t half = tn_f32_to_f16(d);
    block[0] = (uint8_t)(half & 0xff);
    block[1] = (uint8_t)(half >> 8);
    for (int i = 0; i < small; i++)
        block[2 + i] = (uint8_t)round_to_int8(x[i] * inverse);
}

void tn_encode_q8_0(void *to, const void *from, size_t count)
{
    for (size_t i = 0; i < count / small; i++) {
        float x[small];
        memcpy(x, (const char *)from + i * sizeof x, sizeof x);
        encode_q8_0((uint8_t *)to + i * 34, x);
    }
}

/* ---- the table ---- */

#define F32                                                                                                            \
    {                                                                                                                  \
        kDLFloat, 32, 1                                                                                                \
    }
#define OPAQUE                                                                                                         \
    {                                                                                                                  \
        kDLOpaqueHandle, 8, 1                                                                                          \
    }
/* clang-format off */
static const struct {
    uint32_t number;
    const char *name; /* a type without blocks has the same name in safetensors, and its encoding */
    tn_encoding blocks;
} types[] = {
    { 0, "F32",     {.block = 0}},
    { 1, "F16",     {.block = 0}},
    { 2, "Q4_0",    {NULL, NULL, 8 *  18, F32, widen_q4_0, 32}},
    { 3, "Q4_1",    {NULL, NULL, 8 *  20, F32, widen_q4_1, 32}},
    { 6, "Q5_0",    {NULL, NULL, 8 *  22, F32, widen_q5_0, 32}},
    { 7, "Q5_1",    {NULL, NULL, 8 *  24, F32, widen_q5_1, 32}},
    { 8, "Q8_0",    {NULL, NULL, 8 *  34, F32, widen_q8_0, 32}},
    { 9, "Q8_1",    {NULL, NULL, 8 *  36, OPAQUE, NULL, 32}},
    {10, "Q2_K",    {NULL, NULL, 8 *  84, F32, widen_q2_k, 256}},
    {11, "Q3_K",    {NULL, NULL, 8 * 110, F32, widen_q3_k, 256}},
    {12, "Q4_K",    {NULL, NULL, 8 * 144, F32, widen_q4_k, 256}},
    {13, "Q5_K",    {NULL, NULL, 8 * 176, F32, widen_q5_k, 256}},
    {14, "Q6_K",    {NULL, NULL, 8 * 210, F32, widen_q6_k, 256}},
    {15, "Q8_K",    {NULL, NULL, 8 * 292, OPAQUE, NULL, 256}},
    {16, "IQ2_XXS", {NULL, NULL, 8 *  66, OPAQUE, NULL, 256}},
    {17, "IQ2_XS",  {NULL, NULL, 8 *  74, OPAQUE, NULL, 256}},
    {18, "IQ3_XXS", {NULL, NULL, 8 *  98, OPAQUE, NULL, 256}},
    {19, "IQ1_S",   {NULL, NULL, 8 *  50, OPAQUE, NULL, 256}},
    {20, "IQ4_NL",  {NULL, NULL, 8 *  18, OPAQUE, NULL, 32}},
    {21, "IQ3_S",   {NULL, NULL, 8 * 110, OPAQUE, NULL, 256}},
    {22, "IQ2_S",   {NULL, NULL, 8 *  82, OPAQUE, NULL, 256}},
    {23, "IQ4_XS",  {NULL, NULL, 8 * 136, OPAQUE, NULL, 256}},
    {24, "I8",      {.block = 0}},
    {25, "I16",     {.block = 0}},
    {26, "I32",     {.block = 0}},
    {27, "I64",     {.block = 0}},
    {28, "F64",     {.block = 0}},
    {29, "IQ1_M",   {NULL, NULL, 8 *  56, OPAQUE, NULL, 256}},
    {30, "BF16",    {.block = 0}},
    {34, "TQ1_0",   {NULL, NULL, 8 *  54, OPAQUE, NULL, 256}},
    {35, "TQ2_0",   {NULL, NULL, 8 *  66, OPAQUE, NULL, 256}},
    {39, "MXFP4",   {NULL, NULL, 8 *  17, OPAQUE, NULL, 32}},
    {40, "NVFP4",   {NULL, NULL, 8 *  36, OPAQUE, NULL, 64}},
    {41, "Q1_0",    {NULL, NULL, 8 *  18, OPAQUE, NULL, 128}},
};
/* clang-format on */

const tn_encoding *tn_encoding_of_gguf(uint32_t number, const char **name)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].number != number) continue;
        *name = types[i].name;
        if (types[i].blocks.block > 0) return &types[i].blocks;
        return tn_encoding_of_safetensors(types[i].name, strlen(types[i].name));
    }
    return NULL;
}

bool tn_gguf_number(const tn_encoding *encoding, uint32_t *number)
{
    const char *name;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (tn_encoding_of_gguf(types[i].number, &name) != encoding) continue;
        *number = types[i].number;
        return true;
    }
    return false;
}

const tn_encoding *tn_encoding_q8_0(void)
{
    const char *name;
    return tn_encoding_of_gguf(8, &name);
}
