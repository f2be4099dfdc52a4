/* SPDX-License-Identifier: MIT */
/* The avx512 level: AVX-512 F, BW, DQ and VL, as in x86 servers since 2017. Compiled with flags of its own: nothing
 * here may run before dispatch.c has asked the processor.
 *
 * Thirty-two registers: a tile is two panels wide and twelve rows high. A panel has one vector's columns, so that
 * narrow groups waste little.
 */
#include "ops/cpu/primitives_avx512.h"

enum { panel_vectors = 1, tile_panels = 2, tile_rows = 12, few_panels = 4, few_sums = 24 };
#define TILE_HEIGHTS(each) HEIGHTS_TO_6(each) each(7) each(8) each(9) each(10) each(11) each(12)

#include "ops/cpu/kernels.h"

const tn_ops tn_ops_avx512 = TN_LEVEL_TABLE("avx512");
