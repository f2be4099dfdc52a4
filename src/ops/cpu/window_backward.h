/* SPDX-License-Identifier: MIT */
/* Gradients through windows.
 *
 * Mean: each present patch gets dy / count. Attention, for a row's present patches x_j and head h, with what
 * window_attend knows:
 *
 *   a = softmax_j(scale q_h . x_j),  y_h = sum_j a_j x_j                       once more
 *   da_j = dy_h . x_j,  ds_j = scale a_j (da_j - sum_i a_i da_i)
 *   dq_h = sum_j ds_j x_j
 *   dx_j = dmean / count + sum_h (a_hj dy_h + ds_hj q_h)                       an op of its own: dmean comes later
 *
 * Both sets of dots and both weighted sums are those of the forward kernel, over the window while it is in the cache;
 * the second op does not read the patches at all.
 */
#ifndef TN_OPS_CPU_WINDOW_BACKWARD_H
#define TN_OPS_CPU_WINDOW_BACKWARD_H

/* --- mean --- */

typedef struct mean_backward_call {
    tn_rows dx, dy;
    int64_t rows, slots, width;
} mean_backward_call;

static int64_t count_present(const tn_rows *x, int64_t row, int64_t slots)
{
    int64_t count = 0;
    for (int64_t j = row * slots; j < (row + 1) * slots; j++)
        count += row_offset(x, j) >= 0;
    return count;
}

static void mean_backward_task(void *argument, int64_t index, int worker)
{
    enum { span = 256 };
    (void)worker;
    const mean_backward_call *c = argument;
    const int64_t row = index;
    const vf count = vf_set((float)count_present(&c->dx, row, c->slots));
    float values[span] = {0};
    for (int64_t i = 0; i < c->width; i += span) {
        const int64_t columns = tn_min_i64(span, c->width - i);
        widen(values, c->dy.dtype, element_at(&c->dy, row, i), c->dy.step, columns);
        for (int64_t v = 0; v < columns; v += lanes)
            vf_store(values + v, plain_nan(vf_load(values + v) / count));
        for (int64_t j = row * c->slots; j < (row + 1) * c->slots; j++) {
            if (row_offset(&c->dx, j) >= 0) narrow(element_at(&c->dx, j, i), c->dx.dtype, values, columns);
        }
    }
}

static void window_mean_backward(const tn_context *context, tn_rows dx, tn_rows dy, int64_t rows, int64_t slots,
                                 int64_t width)
{
    mean_backward_call c = {dx, dy, rows, slots, width};
    tn_parallel_for(context->parallel, rows, mean_backward_task, &c);
}

/* --- attention: scores and sums --- */

typedef struct attend_backward_call {
    attend_call forward;  /* query q, sums y, weights a */
    attend_call backward; /* query dy, sums dq, weights ds; its scale is 1: da is a plain dot */
    float scale;
} attend_backward_call;

/* score[padded]: da becomes ds. The padding has a = 0 and must not count. */
static void soften_backward(float *score, const float *a, float scale, int64_t present, int64_t padded)
{
    for (int64_t j = present; j < padded; j++)
        score[j] = 0.0f;
    vf sum = vf_set(0.0f);
    for (int64_t j = 0; j < padded; j += lanes)
        sum = vf_fma(vf_load(a + j), vf_load(score + j), sum);
    const vf mean = sum_lanes(sum);
    for (int64_t j = 0; j < padded; j += lanes)
        vf_store(score + j, vf_set(scale) * vf_load(a + j) * (vf_load(score + j) - mean));
}

static void attend_heads_backward(const attend_window *w, const attend_window *g, float scale, int64_t from, int64_t to)
{
    const tn_dtype dtype = w->call->x.dtype;
    dot_windows[dtype](w, from, to);
    dot_windows[dtype](g, from, to);
    for (int64_t h = from; h < to && w->present > 0; h++) {
        soften(w->score + h * w->padded, w->present, w->padded);
        soften_backward(g->score + h * w->padded, w->score + h * w->padded, scale, w->present, w->padded);
    }
    if (w->call->y.data != NULL) mix_windows[dtype](w, from, to);
    mix_windows[dtype](g, from, to);
}

