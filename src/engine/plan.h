/* SPDX-License-Identifier: MIT */
/* From a graph to the steps of a forward pass, which backward walks in reverse.
 *
 * A step is a layer with what is done in the same pass. Steps form segments: a segment either takes blocks of rows
 * through row and window layers, or whole images through one layer of image reach. A value that leaves its segment is
 * stored for a group of images; any other lives in a buffer of the block for as long as it is read. All of it is
 * decided from the graph alone.
 */
#ifndef TN_ENGINE_PLAN_H
#define TN_ENGINE_PLAN_H

#include "graph/layer.h"

/* Where a value lies. */
typedef enum tn_place {
    TN_PLACE_INPUT,  /* the caller's */
    TN_PLACE_OUTPUT, /* the caller's */
    TN_PLACE_STORED, /* memory of a group of images, or of the call where the value is shared */
    TN_PLACE_BLOCK   /* a buffer of the block */
} tn_place;

typedef struct tn_value_plan {
    tn_place place;
    int index;    /* number of the input or output, of the stored value, of the block's buffer */
    int step;     /* that makes it; -1 */
    int segment;  /* of that step; -1 */
    int level;    /* of its rows in that segment */
    int readers;  /* steps that read it, each input counted */
    int gradient; /* the block's buffer of its gradient; -1: none is needed */
    bool adds;    /* its gradient is a sum: over its readers, or over rows that read the same row */
} tn_value_plan;

/* Offsets of rows that a step reads or writes: those of a level's rows, or of the slots of its map, in some place. */
typedef struct tn_offsets_plan {
    int level;
    bool mapped;
    bool gradient; /* of an input: of its gradient; through a map, of dense slots: where a sum's parts are made */
    bool summed;   /* of an input's gradient: of the store in which it is summed up */
    tn_place place;
    int index;     /* as in tn_value_plan; TN_PLACE_BLOCK: -1 */
    int64_t width; /* TN_PLACE_BLOCK: of the buffer's rows */
} tn_offsets_plan;

typedef struct tn_step {
    const tn_layer *layer; /* the graph's, or `made` */
    tn_layer made;         /* of two layers that are folded */
    int first;             /* number of its layer in the graph */
    int second;            /* number of the layer folded into it; -1 */
    tn_act act;            /* activation fused into its output */
    int value;             /* that it makes, its activation included */
    int segment;
    int level;         /* of the rows it makes, in its segment */
    const int *inputs; /* [layer->num_inputs] values */
    int *x_offsets;    /* [layer->num_inputs] numbers in the segment's list; -1: dense rows, in order */
    int *dx_offsets;   /* likewise, of where the gradients of the inputs go */
    int *part_offsets; /* likewise, of the parts of a gradient that is a sum, through a map */
    int y_offsets;     /* likewise */
    int64_t *widths;   /* [layer->num_inputs] */
    int first_input;   /* its place among all inputs of all steps */
} tn_step;

typedef struct tn_segment {
    bool is_image;  /* one step of image reach; no levels, buffers and offsets */
    bool is_shared; /* runs once a call, on shared values */
    int first, end; /* steps */
    int num_levels;
    int *spaces;       /* [num_levels] from what is read first to what is made last */
    bool skips_bottom; /* rows of level 0 are only read through windows, where they lie */
    int num_buffers;   /* of values */
    int num_gradients; /* buffers of gradients */
    int num_offsets;
    tn_offsets_plan *offsets;
} tn_segment;

typedef struct tn_plan {
    const tn_graph *graph;
    int num_steps, num_segments, num_stored, num_step_inputs;
    tn_step *steps;
    tn_segment *segments;
    tn_value_plan *values; /* [graph->num_values] */
    int *stored;           /* [num_stored] value numbers */
    bool groups; /* some stored value is not shared, or some layer of image reach; or, to train, a gradient is summed up
                  */
    int attention_step; /* whose pooling weights a caller may ask for; -1 */
    int most_levels, most_buffers, most_gradients, most_offsets, most_inputs; /* of any segment or step */
    void *memory[8];                                                          /* what the arrays lie in */
    char *folded_own;
} tn_plan;

/* `train`: nothing is folded, because gradients are those of the layers. The graph must outlive the plan. */
tenon_status tn_plan_make(tn_plan *plan, const tn_graph *graph, bool train, tenon_error *error);
void tn_plan_free(tn_plan *plan);

/* Floating-point operations of an image of num_input tokens. */
tenon_status tn_plan_flops(const tn_plan *plan, const tenon_call *call, int64_t num_input, double *flops,
                           tenon_error *error);

#endif
