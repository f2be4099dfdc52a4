/* SPDX-License-Identifier: MIT */
/* The adapter: the one room that sees config, layers, weights and ops together.
 *
 *   adapter.c     new, free, counts, description          run.c      forward and backward, and what they need
 *   parameters.c  storage and initialisation of weights   prepare.c  weights -> pack, published
 *   load.c save.c files (names.c, expected.c, match.c)
 */
#ifndef TN_ADAPTER_ADAPTER_H
#define TN_ADAPTER_ADAPTER_H

#include "connectors/config.h"
#include "core/memory.h"
#include "core/mutex.h"
#include "core/parallel.h"
#include "engine/forward.h"
#include "families/family.h"

/* Metadata keys of an adapter file, and the version this library writes and reads. */
#define TN_METADATA_FORMAT "tenon.format"
#define TN_METADATA_CONFIG "tenon.config"
#define TN_METADATA_VERSION "1"

/* One parameter's storage. */
typedef struct tn_parameter {
    tn_dtype dtype;
    void *data;   /* NULL: no storage */
    size_t bytes; /* of owned data; 0: borrowed */
    char *source; /* the name of the tensor that it was read from, owned; NULL: it was not */
} tn_parameter;

struct tenon_adapter {
    tenon_allocator allocator;
    tenon_config *config;
    int64_t in_dim, out_dim;
    const tn_family *family; /* of the model that it was opened from, or NULL */
    char *feeding;           /* what its inputs must be, or NULL */
    tn_graph *graph;
    tn_plan plan, train_plan;
    tn_parameter *parameters; /* [graph->num_parameters], and behind them tn_adapter_weights */
    tn_mutex *lock;           /* guards `pack`, and the packs' references and writers */
    tn_pack *pack;            /* published, or NULL */
};

/* A pack that is only planned, for asking about sizes: of the published pack's table, or of the one that would be
 * chosen unasked. End it with tn_pack_free. */
tenon_status tn_adapter_plan_pack(const tenon_adapter *adapter, bool train, tn_pack *pack, tenon_error *error);

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

/* The parameters as packing reads them. They are part of the same allocation, so that one store replaces both: another
 * thread may fork at any time, and the child must find the old ones or the new ones. */
tn_weight *tn_adapter_weights(const tenon_adapter *adapter);

/* An array of parameters without storage, and its end. */
tenon_status tn_parameters_new(const tenon_adapter *adapter, tn_parameter **parameters, tenon_error *error);
void tn_parameters_free(const tenon_adapter *adapter, tn_parameter *parameters);

/* Gives parameter `index` of the array owned storage. */
tenon_status tn_parameter_allocate(const tenon_adapter *adapter, tn_parameter *parameters, int64_t index,
                                   tn_dtype dtype, tenon_error *error);

#endif
