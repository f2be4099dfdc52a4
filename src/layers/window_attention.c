/* Window attention: multi-head attention with one query per window, the mean of its patches. Reach: window.
 *
 * With one query, keys and values need no projection per patch. For head h of width d = C / heads, window patches x_j
 * and scaled query q_h: score_hj = q_h . (W_k,h x_j + b_k,h) = (W_k,h^T q_h) . x_j + const,  and the constant drops out
 * of the softmax; sum_j a_hj (W_v,h x_j + b_v,h) = W_v,h (sum_j a_hj x_j) + b_v,h,     since the a_hj sum to one. So,
 * for the rows of a block: mean [rows, C] -> q = mean W_q^T + b_q [rows, C] -> u_h = W_k,h^T q_h [rows, heads, C]
 *     -> a_h = softmax_j(u_h . x_j / sqrt(d)), z_h = sum_j a_hj x_j [rows, heads, C] -> W_v,h z_h + b_v,h [rows, C]
 * W_k,h^T and W_v,h are maps of `heads` groups. k_proj.bias is a parameter without effect.
 */
#include "core/memory.h"
#include "core/size.h"
#include "layers/dense.h"
#include "layers/layer.h"
#include <math.h>

enum { QUERY, KEY, VALUE };

/* Parameters lie in this order, each weight followed by its bias where there are biases. */
static int weight_of(const tn_layer *layer, int map)
{
    return layer->bias ? 2 * map : map;
}

/* A weight and its bias. */
static void declare(tenon_builder *builder, const tn_layer *layer, const char *weight, const char *bias)
{
    tn_builder_matrix(builder, weight, layer->in_dim, layer->in_dim);
    if (layer->bias) tn_builder_vector(builder, bias, layer->in_dim, layer->in_dim);
}

int tenon_window_attention(tenon_builder *builder, const char *name, int64_t heads, int64_t window, const char *ragged,
                           unsigned flags)
{
    tn_layer *layer = tn_builder_append(builder, &tn_window_attention_type, name);
    if (layer == NULL) return -1;
    const int64_t width = layer->in_dim;
    if (heads <= 0) {
        tenon_builder_fail(builder, "pool_heads must be positive (got %lld)", (long long)heads);
    } else if (width % heads != 0) {
        tenon_builder_fail(builder, "in_dim (%lld) must be divisible by pool_heads (%lld)", (long long)width,
                           (long long)heads);
    }
    layer->heads = heads;
    layer->out_dim = width;
    layer->bias = (flags & TENON_BIAS) != 0;
    tn_builder_flags(builder, flags, TENON_BIAS);
    tn_builder_window(builder, layer, window, ragged);
    declare(builder, layer, "q_proj.weight", "q_proj.bias");
    declare(builder, layer, "k_proj.weight", "k_proj.bias");
    declare(builder, layer, "v_proj.weight", "v_proj.bias");
    return tn_builder_failed(builder) ? -1 : layer->output;
}

/* The three packed maps, one after the other. */
typedef struct maps {
    tn_dense query, key, value;
    size_t key_offset, value_offset, size;
} maps;

static bool plan(maps *m, const tn_layer *layer, const tn_ops *ops, const tn_weights *weights)
{
    const int64_t width = layer->in_dim, heads = layer->heads, head_dim = width / heads;
    const tn_map query = {1, width, width, weights->dtype[weight_of(layer, QUERY)]};
    const tn_map key = {heads, width, head_dim, weights->dtype[weight_of(layer, KEY)]};
    const tn_map value = {heads, head_dim, width, weights->dtype[weight_of(layer, VALUE)]};
    if (!tn_dense_plan(&m->query, ops, query, layer->bias) || !tn_dense_plan(&m->key, ops, key, false) ||
        !tn_dense_plan(&m->value, ops, value, layer->bias)) {
        return false;
    }
    m->key_offset = m->query.size;
    m->value_offset = m->key_offset + m->key.size;
    m->size = m->value_offset + m->value.size;
    return true;
}

static bool packed_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, size_t *bytes)
{
    maps m;
    if (!plan(&m, layer, ops, weights)) return false;
    *bytes = m.size;
    return true;
}

static void pack(void *packed, const tn_layer *layer, const tn_context *context, const tn_weights *weights)
{
    maps m;
    if (!plan(&m, layer, context->ops, weights)) return; /* packed_size has said so */
    const int64_t width = layer->in_dim, head = width / layer->heads * width;
    const int q = weight_of(layer, QUERY), k = weight_of(layer, KEY), v = weight_of(layer, VALUE);
    char *data = packed;
    tn_dense_pack(data, &m.query, context, weights->data[q], 0, width, 1, weights->data[q + 1], weights->dtype[q + 1]);
    /* W_k,h^T: output i is a column of W_k, input j a row of head h. */
    tn_dense_pack(data + m.key_offset, &m.key, context, weights->data[k], head, 1, width, NULL, TN_F32);
    tn_dense_pack(data + m.value_offset, &m.value, context, weights->data[v], head, width, 1, weights->data[v + 1],
                  weights->dtype[v + 1]);
}

