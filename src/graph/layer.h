/* SPDX-License-Identifier: MIT */
/* What a layer type is.
 *
 * A layer type is one file with one tn_layer_type and a private struct. It declares widths and parameters when the
 * builder appends it, packs its weights for an ops table, and runs rows through ops, forward and backward. It never
 * touches tensor data itself, and nothing outside its file knows its struct.
 */
#ifndef TN_GRAPH_LAYER_H
#define TN_GRAPH_LAYER_H

#include "graph/geometry.h"
#include "ops/ops.h"

/* A parameter's data. After packing only the dtype counts. */
typedef struct tn_weight {
    const void *data;
    tn_dtype dtype;
} tn_weight;

/* The images that a layer of image reach gets at once: `count` of them from `first` on. */
typedef struct tn_images {
    const tn_geometry *geometry;
    int64_t first, count;
} tn_images;

/* Where image i of the group begins among the group's rows of a value; i may be the count. */
static inline int64_t tn_images_begin(const tn_images *images, int value, int64_t i)
{
    const int space = images->geometry->graph->values[value].space;
    return tn_geometry_first(images->geometry, space, images->first + i) -
           tn_geometry_first(images->geometry, space, images->first);
}

static inline const tn_shape *tn_images_shape(const tn_images *images, int value, int64_t i)
{
    return tn_geometry_shape(images->geometry, images->geometry->graph->values[value].space, images->first + i);
}

/* What a layer is asked to size. */
typedef struct tn_layer_query {
    const tn_layer *layer;
    const tn_ops *ops;
    const tn_weight *weights; /* dtypes of its parameters */
    bool train;               /* packed_backward is wanted too */
    bool backward;            /* buffer and scratch of backward, not of forward */
    int64_t rows, slots;      /* at most, of a call; 0: only what is packed is asked for */
    const tn_images *images;  /* image reach: a group; rows and slots count its rows of the output and of input 0 */
    int workers;
} tn_layer_query;

/* Bytes; zero where a layer needs none. */
typedef struct tn_layer_sizes {
    size_t packed, packed_backward; /* where no rows are asked for */
    size_t buffer;                  /* of a call, beyond its rows */
    size_t scratch;                 /* of the ops that it calls */
    size_t state;                   /* what forward leaves for backward besides the rows it reads */
} tn_layer_sizes;

/* Rows through a layer, forward or backward. Row reach: x[i] is [rows, width of input i]. Window reach: x[0] is
 * [rows * slots, in_dim], some of them absent. Image reach: x[i] is [rows of the group, width], masked rows absent,
 * and `images` says which rows are whose. */
typedef struct tn_layer_call {
    const tn_layer *layer;
    const tn_context *context;
    const tn_weight *weights;
    const void *packed, *packed_backward;
    int64_t rows, slots; /* slots: 1 but under window reach */
    const tn_images *images;
    const int64_t *widths;  /* [num_inputs] of the inputs */
    const tn_rows *x;       /* [num_inputs]; in a backward, data NULL where reads_input said no */
    void *buffer;           /* aligned to TN_ALIGN, as is state */
    void *state;            /* forward: written, NULL: not wanted; backward: read */
    tn_rows y;              /* forward: [rows, out_dim]; data NULL: only the state is wanted */
    tn_rows attention;      /* forward: [rows, heads * slots] pooling weights wanted by the caller, or data NULL */
    tn_act act;             /* forward: applied to the result; only where the type says fuses_activation */
    tn_rows dy;             /* backward: [rows, out_dim], before any activation fused into forward */
    const tn_rows *dx;      /* backward: [num_inputs], rows as in x; overwritten; data NULL: not wanted */
    const int64_t *exists;  /* backward, image reach: [rows] -1: the row of the output does not exist; NULL: all do */
    float *const *gradient; /* backward: [num_parameters] dense f32; NULL: frozen */
    bool overwrite;         /* backward: the parameters' gradients are overwritten, not added to */
} tn_layer_call;

