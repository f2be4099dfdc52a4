/* SPDX-License-Identifier: MIT */
/* Linear layer: y = x W^T + b, W (out, in) or stored transposed (in, out), b (out). Reach: row.
 *
 * Backward: dx = dy W, dW += dy^T x, db += sum of the rows of dy.
 */
#include "layers/linear.h"

#include "core/size.h"
#include "graph/builder.h"
#include "ops/dense.h"

enum { WEIGHT, BIAS };

typedef struct linear {
    bool has_bias, transposed;
} linear;

/* "name.weight"; a transposed one may be a parameter of the module itself, of just this name. */
static void declare_weight(tenon_builder *builder, const tn_layer *layer, unsigned flags)
{
    const bool transposed = (flags & TENON_TRANSPOSED) != 0;
    tn_builder_parameter(builder, (flags & TENON_BARE_NAME) != 0 ? "" : "weight",
                         &(tn_parameter_spec){.ndim = 2,
                                              .shape = {transposed ? layer->in_dim : layer->out_dim,
                                                        transposed ? layer->out_dim : layer->in_dim},
                                              .initial = TN_INITIAL_WEIGHT,
                                              .fan_in = layer->in_dim,
                                              .decays = true});
}

int tenon_linear(tenon_builder *builder, const char *name, int64_t out_dim, unsigned flags)
{
    tn_layer *layer =
        tn_builder_append(builder, &(tn_append){.type = &tn_linear_type, .name = name, .own_size = sizeof(linear)});
    if (layer == NULL) return -1;
    if (out_dim < 0 || (out_dim == 0 && tenon_builder_out_dim(builder) > 0)) {
        tenon_builder_fail(builder, "linear layer '%s' has width %lld; it must be positive", tn_quote(name).text,
                           (long long)out_dim);
        return -1;
    }
    tn_builder_flags(builder, flags, TENON_BIAS | TENON_TRANSPOSED | TENON_BARE_NAME);
    linear *own = layer->own;
    own->has_bias = (flags & TENON_BIAS) != 0;
    own->transposed = (flags & TENON_TRANSPOSED) != 0;
    layer->out_dim = out_dim;
    declare_weight(builder, layer, flags);
    if (own->has_bias) tn_builder_vector(builder, "bias", out_dim, layer->in_dim);
    return tn_builder_finish(builder, layer);
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    const linear *own = layer->own;
    tn_settings_bool(settings, "bias", own->has_bias);
    tn_settings_bool(settings, "transposed", own->transposed);
}

size_t tn_linear_own_size(void)
{
    return sizeof(linear);
}

void tn_linear_make(tn_layer *layer, void *own, int64_t in_dim, int64_t out_dim, bool has_bias)
{
    *(linear *)own = (linear){.has_bias = has_bias};
    layer->type = &tn_linear_type;
    layer->own = own;
    layer->in_dim = in_dim;
    layer->out_dim = out_dim;
}

static bool affine(tn_affine *which, const tn_layer *layer)
{
    const linear *own = layer->own;
    *which = (tn_affine){WEIGHT, own->has_bias ? BIAS : -1};
    return !own->transposed;
}

static tn_map map_of(const tn_layer *layer, const tn_weight *weights)
{
    return (tn_map){1, layer->out_dim, layer->in_dim, weights[WEIGHT].dtype};
}

/* dx = dy W as a linear map of its own. */
static tn_map backward_map_of(const tn_layer *layer, const tn_weight *weights)
{
    return (tn_map){1, layer->in_dim, layer->out_dim, weights[WEIGHT].dtype};
}

static bool plan(tn_dense *dense, const tn_layer *layer, const tn_ops *ops, const tn_weight *weights)
{
    return tn_dense_plan(dense, ops, map_of(layer, weights), ((const linear *)layer->own)->has_bias);
}

