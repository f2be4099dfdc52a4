/* SPDX-License-Identifier: MIT */
/* What forward and backward share: a call, checked; its memory; blocks of tokens through the steps of the plan. */
#ifndef TN_ADAPTER_CALL_H
#define TN_ADAPTER_CALL_H

#include "adapter/block.h"

/* A call, checked. */
typedef struct tn_run {
    const tenon_adapter *adapter;
    const tn_pack *pack;
    tn_parallel parallel;
    tn_geometry geometry;
    tn_masks masks;
    bool one_image;      /* x and what goes with it came without the axis of images; the views here have it */
    tn_tensor x;         /* [batch, tokens, in_dim] */
    tn_tensor y;         /* [batch, out_tokens, out_dim]; in a backward, its gradient */
    tn_tensor attention; /* [batch, out_tokens, heads, window^2], or data NULL */
    int attention_step;  /* the step that writes it */
    void *saved;         /* as the call gives it, or NULL */
    size_t saved_size;
} tn_run;

/* --- checks; each fails with a sentence --- */

/* The published pack, which the caller releases, or TENON_NOT_PREPARED. */
tenon_status tn_run_acquire(tn_run *run, const tenon_adapter *adapter, tenon_error *error);

/* x, the geometry that follows from it, threads and masks. */
tenon_status tn_run_check(tn_run *run, const DLTensor *x, const tenon_call *call, tenon_error *error);

/* Tokens, or their gradient, called `name`: any strides. */
tenon_status tn_run_check_tokens(tn_run *run, const DLTensor *y, const char *name, tenon_error *error);

/* What is written must be injective, its last axis contiguous. */
tenon_status tn_check_written(const tn_tensor *t, const char *name, tenon_error *error);

/* The step whose pooling weights a caller may want: its windows are the tokens. */
tenon_status tn_run_find_attention(tn_run *run, tenon_error *error);

/* Memory that a call touches. */
typedef struct tn_touched {
    const char *name;
    const tn_tensor *tensor; /* data NULL: none */
    size_t element;
    bool written;
} tn_touched;

/* What the call writes must not meet what it reads, nor each other. */
tenon_status tn_check_overlap(const tn_touched *all, size_t count, tenon_error *error);

/* `bytes` bytes as a tensor, for tn_touched. */
tn_tensor tn_bytes_tensor(void *data, size_t bytes);

/* --- memory --- */

/* Lays a call out, in whatever `layout` is; false when a size does not fit. */
typedef bool tn_layout_plan(void *layout, const tn_run *run, size_t *bytes);

/* Memory for the layout: the given workspace, or an allocation of *allocated bytes that the caller frees. A workspace
 * that is too small for all workers may do for fewer. */
tenon_status tn_run_memory(tn_run *run, void *layout, tn_layout_plan *plan, const tenon_workspace *given, void **memory,
                           size_t *allocated, tenon_error *error);

/* Reserves `bytes` at the end of *size, aligned; false when it does not fit. */
bool tn_reserve(size_t *size, size_t bytes, size_t *offset);

static inline char *tn_aligned(void *data)
{
    return (char *)data + (TN_ALIGN - (uintptr_t)data % TN_ALIGN) % TN_ALIGN;
}

/* A run for asking about sizes: on the published pack, or on one that is only planned, for the CPU level that would be
 * chosen unasked. */
typedef struct tn_planned {
    tn_run run;
    tn_pack own;
} tn_planned;

/* `train`: for backward, whose plan folds nothing. End it with tn_run_plan_end. */
tenon_status tn_run_plan(tn_planned *planned, const tenon_adapter *adapter, int64_t num_input_tokens,
                         const tenon_call *call, bool train, tenon_error *error);
void tn_run_plan_end(tn_planned *planned);

/* --- rows --- */

/* Capacities of a block for this call. */
bool tn_run_plan_rows(tn_block_rows *rows, const tn_run *run);

/* Bytes of the values that a step makes for a block; false when they do not fit. */
bool tn_step_value_size(const tn_run *run, const tn_block_rows *rows, const tn_step *step, size_t *bytes);

int64_t tn_step_slots(const tn_run *run, const tn_step *step);

/* Rows of a tensor at `offsets`, which tn_to_offsets made. */
tn_rows tn_rows_of(const tn_tensor *t, const int64_t *offsets);

/* offsets[i] = where row numbers[i], counted over the batch, starts; an image's row 0 comes after `skip` rows. */
void tn_to_offsets(int64_t *offsets, const int64_t *numbers, int64_t count, const tn_tensor *t, int64_t per_image,
                   int64_t skip);

/* Turns the numbers of rows into offsets, in place: of features for the first step, of y for the last, of dense rows
 * for windows in between. */
void tn_run_locate(const tn_run *run, tn_block_rows *rows);

/* --- what forward leaves for backward --- */

/* Byte offsets in the memory of one block. Of a step there are its result before a fused activation (but for the last
 * step's, if nothing is fused into it: those are the tokens), and the state of its layer. */
typedef struct tn_kept {
    size_t value[TN_MAX_LAYERS];
    size_t state[TN_MAX_LAYERS];
    size_t size;
} tn_kept;

bool tn_kept_plan(tn_kept *kept, const tn_run *run, const tn_block_rows *rows);

/* The part of call->saved that belongs to a block. */
char *tn_saved_block(const tn_run *run, const tn_kept *kept, int64_t block);

/* Bytes of call->saved for `tokens` tokens; false when they do not fit. */
bool tn_saved_bytes(const tn_run *run, int64_t tokens, size_t *bytes);

/* That the call's saved has as many; x and the tokens have been checked. */
tenon_status tn_run_check_saved(const tn_run *run, tenon_error *error);

/* --- steps --- */

/* Where the values of a block are while it goes through the steps. */
typedef struct tn_stage {
    const tn_block_rows *rows;
    int steps;       /* how many to run */
    bool value;      /* the last of them makes its value, not only its state */
    bool tokens;     /* write y: all steps run */
    char *values[2]; /* of even and odd steps */
    char *buffer;    /* of the layers */
    const int64_t *attention_offsets;
    const tn_kept *kept;
    char *keep; /* kept->size bytes to fill for backward, or NULL */
} tn_stage;

void tn_run_steps(const tn_run *run, const tn_stage *stage, const tn_context *context);

#endif
