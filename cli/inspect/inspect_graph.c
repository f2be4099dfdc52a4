/* SPDX-License-Identifier: MIT */
/* The graph of a connector as tenon inspect draws it: a table of spaces and one of values, or Graphviz. Both are made
 * from the library's JSON. */
#include "inspect.h"

#include "report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *tn_graph_json(const tenon_adapter *adapter)
{
    size_t length = 0;
    if (tenon_adapter_graph_json(adapter, NULL, 0, &length, NULL) != TENON_OK) return NULL;
    char *text = malloc(length + 1);
    json_t *graph = NULL;
    if (text != NULL && tenon_adapter_graph_json(adapter, text, length + 1, &length, NULL) == TENON_OK)
        graph = json_loadb(text, length, 0, NULL);
    free(text);
    return graph;
}

static json_int_t number(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

/* "" where there is none. */
static const char *word(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static const json_t *item(const json_t *graph, const char *list, size_t index)
{
    return json_array_get(json_object_get(graph, list), index);
}

/* The layer that makes a value; NULL: it is an input or a parameter. */
static const json_t *layer_of(const json_t *graph, const json_t *value)
{
    return json_object_get(value, "layer") ? item(graph, "layers", (size_t)number(value, "layer")) : NULL;
}

/* Adds to a text that ends where its memory does. */
static void TENON_PRINTF(2, 3) add(char text[256], const char *format, ...)
{
    const size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, 256 - used, format, arguments);
    va_end(arguments);
}

/* ---- what things are called ---- */

/* The input that lies in a space: the first of those that share it. */
static const char *input_in(const json_t *graph, size_t space)
{
    size_t index;
    const json_t *value;
    json_array_foreach(json_object_get(graph, "values"), index, value)
    {
        if (json_object_get(value, "input") && (size_t)number(value, "space") == space) return word(value, "input");
    }
    return "";
}

static void name_space(char text[256], const json_t *graph, size_t index)
{
    const json_t *space = item(graph, "spaces", index);
    const char *kind = word(space, "kind");
    text[0] = '\0';
    if (!strcmp(kind, "input"))
        add(text, "%s, %s", tn_name_text(input_in(graph, index)),
            strcmp(word(space, "order"), "blocks") ? "row by row" : "block by block");
    else if (!strcmp(kind, "shared"))
        add(text, "%" JSON_INTEGER_FORMAT " rows made of parameters, the same for all images", number(space, "rows"));
    else if (!strcmp(kind, "windows"))
        add(text,
            "windows of %" JSON_INTEGER_FORMAT "x%" JSON_INTEGER_FORMAT " over space %" JSON_INTEGER_FORMAT
            ", ragged %s%s%s",
            number(space, "side"), number(space, "side"), number(space, "parent"), word(space, "ragged"),
            json_is_true(json_object_get(space, "is_pool")) ? ", the pooling window" : "",
            json_is_true(json_object_get(space, "transposed")) ? ", column by column" : "");
    else if (!strcmp(kind, "map"))
        add(text, "rows of '%s' over space %" JSON_INTEGER_FORMAT, tn_name_text(word(space, "integers")),
            number(space, "parent"));
    else
        add(text, "made by %s of space %" JSON_INTEGER_FORMAT,
            word(item(graph, "layers", (size_t)number(space, "layer")), "type"), number(space, "parent"));
}

/* "heads 16, bias": what is false is left out. */
static void add_settings(char text[256], const json_t *layer)
{
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(layer, "settings"), name, value)
    {
        if (json_is_true(value)) add(text, ", %s", name);
        if (json_is_string(value)) add(text, ", %s", json_string_value(value));
        if (json_is_number(value)) add(text, ", %s %g", name, json_number_value(value));
    }
}

/* The output that a value is; NULL: none. */
static const char *output_of(const json_t *graph, size_t value)
{
    size_t index;
    const json_t *output;
    json_array_foreach(json_object_get(graph, "outputs"), index, output)
    {
        if ((size_t)number(output, "value") == value) return word(output, "name");
    }
    return NULL;
}

/* "linear proj, bias" or "input features". */
static void name_value(char text[256], const json_t *graph, size_t index)
{
    const json_t *value = item(graph, "values", index), *layer = layer_of(graph, value);
    text[0] = '\0';
    if (layer == NULL) {
        add(text, "input %s", tn_name_text(word(value, "input")));
        return;
    }
    add(text, "%s", word(layer, "type"));
    const bool is_named = json_array_size(json_object_get(layer, "parameters")) > 0;
    if (is_named && *word(layer, "name")) add(text, " %s", tn_name_text(word(layer, "name")));
    add_settings(text, layer);
}

