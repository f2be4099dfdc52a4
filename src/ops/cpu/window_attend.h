/* SPDX-License-Identifier: MIT */
/* Attention of one query per window and head, over the window's own patches:
 *
 *   s_j = scale * dot(q[r, h], x_j),  a = softmax(s),  y[r, h] = sum_j a_j x_j
 *
 * The present patches are listed first and everything runs over that list, so absent slots decide nothing. A dot is one
 * chain per lane over the columns and then a fixed tree over the lanes. The sum over j is a chain in blocks of
 * attend_block from zero, the blocks added in order. A window comes from memory for its dots and is still in the cache
 * for the sum.
 */
#ifndef TN_OPS_CPU_WINDOW_ATTEND_H
#define TN_OPS_CPU_WINDOW_ATTEND_H

enum { attend_block = 128, tile_heads = 4, dot_patches = 3, mix_vectors = 3 };
enum { lane_steps = lanes == 16 ? 4 : lanes == 8 ? 3 : 2 }; /* halvings until one lane is left */

typedef struct attend_call {
    tn_rows y, weights, x, q;
    float scale;
    int64_t rows, slots, heads, width;
    int64_t part, parts; /* heads of a task, tasks of a row */
    char *scratch;
    size_t query_size, scratch_stride; /* of a worker: its query, then its window */
} attend_call;

/* One row's window: its present patches, and scores that become weights. */
typedef struct attend_window {
    const attend_call *call;
    int64_t row;
    int64_t present, padded; /* patches; padded to a multiple of `lanes` */
    int64_t *offset;         /* [present] element offsets in x */
    int64_t *slot;           /* [present] */
    float *score;            /* [heads, padded] */
    const float *query;      /* [heads, width] */
} attend_window;

static ALWAYS_INLINE const char *patch_at(const attend_window *w, int64_t j, tn_dtype dtype)
{
    return (const char *)w->call->x.data + w->offset[j] * element_size(dtype);
}

/* The sum of the lanes, in each of them: halves are added until one is left. */
static ALWAYS_INLINE vf sum_lanes(vf v)
{
    UNROLL
    for (int step = 1; step <= lane_steps; step++)
        v = v + vf_swap(v, lanes >> step);
    return v;
}

static ALWAYS_INLINE vf max_lanes(vf v)
{
    UNROLL
    for (int step = 1; step <= lane_steps; step++) {
        const vf other = vf_swap(v, lanes >> step);
        v = vf_select(other > v, other, v);
    }
    return v;
}

/* Where patch j of this row lies, or of the next one when j is past the end; or anything: it is only fetched. */
static const char *patch_ahead(const attend_window *w, int64_t j, tn_dtype dtype)
{
    const attend_call *c = w->call;
    if (j < w->present) return patch_at(w, j, dtype);
    const int64_t slot = tn_min_i64((w->row + 1) * c->slots + j - w->present, c->rows * c->slots - 1);
    return (const char *)c->x.data + row_offset(&c->x, slot) * element_size(dtype);
}

