/* SPDX-License-Identifier: MIT */
/* Sum: y = x_0 + x_1 + ..., added in this order; backward, dx_i = dy. Reach: row. A shared value is added to each
 * image. */
#include "core/size.h"
#include "layers/types.h"

int tenon_sum(tenon_builder *builder, int count, const int *values)
{
    if (count < 1) {
        tenon_builder_fail(builder, "a sum needs at least one value (got %d)", count);
        return -1;
    }
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_sum_type, .name = "", .num_inputs = count, .inputs = values});
    for (int i = 0; layer != NULL && i < layer->num_inputs; i++) {
        const int64_t width = tn_builder_value(builder, layer->inputs[i])->width;
        if (width == layer->in_dim) continue;
        tenon_builder_fail(builder, "a sum adds values of width %lld and %lld (values %d and %d)",
                           (long long)layer->in_dim, (long long)width, layer->inputs[0], layer->inputs[i]);
        return -1;
    }
    return tn_builder_finish(builder, layer);
}

static void forward(const tn_layer_call *call)
{
    const tn_layer *layer = call->layer;
    const tn_ops *ops = call->context->ops;
    if (layer->num_inputs == 1) ops->copy(call->context, call->y, call->x[0], call->rows, layer->out_dim);
    for (int i = 1; i < layer->num_inputs; i++) {
        const bool last = i + 1 == layer->num_inputs;
        const tn_rows sum = tn_dense_rows(call->buffer, ops->compute, layer->out_dim);
        ops->add(call->context, last ? call->y : sum, i == 1 ? call->x[0] : sum, call->x[i], call->rows,
                 layer->out_dim);
    }
}

/* Sums of more than two are made in full precision before they become y. */
static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    *bytes = (tn_layer_sizes){.packed = 0};
    if (q->layer->num_inputs < 3 || q->backward) return true;
    return tn_shape_bytes(2, (int64_t[]){q->rows, q->layer->out_dim}, tn_dtype_size(q->ops->compute), &bytes->buffer);
}

static void backward(const tn_layer_call *call)
{
    for (int i = 0; i < call->layer->num_inputs; i++) {
        if (call->dx[i].data == NULL) continue;
        call->context->ops->copy(call->context, call->dx[i], call->dy, call->rows, call->layer->out_dim);
    }
}

const tn_layer_type tn_sum_type = {
    .name = "sum",
    .reach = TN_REACH_ROW,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
