/* Probes at the avx2 level. */
#include "ops/cpu/primitives_avx2.h"

#include "probe_kernels.h"

const probe probe_avx2 = PROBE("avx2");