/* score[h, j] for a tile of heads and patches. */
static ALWAYS_INLINE void dot_tile(const attend_window *w, int64_t head, int64_t patch, int heads, int patches,
                                   tn_dtype dtype)
{
    const attend_call *c = w->call;
    const int64_t whole = c->x.step == 1 ? c->width - c->width % lanes : 0;
    const char *x[dot_patches], *ahead[dot_patches];
    const float *q = w->query + head * c->width;
    vf sum[tile_heads][dot_patches];
    UNROLL
    for (int j = 0; j < patches; j++) {
        x[j] = patch_at(w, patch + j, dtype);
        ahead[j] = patch_ahead(w, patch + patches + j, dtype);
    }
    UNROLL
    for (int h = 0; h < heads; h++) {
        UNROLL
        for (int j = 0; j < patches; j++)
            sum[h][j] = vf_set(0.0f);
    }
    for (int64_t i = 0; i < whole; i += lanes) {
        vf values[dot_patches];
        UNROLL
        for (int j = 0; j < patches; j++) {
            values[j] = vf_keep(load_as(dtype, x[j], i));
            __builtin_prefetch(ahead[j] + i * element_size(dtype), 0, 2);
        }
        UNROLL
        for (int h = 0; h < heads; h++) {
            const vf query = vf_keep(vf_load(q + h * c->width + i));
            UNROLL
            for (int j = 0; j < patches; j++)
                sum[h][j] = vf_fma(query, values[j], sum[h][j]);
        }
    }
    /* Loops that are not unrolled want the sums in memory: in an array of their own, or all loops keep them there. */
    vf total[tile_heads][dot_patches];
    UNROLL
    for (int h = 0; h < heads; h++) {
        UNROLL
        for (int j = 0; j < patches; j++)
            total[h][j] = sum[h][j];
    }
    for (int64_t i = whole; i < c->width; i += lanes) {
        for (int h = 0; h < heads; h++) {
            const vf query = load_columns(TN_F32, q + h * c->width, 1, i, c->width - i);
            for (int j = 0; j < patches; j++)
                total[h][j] = vf_fma(query, load_columns(dtype, x[j], c->x.step, i, c->width - i), total[h][j]);
        }
    }
    for (int h = 0; h < heads; h++) {
        for (int j = 0; j < patches; j++)
            w->score[(head + h) * w->padded + patch + j] = c->scale * sum_lanes(total[h][j])[0];
    }
}

static ALWAYS_INLINE void dot_patch_tile(const attend_window *w, int64_t from, int64_t to, int64_t patch, int patches,
                                         tn_dtype dtype)
{
    int64_t h = from;
    for (; h + tile_heads <= to; h += tile_heads)
        dot_tile(w, h, patch, tile_heads, patches, dtype);
    for (; h < to; h++)
        dot_tile(w, h, patch, 1, patches, dtype);
}

/* Tiles of 3 patches, and of 2 and 1 at the end; 4 are cut into 2 and 2, because a tile of 1 waits for its sums. */
static ALWAYS_INLINE void dot_window(const attend_window *w, int64_t from, int64_t to, tn_dtype dtype)
{
    int64_t j = 0;
    for (; w->present - j > 4 || w->present - j == 3; j += 3)
        dot_patch_tile(w, from, to, j, 3, dtype);
    for (; w->present - j >= 2; j += 2)
        dot_patch_tile(w, from, to, j, 2, dtype);
    if (j < w->present) dot_patch_tile(w, from, to, j, 1, dtype);
}

/* score[padded] becomes exp(score - max) / sum; the padding becomes zeros. */
static void soften(float *score, int64_t present, int64_t padded)
{
    for (int64_t j = present; j < padded; j++)
        score[j] = -__builtin_inff();
    vf most = vf_load(score);
    for (int64_t j = lanes; j < padded; j += lanes) {
        const vf s = vf_load(score + j);
        most = vf_select(s > most, s, most);
    }
    most = max_lanes(most);
    vf sum = vf_set(0.0f);
    for (int64_t j = 0; j < padded; j += lanes) {
        const vf e = exp_negative(vf_load(score + j) - most);
        vf_store(score + j, e);
        sum = sum + e;
    }
    const vf divisor = sum_lanes(sum);
    for (int64_t j = 0; j < padded; j += lanes)
        vf_store(score + j, vf_load(score + j) / divisor);
}

/* Stores, or adds to, the totals of a tile: total[heads, mix_vectors] vectors. */
static ALWAYS_INLINE void keep_totals(float *total, vf sum[tile_heads][mix_vectors], int heads, bool first)
{
    UNROLL
    for (int h = 0; h < heads; h++) {
        UNROLL
        for (int v = 0; v < mix_vectors; v++) {
            float *to = total + (h * mix_vectors + v) * lanes;
            if (!first) sum[h][v] = vf_load(to) + sum[h][v];
            vf_store(to, sum[h][v]);
        }
    }
}

