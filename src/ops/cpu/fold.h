/* SPDX-License-Identifier: MIT */
/* Folding of two linear maps: w[i, j] = sum_m outer[i, m] inner[m, j], [n, inner_n] x [inner_n, k] -> [n, k], in
 * float64, rounded to f32 at the end.
 *
 * A task makes fold_rows x fold_columns of w with fixed arrays on its stack, because the op has no scratch: per block
 * of fold_depth m it widens its part of outer, then panel after panel of inner, and adds tiles of 6 x 2 vectors.
 */
#ifndef TN_OPS_CPU_FOLD_H
#define TN_OPS_CPU_FOLD_H

enum { fold_tile = 6, fold_panel = 2 * double_lanes, fold_rows = 16 * fold_tile, fold_columns = 128, fold_depth = 128 };

typedef struct fold_call {
    float *w;
    const void *outer, *inner, *add;
    tn_dtype outer_dtype, inner_dtype, add_dtype;
    int64_t n, k, inner_n;
    int64_t column_tasks;
} fold_call;

typedef struct fold_buffers {
    double outer[fold_rows * fold_depth];  /* [fold_rows, fold_depth] */
    double inner[fold_depth * fold_panel]; /* [fold_depth, fold_panel] */
    double sums[fold_rows * fold_columns]; /* [panel][fold_rows, fold_panel] */
} fold_buffers;

/* sums[fold_tile, fold_panel] += outer[fold_tile, depth] inner[depth, fold_panel] */
static void fold_add_tile(double *sums, const double *outer, const double *inner, int64_t depth)
{
    vd sum[fold_tile][2];
    UNROLL
    for (int r = 0; r < fold_tile; r++)
        sum[r][0] = sum[r][1] = vd_set(0.0);
    UNROLL_STEPS
    for (int64_t m = 0; m < depth; m++) {
        const vd b0 = vd_keep(vd_load(inner + m * fold_panel));
        const vd b1 = vd_keep(vd_load(inner + m * fold_panel + double_lanes));
        UNROLL
        for (int r = 0; r < fold_tile; r++) {
            const vd a = vd_set(outer[r * fold_depth + m]);
            sum[r][0] = vd_fma(a, b0, sum[r][0]);
            sum[r][1] = vd_fma(a, b1, sum[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < fold_tile; r++) {
        double *to = sums + r * fold_panel;
        vd_store(to, vd_load(to) + sum[r][0]);
        vd_store(to + double_lanes, vd_load(to + double_lanes) + sum[r][1]);
    }
}

static ALWAYS_INLINE void store_doubles(double *to, vf v)
{
    float values[lanes];
    vf_store(values, v);
    vd_store(to, vd_widen(values));
    vd_store(to + double_lanes, vd_widen(values + double_lanes));
}

/* to[r, 0 : columns] = from[r * stride + 0 : columns] for r < rows, to's rows to_stride apart, a multiple of `lanes`;
 * what is left of a vector becomes zeros. */
static ALWAYS_INLINE void widen_block(double *to, int64_t to_stride, tn_dtype dtype, const void *from, int64_t stride,
                                      int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        const char *row = (const char *)from + r * stride * element_size(dtype);
        int64_t i = 0;
        for (; i + lanes <= columns; i += lanes)
            store_doubles(to + r * to_stride + i, load_as(dtype, row, i));
        if (i < columns) store_doubles(to + r * to_stride + i, load_columns(dtype, row, 1, i, columns - i));
    }
}

static void fold_widen(double *to, int64_t to_stride, tn_dtype dtype, const void *from, int64_t stride, int64_t rows,
                       int64_t columns)
{
    if (dtype == TN_F32) {
        widen_block(to, to_stride, TN_F32, from, stride, rows, columns);
    } else if (dtype == TN_BF16) {
        widen_block(to, to_stride, TN_BF16, from, stride, rows, columns);
    } else {
        widen_block(to, to_stride, TN_F16, from, stride, rows, columns);
    }
}

static const char *matrix_at(const void *data, tn_dtype dtype, int64_t index)
{
    return (const char *)data + index * element_size(dtype);
}

/* sums += add, where there is one. */
static void fold_start(const fold_call *c, double *sums, int64_t row, int64_t rows, int64_t column, int64_t columns)
{
    for (int64_t j = 0; j < columns && c->add != NULL; j += fold_panel) {
        const char *add = matrix_at(c->add, c->add_dtype, row * c->k + column + j);
        fold_widen(sums + j * fold_rows, fold_panel, c->add_dtype, add, c->k, rows,
                   tn_min_i64(fold_panel, columns - j));
    }
}

static void fold_store(const fold_call *c, const double *sums, int64_t row, int64_t rows, int64_t column,
                       int64_t columns)
{
    for (int64_t i = 0; i < rows; i++) {
        float *w = c->w + (row + i) * c->k + column;
        for (int64_t j = 0; j < columns; j++)
            w[j] = (float)sums[j / fold_panel * (fold_rows * fold_panel) + i * fold_panel + j % fold_panel];
    }
}

static void fold_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const fold_call *c = argument;
    fold_buffers b;
    const int64_t row = index / c->column_tasks * fold_rows, column = index % c->column_tasks * fold_columns;
    const int64_t rows = tn_min_i64(fold_rows, c->n - row), columns = tn_min_i64(fold_columns, c->k - column);
    memset(b.sums, 0, sizeof b.sums);
    if (rows < fold_rows) memset(b.outer, 0, sizeof b.outer); /* a tile may go past the last row */
    fold_start(c, b.sums, row, rows, column, columns);
    for (int64_t m = 0; m < c->inner_n; m += fold_depth) {
        const int64_t depth = tn_min_i64(fold_depth, c->inner_n - m);
        const char *outer = matrix_at(c->outer, c->outer_dtype, row * c->inner_n + m);
        fold_widen(b.outer, fold_depth, c->outer_dtype, outer, c->inner_n, rows, depth);
        for (int64_t p = 0; p * fold_panel < columns; p++) {
            const int64_t first = column + p * fold_panel, count = tn_min_i64(fold_panel, c->k - first);
            const char *inner = matrix_at(c->inner, c->inner_dtype, m * c->k + first);
            fold_widen(b.inner, fold_panel, c->inner_dtype, inner, c->k, depth, count);
            for (int64_t i = 0; i < rows; i += fold_tile)
                fold_add_tile(b.sums + (p * fold_rows + i) * fold_panel, b.outer + i * fold_depth, b.inner, depth);
        }
    }
    fold_store(c, b.sums, row, rows, column, columns);
}

static void fold(const tn_context *context, void *w, const void *outer, tn_dtype outer_dtype, const void *inner,
                 tn_dtype inner_dtype, const void *add, tn_dtype add_dtype, int64_t n, int64_t k, int64_t inner_n)
{
    fold_call c = {
        w, outer, inner, add, outer_dtype, inner_dtype, add_dtype, n, k, inner_n, tn_ceil_div(k, fold_columns)};
    tn_parallel_for(context->parallel, tn_ceil_div(n, fold_rows) * c.column_tasks, fold_task, &c);
}

#endif
