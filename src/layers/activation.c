/* SPDX-License-Identifier: MIT */
/* Activation: y = f(x), dx = dy f'(x), element by element. Reach: row. The formulas are with tn_act. */
#include "layers/layer.h"
#include <string.h>

/* The names as configs spell them: PyTorch's for the first three, Hugging Face's for the others. */
static const struct {
    const char *name;
    tn_act act;
} activations[] = {
    {"gelu", TN_ACT_GELU},
    {"silu", TN_ACT_SILU},
    {"relu", TN_ACT_RELU},
    {"gelu_tanh", TN_ACT_GELU_TANH},
    {"quick_gelu", TN_ACT_QUICK_GELU},
};
enum { num_activations = sizeof activations / sizeof activations[0] };

tenon_status tn_act_from_name(const char *name, tn_act *act, tenon_error *error)
{
    for (int i = 0; i < num_activations; i++) {
        if (strcmp(activations[i].name, name) == 0) {
            *act = activations[i].act;
            return TENON_OK;
        }
    }
    char options[128];
    tn_text text = {options, sizeof options, 0};
    for (int i = 0; i < num_activations; i++)
        tn_text_add(&text, "%s'%s'", i > 0 ? ", " : "", activations[i].name);
    return tn_fail(error, TENON_INVALID, "Unknown adapter activation: '%s'. Options: [%s]", tn_quote(name).text,
                   options);
}

int tenon_activation(tenon_builder *builder, const char *activation)
{
    tn_layer *layer = tn_builder_append(builder, &tn_activation_type, activation);
    if (layer == NULL) return -1;
    tenon_error error;
    if (tn_act_from_name(activation, &layer->act, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
        return -1;
    }
    layer->out_dim = layer->in_dim;
    return layer->output;
}

static void forward(const tn_block *block, const tn_layer *layer, const tn_context *context, const void *packed,
                    const tn_weights *weights)
{
    (void)packed;
    (void)weights;
    context->ops->activation(context, block->y, block->x, layer->act, block->rows, layer->out_dim);
}

static bool reads_input(const tn_layer *layer, float *const *gradient, bool wants_dx)
{
    (void)layer;
    (void)gradient;
    return wants_dx;
}

static void backward(const tn_block_backward *block, const tn_layer *layer, const tn_context *context,
                     const void *packed, const void *packed_backward, const tn_weights *weights)
{
    (void)packed;
    (void)packed_backward;
    (void)weights;
    context->ops->activation_backward(context, block->dx, block->dy, block->x, layer->act, block->rows, layer->out_dim);
}

static double flops(const tn_layer *layer, double rows, double patches)
{
    (void)patches;
    (void)layer;
    (void)rows;
    return 0; /* products are counted, functions are not */
}

const tn_layer_type tn_activation_type = {
    .name = "activation",
    .reach = TN_REACH_ROW,
    .forward = forward,
    .reads_input = reads_input,
    .backward = backward,
    .flops = flops,
};
