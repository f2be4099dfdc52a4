/* SPDX-License-Identifier: MIT */
/* Configs: typed options with checks where the field is one that every connector knows, and what the graph of
 * a type says before it is built. */
#include "connectors/config.h"

#include "graph/geometry.h"
#include "layers/types.h"
#include <stdlib.h>
#include <string.h>

/* The fields that are checked when they are set, and their defaults. */
typedef enum check { NOT_NEGATIVE, POSITIVE, ACTIVATION, RAGGED } check;
static const struct field {
    const char *name;
    tn_option_kind kind;
    check check;
    int64_t integer;
    const char *string; /* NULL: no default, the type decides */
    bool carried;       /* ignored by types that do not use it */
} fields[] = {
    {"hidden_dim", TN_OPTION_INT, NOT_NEGATIVE, 0, NULL, true},
    {"activation", TN_OPTION_STRING, ACTIVATION, 0, "gelu", true},
    {"pool_window", TN_OPTION_INT, POSITIVE, 2, NULL, true},
    {"pool_heads", TN_OPTION_INT, POSITIVE, 16, NULL, true},
    {"prefix_tokens", TN_OPTION_INT, NOT_NEGATIVE, 0, NULL, true},
    {"ragged", TN_OPTION_STRING, RAGGED, 0, NULL, false},
};
enum { num_fields = sizeof fields / sizeof fields[0] };

static const struct field *find_field(const char *name)
{
    for (int i = 0; i < num_fields; i++) {
        if (strcmp(fields[i].name, name) == 0) return &fields[i];
    }
    return NULL;
}

static tenon_status check_field(const struct field *field, const tn_option *value, tenon_error *error)
{
    tn_act act;
    tn_ragged ragged;
    if (value->kind != field->kind) {
        return tn_fail(error, TENON_INVALID, "`%s` is %s; expected %s", field->name, tn_option_kind_name(value->kind),
                       tn_option_kind_name(field->kind));
    }
    switch (field->check) {
    case NOT_NEGATIVE:
        if (value->integer >= 0) return TENON_OK;
        return tn_fail(error, TENON_INVALID, "`%s` must not be negative (got %lld)", field->name,
                       (long long)value->integer);
    case POSITIVE:
        if (value->integer > 0) return TENON_OK;
        return tn_fail(error, TENON_INVALID, "`%s` must be positive (got %lld)", field->name,
                       (long long)value->integer);
    case ACTIVATION:
        return tn_act_from_name(value->string, &act, error);
    case RAGGED:
        return tn_ragged_from_name(value->string, &ragged, error);
    }
    return TENON_OK;
}

tenon_status tenon_config_new(const char *type, tenon_config **config, tenon_error *error)
{
    if (type == NULL || config == NULL) return tn_fail(error, TENON_INVALID, "tenon_config_new: an argument is NULL");
    tn_recipe recipe;
    TN_TRY(tn_registry_find(type, &recipe, error));
    tenon_config *made = calloc(1, sizeof *made);
    char *name = strdup(type);
    if (made == NULL || name == NULL) {
        free(made);
        free(name);
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: a config cannot be made");
    }
    made->type = name;
    made->recipe = recipe;
    tn_graph *graph = NULL; /* a builder that fails without options has no defaults */
    if (tn_config_graph(made, 0, 0, &made->defaults, &graph, NULL) == TENON_OK) tn_graph_free(graph);
    *config = made;
    return TENON_OK;
}

void tenon_config_free(tenon_config *config)
{
    if (config == NULL) return;
    tn_options_free(&config->options);
    tn_options_free(&config->unset);
    tn_options_free(&config->defaults);
    free(config->type);
    free(config);
}

tenon_status tn_config_copy(tenon_config **copy, const tenon_config *config, tenon_error *error)
{
    tenon_config *made;
    TN_TRY(tenon_config_new(config->type, &made, error));
    tenon_status status = tn_options_copy(&made->options, &config->options, error);
    if (status == TENON_OK) status = tn_options_copy(&made->unset, &config->unset, error);
    if (status != TENON_OK) {
        tenon_config_free(made);
        return status;
    }
    *copy = made;
    return TENON_OK;
}

const char *tenon_config_type(const tenon_config *config)
{
    return config->type;
}

static tenon_status set_option(tenon_config *config, const char *name, const tn_option *value, tenon_error *error)
{
    if (config == NULL || name == NULL) return tn_fail(error, TENON_INVALID, "config or option name is NULL");
    if (strcmp(name, "type") == 0) {
        return tn_fail(error, TENON_INVALID, "the type of a config cannot be changed; make a new config");
    }
    TN_TRY(tn_option_check_name(name, error));
    const struct field *field = find_field(name);
    if (field != NULL) TN_TRY(check_field(field, value, error));
    return tn_options_set(&config->options, name, value, error);
}

tenon_status tn_config_set_nothing(tenon_config *config, const char *name, tenon_error *error)
{
    if (strcmp(name, "in_dim") == 0 || strcmp(name, "out_dim") == 0) return TENON_OK; /* widths that are not known */
    return tn_options_set(&config->unset, name, &(tn_option){.kind = TN_OPTION_INT}, error);
}

