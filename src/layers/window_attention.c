/* SPDX-License-Identifier: MIT */
/* Window attention: multi-head attention with one query per window, the mean of its patches. Reach: window.
 *
 * With one query, keys and values need no projection per patch. For head h of width d = C / heads, window patches x_j
 * and scaled query q_h: score_hj = q_h . (W_k,h x_j + b_k,h) = (W_k,h^T q_h) . x_j + const,  and the constant drops out
 * of the softmax; sum_j a_hj (W_v,h x_j + b_v,h) = W_v,h (sum_j a_hj x_j) + b_v,h,     since the a_hj sum to one. So,
 * for the rows of a block: mean [rows, C] -> q = mean W_q^T + b_q [rows, C] -> u_h = W_k,h^T q_h [rows, heads, C]
 *     -> a_h = softmax_j(u_h . x_j / sqrt(d)), z_h = sum_j a_hj x_j [rows, heads, C] -> W_v,h z_h + b_v,h [rows, C]
 * W_k,h^T and W_v,h are maps of `heads` groups. k_proj.bias is a parameter without effect.
 *
 * Backward goes the same way, from dy [rows, C]; mean and q are kept by forward, u, a and z made once more:
 *     dW_v,h += dy_h^T z_h,  dz_h = W_v,h^T dy_h -> ds (the op window_attend_backward), du_h = sum_j ds_hj x_j
 *     dW_k,h += q_h^T du_h,  dq_h = W_k,h du_h,  dW_q += dq^T mean,  dmean = W_q^T dq
 *     dx_j = dmean / count + sum_h (a_hj dz_h + ds_hj u_h)
 * so there is no gradient of a key or a value of a patch, and patches are read once. k_proj.bias gets nothing.
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

/* Bytes of `rows` rows of `width`, in whole cache lines. */
static size_t rows_size(const tn_ops *ops, int64_t rows, int64_t width)
{
    return tn_align_up((size_t)rows * (size_t)width * tn_dtype_size(ops->compute), TN_ALIGN);
}

/* mean and q */
static size_t state_size(const tn_layer *layer, const tn_ops *ops, int64_t rows)
{
    return 2 * rows_size(ops, rows, layer->in_dim);
}

static size_t buffer_size(const tn_layer *layer, const tn_ops *ops, int64_t rows, int64_t slots)
{
    (void)slots;
    return state_size(layer, ops, rows);
}

static size_t largest(const size_t *sizes, size_t count)
{
    size_t most = 0;
    for (size_t i = 0; i < count; i++)
        most = sizes[i] > most ? sizes[i] : most;
    return most;
}

/* Means and queries are made for a whole block; then u, z in its place, and the result for a piece of it at a time,
 * some rows and heads. Where windows are small a piece is the task of one core, so that what it wrote is in its cache
 * when it is read. Where they are large their patches should be read for all heads at once, and all cores share a
 * piece. */
enum { SMALL_WINDOW = 32, TASK_ROWS = 24, TASK_HEADS = 4, SHARED_ROWS = 48 };

/* How a block is cut, and the memory of a piece: its u or z, then the scratch of its ops. */
typedef struct cut {
    bool shared;         /* all workers share a piece */
    int64_t rows, heads; /* of a piece, at most */
    size_t mapped, size; /* bytes */
} cut;

/* False when the size does not fit. */
static bool plan_cut(cut *c, const tn_layer *layer, const tn_ops *ops, const maps *m, int64_t slots, int workers)
{
    c->shared = slots > SMALL_WINDOW;
    c->rows = c->shared ? SHARED_ROWS : TASK_ROWS;
    c->heads = c->shared ? layer->heads : tn_min_i64(layer->heads, TASK_HEADS);
    const int each = c->shared ? workers : 1;
    size_t scratch = ops->window_attend_scratch(slots, c->heads, layer->in_dim, each);
    tn_map key = m->key.map, value = m->value.map;
    for (int64_t groups = c->shared ? c->heads : 1; groups <= c->heads; groups++) {
        key.groups = value.groups = groups;
        scratch = tn_max_size(scratch, ops->linear_scratch(&key, c->rows, each));
        scratch = tn_max_size(scratch, ops->linear_scratch(&value, c->rows, each));
    }
    c->mapped = rows_size(ops, c->rows, c->heads * layer->in_dim);
    return scratch <= SIZE_MAX - TN_ALIGN && tn_add_size(c->mapped, tn_align_up(scratch, TN_ALIGN), &c->size);
}

