/* The neon level: 64-bit ARM. */
#include "ops/cpu/primitives_neon.h"

#include "ops/cpu/kernels.h"

const tn_ops tn_ops_neon = TN_LEVEL_TABLE("neon");