/* "row of 0, 2": what a row of the layer's result reads. */
static void name_inputs(char text[256], const json_t *layer)
{
    size_t index;
    const json_t *value;
    text[0] = '\0';
    if (layer && json_array_size(json_object_get(layer, "inputs")) > 0) add(text, "%s of ", word(layer, "reach"));
    json_array_foreach(json_object_get(layer, "inputs"), index, value)
        add(text, "%s%" JSON_INTEGER_FORMAT, index ? ", " : "", json_integer_value(value));
}

/* Calls `show` with each parameter of a layer. */
static void each_parameter(const json_t *layer, const tenon_adapter *adapter, void (*show)(const tenon_parameter *))
{
    size_t i;
    const json_t *name;
    json_array_foreach(json_object_get(layer, "parameters"), i, name)
    {
        int64_t index;
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        if (tenon_adapter_find_parameter(adapter, json_string_value(name), &index, NULL) == TENON_OK &&
            tenon_adapter_parameter(adapter, index, &parameter, NULL) == TENON_OK)
            show(&parameter);
    }
}

/* ---- the drawing ---- */

static void print_parameter(const tenon_parameter *parameter)
{
    const char *dtype = tenon_dtype_name(parameter->dtype);
    printf("%38s%-24s %-4s %s\n", "", tn_name_text(parameter->name), dtype ? dtype : "-",
           tn_shape_text(parameter->ndim, parameter->shape));
}

void tn_graph_text(const json_t *graph, const tenon_adapter *adapter)
{
    char text[256], inputs[256];
    printf("\nspace  its rows\n");
    for (size_t i = 0; i < json_array_size(json_object_get(graph, "spaces")); i++) {
        name_space(text, graph, i);
        printf("%5zu  %s\n", i, text);
    }
    printf("\nvalue  space   width  reads         made by\n");
    for (size_t i = 0; i < json_array_size(json_object_get(graph, "values")); i++) {
        const json_t *value = item(graph, "values", i), *layer = layer_of(graph, value);
        const char *output = output_of(graph, i);
        name_value(text, graph, i);
        name_inputs(inputs, layer);
        printf("%5zu  %5" JSON_INTEGER_FORMAT "  %6" JSON_INTEGER_FORMAT "  %-12s  %s", i, number(value, "space"),
               number(value, "width"), inputs, text);
        if (output) printf(" -> %s", tn_name_text(output));
        printf("\n");
        each_parameter(layer, adapter, print_parameter);
    }
}

/* ---- Graphviz ---- */

/* Text inside the quotes of Graphviz. */
static void print_quoted(const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar(*text);
    }
}

static void print_parameter_line(const tenon_parameter *parameter)
{
    printf("\\n");
    print_quoted(tn_name_text(parameter->name));
    printf(" %s", tn_shape_text(parameter->ndim, parameter->shape));
}

static void print_node(const json_t *graph, const tenon_adapter *adapter, size_t index)
{
    const json_t *value = item(graph, "values", index), *layer = layer_of(graph, value);
    char text[256];
    name_value(text, graph, index);
    printf("    v%zu [shape=%s, label=\"", index, layer ? "box" : "ellipse");
    print_quoted(text);
    printf("\\nwidth %" JSON_INTEGER_FORMAT, number(value, "width"));
    each_parameter(layer, adapter, print_parameter_line);
    printf("\"];\n");
}

/* The values of a space in a frame of their own. */
static void print_cluster(const json_t *graph, const tenon_adapter *adapter, size_t space)
{
    char text[256];
    name_space(text, graph, space);
    printf("  subgraph cluster_%zu {\n    label=\"space %zu: ", space, space);
    print_quoted(text);
    printf("\";\n");
    for (size_t i = 0; i < json_array_size(json_object_get(graph, "values")); i++) {
        if ((size_t)number(item(graph, "values", i), "space") == space) print_node(graph, adapter, i);
    }
    printf("  }\n");
}

void tn_graph_dot(const json_t *graph, const tenon_adapter *adapter)
{
    size_t i, j;
    const json_t *layer, *output, *input;
    printf("digraph \"");
    print_quoted(word(graph, "type"));
    printf("\" {\n  node [fontname=\"monospace\"];\n");
    for (i = 0; i < json_array_size(json_object_get(graph, "spaces")); i++)
        print_cluster(graph, adapter, i);
    json_array_foreach(json_object_get(graph, "layers"), i, layer)
    {
        json_array_foreach(json_object_get(layer, "inputs"), j, input)
            printf("  v%" JSON_INTEGER_FORMAT " -> v%" JSON_INTEGER_FORMAT ";\n", json_integer_value(input),
                   number(layer, "output"));
    }
    json_array_foreach(json_object_get(graph, "outputs"), i, output)
    {
        printf("  output_%zu [shape=ellipse, label=\"", i);
        print_quoted(tn_name_text(word(output, "name")));
        printf("\"];\n  v%" JSON_INTEGER_FORMAT " -> output_%zu;\n", number(output, "value"), i);
    }
    printf("}\n");
}
