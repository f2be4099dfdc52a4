/* SPDX-License-Identifier: MIT */
/* Numbers from a seed and an index, the same ones as scripts/counter_rng.py makes, bit for bit.
 *
 * Stateless, so that any row of a large tensor can be made without the rows before it. The hash is the finaliser of
 * SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on a counter; a value is its top 24 bits, so float holds it exactly.
 */
#ifndef TESTS_COUNTER_RNG_H
#define TESTS_COUNTER_RNG_H

#include <stdint.h>

static inline uint64_t counter_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* 64 random bits. */
static inline uint64_t counter_bits(uint64_t seed, uint64_t index)
{
    const uint64_t golden = UINT64_C(0x9E3779B97F4A7C15);
    return counter_mix(counter_mix(seed + golden) + index * golden);
}

/* Uniform in [-1, 1), a multiple of 2^-23. */
static inline float counter_value(uint64_t seed, uint64_t index)
{
    return (float)((int32_t)(counter_bits(seed, index) >> 40) - (1 << 23)) * 0x1p-23f;
}

/* counter_value, times 64 for one index in 64: features of vision encoders have a few large channels. */
static inline float counter_outlier(uint64_t seed, uint64_t index)
{
    return counter_value(seed, index) * ((counter_bits(seed, index) & 63) == 0 ? 64.0f : 1.0f);
}

/* Uniform integer in [low, high], for small ranges. */
static inline int64_t counter_range(uint64_t seed, uint64_t index, int64_t low, int64_t high)
{
    return low + (int64_t)((counter_bits(seed, index) >> 33) % (uint64_t)(high - low + 1));
}

#endif
