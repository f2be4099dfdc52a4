/* SPDX-License-Identifier: MIT */
/* A segment at work: the memory of its blocks, where the values of a group lie, and its steps. */
#ifndef TN_ENGINE_SEGMENT_H
#define TN_ENGINE_SEGMENT_H

#include "engine/call.h"

/* What forward leaves for backward of a block, as offsets into the block's memory: each step's result before a fused
 * activation where it lives in the block, and the state of its layer. */
typedef struct tn_kept {
    size_t *value, *state; /* by step, counted from the segment's first */
    size_t size;
} tn_kept;

/* The memory of a segment's block, used for one segment after the other. The first arrays are as long as the largest
 * segment needs them. */
typedef struct tn_area {
    const tn_segment *segment;
    bool is_whole; /* the blocks have their largest size */
    tn_blocks blocks;
    int64_t **offsets; /* [num_offsets] */
    char **buffers;    /* [num_buffers] of values */
    char **gradients;  /* [num_gradients] in a backward */
    tn_rows *x, *dx;   /* [most_inputs] of a step */
    tn_kept kept;
    char *keep;    /* kept.size bytes of the block at hand, or NULL */
    char **input;  /* [most_inputs] in a backward: values made once more through their activations */
    char **part;   /* [most_inputs] in a backward: gradients that are added to others */
    char *buffer;  /* of the layers */
    char *scratch; /* of the ops */
    const tn_segment
        *measured; /* whose layers have been asked what a forward of any number of rows needs; NULL: none */
    size_t buffer_size, scratch_size; /* what they said */
} tn_area;

/* Stored values: of a group of images, and of the call where they are shared. */
typedef struct tn_group {
    int64_t first_image, end_image;
    char **data;     /* [num_stored] */
    char **gradient; /* [num_stored] in the compute dtype; NULL: not wanted, or a forward */
    char **summed;   /* [num_inputs] gradients of inputs that are sums, likewise */
    int64_t **alive; /* [num_spaces] rows of the group that exist, -1 for the others; NULL: all do */
} tn_group;

/* Takes the arrays of an area and a store whose lengths are the plan's. */
void tn_area_open(tn_area *area, const tn_run *run, tn_arena *arena);
void tn_group_open(tn_group *store, const tn_run *run, tn_arena *arena);

/* The first row of the group in a space, and how many rows it has there. */
int64_t tn_group_first(const tn_run *run, const tn_group *store, int space);
int64_t tn_group_rows(const tn_run *run, const tn_group *store, int space);

/* Images that a group has at most. */
enum { TN_MOST_GROUP = 1 << 16 };

/* Ends the store's group, which begins at first_image, so that its stored values, and with a pack for training their
 * gradients, stay within a bound. Where nothing is stored the group is the whole batch. */
void tn_group_end_group(const tn_run *run, tn_group *store);

/* Takes the memory of the stored values of the group, or of the shared ones. */
void tn_group_take(const tn_run *run, tn_group *store, bool shared, tn_arena *arena);

/* Which rows of the stored values' spaces exist, where that is a question. */
void tn_group_take_alive(const tn_run *run, tn_group *store, tn_arena *arena);

/* What of a step a forward makes. */
enum {
    TN_MAKES_STATE = 1, /* the state of its layer */
    TN_MAKES_VALUE = 2, /* its result before a fused activation */
    TN_MAKES_WHOLE = 4  /* its value, the activation included */
};

/* What an area needs memory for. */
typedef struct tn_wanted {
    bool forward;              /* buffers of values, and those of the layers' forward */
    const unsigned char *made; /* [num_steps] what of a step is made; NULL: all of every step */
    bool backward;             /* gradients, and those of the layers' backward */
    const bool *back;          /* [num_steps] the steps that backward visits */
    const bool *through;       /* [num_step_inputs] the input is made once more, through its activation */
    const bool *parts;         /* [num_step_inputs] the gradient of the input is added to another */
    bool kept;                 /* where a block's kept values lie, in the caller's memory */
    bool keep;                 /* kept values, in the area itself */
} tn_wanted;

/* Lays an area out for a segment of blocks: for `rows` rows of its last level in blocks of equal size, or, rows -1, for
 * any number. Returns how many blocks there are; -1: a size does not fit. */
int64_t tn_area_plan(tn_area *area, const tn_run *run, const tn_segment *segment, int64_t rows, const tn_wanted *wanted,
                     tn_arena *arena);

/* Fills the block with rows from *row on, and all lists of offsets; of those of gradients the ones that there are: dx
 * [num_inputs], or NULL in a forward. */
void tn_area_fill(tn_area *area, const tn_run *run, const tn_group *store, int64_t end, int64_t *row,
                  const tn_tensor *dx);

/* Rows that step reads as input j, and writes. data NULL where a caller's tensor is not there. */
tn_rows tn_step_input(const tn_area *area, const tn_run *run, const tn_group *store, const tn_step *step, int j);
tn_rows tn_step_output(const tn_area *area, const tn_run *run, const tn_group *store, const tn_step *step);

/* Runs the steps of a block. `made` as in tn_wanted. */
void tn_area_forward(tn_area *area, const tn_run *run, const tn_group *store, const unsigned char *made,
                     const int64_t *attention_offsets, const tn_context *context);

/* Rows of a tensor at `offsets`, counted from the lowest address that its first axes reach. */
tn_rows tn_rows_of(const tn_tensor *t, const int64_t *offsets);

/* offsets[i] = where row numbers[i] of a space lies in a tensor; a row that is none stays negative. */
void tn_tensor_offsets(int64_t *offsets, const int64_t *numbers, int64_t count, const tn_run *run, int space,
                       const tn_tensor *t, int64_t prefix);

/* What of step's layer is asked for its sizes. */
tn_layer_query tn_step_query(const tn_run *run, int step, int64_t rows, int64_t slots, bool backward);

#endif
