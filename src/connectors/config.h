/* SPDX-License-Identifier: MIT */
/* A connector's type and options. */
#ifndef TN_CONNECTORS_CONFIG_H
#define TN_CONNECTORS_CONFIG_H

#include "connectors/registry.h"
#include "core/options.h"
#include "graph/graph.h"

struct tenon_config {
    char *type;
    tn_recipe recipe;
    tn_options options;  /* what was set; never contains "type" */
    tn_options unset;    /* names that were given with no value, as null in JSON; their values mean nothing */
    tn_options defaults; /* what the type's builder reads where nothing is set */
};

/* Notes a name that is given without a value; a name that is no option of the type is refused like one with a value. */
tenon_status tn_config_set_nothing(tenon_config *config, const char *name, tenon_error *error);

tenon_status tn_config_copy(tenon_config **copy, const tenon_config *config, tenon_error *error);

/* Builds the graph for these widths (0: unknown); free it with tn_graph_free. */
tenon_status tn_config_graph(const tenon_config *config, int64_t in_dim, int64_t out_dim, tn_options *read,
                             tn_graph **graph, tenon_error *error);

/* Reads in_dim and out_dim, which an adapter file keeps beside the config's options (0: not there), and the config. */
tenon_status tn_config_from_adapter_json(const char *json, size_t length, tenon_config **config, int64_t *in_dim,
                                         int64_t *out_dim, tenon_error *error);

/* The same written: a malloc'ed string, or NULL for lack of memory. in_dim 0: the config alone. */
char *tn_config_to_adapter_json(const tenon_config *config, int64_t in_dim, int64_t out_dim);

#endif
