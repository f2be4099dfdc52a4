/* SPDX-License-Identifier: MIT */
/* Activation: y = f(x), dx = dy f'(x), element by element. Reach: row. The formulas are with tn_act. */
#include "layers/types.h"
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

const char *tn_act_name(tn_act act)
{
    for (int i = 0; i < num_activations; i++) {
        if (activations[i].act == act) return activations[i].name;
    }
    return "";
}

typedef struct activation {
    tn_act act;
} activation;

int tenon_activation(tenon_builder *builder, const char *name)
{
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_activation_type, .name = name, .own_size = sizeof(activation)});
    if (layer == NULL) return -1;
    activation *own = layer->own;
    tenon_error error;
    if (tn_act_from_name(name, &own->act, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
        return -1;
    }
    return tn_builder_finish(builder, layer);
}

static tn_act act_of(const tn_layer *layer)
{
    return ((const activation *)layer->own)->act;
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    tn_settings_string(settings, "activation", tn_act_name(act_of(layer)));
}

static void forward(const tn_layer_call *call)
{
    call->context->ops->activation(call->context, call->y, call->x[0], act_of(call->layer), call->rows,
                                   call->layer->out_dim);
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
    call->context->ops->activation_backward(call->context, call->dx[0], call->dy, call->x[0], act_of(call->layer),
                                            call->rows, call->layer->out_dim);
}

const tn_layer_type tn_activation_type = {
    .name = "activation",
    .reach = TN_REACH_ROW,
    .describe = describe,
    .forward = forward,
    .backward = backward,
    .reads_input = reads_input,
    .activation = act_of,
};
