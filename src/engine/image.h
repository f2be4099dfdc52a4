/* SPDX-License-Identifier: MIT */
/* A segment of one layer of image reach: it gets a whole group of images at once. */
#ifndef TN_ENGINE_IMAGE_H
#define TN_ENGINE_IMAGE_H

#include "engine/segment.h"

/* Its memory; the arrays are as long as the step with the most inputs needs. */
typedef struct tn_image_area {
    const tn_segment *segment;
    tn_images images;
    tn_rows *x, *dx;      /* [most_inputs] */
    int64_t **offsets;    /* [most_inputs] of the rows of each input, where it is a caller's or rows lack */
    int64_t **dx_offsets; /* [most_inputs] */
    int64_t *y_offsets;   /* where the output is a caller's */
    int64_t *exists;      /* [rows of the output] -1: the row does not exist; NULL: all do */
    char **part;          /* [most_inputs] backward: gradients that are added to others */
    char *buffer, *scratch;
} tn_image_area;

void tn_image_open(tn_image_area *area, const tn_run *run, tn_arena *arena);

/* Lays the segment out for the store's group. False when it does not fit 64 bits. */
bool tn_image_plan(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_segment *segment,
                   bool backward, tn_arena *arena);

/* Runs the layer. Rows that do not exist are marked in the store, and an output gets zeros there. A layer of image
 * reach keeps nothing for backward but the stored values that it reads. */
void tn_image_forward(tn_image_area *area, const tn_run *run, const tn_group *store);

/* Marks which rows exist, as tn_image_forward does, and nothing else. */
void tn_image_mark(tn_image_area *area, const tn_run *run, const tn_group *store);

/* And back: dx [num_inputs of the graph] are the gradients of the caller's inputs, wanted [num_values] says which are
 * needed at all. */
void tn_image_backward(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_tensor *dx,
                       const bool *wanted, float *const *gradient, bool overwrite);

#endif
