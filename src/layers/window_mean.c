/* SPDX-License-Identifier: MIT */
/* Window mean: each output row is the mean of the present patches of its window; backward, each of them gets its equal
 * share. Windows tile the grid, or are rows of a map that the call brings. Reach: window. No parameters. */
#include "layers/types.h"

int tenon_window_mean(tenon_builder *builder, int64_t window, const char *ragged)
{
    tn_layer *layer = tn_builder_append(builder, &(tn_append){.type = &tn_window_mean_type, .name = ""});
    if (layer == NULL) return -1;
    const int space = tn_builder_value(builder, layer->inputs[0])->space;
    return tn_builder_finish_in(builder, layer, tn_builder_windows(builder, space, window, ragged, true));
}

int tenon_map_mean(tenon_builder *builder, int map)
{
    tn_layer *layer = tn_builder_append(builder, &(tn_append){.type = &tn_window_mean_type, .name = ""});
    if (layer == NULL) return -1;
    return tn_builder_finish_in(builder, layer,
                                tn_builder_map(builder, tn_builder_value(builder, layer->inputs[0])->space, map));
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    *bytes = (tn_layer_sizes){.packed = 0};
    if (q->rows > 0 && !q->backward) {
        bytes->scratch = q->ops->window_mean_scratch(q->slots, q->layer->in_dim, q->workers);
    }
    return true;
}

static void forward(const tn_layer_call *call)
{
    call->context->ops->window_mean(call->context, call->y, call->x[0], call->rows, call->slots, call->layer->in_dim);
}

static void backward(const tn_layer_call *call)
{
    call->context->ops->window_mean_backward(call->context, call->dx[0], call->dy, call->rows, call->slots,
                                             call->layer->in_dim);
}

static double flops(const tn_layer *layer, double rows, double inputs)
{
    return (rows + inputs) * (double)layer->in_dim;
}

const tn_layer_type tn_window_mean_type = {
    .name = "window_mean",
    .reach = TN_REACH_WINDOW,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .flops = flops,
};
