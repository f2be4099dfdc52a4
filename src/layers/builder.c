/* The builder: collects layers and parameters, and remembers the first error. */
#include "core/size.h"
#include "layers/layer.h"
#include <stdio.h>
#include <string.h>

struct tenon_builder {
    tn_list *list;
    const char *type;
    const tn_options *options;
    tn_options read; /* what the builder function asked for, with the values it got */
    int64_t in_dim, out_dim;
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
    return builder->in_dim;
}

int64_t tenon_builder_out_dim(const tenon_builder *builder)
{
    return builder->out_dim;
}

/* Looks an option up for reading as `kind`, and records what the builder gets; NULL: use the fallback. */
static const tn_option *read_option(tenon_builder *builder, const char *name, const tn_option *fallback)
{
    const tn_option *option = tn_options_find(builder->options, name);
    tenon_error error;
    const tenon_status status = tn_options_set(&builder->read, name, option != NULL ? option : fallback, &error);
    if (status != TENON_OK) fail(builder, status, error.message);
    if (option != NULL && option->kind != fallback->kind) {
        tenon_builder_fail(builder, "option '%s' of adapter type '%s' is %s; expected %s", name, builder->type,
                           tn_option_kind_name(option->kind), tn_option_kind_name(fallback->kind));
        return NULL;
    }
    return option;
}

int64_t tenon_option_int(tenon_builder *builder, const char *name, int64_t fallback)
{
    const tn_option value = {.kind = TN_OPTION_INT, .integer = fallback};
    const tn_option *option = read_option(builder, name, &value);
    return option != NULL ? option->integer : fallback;
}

double tenon_option_real(tenon_builder *builder, const char *name, double fallback)
{
    const tn_option value = {.kind = TN_OPTION_REAL, .real = fallback};
    const tn_option *option = read_option(builder, name, &value);
    return option != NULL ? option->real : fallback;
}

const char *tenon_option_string(tenon_builder *builder, const char *name, const char *fallback)
{
    const tn_option value = {.kind = TN_OPTION_STRING, .string = (char *)(uintptr_t)fallback}; /* only read, copied */
    const tn_option *option = read_option(builder, name, &value);
    return option != NULL ? option->string : fallback;
}

tn_layer *tn_builder_append(tenon_builder *builder, const tn_layer_type *type, const char *name)
{
    tn_list *list = builder->list;
    if (tn_builder_failed(builder)) return NULL;
    if (list->num_layers == TN_MAX_LAYERS) {
        tenon_builder_fail(builder, "adapter type '%s' has more than %d layers", builder->type, TN_MAX_LAYERS);
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
    layer->in_dim = index > 0 ? list->layers[index - 1].out_dim : builder->in_dim;
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
        tenon_builder_fail(builder, "adapter type '%s' declares parameter '%s' twice", builder->type, spec.name);
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

void tn_builder_window(tenon_builder *builder, tn_layer *layer, int64_t window, const char *ragged)
{
    tenon_error error;
    if (window <= 0) {
        tenon_builder_fail(builder, "pool_window must be positive (got %lld)", (long long)window);
    } else if (tn_ragged_from_name(ragged, &layer->ragged, &error) != TENON_OK) {
        tenon_builder_fail(builder, "%s", error.message);
    }
    layer->window = window;
}

/* An option that nobody read is a mistake, except for the fields that every config carries. */
static void check_options_were_read(tenon_builder *builder)
{
    static const char *const carried[] = {"hidden_dim", "activation", "pool_window", "pool_heads", "strip"};
    for (size_t i = 0; i < builder->options->count; i++) {
        const char *name = builder->options->items[i].name;
        bool known = tn_options_find(&builder->read, name) != NULL;
        for (size_t j = 0; j < sizeof carried / sizeof carried[0]; j++)
            known = known || strcmp(carried[j], name) == 0;
        if (known) continue;
        char names[256] = "";
        tn_text text = {names, sizeof names, 0};
        for (size_t j = 0; j < builder->read.count; j++)
            tn_text_add(&text, "%s, ", builder->read.items[j].name);
        tenon_builder_fail(builder, "adapter type '%s' has no option '%s'; it has %sstrip", builder->type,
                           tn_quote(name).text, names);
        return;
    }
}

static void check_list(tenon_builder *builder)
{
    const tn_list *list = builder->list;
    if (list->num_layers == 0) {
        tenon_builder_fail(builder, "adapter type '%s' has no layers", builder->type);
        return;
    }
    const int64_t made = list->layers[list->num_layers - 1].out_dim;
    if (builder->out_dim > 0 && made != builder->out_dim) {
        tenon_builder_fail(builder, "adapter type '%s' makes tokens of width %lld; expected out_dim %lld",
                           builder->type, (long long)made, (long long)builder->out_dim);
    }
    int windows = 0;
    for (int i = 0; i < list->num_layers; i++)
        windows += list->layers[i].type->reach == TN_REACH_WINDOW;
    if (windows > TN_MAX_WINDOWS) {
        tenon_builder_fail(builder, "adapter type '%s' has %d window layers; at most %d are supported", builder->type,
                           windows, TN_MAX_WINDOWS);
    }
}

tenon_status tn_list_build(tn_list *list, tn_options *read, tenon_builder_function function, const char *type,
                           const tn_options *options, int64_t in_dim, int64_t out_dim, tenon_error *error)
{
    tenon_builder builder = {
        .list = list, .type = type, .options = options, .in_dim = in_dim, .out_dim = out_dim, .status = TENON_OK};
    list->num_layers = 0;
    list->num_parameters = 0;
    const tn_option *strip = tn_options_find(options, "strip");
    list->strip = strip != NULL ? strip->integer : 0;
    function(&builder);
    check_options_were_read(&builder);
    check_list(&builder);
    if (!tn_builder_failed(&builder) && read != NULL) {
        for (size_t i = 0; i < builder.read.count; i++) {
            const tenon_status status = tn_options_set(read, builder.read.items[i].name, &builder.read.items[i], error);
            if (status != TENON_OK) fail(&builder, status, "out of memory: options cannot be stored");
        }
    }
    tn_options_free(&builder.read);
    return tn_builder_failed(&builder) ? tn_fail(error, builder.status, "%s", builder.message) : TENON_OK;
}
