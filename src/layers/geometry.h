/* SPDX-License-Identifier: MIT */
/* From a count of tokens to grids, windows and counts of tokens: the one place that computes them. */
#ifndef TN_LAYERS_GEOMETRY_H
#define TN_LAYERS_GEOMETRY_H

#include "layers/layer.h"

/* How one window layer tiles its grid. Windows start at multiples of `window`; the stored part of a window is
 * slot_height x slot_width patches, cut to the grid where the window is larger. */
typedef struct tn_tiling {
    int64_t in_height, in_width;   /* grid that it reads */
    int64_t out_height, out_width; /* grid that it makes */
    int64_t window;
    int64_t slot_height, slot_width;
} tn_tiling;

/* Slots of a window; the geometry has checked the product. */
static inline int64_t tn_tiling_slots(const tn_tiling *tiling)
{
    return tiling->slot_height * tiling->slot_width;
}

/* What one call of a connector sees of an image. Level 0 is the patches; each window layer makes the next level. */
typedef struct tn_geometry {
    int64_t prefix_tokens;
    int num_windows;
    tn_tiling tiling[TN_MAX_WINDOWS];
    int64_t count[TN_MAX_WINDOWS + 1]; /* tokens of an image at each level; the last is the result */
} tn_geometry;

/* The settings of `call`, defaults where it is NULL or of an older, smaller version of the struct. */
tenon_status tn_call_read(tenon_call *settings, const tenon_call *call, tenon_error *error);

/* Geometry of an image of num_input tokens, or the sentence why there is none. `whole_windows`: every window has
 * window^2 slots, also where the grid is smaller (the layout of the attention output). */
tenon_status tn_geometry_make(tn_geometry *geometry, const tn_list *list, const tenon_call *call, int64_t num_input,
                              bool whole_windows, tenon_error *error);

/* Writes the numbers of the patches of window `index`, row by row, -1 where the grid has none: patches [slots]. */
void tn_tiling_patches(int64_t *patches, const tn_tiling *tiling, int64_t index);

/* floor(sqrt(n)) of n >= 0, exact. */
int64_t tn_isqrt(int64_t n);

#endif
