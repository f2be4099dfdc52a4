/* SPDX-License-Identifier: MIT */
/* Window pooling: multi-head attention with one query per window, the mean of its patches.
 *
 * With one query, keys and values need no projection per patch. For head h of width d = D / heads, window patches x_j
 * and scaled query q_h: score_hj = q_h . (W_k,h x_j + b_k,h) = (W_k,h^T q_h) . x_j + const,  and the constant drops out
 * of the softmax; sum_j a_hj (W_v,h x_j + b_v,h) = W_v,h (sum_j a_hj x_j) + b_v,h,     since the a_hj sum to one. So,
 * for the rows of a block: mean [rows, C] -> q = mean W_q^T + b_q [rows, D] -> u_h = W_k,h^T q_h [rows, heads, C]
 *     -> a_h = softmax_j(u_h . x_j / sqrt(d)), z_h = sum_j a_hj x_j [rows, heads, C] -> W_v,h z_h + b_v,h [rows, D]
 * W_k,h^T and W_v,h are maps of `heads` groups. k_proj.bias is a parameter without effect.
 *
 * Backward goes the same way, from dy [rows, D]; mean and q are kept by forward, u, a and z made once more:
 *     dW_v,h += dy_h^T z_h,  dz_h = W_v,h^T dy_h -> ds (the op window_attend_backward), du_h = sum_j ds_hj x_j
 *     dW_k,h += q_h^T du_h,  dq_h = W_k,h du_h,  dW_q += dq^T mean,  dmean = W_q^T dq
 *     dx_j = dmean / count + sum_h (a_hj dz_h + ds_hj u_h)
 * so there is no gradient of a key or a value of a patch, and patches are read once. k_proj.bias gets nothing.
 */
#include "ops/window_pool.h"

#include "core/memory.h"
#include "core/size.h"
#include "ops/dense.h"
#include <math.h>

enum { QUERY = TN_POOL_QUERY, KEY = TN_POOL_KEY, VALUE = TN_POOL_VALUE };

/* The three packed maps, one after the other. */
typedef struct maps {
    tn_dense query, key, value;
    size_t key_offset, value_offset, size;
} maps;

static bool plan(maps *m, const tn_window_pool *pool, const tn_ops *ops)
{
    const int64_t width = pool->width, heads = pool->heads, head_dim = pool->inner / heads;
    const tn_map query = {1, pool->inner, width, pool->dtype[QUERY]};
    const tn_map key = {heads, width, head_dim, pool->dtype[KEY]};
    const tn_map value = {heads, head_dim, width, pool->dtype[VALUE]};
    if (!tn_dense_plan(&m->query, ops, query, pool->has_bias) || !tn_dense_plan(&m->key, ops, key, false) ||
        !tn_dense_plan(&m->value, ops, value, pool->has_bias)) {
        return false;
    }
    m->key_offset = m->query.size;
    m->value_offset = m->key_offset + m->key.size;
    m->size = m->value_offset + m->value.size;
    return true;
}

static void pack_forward(void *packed, const tn_window_pool *pool, const tn_context *context)
{
    maps m;
    if (!plan(&m, pool, context->ops)) return; /* tn_window_pool_sizes_of has said so */
    const int64_t width = pool->width, head = pool->inner / pool->heads * width;
    const void *const *w = pool->weight;
    char *data = packed;
    tn_dense_pack(data, &m.query, context, w[QUERY], 0, width, 1, pool->bias[QUERY], pool->bias_dtype[QUERY]);
    /* W_k,h^T: output i is a column of W_k, input j a row of head h. */
    tn_dense_pack(data + m.key_offset, &m.key, context, w[KEY], head, 1, width, NULL, TN_F32);
    tn_dense_pack(data + m.value_offset, &m.value, context, w[VALUE], head, width, 1, pool->bias[VALUE],
                  pool->bias_dtype[VALUE]);
}

/* Bytes of `rows` rows of `width`, in whole cache lines. */
static size_t rows_size(const tn_ops *ops, int64_t rows, int64_t width)
{
    return tn_align_up((size_t)rows * (size_t)width * tn_dtype_size(ops->compute), TN_ALIGN);
}

