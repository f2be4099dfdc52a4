/* SPDX-License-Identifier: MIT */
/* Vectors of `lanes` floats, written once for all levels with the vector extensions of gcc and clang.
 *
 * A level's primitives header defines `lanes`, then includes this file, then adds what the extensions cannot say or say
 * badly: vf_set, vd_set, vf_select (mask ? a : b, lane by
 * lane; mask comes from a comparison), vf_min, vf_max (the second operand where one is NaN), vf_fma, vf_swap, vd_fma,
 * vf_keep, vd_keep, vh_widen, the binary16 conversions and prefetch_for_write.
 */
#ifndef TN_OPS_CPU_VECTOR_H
#define TN_OPS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif
/* UNROLL stands before a loop over an array of vectors: without it compilers keep the array in memory. UNROLL_STEPS
 * stands before the long loop around it. With checks at every access an unrolled kernel takes clang minutes to compile.
 */
#ifdef SANITIZED
#define UNROLL _Pragma("clang loop unroll(disable)")
#define UNROLL_STEPS UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_STEPS _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#define UNROLL_STEPS _Pragma("GCC unroll 4")
#endif

typedef float vf __attribute__((vector_size(4 * lanes)));
typedef int32_t vi __attribute__((vector_size(4 * lanes)));
typedef uint32_t vu __attribute__((vector_size(4 * lanes)));
typedef uint16_t vh __attribute__((vector_size(2 * lanes)));     /* storage bits of `lanes` halves */
typedef float vf_narrow __attribute__((vector_size(2 * lanes))); /* as many floats as vd has doubles */
typedef double vd __attribute__((vector_size(4 * lanes)));
enum { double_lanes = lanes / 2 };

static ALWAYS_INLINE vf vf_load(const float *from)
{
    vf v;
    memcpy(&v, from, sizeof v);
    return v;
}

static ALWAYS_INLINE void vf_store(float *to, vf v)
{
    memcpy(to, &v, sizeof v);
}

static ALWAYS_INLINE vh vh_load(const uint16_t *from)
{
    vh v;
    memcpy(&v, from, sizeof v);
    return v;
}

static ALWAYS_INLINE vd vd_load(const double *from)
{
    vd v;
    memcpy(&v, from, sizeof v);
    return v;
}

static ALWAYS_INLINE void vd_store(double *to, vd v)
{
    memcpy(to, &v, sizeof v);
}

static ALWAYS_INLINE vd vd_widen(const float *from)
{
    vf_narrow v;
    memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, vd);
}

/* The level's: zero-extends each lane. */
static ALWAYS_INLINE vu vh_widen(vh v);

static ALWAYS_INLINE vf vf_load_bf16(const uint16_t *from)
{
    return (vf)(vh_widen(vh_load(from)) << 16);
}

/* Rounds to nearest, ties to even; NaN stays a NaN. */
static ALWAYS_INLINE void vf_store_bf16(uint16_t *to, vf v)
{
    const vu bits = (vu)v;
    const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vu quiet = (bits >> 16) | 0x40u;
    const vu nan = (vu)(v != v);
    const vh half = __builtin_convertvector((quiet & nan) | (rounded & ~nan), vh);
    memcpy(to, &half, sizeof half);
}

#endif
