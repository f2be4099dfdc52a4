/* SPDX-License-Identifier: MIT */
/* Window attention: multi-head attention with one query per window, the mean of its patches. Windows tile the grid, or
 * are rows of a map that the call brings. Reach: window. The maths is with the op, window_pool. */
#include "core/size.h"
#include "layers/types.h"

enum { MAPS = TN_POOL_MAPS };

typedef struct window_attention {
    int64_t heads;
    bool has_bias;
} window_attention;

/* Parameters lie in the order of the maps, each weight followed by its bias where there are biases. */
static int weight_of(const window_attention *own, int map)
{
    return own->has_bias ? 2 * map : map;
}

static void declare(tenon_builder *builder, const tn_layer *layer)
{
    static const char *const names[MAPS][2] = {[TN_POOL_QUERY] = {"q_proj.weight", "q_proj.bias"},
                                               [TN_POOL_KEY] = {"k_proj.weight", "k_proj.bias"},
                                               [TN_POOL_VALUE] = {"v_proj.weight", "v_proj.bias"}};
    const window_attention *own = layer->own;
    for (int map = 0; map < MAPS; map++) {
        tn_builder_matrix(builder, names[map][0], layer->out_dim, layer->in_dim);
        if (own->has_bias) tn_builder_vector(builder, names[map][1], layer->out_dim, layer->in_dim);
    }
}

int tenon_window_attention(tenon_builder *builder, const char *name, int64_t heads, int64_t window, const char *ragged,
                           unsigned flags)
{
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_window_attention_type, .name = name, .own_size = sizeof(window_attention)});
    if (layer == NULL) return -1;
    window_attention *own = layer->own;
    if (heads <= 0) {
        tenon_builder_fail(builder, "`pool_heads` must be positive (got %lld)", (long long)heads);
    } else if (layer->in_dim % heads != 0) {
        tenon_builder_fail(builder, "`in_dim` (%lld) must be divisible by `pool_heads` (%lld)",
                           (long long)layer->in_dim, (long long)heads);
    }
    own->heads = heads;
    own->has_bias = (flags & TENON_BIAS) != 0;
    tn_builder_flags(builder, flags, TENON_BIAS);
    const int space = tn_builder_value(builder, layer->inputs[0])->space;
    const int windows = tn_builder_windows(builder, space, window, ragged, true);
    declare(builder, layer);
    return tn_builder_finish_in(builder, layer, windows);
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    const window_attention *own = layer->own;
    tn_settings_int(settings, "heads", own->heads);
    tn_settings_bool(settings, "bias", own->has_bias);
}

int tenon_map_attention(tenon_builder *builder, const char *name, int map, int64_t heads, int64_t head_dim,
                        unsigned flags)
{
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_window_attention_type, .name = name, .own_size = sizeof(window_attention)});
    if (layer == NULL) return -1;
    window_attention *own = layer->own;
    own->heads = heads;
    own->has_bias = (flags & TENON_BIAS) != 0;
    tn_builder_flags(builder, flags, TENON_BIAS);
    if (heads <= 0 || head_dim <= 0 || !tn_mul_i64(heads, head_dim, &layer->out_dim)) {
        tenon_builder_fail(builder, "attention of %lld heads of width %lld: both must be positive, and fit 64 bits",
                           (long long)heads, (long long)head_dim);
        return -1;
    }
    declare(builder, layer);
    return tn_builder_finish_in(builder, layer,
                                tn_builder_map(builder, tn_builder_value(builder, layer->inputs[0])->space, map));
}

static tn_window_pool pool_of(const tn_layer *layer, const tn_weight *weights)
{
    const window_attention *own = layer->own;
    tn_window_pool pool = {
        .width = layer->in_dim, .inner = layer->out_dim, .heads = own->heads, .has_bias = own->has_bias};
    for (int map = 0; map < MAPS; map++) {
        const tn_weight *weight = weights + weight_of(own, map);
        pool.weight[map] = weight->data;
        pool.dtype[map] = weight->dtype;
        if (!own->has_bias) continue;
        pool.bias[map] = weight[1].data;
        pool.bias_dtype[map] = weight[1].dtype;
    }
    return pool;
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    const tn_window_pool pool = pool_of(q->layer, q->weights);
    tn_window_pool_sizes found;
    if (!q->ops->window_pool_sizes(&found, q->ops, &pool, q->rows, q->slots, q->workers, q->backward)) return false;
    *bytes = (tn_layer_sizes){.packed = found.packed,
                              .packed_backward = found.packed_backward,
                              .buffer = found.buffer,
                              .scratch = found.scratch,
                              .state = found.state};
    return true;
}

static void pack(void *packed, void *packed_backward, const tn_layer *layer, const tn_context *context,
                 const tn_weight *weights)
{
    const tn_window_pool pool = pool_of(layer, weights);
    context->ops->window_pool_pack(context, packed, packed_backward, &pool);
}

static tn_window_pool_call call_of(const tn_layer_call *call)
{
    return (tn_window_pool_call){.rows = call->rows,
                                 .slots = call->slots,
                                 .packed = call->packed,
                                 .packed_backward = call->packed_backward,
                                 .buffer = call->buffer,
                                 .state = call->state,
                                 .x = call->x[0]};
}

static void forward(const tn_layer_call *call)
{
    const tn_window_pool pool = pool_of(call->layer, call->weights);
    tn_window_pool_call pooling = call_of(call);
    pooling.y = call->y;
    pooling.attention = call->attention;
    pooling.act = call->act;
    call->context->ops->window_pool(call->context, &pool, &pooling);
}

static void backward(const tn_layer_call *call)
{
    const window_attention *own = call->layer->own;
    const tn_window_pool pool = pool_of(call->layer, call->weights);
    tn_window_pool_call pooling = call_of(call);
    pooling.dy = call->dy;
    pooling.dx = call->dx[0];
    pooling.overwrite = call->overwrite;
    for (int map = 0; map < MAPS; map++) {
        pooling.dw[map] = call->gradient[weight_of(own, map)];
        pooling.dbias[map] = own->has_bias ? call->gradient[weight_of(own, map) + 1] : NULL;
    }
    call->context->ops->window_pool_backward(call->context, &pool, &pooling);
}

/* All but the gradients of v_proj.bias and k_proj.bias need the patches. */
static bool reads_input(const tn_layer *layer, int input, float *const *gradient, bool wants_dx)
{
    (void)input;
    const window_attention *own = layer->own;
    const int query = weight_of(own, TN_POOL_QUERY);
    return wants_dx || gradient[query] != NULL || (own->has_bias && gradient[query + 1] != NULL) ||
           gradient[weight_of(own, TN_POOL_KEY)] != NULL || gradient[weight_of(own, TN_POOL_VALUE)] != NULL;
}

static double flops(const tn_layer *layer, double rows, double inputs)
{
    const window_attention *own = layer->own;
    const double width = (double)layer->in_dim;
    return 3 * 2 * rows * width * (double)layer->out_dim + inputs * width * (1 + 4 * (double)own->heads);
}

static int64_t attention_heads(const tn_layer *layer)
{
    return ((const window_attention *)layer->own)->heads;
}

const tn_layer_type tn_window_attention_type = {
    .name = "window_attention",
    .reach = TN_REACH_WINDOW,
    .fuses_activation = true,
    .describe = describe,
    .sizes = sizes,
    .pack = pack,
    .forward = forward,
    .backward = backward,
    .reads_input = reads_input,
    .flops = flops,
    .attention_heads = attention_heads,
};
