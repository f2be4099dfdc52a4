/* SPDX-License-Identifier: MIT */
/* A linear map and its bias, packed side by side: what linear layers and window pooling share. */
#ifndef TN_OPS_DENSE_H
#define TN_OPS_DENSE_H

#include "ops/ops.h"

/* Where the parts of a packed map lie, relative to its start. */
typedef struct tn_dense {
    tn_map map;
    bool has_bias;
    size_t group_size; /* packed weights of a group */
    size_t bias_offset;
    size_t size;
} tn_dense;

/* False when the size does not fit. */
bool tn_dense_plan(tn_dense *dense, const tn_ops *ops, tn_map map, bool has_bias);

/* w's element (group, i, j) is as in tn_ops.pack; bias [groups * n], of its own dtype, or NULL. */
void tn_dense_pack(void *packed, const tn_dense *dense, const tn_context *context, const void *w, int64_t group_stride,
                   int64_t n_stride, int64_t k_stride, const void *bias, tn_dtype bias_dtype);

void tn_dense_forward(tn_rows y, tn_rows x, const tn_dense *dense, const tn_context *context, const void *packed,
                      tn_act act, int64_t rows);

/* As tn_dense_forward, for groups [first, first + groups) alone: y [rows, groups n], x [rows, groups k]. */
void tn_dense_forward_groups(tn_rows y, tn_rows x, const tn_dense *dense, const tn_context *context, const void *packed,
                             tn_act act, int64_t rows, int64_t first, int64_t groups);

#endif
