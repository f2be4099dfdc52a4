/* SPDX-License-Identifier: MIT */
/* The one table of stored element types, and the conversions of those that tenon does not deliver as they are.
 *
 * 8-bit floats: OCP "8-bit Floating Point Specification" (OFP8). E4M3 has bias 7, no infinity, and NaN only where all
 * seven bits after the sign are set; E5M2 is the upper byte of an IEEE binary16. */
#include "formats/format.h"

#include "core/dtype.h"
#include <string.h>

static void narrow_f64(void *to, const void *from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, (const char *)from + i * sizeof value, sizeof value);
        const float narrow = (float)value;
        memcpy((char *)to + i * sizeof narrow, &narrow, sizeof narrow);
    }
}

static float e4m3_to_f32(uint8_t byte)
{
    const uint32_t sign = (uint32_t)(byte & 0x80u) << 24, exponent = byte >> 3 & 0xfu, mantissa = byte & 7u;
    if (exponent == 0xf && mantissa == 7) return tn_bits_to_f32(sign | 0x7fc00000u);
    if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-9f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return tn_bits_to_f32(sign | (exponent + 120) << 23 | mantissa << 20);
}

static void widen_e4m3(void *to, const void *from, size_t count)
{
    const uint8_t *bytes = from;
    for (size_t i = 0; i < count; i++) {
        const float wide = e4m3_to_f32(bytes[i]);
        memcpy((char *)to + i * sizeof wide, &wide, sizeof wide);
    }
}

static void widen_e5m2(void *to, const void *from, size_t count)
{
    const uint8_t *bytes = from;
    for (size_t i = 0; i < count; i++) {
        const float wide = tn_f16_to_f32((uint16_t)(bytes[i] << 8));
        memcpy((char *)to + i * sizeof wide, &wide, sizeof wide);
    }
}

/* A file may hold any byte; a C bool may not. */
static void normalise_bool(void *to, const void *from, size_t count)
{
    const uint8_t *bytes = from;
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)to)[i] = bytes[i] != 0;
}

/* clang-format off */
static const tn_encoding encodings[] = {
    {"F32",     "f4", 32, {kDLFloat, 32, 1},  NULL, 0},
    {"F16",     "f2", 16, {kDLFloat, 16, 1},  NULL, 0},
    {"BF16",    NULL, 16, {kDLBfloat, 16, 1}, NULL, 0},
    {"F64",     "f8", 64, {kDLFloat, 32, 1},  narrow_f64, 0},
    {"F8_E4M3", NULL,  8, {kDLFloat, 32, 1},  widen_e4m3, 0},
    {"F8_E5M2", NULL,  8, {kDLFloat, 32, 1},  widen_e5m2, 0},
    {"BOOL",    "b1",  8, {TN_DL_BOOL, 8, 1},   normalise_bool, 0},
    {"I8",      "i1",  8, {kDLInt, 8, 1},     NULL, 0},
    {"I16",     "i2", 16, {kDLInt, 16, 1},    NULL, 0},
    {"I32",     "i4", 32, {kDLInt, 32, 1},    NULL, 0},
    {"I64",     "i8", 64, {kDLInt, 64, 1},    NULL, 0},
    {"U8",      "u1",  8, {kDLUInt, 8, 1},    NULL, 0},
    {"U16",     "u2", 16, {kDLUInt, 16, 1},   NULL, 0},
    {"U32",     "u4", 32, {kDLUInt, 32, 1},   NULL, 0},
    {"U64",     "u8", 64, {kDLUInt, 64, 1},   NULL, 0},
    {"C64",     NULL, 64, {kDLOpaqueHandle, 64, 1}, NULL, 0},
    {"F8_E8M0", NULL,  8, {kDLOpaqueHandle, 8, 1},  NULL, 0},
    {"F8_E4M3FNUZ", NULL,  8, {kDLOpaqueHandle, 8, 1}, NULL, 0},
    {"F8_E5M2FNUZ", NULL,  8, {kDLOpaqueHandle, 8, 1}, NULL, 0},
    {"F6_E2M3", NULL,  6, {kDLOpaqueHandle, 8, 1},  NULL, 0},
    {"F6_E3M2", NULL,  6, {kDLOpaqueHandle, 8, 1},  NULL, 0},
    {"F4",      NULL,  4, {kDLOpaqueHandle, 8, 1},  NULL, 0},
};
/* clang-format on */
enum { num_encodings = sizeof encodings / sizeof encodings[0] };

const tn_encoding tn_encoding_unknown = {NULL, NULL, 0, {kDLOpaqueHandle, 8, 1}, NULL, 0};
const tn_encoding tn_encoding_f64 = {"F64", "f8", 64, {kDLFloat, 64, 1}, NULL, 0};
const tn_encoding tn_encoding_npy_bfloat16 = {NULL, "u2", 16, {kDLBfloat, 16, 1}, NULL, 0};

static bool same(const char *known, const char *name, size_t length)
{
    return known != NULL && strlen(known) == length && memcmp(known, name, length) == 0;
}

const tn_encoding *tn_encoding_of_safetensors(const char *name, size_t length)
{
    for (int i = 0; i < num_encodings; i++) {
        if (same(encodings[i].safetensors, name, length)) return &encodings[i];
    }
    return NULL;
}

const tn_encoding *tn_encoding_of_npy(const char *name, size_t length)
{
    for (int i = 0; i < num_encodings; i++) {
        if (same(encodings[i].npy, name, length)) return &encodings[i];
    }
    return NULL;
}

const tn_encoding *tn_encoding_to_write(DLDataType dtype)
{
    for (int i = 0; i < num_encodings; i++) {
        const tn_encoding *e = &encodings[i];
        const bool as_stored = e->convert == NULL || e->dtype.code == TN_DL_BOOL;
        if (as_stored && e->dtype.code != kDLOpaqueHandle && e->dtype.code == dtype.code &&
            e->dtype.bits == dtype.bits && dtype.lanes == 1) {
            return e;
        }
    }
    return NULL;
}

const tn_encoding *tn_encoding_to_write_as(const char *stored)
{
    const tn_encoding *found = tn_encoding_of_safetensors(stored, strlen(stored));
    if (found != NULL) return tn_encoding_to_write(found->dtype) == found ? found : NULL;
    return strcmp(stored, "Q8_0") == 0 ? tn_encoding_q8_0() : NULL;
}

bool tn_host_is_big_endian(void)
{
    const uint16_t probe = 1;
    uint8_t first;
    memcpy(&first, &probe, 1);
    return first == 0;
}

void tn_swap_bytes(void *data, size_t element, size_t count)
{
    uint8_t *bytes = data;
    for (size_t i = 0; i < count; i++, bytes += element) {
        for (size_t j = 0; j < element / 2; j++) {
            const uint8_t byte = bytes[j];
            bytes[j] = bytes[element - 1 - j];
            bytes[element - 1 - j] = byte;
        }
    }
}
