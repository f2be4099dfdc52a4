/* SPDX-License-Identifier: MIT */
/* The builder itself, for the files of this room. */
#ifndef TN_GRAPH_BUILDER_STATE_H
#define TN_GRAPH_BUILDER_STATE_H

#include "graph/graph.h"

struct tenon_builder {
    tn_graph *graph;
    const tn_build *build;
    tn_options *read; /* what the builder function asked for, with the values it got */
    int last;         /* the value made last */
    int from;         /* the value that the next layer reads, when tenon_from chose one; else -1 */
    tenon_status status;
    char message[512];
};

/* Keeps the first error. */
void tn_builder_set_error(tenon_builder *builder, tenon_status status, const char *message);

#endif
