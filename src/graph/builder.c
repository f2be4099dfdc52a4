/* SPDX-License-Identifier: MIT */
/* The builder: appends layers, values, spaces and parameters to a graph, and remembers the first error. */
#include "graph/builder.h"

#include "core/size.h"
#include "graph/builder_state.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tn_builder_failed(const tenon_builder *builder)
{
    return builder->status != TENON_OK;
}

void tn_builder_set_error(tenon_builder *builder, tenon_status status, const char *message)
{
    if (tn_builder_failed(builder)) return;
    builder->status = status;
    tn_text text = {builder->message, sizeof builder->message, 0};
    tn_text_add(&text, "%s", message); /* cut to fit */
}

void tenon_builder_fail(tenon_builder *builder, const char *format, ...)
{
    tenon_error error;
    va_list args;
    va_start(args, format);
    tn_fail_v(&error, TENON_INVALID, format, args);
    va_end(args);
    tn_builder_set_error(builder, TENON_INVALID, error.message);
}

static void out_of_memory(tenon_builder *builder)
{
    tn_builder_set_error(builder, TENON_NO_MEMORY, "out of memory: a graph of layers cannot be made");
}

int64_t tenon_builder_in_dim(const tenon_builder *builder)
{
    return builder->build->in_dim;
}

int64_t tenon_builder_out_dim(const tenon_builder *builder)
{
    return builder->build->out_dim;
}

void *tenon_builder_context(const tenon_builder *builder)
{
    return builder->build->context;
}

/* ---- arrays that grow ---- */

/* One more entry of `size` bytes at the end of *array, zeroed; NULL after an error. The capacity is the power of two
 * from the count on. */
static void *grow(tenon_builder *builder, void *array_of, int *count, size_t size)
{
    void **array = array_of;
    if (tn_builder_failed(builder)) return NULL;
    if (*count == INT_MAX / 2) {
        out_of_memory(builder);
        return NULL;
    }
    if ((*count & (*count - 1)) == 0) {
        const size_t capacity = *count == 0 ? 1 : 2 * (size_t)*count;
        void *grown = capacity > SIZE_MAX / size ? NULL : realloc(*array, capacity * size);
        if (grown == NULL) {
            out_of_memory(builder);
            return NULL;
        }
        *array = grown;
    }
    char *made = (char *)*array + (size_t)*count * size;
    memset(made, 0, size);
    ++*count;
    return made;
}

/* A copy of text, or NULL after an error. */
static char *copy_text(tenon_builder *builder, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL) out_of_memory(builder);
    return copy;
}

/* ---- values and spaces ---- */

static int add_value(tenon_builder *builder, int space, int64_t width)
{
    tn_graph *graph = builder->graph;
    tn_value *value = grow(builder, &graph->values, &graph->num_values, sizeof *value);
    if (value == NULL) return -1;
    *value = (tn_value){.space = space, .width = width, .input = -1, .layer = -1, .output = -1};
    return builder->last = graph->num_values - 1;
}

static int add_space(tenon_builder *builder, const tn_space *space)
{
    tn_graph *graph = builder->graph;
    tn_space *made = grow(builder, &graph->spaces, &graph->num_spaces, sizeof *made);
    if (made == NULL) return -1;
    *made = *space;
    return graph->num_spaces - 1;
}

const tn_value *tn_builder_value(const tenon_builder *builder, int value)
{
    return &builder->graph->values[value];
}

const tn_space *tn_builder_space(const tenon_builder *builder, int space)
{
    return &builder->graph->spaces[space];
}

static bool check_value(tenon_builder *builder, int value)
{
    if (tn_builder_failed(builder)) return false;
    if (value >= 0 && value < builder->graph->num_values) return true;
    if (value == -1) {
        tenon_builder_fail(builder, "adapter type '%s' reads a value that could not be made", builder->build->type);
    } else {
        tenon_builder_fail(builder, "adapter type '%s' reads value %d; there are values 0 to %d at this point",
                           builder->build->type, value, builder->graph->num_values - 1);
    }
    return false;
}

