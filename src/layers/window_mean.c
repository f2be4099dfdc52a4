/* SPDX-License-Identifier: MIT */
/* Window mean: each output row is the mean of the present patches of its window; backward, each of them gets its equal
 * share. Reach: window. No parameters. */
#include "layers/layer.h"

int tenon_window_mean(tenon_builder *builder, int64_t window, const char *ragged)
{
    tn_layer *layer = tn_builder_append(builder, &tn_window_mean_type, "");
    if (layer == NULL) return -1;
    layer->out_dim = layer->in_dim;
    tn_builder_window(builder, layer, window, ragged);
    return tn_builder_failed(builder) ? -1 : layer->output;
}

static size_t scratch_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                           int64_t slots, int workers)
{
    (void)weights;
    (void)rows;
    return ops->window_mean_scratch(slots, layer->in_dim, workers);
}

static void forward(const tn_block *block, const tn_layer *layer, const tn_context *context, const void *packed,
                    const tn_weights *weights)
{
    (void)packed;
    (void)weights;
    context->ops->window_mean(context, block->y, block->x, block->rows, block->slots, layer->in_dim);
}

static bool reads_input(const tn_layer *layer, float *const *gradient, bool wants_dx)
{
    (void)layer;
    (void)gradient;
    (void)wants_dx;
    return false;
}

static void backward(const tn_block_backward *block, const tn_layer *layer, const tn_context *context,
                     const void *packed, const void *packed_backward, const tn_weights *weights)
{
    (void)packed;
    (void)packed_backward;
    (void)weights;
    context->ops->window_mean_backward(context, block->dx, block->dy, block->rows, block->slots, layer->in_dim);
}

static double flops(const tn_layer *layer, double rows, double patches)
{
    return (rows + patches) * (double)layer->in_dim;
}

const tn_layer_type tn_window_mean_type = {
    .name = "window_mean",
    .reach = TN_REACH_WINDOW,
    .pools = true,
    .scratch_size = scratch_size,
    .forward = forward,
    .reads_input = reads_input,
    .backward = backward,
    .flops = flops,
};
