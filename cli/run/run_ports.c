/* SPDX-License-Identifier: MIT */
#include "named.h"

#include "report.h"

#include <stdlib.h>

static json_t *read_graph(const tenon_adapter *adapter, tenon_error *error)
{
    size_t length;
    if (tenon_adapter_graph_json(adapter, NULL, 0, &length, error) != TENON_OK) return NULL;
    char *text = malloc(length + 1);
    json_t *graph = NULL;
    if (!text)
        tn_error(error, "out of memory");
    else if (tenon_adapter_graph_json(adapter, text, length + 1, NULL, error) == TENON_OK &&
             !(graph = json_loads(text, 0, NULL)))
        tn_error(error, "out of memory");
    free(text);
    return graph;
}

/* The members of one of the graph's lists; the width is that of the value. False: out of memory. */
static bool read_list(const json_t *graph, const char *list, tn_port **ports, size_t *count)
{
    const json_t *members = json_object_get(graph, list), *values = json_object_get(graph, "values");
    const size_t number = json_array_size(members);
    *ports = calloc(number + 1, sizeof **ports);
    for (size_t i = 0; *ports && i < number; i++) {
        const json_t *member = json_array_get(members, i), *value = json_object_get(member, "value");
        const json_t *of = value ? json_array_get(values, (size_t)json_integer_value(value)) : member;
        (*ports)[i] = (tn_port){json_string_value(json_object_get(member, "name")),
                                json_integer_value(json_object_get(of, value ? "width" : "columns"))};
    }
    *count = *ports ? number : 0;
    return *ports != NULL;
}

bool tn_ports_read(tn_ports *ports, const tenon_adapter *adapter, tenon_error *error)
{
    *ports = (tn_ports){.graph = read_graph(adapter, error)};
    if (!ports->graph) return false;
    if (read_list(ports->graph, "inputs", &ports->inputs, &ports->num_inputs) &&
        read_list(ports->graph, "outputs", &ports->outputs, &ports->num_outputs) &&
        read_list(ports->graph, "integers", &ports->integers, &ports->num_integers))
        return true;
    return tn_error(error, "out of memory");
}

void tn_ports_free(tn_ports *ports)
{
    free(ports->inputs);
    free(ports->outputs);
    free(ports->integers);
    json_decref(ports->graph);
    *ports = (tn_ports){.graph = NULL};
}
