/* SPDX-License-Identifier: MIT */
/* Probes at the avx2 level. */
#define VECTOR_BYTES 32
#include "probe_kernels.h"

const tn_probe tn_probe_avx2 = {"avx2", fma_f32, fma_f64, read_all};