tenon_status tenon_config_set_int(tenon_config *config, const char *name, int64_t value, tenon_error *error)
{
    return set_option(config, name, &(tn_option){.kind = TN_OPTION_INT, .integer = value}, error);
}

tenon_status tenon_config_set_real(tenon_config *config, const char *name, double value, tenon_error *error)
{
    return set_option(config, name, &(tn_option){.kind = TN_OPTION_REAL, .real = value}, error);
}

tenon_status tenon_config_set_string(tenon_config *config, const char *name, const char *value, tenon_error *error)
{
    if (value == NULL) return tn_fail(error, TENON_INVALID, "option '%s' is NULL", name != NULL ? name : "");
    tn_option option = {.kind = TN_OPTION_STRING, .string = (char *)(uintptr_t)value}; /* only read and copied */
    return set_option(config, name, &option, error);
}

tenon_status tenon_config_set_bool(tenon_config *config, const char *name, bool value, tenon_error *error)
{
    return set_option(config, name, &(tn_option){.kind = TN_OPTION_BOOL, .integer = value}, error);
}

tenon_status tenon_config_set_ints(tenon_config *config, const char *name, int64_t count, const int64_t *values,
                                   tenon_error *error)
{
    if (count < 0 || (count > 0 && values == NULL)) {
        return tn_fail(error, TENON_INVALID, "option '%s' is a list of %lld integers without values",
                       name != NULL ? tn_quote(name).text : "", (long long)count);
    }
    tn_option option = {.kind = TN_OPTION_INTS, .list = (int64_t *)(uintptr_t)values, .count = count}; /* copied */
    return set_option(config, name, &option, error);
}

/* The option as it was set, or of a field that every config has the type's default, or else the field's in *fallback.
 */
static tenon_status get_option(const tenon_config *config, const char *name, tn_option_kind kind, tn_option *fallback,
                               const tn_option **found, tenon_error *error)
{
    *found = tn_options_find(&config->options, name);
    const struct field *field = find_field(name);
    if (*found == NULL && field != NULL && (field->kind == TN_OPTION_INT || field->string != NULL)) {
        *fallback =
            (tn_option){.kind = field->kind, .integer = field->integer, .string = (char *)(uintptr_t)field->string};
        *found = tn_options_find(&config->defaults, name);
        if (*found == NULL) *found = fallback;
    }
    if (*found == NULL) {
        return tn_fail(error, TENON_NOT_FOUND, "option '%s' is not set", tn_quote(name).text);
    }
    if ((*found)->kind != kind) {
        return tn_fail(error, TENON_INVALID, "option '%s' is %s; expected %s", tn_quote(name).text,
                       tn_option_kind_name((*found)->kind), tn_option_kind_name(kind));
    }
    return TENON_OK;
}

tenon_status tenon_config_get_int(const tenon_config *config, const char *name, int64_t *value, tenon_error *error)
{
    const tn_option *found;
    tn_option fallback;
    TN_TRY(get_option(config, name, TN_OPTION_INT, &fallback, &found, error));
    *value = found->integer;
    return TENON_OK;
}

tenon_status tenon_config_get_real(const tenon_config *config, const char *name, double *value, tenon_error *error)
{
    const tn_option *found;
    tn_option fallback;
    TN_TRY(get_option(config, name, TN_OPTION_REAL, &fallback, &found, error));
    *value = found->real;
    return TENON_OK;
}

tenon_status tenon_config_get_bool(const tenon_config *config, const char *name, bool *value, tenon_error *error)
{
    const tn_option *found;
    tn_option fallback;
    TN_TRY(get_option(config, name, TN_OPTION_BOOL, &fallback, &found, error));
    *value = found->integer != 0;
    return TENON_OK;
}

tenon_status tenon_config_get_ints(const tenon_config *config, const char *name, const int64_t **values, int64_t *count,
                                   tenon_error *error)
{
    const tn_option *found;
    tn_option fallback;
    TN_TRY(get_option(config, name, TN_OPTION_INTS, &fallback, &found, error));
    *values = found->list;
    *count = found->count;
    return TENON_OK;
}

tenon_status tenon_config_get_string(const tenon_config *config, const char *name, const char **value,
                                     tenon_error *error)
{
    const tn_option *found;
    tn_option fallback;
    TN_TRY(get_option(config, name, TN_OPTION_STRING, &fallback, &found, error));
    *value = found->string;
    return TENON_OK;
}

/* The known name that is nearest to `name`, among all that a config of this type may have; NULL: none is near. */
static const char *find_nearest(const char *name, const tn_options *read)
{
    enum { most = 64 };
    const char *known[most + 4] = {"prefix_tokens", "type", "in_dim", "out_dim"};
    size_t count = 4;
    for (size_t i = 0; i < read->count && i < most; i++)
        known[count++] = read->items[i].name;
    return tenon_nearest_name(name, known, count);
}

