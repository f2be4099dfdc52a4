/* SPDX-License-Identifier: MIT */
/* The builder: collects layers and parameters, and remembers the first error. */
#include "core/size.h"
#include "layers/layer.h"
#include <stdio.h>
#include <string.h>

struct tenon_builder {
    tn_list *list;
    const tn_build *build;
    tn_options *read; /* what the builder function asked for, with the values it got */
    tenon_status status;
    char message[512];
};

bool tn_builder_failed(const tenon_builder *builder)
{
    return builder->status != TENON_OK;
}

static void fail(tenon_builder *builder, tenon_status status, const char *message)
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
    fail(builder, TENON_INVALID, error.message);
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

/* The option as it is set, or the fallback; recorded as what the builder got. NULL: use the fallback. */
static const tn_option *read_option(tenon_builder *builder, const char *name, const tn_option *fallback)
{
    tenon_error error;
    if (name == NULL) {
        tenon_builder_fail(builder, "adapter type '%s' reads an option without a name", builder->build->type);
        return NULL;
    }
    const tn_option *option = tn_options_find(builder->build->options, name);
    tenon_status status = tn_option_check_name(name, &error);
    if (status == TENON_OK && (option != NULL || fallback->kind != TN_OPTION_STRING || fallback->string != NULL)) {
        status = tn_options_set(builder->read, name, option != NULL ? option : fallback, &error);
    }
    if (status != TENON_OK) fail(builder, status, error.message);
    return option;
}

static void wrong_kind(tenon_builder *builder, const tn_option *option, tn_option_kind expected)
{
    tenon_builder_fail(builder, "option '%s' of adapter type '%s' is %s; expected %s", option->name,
                       builder->build->type, tn_option_kind_name(option->kind), tn_option_kind_name(expected));
}

int64_t tenon_option_int(tenon_builder *builder, const char *name, int64_t fallback)
{
    const tn_option *option = read_option(builder, name, &(tn_option){.kind = TN_OPTION_INT, .integer = fallback});
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_INT) return option->integer;
    wrong_kind(builder, option, TN_OPTION_INT);
    return fallback;
}

double tenon_option_real(tenon_builder *builder, const char *name, double fallback)
{
    const tn_option *option = read_option(builder, name, &(tn_option){.kind = TN_OPTION_REAL, .real = fallback});
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_REAL) return option->real;
    if (option->kind == TN_OPTION_INT) return (double)option->integer; /* 5 is a real number too */
    wrong_kind(builder, option, TN_OPTION_REAL);
    return fallback;
}

const char *tenon_option_string(tenon_builder *builder, const char *name, const char *fallback)
{
    const tn_option value = {.kind = TN_OPTION_STRING, .string = (char *)(uintptr_t)fallback}; /* only read, copied */
    const tn_option *option = read_option(builder, name, &value);
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_STRING) return option->string;
    wrong_kind(builder, option, TN_OPTION_STRING);
    return fallback;
}

tn_layer *tn_builder_append(tenon_builder *builder, const tn_layer_type *type, const char *name)
{
    tn_list *list = builder->list;
    if (tn_builder_failed(builder)) return NULL;
    if (name == NULL) {
        tenon_builder_fail(builder, "adapter type '%s' has a %s layer whose name is NULL", builder->build->type,
                           type->name);
        return NULL;
    }
    if (list->num_layers == TN_MAX_LAYERS) {
        tenon_builder_fail(builder, "adapter type '%s' has more than %d layers", builder->build->type, TN_MAX_LAYERS);
        return NULL;
    }
    if (strlen(name) >= TN_MAX_NAME) {
        tenon_builder_fail(builder, "layer name '%s' is longer than %d bytes", tn_quote(name).text, TN_MAX_NAME - 1);
        return NULL;
    }
    const int index = list->num_layers++;
    tn_layer *layer = &list->layers[index];
    *layer = (tn_layer){.type = type, .input = index, .output = index + 1};
    strcpy(layer->name, name);
    layer->in_dim = index > 0 ? list->layers[index - 1].out_dim : builder->build->in_dim;
    layer->first_parameter = list->num_parameters;
    return layer;
}

static bool name_is_taken(const tn_list *list, const char *name)
{
    for (int64_t i = 0; i < list->num_parameters; i++) {
        if (strcmp(list->parameters[i].name, name) == 0) return true;
    }
    return false;
}

