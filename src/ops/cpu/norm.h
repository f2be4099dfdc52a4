/* SPDX-License-Identifier: MIT */
/* Normalisation of rows, and its gradients. Sums and the normalised numbers are made in float64 and rounded once: a
 * row's sum is one chain per double lane over its spans, the lanes added in order.
 *
 *     x^ = (x - mean) r,  r = 1 / sqrt(mean((x - mean)^2) + eps),  y = x^ w + b;  without `center` mean is 0
 *     g = dy w,  dx = r (g - mean(g) - x^ mean(g x^)),  without `center` without mean(g);  dw += dy x^,  db += dy
 */
#ifndef TN_OPS_CPU_NORM_H
#define TN_OPS_CPU_NORM_H

enum { norm_span = 256, norm_depth = 256 };

typedef struct norm_call {
    tn_rows y, x, dy; /* y: the result, or dx */
    const tn_norm *norm;
    const float *weight, *bias;
    double *moments; /* [rows, 2] of backward: mean, r */
    float *dw, *dbias;
    bool overwrite;
    int64_t rows, width;
} norm_call;

static double norm_weight(const norm_call *c, int64_t i)
{
    const double weight = c->weight != NULL ? (double)c->weight[i] : 0.0;
    return c->norm->plus_one || c->weight == NULL ? weight + 1.0 : weight;
}

/* The lanes of a vector, added in order. */
static double lanes_sum(vd v)
{
    double each[double_lanes], sum = 0;
    memcpy(each, &v, sizeof each);
    for (int i = 0; i < double_lanes; i++)
        sum += each[i];
    return sum;
}

/* `count` numbers of a row from column `at` on, as f32, zeros behind them up to a whole vector. */
static int64_t load_span(float *span, const tn_rows *rows, int64_t r, int64_t at, int64_t width)
{
    const int64_t count = tn_min_i64(norm_span, width - at);
    widen(span, rows->dtype, element_at(rows, r, at), rows->step, count);
    for (int64_t i = count; i % lanes != 0; i++)
        span[i] = 0.0f;
    return count;
}

/* Mean and r of a row. */
static void row_moments(const norm_call *c, int64_t r, double *mean, double *root)
{
    float span[norm_span];
    double sum = 0;
    *mean = 0;
    if (c->norm->center) {
        for (int64_t at = 0; at < c->width; at += norm_span) {
            const int64_t count = load_span(span, &c->x, r, at, c->width);
            vd part = {0};
            for (int64_t i = 0; i < count; i += double_lanes)
                part += vd_widen(span + i);
            sum += lanes_sum(part);
        }
        *mean = sum / (double)c->width;
    }
    double squares = 0;
    for (int64_t at = 0; at < c->width; at += norm_span) {
        const int64_t count = load_span(span, &c->x, r, at, c->width);
        vd part = {0};
        for (int64_t i = 0; i < count - count % double_lanes; i += double_lanes) {
            const vd d = vd_widen(span + i) - *mean;
            part += d * d;
        }
        squares += lanes_sum(part);
        for (int64_t i = count - count % double_lanes; i < count; i++)
            squares += ((double)span[i] - *mean) * ((double)span[i] - *mean);
    }
    *root = 1.0 / __builtin_sqrt(squares / (double)c->width + c->norm->eps);
}

static void norm_row(const norm_call *c, int64_t r)
{
    float span[norm_span], result[norm_span];
    double mean, root;
    row_moments(c, r, &mean, &root);
    for (int64_t at = 0; at < c->width; at += norm_span) {
        const int64_t count = load_span(span, &c->x, r, at, c->width);
        for (int64_t i = 0; i < count; i++) {
            const double bias = c->bias != NULL ? (double)c->bias[at + i] : 0.0;
            const double y = ((double)span[i] - mean) * root * norm_weight(c, at + i) + bias;
            result[i] = y == y ? (float)y : __builtin_nanf("");
        }
        narrow(element_at(&c->y, r, at), c->y.dtype, result, count);
    }
}

enum { norm_rows = 8 };

static void norm_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const norm_call *c = argument;
    for (int64_t r = index * norm_rows; r < tn_min_i64((index + 1) * norm_rows, c->rows); r++)
        norm_row(c, r);
}

