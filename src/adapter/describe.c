/* SPDX-License-Identifier: MIT */
/* The graph as JSON. What a layer type alone knows it says itself, see tn_layer_type.describe; tenon.h has the form. */
#include "adapter/adapter.h"

#include <jansson.h>

/* Objects and arrays of Jansson take NULL for a value that could not be made, and fail: `failed` remembers it. */
typedef struct writer {
    json_t *object;
    bool failed;
} writer;

static void put(writer *w, const char *name, json_t *value)
{
    w->failed = json_object_set_new(w->object, name, value) != 0 || w->failed;
}

static void put_setting(void *context, const char *name, const tn_setting *value)
{
    writer *w = context;
    switch (value->kind) {
    case TN_SETTING_INT:
        put(w, name, json_integer(value->integer));
        break;
    case TN_SETTING_REAL:
        put(w, name, json_real(value->real));
        break;
    case TN_SETTING_BOOL:
        put(w, name, json_boolean(value->boolean));
        break;
    case TN_SETTING_STRING:
        put(w, name, json_string(value->string));
        break;
    }
}

/* The objects of `count` things; NULL: out of memory. */
static json_t *list(const tn_graph *graph, int count, bool (*describe)(writer *, const tn_graph *, int))
{
    json_t *array = json_array();
    for (int i = 0; i < count && array != NULL; i++) {
        writer w = {json_object(), false};
        if (!describe(&w, graph, i) || w.failed || json_array_append(array, w.object) != 0) {
            json_decref(array);
            array = NULL;
        }
        json_decref(w.object);
    }
    return array;
}

static bool describe_space(writer *w, const tn_graph *graph, int index)
{
    static const char *const kinds[] = {[TN_SPACE_INPUT] = "input",
                                        [TN_SPACE_SHARED] = "shared",
                                        [TN_SPACE_WINDOWS] = "windows",
                                        [TN_SPACE_MAP] = "map",
                                        [TN_SPACE_LAYER] = "layer"};
    const tn_space *space = &graph->spaces[index];
    put(w, "kind", json_string(kinds[space->kind]));
    if (space->kind == TN_SPACE_INPUT) {
        put(w, "order", json_string(space->order == TENON_ROWS_BLOCKS ? "blocks" : "raster"));
    } else if (space->kind == TN_SPACE_SHARED) {
        put(w, "rows", json_integer(space->rows));
    } else {
        put(w, "parent", json_integer(space->parent));
    }
    if (space->kind == TN_SPACE_WINDOWS) {
        put(w, "side", json_integer(space->windows.side));
        put(w, "ragged", json_string(tn_ragged_name(space->windows.ragged)));
        put(w, "is_pool", json_boolean(space->windows.is_pool));
        put(w, "transposed", json_boolean(space->windows.transposed));
    }
    if (space->kind == TN_SPACE_MAP) put(w, "integers", json_string(graph->integers[space->integers].name));
    if (space->kind == TN_SPACE_LAYER) put(w, "layer", json_integer(space->layer));
    return true;
}

static bool describe_value(writer *w, const tn_graph *graph, int index)
{
    const tn_value *value = &graph->values[index];
    put(w, "space", json_integer(value->space));
    put(w, "width", json_integer(value->width));
    if (value->input >= 0) put(w, "input", json_string(graph->inputs[value->input].name));
    if (value->layer >= 0) put(w, "layer", json_integer(value->layer));
    return true;
}

