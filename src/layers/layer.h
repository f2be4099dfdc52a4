/* SPDX-License-Identifier: MIT */
/* What a layer is, and the list of them that a builder makes.
 *
 * A layer type is one file with one tn_layer_type: it declares parameters and width when the builder appends it, packs
 * its weights for an ops table, and runs a block of rows through ops, forwards and backwards. It never touches tensor
 * data itself.
 */
#ifndef TN_LAYERS_LAYER_H
#define TN_LAYERS_LAYER_H

#include "core/error.h"
#include "core/options.h"
#include "ops/ops.h"

/* What one output row reads. */
typedef enum tn_reach {
    TN_REACH_ROW,    /* the same row */
    TN_REACH_WINDOW, /* the rows of one window of the grid */
    TN_REACH_ITEM    /* a whole image */
} tn_reach;

/* What a window does where the grid ends inside it. */
typedef enum tn_ragged { TN_RAGGED_REJECT, TN_RAGGED_PARTIAL, TN_RAGGED_DROP } tn_ragged;

enum { TN_MAX_LAYERS = 64, TN_MAX_LAYER_PARAMETERS = 8, TN_MAX_WINDOWS = 4, TN_MAX_NAME = 64 };

typedef struct tn_layer_type tn_layer_type;

typedef struct tn_layer {
    const tn_layer_type *type;
    char name[TN_MAX_NAME];  /* prefix of its parameters, or what it does; may be "" */
    int input, output;       /* numbers of the values it reads and makes; the features are value 0 */
    int64_t in_dim, out_dim; /* 0 while widths are unknown */
    int64_t first_parameter, num_parameters;
    tn_act act;       /* activation */
    bool bias;        /* linear */
    int64_t window;   /* windows: side, in patches */
    tn_ragged ragged; /* windows */
    int64_t heads;    /* window attention */
} tn_layer;

/* A parameter's name and shape, and the bound of its initial values: fan_in as nn.Linear counts it. */
typedef struct tn_parameter_spec {
    char name[TN_MAX_NAME + 32];
    int ndim;
    int64_t shape[2];
    int64_t fan_in;
} tn_parameter_spec;

/* A connector: its layers in order and their parameters. */
typedef struct tn_list {
    int num_layers;
    int64_t num_parameters;
    int64_t prefix_tokens; /* leading tokens that are no patches */
    tn_layer layers[TN_MAX_LAYERS];
    tn_parameter_spec parameters[TN_MAX_LAYERS * TN_MAX_LAYER_PARAMETERS];
} tn_list;

/* The data of a layer's parameters, in the order of their declaration. Only the dtypes count after packing. */
typedef struct tn_weights {
    const void *data[TN_MAX_LAYER_PARAMETERS];
    tn_dtype dtype[TN_MAX_LAYER_PARAMETERS];
} tn_weights;

/* One block of rows through a layer. */
typedef struct tn_block {
    tn_rows y;         /* [rows, out_dim]; data NULL: only the state is wanted */
    tn_rows x;         /* [rows * slots, in_dim]; absent rows only under a window layer */
    tn_rows attention; /* [rows, heads * slots] pooling weights wanted by the caller, or data NULL */
    int64_t rows;
    int64_t slots; /* 1 but for window layers */
    tn_act act;    /* applied to the result; only where the type says fuses_activation */
    void *buffer;  /* buffer_size bytes aligned to TN_ALIGN */
    void *state;   /* out: state_size bytes that backward reads, aligned; NULL: not wanted */
} tn_block;

/* One block of rows back through a layer. */
typedef struct tn_block_backward {
    tn_rows dx; /* [rows * slots, in_dim], absent rows as in x; overwritten; data NULL: not wanted */
    float *gradient[TN_MAX_LAYER_PARAMETERS]; /* of the parameters: dense f32; NULL: frozen */
    bool fresh;                               /* they are overwritten, not added to */
    tn_rows dy;                               /* [rows, out_dim], before any activation fused into forward */
    tn_rows x;                                /* as in forward; data NULL where reads_input says no */
    const void *state;                        /* as forward left it */
    int64_t rows, slots;
    void *buffer; /* buffer_backward_size bytes aligned to TN_ALIGN */
} tn_block_backward;

