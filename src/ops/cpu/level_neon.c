/* SPDX-License-Identifier: MIT */
/* The neon level: 64-bit ARM.
 *
 * Of the 32 registers a tile takes 24 for sums, 4 for weights and the rest for elements of x, which multiply-adds take
 * out of a lane. With few rows the weights of all panels are held at once, 8 of two: that leaves 16 for sums.
 */
#include "ops/cpu/primitives_neon.h"

enum { panel_vectors = 4, tile_panels = 1, tile_rows = 6, few_panels = 2, few_sums = 16 };
#define TILE_HEIGHTS HEIGHTS_TO_6

#include "ops/cpu/kernels.h"

const tn_ops tn_ops_neon = TN_LEVEL_TABLE("neon");
