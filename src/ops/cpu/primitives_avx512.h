/* SPDX-License-Identifier: MIT */
/* Primitives of the avx512 level: AVX-512 F, BW, DQ and VL. */
#ifndef TN_OPS_CPU_PRIMITIVES_AVX512_H
#define TN_OPS_CPU_PRIMITIVES_AVX512_H

#include <immintrin.h>

enum { lanes = 16 };
#include "ops/cpu/vector.h"

static ALWAYS_INLINE vf vf_set(float value)
{
    return _mm512_set1_ps(value);
}

static ALWAYS_INLINE vd vd_set(double value)
{
    return _mm512_set1_pd(value);
}

/* Compilers make a comparison and these three into a masked move; the intrinsics would make gcc write the mask out. */
static ALWAYS_INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

static ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

/* a * b + c, rounded once. */
static ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* Lanes `apart` from each other change places; apart is a power of two below `lanes`. */
static ALWAYS_INLINE vf vf_swap(vf v, int apart)
{
    if (apart == 8) return _mm512_shuffle_f32x4(v, v, 0x4e);
    if (apart == 4) return _mm512_shuffle_f32x4(v, v, 0xb1);
    return apart == 2 ? _mm512_permute_ps(v, 0x4e) : _mm512_permute_ps(v, 0xb1);
}

static ALWAYS_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return _mm512_fmadd_pd(a, b, c);
}

/* Pins v to a register: gcc would fold its load into each FMA that uses it. */
static ALWAYS_INLINE vf vf_keep(vf v)
{
    __asm__("" : "+v"(v));
    return v;
}

static ALWAYS_INLINE vd vd_keep(vd v)
{
    __asm__("" : "+v"(v));
    return v;
}

static ALWAYS_INLINE vu vh_widen(vh v)
{
    return (vu)_mm512_cvtepu16_epi32((__m256i)v);
}

static ALWAYS_INLINE vf vf_load_f16(const uint16_t *from)
{
    return _mm512_cvtph_ps((__m256i)vh_load(from));
}

static ALWAYS_INLINE void vf_store_f16(uint16_t *to, vf v)
{
    const vh half = (vh)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(to, &half, sizeof half);
}

/* The instruction is a no-op where a processor lacks it, and compilers want a flag of its own for the builtin. */
static ALWAYS_INLINE void prefetch_for_write(const void *address)
{
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
}

#endif