struct tn_layer_type {
    const char *name;
    tn_reach reach;
    bool pools;            /* its window is the one that a call may override */
    bool folds;            /* y = x W^T + b, so that two in a row may become one */
    bool writes_attention; /* its pooling weights are what a call may ask for */
    bool fuses_activation; /* applies an activation that follows at no cost */

    /* Bytes of the packed parameters; false when they do not fit. NULL: no parameters. */
    bool (*packed_size)(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, size_t *bytes);
    void (*pack)(void *packed, const tn_layer *layer, const tn_context *context, const tn_weights *weights);

    /* Memory of a block beyond x and y, and the scratch of the ops it calls. NULL: none. */
    size_t (*buffer_size)(const tn_layer *layer, const tn_ops *ops, int64_t rows, int64_t slots);
    size_t (*scratch_size)(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                           int64_t slots, int workers);

    void (*forward)(const tn_block *block, const tn_layer *layer, const tn_context *context, const void *packed,
                    const tn_weights *weights);

    /* For training. What forward leaves for backward besides the rows it reads; NULL: nothing. */
    size_t (*state_size)(const tn_layer *layer, const tn_ops *ops, int64_t rows);

    /* Weights in the order in which backward reads them, beside those that forward reads. NULL: none. */
    bool (*packed_backward_size)(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, size_t *bytes);
    void (*pack_backward)(void *packed, const tn_layer *layer, const tn_context *context, const tn_weights *weights);

    /* Does backward read x when these gradients are wanted? */
    bool (*reads_input)(const tn_layer *layer, float *const *gradient, bool wants_dx);
    size_t (*buffer_backward_size)(const tn_layer *layer, const tn_ops *ops, int64_t rows, int64_t slots);
    size_t (*scratch_backward_size)(const tn_layer *layer, const tn_ops *ops, const tn_weights *weights, int64_t rows,
                                    int64_t slots, int workers);

    /* Called only when dx or the gradient of a parameter is wanted. */
    void (*backward)(const tn_block_backward *block, const tn_layer *layer, const tn_context *context,
                     const void *packed, const void *packed_backward, const tn_weights *weights);

    /* Floating-point operations of `rows` output rows that read `patches` input rows; a multiply-add is two. */
    double (*flops)(const tn_layer *layer, double rows, double patches);
};

extern const tn_layer_type tn_linear_type, tn_activation_type, tn_window_mean_type, tn_window_attention_type;

/* What a list is built from. Widths 0: only counts are wanted, and nothing is checked against a width. */
typedef struct tn_build {
    tenon_builder_function function;
    void *context;
    const char *type;
    const tn_options *options;
    int64_t in_dim, out_dim;
} tn_build;

/* Runs a builder function. Whatever happens, *read holds each option that it read, with the value it got. */
tenon_status tn_list_build(tn_list *list, tn_options *read, const tn_build *build, tenon_error *error);

/* For layer files: appends a layer that reads the value before it; NULL after an error, which a NULL name is. */
tn_layer *tn_builder_append(tenon_builder *builder, const tn_layer_type *type, const char *name);

/* Declare a parameter of the layer appended last: "name.suffix", or "suffix" where the layer has no name. */
void tn_builder_matrix(tenon_builder *builder, const char *suffix, int64_t rows, int64_t cols);
void tn_builder_vector(tenon_builder *builder, const char *suffix, int64_t size, int64_t fan_in);

/* Sets and checks a window layer's side and its rule for ragged grids. */
void tn_builder_window(tenon_builder *builder, tn_layer *layer, int64_t window, const char *ragged);

/* Refuses flags that a layer does not have. */
void tn_builder_flags(tenon_builder *builder, unsigned flags, unsigned known);

/* True once the builder has failed. */
bool tn_builder_failed(const tenon_builder *builder);

/* "reject", "partial", "drop"; TENON_INVALID lists them. */
tenon_status tn_ragged_from_name(const char *name, tn_ragged *ragged, tenon_error *error);

/* TENON_INVALID lists the activations. */
tenon_status tn_act_from_name(const char *name, tn_act *act, tenon_error *error);

#endif
