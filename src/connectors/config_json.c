/* SPDX-License-Identifier: MIT */
/* Configs as JSON: {"type": "avgpool", "pool_window": 3}, in an adapter file with "in_dim" and "out_dim". */
#include "connectors/config.h"

#include "core/error.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tenon_status set_list(tenon_config *config, const char *name, const json_t *list, tenon_error *error)
{
    const size_t count = json_array_size(list);
    int64_t *values = calloc(count + 1, sizeof *values); /* never of size 0 */
    if (values == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: option '%s' cannot be stored", tn_quote(name).text);
    }
    tenon_status status = TENON_OK;
    for (size_t i = 0; i < count && status == TENON_OK; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_integer(value)) {
            status = tn_fail(error, TENON_BAD_FILE, "config field '%s' is a list whose element %zu is no integer",
                             tn_quote(name).text, i);
        }
        values[i] = json_integer_value(value);
    }
    if (status == TENON_OK) status = tenon_config_set_ints(config, name, (int64_t)count, values, error);
    free(values);
    return status;
}

static tenon_status set_member(tenon_config *config, const char *name, const json_t *value, tenon_error *error)
{
    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE:
        return tenon_config_set_bool(config, name, json_is_true(value), error);
    case JSON_ARRAY:
        return set_list(config, name, value, error);
    case JSON_INTEGER:
        return tenon_config_set_int(config, name, json_integer_value(value), error);
    case JSON_REAL:
        return tenon_config_set_real(config, name, json_real_value(value), error);
    case JSON_STRING:
        return tenon_config_set_string(config, name, json_string_value(value), error);
    case JSON_NULL:
        return tn_config_set_nothing(config, name, error); /* Python's None: not set */
    default:
        return tn_fail(error, TENON_BAD_FILE,
                       "config field '%s' is an object; expected a number, a string, a boolean or a list of integers",
                       tn_quote(name).text);
    }
}

/* Removes a width from the object; *width is 0 where it is not given. */
static tenon_status take_width(json_t *object, const char *name, int64_t *width, tenon_error *error)
{
    const json_t *value = json_object_get(object, name);
    *width = 0;
    if (value != NULL && !json_is_null(value)) {
        if (!json_is_integer(value)) {
            return tn_fail(error, TENON_BAD_FILE, "config field '%s' is no integer; expected a positive one", name);
        }
        *width = json_integer_value(value);
        if (*width <= 0) {
            return tn_fail(error, TENON_INVALID, "config field '%s' must be positive (got %lld)", name,
                           (long long)*width);
        }
    }
    json_object_del(object, name);
    return TENON_OK;
}

static tenon_status from_object(json_t *object, tenon_config **config, tenon_error *error)
{
    const json_t *type = json_object_get(object, "type");
    if (type != NULL && !json_is_string(type)) {
        return tn_fail(error, TENON_BAD_FILE, "config field 'type' is not a string");
    }
    tenon_config *made;
    TN_TRY(tenon_config_new(type != NULL ? json_string_value(type) : "mlp_2layer", &made, error));
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        const tenon_status status = strcmp(name, "type") == 0 ? TENON_OK : set_member(made, name, value, error);
        if (status != TENON_OK) {
            tenon_config_free(made);
            return status;
        }
    }
    *config = made;
    return TENON_OK;
}

static tenon_status parse(const char *json, size_t length, json_t **object, tenon_error *error)
{
    json_error_t where;
    json_t *root = json_loadb(json, length, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL) {
        return tn_fail(error, TENON_BAD_FILE, "config is not valid JSON at line %d, column %d: %s", where.line,
                       where.column, tn_quote(where.text).text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return tn_fail(error, TENON_BAD_FILE, "config is JSON but no object; expected {\"type\": ..., ...}");
    }
    *object = root;
    return TENON_OK;
}

tenon_status tenon_config_from_json(const char *json, size_t length, tenon_config **config, tenon_error *error)
{
    json_t *object;
    TN_TRY(parse(json, length, &object, error));
    const tenon_status status = from_object(object, config, error);
    json_decref(object);
    return status;
}

tenon_status tn_config_from_adapter_json(const char *json, size_t length, tenon_config **config, int64_t *in_dim,
                                         int64_t *out_dim, tenon_error *error)
{
    json_t *object;
    TN_TRY(parse(json, length, &object, error));
    tenon_status status = take_width(object, "in_dim", in_dim, error);
    if (status == TENON_OK) status = take_width(object, "out_dim", out_dim, error);
    if (status == TENON_OK) status = from_object(object, config, error);
    json_decref(object);
    return status;
}

static json_t *list_to_json(const tn_option *option)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < option->count; i++) {
        if (json_array_append_new(list, json_integer(option->list[i])) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

static json_t *option_to_json(const tn_option *option)
{
    switch (option->kind) {
    case TN_OPTION_INT:
        return json_integer(option->integer);
    case TN_OPTION_REAL:
        return json_real(option->real);
    case TN_OPTION_STRING:
        return json_string(option->string);
    case TN_OPTION_BOOL:
        return json_boolean(option->integer);
    case TN_OPTION_INTS:
        return list_to_json(option);
    case TN_OPTION_UNSET:
        return NULL;
    }
    return NULL;
}

/* Digits that keep every real option: 1e-6 shall not read 9.9999999999999995e-7. */
static size_t find_digits(const tn_options *options)
{
    enum { few = 15, all = 17 };
    char text[40];
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = &options->items[i];
        if (option->kind != TN_OPTION_REAL) continue;
        snprintf(text, sizeof text, "%.*g", few, option->real);
        if (strtod(text, NULL) != option->real) return all;
    }
    return few;
}

char *tn_config_to_adapter_json(const tenon_config *config, int64_t in_dim, int64_t out_dim)
{
    json_t *object = json_object();
    bool failed = json_object_set_new(object, "type", json_string(config->type)) != 0;
    if (in_dim > 0) {
        failed = json_object_set_new(object, "in_dim", json_integer(in_dim)) != 0 || failed;
        failed = json_object_set_new(object, "out_dim", json_integer(out_dim)) != 0 || failed;
    }
    for (size_t i = 0; i < config->options.count; i++) {
        const tn_option *option = &config->options.items[i];
        if (option->kind == TN_OPTION_UNSET) continue;
        failed = json_object_set_new(object, option->name, option_to_json(option)) != 0 || failed;
    }
    char *text =
        failed ? NULL : json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(find_digits(&config->options)));
    json_decref(object);
    return text;
}

tenon_status tenon_config_to_json(const tenon_config *config, char *json, size_t capacity, size_t *length,
                                  tenon_error *error)
{
    return tn_deliver_text(tn_config_to_adapter_json(config, 0, 0), "the config", json, capacity, length, error);
}
