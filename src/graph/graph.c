/* SPDX-License-Identifier: MIT */
#include "graph/graph.h"

#include <stdlib.h>

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

int64_t tn_parameter_elements(const tn_parameter_spec *spec)
{
    int64_t elements = 1;
    for (int i = 0; i < spec->ndim; i++)
        elements *= spec->shape[i];
    return elements;
}