int tenon_from(tenon_builder *builder, int value)
{
    if (!check_value(builder, value)) return -1;
    return builder->from = value;
}

int64_t tenon_value_width(const tenon_builder *builder, int value)
{
    if (value < 0 || value >= builder->graph->num_values) return 0;
    return builder->graph->values[value].width;
}

/* ---- inputs and outputs ---- */

static int add_input(tenon_builder *builder, const char *name, int64_t width, int space)
{
    tn_graph *graph = builder->graph;
    char *copy = copy_text(builder, name);
    tn_graph_input *input = grow(builder, &graph->inputs, &graph->num_inputs, sizeof *input);
    if (input == NULL) {
        free(copy);
        return -1;
    }
    input->name = copy;
    const int value = add_value(builder, space, width);
    if (value < 0) return -1;
    graph->values[value].input = graph->num_inputs - 1;
    return input->value = value;
}

static bool check_input(tenon_builder *builder, const char *name, int64_t width)
{
    if (tn_builder_failed(builder)) return false;
    if (name == NULL || name[0] == '\0') {
        tenon_builder_fail(builder, "adapter type '%s' declares an input without a name", builder->build->type);
        return false;
    }
    for (int i = 0; i < builder->graph->num_inputs; i++) {
        if (strcmp(builder->graph->inputs[i].name, name) != 0) continue;
        tenon_builder_fail(builder, "adapter type '%s' declares the input '%s' twice", builder->build->type, name);
        return false;
    }
    if (width < 0 || (width == 0 && builder->build->in_dim > 0)) {
        tenon_builder_fail(builder, "input '%s' has width %lld; it must be positive", name, (long long)width);
        return false;
    }
    return true;
}

int tenon_input(tenon_builder *builder, const char *name, int64_t width, tenon_row_order order)
{
    if (!check_input(builder, name, width)) return -1;
    const int input = builder->graph->num_inputs;
    const int space = add_space(
        builder, &(tn_space){.kind = TN_SPACE_INPUT, .parent = -1, .layer = input, .integers = -1, .order = order});
    return space < 0 ? -1 : add_input(builder, name, width, space);
}

int tenon_tap(tenon_builder *builder, const char *name, int64_t width)
{
    if (!check_input(builder, name, width)) return -1;
    return add_input(builder, name, width, builder->graph->values[builder->graph->inputs[0].value].space);
}

int tenon_features(tenon_builder *builder, tenon_row_order order)
{
    if (tn_builder_failed(builder)) return -1;
    tn_graph *graph = builder->graph;
    const int value = graph->inputs[0].value;
    if (graph->num_layers > 0) {
        tenon_builder_fail(builder, "adapter type '%s' sets the order of the features behind a layer",
                           builder->build->type);
        return -1;
    }
    graph->spaces[graph->values[value].space].order = order;
    return value;
}

int tenon_output(tenon_builder *builder, const char *name, int value)
{
    if (!check_value(builder, value)) return -1;
    tn_graph *graph = builder->graph;
    if (name == NULL || name[0] == '\0') {
        tenon_builder_fail(builder, "adapter type '%s' declares an output without a name", builder->build->type);
        return -1;
    }
    for (int i = 0; i < graph->num_outputs; i++) {
        if (strcmp(graph->outputs[i].name, name) != 0) continue;
        tenon_builder_fail(builder, "adapter type '%s' declares the output '%s' twice", builder->build->type, name);
        return -1;
    }
    char *copy = copy_text(builder, name);
    tn_graph_output *output = grow(builder, &graph->outputs, &graph->num_outputs, sizeof *output);
    if (output == NULL) {
        free(copy);
        return -1;
    }
    *output = (tn_graph_output){copy, value};
    return value;
}

