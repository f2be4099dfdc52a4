/* SPDX-License-Identifier: MIT */
/* A backward call, for the files that share the work:
 *
 *   backward.c       the call: memory, groups, segments       back_plan.c    which steps are visited, what is made anew
 *   back_steps.c     a step of a block, gradients of inputs   back_checks.c  the caller's gradients
 */
#ifndef TN_ENGINE_BACKWARD_H
#define TN_ENGINE_BACKWARD_H

#include "engine/image.h"
#include "engine/saved.h"

/* A backward call. Its arrays lie in the first piece of the call's memory. */
typedef struct tn_backward {
    tn_run run; /* run.outputs are the gradients that come in */
    tn_area area;
    tn_image_area images;
    tn_group store;
    tn_tensor *dx;             /* [num_inputs] data NULL: not wanted */
    float **gradient;          /* [num_parameters] NULL: frozen */
    bool *wanted;              /* [num_values] the gradient of the value is needed */
    bool *back;                /* [num_steps] visited */
    bool *fresh;               /* [num_steps] nothing was written to the gradients of its parameters yet */
    bool *written;             /* [num_values] the block's buffer of the gradient holds something */
    unsigned char *made;       /* [num_steps] what is made anew of a block */
    unsigned char *store_made; /* [num_steps] what is made anew for the stored values of a group */
    bool *through, *parts;     /* [num_step_inputs] as in tn_wanted */
    char **kept;               /* [num_segments] of blocks: what forward saved of the group */
    int64_t *sorted;           /* [num_parameters] */
    int64_t *group_offsets;    /* rows of an input in the group */
    bool overwrite;
    tn_arena saved; /* the caller's; base NULL: none */
} tn_backward;

/* ---- back_plan.c ---- */

const tn_step *tn_back_step(const tn_backward *p, int i);

/* The gradients of a step's parameters. */
float *const *tn_back_gradients(const tn_backward *p, int i);

/* Whether step i, going back, reads its input j. */
bool tn_back_reads_input(const tn_backward *p, int i, int j);

/* Fills wanted, back, fresh, made, store_made, through and parts from what the caller wants. */
void tn_back_plan_steps(tn_backward *p);

/* Whether a segment has a step that makes something; that is visited. */
bool tn_back_makes(const tn_segment *segment, const unsigned char *made);
bool tn_back_visits(const tn_backward *p, const tn_segment *segment);

/* ---- back_steps.c ---- */

/* Step i of the block at hand, back. */
void tn_back_run_step(tn_backward *p, int i, const tn_context *context);

/* Zeros in the rows of dx that nothing else writes. */
void tn_back_clear_inputs(const tn_backward *p, const tn_context *context);

/* What was summed up over a group is rounded once, into the caller's tensor. */
void tn_back_finish_inputs(const tn_backward *p, const tn_context *context);

/* ---- back_checks.c ---- */

/* The caller's tensors: dx and the parameters' gradients. */
tenon_status tn_back_check(tn_backward *p, const tenon_gradients *gradients, tenon_error *error);

/* What is written may not meet anything else. */
tenon_status tn_back_check_overlap(tn_backward *p, const tenon_workspace *workspace, tenon_error *error);

/* Zeros in the gradients that nothing was added to. */
void tn_back_clear_parameters(const tn_backward *p);

#endif