static size_t scratch_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                           int64_t slots, int workers)
{
    maps m;
    cut c;
    size_t pieces;
    if (!plan(&m, layer, ops, weights)) return 0;
    if (!plan_cut(&c, layer, ops, &m, slots, workers)) return SIZE_MAX;
    if (!tn_mul_size(c.size, c.shared ? 1 : (size_t)workers, &pieces)) return SIZE_MAX;
    const size_t mean = ops->window_mean_scratch(slots, layer->in_dim, workers);
    return tn_max_size(pieces, tn_max_size(mean, ops->linear_scratch(&m.query.map, rows, workers)));
}

/* A block on its way. */
typedef struct walk {
    const tn_block *block;
    const tn_layer *layer;
    const tn_context *context;
    const char *packed;
    maps m;
    cut c;
    tn_rows query;        /* [rows, C] */
    int64_t rows, heads;  /* of a piece */
    int64_t down, beside; /* pieces one below the other and beside each other */
    bool by_heads;        /* neighbours have the same heads, not the same rows */
} walk;

/* Rows of the piece, from the columns of its heads on, which have `width` each. */
static tn_rows part_of(tn_rows rows, int64_t row, int64_t head, int64_t width)
{
    return tn_columns_from(tn_rows_from(rows, row), head * width);
}

static void forward_piece(const walk *w, int64_t index, const tn_parallel *parallel, char *memory)
{
    const tn_block *block = w->block;
    const tn_ops *ops = w->context->ops;
    const int64_t width = w->layer->in_dim, head_dim = width / w->layer->heads, slots = block->slots;
    const int64_t row = (w->by_heads ? index % w->down : index / w->beside) * w->rows;
    const int64_t head = (w->by_heads ? index / w->down : index % w->beside) * w->heads;
    const int64_t rows = tn_min_i64(w->rows, block->rows - row), heads = tn_min_i64(w->heads, w->layer->heads - head);
    const tn_context context = {.ops = ops, .parallel = parallel, .scratch = memory + w->c.mapped};
    const tn_rows mapped = tn_dense_rows(memory, ops->compute, heads * width), mixed = mapped;
    tn_dense_forward_groups(mapped, part_of(w->query, row, head, head_dim), &w->m.key, &context,
                            w->packed + w->m.key_offset, TN_ACT_NONE, rows, head, heads);
    ops->window_attend(&context, mixed, part_of(block->attention, row, head, slots),
                       tn_rows_from(block->x, row * slots), mapped, 1 / sqrt((double)head_dim), rows, slots, heads,
                       width);
    tn_dense_forward_groups(part_of(block->y, row, head, head_dim), mixed, &w->m.value, &context,
                            w->packed + w->m.value_offset, block->act, rows, head, heads);
}

static void piece_task(void *argument, int64_t index, int worker)
{
    const walk *w = argument;
    const tn_parallel alone = {1, NULL};
    forward_piece(w, index, &alone, (char *)w->context->scratch + (size_t)worker * w->c.size);
}

/* `count` in pieces of at most `most`: the size of one, all nearly equal. */
static int64_t even_size(int64_t count, int64_t most)
{
    return tn_ceil_div(count, tn_ceil_div(count, most));
}

/* Where tasks are so few that threads would go without, they have less heads. A core takes neighbours: the same patches
 * for all heads or, where patches are so few that they stay in a cache anyway, the same heads' weights for all rows. */
static void run_pieces(walk *w)
{
    enum { few_patches = 1 << 20 }; /* bytes, as f32 */
    const tn_parallel *parallel = w->context->parallel;
    const tn_block *block = w->block;
    const int64_t all = w->layer->heads;
    w->rows = even_size(block->rows, w->c.rows);
    w->heads = even_size(all, w->c.heads);
    w->down = tn_ceil_div(block->rows, w->rows);
    while (!w->c.shared && w->heads > 1 && w->down * tn_ceil_div(all, w->heads) < 2 * (int64_t)parallel->workers)
        w->heads = (w->heads + 1) / 2;
    w->beside = tn_ceil_div(all, w->heads);
    w->by_heads = rows_size(w->context->ops, block->rows * block->slots, w->layer->in_dim) <= few_patches;
    for (int64_t i = 0; i < w->down && w->c.shared; i++)
        forward_piece(w, i, parallel, w->context->scratch);
    if (!w->c.shared) tn_parallel_for(parallel, w->down * w->beside, piece_task, w);
}