static tenon_status fail_unknown(const tenon_config *config, const char *name, const tn_options *read,
                                 tenon_error *error)
{
    char list[1024] = "", hint[160] = "";
    tn_text text = {list, sizeof list, 0}, advice = {hint, sizeof hint, 0};
    const char *nearest = find_nearest(name, read);
    if (nearest != NULL) tn_text_add(&advice, " (did you mean '%s'?)", nearest);
    for (size_t i = 0; i < read->count; i++)
        tn_text_add(&text, "%s, ", read->items[i].name);
    return tn_fail(error, TENON_INVALID, "adapter type '%s' has no option '%s'%s; its options are %sprefix_tokens",
                   config->type, tn_quote(name).text, hint, list);
}

/* An option that the builder did not read is a mistake, except for the fields that every config carries. A name without
 * a value only has to be one. */
static tenon_status check_all_read(const tenon_config *config, const tn_options *read, tenon_error *error)
{
    for (size_t i = 0; i < config->options.count; i++) {
        const char *name = config->options.items[i].name;
        const struct field *field = find_field(name);
        if (tn_options_have(read, name) || (field != NULL && field->carried)) continue;
        return fail_unknown(config, name, read, error);
    }
    for (size_t i = 0; i < config->unset.count; i++) {
        const char *name = config->unset.items[i].name;
        if (!tn_options_have(read, name) && find_field(name) == NULL) return fail_unknown(config, name, read, error);
    }
    return TENON_OK;
}

tenon_status tn_config_graph(const tenon_config *config, int64_t in_dim, int64_t out_dim, tn_options *read,
                             tn_graph **graph, tenon_error *error)
{
    tn_options seen = {NULL, 0};
    tn_graph *made = NULL;
    const tn_build build = {
        config->recipe.function, config->recipe.context, config->type, &config->options, in_dim, out_dim};
    tenon_status status = tn_graph_build(&made, &seen, &build, error);
    if (status == TENON_OK) status = check_all_read(config, &seen, error);
    for (size_t i = 0; i < seen.count && read != NULL && status == TENON_OK; i++)
        status = tn_options_set(read, seen.items[i].name, &seen.items[i], error);
    tn_options_free(&seen);
    if (status != TENON_OK) {
        tn_graph_free(made);
        return status;
    }
    *graph = made;
    return TENON_OK;
}

tenon_status tenon_config_check(const tenon_config *config, tenon_error *error)
{
    tn_graph *graph = NULL;
    if (config == NULL) return tn_fail(error, TENON_INVALID, "tenon_config_check: the config is NULL");
    TN_TRY(tn_config_graph(config, 0, 0, NULL, &graph, error));
    tn_graph_free(graph);
    return TENON_OK;
}

tenon_status tenon_config_output_num_tokens(const tenon_config *config, const tenon_call *call,
                                            int64_t num_input_tokens, int64_t *count, tenon_error *error)
{
    if (num_input_tokens <= 0) {
        *count = num_input_tokens;
        return TENON_OK;
    }
    tn_graph *graph = NULL;
    tenon_call settings;
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(tn_config_graph(config, 0, 0, NULL, &graph, error));
    const tenon_status status = tn_graph_count(graph, &settings, num_input_tokens, count, error);
    tn_graph_free(graph);
    return status;
}

/* Is there a space of windows in the type's graph, with its default options, that satisfies the question? */
static bool any_windows(const char *name, bool (*question)(const tn_window_rule *rule))
{
    tenon_config *config = NULL;
    tn_graph *graph = NULL;
    bool answer = false;
    if (name == NULL || tenon_config_new(name, &config, NULL) != TENON_OK) return false;
    if (tn_config_graph(config, 0, 0, NULL, &graph, NULL) == TENON_OK) {
        for (int i = 0; i < graph->num_spaces; i++) {
            const tn_space *space = &graph->spaces[i];
            answer = answer || (space->kind == TN_SPACE_WINDOWS && question(&space->windows));
        }
        tn_graph_free(graph);
    }
    tenon_config_free(config);
    return answer;
}

static bool is_pool(const tn_window_rule *rule)
{
    return rule->is_pool;
}

static bool rejects_ragged(const tn_window_rule *rule)
{
    return rule->is_pool && rule->ragged == TN_RAGGED_REJECT;
}

bool tenon_type_has_option(const char *name, const char *option)
{
    tenon_config *config = NULL;
    tn_graph *graph = NULL;
    tn_options read = {NULL, 0};
    if (name == NULL || option == NULL || tenon_config_new(name, &config, NULL) != TENON_OK) return false;
    if (tn_config_graph(config, 0, 0, &read, &graph, NULL) == TENON_OK) tn_graph_free(graph);
    const bool has = tn_options_have(&read, option) || strcmp(option, "prefix_tokens") == 0;
    tn_options_free(&read);
    tenon_config_free(config);
    return has;
}

bool tenon_type_pools(const char *name)
{
    return any_windows(name, is_pool);
}

bool tenon_type_needs_divisible(const char *name)
{
    return any_windows(name, rejects_ragged);
}
