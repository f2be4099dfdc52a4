/* SPDX-License-Identifier: MIT */
/* A call: what the caller hands in, checked, and what forward and backward share.
 *
 *   call.c     checks                          memory.c   workspaces
 *   blocks.c   which rows a block reads        segment.c  a block through the steps of a segment
 *   forward.c  segments in order               backward.h and in reverse
 */
#ifndef TN_ENGINE_CALL_H
#define TN_ENGINE_CALL_H

#include "core/size.h"
#include "engine/blocks.h"
#include "engine/forward.h"

/* A call, checked. The arrays lie in the call's memory. */
typedef struct tn_run {
    const tn_pack *pack;
    const tn_plan *plan;
    const tn_graph *graph;
    const char *type; /* the connector's, for sentences */
    const tenon_allocator *allocator;
    tn_parallel parallel;
    tn_geometry geometry;
    tn_masks masks;
    bool one_image;        /* x and what goes with it came without the axis of images; the views here have it */
    tn_tensor *inputs;     /* [num_inputs] [images, tokens, width], or packed [rows, width] */
    tn_tensor *outputs;    /* [num_outputs] likewise; in a backward their gradients, data NULL: none */
    tn_tensor attention;   /* [images, out_tokens, heads, slots], or data NULL */
    tn_integers *integers; /* [num_integers of the graph] */
    void *saved;           /* as the call gives it, or NULL */
    size_t saved_size;
} tn_run;

/* ---- memory.c ---- */

/* Memory that is handed out from front to back; with no base it only counts. */
typedef struct tn_arena {
    char *base; /* aligned to TN_ALIGN, or NULL */
    size_t used;
    bool overflow; /* a size did not fit */
} tn_arena;

/* `bytes` bytes aligned to TN_ALIGN; NULL without a base. */
static inline void *tn_arena_take(tn_arena *arena, size_t bytes)
{
    const size_t at = arena->used;
    if (bytes > SIZE_MAX - TN_ALIGN || !tn_add_size(at, tn_align_up(bytes, TN_ALIGN), &arena->used)) {
        arena->overflow = true;
        arena->used = at;
    }
    return arena->base != NULL ? arena->base + at : NULL;
}

/* count entries of `size` bytes each. */
static inline void *tn_arena_array(tn_arena *arena, int64_t count, size_t size)
{
    int64_t bytes = 0;
    if (count < 0 || !tn_mul_i64(count, (int64_t)size, &bytes)) {
        arena->overflow = true;
        bytes = 0;
    }
    return tn_arena_take(arena, (size_t)bytes);
}

/* rows x width elements of `element` bytes each. */
void *tn_arena_rows(tn_arena *arena, int64_t rows, int64_t width, size_t element);

static inline char *tn_aligned(void *data)
{
    return (char *)data + (TN_ALIGN - (uintptr_t)data % TN_ALIGN) % TN_ALIGN;
}

/* The memory of a call: a workspace of the caller's, or two pieces from an allocator. */
typedef struct tn_memory {
    const tenon_allocator *allocator;
    const tenon_workspace *workspace; /* NULL: the allocator's */
    size_t opened;                    /* bytes of the first piece */
    void *data[2];
    size_t size[2];
} tn_memory;

/* The first piece, of `bytes` bytes for everything but the rows: an arena at its beginning. */
tenon_status tn_memory_open(tn_memory *memory, const tenon_allocator *allocator, const tenon_workspace *workspace,
                            size_t bytes, tn_arena *arena, tenon_error *error);

/* Whether there are `bytes` bytes more. */
bool tn_memory_fits(const tn_memory *memory, size_t bytes);

/* The second piece. `wanted`: what a workspace should have had, for the sentence. */
tenon_status tn_memory_take(tn_memory *memory, size_t bytes, size_t wanted, tn_arena *arena, tenon_error *error);

void tn_memory_close(tn_memory *memory);

/* ---- call.c: checks; each fails with a sentence ---- */

/* What a call is for, as the caller gave it. */
typedef struct tn_request {
    bool sized; /* only sizes are asked for, of `batch` images of num_input tokens each; there are no tensors */
    const DLTensor *x;
    const DLTensor *y;  /* a forward's tokens, a backward's gradient of them */
    const char *y_name; /* "y" or "dy" */
    const tenon_call *call;
    const tenon_named_tensor *outputs; /* [num_outputs] further outputs, or their gradients */
    int64_t num_outputs;
    bool gradients;           /* the outputs are gradients: one that is not there is zero */
    int64_t batch, num_input; /* where sized */
} tn_request;

/* Reads and checks the request, with arrays out of the arena, whose memory is as large as tn_run_open_size says. */
tenon_status tn_run_open(tn_run *run, const tn_request *request, tn_arena *arena, tenon_error *error);

/* Bytes that tn_run_open takes for this request; of its tensors only their shapes count. */
tenon_status tn_run_open_size(const tn_run *run, const tn_request *request, size_t *bytes, tenon_error *error);

/* The tensor of a name among those of a call; NULL: none. */
const DLTensor *tn_find_tensor(const tenon_named_tensor *tensors, int64_t count, const char *name);

/* Rows of the value behind output 0 in all images. */
int64_t tn_run_tokens(const tn_run *run);

/* What is written must be injective, its last axis contiguous. */
tenon_status tn_check_written(const tn_tensor *t, const char *name, tenon_error *error);

/* Memory that a call touches. */
typedef struct tn_touched {
    const char *name;
    const tn_tensor *tensor; /* data NULL: none */
    size_t element;
    bool written;
} tn_touched;

/* What the call writes must not meet what it reads, nor each other. */
tenon_status tn_check_overlap(const tn_touched *all, size_t count, tenon_error *error);

/* The same for all that a call touches: inputs, outputs (`written`, or read) and `others`. */
tenon_status tn_check_overlap_run(const tn_run *run, bool written, const tn_touched *others, size_t count,
                                  tenon_error *error);

/* No image, or no token. */
bool tn_run_is_empty(const tn_run *run);

/* `bytes` bytes as a tensor, for tn_touched. */
tn_tensor tn_bytes_tensor(void *data, size_t bytes);

#endif
