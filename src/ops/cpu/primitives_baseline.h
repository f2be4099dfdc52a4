/* SPDX-License-Identifier: MIT */
/* Primitives of the baseline level: what every machine has. Vectors of four floats; a product is rounded before it is
 * added, so this level has bits of its own.
 */
#ifndef TN_OPS_CPU_PRIMITIVES_BASELINE_H
#define TN_OPS_CPU_PRIMITIVES_BASELINE_H

#include "core/dtype.h"

enum { lanes = 4 };
#include "ops/cpu/vector.h"

static ALWAYS_INLINE vf vf_set(float value)
{
    return (vf){value, value, value, value};
}

static ALWAYS_INLINE vd vd_set(double value)
{
    return (vd){value, value};
}

static ALWAYS_INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

static ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return vf_select(a < b, a, b);
}

static ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}

static ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

/* Lanes `apart` from each other change places; apart is a power of two below `lanes`. */
static ALWAYS_INLINE vf vf_swap(vf v, int apart)
{
    return apart == 2 ? (vf){v[2], v[3], v[0], v[1]} : (vf){v[1], v[0], v[3], v[2]};
}

static ALWAYS_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return a * b + c;
}

/* Here the product needs a register of its own anyway. */
static ALWAYS_INLINE vf vf_keep(vf v)
{
    return v;
}

static ALWAYS_INLINE vd vd_keep(vd v)
{
    return v;
}

static ALWAYS_INLINE vu vh_widen(vh v)
{
    return __builtin_convertvector(v, vu);
}

/* A binary16's exponent and mantissa, moved to those of a binary32, are 2^112 too small, subnormals too. */
static ALWAYS_INLINE vf vf_load_f16(const uint16_t *from)
{
    const vu bits = vh_widen(vh_load(from));
    const vu magnitude = (bits & 0x7fffu) << 13;
    const vu special = (vu)(magnitude >= (0x7c00u << 13));
    const vu finite = (vu)((vf)magnitude * vf_set(0x1p112f));
    const vu quiet = (vu)(magnitude > (0x7c00u << 13)) & 0x400000u;
    const vu widened = (special & (magnitude | 0x7f800000u | quiet)) | (finite & ~special);
    return (vf)(widened | (bits & 0x8000u) << 16);
}

static ALWAYS_INLINE void vf_store_f16(uint16_t *to, vf v)
{
    for (int i = 0; i < lanes; i++)
        to[i] = tn_f32_to_f16(v[i]);
}

static ALWAYS_INLINE void prefetch_for_write(const void *address)
{
    __builtin_prefetch(address, 1);
}

#endif