static bool plan_backward(tn_dense *dense, const tn_layer *layer, const tn_ops *ops, const tn_weight *weights)
{
    return tn_dense_plan(dense, ops, backward_map_of(layer, weights), false);
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    const linear *own = q->layer->own;
    const tn_map map = map_of(q->layer, q->weights), back = backward_map_of(q->layer, q->weights);
    tn_dense forward, backward;
    *bytes = (tn_layer_sizes){.packed = 0};
    if (q->rows == 0) {
        if (!plan(&forward, q->layer, q->ops, q->weights)) return false;
        if (!plan_backward(&backward, q->layer, q->ops, q->weights)) return false;
        bytes->packed = forward.size;
        bytes->packed_backward = backward.size;
    } else if (!q->backward) {
        bytes->scratch = q->ops->linear_scratch(&map, q->rows, q->workers);
    } else {
        const tn_map *dw = own->transposed ? &back : &map;
        bytes->scratch = tn_max_size(q->ops->weight_gradient_scratch(dw, q->rows, q->workers),
                                     q->ops->linear_scratch(&back, q->rows, q->workers));
    }
    return true;
}

static void pack(void *packed, void *packed_backward, const tn_layer *layer, const tn_context *context,
                 const tn_weight *weights)
{
    const linear *own = layer->own;
    tn_dense dense;
    if (!plan(&dense, layer, context->ops, weights)) return; /* sizes has said so */
    const int64_t n_stride = own->transposed ? 1 : layer->in_dim, k_stride = own->transposed ? layer->out_dim : 1;
    tn_dense_pack(packed, &dense, context, weights[WEIGHT].data, 0, n_stride, k_stride,
                  own->has_bias ? weights[BIAS].data : NULL, own->has_bias ? weights[BIAS].dtype : TN_F32);
    if (packed_backward == NULL || !plan_backward(&dense, layer, context->ops, weights)) return;
    tn_dense_pack(packed_backward, &dense, context, weights[WEIGHT].data, 0, k_stride, n_stride, NULL, TN_F32);
}

static void forward(const tn_layer_call *call)
{
    tn_dense dense;
    if (!plan(&dense, call->layer, call->context->ops, call->weights)) return;
    tn_dense_forward(call->y, call->x[0], &dense, call->context, call->packed, call->act, call->rows);
}

static bool reads_input(const tn_layer *layer, int input, float *const *gradient, bool wants_dx)
{
    (void)layer;
    (void)input;
    (void)wants_dx;
    return gradient[WEIGHT] != NULL;
}

static void backward(const tn_layer_call *call)
{
    const tn_layer *layer = call->layer;
    const linear *own = layer->own;
    const tn_ops *ops = call->context->ops;
    const tn_map map = {1, layer->out_dim, layer->in_dim, call->weights[WEIGHT].dtype};
    float *dw = call->gradient[WEIGHT], *dbias = own->has_bias ? call->gradient[BIAS] : NULL;
    tn_dense dense;
    if (dw != NULL && own->transposed) { /* dW^T = x^T dy */
        const tn_map turned = {1, layer->in_dim, layer->out_dim, call->weights[WEIGHT].dtype};
        ops->weight_gradient(call->context, dw, NULL, call->x[0], call->dy, &turned, call->rows, call->overwrite);
        if (dbias != NULL) {
            ops->bias_gradient(call->context, dbias, call->dy, call->rows, layer->out_dim, call->overwrite);
        }
    } else if (dw != NULL) {
        ops->weight_gradient(call->context, dw, dbias, call->dy, call->x[0], &map, call->rows, call->overwrite);
    } else if (dbias != NULL) {
        ops->bias_gradient(call->context, dbias, call->dy, call->rows, layer->out_dim, call->overwrite);
    }
    if (call->dx[0].data == NULL || !plan_backward(&dense, layer, ops, call->weights)) return;
    tn_dense_forward(call->dx[0], call->dy, &dense, call->context, call->packed_backward, TN_ACT_NONE, call->rows);
}

static double flops(const tn_layer *layer, double rows, double inputs)
{
    (void)inputs;
    return 2 * rows * (double)layer->in_dim * (double)layer->out_dim;
}

const tn_layer_type tn_linear_type = {
    .name = "linear",
    .reach = TN_REACH_ROW,
    .fuses_activation = true,
    .describe = describe,
    .sizes = sizes,
    .pack = pack,
    .forward = forward,
    .backward = backward,
    .reads_input = reads_input,
    .flops = flops,
    .affine = affine,
};