static void attend_backward_task(void *argument, int64_t index, int worker)
{
    const attend_backward_call *c = argument;
    const attend_call *f = &c->forward;
    char *scratch = f->scratch + (size_t)worker * f->scratch_stride;
    const int64_t row = index / f->parts, from = index % f->parts * f->part, to = tn_min_i64(from + f->part, f->heads);
    attend_window w = list_patches(f, row, scratch), g = w;
    g.call = &c->backward;
    g.score = w.score + f->heads * tn_ceil_div(f->slots, lanes) * lanes;
    w.query = (const float *)(const void *)element_at(&f->q, row, 0);
    g.query = (const float *)(const void *)element_at(&c->backward.q, row, 0);
    attend_heads_backward(&w, &g, c->scale, from, to);
    write_weights(&w, from, to);
    write_weights(&g, from, to);
}

/* Of one worker; SIZE_MAX when it does not fit. */
static size_t attend_backward_scratch(int64_t slots, int64_t heads)
{
    size_t bytes = 0;
    if (slots > INT64_MAX / 32 || !add_product(&bytes, slots, 2, sizeof(int64_t)) ||
        !add_product(&bytes, heads, 2 * tn_ceil_div(slots, lanes) * lanes, sizeof(float)))
        return SIZE_MAX;
    return bytes;
}

static size_t window_attend_backward_scratch(int64_t slots, int64_t heads, int64_t width, int workers)
{
    (void)width;
    size_t bytes;
    return tn_mul_size(attend_backward_scratch(slots, heads), (size_t)workers, &bytes) ? bytes : SIZE_MAX;
}

static void window_attend_backward(const tn_context *context, tn_rows dq, tn_rows dscores, tn_rows y, tn_rows weights,
                                   tn_rows dy, tn_rows x, tn_rows q, double scale, int64_t rows, int64_t slots,
                                   int64_t heads, int64_t width)
{
    if (heads <= 0) return;
    attend_call f = {y, weights, x, q, (float)scale, rows, slots, heads, width, heads, 1, context->scratch, 0, 0};
    f.scratch_stride = attend_backward_scratch(slots, heads);
    if (rows < 4 * (int64_t)context->parallel->workers) {
        f.part = tn_min_i64(tile_heads, heads);
        f.parts = tn_ceil_div(heads, f.part);
    }
    attend_backward_call c = {f, f, (float)scale};
    c.backward.y = dq;
    c.backward.weights = dscores;
    c.backward.q = dy;
    c.backward.scale = 1.0f;
    tn_parallel_for(context->parallel, rows * f.parts, attend_backward_task, &c);
}

/* --- attention: patches --- */

enum { spread_patches = 4, spread_vectors = 3, spread_columns = spread_vectors * lanes };

typedef struct spread_call {
    tn_rows dx, weights, dscores, dy, q, dmean;
    int64_t rows, slots, heads, width;
    int64_t part, parts; /* columns of a task, tasks of a row */
} spread_call;

/* One row's window, some columns of it. */
typedef struct spread_window {
    const spread_call *call;
    const float *weights, *dscores, *dy, *q, *dmean; /* of the row */
    int64_t row, count;
} spread_window;

static const float *floats_at(const tn_rows *rows, int64_t row)
{
    return (const float *)(const void *)element_at(rows, row, 0);
}

