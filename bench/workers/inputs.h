/* SPDX-License-Identifier: MIT */
/* Weights, biases and features that every contender makes for itself, bit for bit the same: bench/harness/inputs.py is
 * the twin. */
#ifndef BENCH_INPUTS_H
#define BENCH_INPUTS_H

#include "../../tests/counter_rng.h"
#include "core/dtype.h"
#include <math.h>

/* Parameter i, in declaration order, has seed 100 + i. */
enum { SEED_FEATURES = 1, SEED_TOKEN_GRADIENTS = 2, SEED_PARAMETERS = 100 };

/* out[i] = scale * value i of the seed, rounded to the dtype. */
static inline void inputs_fill(void *out, tn_dtype dtype, uint64_t seed, float scale, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const float value = counter_value(seed, (uint64_t)i) * scale;
        if (dtype == TN_F32) {
            ((float *)out)[i] = value;
        } else {
            tn_store(out, dtype, i, (double)value);
        }
    }
}

/* The bound of weights and biases of a layer of this many inputs, as nn.Linear has it. */
static inline float inputs_scale(int64_t fan_in)
{
    return (float)(1.0 / sqrt((double)fan_in));
}

#endif
