/* SPDX-License-Identifier: MIT */
/* The baseline level: portable C. */
#include "ops/cpu/primitives_baseline.h"

#include "ops/cpu/kernels.h"

const tn_ops tn_ops_baseline = TN_LEVEL_TABLE("baseline");
