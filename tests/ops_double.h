/* SPDX-License-Identifier: MIT */
/* An ops table that computes in float64, one obvious loop an op: the same layers run on it, so that kernels and float32
 * can be judged against it. */
#ifndef TENON_TESTS_OPS_DOUBLE_H
#define TENON_TESTS_OPS_DOUBLE_H

#include "ops/ops.h"

extern const tn_ops ops_double;

/* act'(x) in double, from libm. */
double act_slope_double(tn_act act, double x);

#endif
