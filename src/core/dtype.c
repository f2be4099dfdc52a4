/* SPDX-License-Identifier: MIT */
/* Names and conversions of storage types. IEEE 754-2008 binary16 and bfloat16 (the upper half of binary32). */
#include "core/dtype.h"

#include "core/error.h"
#include <stdio.h>

/* The one table of public dtypes. */
static const struct {
    tenon_dtype dtype;
    const char *name;
    uint8_t code, bits;
} dtypes[] = {
    {TENON_F32, "f32", kDLFloat, 32},
    {TENON_BF16, "bf16", kDLBfloat, 16},
    {TENON_F16, "f16", kDLFloat, 16},
};
enum { num_dtypes = sizeof dtypes / sizeof dtypes[0] };

const char *tenon_dtype_name(tenon_dtype dtype)
{
    for (int i = 0; i < num_dtypes; i++) {
        if (dtypes[i].dtype == dtype) return dtypes[i].name;
    }
    return NULL;
}

size_t tenon_dtype_size(tenon_dtype dtype)
{
    for (int i = 0; i < num_dtypes; i++) {
        if (dtypes[i].dtype == dtype) return dtypes[i].bits / 8;
    }
    return 0;
}

DLDataType tenon_dtype_to_dlpack(tenon_dtype dtype)
{
    for (int i = 0; i < num_dtypes; i++) {
        if (dtypes[i].dtype == dtype) return (DLDataType){dtypes[i].code, dtypes[i].bits, 1};
    }
    return (DLDataType){0, 0, 0};
}

tenon_status tenon_dtype_from_name(const char *name, tenon_dtype *dtype, tenon_error *error)
{
    for (int i = 0; i < num_dtypes; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype = dtypes[i].dtype;
            return TENON_OK;
        }
    }
    char options[64];
    tn_text text = {options, sizeof options, 0};
    for (int i = 0; i < num_dtypes; i++)
        tn_text_add(&text, "%s%s", i > 0 ? ", " : "", dtypes[i].name);
    return tn_fail(error, TENON_INVALID, "unknown dtype '%s'; options: %s", tn_quote(name).text, options);
}

size_t tn_dtype_size(tn_dtype dtype)
{
    return dtype == TN_F64 ? sizeof(double) : tenon_dtype_size((tenon_dtype)dtype);
}

bool tn_dtype_from_dlpack(DLDataType type, tn_dtype *dtype)
{
    for (int i = 0; i < num_dtypes; i++) {
        if (dtypes[i].code == type.code && dtypes[i].bits == type.bits && type.lanes == 1) {
            *dtype = (tn_dtype)dtypes[i].dtype;
            return true;
        }
    }
    return false;
}

tn_dtype_text tn_dlpack_to_text(DLDataType type)
{
    static const char *const codes[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
    tn_dtype_text shown;
    tn_text text = {shown.text, sizeof shown.text, 0};
    if (type.code < sizeof codes / sizeof codes[0]) {
        tn_text_add(&text, "%s%u", codes[type.code], type.bits);
    } else {
        tn_text_add(&text, "dtype code %u of %u bits", type.code, type.bits);
    }
    if (type.lanes != 1) tn_text_add(&text, " x %u", type.lanes);
    return shown;
}

float tn_f16_to_f32(uint16_t value)
{
    const uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    const uint32_t exponent = (value >> 10) & 0x1fu;
    const uint32_t mantissa = value & 0x3ffu;
    if (exponent == 0x1f) {
        const uint32_t quiet = mantissa != 0 ? 0x400000u : 0;
        return tn_bits_to_f32(sign | 0x7f800000u | quiet | mantissa << 13);
    }
    if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return tn_bits_to_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t tn_f32_to_f16(float value)
{
    const uint32_t bits = tn_f32_to_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up round to infinity */
    if (magnitude < 0x38800000u) {
        /* Subnormal: adding 0.5 puts the binary16 unit 2^-24 at the last place of a binary32, which rounds for us. */
        const float shifted = tn_bits_to_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (tn_f32_to_bits(shifted) - tn_f32_to_bits(0.5f)));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}

double tn_load(const void *data, tn_dtype dtype, int64_t index)
{
    switch (dtype) {
    case TN_F32:
        return ((const float *)data)[index];
    case TN_BF16:
        return tn_bf16_to_f32(((const uint16_t *)data)[index]);
    case TN_F16:
        return tn_f16_to_f32(((const uint16_t *)data)[index]);
    case TN_F64:
        return ((const double *)data)[index];
    }
    return 0;
}

void tn_store(void *data, tn_dtype dtype, int64_t index, double value)
{
    switch (dtype) {
    case TN_F32:
        ((float *)data)[index] = (float)value;
        break;
    case TN_BF16:
        ((uint16_t *)data)[index] = tn_f32_to_bf16((float)value);
        break;
    case TN_F16:
        ((uint16_t *)data)[index] = tn_f32_to_f16((float)value);
        break;
    case TN_F64:
        ((double *)data)[index] = value;
        break;
    }
}
