/* What the machine can do at most, with the primitives of a level: multiply-adds in registers, and reads. */
#ifndef BENCH_PROBE_H
#define BENCH_PROBE_H

#include <stdint.h>

typedef struct probe {
    const char *level;
    double (*fma_f32)(int64_t steps); /* runs that many multiply-adds; returns their floating-point operations */
    double (*fma_f64)(int64_t steps);
    float (*read)(const float *data, int64_t count); /* reads all of data */
} probe;

extern const probe probe_baseline;
extern const probe probe_avx2;

#endif