static void declare(tenon_builder *builder, const char *suffix, tn_parameter_spec spec)
{
    tn_list *list = builder->list;
    if (tn_builder_failed(builder)) return;
    tn_layer *layer = &list->layers[list->num_layers - 1];
    snprintf(spec.name, sizeof spec.name, "%s%s%s", layer->name, layer->name[0] != '\0' ? "." : "", suffix);
    size_t bytes;
    if (!tn_shape_bytes(spec.ndim, spec.shape, sizeof(double), &bytes)) {
        tenon_builder_fail(builder, "parameter '%s' of shape %s has too many elements for 64 bits", spec.name,
                           tn_shape_to_text(spec.ndim, spec.shape).text);
    } else if (name_is_taken(list, spec.name)) {
        tenon_builder_fail(builder, "adapter type '%s' declares parameter '%s' twice", builder->build->type, spec.name);
    } else {
        list->parameters[list->num_parameters++] = spec;
        layer->num_parameters++;
    }
}

void tn_builder_matrix(tenon_builder *builder, const char *suffix, int64_t rows, int64_t cols)
{
    declare(builder, suffix, (tn_parameter_spec){.ndim = 2, .shape = {rows, cols}, .fan_in = cols});
}

void tn_builder_vector(tenon_builder *builder, const char *suffix, int64_t size, int64_t fan_in)
{
    declare(builder, suffix, (tn_parameter_spec){.ndim = 1, .shape = {size, 0}, .fan_in = fan_in});
}

tenon_status tn_ragged_from_name(const char *name, tn_ragged *ragged, tenon_error *error)
{
    static const char *const names[] = {
        [TN_RAGGED_REJECT] = "reject", [TN_RAGGED_PARTIAL] = "partial", [TN_RAGGED_DROP] = "drop"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(names[i], name) == 0) {
            *ragged = (tn_ragged)i;
            return TENON_OK;
        }
    }
    return tn_fail(error, TENON_INVALID, "unknown ragged '%s'; options: reject, partial, drop", tn_quote(name).text);
}

void tn_builder_flags(tenon_builder *builder, unsigned flags, unsigned known)
{
    if ((flags & ~known) == 0) return;
    tenon_builder_fail(builder, "adapter type '%s' gives a layer flags %#x, of which it knows %#x",
                       builder->build->type, flags, known);
}

void tn_builder_window(tenon_builder *builder, tn_layer *layer, int64_t window, const char *ragged)
{
    tenon_error error;
    if (ragged == NULL) {
        tenon_builder_fail(builder, "adapter type '%s' has a window layer whose ragged is NULL", builder->build->type);
    } else if (window <= 0) {
        tenon_builder_fail(builder, "pool_window must be positive (got %lld)", (long long)window);
    } else if (tn_ragged_from_name(ragged, &layer->ragged, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
    }
    layer->window = window;
}

static void check_list(tenon_builder *builder)
{
    const tn_list *list = builder->list;
    if (list->num_layers == 0) {
        tenon_builder_fail(builder, "adapter type '%s' has no layers", builder->build->type);
        return;
    }
    const int64_t made = list->layers[list->num_layers - 1].out_dim;
    if (builder->build->out_dim > 0 && made != builder->build->out_dim) {
        tenon_builder_fail(builder, "adapter type '%s' makes tokens of width %lld; expected out_dim %lld",
                           builder->build->type, (long long)made, (long long)builder->build->out_dim);
    }
    int windows = 0;
    for (int i = 0; i < list->num_layers; i++)
        windows += list->layers[i].type->reach == TN_REACH_WINDOW;
    if (windows > TN_MAX_WINDOWS) {
        tenon_builder_fail(builder, "adapter type '%s' has %d window layers; at most %d are supported",
                           builder->build->type, windows, TN_MAX_WINDOWS);
    }
}

tenon_status tn_list_build(tn_list *list, tn_options *read, const tn_build *build, tenon_error *error)
{
    tenon_builder builder = {.list = list, .build = build, .read = read, .status = TENON_OK};
    list->num_layers = 0;
    list->num_parameters = 0;
    const tn_option *prefix_tokens = tn_options_find(build->options, "prefix_tokens");
    list->prefix_tokens = prefix_tokens != NULL ? prefix_tokens->integer : 0;
    build->function(&builder);
    if (!tn_builder_failed(&builder)) check_list(&builder);
    return tn_builder_failed(&builder) ? tn_fail(error, builder.status, "%s", builder.message) : TENON_OK;
}