/* Means and queries are made for a whole block; u and z for pieces of it, small enough that they stay in cache. */
static int64_t piece_rows(const tn_layer *layer, const tn_ops *ops, int64_t rows)
{
    enum { piece_bytes = 8 << 20 };
    const size_t row = 2 * (size_t)layer->heads * (size_t)layer->in_dim * tn_dtype_size(ops->compute);
    const int64_t fit = (int64_t)(piece_bytes / row);
    return tn_max_i64(1, tn_min_i64(rows, fit >= 12 ? fit / 6 * 6 : fit));
}

/* Bytes of `rows` rows of `width`, in whole cache lines. */
static size_t rows_size(const tn_ops *ops, int64_t rows, int64_t width)
{
    return tn_align_up((size_t)rows * (size_t)width * tn_dtype_size(ops->compute), TN_ALIGN);
}

static size_t buffer_size(const tn_layer *layer, const tn_ops *ops, int64_t rows, int64_t slots)
{
    (void)slots;
    const int64_t piece = piece_rows(layer, ops, rows), width = layer->in_dim;
    return 2 * rows_size(ops, rows, width) + 2 * rows_size(ops, piece, layer->heads * width);
}

static size_t scratch_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                           int64_t slots, int workers)
{
    maps m;
    if (!plan(&m, layer, ops, weights)) return 0;
    const int64_t piece = piece_rows(layer, ops, rows), width = layer->in_dim;
    const size_t sizes[] = {
        ops->window_mean_scratch(slots, width, workers),
        ops->window_attend_scratch(slots, layer->heads, width, workers),
        ops->linear_scratch(&m.query.map, rows, workers),
        ops->linear_scratch(&m.key.map, piece, workers),
        ops->linear_scratch(&m.value.map, piece, workers),
    };
    size_t most = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        most = sizes[i] > most ? sizes[i] : most;
    return most;
}

/* `rows` rows of `from` on, `slots` to a row. */
static tn_rows rows_from(tn_rows all, int64_t first, int64_t slots)
{
    if (all.data == NULL) return all;
    if (all.offset != NULL) {
        all.offset += first * slots;
    } else {
        all.data = (char *)all.data + (size_t)(first * slots * all.stride) * tn_dtype_size(all.dtype);
    }
    return all;
}

/* Rows [first, first + rows) of the block, from their queries [block rows, C] on. */
static void forward_piece(const tn_block *block, const tn_layer *layer, const tn_context *context, const char *packed,
                          const maps *m, tn_rows query, char *buffer, int64_t first, int64_t rows)
{
    const tn_ops *ops = context->ops;
    const int64_t width = layer->in_dim, heads = layer->heads, slots = block->slots;
    const tn_rows mapped = tn_dense_rows(buffer, ops->compute, heads * width);
    const tn_rows mixed = tn_dense_rows(buffer + rows_size(ops, rows, heads * width), ops->compute, heads * width);
    const double scale = 1 / sqrt((double)(width / heads));
    tn_dense_forward(mapped, rows_from(query, first, 1), &m->key, context, packed + m->key_offset, TN_ACT_NONE, rows);
    ops->window_attend(context, mixed, rows_from(block->attention, first, 1), rows_from(block->x, first, slots), mapped,
                       scale, rows, slots, heads, width);
    tn_dense_forward(rows_from(block->y, first, 1), mixed, &m->value, context, packed + m->value_offset, block->act,
                     rows);
}

static void forward(const tn_block *block, const tn_layer *layer, const tn_context *context, const void *packed,
                    const tn_weights *weights)
{
    maps m;
    const tn_ops *ops = context->ops;
    if (!plan(&m, layer, ops, weights)) return;
    const int64_t width = layer->in_dim, rows = block->rows, piece = piece_rows(layer, ops, rows);
    char *buffer = block->buffer;
    const tn_rows mean = tn_dense_rows(buffer, ops->compute, width);
    const tn_rows query = tn_dense_rows(buffer + rows_size(ops, rows, width), ops->compute, width);
    ops->window_mean(context, mean, block->x, rows, block->slots, width);
    tn_dense_forward(query, mean, &m.query, context, packed, TN_ACT_NONE, rows);
    buffer += 2 * rows_size(ops, rows, width);
    for (int64_t first = 0; first < rows; first += piece) {
        forward_piece(block, layer, context, packed, &m, query, buffer, first, tn_min_i64(piece, rows - first));
    }
}

static double flops(const tn_layer *layer, double rows, double patches)
{
    const double width = (double)layer->in_dim;
    const double maps_flops = 3 * 2 * rows * width * width;
    return maps_flops + patches * width * (1 + 4 * (double)layer->heads);
}

const tn_layer_type tn_window_attention_type = {
    .name = "window_attention",
    .reach = TN_REACH_WINDOW,
    .pools = true,
    .writes_attention = true,
    .fuses_activation = true,
    .packed_size = packed_size,
    .pack = pack,
    .buffer_size = buffer_size,
    .scratch_size = scratch_size,
    .forward = forward,
    .flops = flops,
};
