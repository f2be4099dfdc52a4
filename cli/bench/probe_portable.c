/* SPDX-License-Identifier: MIT */
/* Probes with the instructions that every machine of this architecture has. */
#define VECTOR_BYTES 16
#include "probe_kernels.h"

const tn_probe tn_probe_portable = {"portable", fma_f32, fma_f64, read_all};
