/* SPDX-License-Identifier: MIT */
/* Copy: y = x. For an output that other layers read too, or that is an input. Reach: row. */
#include "layers/types.h"

int tenon_copy(tenon_builder *builder)
{
    return tn_builder_finish(builder, tn_builder_append(builder, &(tn_append){.type = &tn_copy_type, .name = ""}));
}

static void forward(const tn_layer_call *call)
{
    call->context->ops->copy(call->context, call->y, call->x[0], call->rows, call->layer->out_dim);
}

static void backward(const tn_layer_call *call)
{
    call->context->ops->copy(call->context, call->dx[0], call->dy, call->rows, call->layer->out_dim);
}

const tn_layer_type tn_copy_type = {
    .name = "copy",
    .reach = TN_REACH_ROW,
    .forward = forward,
    .backward = backward,
};
