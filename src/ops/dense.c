/* SPDX-License-Identifier: MIT */
/* Packing and running one linear map with its bias. */
#include "ops/dense.h"

#include "core/memory.h"
#include "core/size.h"

bool tn_dense_plan(tn_dense *dense, const tn_ops *ops, tn_map map, bool has_bias)
{
    const tn_map group = {1, map.n, map.k, map.dtype};
    size_t weights, bias;
    if (!ops->packed_size(&group, &dense->group_size) || !ops->packed_size(&map, &weights) || weights > SIZE_MAX / 4 ||
        !tn_shape_bytes(2, (int64_t[]){map.groups, map.n}, tn_dtype_size(ops->compute), &bias)) {
        return false;
    }
    dense->map = map;
    dense->has_bias = has_bias;
    dense->bias_offset = tn_align_up(weights, TN_ALIGN);
    dense->size = dense->bias_offset + (has_bias ? tn_align_up(bias, TN_ALIGN) : 0);
    return true;
}

void tn_dense_pack(void *packed, const tn_dense *dense, const tn_context *context, const void *w, int64_t group_stride,
                   int64_t n_stride, int64_t k_stride, const void *bias, tn_dtype bias_dtype)
{
    const tn_ops *ops = context->ops;
    ops->pack(context, packed, w, &dense->map, group_stride, n_stride, k_stride);
    if (!dense->has_bias) return;
    const int64_t width = dense->map.groups * dense->map.n;
    ops->copy(context, tn_dense_rows((char *)packed + dense->bias_offset, ops->compute, width),
              tn_dense_rows(bias, bias_dtype, width), 1, width);
}

void tn_dense_forward_groups(tn_rows y, tn_rows x, const tn_dense *dense, const tn_context *context, const void *packed,
                             tn_act act, int64_t rows, int64_t first, int64_t groups)
{
    const tn_ops *ops = context->ops;
    const tn_map map = {groups, dense->map.n, dense->map.k, dense->map.dtype};
    const size_t before = (size_t)(first * map.n) * tn_dtype_size(ops->compute);
    const char *weights = (const char *)packed + (size_t)first * dense->group_size;
    const void *bias = dense->has_bias ? (const char *)packed + dense->bias_offset + before : NULL;
    ops->linear(context, y, x, weights, bias, act, &map, rows);
}

void tn_dense_forward(tn_rows y, tn_rows x, const tn_dense *dense, const tn_context *context, const void *packed,
                      tn_act act, int64_t rows)
{
    tn_dense_forward_groups(y, x, dense, context, packed, act, rows, 0, dense->map.groups);
}
