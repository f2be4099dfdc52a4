/* SPDX-License-Identifier: MIT */
/* The tables of all levels; which of them a build has is said in src/ops/CMakeLists.txt. */
#ifndef TN_OPS_CPU_LEVELS_H
#define TN_OPS_CPU_LEVELS_H

#include "ops/ops.h"

extern const tn_ops tn_ops_baseline;
extern const tn_ops tn_ops_avx2;
extern const tn_ops tn_ops_neon;
extern const tn_ops tn_ops_avx512;

/* The blas level (src/ops/blas), made from the best of the others when the library is loaded. */
extern tn_ops tn_ops_blas;
void tn_blas_build(const tn_ops *best);

#endif
