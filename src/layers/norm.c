/* SPDX-License-Identifier: MIT */
/* Layer norm and RMS norm over the width of a row; the maths is with the op. Reach: row. */
#include "core/size.h"
#include "layers/types.h"

typedef struct norm {
    bool center, has_weight, has_bias, plus_one;
    double eps;
} norm;

static int append_norm(tenon_builder *builder, const char *name, const norm *wanted)
{
    tn_layer *layer =
        tn_builder_append(builder, &(tn_append){.type = &tn_norm_type, .name = name, .own_size = sizeof(norm)});
    if (layer == NULL) return -1;
    if (!(wanted->eps >= 0 && wanted->eps < 1)) {
        tenon_builder_fail(builder, "norm '%s' has eps %g; it must be at least 0 and below 1", tn_quote(name).text,
                           wanted->eps);
        return -1;
    }
    *(norm *)layer->own = *wanted;
    const tn_parameter_spec spec = {.ndim = 1, .shape = {layer->in_dim}, .initial = TN_INITIAL_CONSTANT};
    tn_parameter_spec ones = spec;
    ones.value = wanted->plus_one ? 0 : 1;
    if (wanted->has_weight) tn_builder_parameter(builder, "weight", &ones);
    if (wanted->has_bias) tn_builder_parameter(builder, "bias", &spec);
    return tn_builder_finish(builder, layer);
}

int tenon_layer_norm(tenon_builder *builder, const char *name, double eps)
{
    return append_norm(builder, name, &(norm){.center = true, .has_weight = true, .has_bias = true, .eps = eps});
}

int tenon_rms_norm(tenon_builder *builder, const char *name, double eps, unsigned flags)
{
    tn_builder_flags(builder, flags, TENON_NO_WEIGHT | TENON_PLUS_ONE);
    const bool plain = (flags & TENON_NO_WEIGHT) != 0;
    return append_norm(builder, name,
                       &(norm){.has_weight = !plain, .plus_one = !plain && (flags & TENON_PLUS_ONE) != 0, .eps = eps});
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    const norm *own = layer->own;
    tn_settings_bool(settings, "center", own->center);
    tn_settings_real(settings, "eps", own->eps);
    tn_settings_bool(settings, "weight", own->has_weight);
    tn_settings_bool(settings, "plus_one", own->plus_one);
    tn_settings_bool(settings, "bias", own->has_bias);
}

/* The packed weight, then the bias, in the compute dtype. */
static size_t part_size(const tn_layer *layer, const tn_ops *ops)
{
    return tn_align_up((size_t)layer->in_dim * tn_dtype_size(ops->compute), 64);
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    const norm *own = q->layer->own;
    size_t part;
    if (!tn_shape_bytes(1, &q->layer->in_dim, sizeof(double), &part) || part > SIZE_MAX / 4) return false;
    *bytes = (tn_layer_sizes){.packed = (size_t)(own->has_weight + own->has_bias) * part_size(q->layer, q->ops)};
    if (q->rows > 0 && q->backward) bytes->scratch = q->ops->norm_backward_scratch(q->rows);
    return true;
}

static void pack(void *packed, void *packed_backward, const tn_layer *layer, const tn_context *context,
                 const tn_weight *weights)
{
    (void)packed_backward;
    const norm *own = layer->own;
    for (int i = 0; i < own->has_weight + own->has_bias; i++) {
        char *to = (char *)packed + (size_t)i * part_size(layer, context->ops);
        context->ops->copy(context, tn_dense_rows(to, context->ops->compute, layer->in_dim),
                           tn_dense_rows(weights[i].data, weights[i].dtype, layer->in_dim), 1, layer->in_dim);
    }
}

static tn_norm norm_of(const tn_layer_call *call)
{
    const norm *own = call->layer->own;
    const char *packed = call->packed;
    const size_t part = part_size(call->layer, call->context->ops);
    return (tn_norm){.center = own->center,
                     .plus_one = own->plus_one,
                     .eps = own->eps,
                     .weight = own->has_weight ? packed : NULL,
                     .bias = own->has_bias ? packed + part : NULL};
}

static void forward(const tn_layer_call *call)
{
    const tn_norm how = norm_of(call);
    call->context->ops->norm(call->context, call->y, call->x[0], &how, call->rows, call->layer->out_dim);
}

static bool reads_input(const tn_layer *layer, int input, float *const *gradient, bool wants_dx)
{
    (void)input;
    const norm *own = layer->own;
    return wants_dx || (own->has_weight && gradient[0] != NULL);
}

static void backward(const tn_layer_call *call)
{
    const norm *own = call->layer->own;
    const tn_norm how = norm_of(call);
    float *dw = own->has_weight ? call->gradient[0] : NULL, *dbias = own->has_bias ? call->gradient[1] : NULL;
    call->context->ops->norm_backward(call->context, call->dx[0], dw, dbias, call->dy, call->x[0], &how, call->rows,
                                      call->layer->out_dim, call->overwrite);
}

const tn_layer_type tn_norm_type = {
    .name = "norm",
    .reach = TN_REACH_ROW,
    .describe = describe,
    .sizes = sizes,
    .pack = pack,
    .forward = forward,
    .backward = backward,
    .reads_input = reads_input,
};