/* A setting of a layer, with which and its inputs and parameters its output can be computed again. */
typedef enum tn_setting_kind { TN_SETTING_INT, TN_SETTING_REAL, TN_SETTING_BOOL, TN_SETTING_STRING } tn_setting_kind;

typedef struct tn_setting {
    tn_setting_kind kind;
    union {
        int64_t integer;
        double real;
        bool boolean;
        const char *string;
    };
} tn_setting;

/* Takes the settings of a layer, one after another. */
typedef struct tn_settings {
    void *context;
    void (*add)(void *context, const char *name, const tn_setting *value);
} tn_settings;

static inline void tn_settings_int(const tn_settings *settings, const char *name, int64_t value)
{
    settings->add(settings->context, name, &(tn_setting){.kind = TN_SETTING_INT, .integer = value});
}

static inline void tn_settings_real(const tn_settings *settings, const char *name, double value)
{
    settings->add(settings->context, name, &(tn_setting){.kind = TN_SETTING_REAL, .real = value});
}

static inline void tn_settings_bool(const tn_settings *settings, const char *name, bool value)
{
    settings->add(settings->context, name, &(tn_setting){.kind = TN_SETTING_BOOL, .boolean = value});
}

static inline void tn_settings_string(const tn_settings *settings, const char *name, const char *value)
{
    settings->add(settings->context, name, &(tn_setting){.kind = TN_SETTING_STRING, .string = value});
}

/* Numbers among a layer's own parameters. */
typedef struct tn_affine {
    int weight, bias; /* bias -1: none */
} tn_affine;

struct tn_layer_type {
    const char *name;
    tn_reach reach;
    bool fuses_activation; /* applies an activation that follows at no cost */

    /* Says the settings of a layer, all that decides its output besides inputs, parameters and the windows of its
     * space: tenon inspect shows them, and Python computes with them. NULL: it has none. */
    void (*describe)(const tn_settings *settings, const tn_layer *layer);

    /* Sizes of a layer; false when one does not fit. NULL: it needs nothing. */
    bool (*sizes)(tn_layer_sizes *sizes, const tn_layer_query *query);

    /* Packs the weights as forward reads them and, unless packed_backward is NULL, as backward does. NULL: no weights.
     */
    void (*pack)(void *packed, void *packed_backward, const tn_layer *layer, const tn_context *context,
                 const tn_weight *weights);

    void (*forward)(const tn_layer_call *call);

    /* Called only when dx of an input or the gradient of a parameter is wanted. */
    void (*backward)(const tn_layer_call *call);

    /* Does backward read input i when these gradients are wanted? NULL: never. */
    bool (*reads_input)(const tn_layer *layer, int input, float *const *gradient, bool wants_dx);

    /* Floating-point operations of `rows` output rows that read `inputs` rows of the first input; a multiply-add is
     * two. Products are counted, functions are not. NULL: none. */
    double (*flops)(const tn_layer *layer, double rows, double inputs);

    /* A space of its own (tn_builder_layer_space): the output's shape for one image, whose shapes are by space, as far
     * as they are known. Of the geometry there are the graph and the extents. NULL: the output's space is another's. */
    tenon_status (*shape)(tn_shape *out, const tn_layer *layer, const tn_geometry *geometry, int64_t image,
                          const tn_shape *shapes, tenon_error *error);
    /* Image reach: which rows of the output exist, alive [rows]: r, or -1. Of the call there are `images` and the
     * offsets of x. NULL: those of images that have a row of the first input. */
    void (*exists)(int64_t *alive, const tn_layer_call *call);
    bool needs_grid; /* the shape of its first input is a grid, not a count alone */

    /* What the planner may ask. The function of an activation layer. NULL: it is none. */
    tn_act (*activation)(const tn_layer *layer);

    /* Heads whose pooling weights a call may ask for. NULL: none. */
    int64_t (*attention_heads)(const tn_layer *layer);

    /* Says that the layer is y = x W^T + b, of which parameters W (out_dim, in_dim) and b (-1: none) are, so that two
     * in a row may become one; false: this one is not. NULL: none is. */
    bool (*affine)(tn_affine *affine, const tn_layer *layer);
};

#endif