/* y[row, head : head + heads, column : column + count]; whole: all columns exist and are adjacent in x. */
static ALWAYS_INLINE void mix_tile(const attend_window *w, int64_t head, int64_t column, int64_t count, int heads,
                                   tn_dtype dtype, bool whole)
{
    const attend_call *c = w->call;
    enum { ahead = 8 * 64 };
    float total[tile_heads * mix_vectors * lanes];
    const float *score = w->score + head * w->padded;
    for (int h = 0; h < heads && whole; h++) {
        char *y = element_at(&c->y, w->row, (head + h) * c->width + column);
        for (int64_t i = 0; i < count * element_size(c->y.dtype); i += 64)
            prefetch_for_write(y + ahead + i);
    }
    int64_t first = 0;
    do {
        const int64_t last = tn_min_i64(first + attend_block, w->present);
        vf sum[tile_heads][mix_vectors];
        UNROLL
        for (int h = 0; h < heads; h++) {
            UNROLL
            for (int v = 0; v < mix_vectors; v++)
                sum[h][v] = vf_set(0.0f);
        }
        for (int64_t j = first; j < last; j++) {
            const char *from = patch_at(w, j, dtype) + column * c->x.step * element_size(dtype);
            vf x[mix_vectors];
            UNROLL
            for (int v = 0; v < mix_vectors; v++) {
                const int64_t left = tn_max_i64(count - v * lanes, 0);
                x[v] = vf_keep(whole ? load_as(dtype, from, v * lanes)
                                     : load_columns(dtype, from, c->x.step, v * lanes, left));
            }
            UNROLL
            for (int h = 0; h < heads; h++) {
                const vf a = vf_set(score[h * w->padded + j]);
                UNROLL
                for (int v = 0; v < mix_vectors; v++)
                    sum[h][v] = vf_fma(a, x[v], sum[h][v]);
            }
        }
        keep_totals(total, sum, heads, first == 0);
        first += attend_block;
    } while (first < w->present);
    for (int h = 0; h < heads; h++) {
        char *y = element_at(&c->y, w->row, (head + h) * c->width + column);
        UNROLL
        for (int v = 0; v < mix_vectors; v++) {
            const vf out = plain_nan(vf_load(total + (h * mix_vectors + v) * lanes));
            if (whole) {
                store_as(c->y.dtype, y, v * lanes, out);
            } else if (v * lanes < count) {
                store_columns(c->y.dtype, y, v * lanes, out, count - v * lanes);
            }
        }
    }
}

/* All columns of a tile of heads, one after the other: so y is written in as many streams as the tile has heads. */
static ALWAYS_INLINE void mix_heads(const attend_window *w, int64_t head, int heads, tn_dtype dtype)
{
    enum { columns = mix_vectors * lanes };
    const int64_t width = w->call->width;
    int64_t i = 0;
    if (w->call->x.step == 1) {
        for (; i + columns <= width; i += columns)
            mix_tile(w, head, i, columns, heads, dtype, true);
    }
    for (; i < width; i += columns)
        mix_tile(w, head, i, tn_min_i64(columns, width - i), heads, dtype, false);
}

static ALWAYS_INLINE void mix_window(const attend_window *w, int64_t from, int64_t to, tn_dtype dtype)
{
    int64_t h = from;
    for (; h + tile_heads <= to; h += tile_heads)
        mix_heads(w, h, tile_heads, dtype);
    for (; h < to; h++)
        mix_heads(w, h, 1, dtype);
}

/* Dots and sums for each dtype of x, which the backward pass calls too. */
typedef void attend_part(const attend_window *w, int64_t from, int64_t to);

#define PARTS_OF(dtype)                                                                                                \
    static void dot_window_##dtype(const attend_window *w, int64_t from, int64_t to)                                   \
    {                                                                                                                  \
        dot_window(w, from, to, dtype);                                                                                \
    }                                                                                                                  \
    static void mix_window_##dtype(const attend_window *w, int64_t from, int64_t to)                                   \
    {                                                                                                                  \
        mix_window(w, from, to, dtype);                                                                                \
    }
PARTS_OF(TN_F32)
PARTS_OF(TN_BF16)
PARTS_OF(TN_F16)
#undef PARTS_OF
static attend_part *const dot_windows[] = {
    [TN_F32] = dot_window_TN_F32, [TN_BF16] = dot_window_TN_BF16, [TN_F16] = dot_window_TN_F16};
static attend_part *const mix_windows[] = {
    [TN_F32] = mix_window_TN_F32, [TN_BF16] = mix_window_TN_BF16, [TN_F16] = mix_window_TN_F16};

