/* SPDX-License-Identifier: MIT */
/* Gate: y = f(a) b, element by element, of two values of one width; da = dy b f'(a), db = dy f(a). Reach: row. With a
 * and b two linear layers of x it is a gated linear unit. */
#include "core/size.h"
#include "layers/types.h"

typedef struct gate {
    tn_act act;
} gate;

int tenon_gate(tenon_builder *builder, const char *activation, int gate_value, int value)
{
    tenon_error error;
    const int inputs[] = {gate_value, value};
    tn_layer *layer = tn_builder_append(
        builder,
        &(tn_append){
            .type = &tn_gate_type, .name = activation, .own_size = sizeof(gate), .num_inputs = 2, .inputs = inputs});
    if (layer == NULL) return -1;
    const int64_t width = tn_builder_value(builder, value)->width;
    if (width != layer->in_dim) {
        tenon_builder_fail(builder, "a gate takes two values of one width (got %lld and %lld)",
                           (long long)layer->in_dim, (long long)width);
    } else if (tn_act_from_name(activation, &((gate *)layer->own)->act, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
    }
    return tn_builder_finish(builder, layer);
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    tn_settings_string(settings, "activation", tn_act_name(((const gate *)layer->own)->act));
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    *bytes = (tn_layer_sizes){.packed = 0};
    return tn_shape_bytes(2, (int64_t[]){q->rows, q->layer->out_dim}, tn_dtype_size(q->ops->compute), &bytes->buffer);
}

static void forward(const tn_layer_call *call)
{
    const tn_ops *ops = call->context->ops;
    const int64_t width = call->layer->out_dim;
    const tn_rows opened = tn_dense_rows(call->buffer, ops->compute, width);
    ops->activation(call->context, opened, call->x[0], ((const gate *)call->layer->own)->act, call->rows, width);
    ops->multiply(call->context, call->y, opened, call->x[1], call->rows, width);
}

static bool reads_input(const tn_layer *layer, int input, float *const *gradient, bool wants_dx)
{
    (void)layer;
    (void)input;
    (void)gradient;
    return wants_dx;
}

static void backward(const tn_layer_call *call)
{
    const tn_ops *ops = call->context->ops;
    const int64_t width = call->layer->out_dim;
    const tn_act act = ((const gate *)call->layer->own)->act;
    const tn_rows made = tn_dense_rows(call->buffer, ops->compute, width);
    if (call->dx[1].data != NULL) {
        ops->activation(call->context, made, call->x[0], act, call->rows, width);
        ops->multiply(call->context, call->dx[1], call->dy, made, call->rows, width);
    }
    if (call->dx[0].data == NULL) return;
    ops->multiply(call->context, made, call->dy, call->x[1], call->rows, width);
    ops->activation_backward(call->context, call->dx[0], made, call->x[0], act, call->rows, width);
}

const tn_layer_type tn_gate_type = {
    .name = "gate",
    .reach = TN_REACH_ROW,
    .describe = describe,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .reads_input = reads_input,
};