static void forward(const tn_block *block, const tn_layer *layer, const tn_context *context, const void *packed,
                    const tn_weights *weights)
{
    walk w = {.block = block, .layer = layer, .context = context, .packed = packed};
    const tn_ops *ops = context->ops;
    const int64_t width = layer->in_dim, rows = block->rows;
    if (!plan(&w.m, layer, ops, weights)) return;
    if (!plan_cut(&w.c, layer, ops, &w.m, block->slots, context->parallel->workers)) return;
    char *state = block->state != NULL ? block->state : block->buffer;
    const tn_rows mean = tn_dense_rows(state, ops->compute, width);
    w.query = tn_dense_rows(state + rows_size(ops, rows, width), ops->compute, width);
    ops->window_mean(context, mean, block->x, rows, block->slots, width);
    tn_dense_forward(w.query, mean, &w.m.query, context, packed, TN_ACT_NONE, rows);
    if (block->y.data != NULL && rows > 0) run_pieces(&w);
}

/* --- backward --- */

/* Maps that backward reads, packed: dmean = W_q^T dq, dz_h = W_v,h^T dy_h, dq_h = W_k,h du_h. */
static bool plan_backward(maps *m, const tn_layer *layer, const tn_ops *ops, const tn_weights *weights)
{
    const int64_t width = layer->in_dim, heads = layer->heads, head_dim = width / heads;
    const tn_map query = {1, width, width, weights->dtype[weight_of(layer, QUERY)]};
    const tn_map key = {heads, head_dim, width, weights->dtype[weight_of(layer, KEY)]};
    const tn_map value = {heads, width, head_dim, weights->dtype[weight_of(layer, VALUE)]};
    if (!tn_dense_plan(&m->query, ops, query, false) || !tn_dense_plan(&m->key, ops, key, false) ||
        !tn_dense_plan(&m->value, ops, value, false)) {
        return false;
    }
    m->key_offset = m->query.size;
    m->value_offset = m->key_offset + m->key.size;
    m->size = m->value_offset + m->value.size;
    return true;
}

static bool packed_backward_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, size_t *bytes)
{
    maps m;
    if (!plan_backward(&m, layer, ops, weights)) return false;
    *bytes = m.size;
    return true;
}

static void pack_backward(void *packed, const tn_layer *layer, const tn_context *context, const tn_weights *weights)
{
    maps m;
    if (!plan_backward(&m, layer, context->ops, weights)) return; /* packed_backward_size has said so */
    const int64_t width = layer->in_dim, head = width / layer->heads * width;
    const void *const *w = weights->data;
    char *data = packed;
    tn_dense_pack(data, &m.query, context, w[weight_of(layer, QUERY)], 0, 1, width, NULL, TN_F32);
    tn_dense_pack(data + m.key_offset, &m.key, context, w[weight_of(layer, KEY)], head, width, 1, NULL, TN_F32);
    tn_dense_pack(data + m.value_offset, &m.value, context, w[weight_of(layer, VALUE)], head, 1, width, NULL, TN_F32);
}

/* What a call wants of a layer, and what follows from it. */
typedef struct wishes {
    float *dw[3], *dbias[3]; /* by QUERY, KEY, VALUE; NULL: frozen */
    bool queries;            /* the gradient of the queries is needed */
    bool scores;             /* the gradient of the scores is needed */
} wishes;

static wishes wishes_of(const tn_layer *layer, float *const *gradient, bool wants_dx)
{
    wishes w = {.queries = wants_dx};
    for (int map = QUERY; map <= VALUE; map++) {
        w.dw[map] = gradient[weight_of(layer, map)];
        w.dbias[map] = layer->bias ? gradient[weight_of(layer, map) + 1] : NULL;
    }
    w.queries = w.queries || w.dw[QUERY] != NULL || w.dbias[QUERY] != NULL;
    w.scores = w.queries || w.dw[KEY] != NULL;
    return w;
}

static bool reads_input(const tn_layer *layer, float *const *gradient, bool wants_dx)
{
    const wishes w = wishes_of(layer, gradient, wants_dx);
    return w.scores || w.dw[VALUE] != NULL;
}

/* What has a row of C for each head, of which a row needs four, is made for pieces of a block, not small ones: each
 * reads and writes dW_k and dW_v once. */