static void write_weights(const attend_window *w, int64_t from, int64_t to)
{
    const attend_call *c = w->call;
    for (int64_t h = from; h < to; h++) {
        char *row = element_at(&c->weights, w->row, h * c->slots);
        const int64_t size = element_size(c->weights.dtype);
        memset(row, 0, (size_t)(c->slots * size));
        for (int64_t j = 0; j < w->present; j++) {
            const vf a = plain_nan(vf_set(w->score[h * w->padded + j]));
            store_some(c->weights.dtype, row + w->slot[j] * size, a, 1);
        }
    }
}

static attend_window list_patches(const attend_call *c, int64_t row, char *scratch)
{
    attend_window w = {.call = c, .row = row, .offset = (int64_t *)(void *)scratch};
    w.slot = w.offset + c->slots;
    w.score = (float *)(void *)(w.slot + c->slots);
    for (int64_t j = 0; j < c->slots; j++) {
        const int64_t offset = row_offset(&c->x, row * c->slots + j);
        if (offset < 0) continue;
        w.offset[w.present] = offset;
        w.slot[w.present++] = j;
    }
    w.padded = tn_ceil_div(w.present, lanes) * lanes;
    return w;
}

/* The queries of heads [from, to), as they are where they are dense f32, else widened into `space` [heads, width]. */
static const float *find_query(const attend_window *w, int64_t from, int64_t to, float *space)
{
    const attend_call *c = w->call;
    if (c->q.dtype == TN_F32 && c->q.step == 1) return (const float *)(const void *)element_at(&c->q, w->row, 0);
    const int64_t first = from * c->width, count = (to - from) * c->width;
    widen(space + first, c->q.dtype, element_at(&c->q, w->row, first), c->q.step, count);
    return space;
}

static void attend_task(void *argument, int64_t index, int worker)
{
    const attend_call *c = argument;
    char *scratch = c->scratch + (size_t)worker * c->scratch_stride;
    attend_window w = list_patches(c, index / c->parts, scratch + c->query_size);
    const int64_t from = index % c->parts * c->part, to = tn_min_i64(from + c->part, c->heads);
    w.query = find_query(&w, from, to, (float *)(void *)scratch);
    dot_windows[c->x.dtype](&w, from, to);
    for (int64_t h = from; h < to && w.present > 0; h++)
        soften(w.score + h * w.padded, w.present, w.padded);
    mix_windows[c->x.dtype](&w, from, to);
    if (c->weights.data != NULL) write_weights(&w, from, to);
}

/* Of one worker; SIZE_MAX when it does not fit. */
static size_t attend_scratch(int64_t slots, int64_t heads, int64_t width)
{
    size_t bytes = 0;
    if (slots > INT64_MAX / 32 || !add_product(&bytes, heads, width, sizeof(float)) ||
        !add_product(&bytes, slots, 2, sizeof(int64_t)) ||
        !add_product(&bytes, heads, tn_ceil_div(slots, lanes) * lanes, sizeof(float)))
        return SIZE_MAX;
    return bytes;
}

static size_t window_attend_scratch(int64_t slots, int64_t heads, int64_t width, int workers)
{
    size_t bytes;
    return tn_mul_size(attend_scratch(slots, heads, width), (size_t)workers, &bytes) ? bytes : SIZE_MAX;
}

static void window_attend(const tn_context *context, tn_rows y, tn_rows weights, tn_rows x, tn_rows q, double scale,
                          int64_t rows, int64_t slots, int64_t heads, int64_t width)
{
    if (heads <= 0) return;
    attend_call c = {y, weights, x, q, (float)scale, rows, slots, heads, width, heads, 1, context->scratch, 0, 0};
    c.query_size = tn_align_up((size_t)(heads * width) * sizeof(float), TN_ALIGN);
    c.scratch_stride = attend_scratch(slots, heads, width);
    if (rows < 4 * (int64_t)context->parallel->workers) {
        c.part = tn_min_i64(tile_heads, heads);
        c.parts = tn_ceil_div(heads, c.part);
    }
    tn_parallel_for(context->parallel, rows * c.parts, attend_task, &c);
}

#endif