static void norm(const tn_context *context, tn_rows y, tn_rows x, const tn_norm *how, int64_t rows, int64_t width)
{
    norm_call c = {.y = y, .x = x, .norm = how, .weight = how->weight, .bias = how->bias, .rows = rows, .width = width};
    tn_parallel_for(context->parallel, tn_ceil_div(rows, norm_rows), norm_task, &c);
}

/* ---- backward ---- */

static size_t norm_backward_scratch(int64_t rows)
{
    return (size_t)rows * 2 * sizeof(double);
}

static void moments_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const norm_call *c = argument;
    for (int64_t r = index * norm_rows; r < tn_min_i64((index + 1) * norm_rows, c->rows); r++)
        row_moments(c, r, &c->moments[2 * r], &c->moments[2 * r + 1]);
}

static void dx_row(const norm_call *c, int64_t r)
{
    float x[norm_span], dy[norm_span], dx[norm_span];
    const double mean = c->moments[2 * r], root = c->moments[2 * r + 1];
    double sum = 0, product = 0;
    for (int64_t at = 0; at < c->width; at += norm_span) {
        const int64_t count = load_span(x, &c->x, r, at, c->width);
        (void)load_span(dy, &c->dy, r, at, c->width);
        for (int64_t i = 0; i < count; i++) {
            const double g = (double)dy[i] * norm_weight(c, at + i);
            sum += g;
            product += g * ((double)x[i] - mean) * root;
        }
    }
    sum = c->norm->center ? sum / (double)c->width : 0.0;
    product /= (double)c->width;
    for (int64_t at = 0; at < c->width; at += norm_span) {
        const int64_t count = load_span(x, &c->x, r, at, c->width);
        (void)load_span(dy, &c->dy, r, at, c->width);
        for (int64_t i = 0; i < count; i++) {
            const double g = (double)dy[i] * norm_weight(c, at + i);
            dx[i] = (float)(root * (g - sum - ((double)x[i] - mean) * root * product));
        }
        narrow(element_at(&c->y, r, at), c->y.dtype, dx, count);
    }
}

static void dx_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const norm_call *c = argument;
    for (int64_t r = index * norm_rows; r < tn_min_i64((index + 1) * norm_rows, c->rows); r++)
        dx_row(c, r);
}

enum { norm_columns = 64 };

/* Rows in order, in blocks that begin at zero and are added in order. */
static void dw_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const norm_call *c = argument;
    const int64_t from = index * norm_columns, columns = tn_min_i64(norm_columns, c->width - from);
    double dw[norm_columns] = {0};
    float x[norm_columns], dy[norm_columns];
    for (int64_t first = 0; first < c->rows; first += norm_depth) {
        double part[norm_columns] = {0};
        for (int64_t r = first; r < tn_min_i64(first + norm_depth, c->rows); r++) {
            widen(x, c->x.dtype, element_at(&c->x, r, from), c->x.step, columns);
            widen(dy, c->dy.dtype, element_at(&c->dy, r, from), c->dy.step, columns);
            for (int64_t i = 0; i < columns; i++)
                part[i] += (double)dy[i] * ((double)x[i] - c->moments[2 * r]) * c->moments[2 * r + 1];
        }
        for (int64_t i = 0; i < columns; i++)
            dw[i] += part[i];
    }
    for (int64_t i = 0; i < columns; i++)
        c->dw[from + i] = (float)(dw[i] + (c->overwrite ? 0.0 : (double)c->dw[from + i]));
}

static void norm_backward(const tn_context *context, tn_rows dx, float *dw, float *dbias, tn_rows dy, tn_rows x,
                          const tn_norm *how, int64_t rows, int64_t width, bool overwrite)
{
    norm_call c = {.y = dx,
                   .x = x,
                   .dy = dy,
                   .norm = how,
                   .weight = how->weight,
                   .bias = how->bias,
                   .moments = context->scratch,
                   .dw = dw,
                   .overwrite = overwrite,
                   .rows = rows,
                   .width = width};
    if (dbias != NULL) bias_gradient(context, dbias, dy, rows, width, overwrite);
    if (dx.data == NULL && dw == NULL) return;
    tn_parallel_for(context->parallel, tn_ceil_div(rows, norm_rows), moments_task, &c);
    if (dx.data != NULL) tn_parallel_for(context->parallel, tn_ceil_div(rows, norm_rows), dx_task, &c);
    if (dw != NULL) tn_parallel_for(context->parallel, tn_ceil_div(width, norm_columns), dw_task, &c);
}

#endif
