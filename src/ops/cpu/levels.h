/* SPDX-License-Identifier: MIT */
/* The tables of all levels; which of them a build has is said in src/ops/CMakeLists.txt. */
#ifndef TN_OPS_CPU_LEVELS_H
#define TN_OPS_CPU_LEVELS_H

#include "ops/ops.h"

extern const tn_ops tn_ops_baseline;
extern const tn_ops tn_ops_avx2;
extern const tn_ops tn_ops_neon;
extern const tn_ops tn_ops_avx512;

#endif
