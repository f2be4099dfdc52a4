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
    char **part;          /* [most_inputs] backward: gradients that are added to others */
    char *buffer, *scratch;
    size_t state_size;
} tn_image_area;

void tn_image_open(tn_image_area *area, const tn_run *run, tn_arena *arena);

/* Lays the segment out for the store's group. False when it does not fit 64 bits. */
bool tn_image_plan(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_segment *segment,
                   bool backward, tn_arena *arena);

/* Runs the layer. Rows of images without any row of the first input do not exist: they are marked in the store, and an
 * output gets zeros there. `state`: state_size bytes to fill for backward, or NULL. */
void tn_image_forward(tn_image_area *area, const tn_run *run, const tn_group *store, char *state);

/* Marks which images exist, as tn_image_forward does, and nothing else. */
void tn_image_mark(tn_image_area *area, const tn_run *run, const tn_group *store);

/* And back: dx [num_inputs of the graph] are the gradients of the caller's inputs, wanted [num_values] says which are
 * needed at all. */
void tn_image_backward(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_tensor *dx,
                       const bool *wanted, float *const *gradient, const char *state, bool overwrite);

#endif
