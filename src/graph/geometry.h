/* SPDX-License-Identifier: MIT */
/* From counts of tokens to the rows of every space: the one place that computes them.
 *
 * A space has t * height * width rows in an image. The prefix tokens of an image's features are no rows of a space:
 * they only show where the rows lie in the caller's tensor. Rows are numbered over the call, image after image.
 */
#ifndef TN_GRAPH_GEOMETRY_H
#define TN_GRAPH_GEOMETRY_H

#include "graph/graph.h"

/* How windows tile the grid of one image. Windows start at multiples of `side`; the stored part of a window is
 * slot_height x slot_width patches, cut to the grid where the window is larger. */
typedef struct tn_tiling {
    int64_t in_height, in_width;   /* grid that it reads */
    int64_t out_height, out_width; /* grid that it makes, in each frame */
    int64_t side;
    int64_t slot_height, slot_width;
    bool blocks;     /* the patches of a window follow each other */
    bool transposed; /* windows are numbered column by column */
} tn_tiling;

/* Slots of a window; the geometry has checked the product. */
static inline int64_t tn_tiling_slots(const tn_tiling *tiling)
{
    return tiling->slot_height * tiling->slot_width;
}

/* An integer tensor of a call, widened. */
typedef struct tn_integers {
    const int64_t *data; /* [images, rows, columns]; NULL: not given */
    int64_t rows, columns;
} tn_integers;

/* What a call says of its images, checked as far as it can be without the graph's spaces. */
typedef struct tn_extents {
    int64_t images;
    int64_t tokens;       /* of an image's features, prefix tokens included, where all images are alike */
    const int64_t *grids; /* packed: [images, grid_columns] height and width, or t, height and width; else NULL */
    int64_t grid_columns;
    int64_t grid_height, grid_width; /* TENON_UNSET: a square */
    int64_t window;                  /* overrides the rule that is a pool's; TENON_UNSET: none */
    const int64_t *input_tokens; /* [num_inputs] rows of an image in each input; NULL: the features alone are known */
    const tn_integers *integers; /* [num_integers]; NULL: none are given */
    bool whole_windows;          /* every window has side^2 slots, also where the grid is smaller */
} tn_extents;

/* The rows of a call. Where all images are alike there is one shape a space, else one a space and image. */
typedef struct tn_geometry {
    const tn_graph *graph;
    tn_extents extents;
    bool packed;
    tn_shape *shapes; /* [num_spaces], or packed [images, num_spaces] */
    int64_t *first;   /* packed: [num_spaces, images + 1] first row of each image; else NULL */
} tn_geometry;

/* The settings of `call`, defaults where it is NULL or of an older, smaller version of the struct. */
tenon_status tn_call_read(tenon_call *settings, const tenon_call *call, tenon_error *error);

/* Extents of a call on images of num_input tokens each. */
tn_extents tn_extents_of(const tenon_call *call, int64_t images, int64_t num_input);

/* Bytes of memory that tn_geometry_make needs; false when they do not fit. */
bool tn_geometry_size(const tn_graph *graph, const tn_extents *extents, size_t *bytes);

/* Fills the geometry, in `memory` aligned for int64_t, or says why there is none. */
tenon_status tn_geometry_make(tn_geometry *geometry, const tn_graph *graph, const tn_extents *extents, void *memory,
                              tenon_error *error);

/* The shape of an image in a space. */
static inline const tn_shape *tn_geometry_shape(const tn_geometry *g, int space, int64_t image)
{
    return &g->shapes[g->packed ? image * g->graph->num_spaces + space : space];
}

/* The first row of an image; image may be the number of images. */
static inline int64_t tn_geometry_first(const tn_geometry *g, int space, int64_t image)
{
    if (g->packed) return g->first[space * (g->extents.images + 1) + image];
    return g->graph->spaces[space].kind == TN_SPACE_SHARED ? 0 : image * tn_shape_rows(&g->shapes[space]);
}

/* The image of a row. `hint` is the image of a row near it. */
int64_t tn_geometry_image(const tn_geometry *geometry, int space, int64_t row, int64_t hint);

/* How the windows of a space tile an image, and the most slots that a window of any image has. */
tn_tiling tn_geometry_tiling(const tn_geometry *geometry, int space, int64_t image);
int64_t tn_geometry_slots(const tn_geometry *geometry, int space);

/* Tiles a height x width grid, or says why that is not possible. `window` overrides a pool's side; TENON_UNSET: it does
 * not. `whole`: every window has side^2 slots. */
tenon_status tn_tile(tn_tiling *tiling, const tn_window_rule *rule, int64_t window, int64_t height, int64_t width,
                     bool whole, tenon_error *error);

/* The side of a square grid of `patches` patches, which are what is left of an image without its prefix tokens. */
tenon_status tn_square_grid(int64_t patches, int64_t prefix_tokens, int64_t *side, tenon_error *error);

/* Writes the rows of the parent space that window `index` of the image has, row by row, -1 where the grid has none:
 * patches [slots], counted from the image's first. */
void tn_tiling_patches(int64_t *patches, const tn_tiling *tiling, int64_t index);

/* The geometry of one image of num_input tokens under this call, of whose tensors only the shapes count. Its memory is
 * the caller's to free, also after an error. */
tenon_status tn_geometry_of_one(tn_geometry *geometry, void **memory, const tn_graph *graph, const tenon_call *call,
                                int64_t num_input, tenon_error *error);

/* Tokens of an image of num_input tokens under this call; what counting asks. */
tenon_status tn_graph_count(const tn_graph *graph, const tenon_call *call, int64_t num_input, int64_t *count,
                            tenon_error *error);

/* floor(sqrt(n)) of n >= 0, exact. */
int64_t tn_isqrt(int64_t n);

#endif
