/* SPDX-License-Identifier: MIT */
/* All kernels, compiled for the level whose primitives were included before, and TN_LEVEL_TABLE(name) for its table. */
#include "core/memory.h"
#include "core/size.h"
#include "ops/cpu/levels.h"
#include "ops/window_pool.h"

#include "ops/cpu/rows.h"

#include "ops/cpu/activation.h"
#include "ops/cpu/fold.h"
#include "ops/cpu/pack.h"
#include "ops/cpu/sums.h"

#include "ops/cpu/linear.h"

#include "ops/cpu/window_attend.h"
#include "ops/cpu/window_mean.h"

#include "ops/cpu/activation_backward.h"
#include "ops/cpu/weight_gradient.h"

#include "ops/cpu/merge.h"
#include "ops/cpu/norm.h"
#include "ops/cpu/window_backward.h"

#include "ops/cpu/attention.h"

/* Rows whose hidden activation of a few thousand columns stays in a last-level cache; whole row blocks. */
enum { block_rows = 4 * most_rows };

/* Enough images to fill blocks and threads. */
enum { group_bytes = 32 << 20 };

#define TN_LEVEL_TABLE(level)                                                                                          \
    {                                                                                                                  \
        .name = level, .compute = TN_F32, .block_rows = block_rows, .group_bytes = group_bytes,                        \
        .packed_size = packed_size, .pack = pack, .linear_scratch = linear_scratch, .linear = linear,                  \
        .activation = activation, .window_mean_scratch = window_mean_scratch, .window_mean = window_mean,              \
        .window_attend_scratch = window_attend_scratch, .window_attend = window_attend, .copy = copy, .fold = fold,    \
        .add = add, .accumulate = accumulate, .weighted_sum = weighted_sum, .zero = zero, .norm = norm,                \
        .weight_gradient_scratch = weight_gradient_scratch, .weight_gradient = weight_gradient,                        \
        .bias_gradient = bias_gradient, .activation_backward = activation_backward,                                    \
        .window_mean_backward = window_mean_backward,                                                                  \
        .window_attend_backward_scratch = window_attend_backward_scratch,                                              \
        .window_attend_backward = window_attend_backward, .window_attend_dx = window_attend_dx,                        \
        .norm_backward_scratch = norm_backward_scratch, .norm_backward = norm_backward, .merge = merge,                \
        .merge_backward = merge_backward, .multiply = multiply, .window_pool_sizes = tn_window_pool_sizes_of,          \
        .attention_scratch = attention_scratch, .attention = attention, .attention_backward = attention_backward,      \
        .window_pool_pack = tn_window_pool_pack, .window_pool = tn_window_pool_forward,                                \
        .window_pool_backward = tn_window_pool_backward,                                                               \
    }
