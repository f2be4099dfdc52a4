/* SPDX-License-Identifier: MIT */
/* Storage types inside the library, and their exact conversions. The tests' double table adds float64. */
#ifndef TN_CORE_DTYPE_H
#define TN_CORE_DTYPE_H

#include "tenon/tenon.h"
#include <string.h>

typedef enum tn_dtype { TN_F32 = TENON_F32, TN_BF16 = TENON_BF16, TN_F16 = TENON_F16, TN_F64 = 4 } tn_dtype;

size_t tn_dtype_size(tn_dtype dtype);

/* False when tenon has no such type. */
bool tn_dtype_from_dlpack(DLDataType type, tn_dtype *dtype);

/* "float32", "bfloat16", "int8 x 4", ... for sentences. */
typedef struct tn_dtype_text {
    char text[48];
} tn_dtype_text;
tn_dtype_text tn_dlpack_to_text(DLDataType type);

static inline float tn_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t tn_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float tn_bf16_to_f32(uint16_t value)
{
    return tn_bits_to_f32((uint32_t)value << 16);
}

/* Round to nearest, ties to even; NaN stays a (quiet) NaN. */
static inline uint16_t tn_f32_to_bf16(float value)
{
    const uint32_t bits = tn_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float tn_f16_to_f32(uint16_t value);

/* Round to nearest, ties to even; past 65504 gives infinity, NaN stays a (quiet) NaN. */
uint16_t tn_f32_to_f16(float value);

/* One element at `index` of an array of this dtype, widened or rounded. */
double tn_load(const void *data, tn_dtype dtype, int64_t index);
void tn_store(void *data, tn_dtype dtype, int64_t index, double value);

#endif
