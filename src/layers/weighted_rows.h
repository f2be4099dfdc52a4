/* SPDX-License-Identifier: MIT */
/* Rows that are sums of a few other rows with fixed weights, y_r = sum_e w_e x_source(e): what layers are that move or
 * mix the rows of an image. Backward is such a sum the other way round: dx_s = sum_e w_e dy_row(e) over the entries
 * that read s, rows ascending. */
#ifndef TN_LAYERS_WEIGHTED_ROWS_H
#define TN_LAYERS_WEIGHTED_ROWS_H

#include "graph/layer.h"

/* What a layer lists for a group, and the arrays to go through it, in one buffer. */
typedef struct tn_weighted_rows {
    int64_t rows, inputs; /* of y and of x */
    int64_t filled;       /* rows that are listed */
    int64_t *begin;       /* [rows + 1] the first entry of each row */
    int64_t *source;      /* [entries] rows of x */
    double *weight;       /* [entries] */
    int64_t *offset;      /* [entries] of the rows that are read */
    int64_t *back_begin;  /* [inputs + 1] and in the order of x */
    double *back_weight;  /* [entries] */
} tn_weighted_rows;

/* Bytes of the buffer; false when they do not fit. */
bool tn_weighted_rows_size(int64_t rows, int64_t inputs, int64_t entries, size_t *bytes);

/* Places the arrays in a buffer of that size, without entries. */
tn_weighted_rows tn_weighted_rows_open(void *buffer, int64_t rows, int64_t inputs, int64_t entries);

/* One more entry of the row being listed; then the row is done. A row without entries is zero. */
void tn_weighted_rows_add(tn_weighted_rows *list, int64_t source, double weight);
void tn_weighted_rows_next(tn_weighted_rows *list);

/* y [rows, width] of x, of which absent rows count as zero. */
void tn_weighted_rows_forward(tn_weighted_rows *list, const tn_context *context, tn_rows y, tn_rows x, int64_t width);

/* dx [inputs, width] of dy, of which rows that do not exist (exists [rows] -1; NULL: all do) count as zero. Absent rows
 * of dx are left alone. */
void tn_weighted_rows_backward(tn_weighted_rows *list, const tn_context *context, tn_rows dx, tn_rows dy,
                               const int64_t *exists, int64_t width);

/* Adds the four entries of a cell of a grid of out->height x out->width that a grid of in->height x in->width is
 * resized to, whose rows begin at row `first` of x: bilinearly, as torch.nn.functional.interpolate does with
 * align_corners false and without antialiasing. */
void tn_weighted_rows_bilinear(tn_weighted_rows *list, int64_t first, int64_t cell, const tn_shape *in,
                               const tn_shape *out);

#endif
