/* SPDX-License-Identifier: MIT */
/* The probes, compiled once for each level: VECTOR_BYTES wide, fused where the level has fused multiply-adds (the
 * sources that include this are compiled with -ffp-contract=fast). */
#include "probe.h"

#define UNROLL _Pragma("GCC unroll 16")

/* Twelve chains hide the latency on every core with two pipes of up to six cycles, and leave registers. */
enum { chains = 12, streams = 4, f32_lanes = VECTOR_BYTES / 4, f64_lanes = VECTOR_BYTES / 8 };

typedef float vector_f32 __attribute__((vector_size(VECTOR_BYTES)));
typedef double vector_f64 __attribute__((vector_size(VECTOR_BYTES)));
typedef float unaligned_f32 __attribute__((vector_size(VECTOR_BYTES), aligned(4)));

/* The factors are below one, so that the sums stay bounded; the compiler must not know them. */
static volatile float factor_f32 = 0.999f, summand_f32 = 1e-3f;
static volatile double factor_f64 = 0.999, summand_f64 = 1e-3;

static double fma_f32(int64_t steps)
{
    const vector_f32 zero = {0}, a = zero + factor_f32, b = zero + summand_f32;
    vector_f32 sum[chains];
    UNROLL
    for (int i = 0; i < chains; i++)
        sum[i] = zero + (float)i;
    for (int64_t s = 0; s < steps; s++) {
        UNROLL
        for (int i = 0; i < chains; i++)
            sum[i] = a * sum[i] + b;
    }
    UNROLL
    for (int i = 1; i < chains; i++)
        sum[0] += sum[i];
    volatile float out = sum[0][0];
    (void)out;
    return 2.0 * f32_lanes * chains * (double)steps;
}

static double fma_f64(int64_t steps)
{
    const vector_f64 zero = {0}, a = zero + factor_f64, b = zero + summand_f64;
    vector_f64 sum[chains];
    UNROLL
    for (int i = 0; i < chains; i++)
        sum[i] = zero + (double)i;
    for (int64_t s = 0; s < steps; s++) {
        UNROLL
        for (int i = 0; i < chains; i++)
            sum[i] = a * sum[i] + b;
    }
    UNROLL
    for (int i = 1; i < chains; i++)
        sum[0] += sum[i];
    volatile double out = sum[0][0];
    (void)out;
    return 2.0 * f64_lanes * chains * (double)steps;
}

static float read_all(const float *data, int64_t count)
{
    vector_f32 sum[streams] = {{0}};
    for (int64_t at = 0; at + streams * f32_lanes <= count; at += streams * f32_lanes) {
        UNROLL
        for (int i = 0; i < streams; i++)
            sum[i] += *(const unaligned_f32 *)(data + at + i * f32_lanes);
    }
    return (sum[0] + sum[1] + sum[2] + sum[3])[0];
}