/* dx of `patches` present slots, columns [column, column + count), count <= spread_columns. */
static ALWAYS_INLINE void spread_tile(const spread_window *w, const int64_t *slot, int64_t column, int64_t count,
                                      int patches, bool whole)
{
    const spread_call *c = w->call;
    vf sum[spread_patches][spread_vectors];
    UNROLL
    for (int v = 0; v < spread_vectors; v++) {
        const int64_t left = tn_max_i64(count - v * lanes, 0);
        const vf mean = whole ? vf_load(w->dmean + column + v * lanes)
                              : load_columns(TN_F32, w->dmean + column, 1, v * lanes, left);
        UNROLL
        for (int j = 0; j < patches; j++)
            sum[j][v] = mean / vf_set((float)w->count);
    }
    for (int64_t h = 0; h < c->heads; h++) {
        const float *dy = w->dy + h * c->width + column, *q = w->q + h * c->width + column;
        UNROLL
        for (int v = 0; v < spread_vectors; v++) {
            const int64_t left = tn_max_i64(count - v * lanes, 0);
            const vf g = vf_keep(whole ? vf_load(dy + v * lanes) : load_columns(TN_F32, dy, 1, v * lanes, left));
            const vf u = vf_keep(whole ? vf_load(q + v * lanes) : load_columns(TN_F32, q, 1, v * lanes, left));
            UNROLL
            for (int j = 0; j < patches; j++) {
                sum[j][v] = vf_fma(vf_set(w->weights[h * c->slots + slot[j]]), g, sum[j][v]);
                sum[j][v] = vf_fma(vf_set(w->dscores[h * c->slots + slot[j]]), u, sum[j][v]);
            }
        }
    }
    UNROLL
    for (int j = 0; j < patches; j++) {
        char *dx = element_at(&c->dx, w->row * c->slots + slot[j], column);
        UNROLL
        for (int v = 0; v < spread_vectors; v++) {
            if (count > v * lanes) store_columns(c->dx.dtype, dx, v * lanes, plain_nan(sum[j][v]), count - v * lanes);
        }
    }
}

static void spread_some(const spread_window *w, const int64_t *slot, int64_t column, int64_t count, int64_t patches)
{
    const bool whole = count == spread_columns;
    if (patches == 4) {
        if (whole) {
            spread_tile(w, slot, column, count, 4, true);
        } else {
            spread_tile(w, slot, column, count, 4, false);
        }
    } else if (patches == 3) {
        if (whole) {
            spread_tile(w, slot, column, count, 3, true);
        } else {
            spread_tile(w, slot, column, count, 3, false);
        }
    } else if (patches == 2) {
        spread_tile(w, slot, column, count, 2, false);
    } else {
        spread_tile(w, slot, column, count, 1, false);
    }
}

/* The next tile of present slots, from *next on; returns how many there are. Tiles of 3 where 4 would leave 1 or 2
 * over. */
static int64_t next_slots(int64_t *slot, int64_t *next, const spread_window *w, int64_t left)
{
    const int64_t want = left % 3 == 0 || left == 5 ? 3 : 4;
    int64_t taken = 0;
    for (; *next < w->call->slots && taken < want; ++*next) {
        if (row_offset(&w->call->dx, w->row * w->call->slots + *next) >= 0) slot[taken++] = *next;
    }
    return taken;
}

static void spread_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const spread_call *c = argument;
    const int64_t row = index / c->parts, from = index % c->parts * c->part, to = tn_min_i64(from + c->part, c->width);
    const spread_window w = {.call = c,
                             .weights = floats_at(&c->weights, row),
                             .dscores = floats_at(&c->dscores, row),
                             .dy = floats_at(&c->dy, row),
                             .q = floats_at(&c->q, row),
                             .dmean = floats_at(&c->dmean, row),
                             .row = row,
                             .count = count_present(&c->dx, row, c->slots)};
    int64_t next = 0, slot[spread_patches];
    for (int64_t left = w.count; left > 0;) {
        const int64_t patches = next_slots(slot, &next, &w, left);
        left -= patches;
        for (int64_t i = from; i < to; i += spread_columns)
            spread_some(&w, slot, i, tn_min_i64(spread_columns, to - i), patches);
    }
}

static void window_attend_dx(const tn_context *context, tn_rows dx, tn_rows weights, tn_rows dscores, tn_rows dy,
                             tn_rows q, tn_rows dmean, int64_t rows, int64_t slots, int64_t heads, int64_t width)
{
    spread_call c = {dx, weights, dscores, dy, q, dmean, rows, slots, heads, width, width, 1};
    if (rows < 8 * (int64_t)context->parallel->workers) {
        c.part = spread_columns;
        c.parts = tn_ceil_div(width, c.part);
    }
    tn_parallel_for(context->parallel, rows * c.parts, spread_task, &c);
}

#endif