int tenon_integers(tenon_builder *builder, const char *name, int64_t columns)
{
    if (tn_builder_failed(builder)) return -1;
    tn_graph *graph = builder->graph;
    if (name == NULL || name[0] == '\0' || columns < 0) {
        tenon_builder_fail(builder, "adapter type '%s' declares an integer tensor without a name, or with %lld columns",
                           builder->build->type, (long long)columns);
        return -1;
    }
    for (int i = 0; i < graph->num_integers; i++) {
        if (strcmp(graph->integers[i].name, name) == 0) return i;
    }
    char *copy = copy_text(builder, name);
    tn_graph_integers *integers = grow(builder, &graph->integers, &graph->num_integers, sizeof *integers);
    if (integers == NULL) {
        free(copy);
        return -1;
    }
    *integers = (tn_graph_integers){copy, columns};
    return graph->num_integers - 1;
}

/* ---- layers ---- */

int tn_builder_next(const tenon_builder *builder)
{
    return builder->from >= 0 ? builder->from : builder->last;
}

/* The inputs of a layer, checked and counted, in an array of its own; NULL after an error. */
static int *take_inputs(tenon_builder *builder, const tn_append *append, int count)
{
    const int from = tn_builder_next(builder);
    const int *given = append->num_inputs > 0 ? append->inputs : &from;
    builder->from = -1;
    for (int i = 0; i < count; i++) {
        if (!check_value(builder, given[i])) return NULL;
    }
    int *inputs = calloc((size_t)count + 1, sizeof *inputs);
    if (inputs == NULL) {
        out_of_memory(builder);
        return NULL;
    }
    for (int i = 0; i < count; i++) {
        inputs[i] = given[i];
        builder->graph->values[given[i]].readers++;
    }
    return inputs;
}

static tn_layer *fill_layer(tenon_builder *builder, tn_layer *layer, const tn_append *append)
{
    tn_graph *graph = builder->graph;
    layer->type = append->type;
    layer->output = -1;
    layer->first_parameter = graph->num_parameters;
    layer->name = copy_text(builder, append->name);
    if (append->own_size > 0 && (layer->own = calloc(1, append->own_size)) == NULL) out_of_memory(builder);
    const int count = append->num_inputs == 0 ? 1 : append->num_inputs < 0 ? 0 : append->num_inputs;
    layer->inputs = take_inputs(builder, append, count);
    if (tn_builder_failed(builder)) return NULL;
    layer->num_inputs = count;
    if (count > 0) layer->in_dim = layer->out_dim = graph->values[layer->inputs[0]].width;
    return layer;
}

tn_layer *tn_builder_append(tenon_builder *builder, const tn_append *append)
{
    tn_graph *graph = builder->graph;
    if (tn_builder_failed(builder)) return NULL;
    if (append->name == NULL) {
        tenon_builder_fail(builder, "adapter type '%s' has a %s layer whose name is NULL", builder->build->type,
                           append->type->name);
        return NULL;
    }
    tn_layer *layer = calloc(1, sizeof *layer);
    tn_layer **place = layer != NULL ? grow(builder, &graph->layers, &graph->num_layers, sizeof *graph->layers) : NULL;
    if (place == NULL) {
        free(layer);
        out_of_memory(builder);
        return NULL;
    }
    *place = layer;
    return fill_layer(builder, layer, append);
}

/* Row layers stay within a space, into which shared values are broadcast. -1: an error. */
static int common_space(tenon_builder *builder, const tn_layer *layer)
{
    const tn_graph *graph = builder->graph;
    int found = graph->values[layer->inputs[0]].space;
    for (int i = 1; i < layer->num_inputs; i++) {
        const int space = graph->values[layer->inputs[i]].space;
        if (graph->spaces[found].kind == TN_SPACE_SHARED) found = space;
        if (space == found || graph->spaces[space].kind == TN_SPACE_SHARED) continue;
        tenon_builder_fail(
            builder,
            "layer %d (%s '%s') of adapter type '%s' reads values %d and %d, whose rows are not the same: "
            "one has the rows of space %d, the other those of space %d",
            graph->num_layers - 1, layer->type->name, tn_quote(layer->name).text, builder->build->type,
            layer->inputs[0], layer->inputs[i], found, space);
        return -1;
    }
    return found;
}

