/* SPDX-License-Identifier: MIT */
/* A connector as a graph: values, the spaces they live in, the layers that make them, and the parameters of the layers.
 *
 * A builder function appends layers; each reads values and makes one. A value is a matrix for each image: its space
 * says what the rows are, its width how many columns there are. The graph knows no data and no sizes of a call: how
 * many rows a space has is for the geometry.
 */
#ifndef TN_GRAPH_GRAPH_H
#define TN_GRAPH_GRAPH_H

#include "core/error.h"
#include "core/options.h"
#include "tenon/tenon.h"

typedef struct tn_layer_type tn_layer_type;

/* Time, height and width of an image in a space; its rows are t * height * width. */
typedef struct tn_shape {
    int64_t t, height, width;
} tn_shape;

static inline int64_t tn_shape_rows(const tn_shape *shape)
{
    return shape->t * shape->height * shape->width;
}

/* What one output row reads. */
typedef enum tn_reach {
    TN_REACH_ROW,    /* the same row of each input */
    TN_REACH_WINDOW, /* the rows of one window of the grid, of its only input */
    TN_REACH_IMAGE   /* whole images */
} tn_reach;

/* What a window does where the grid ends inside it. */
typedef enum tn_ragged { TN_RAGGED_REJECT, TN_RAGGED_PARTIAL, TN_RAGGED_DROP } tn_ragged;

/* "row", "window", "image". */
const char *tn_reach_name(tn_reach reach);

/* "reject", "partial", "drop"; TENON_INVALID lists them. */
const char *tn_ragged_name(tn_ragged ragged);
tenon_status tn_ragged_from_name(const char *name, tn_ragged *ragged, tenon_error *error);

/* How windows tile a grid: side x side patches each, from the top left. */
typedef struct tn_window_rule {
    int64_t side;
    tn_ragged ragged;
    bool is_pool;    /* the rule that call.pool_window overrides */
    bool transposed; /* the windows are numbered column by column, and their grid is width x height */
} tn_window_rule;

typedef enum tn_space_kind {
    TN_SPACE_INPUT,   /* the rows of an input, without its prefix tokens */
    TN_SPACE_SHARED,  /* rows made of parameters alone: one copy for all images */
    TN_SPACE_WINDOWS, /* windows that tile the grid of the parent space */
    TN_SPACE_MAP,     /* a row for each row of a map that the call brings */
    TN_SPACE_LAYER    /* what the layer's shape function says */
} tn_space_kind;

typedef struct tn_space {
    tn_space_kind kind;
    int parent;             /* the space that it is made from; -1: none */
    int layer;              /* TN_SPACE_LAYER: the layer that makes it */
    int integers;           /* TN_SPACE_MAP: the call's map; TN_SPACE_INPUT: -1 */
    tenon_row_order order;  /* TN_SPACE_INPUT; the others are in raster order */
    int64_t rows;           /* TN_SPACE_SHARED */
    tn_window_rule windows; /* TN_SPACE_WINDOWS */
} tn_space;

/* A matrix for each image. Exactly one of input and layer is not -1: where it comes from. */
typedef struct tn_value {
    int space;
    int64_t width; /* 0 while widths are unknown */
    int input, layer;
    int readers; /* layers that read it, each input counted */
    int output;  /* the output that it is; -1: none */
} tn_value;

/* How a parameter is drawn at initialisation: PyTorch's rule for the module that has it. */
typedef enum tn_initial {
    TN_INITIAL_WEIGHT,   /* uniform, kaiming with a = sqrt(5) over fan_in */
    TN_INITIAL_BIAS,     /* uniform within 1 / sqrt(fan_in) */
    TN_INITIAL_CONSTANT, /* every number is `value` */
    TN_INITIAL_NORMAL    /* mean 0, standard deviation `value` */
} tn_initial;

enum { TN_MAX_PARAMETER_DIMS = 4 };

typedef struct tn_parameter_spec {
    char *name; /* owned by the graph */
    int ndim;
    int64_t shape[TN_MAX_PARAMETER_DIMS];
    tn_initial initial;
    int64_t fan_in; /* as PyTorch counts it */
    double value;
    bool decays; /* weight decay applies by default */
} tn_parameter_spec;

/* A layer. `own` is its type's private struct, which nobody else looks into. */
typedef struct tn_layer {
    const tn_layer_type *type;
    char *name; /* prefix of its parameters, or what it does; may be "" */
    void *own;
    int num_inputs;
    const int *inputs;       /* [num_inputs] value numbers */
    int output;              /* the value it makes */
    int64_t in_dim, out_dim; /* widths of the first input (0: none) and of the output; 0 while unknown */
    int first_parameter, num_parameters;
} tn_layer;

typedef struct tn_graph_input {
    char *name;
    int value;
} tn_graph_input;

typedef struct tn_graph_output {
    char *name;
    int value;
} tn_graph_output;

/* An integer tensor that a call brings, by name: [images, columns], or [rows, columns] of a map. */
typedef struct tn_graph_integers {
    char *name;
    int64_t columns; /* 0: any */
} tn_graph_integers;

/* Arrays are of the lengths beside them; the graph owns all that they point to. */
typedef struct tn_graph {
    int num_layers, num_values, num_spaces, num_inputs, num_outputs, num_integers, num_parameters;
    tn_layer **layers;
    tn_value *values;
    tn_space *spaces;
    tn_graph_input *inputs;   /* the features first */
    tn_graph_output *outputs; /* the tokens first */
    tn_graph_integers *integers;
    tn_parameter_spec *parameters;
    int64_t prefix_tokens; /* leading tokens of an image's features that are no patches */
} tn_graph;

/* What a graph is built from. Widths 0: only counts are wanted, and nothing is checked against a width. */
typedef struct tn_build {
    tenon_builder_function function;
    void *context;
    const char *type;
    const tn_options *options;
    int64_t in_dim, out_dim;
} tn_build;

/* Runs a builder function; free the graph with tn_graph_free. Whatever happens, *read holds each option that the
 * builder read, with the value it got. */
tenon_status tn_graph_build(tn_graph **graph, tn_options *read, const tn_build *build, tenon_error *error);

/* NULL is allowed. */
void tn_graph_free(tn_graph *graph);

/* Number of elements of a parameter; its shape was checked when it was declared. */
int64_t tn_parameter_elements(const tn_parameter_spec *spec);

#endif
