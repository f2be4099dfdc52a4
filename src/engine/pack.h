/* SPDX-License-Identifier: MIT */
/* Packed weights: those of each step, in the order in which the kernels of one ops table read them. */
#ifndef TN_ENGINE_PACK_H
#define TN_ENGINE_PACK_H

#include "core/memory.h"
#include "engine/plan.h"

/* Immutable once filled, unless a published pack has a writer; nobody reads it then. Whoever publishes it guards the
 * first two fields. */
typedef struct tn_pack {
    int references;  /* the publisher's, the writer's, and one of each call that runs on it */
    unsigned writer; /* the process (tn_process) of the thread that writes over it; 0: nobody does */
    const tn_ops *ops;
    const tn_plan *plan;
    bool train;                       /* packed for backward too */
    const tenon_allocator *allocator; /* of the data */
    tn_weight *weights;               /* of all steps; only the dtypes count */
    int *first_weight;                /* [num_steps] */
    size_t *offset, *offset_backward; /* [num_steps] into data */
    void *data;
    size_t size;
    size_t arrays; /* bytes of a forward's arrays whose lengths are the plan's */
} tn_pack;

/* Sizes and offsets of a pack; its data is not touched. `parameters` are those of the graph; without a dtype they count
 * as f32. Free it with tn_pack_free, also after a failure. */
tenon_status tn_pack_plan(tn_pack *pack, const tn_plan *plan, const tn_ops *ops, bool train,
                          const tenon_allocator *allocator, const tn_weight *parameters, tenon_error *error);

/* Allocates the data of a planned pack. */
tenon_status tn_pack_allocate(tn_pack *pack, tenon_error *error);

/* Packs the parameters. Cannot fail where nothing is folded. */
tenon_status tn_pack_fill(tn_pack *pack, const tn_weight *parameters, const tn_context *context, tenon_error *error);

/* Whether these parameters, of the dtypes they have, fit the pack's layout. */
bool tn_pack_fits(const tn_pack *pack, const tn_weight *parameters);

void tn_pack_free(tn_pack *pack);

#endif
