/* SPDX-License-Identifier: MIT */
#include "config_options.h"

#include "fields.h"
#include "report.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* An option of the command line, a field of the config. */
typedef struct setting {
    const char *field;
    int64_t integer; /* TENON_UNSET: not given, or a string */
    const char *string;
} setting;

static tenon_status set(tenon_config *config, const setting *given, tenon_error *error)
{
    if (given->string) return tenon_config_set_string(config, given->field, given->string, error);
    return tenon_config_set_int(config, given->field, given->integer, error);
}

/* -1, or the exit code after saying what is wrong. */
static int set_all(const tn_command *command, const tn_config_settings *settings, tenon_config *config)
{
    const setting list[] = {
        {"hidden_dim", settings->hidden, NULL},    {"activation", TENON_UNSET, settings->activation},
        {"pool_window", settings->window, NULL},   {"pool_heads", settings->heads, NULL},
        {"ragged", TENON_UNSET, settings->ragged}, {"prefix_tokens", settings->prefix_tokens, NULL}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        tenon_error error;
        if (list[i].integer == TENON_UNSET && !list[i].string) continue;
        if (!tenon_type_has_option(settings->type, list[i].field))
            return tn_usage(command, "--%s does not apply to the type '%s'", tn_field_option(command, list[i].field),
                            settings->type);
        tenon_status status = set(config, &list[i], &error);
        if (status != TENON_OK)
            return status == TENON_NO_MEMORY ? tn_failed_error(&error) : tn_usage(command, "%s", error.message);
    }
    return -1;
}

static tenon_status set_list(tenon_config *config, const char *name, const json_t *list, tenon_error *error)
{
    int64_t values[64];
    const size_t count = json_array_size(list);
    bool fits = count <= sizeof values / sizeof *values;
    for (size_t i = 0; i < count && fits; i++) {
        fits = json_is_integer(json_array_get(list, i));
        values[i] = json_integer_value(json_array_get(list, i));
    }
    if (fits) return tenon_config_set_ints(config, name, (int64_t)count, values, error);
    snprintf(error->message, sizeof error->message, "option '%s' is no list of at most 64 integers", name);
    return TENON_INVALID;
}

/* A value that is no JSON is a string as it stands. */
static tenon_status set_text(tenon_config *config, const char *name, const char *text, tenon_error *error)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    tenon_status status;
    if (json_is_boolean(value))
        status = tenon_config_set_bool(config, name, json_is_true(value), error);
    else if (json_is_integer(value))
        status = tenon_config_set_int(config, name, json_integer_value(value), error);
    else if (json_is_real(value))
        status = tenon_config_set_real(config, name, json_real_value(value), error);
    else if (json_is_array(value))
        status = set_list(config, name, value, error);
    else
        status = tenon_config_set_string(config, name, json_is_string(value) ? json_string_value(value) : text, error);
    json_decref(value);
    return status;
}

/* One --option; -1, or the exit code after saying what is wrong. */
static int set_pair(const tn_command *command, const char *type, const char *pair, tenon_config *config)
{
    char name[64];
    size_t length = strcspn(pair, "="); /* there is one, the option was checked */
    if (length >= sizeof name)
        return tn_usage(command, "--option names '%s'; the names of options are shorter", tn_name_text(pair));
    memcpy(name, pair, length);
    name[length] = 0;
    tenon_error error;
    if (!tenon_type_has_option(type, name))
        return tn_usage(command, "--option %s does not apply to the type '%s'", tn_name_text(name), type);
    tenon_status status = set_text(config, name, pair + length + 1, &error);
    if (status == TENON_OK) return -1;
    return status == TENON_NO_MEMORY ? tn_failed_error(&error) : tn_usage(command, "%s", error.message);
}

int tn_config_from_settings(const tn_command *command, const tn_config_settings *settings, tenon_config **config)
{
    tenon_error error;
    tenon_config *made = NULL;
    if (!settings->type) return tn_usage(command, "%s needs --type", command->name);
    tenon_status status = tenon_config_new(settings->type, &made, &error);
    if (status == TENON_NO_MEMORY) return tn_failed_error(&error);
    if (status != TENON_OK) return tn_usage(command, "%s", error.message);
    int code = set_all(command, settings, made);
    for (int i = 0; i < settings->options.count && code < 0; i++)
        code = set_pair(command, settings->type, settings->options.words[i], made);
    if (code >= 0)
        tenon_config_free(made);
    else
        *config = made;
    return code;
}
