/* SPDX-License-Identifier: MIT */
/* Primitives of the neon level: the vectors of every 64-bit ARM processor. */
#ifndef TN_OPS_CPU_PRIMITIVES_NEON_H
#define TN_OPS_CPU_PRIMITIVES_NEON_H

#include <arm_neon.h>

enum { lanes = 4 };
#include "ops/cpu/vector.h"

static ALWAYS_INLINE vf vf_set(float value)
{
    return (vf)vdupq_n_f32(value);
}

static ALWAYS_INLINE vd vd_set(double value)
{
    return (vd)vdupq_n_f64(value);
}

static ALWAYS_INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)vbslq_f32((uint32x4_t)mask, (float32x4_t)a, (float32x4_t)b);
}

/* fmin and fmax return a NaN from either side; these return b where one is NaN. */
static ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return vf_select(a < b, a, b);
}

static ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}

/* a * b + c, rounded once. */
static ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

/* Lanes `apart` from each other change places; apart is a power of two below `lanes`. */
static ALWAYS_INLINE vf vf_swap(vf v, int apart)
{
    return (vf)(apart == 2 ? vextq_f32((float32x4_t)v, (float32x4_t)v, 2) : vrev64q_f32((float32x4_t)v));
}

static ALWAYS_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

/* Multiply-adds take no operand from memory here. */
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
    return (vu)vmovl_u16((uint16x4_t)v);
}

static ALWAYS_INLINE vf vf_load_f16(const uint16_t *from)
{
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16((uint16x4_t)vh_load(from)));
}

static ALWAYS_INLINE void vf_store_f16(uint16_t *to, vf v)
{
    const vh half = (vh)vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v));
    memcpy(to, &half, sizeof half);
}

static ALWAYS_INLINE void prefetch_for_write(const void *address)
{
    __builtin_prefetch(address, 1);
}

#endif
