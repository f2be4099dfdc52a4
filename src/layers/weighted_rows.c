/* SPDX-License-Identifier: MIT */
#include "layers/weighted_rows.h"

#include "core/size.h"
#include <string.h>

/* An array of `count` numbers of 8 bytes at the end of *used. */
static void *take(char *base, int64_t count, size_t *used, bool *fits)
{
    void *taken = base != NULL ? base + *used : NULL;
    size_t bytes = 0;
    *fits = *fits && tn_shape_bytes(1, &count, sizeof(int64_t), &bytes) && bytes < SIZE_MAX / 16 &&
            tn_add_size(*used, tn_align_up(bytes, 64), used);
    return taken;
}

static bool place(tn_weighted_rows *l, char *base, int64_t entries, size_t *used)
{
    bool fits = l->rows < INT64_MAX && l->inputs < INT64_MAX;
    *used = 0;
    if (!fits) return false;
    l->begin = take(base, l->rows + 1, used, &fits);
    l->source = take(base, entries, used, &fits);
    l->weight = take(base, entries, used, &fits);
    l->offset = take(base, entries, used, &fits);
    l->back_begin = take(base, l->inputs + 1, used, &fits);
    l->back_weight = take(base, entries, used, &fits);
    return fits;
}

bool tn_weighted_rows_size(int64_t rows, int64_t inputs, int64_t entries, size_t *bytes)
{
    tn_weighted_rows list = {.rows = rows, .inputs = inputs};
    return place(&list, NULL, entries, bytes);
}

tn_weighted_rows tn_weighted_rows_open(void *buffer, int64_t rows, int64_t inputs, int64_t entries)
{
    tn_weighted_rows list = {.rows = rows, .inputs = inputs};
    size_t size;
    (void)place(&list, buffer, entries, &size); /* its size was asked for */
    list.begin[0] = 0;
    if (rows > 0) list.begin[1] = 0;
    return list;
}

void tn_weighted_rows_add(tn_weighted_rows *list, int64_t source, double weight)
{
    const int64_t e = list->begin[list->filled + 1]++;
    list->source[e] = source;
    list->weight[e] = weight;
}

void tn_weighted_rows_next(tn_weighted_rows *list)
{
    list->filled++;
    if (list->filled < list->rows) list->begin[list->filled + 1] = list->begin[list->filled];
}

static int64_t offset_of(const tn_rows *rows, int64_t r)
{
    return rows->offset != NULL ? rows->offset[r] : r * rows->stride;
}

void tn_weighted_rows_forward(tn_weighted_rows *list, const tn_context *context, tn_rows y, tn_rows x, int64_t width)
{
    for (int64_t e = 0; e < list->begin[list->rows]; e++)
        list->offset[e] = offset_of(&x, list->source[e]);
    x.offset = list->offset;
    context->ops->weighted_sum(context, y, x, list->begin, list->weight, list->rows, width);
}

/* The entries by the row that they read: counted, then placed, rows of y ascending. */
void tn_weighted_rows_backward(tn_weighted_rows *list, const tn_context *context, tn_rows dx, tn_rows dy,
                               const int64_t *exists, int64_t width)
{
    int64_t *begin = list->back_begin;
    memset(begin, 0, (size_t)(list->inputs + 1) * sizeof *begin);
    for (int64_t e = 0; e < list->begin[list->rows]; e++)
        begin[list->source[e] + 1]++;
    for (int64_t s = 0; s < list->inputs; s++)
        begin[s + 1] += begin[s];
    for (int64_t r = 0; r < list->rows; r++) {
        for (int64_t e = list->begin[r]; e < list->begin[r + 1]; e++) {
            const int64_t to = begin[list->source[e]]++;
            list->offset[to] = exists != NULL && exists[r] < 0 ? -1 : offset_of(&dy, r);
            list->back_weight[to] = list->weight[e];
        }
    }
    memmove(begin + 1, begin, (size_t)list->inputs * sizeof *begin); /* each had moved to the next one's begin */
    begin[0] = 0;
    dy.offset = list->offset;
    context->ops->weighted_sum(context, dx, dy, begin, list->back_weight, list->inputs, width);
}

/* An axis of `from` places as one of `to`: place i is (1 - weight) first + weight second. */
typedef struct between {
    int64_t first, second;
    double weight;
} between;

static between find_between(int64_t i, int64_t from, int64_t to)
{
    double at = ((double)i + 0.5) * ((double)from / (double)to) - 0.5;
    if (at < 0) at = 0;
    const int64_t first = tn_min_i64((int64_t)at, from - 1);
    return (between){first, tn_min_i64(first + 1, from - 1), at - (double)first};
}

void tn_weighted_rows_bilinear(tn_weighted_rows *list, int64_t first, int64_t cell, const tn_shape *in,
                               const tn_shape *out)
{
    const between y = find_between(cell / out->width, in->height, out->height);
    const between x = find_between(cell % out->width, in->width, out->width);
    tn_weighted_rows_add(list, first + y.first * in->width + x.first, (1 - y.weight) * (1 - x.weight));
    tn_weighted_rows_add(list, first + y.first * in->width + x.second, (1 - y.weight) * x.weight);
    tn_weighted_rows_add(list, first + y.second * in->width + x.first, y.weight * (1 - x.weight));
    tn_weighted_rows_add(list, first + y.second * in->width + x.second, y.weight * x.weight);
}
