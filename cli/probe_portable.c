/* Probes with the instructions that every machine of this architecture has. */
#define VECTOR_BYTES 16
#include "probe_kernels.h"

#include <string.h>

const tn_probe tn_probe_portable = {"portable", fma_f32, fma_f64, read_all};

const tn_probe *tn_probe_find(const char *level)
{
#ifdef TN_PROBE_AVX2
    if (strcmp(level, tn_probe_avx2.level) == 0) return &tn_probe_avx2;
#endif
    (void)level;
    return &tn_probe_portable;
}
