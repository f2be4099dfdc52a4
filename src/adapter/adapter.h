/* SPDX-License-Identifier: MIT */
/* The adapter: the one room that sees config, layers, weights and ops together.
 *
 *   adapter.c     new, free, counts, description          plan.c     layers -> steps (fusing, folding)
 *   parameters.c  storage and initialisation of weights   prepare.c  weights -> pack, published
 *   load.c save.c files (names.c, expected.c, match.c)    block.c    which rows a block of tokens reads
 *   call.c        checks, memory and steps of a call      forward.c, backward.c  blocks through the steps, and back
 */
#ifndef TN_ADAPTER_ADAPTER_H
#define TN_ADAPTER_ADAPTER_H

#include "connectors/config.h"
#include "core/lock.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "layers/geometry.h"

/* Metadata keys of an adapter file, and the version this library writes and reads. */
#define TN_METADATA_FORMAT "tenon.format"
#define TN_METADATA_CONFIG "tenon.config"
#define TN_METADATA_VERSION "1"

/* One parameter's storage. */
typedef struct tn_parameter {
    tn_dtype dtype;
    void *data;   /* NULL: no storage */
    size_t bytes; /* of owned data; 0: borrowed */
} tn_parameter;

/* A step of the plan: a layer, with what is done in the same pass. */
typedef struct tn_step {
    tn_layer layer; /* a copy; out_dim is the folded layer's where there is one */
    int first;      /* its number in the list */
    int folded;     /* number of the layer folded into it, or -1 */
    int window;     /* for a window layer: which of the geometry's tilings it is; else -1 */
    int level;      /* of the rows it makes: how many window layers came before or are it */
    tn_act act;     /* activation fused into its output */
} tn_step;

typedef struct tn_plan {
    int num_steps;
    tn_step steps[TN_MAX_LAYERS];
} tn_plan;

/* `train`: nothing is folded, because gradients are those of the layers. */
void tn_plan_make(tn_plan *plan, const tn_list *list, bool train);

/* Packed weights for one ops table, freed by the last who holds a reference. A published pack is immutable unless it
 * has a writer; nobody reads it then. */
typedef struct tn_pack {
    int references;  /* under the adapter's lock; the publisher's, the writer's, and one of each call that runs on it */
    unsigned writer; /* likewise: the process (tn_process) of the thread that writes over it; 0: nobody does */
    const tn_ops *ops;
    bool train;                            /* packed for backward too */
    const tn_plan *plan;                   /* the adapter's, for inference or for training */
    tn_weights weights[TN_MAX_LAYERS];     /* per step; only the dtypes are valid */
    size_t offset[TN_MAX_LAYERS];          /* per step, into data */
    size_t offset_backward[TN_MAX_LAYERS]; /* per step, into data, with `train` */
    void *data;
    size_t size;
} tn_pack;

struct tenon_adapter {
    tenon_allocator allocator;
    tenon_config *config;
    int64_t in_dim, out_dim;
    tn_list *list;
    tn_plan plan, train_plan;
    tn_parameter *parameters; /* [list->num_parameters] */
    tn_lock *lock;            /* guards `pack`, and the packs' references and writers */
    tn_pack *pack;            /* published, or NULL */
};

/* Plan, sizes and offsets of a pack for pack->ops and pack->train; its data is not touched. Parameters without a dtype
 * count as f32. */
tenon_status tn_pack_plan(const tenon_adapter *adapter, tn_pack *pack, tenon_error *error);

/* The ops table of a level; NULL: what TENON_CPU says, or the best. */
tenon_status tn_find_table(const char *level, const tn_ops **ops, tenon_error *error);

/* Takes a reference to the published pack, or NULL; gives it back. Waits for a thread that is writing over it. Where
 * that thread is one that this process lost when it was forked, the caller's does its work first. */
const tn_pack *tn_pack_acquire(const tenon_adapter *adapter);
void tn_pack_release(const tenon_adapter *adapter, const tn_pack *pack);

/* TENON_NOT_PREPARED, naming it, when a parameter has no storage. */
tenon_status tn_adapter_check_storage(const tenon_adapter *adapter, tenon_error *error);

/* Unpublishes: for whoever changes a parameter. */
void tn_adapter_unpublish(tenon_adapter *adapter);

/* Prepares for any ops table; the tests have one in double. */
tenon_status tn_adapter_prepare_for(tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel,
                                    tenon_error *error);
tenon_status tn_adapter_prepare_train_for(tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel,
                                          tenon_error *error);

/* Replaces all parameters at once; takes ownership of `fresh` [num_parameters] and its data. */
void tn_adapter_replace_parameters(tenon_adapter *adapter, tn_parameter *fresh);

/* An array of parameters without storage, and its end. */
tenon_status tn_parameters_new(const tenon_adapter *adapter, tn_parameter **parameters, tenon_error *error);
void tn_parameters_free(const tenon_adapter *adapter, tn_parameter *parameters);

/* Gives parameter `index` of the array owned storage. */
tenon_status tn_parameter_allocate(const tenon_adapter *adapter, tn_parameter *parameters, int64_t index,
                                   tn_dtype dtype, tenon_error *error);

#endif
