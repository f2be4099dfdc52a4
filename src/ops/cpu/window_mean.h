/* SPDX-License-Identifier: MIT */
/* Means of windows: y[r, c] = sum_j x[r slots + j, c] / count over the patches j that are present.
 *
 * The present patches, in order, are summed in blocks of mean_block from zero, and the blocks added in order: a mean of
 * thousands of patches keeps its accuracy. Absent slots are skipped before the blocks are cut, so they decide nothing.
 */
#ifndef TN_OPS_CPU_WINDOW_MEAN_H
#define TN_OPS_CPU_WINDOW_MEAN_H

enum { mean_block = 16, mean_vectors = 4, mean_columns = mean_vectors * lanes, mean_ahead = 16 };

typedef struct mean_call {
    tn_rows y, x;
    int64_t rows, slots, width;
    blocking blocks;
} mean_call;

/* Rows are too short for the processor to guess the next: fetches the columns of a span where row `row` of x has them.
 */
static ALWAYS_INLINE void fetch_span(const mean_call *c, int64_t row, int64_t column, tn_dtype dtype)
{
    const int64_t offset = row_offset(&c->x, tn_min_i64(row, c->rows * c->slots - 1)) + column * c->x.step;
    const char *from = (const char *)c->x.data + offset * element_size(dtype);
    UNROLL
    for (int64_t i = 0; i < mean_columns * element_size(dtype); i += 64)
        __builtin_prefetch(from + i, 0, 2);
}

/* y[r, column : column + count], count <= mean_columns; whole: count == mean_columns and x's columns are adjacent. */
static ALWAYS_INLINE void mean_span(const mean_call *c, int64_t r, int64_t column, int64_t count, tn_dtype dtype,
                                    bool whole)
{
    vf total[mean_vectors], sum[mean_vectors];
    UNROLL
    for (int v = 0; v < mean_vectors; v++)
        total[v] = sum[v] = vf_set(0.0f);
    const int64_t ahead = r * c->slots + tn_min_i64(c->slots, mean_ahead);
    int64_t present = 0;
    for (int64_t j = 0; j < c->slots; j++) {
        const int64_t offset = row_offset(&c->x, r * c->slots + j);
        if (offset < 0) continue;
        const char *from = (const char *)c->x.data + (offset + column * c->x.step) * element_size(dtype);
        fetch_span(c, ahead + j, column, dtype);
        UNROLL
        for (int v = 0; v < mean_vectors; v++) {
            const vf x = whole ? load_as(dtype, from, v * lanes)
                               : load_columns(dtype, from, c->x.step, v * lanes, tn_max_i64(count - v * lanes, 0));
            sum[v] = sum[v] + x;
        }
        if (++present % mean_block == 0) {
            UNROLL
            for (int v = 0; v < mean_vectors; v++) {
                total[v] = total[v] + sum[v];
                sum[v] = vf_set(0.0f);
            }
        }
    }
    const vf divisor = vf_set((float)tn_max_i64(present, 1));
    char *y = element_at(&c->y, r, column);
    UNROLL
    for (int v = 0; v < mean_vectors; v++) {
        if (count <= v * lanes) break;
        store_columns(c->y.dtype, y, v * lanes, plain_nan((total[v] + sum[v]) / divisor), count - v * lanes);
    }
}

static ALWAYS_INLINE void mean_row(const mean_call *c, int64_t r, int64_t from, int64_t to, tn_dtype dtype)
{
    int64_t i = from;
    if (c->x.step == 1) {
        for (; i + mean_columns <= to; i += mean_columns)
            mean_span(c, r, i, mean_columns, dtype, true);
    }
    for (; i < to; i += mean_columns)
        mean_span(c, r, i, tn_min_i64(mean_columns, to - i), dtype, false);
}

static void mean_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const mean_call *c = argument;
    const block b = block_of_task(&c->blocks, index, c->rows, c->width);
    for (int64_t r = b.first; r < b.last; r++) {
        if (c->x.dtype == TN_F32) {
            mean_row(c, r, b.from, b.to, TN_F32);
        } else if (c->x.dtype == TN_BF16) {
            mean_row(c, r, b.from, b.to, TN_BF16);
        } else {
            mean_row(c, r, b.from, b.to, TN_F16);
        }
    }
}

static size_t window_mean_scratch(int64_t slots, int64_t width, int workers)
{
    (void)slots;
    (void)width;
    (void)workers;
    return 0;
}

static void window_mean(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t slots, int64_t width)
{
    mean_call c = {y, x, rows, slots, width, block_elements(rows, width)};
    if (rows < 8 * (int64_t)context->parallel->workers) {
        c.blocks.columns = mean_columns * 2;
        c.blocks.column_tasks = tn_ceil_div(width, c.blocks.columns);
    }
    tn_parallel_for(context->parallel, c.blocks.row_tasks * c.blocks.column_tasks, mean_task, &c);
}

#endif