static bool describe_layer(writer *w, const tn_graph *graph, int index)
{
    const tn_layer *layer = graph->layers[index];
    writer settings = {json_object(), false};
    json_t *inputs = json_array(), *parameters = json_array();
    bool failed = false;
    for (int i = 0; i < layer->num_inputs; i++)
        failed = json_array_append_new(inputs, json_integer(layer->inputs[i])) != 0 || failed;
    for (int i = 0; i < layer->num_parameters; i++) {
        const char *name = graph->parameters[layer->first_parameter + i].name;
        failed = json_array_append_new(parameters, json_string(name)) != 0 || failed;
    }
    if (layer->type->describe != NULL) layer->type->describe(&(tn_settings){&settings, put_setting}, layer);
    put(w, "type", json_string(layer->type->name));
    put(w, "name", json_string(layer->name));
    put(w, "reach", json_string(tn_reach_name(layer->type->reach)));
    put(w, "inputs", inputs);
    put(w, "output", json_integer(layer->output));
    put(w, "settings", settings.object);
    put(w, "parameters", parameters);
    return !failed && !settings.failed;
}

static json_t *initial_of(const tn_parameter_spec *spec)
{
    switch (spec->initial) {
    case TN_INITIAL_WEIGHT:
        return json_pack("{s:s, s:I}", "rule", "kaiming_uniform", "fan_in", (json_int_t)spec->fan_in);
    case TN_INITIAL_BIAS:
        return json_pack("{s:s, s:I}", "rule", "uniform", "fan_in", (json_int_t)spec->fan_in);
    case TN_INITIAL_CONSTANT:
        return json_pack("{s:s, s:f}", "rule", "constant", "value", spec->value);
    case TN_INITIAL_NORMAL:
        return json_pack("{s:s, s:f}", "rule", "normal", "std", spec->value);
    }
    return NULL;
}

static bool describe_parameter(writer *w, const tn_graph *graph, int index)
{
    const tn_parameter_spec *spec = &graph->parameters[index];
    json_t *shape = json_array();
    bool failed = false;
    for (int i = 0; i < spec->ndim; i++)
        failed = json_array_append_new(shape, json_integer(spec->shape[i])) != 0 || failed;
    put(w, "name", json_string(spec->name));
    put(w, "shape", shape);
    put(w, "initial", initial_of(spec));
    put(w, "decays", json_boolean(spec->decays));
    return !failed;
}

static bool describe_input(writer *w, const tn_graph *graph, int index)
{
    put(w, "name", json_string(graph->inputs[index].name));
    put(w, "value", json_integer(graph->inputs[index].value));
    return true;
}

static bool describe_output(writer *w, const tn_graph *graph, int index)
{
    put(w, "name", json_string(graph->outputs[index].name));
    put(w, "value", json_integer(graph->outputs[index].value));
    return true;
}

static bool describe_integers(writer *w, const tn_graph *graph, int index)
{
    put(w, "name", json_string(graph->integers[index].name));
    put(w, "columns", json_integer(graph->integers[index].columns));
    return true;
}

/* The whole as text, freed with free(); NULL: out of memory. */
static char *describe(const tenon_adapter *adapter)
{
    const tn_graph *graph = adapter->graph;
    writer w = {json_object(), false};
    put(&w, "type", json_string(tenon_config_type(adapter->config)));
    put(&w, "in_dim", json_integer(adapter->in_dim));
    put(&w, "out_dim", json_integer(adapter->out_dim));
    put(&w, "prefix_tokens", json_integer(graph->prefix_tokens));
    put(&w, "inputs", list(graph, graph->num_inputs, describe_input));
    put(&w, "integers", list(graph, graph->num_integers, describe_integers));
    put(&w, "outputs", list(graph, graph->num_outputs, describe_output));
    put(&w, "spaces", list(graph, graph->num_spaces, describe_space));
    put(&w, "values", list(graph, graph->num_values, describe_value));
    put(&w, "layers", list(graph, graph->num_layers, describe_layer));
    put(&w, "parameters", list(graph, graph->num_parameters, describe_parameter));
    char *text = w.failed ? NULL : json_dumps(w.object, JSON_PRESERVE_ORDER);
    json_decref(w.object);
    return text;
}

tenon_status tenon_adapter_graph_json(const tenon_adapter *adapter, char *json, size_t capacity, size_t *length,
                                      tenon_error *error)
{
    return tn_deliver_text(describe(adapter), "the graph", json, capacity, length, error);
}
