/* SPDX-License-Identifier: MIT */
/* What the machine can do at most: multiply-adds that stay in registers, and plain reads. `tenon bench` and the
 * benchmarks in bench/ measure shares of these. */
#ifndef TN_CLI_PROBE_H
#define TN_CLI_PROBE_H

#include <stdint.h>

/* The probes of one CPU level, for one thread. */
typedef struct tn_probe {
    const char *level;
    double (*fma_f32)(int64_t steps); /* returns the floating-point operations that so many steps are */
    double (*fma_f64)(int64_t steps);
    float (*read)(const float *data, int64_t count); /* reads count floats, a multiple of 64; returns their sum */
} tn_probe;

extern const tn_probe tn_probe_portable;
extern const tn_probe tn_probe_avx2, tn_probe_avx512; /* x86-64 only; the machine must have the instructions */

/* The probe for what tenon_adapter_cpu names. The level must run on this machine. */
const tn_probe *tn_probe_find(const char *level);

#endif
