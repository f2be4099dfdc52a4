/* SPDX-License-Identifier: MIT */
/* Merging: the rows of a window side by side in one row, slot after slot or, channel first, channel after channel; and
 * products of rows, element by element. */
#ifndef TN_OPS_CPU_MERGE_H
#define TN_OPS_CPU_MERGE_H

typedef struct merge_call {
    tn_rows wide, rows; /* [count, slots * width], [count * slots, width] some of them absent */
    int64_t count, slots, width;
    bool channel_first;
} merge_call;

/* Slot s of row r: its columns are `slots` apart where channels come first. */
static void merge_slot(const merge_call *c, int64_t r, int64_t s)
{
    enum { span = 256 };
    float values[span];
    const bool present = row_offset(&c->rows, r * c->slots + s) >= 0;
    for (int64_t at = 0; at < c->width; at += span) {
        const int64_t count = tn_min_i64(span, c->width - at);
        if (present) {
            widen(values, c->rows.dtype, element_at(&c->rows, r * c->slots + s, at), c->rows.step, count);
        } else {
            memset(values, 0, sizeof values);
        }
        if (!c->channel_first) {
            narrow(element_at(&c->wide, r, s * c->width + at), c->wide.dtype, values, count);
            continue;
        }
        for (int64_t i = 0; i < count; i++)
            narrow(element_at(&c->wide, r, (at + i) * c->slots + s), c->wide.dtype, values + i, 1);
    }
}

static void merge_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const merge_call *c = argument;
    for (int64_t s = 0; s < c->slots; s++)
        merge_slot(c, index, s);
}

static void merge(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t slots, int64_t width,
                  bool channel_first)
{
    merge_call c = {y, x, rows, slots, width, channel_first};
    tn_parallel_for(context->parallel, rows, merge_task, &c);
}

static void split_task(void *argument, int64_t index, int worker)
{
    enum { span = 256 };
    (void)worker;
    const merge_call *c = argument;
    float values[span];
    for (int64_t s = 0; s < c->slots; s++) {
        if (row_offset(&c->rows, index * c->slots + s) < 0) continue;
        for (int64_t at = 0; at < c->width; at += span) {
            const int64_t count = tn_min_i64(span, c->width - at), step = c->channel_first ? c->slots : 1;
            const int64_t column = c->channel_first ? at * c->slots + s : s * c->width + at;
            widen(values, c->wide.dtype, element_at(&c->wide, index, column), step * c->wide.step, count);
            narrow(element_at(&c->rows, index * c->slots + s, at), c->rows.dtype, values, count);
        }
    }
}

static void merge_backward(const tn_context *context, tn_rows dx, tn_rows dy, int64_t rows, int64_t slots,
                           int64_t width, bool channel_first)
{
    merge_call c = {dy, dx, rows, slots, width, channel_first};
    tn_parallel_for(context->parallel, rows, split_task, &c);
}

static void multiply_span(const add_call *c, int64_t r, int64_t from, int64_t to)
{
    char *y = element_at(&c->y, r, from);
    const char *a = element_at(&c->a, r, from), *b = element_at(&c->b, r, from);
    for (int64_t i = 0; i < to - from; i += lanes) {
        const int64_t left = to - from - i;
        const vf product =
            load_columns(c->a.dtype, a, c->a.step, i, left) * load_columns(c->b.dtype, b, c->b.step, i, left);
        store_columns(c->y.dtype, y, i, plain_nan(product), left);
    }
}

static void multiply_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const add_call *c = argument;
    const block b = block_of_task(&c->blocks, index, c->rows, c->width);
    for (int64_t r = b.first; r < b.last; r++)
        multiply_span(c, r, b.from, b.to);
}

static void multiply(const tn_context *context, tn_rows y, tn_rows a, tn_rows b, int64_t rows, int64_t width)
{
    add_call c = {y, a, b, rows, width, block_elements(rows, width)};
    tn_parallel_for(context->parallel, c.blocks.row_tasks * c.blocks.column_tasks, multiply_task, &c);
}

#endif