static int64_t most_piece_rows(const tn_layer *layer, const tn_ops *ops, int64_t rows)
{
    const size_t row = 4 * (size_t)layer->heads * (size_t)layer->in_dim * tn_dtype_size(ops->compute);
    const int64_t fit = (int64_t)(((size_t)64 << 20) / row);
    return tn_max_i64(1, tn_min_i64(rows, fit >= 12 ? fit / 6 * 6 : fit));
}

/* As few pieces as there must be, of equal size; at most `piece`. */
static int64_t even_piece(int64_t rows, int64_t piece)
{
    const int64_t even = tn_ceil_div(rows, tn_ceil_div(rows, piece));
    return tn_min_i64(piece, tn_ceil_div(even, 6) * 6);
}

/* Memory of a block: dq [rows, C], and for the rows of a piece u, z, dz, du [heads, C], a, ds [heads, slots], dmean
 * [C].
 */
typedef struct parts {
    tn_rows dquery, mapped, mixed, dmixed, dmapped, weights, dscores, dmean;
    size_t size;
} parts;

static tn_rows place(parts *p, char *buffer, const tn_ops *ops, int64_t rows, int64_t width)
{
    const tn_rows placed = tn_dense_rows(buffer + p->size, ops->compute, width);
    p->size += rows_size(ops, rows, width);
    return placed;
}

static parts place_parts(char *buffer, const tn_layer *layer, const tn_ops *ops, int64_t rows, int64_t piece,
                         int64_t slots)
{
    const int64_t width = layer->in_dim, heads = layer->heads;
    parts p = {.size = 0};
    p.dquery = place(&p, buffer, ops, rows, width);
    p.mapped = place(&p, buffer, ops, piece, heads * width);
    p.mixed = place(&p, buffer, ops, piece, heads * width);
    p.dmixed = place(&p, buffer, ops, piece, heads * width);
    p.dmapped = place(&p, buffer, ops, piece, heads * width);
    p.weights = place(&p, buffer, ops, piece, heads * slots);
    p.dscores = place(&p, buffer, ops, piece, heads * slots);
    p.dmean = place(&p, buffer, ops, piece, width);
    return p;
}

static size_t buffer_backward_size(const tn_layer *layer, const tn_ops *ops, int64_t rows, int64_t slots)
{
    static char nowhere[1];
    return place_parts(nowhere, layer, ops, rows, most_piece_rows(layer, ops, rows), slots).size;
}

static size_t scratch_backward_size(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                                    int64_t slots, int workers)
{
    maps f, b;
    if (!plan(&f, layer, ops, weights) || !plan_backward(&b, layer, ops, weights)) return 0;
    const int64_t piece = most_piece_rows(layer, ops, rows);
    const size_t sizes[] = {
        ops->linear_scratch(&f.key.map, piece, workers),
        ops->linear_scratch(&b.value.map, piece, workers),
        ops->linear_scratch(&b.key.map, piece, workers),
        ops->linear_scratch(&b.query.map, piece, workers),
        ops->window_attend_scratch(slots, layer->heads, layer->in_dim, workers),
        ops->window_attend_backward_scratch(slots, layer->heads, layer->in_dim, workers),
        ops->weight_gradient_scratch(&b.key.map, piece, workers),
        ops->weight_gradient_scratch(&f.query.map, rows, workers),
    };
    return largest(sizes, sizeof sizes / sizeof sizes[0]);
}

/* A block on its way back. */
typedef struct pass {
    const tn_block_backward *block;
    const tn_layer *layer;
    const tn_context *context;
    const char *forward, *backward; /* packed */
    maps f, b;
    wishes wish;
    parts p;
    tn_rows mean, query; /* [rows, C] */
} pass;

/* z, and where it is wanted du, of rows [first, first + rows); then dW_v and dW_k, whose maps' groups are the heads. */
static void backward_scores(const pass *t, int64_t first, int64_t rows)
{
    const tn_ops *ops = t->context->ops;
    const parts *p = &t->p;
    const int64_t heads = t->layer->heads, slots = t->block->slots, width = t->layer->in_dim;
    const double scale = 1 / sqrt((double)(width / heads));
    const tn_rows x = tn_rows_from(t->block->x, first * slots), dy = tn_rows_from(t->block->dy, first);
    const tn_rows query = tn_rows_from(t->query, first), none = {.data = NULL, .dtype = ops->compute};
    const bool sums = t->wish.dw[VALUE] != NULL;
    tn_dense_forward(p->mapped, query, &t->f.key, t->context, t->forward + t->f.key_offset, TN_ACT_NONE, rows);
    if (t->wish.scores) {
        tn_dense_forward(p->dmixed, dy, &t->b.value, t->context, t->backward + t->b.value_offset, TN_ACT_NONE, rows);
        ops->window_attend_backward(t->context, p->dmapped, p->dscores, sums ? p->mixed : none, p->weights, p->dmixed,
                                    x, p->mapped, scale, rows, slots, heads, width);
    } else {
        ops->window_attend(t->context, p->mixed, none, x, p->mapped, scale, rows, slots, heads, width);
    }
    const bool fresh = t->block->fresh && first == 0;
    if (sums) {
        ops->weight_gradient(t->context, t->wish.dw[VALUE], t->wish.dbias[VALUE], dy, p->mixed, &t->b.key.map, rows,
                             fresh);
    }
    if (t->wish.dw[KEY] != NULL) {
        ops->weight_gradient(t->context, t->wish.dw[KEY], NULL, query, p->dmapped, &t->b.key.map, rows, fresh);
    }
}

