/* SPDX-License-Identifier: MIT */
/* Concat: the columns of x_0, then those of x_1, ...; backward, each gets its columns of dy. Reach: row. */
#include "core/size.h"
#include "layers/types.h"

int tenon_concat(tenon_builder *builder, int count, const int *values)
{
    if (count < 1) {
        tenon_builder_fail(builder, "a concatenation needs at least one value (got %d)", count);
        return -1;
    }
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_concat_type, .name = "", .num_inputs = count, .inputs = values});
    for (int i = 1; layer != NULL && i < layer->num_inputs; i++) {
        const int64_t width = tn_builder_value(builder, layer->inputs[i])->width;
        if (tn_add_i64(layer->out_dim, width, &layer->out_dim)) continue;
        tenon_builder_fail(builder, "a concatenation of %d values is too wide for 64 bits", count);
        return -1;
    }
    return tn_builder_finish(builder, layer);
}

static void forward(const tn_layer_call *call)
{
    int64_t column = 0;
    for (int i = 0; i < call->layer->num_inputs; i++) {
        const int64_t width = call->widths[i];
        call->context->ops->copy(call->context, tn_columns_from(call->y, column), call->x[i], call->rows, width);
        column += width;
    }
}

static void backward(const tn_layer_call *call)
{
    int64_t column = 0;
    for (int i = 0; i < call->layer->num_inputs; i++) {
        const int64_t width = call->widths[i];
        if (call->dx[i].data != NULL) {
            call->context->ops->copy(call->context, call->dx[i], tn_columns_from(call->dy, column), call->rows, width);
        }
        column += width;
    }
}

const tn_layer_type tn_concat_type = {
    .name = "concat",
    .reach = TN_REACH_ROW,
    .forward = forward,
    .backward = backward,
};
