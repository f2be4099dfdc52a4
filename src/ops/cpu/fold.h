/* Folding of two linear maps: w[i, j] = sum_m outer[i, m] inner[m, j], [n, inner_n] x [inner_n, k] -> [n, k], in
 * float64, rounded to f32 at the end.
 *
 * A task makes fold_rows x fold_columns of w with fixed arrays on its stack, because the op has no scratch: per block
 * of fold_depth m it widens its part of outer, then panel after panel of inner, and adds tiles of 6 x 2 vectors.
 */
#ifndef TN_OPS_CPU_FOLD_H
#define TN_OPS_CPU_FOLD_H

enum {
    fold_tile = 6,
    fold_panel = 2 * double_lanes,
    fold_rows = 8 * fold_tile,
    fold_columns = 16 * fold_panel,
    fold_depth = 128
};

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
    _Pragma("GCC unroll 4") for (int64_t m = 0; m < depth; m++)
    {
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

/* to[i] = from[first + i] for i < count, then zeros up to `padded`; count and padded are at most fold_depth. */
static void widen_double(double *to, tn_dtype dtype, const void *from, int64_t first, int64_t count, int64_t padded)
{
    float values[fold_depth];
    if (dtype != TN_F32) {
        widen(values, dtype, (const char *)from + first * element_size(dtype), 1, count);
        from = values;
        first = 0;
    }
    const float *source = (const float *)from + first;
    int64_t i = 0;
    for (; i + double_lanes <= count; i += double_lanes)
        vd_store(to + i, vd_widen(source + i));
    for (; i < padded; i++)
        to[i] = i < count ? (double)source[i] : 0.0;
}

/* sums = add, or zeros. */
static void fold_start(const fold_call *c, double *sums, int64_t row, int64_t rows, int64_t column, int64_t columns)
{
    memset(sums, 0, sizeof(double) * fold_rows * fold_columns);
    for (int64_t i = 0; i < rows && c->add != NULL; i++) {
        for (int64_t j = 0; j < columns; j += fold_panel) {
            double *to = sums + (j / fold_panel * fold_rows + i) * fold_panel;
            const int64_t count = tn_min_i64(fold_panel, columns - j);
            widen_double(to, c->add_dtype, c->add, (row + i) * c->k + column + j, count, fold_panel);
        }
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
    fold_start(c, b.sums, row, rows, column, columns);
    for (int64_t m = 0; m < c->inner_n; m += fold_depth) {
        const int64_t depth = tn_min_i64(fold_depth, c->inner_n - m);
        for (int64_t i = 0; i < fold_rows; i++) {
            const int64_t from = i < rows ? (row + i) * c->inner_n + m : 0;
            widen_double(b.outer + i * fold_depth, c->outer_dtype, c->outer, from, i < rows ? depth : 0, depth);
        }
        for (int64_t p = 0; p * fold_panel < columns; p++) {
            const int64_t first = column + p * fold_panel, count = tn_min_i64(fold_panel, c->k - first);
            for (int64_t i = 0; i < depth; i++)
                widen_double(b.inner + i * fold_panel, c->inner_dtype, c->inner, (m + i) * c->k + first, count,
                             fold_panel);
            for (int64_t i = 0; i < rows; i += fold_tile)
                fold_add_tile(b.sums + (p * fold_rows + i) * fold_panel, b.outer + i * fold_depth, b.inner, depth);
        }
    }
    fold_store(c, b.sums, row, rows, column, columns);
}

static void fold(const tn_context *context, void *w, const void *outer, tn_dtype outer_dtype, const void *inner,
                 tn_dtype inner_dtype, const void *add, tn_dtype add_dtype, int64_t n, int64_t k, int64_t inner_n)
{
    fold_call c = {w, outer, inner, add, outer_dtype, inner_dtype, add_dtype, n, k, inner_n,
                   tn_ceil_div(k, fold_columns)};
    tn_parallel_for(context->parallel, tn_ceil_div(n, fold_rows) * c.column_tasks, fold_task, &c);
}

#endif
