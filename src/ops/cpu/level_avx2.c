/* SPDX-License-Identifier: MIT */
/* The avx2 level: AVX2, FMA and F16C, as in x86 processors since 2013. Compiled with flags of its own: nothing here may
 * run before dispatch.c has asked the processor. */
#include "ops/cpu/primitives_avx2.h"

#include "ops/cpu/kernels.h"

const tn_ops tn_ops_avx2 = TN_LEVEL_TABLE("avx2");
