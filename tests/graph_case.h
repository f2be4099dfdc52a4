/* SPDX-License-Identifier: MIT */
/* Judges any graph of layers: a connector that a test registers, on inputs of any shape. What is checked is in
 * graph_check. */
#ifndef TESTS_GRAPH_CASE_H
#define TESTS_GRAPH_CASE_H

#include "adapter/adapter.h"
#include "tests.h"

enum { GRAPH_MOST = 8 };

/* An integer tensor of the call: shape [ndim], values in row-major order. */
typedef struct graph_integers {
    const char *name;
    int ndim;
    int64_t shape[3];
    const int64_t *values;
} graph_integers;

/* Zero fields are defaults. */
typedef struct graph_case {
    const char *json; /* {"type": ...} of a registered type */
    int64_t in_dim, out_dim;
    int64_t images;
    int64_t tokens;        /* of an image's features, prefix tokens included */
    int64_t height, width; /* of the grid; 0: a square, or none needed */
    const int64_t *grids;  /* [images, grid_columns]: the batch is packed */
    int64_t grid_columns;
    int64_t input_tokens[GRAPH_MOST]; /* of further inputs with rows of their own; 0: as the features */
    graph_integers integers[GRAPH_MOST];
    int num_integers;
    bool patch_mask, frame_mask; /* some patches, some images masked */
    bool nonlinear_kinks;        /* relu and the like: finite differences of inputs near a kink are not judged */
    double scale;                /* of the inputs; 0: 1 */
    uint64_t seed;
    double tolerance; /* of a CPU level's tokens and gradients beside the double table; 0: 1e-5 */
} graph_case;

/* Draws parameters and inputs, and checks:
 *
 *   - gradients of every input and parameter on the double table against finite differences of its forward (1e-6);
 *   - tokens, further outputs and gradients of every CPU level against the double table;
 *   - the same bits with one thread and two, with saved and with recomputed values, and of each image alone;
 *   - nothing is written outside the workspace of the size that was told;
 *   - rows that are masked are not read (NaN), and their gradients are zero;
 *   - the same bits of each image whatever groups the batch is cut into;
 *   - each gradient has the same bits where all others are frozen.
 */
void graph_check(const graph_case *c);

/* The builder of this config (JSON), for features of 6 columns and tokens of 4, refuses with a sentence that has `says`
 * in it. */
void graph_refused(const char *json, const char *says);

/* The tokens of the case on the double table [tokens, out_dim], which the caller frees, and how many rows there are. */
double *graph_tokens(const graph_case *c, int64_t *rows);

/* Sets one parameter of the case's adapter before graph_tokens; for known answers. Not yet used by graph_check. */
typedef void graph_fill(tenon_adapter *adapter, void *context);
double *graph_tokens_with(const graph_case *c, graph_fill *fill, void *context, const double *x, int64_t *rows);

#endif