/* dq of these rows, and from it dx. */
static void backward_queries(const pass *t, int64_t first, int64_t rows)
{
    const tn_ops *ops = t->context->ops;
    const parts *p = &t->p;
    const int64_t heads = t->layer->heads, slots = t->block->slots, width = t->layer->in_dim;
    const tn_rows dquery = tn_rows_from(p->dquery, first);
    tn_dense_forward(dquery, p->dmapped, &t->b.key, t->context, t->backward + t->b.key_offset, TN_ACT_NONE, rows);
    if (t->block->dx.data == NULL) return;
    tn_dense_forward(p->dmean, dquery, &t->b.query, t->context, t->backward, TN_ACT_NONE, rows);
    ops->window_attend_dx(t->context, tn_rows_from(t->block->dx, first * slots), p->weights, p->dscores, p->dmixed,
                          p->mapped, p->dmean, rows, slots, heads, width);
}

/* Nothing depends on it. */
static void clear_key_bias(const pass *t)
{
    const int64_t width = t->layer->in_dim;
    float *dbias = t->wish.dbias[KEY];
    if (dbias == NULL || !t->block->fresh) return;
    t->context->ops->copy(t->context, tn_dense_rows(dbias, TN_F32, width), tn_dense_rows(NULL, TN_F32, width), 1,
                          width);
}

static void backward(const tn_block_backward *block, const tn_layer *layer, const tn_context *context,
                     const void *packed, const void *packed_backward, const tn_weights *weights)
{
    const tn_ops *ops = context->ops;
    const int64_t rows = block->rows, width = layer->in_dim;
    const int64_t piece = even_piece(rows, most_piece_rows(layer, ops, rows));
    pass t = {.block = block, .layer = layer, .context = context, .forward = packed, .backward = packed_backward};
    if (!plan(&t.f, layer, ops, weights) || !plan_backward(&t.b, layer, ops, weights)) return;
    t.wish = wishes_of(layer, block->gradient, block->dx.data != NULL);
    t.p = place_parts(block->buffer, layer, ops, rows, piece, block->slots);
    t.mean = tn_dense_rows(block->state, ops->compute, width);
    t.query = tn_dense_rows((const char *)block->state + rows_size(ops, rows, width), ops->compute, width);
    clear_key_bias(&t);
    if (t.wish.dbias[VALUE] != NULL && t.wish.dw[VALUE] == NULL) {
        ops->bias_gradient(context, t.wish.dbias[VALUE], block->dy, rows, width, block->fresh);
    }
    if (!t.wish.scores && t.wish.dw[VALUE] == NULL) return;
    for (int64_t first = 0; first < rows; first += piece) {
        backward_scores(&t, first, tn_min_i64(piece, rows - first));
        if (t.wish.queries) backward_queries(&t, first, tn_min_i64(piece, rows - first));
    }
    if (t.wish.dw[QUERY] != NULL) {
        ops->weight_gradient(context, t.wish.dw[QUERY], t.wish.dbias[QUERY], t.p.dquery, t.mean, &t.f.query.map, rows,
                             block->fresh);
    } else if (t.wish.dbias[QUERY] != NULL) {
        ops->bias_gradient(context, t.wish.dbias[QUERY], t.p.dquery, rows, width, block->fresh);
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
    .state_size = state_size,
    .packed_backward_size = packed_backward_size,
    .pack_backward = pack_backward,
    .reads_input = reads_input,
    .buffer_backward_size = buffer_backward_size,
    .scratch_backward_size = scratch_backward_size,
    .backward = backward,
    .flops = flops,
};
