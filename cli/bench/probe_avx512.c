/* SPDX-License-Identifier: MIT */
/* Probes at the avx512 level. */
#define VECTOR_BYTES 64
#include "probe_kernels.h"

const tn_probe tn_probe_avx512 = {"avx512", fma_f32, fma_f64, read_all};