/* mean and q */
static size_t state_size(const tn_window_pool *pool, const tn_ops *ops, int64_t rows)
{
    return rows_size(ops, rows, pool->width) + rows_size(ops, rows, pool->inner);
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
static bool plan_cut(cut *c, const tn_window_pool *pool, const tn_ops *ops, const maps *m, int64_t slots, int workers)
{
    c->shared = slots > SMALL_WINDOW;
    c->rows = c->shared ? SHARED_ROWS : TASK_ROWS;
    c->heads = c->shared ? pool->heads : tn_min_i64(pool->heads, TASK_HEADS);
    const int each = c->shared ? workers : 1;
    size_t scratch = ops->window_attend_scratch(slots, c->heads, pool->width, each);
    tn_map key = m->key.map, value = m->value.map;
    for (int64_t groups = c->shared ? c->heads : 1; groups <= c->heads; groups++) {
        key.groups = value.groups = groups;
        scratch = tn_max_size(scratch, ops->linear_scratch(&key, c->rows, each));
        scratch = tn_max_size(scratch, ops->linear_scratch(&value, c->rows, each));
    }
    c->mapped = rows_size(ops, c->rows, c->heads * pool->width);
    return scratch <= SIZE_MAX - TN_ALIGN && tn_add_size(c->mapped, tn_align_up(scratch, TN_ALIGN), &c->size);
}

static size_t scratch_size(const tn_window_pool *pool, const tn_ops *ops, int64_t rows, int64_t slots, int workers)
{
    maps m;
    cut c;
    size_t pieces;
    if (!plan(&m, pool, ops) || !plan_cut(&c, pool, ops, &m, slots, workers)) return SIZE_MAX;
    if (!tn_mul_size(c.size, c.shared ? 1 : (size_t)workers, &pieces)) return SIZE_MAX;
    const size_t mean = ops->window_mean_scratch(slots, pool->width, workers);
    return tn_max_size(pieces, tn_max_size(mean, ops->linear_scratch(&m.query.map, rows, workers)));
}

/* A call on its way. */
typedef struct walk {
    const tn_window_pool_call *call;
    const tn_window_pool *pool;
    const tn_context *context;
    const char *packed;
    maps m;
    cut c;
    tn_rows query;        /* [rows, D] */
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
    const tn_window_pool_call *call = w->call;
    const tn_ops *ops = w->context->ops;
    const int64_t width = w->pool->width, head_dim = w->pool->inner / w->pool->heads, slots = call->slots;
    const int64_t row = (w->by_heads ? index % w->down : index / w->beside) * w->rows;
    const int64_t head = (w->by_heads ? index / w->down : index % w->beside) * w->heads;
    const int64_t rows = tn_min_i64(w->rows, call->rows - row), heads = tn_min_i64(w->heads, w->pool->heads - head);
    const tn_context context = {.ops = ops, .parallel = parallel, .scratch = memory + w->c.mapped};
    const tn_rows mapped = tn_dense_rows(memory, ops->compute, heads * width), mixed = mapped;
    tn_dense_forward_groups(mapped, part_of(w->query, row, head, head_dim), &w->m.key, &context,
                            w->packed + w->m.key_offset, TN_ACT_NONE, rows, head, heads);
    ops->window_attend(&context, mixed, part_of(call->attention, row, head, slots), tn_rows_from(call->x, row * slots),
                       mapped, 1 / sqrt((double)head_dim), rows, slots, heads, width);
    tn_dense_forward_groups(part_of(call->y, row, head, head_dim), mixed, &w->m.value, &context,
                            w->packed + w->m.value_offset, call->act, rows, head, heads);
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
    const tn_window_pool_call *call = w->call;
    const int64_t all = w->pool->heads;
    w->rows = even_size(call->rows, w->c.rows);
    w->heads = even_size(all, w->c.heads);
    w->down = tn_ceil_div(call->rows, w->rows);
    while (!w->c.shared && w->heads > 1 && w->down * tn_ceil_div(all, w->heads) < 2 * (int64_t)parallel->workers)
        w->heads = (w->heads + 1) / 2;
    w->beside = tn_ceil_div(all, w->heads);
    w->by_heads = rows_size(w->context->ops, call->rows * call->slots, w->pool->width) <= few_patches;
    for (int64_t i = 0; i < w->down && w->c.shared; i++)
        forward_piece(w, i, parallel, w->context->scratch);
    if (!w->c.shared) tn_parallel_for(parallel, w->down * w->beside, piece_task, w);
}

void tn_window_pool_forward(const tn_context *context, const tn_window_pool *pool, const tn_window_pool_call *call)
{
    walk w = {.call = call, .pool = pool, .context = context, .packed = call->packed};
    const tn_ops *ops = context->ops;
    const int64_t width = pool->width, rows = call->rows;
    if (!plan(&w.m, pool, ops)) return;
    if (!plan_cut(&w.c, pool, ops, &w.m, call->slots, context->parallel->workers)) return;
    char *state = call->state != NULL ? call->state : call->buffer;
    const tn_rows mean = tn_dense_rows(state, ops->compute, width);
    w.query = tn_dense_rows(state + rows_size(ops, rows, width), ops->compute, pool->inner);
    ops->window_mean(context, mean, call->x, rows, call->slots, width);
    tn_dense_forward(w.query, mean, &w.m.query, context, call->packed, TN_ACT_NONE, rows);
    if (call->y.data != NULL && rows > 0) run_pieces(&w);
}

/* --- backward --- */

/* Maps that backward reads, packed: dmean = W_q^T dq, dz_h = W_v,h^T dy_h, dq_h = W_k,h du_h. */
static bool plan_backward(maps *m, const tn_window_pool *pool, const tn_ops *ops)
{
    const int64_t width = pool->width, heads = pool->heads, head_dim = pool->inner / heads;
    const tn_map query = {1, width, pool->inner, pool->dtype[QUERY]};
    const tn_map key = {heads, head_dim, width, pool->dtype[KEY]};
    const tn_map value = {heads, width, head_dim, pool->dtype[VALUE]};
    if (!tn_dense_plan(&m->query, ops, query, false) || !tn_dense_plan(&m->key, ops, key, false) ||
        !tn_dense_plan(&m->value, ops, value, false)) {
        return false;
    }
    m->key_offset = m->query.size;
    m->value_offset = m->key_offset + m->key.size;
    m->size = m->value_offset + m->value.size;
    return true;
}

static void pack_backward(void *packed, const tn_window_pool *pool, const tn_context *context)
{
    maps m;
    if (!plan_backward(&m, pool, context->ops)) return; /* tn_window_pool_sizes_of has said so */
    const int64_t width = pool->width, head = pool->inner / pool->heads * width;
    const void *const *w = pool->weight;
    char *data = packed;
    tn_dense_pack(data, &m.query, context, w[QUERY], 0, 1, width, NULL, TN_F32);
    tn_dense_pack(data + m.key_offset, &m.key, context, w[KEY], head, width, 1, NULL, TN_F32);
    tn_dense_pack(data + m.value_offset, &m.value, context, w[VALUE], head, 1, width, NULL, TN_F32);
}

/* What a call wants, and what follows from it. */
typedef struct wishes {
    bool queries; /* the gradient of the queries is needed */
    bool scores;  /* the gradient of the scores is needed */
} wishes;

static wishes wishes_of(const tn_window_pool_call *call)
{
    wishes w = {.queries = call->dx.data != NULL || call->dw[QUERY] != NULL || call->dbias[QUERY] != NULL};
    w.scores = w.queries || call->dw[KEY] != NULL;
    return w;
}

/* What has a row of C for each head, of which a row needs four, is made for pieces of a block, not small ones: each
 * reads and writes dW_k and dW_v once. */
static int64_t most_piece_rows(const tn_window_pool *pool, const tn_ops *ops, int64_t rows)
{
    const size_t row = 4 * (size_t)pool->heads * (size_t)pool->width * tn_dtype_size(ops->compute);
    const int64_t fit = (int64_t)(((size_t)64 << 20) / row);
    return tn_max_i64(1, tn_min_i64(rows, fit >= 12 ? fit / 6 * 6 : fit));
}

/* As few pieces as there must be, of equal size; at most `piece`. */
static int64_t even_piece(int64_t rows, int64_t piece)
{
    const int64_t even = tn_ceil_div(rows, tn_ceil_div(rows, piece));
    return tn_min_i64(piece, tn_ceil_div(even, 6) * 6);
}

/* Memory of a block: dq [rows, D], and for the rows of a piece u, z, dz, du [heads, C], a, ds [heads, slots], dmean
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

static parts place_parts(char *buffer, const tn_window_pool *pool, const tn_ops *ops, int64_t rows, int64_t piece,
                         int64_t slots)
{
    const int64_t width = pool->width, heads = pool->heads;
    parts p = {.size = 0};
    p.dquery = place(&p, buffer, ops, rows, pool->inner);
    p.mapped = place(&p, buffer, ops, piece, heads * width);
    p.mixed = place(&p, buffer, ops, piece, heads * width);
    p.dmixed = place(&p, buffer, ops, piece, heads * width);
    p.dmapped = place(&p, buffer, ops, piece, heads * width);
    p.weights = place(&p, buffer, ops, piece, heads * slots);
    p.dscores = place(&p, buffer, ops, piece, heads * slots);
    p.dmean = place(&p, buffer, ops, piece, width);
    return p;
}

static size_t buffer_backward_size(const tn_window_pool *pool, const tn_ops *ops, int64_t rows, int64_t slots)
{
    static char nowhere[1];
    return place_parts(nowhere, pool, ops, rows, most_piece_rows(pool, ops, rows), slots).size;
}

static size_t scratch_backward_size(const tn_window_pool *pool, const tn_ops *ops, int64_t rows, int64_t slots,
                                    int workers)
{
    maps f, b;
    if (!plan(&f, pool, ops) || !plan_backward(&b, pool, ops)) return SIZE_MAX;
    const int64_t piece = most_piece_rows(pool, ops, rows);
    const size_t sizes[] = {
        ops->linear_scratch(&f.key.map, piece, workers),
        ops->linear_scratch(&b.value.map, piece, workers),
        ops->linear_scratch(&b.key.map, piece, workers),
        ops->linear_scratch(&b.query.map, piece, workers),
        ops->window_attend_scratch(slots, pool->heads, pool->width, workers),
        ops->window_attend_backward_scratch(slots, pool->heads, pool->width, workers),
        ops->weight_gradient_scratch(&b.key.map, piece, workers),
        ops->weight_gradient_scratch(&f.query.map, rows, workers),
    };
    return largest(sizes, sizeof sizes / sizeof sizes[0]);
}

/* A call on its way back. */
typedef struct pass {
    const tn_window_pool_call *call;
    const tn_window_pool *pool;
    const tn_context *context;
    const char *forward, *backward; /* packed */
    maps f, b;
    wishes wish;
    parts p;
    tn_rows mean, query; /* [rows, C], [rows, D] */
} pass;

/* z, and where it is wanted du, of rows [first, first + rows); then dW_v and dW_k, whose maps' groups are the heads. */
static void backward_scores(const pass *t, int64_t first, int64_t rows)
{
    const tn_ops *ops = t->context->ops;
    const parts *p = &t->p;
    const int64_t heads = t->pool->heads, slots = t->call->slots, width = t->pool->width;
    const double scale = 1 / sqrt((double)(t->pool->inner / heads));
    const tn_rows x = tn_rows_from(t->call->x, first * slots), dy = tn_rows_from(t->call->dy, first);
    const tn_rows query = tn_rows_from(t->query, first), none = {.data = NULL, .dtype = ops->compute};
    const bool sums = t->call->dw[VALUE] != NULL;
    tn_dense_forward(p->mapped, query, &t->f.key, t->context, t->forward + t->f.key_offset, TN_ACT_NONE, rows);
    if (t->wish.scores) {
        tn_dense_forward(p->dmixed, dy, &t->b.value, t->context, t->backward + t->b.value_offset, TN_ACT_NONE, rows);
        ops->window_attend_backward(t->context, p->dmapped, p->dscores, sums ? p->mixed : none, p->weights, p->dmixed,
                                    x, p->mapped, scale, rows, slots, heads, width);
    } else {
        ops->window_attend(t->context, p->mixed, none, x, p->mapped, scale, rows, slots, heads, width);
    }
    const bool fresh = t->call->overwrite && first == 0;
    if (sums) {
        ops->weight_gradient(t->context, t->call->dw[VALUE], t->call->dbias[VALUE], dy, p->mixed, &t->b.key.map, rows,
                             fresh);
    }
    if (t->call->dw[KEY] != NULL) {
        ops->weight_gradient(t->context, t->call->dw[KEY], NULL, query, p->dmapped, &t->b.key.map, rows, fresh);
    }
}

/* dq of these rows, and from it dx. */
static void backward_queries(const pass *t, int64_t first, int64_t rows)
{
    const tn_ops *ops = t->context->ops;
    const parts *p = &t->p;
    const int64_t heads = t->pool->heads, slots = t->call->slots, width = t->pool->width;
    const tn_rows dquery = tn_rows_from(p->dquery, first);
    tn_dense_forward(dquery, p->dmapped, &t->b.key, t->context, t->backward + t->b.key_offset, TN_ACT_NONE, rows);
    if (t->call->dx.data == NULL) return;
    tn_dense_forward(p->dmean, dquery, &t->b.query, t->context, t->backward, TN_ACT_NONE, rows);
    ops->window_attend_dx(t->context, tn_rows_from(t->call->dx, first * slots), p->weights, p->dscores, p->dmixed,
                          p->mapped, p->dmean, rows, slots, heads, width);
}

/* Nothing depends on it. */
static void clear_key_bias(const pass *t)
{
    const int64_t width = t->pool->inner;
    float *dbias = t->call->dbias[KEY];
    if (dbias == NULL || !t->call->overwrite) return;
    t->context->ops->copy(t->context, tn_dense_rows(dbias, TN_F32, width), tn_dense_rows(NULL, TN_F32, width), 1,
                          width);
}

void tn_window_pool_backward(const tn_context *context, const tn_window_pool *pool, const tn_window_pool_call *call)
{
    const tn_ops *ops = context->ops;
    const int64_t rows = call->rows, width = pool->width;
    const int64_t piece = even_piece(rows, most_piece_rows(pool, ops, rows));
    pass t = {.call = call,
              .pool = pool,
              .context = context,
              .forward = call->packed,
              .backward = call->packed_backward,
              .wish = wishes_of(call)};
    if (!plan(&t.f, pool, ops) || !plan_backward(&t.b, pool, ops)) return;
    t.p = place_parts(call->buffer, pool, ops, rows, piece, call->slots);
    t.mean = tn_dense_rows(call->state, ops->compute, width);
    t.query = tn_dense_rows((const char *)call->state + rows_size(ops, rows, width), ops->compute, pool->inner);
    clear_key_bias(&t);
    if (call->dbias[VALUE] != NULL && call->dw[VALUE] == NULL) {
        ops->bias_gradient(context, call->dbias[VALUE], call->dy, rows, pool->inner, call->overwrite);
    }
    if (!t.wish.scores && call->dw[VALUE] == NULL) return;
    for (int64_t first = 0; first < rows; first += piece) {
        backward_scores(&t, first, tn_min_i64(piece, rows - first));
        if (t.wish.queries) backward_queries(&t, first, tn_min_i64(piece, rows - first));
    }
    if (call->dw[QUERY] != NULL) {
        ops->weight_gradient(context, call->dw[QUERY], call->dbias[QUERY], t.p.dquery, t.mean, &t.f.query.map, rows,
                             call->overwrite);
    } else if (call->dbias[QUERY] != NULL) {
        ops->bias_gradient(context, call->dbias[QUERY], t.p.dquery, rows, pool->inner, call->overwrite);
    }
}

/* --- sizes and packing --- */

bool tn_window_pool_sizes_of(tn_window_pool_sizes *sizes, const tn_ops *ops, const tn_window_pool *pool, int64_t rows,
                             int64_t slots, int workers, bool backward)
{
    maps f, b;
    *sizes = (tn_window_pool_sizes){.state = state_size(pool, ops, rows)};
    if (rows == 0) {
        if (!plan(&f, pool, ops) || !plan_backward(&b, pool, ops)) return false;
        sizes->packed = f.size;
        sizes->packed_backward = b.size;
    } else if (backward) {
        sizes->buffer = buffer_backward_size(pool, ops, rows, slots);
        sizes->scratch = scratch_backward_size(pool, ops, rows, slots, workers);
    } else {
        sizes->buffer = state_size(pool, ops, rows);
        sizes->scratch = scratch_size(pool, ops, rows, slots, workers);
    }
    return sizes->scratch != SIZE_MAX;
}

void tn_window_pool_pack(const tn_context *context, void *packed, void *packed_backward, const tn_window_pool *pool)
{
    pack_forward(packed, pool, context);
    if (packed_backward != NULL) pack_backward(packed_backward, pool, context);
}