int tn_builder_finish_in(tenon_builder *builder, tn_layer *layer, int space)
{
    if (tn_builder_failed(builder) || layer == NULL || space < 0) return -1;
    const int value = add_value(builder, space, layer->out_dim);
    if (value < 0) return -1;
    builder->graph->values[value].layer = builder->graph->num_layers - 1;
    return layer->output = value;
}

int tn_builder_finish(tenon_builder *builder, tn_layer *layer)
{
    if (tn_builder_failed(builder) || layer == NULL) return -1;
    return tn_builder_finish_in(builder, layer, common_space(builder, layer));
}

void tn_builder_flags(tenon_builder *builder, unsigned flags, unsigned known)
{
    if ((flags & ~known) == 0) return;
    tenon_builder_fail(builder, "adapter type '%s' gives a layer flags %#x, of which it knows %#x",
                       builder->build->type, flags, known);
}

/* ---- spaces of layers ---- */

static bool same_windows(const tn_space *a, const tn_space *b)
{
    return a->kind == b->kind && a->parent == b->parent && a->windows.side == b->windows.side &&
           a->windows.ragged == b->windows.ragged && a->windows.is_pool == b->windows.is_pool &&
           a->windows.transposed == b->windows.transposed;
}

int tn_builder_windows_by(tenon_builder *builder, int parent, const tn_window_rule *rule, const char *ragged)
{
    const int64_t side = rule->side;
    tenon_error error;
    tn_space space = {.kind = TN_SPACE_WINDOWS, .parent = parent, .layer = -1, .integers = -1, .windows = *rule};
    if (tn_builder_failed(builder)) return -1;
    if (ragged == NULL) {
        tenon_builder_fail(builder, "adapter type '%s' has a window layer whose ragged is NULL", builder->build->type);
    } else if (side <= 0) {
        tenon_builder_fail(builder, "`pool_window` must be positive (got %lld)", (long long)side);
    } else if (tn_ragged_from_name(ragged, &space.windows.ragged, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
    } else if (builder->graph->spaces[parent].kind == TN_SPACE_SHARED) {
        tenon_builder_fail(builder, "adapter type '%s' has windows over rows of a parameter, which are no grid",
                           builder->build->type);
    }
    if (tn_builder_failed(builder)) return -1;
    for (int i = 0; i < builder->graph->num_spaces; i++) {
        if (same_windows(&builder->graph->spaces[i], &space)) return i;
    }
    return add_space(builder, &space);
}

int tn_builder_shared(tenon_builder *builder, int64_t rows)
{
    if (tn_builder_failed(builder)) return -1;
    for (int i = 0; i < builder->graph->num_spaces; i++) {
        const tn_space *space = &builder->graph->spaces[i];
        if (space->kind == TN_SPACE_SHARED && space->rows == rows) return i;
    }
    return add_space(builder,
                     &(tn_space){.kind = TN_SPACE_SHARED, .parent = -1, .layer = -1, .integers = -1, .rows = rows});
}

int tn_builder_windows(tenon_builder *builder, int parent, int64_t side, const char *ragged, bool is_pool)
{
    return tn_builder_windows_by(builder, parent, &(tn_window_rule){.side = side, .is_pool = is_pool}, ragged);
}

int tn_builder_layer_space(tenon_builder *builder, const tn_layer *layer)
{
    if (tn_builder_failed(builder) || layer == NULL) return -1;
    return add_space(builder, &(tn_space){.kind = TN_SPACE_LAYER,
                                          .parent = builder->graph->values[layer->inputs[0]].space,
                                          .layer = builder->graph->num_layers - 1,
                                          .integers = -1});
}

bool tn_builder_check_integers(tenon_builder *builder, int integers, int64_t columns)
{
    const tn_graph *graph = builder->graph;
    if (integers < 0 || integers >= graph->num_integers) {
        tenon_builder_fail(builder, "adapter type '%s' reads integer tensor %d; it has declared %d",
                           builder->build->type, integers, graph->num_integers);
        return false;
    }
    if (columns == 0 || graph->integers[integers].columns == columns) return true;
    tenon_builder_fail(builder, "adapter type '%s' declares '%s' with %lld columns; its layer reads %lld",
                       builder->build->type, graph->integers[integers].name,
                       (long long)graph->integers[integers].columns, (long long)columns);
    return false;
}

int tn_builder_map(tenon_builder *builder, int parent, int integers)
{
    if (tn_builder_failed(builder) || !tn_builder_check_integers(builder, integers, 0)) return -1;
    if (builder->graph->spaces[parent].kind == TN_SPACE_SHARED) {
        tenon_builder_fail(builder, "adapter type '%s' has a map over rows that are made of parameters alone",
                           builder->build->type);
        return -1;
    }
    for (int i = 0; i < builder->graph->num_spaces; i++) {
        const tn_space *space = &builder->graph->spaces[i];
        if (space->kind == TN_SPACE_MAP && space->parent == parent && space->integers == integers) return i;
    }
    return add_space(builder, &(tn_space){.kind = TN_SPACE_MAP, .parent = parent, .layer = -1, .integers = integers});
}

/* ---- parameters ---- */

static bool name_is_taken(const tn_graph *graph, const char *name)
{
    for (int i = 0; i < graph->num_parameters; i++) {
        if (strcmp(graph->parameters[i].name, name) == 0) return true;
    }
    return false;
}

static char *parameter_name(tenon_builder *builder, const char *layer, const char *suffix)
{
    const size_t length = strlen(layer) + strlen(suffix) + 2;
    char *name = malloc(length);
    if (name == NULL) {
        out_of_memory(builder);
        return NULL;
    }
    snprintf(name, length, "%s%s%s", layer, layer[0] != '\0' && suffix[0] != '\0' ? "." : "", suffix);
    return name;
}

void tn_builder_parameter(tenon_builder *builder, const char *suffix, const tn_parameter_spec *spec)
{
    tn_graph *graph = builder->graph;
    size_t bytes;
    if (tn_builder_failed(builder)) return;
    tn_layer *layer = graph->layers[graph->num_layers - 1];
    char *name = parameter_name(builder, layer->name, suffix);
    if (name == NULL) return;
    if (!tn_shape_bytes(spec->ndim, spec->shape, sizeof(double), &bytes)) {
        tenon_builder_fail(builder, "parameter '%s' of shape %s has too many elements for 64 bits", tn_quote(name).text,
                           tn_shape_to_text(spec->ndim, spec->shape).text);
    } else if (name_is_taken(graph, name)) {
        tenon_builder_fail(builder, "adapter type '%s' declares parameter '%s' twice", builder->build->type,
                           tn_quote(name).text);
    }
    tn_parameter_spec *made = grow(builder, &graph->parameters, &graph->num_parameters, sizeof *made);
    if (made == NULL) {
        free(name);
        return;
    }
    *made = *spec;
    made->name = name;
    layer->num_parameters++;
}

void tn_builder_matrix(tenon_builder *builder, const char *suffix, int64_t rows, int64_t cols)
{
    tn_builder_parameter(
        builder, suffix,
        &(tn_parameter_spec){
            .ndim = 2, .shape = {rows, cols}, .initial = TN_INITIAL_WEIGHT, .fan_in = cols, .decays = true});
}

void tn_builder_vector(tenon_builder *builder, const char *suffix, int64_t size, int64_t fan_in)
{
    tn_builder_parameter(
        builder, suffix,
        &(tn_parameter_spec){.ndim = 1, .shape = {size}, .initial = TN_INITIAL_BIAS, .fan_in = fan_in});
}

/* ---- the whole ---- */

/* The tokens are the last value, unless an output says otherwise; they come first. */
static void place_tokens(tenon_builder *builder)
{
    tn_graph *graph = builder->graph;
    int tokens = -1;
    for (int i = 0; i < graph->num_outputs; i++) {
        if (strcmp(graph->outputs[i].name, "tokens") == 0) tokens = i;
    }
    if (tokens < 0) {
        if (tenon_output(builder, "tokens", builder->graph->layers[graph->num_layers - 1]->output) < 0) return;
        tokens = graph->num_outputs - 1;
    }
    const tn_graph_output first = graph->outputs[tokens];
    memmove(graph->outputs + 1, graph->outputs, (size_t)tokens * sizeof first);
    graph->outputs[0] = first;
}

/* An output is made by a layer and read by nobody else: where it is not so, a layer that copies makes it. */
static void separate_outputs(tenon_builder *builder)
{
    tn_graph *graph = builder->graph;
    for (int i = 0; i < graph->num_outputs; i++) {
        int value = graph->outputs[i].value;
        const tn_value *v = &graph->values[value];
        if (graph->spaces[v->space].kind == TN_SPACE_SHARED) {
            tenon_builder_fail(builder, "output '%s' of adapter type '%s' is made of parameters alone",
                               tn_quote(graph->outputs[i].name).text, builder->build->type);
        }
        if (v->layer < 0 || v->readers > 0 || v->output >= 0) {
            tenon_from(builder, value);
            value = tenon_copy(builder);
        }
        if (tn_builder_failed(builder)) return;
        graph->outputs[i].value = value;
        graph->values[value].output = i;
    }
}

static void check_graph(tenon_builder *builder)
{
    const tn_graph *graph = builder->graph;
    if (graph->num_layers == 0) {
        tenon_builder_fail(builder, "adapter type '%s' has no layers", builder->build->type);
        return;
    }
    place_tokens(builder);
    if (tn_builder_failed(builder)) return;
    const int64_t made = graph->values[graph->outputs[0].value].width;
    if (builder->build->out_dim > 0 && made != builder->build->out_dim) {
        tenon_builder_fail(builder, "adapter type '%s' makes tokens of width %lld; expected `out_dim` %lld",
                           builder->build->type, (long long)made, (long long)builder->build->out_dim);
        return;
    }
    separate_outputs(builder);
    for (int i = 0; i < graph->num_values && !tn_builder_failed(builder); i++) {
        const tn_value *value = &graph->values[i];
        if (value->layer < 0 || value->readers > 0 || value->output >= 0) continue;
        tenon_builder_fail(builder, "adapter type '%s' makes value %d (%s '%s'), which nothing reads",
                           builder->build->type, i, graph->layers[value->layer]->type->name,
                           tn_quote(graph->layers[value->layer]->name).text);
    }
}

tenon_status tn_graph_build(tn_graph **graph, tn_options *read, const tn_build *build, tenon_error *error)
{
    tn_graph *made = calloc(1, sizeof *made);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a graph of layers cannot be made");
    tenon_builder builder = {.graph = made, .build = build, .read = read, .status = TENON_OK, .from = -1};
    const tn_option *prefix_tokens = tn_options_find(build->options, "prefix_tokens");
    made->prefix_tokens = prefix_tokens != NULL ? prefix_tokens->integer : 0;
    tenon_input(&builder, "features", build->in_dim, TENON_ROWS_RASTER);
    build->function(&builder);
    if (!tn_builder_failed(&builder)) check_graph(&builder);
    if (tn_builder_failed(&builder)) {
        tn_graph_free(made);
        return tn_fail(error, builder.status, "%s", builder.message);
    }
    *graph = made;
    return TENON_OK;
}
