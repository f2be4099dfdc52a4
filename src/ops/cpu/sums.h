/* SPDX-License-Identifier: MIT */
/* Sums of rows: y = a + b, and y += x where rows of y may repeat. */
#ifndef TN_OPS_CPU_SUMS_H
#define TN_OPS_CPU_SUMS_H

typedef struct add_call {
    tn_rows y, a, b;
    int64_t rows, width;
    blocking blocks;
} add_call;

static void add_span(const add_call *c, int64_t r, int64_t from, int64_t to)
{
    char *y = element_at(&c->y, r, from);
    const char *a = element_at(&c->a, r, from), *b = element_at(&c->b, r, from);
    for (int64_t i = 0; i < to - from; i += lanes) {
        const int64_t left = to - from - i;
        const vf sum =
            load_columns(c->a.dtype, a, c->a.step, i, left) + load_columns(c->b.dtype, b, c->b.step, i, left);
        store_columns(c->y.dtype, y, i, plain_nan(sum), left);
    }
}

static void add_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const add_call *c = argument;
    const block b = block_of_task(&c->blocks, index, c->rows, c->width);
    for (int64_t r = b.first; r < b.last; r++)
        add_span(c, r, b.from, b.to);
}

static void add(const tn_context *context, tn_rows y, tn_rows a, tn_rows b, int64_t rows, int64_t width)
{
    add_call c = {y, a, b, rows, width, block_elements(rows, width)};
    tn_parallel_for(context->parallel, c.blocks.row_tasks * c.blocks.column_tasks, add_task, &c);
}

/* Tasks share the columns alone: a row of y gets its parts in the order of x's rows. */
enum { accumulate_columns = 256 };

static void accumulate_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const add_call *c = argument;
    const int64_t from = index * accumulate_columns, to = tn_min_i64(from + accumulate_columns, c->width);
    for (int64_t r = 0; r < c->rows; r++) {
        if (row_offset(&c->y, r) < 0) continue;
        float *y = (float *)(void *)element_at(&c->y, r, from);
        const float *x = (const float *)(const void *)element_at(&c->b, r, from);
        for (int64_t i = 0; i < to - from; i++)
            y[i] += x[i];
    }
}

static void accumulate(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t width)
{
    add_call c = {.y = y, .b = x, .rows = rows, .width = width};
    tn_parallel_for(context->parallel, tn_ceil_div(width, accumulate_columns), accumulate_task, &c);
}

typedef struct weighted_sum_call {
    tn_rows y, x;
    const int64_t *begin;
    const double *weight;
    int64_t rows, width;
    blocking blocks;
} weighted_sum_call;

static void weighted_sum_span(const weighted_sum_call *c, int64_t r, int64_t from, int64_t to)
{
    char *y = element_at(&c->y, r, from);
    for (int64_t i = 0; i < to - from; i += lanes) {
        const int64_t left = to - from - i;
        vf sum = vf_set(0.0f);
        for (int64_t e = c->begin[r]; e < c->begin[r + 1]; e++) {
            if (row_offset(&c->x, e) < 0) continue;
            const vf x = load_columns(c->x.dtype, element_at(&c->x, e, from), c->x.step, i, left);
            sum = vf_fma(vf_set((float)c->weight[e]), x, sum);
        }
        store_columns(c->y.dtype, y, i, plain_nan(sum), left);
    }
}

static void weighted_sum_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const weighted_sum_call *c = argument;
    const block b = block_of_task(&c->blocks, index, c->rows, c->width);
    for (int64_t r = b.first; r < b.last; r++) {
        if (row_offset(&c->y, r) >= 0) weighted_sum_span(c, r, b.from, b.to);
    }
}

static void weighted_sum(const tn_context *context, tn_rows y, tn_rows x, const int64_t *begin, const double *weight,
                         int64_t rows, int64_t width)
{
    weighted_sum_call c = {y, x, begin, weight, rows, width, block_elements(rows, width)};
    tn_parallel_for(context->parallel, c.blocks.row_tasks * c.blocks.column_tasks, weighted_sum_task, &c);
}

static void zero(void *data, size_t bytes)
{
    memset(data, 0, bytes);
}

#endif
