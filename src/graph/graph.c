/* SPDX-License-Identifier: MIT */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

void tn_graph_free(tn_graph *graph)
{
    if (graph == NULL) return;
    for (int i = 0; i < graph->num_layers; i++) {
        free(graph->layers[i]->name);
        free(graph->layers[i]->own);
        free((void *)(uintptr_t)graph->layers[i]->inputs);
        free(graph->layers[i]);
    }
    for (int i = 0; i < graph->num_parameters; i++)
        free(graph->parameters[i].name);
    for (int i = 0; i < graph->num_inputs; i++)
        free(graph->inputs[i].name);
    for (int i = 0; i < graph->num_outputs; i++)
        free(graph->outputs[i].name);
    for (int i = 0; i < graph->num_integers; i++)
        free(graph->integers[i].name);
    free(graph->layers);
    free(graph->values);
    free(graph->spaces);
    free(graph->inputs);
    free(graph->outputs);
    free(graph->integers);
    free(graph->parameters);
    free(graph);
}

const char *tn_reach_name(tn_reach reach)
{
    static const char *const names[] = {
        [TN_REACH_ROW] = "row", [TN_REACH_WINDOW] = "window", [TN_REACH_IMAGE] = "image"};
    return names[reach];
}

static const char *const ragged_names[] = {
    [TN_RAGGED_REJECT] = "reject", [TN_RAGGED_PARTIAL] = "partial", [TN_RAGGED_DROP] = "drop"};

const char *tn_ragged_name(tn_ragged ragged)
{
    return ragged_names[ragged];
}

tenon_status tn_ragged_from_name(const char *name, tn_ragged *ragged, tenon_error *error)
{
    for (int i = 0; i < 3; i++) {
        if (strcmp(ragged_names[i], name) == 0) {
            *ragged = (tn_ragged)i;
            return TENON_OK;
        }
    }
    return tn_fail(error, TENON_INVALID, "unknown `ragged` '%s'; options: reject, partial, drop", tn_quote(name).text);
}

int64_t tn_parameter_elements(const tn_parameter_spec *spec)
{
    int64_t elements = 1;
    for (int i = 0; i < spec->ndim; i++)
        elements *= spec->shape[i];
    return elements;
}
