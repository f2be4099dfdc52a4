/* SPDX-License-Identifier: MIT */
/* Linear layer: y = x W^T + b, W (out, in), b (out). Reach: row.
 *
 * Backward: dx = dy W, dW += dy^T x, db += sum of the rows of dy.
 */
#include "layers/dense.h"
#include "layers/layer.h"

int tenon_linear(tenon_builder *builder, const char *name, int64_t out_dim, unsigned flags)
{
    tn_layer *layer = tn_builder_append(builder, &tn_linear_type, name);
    if (layer == NULL) return -1;
    if (out_dim < 0 || (out_dim == 0 && tenon_builder_out_dim(builder) > 0)) {
        tenon_builder_fail(builder, "linear layer '%s' has width %lld; it must be positive", name, (long long)out_dim);
        return -1;
    }
    tn_builder_flags(builder, flags, TENON_BIAS);
    layer->out_dim = out_dim;
    layer->bias = (flags & TENON_BIAS) != 0;
    tn_builder_matrix(builder, "weight", out_dim, layer->in_dim);
    if (layer->bias) tn_builder_vector(builder, "bias", out_dim, layer->in_dim);
    return tn_builder_failed(builder) ? -1 : layer->output;
}

static bool plan(tn_dense *dense, const tn_layer *layer, const tn_ops *ops, const tn_weights *weights)
{
    const tn_map map = {1, layer->out_dim, layer->in_dim, weights->dtype[0]};
    return tn_dense_plan(dense, ops, map, layer->bias);
}

static bool packed_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, size_t *bytes)
{
    tn_dense dense;
    if (!plan(&dense, layer, ops, weights)) return false;
    *bytes = dense.size;
    return true;
}

static void pack(void *packed, const tn_layer *layer, const tn_context *context, const tn_weights *weights)
{
    tn_dense dense;
    if (!plan(&dense, layer, context->ops, weights)) return; /* packed_size has said so */
    tn_dense_pack(packed, &dense, context, weights->data[0], 0, layer->in_dim, 1, weights->data[1], weights->dtype[1]);
}

static size_t scratch_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                           int64_t slots, int workers)
{
    (void)slots;
    const tn_map map = {1, layer->out_dim, layer->in_dim, weights->dtype[0]};
    return ops->linear_scratch(&map, rows, workers);
}

static void forward(const tn_block *block, const tn_layer *layer, const tn_context *context, const void *packed,
                    const tn_weights *weights)
{
    tn_dense dense;
    if (!plan(&dense, layer, context->ops, weights)) return;
    tn_dense_forward(block->y, block->x, &dense, context, packed, block->act, block->rows);
}

/* dx = dy W as a linear map of its own. */
static bool plan_backward(tn_dense *dense, const tn_layer *layer, const tn_ops *ops, const tn_weights *weights)
{
    const tn_map map = {1, layer->in_dim, layer->out_dim, weights->dtype[0]};
    return tn_dense_plan(dense, ops, map, false);
}

static bool packed_backward_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, size_t *bytes)
{
    tn_dense dense;
    if (!plan_backward(&dense, layer, ops, weights)) return false;
    *bytes = dense.size;
    return true;
}

static void pack_backward(void *packed, const tn_layer *layer, const tn_context *context, const tn_weights *weights)
{
    tn_dense dense;
    if (!plan_backward(&dense, layer, context->ops, weights)) return; /* packed_backward_size has said so */
    tn_dense_pack(packed, &dense, context, weights->data[0], 0, 1, layer->in_dim, NULL, TN_F32);
}

static bool reads_input(const tn_layer *layer, float *const *gradient, bool wants_dx)
{
    (void)layer;
    (void)wants_dx;
    return gradient[0] != NULL;
}

static size_t scratch_backward_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                                    int64_t slots, int workers)
{
    (void)slots;
    const tn_map map = {1, layer->out_dim, layer->in_dim, weights->dtype[0]};
    const tn_map transposed = {1, layer->in_dim, layer->out_dim, weights->dtype[0]};
    const size_t dw = ops->weight_gradient_scratch(&map, rows, workers);
    const size_t dx = ops->linear_scratch(&transposed, rows, workers);
    return dw > dx ? dw : dx;
}

static void backward(const tn_block_backward *block, const tn_layer *layer, const tn_context *context,
                     const void *packed, const void *packed_backward, const tn_weights *weights)
{
    (void)packed;
    const tn_ops *ops = context->ops;
    const tn_map map = {1, layer->out_dim, layer->in_dim, weights->dtype[0]};
    float *dw = block->gradient[0], *dbias = layer->bias ? block->gradient[1] : NULL;
    tn_dense dense;
    if (dw != NULL) {
        ops->weight_gradient(context, dw, dbias, block->dy, block->x, &map, block->rows, block->fresh);
    } else if (dbias != NULL) {
        ops->bias_gradient(context, dbias, block->dy, block->rows, layer->out_dim, block->fresh);
    }
    if (block->dx.data == NULL || !plan_backward(&dense, layer, ops, weights)) return;
    tn_dense_forward(block->dx, block->dy, &dense, context, packed_backward, TN_ACT_NONE, block->rows);
}

static double flops(const tn_layer *layer, double rows, double patches)
{
    (void)patches;
    return 2 * rows * (double)layer->in_dim * (double)layer->out_dim;
}

const tn_layer_type tn_linear_type = {
    .name = "linear",
    .reach = TN_REACH_ROW,
    .folds = true,
    .fuses_activation = true,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .forward = forward,
    .packed_backward_size = packed_backward_size,
    .pack_backward = pack_backward,
    .reads_input = reads_input,
    .scratch_backward_size = scratch_backward_size,
    .backward = backward,
    .flops = flops,
};
