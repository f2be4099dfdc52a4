/* SPDX-License-Identifier: MIT */
/* Gate: y = f(a) b, element by element, of two values of one width or of the two halves of one value's columns;
 * da = dy b f'(a), db = dy f(a). Reach: row. With a and b two linear layers of x it is a gated linear unit. */
#include "core/size.h"
#include "layers/types.h"

typedef struct gate {
    tn_act act;
    int64_t gate_column, value_column; /* where a and b begin in the columns of the first input and of the last */
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

int tenon_gate_halves(tenon_builder *builder, const char *activation, bool second_is_gate)
{
    tenon_error error;
    tn_layer *layer =
        tn_builder_append(builder, &(tn_append){.type = &tn_gate_type, .name = activation, .own_size = sizeof(gate)});
    if (layer == NULL) return -1;
    gate *own = layer->own;
    layer->out_dim = layer->in_dim / 2;
    own->gate_column = second_is_gate ? layer->out_dim : 0;
    own->value_column = second_is_gate ? 0 : layer->out_dim;
    if (layer->in_dim % 2 != 0) {
        tenon_builder_fail(builder, "a gate of two halves takes a value of even width (got %lld)",
                           (long long)layer->in_dim);
    } else if (tn_act_from_name(activation, &own->act, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
    }
    return tn_builder_finish(builder, layer);
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    tn_settings_string(settings, "activation", tn_act_name(((const gate *)layer->own)->act));
    if (layer->num_inputs == 1) {
        tn_settings_bool(settings, "second_is_gate", ((const gate *)layer->own)->gate_column > 0);
    }
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    *bytes = (tn_layer_sizes){.packed = 0};
    return tn_shape_bytes(2, (int64_t[]){q->rows, q->layer->out_dim}, tn_dtype_size(q->ops->compute), &bytes->buffer);
}

/* The columns of a and of b among the inputs, or among their gradients. */
static tn_rows gate_of(const tn_layer_call *call, const tn_rows *inputs)
{
    return tn_columns_from(inputs[0], ((const gate *)call->layer->own)->gate_column);
}

static tn_rows value_of(const tn_layer_call *call, const tn_rows *inputs)
{
    return tn_columns_from(inputs[call->layer->num_inputs - 1], ((const gate *)call->layer->own)->value_column);
}

static void forward(const tn_layer_call *call)
{
    const tn_ops *ops = call->context->ops;
    const int64_t width = call->layer->out_dim;
    const tn_rows opened = tn_dense_rows(call->buffer, ops->compute, width);
    ops->activation(call->context, opened, gate_of(call, call->x), ((const gate *)call->layer->own)->act, call->rows,
                    width);
    ops->multiply(call->context, call->y, opened, value_of(call, call->x), call->rows, width);
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
    const tn_rows a = gate_of(call, call->x), b = value_of(call, call->x);
    const tn_rows da = gate_of(call, call->dx), db = value_of(call, call->dx);
    if (db.data != NULL) {
        ops->activation(call->context, made, a, act, call->rows, width);
        ops->multiply(call->context, db, call->dy, made, call->rows, width);
    }
    if (da.data == NULL) return;
    ops->multiply(call->context, made, call->dy, b, call->rows, width);
    ops->activation_backward(call->context, da, made, a, act, call->rows, width);
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
