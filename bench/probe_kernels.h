/* The probes, compiled for the level whose primitives were included before. */
#include "probe.h"

enum { chains = 12 };

static double fma_f32(int64_t steps)
{
    vf sum[chains];
    const vf a = vf_set(0.999f), b = vf_set(1e-3f);
    UNROLL
    for (int i = 0; i < chains; i++)
        sum[i] = vf_set((float)i);
    for (int64_t s = 0; s < steps; s++) {
        UNROLL
        for (int i = 0; i < chains; i++)
            sum[i] = vf_keep(vf_fma(a, sum[i], b));
    }
    UNROLL
    for (int i = 1; i < chains; i++)
        sum[0] = sum[0] + sum[i];
    volatile float out = sum[0][0];
    (void)out;
    return 2.0 * lanes * chains * (double)steps;
}

static double fma_f64(int64_t steps)
{
    vd sum[chains];
    const vd a = vd_set(0.999), b = vd_set(1e-3);
    UNROLL
    for (int i = 0; i < chains; i++)
        sum[i] = vd_set((double)i);
    for (int64_t s = 0; s < steps; s++) {
        UNROLL
        for (int i = 0; i < chains; i++)
            sum[i] = vd_keep(vd_fma(a, sum[i], b));
    }
    UNROLL
    for (int i = 1; i < chains; i++)
        sum[0] = sum[0] + sum[i];
    volatile double out = sum[0][0];
    (void)out;
    return 2.0 * double_lanes * chains * (double)steps;
}

static float read_all(const float *data, int64_t count)
{
    enum { streams = 4 };
    vf sum[streams];
    UNROLL
    for (int i = 0; i < streams; i++)
        sum[i] = vf_set(0.0f);
    for (int64_t at = 0; at + streams * lanes <= count; at += streams * lanes) {
        UNROLL
        for (int i = 0; i < streams; i++)
            sum[i] = sum[i] + vf_load(data + at + i * lanes);
    }
    return (sum[0] + sum[1] + sum[2] + sum[3])[0];
}

#define PROBE(name)                                                                                                    \
    {                                                                                                                  \
        name, fma_f32, fma_f64, read_all                                                                               \
    }
