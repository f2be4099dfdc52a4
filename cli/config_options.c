/* SPDX-License-Identifier: MIT */
#include "config_options.h"

#include "fields.h"
#include "report.h"

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

int tn_config_from_settings(const tn_command *command, const tn_config_settings *settings, tenon_config **config)
{
    tenon_error error;
    tenon_config *made = NULL;
    if (!settings->type) return tn_usage(command, "%s needs --type", command->name);
    tenon_status status = tenon_config_new(settings->type, &made, &error);
    if (status == TENON_NO_MEMORY) return tn_failed_error(&error);
    if (status != TENON_OK) return tn_usage(command, "%s", error.message);
    int code = set_all(command, settings, made);
    if (code >= 0)
        tenon_config_free(made);
    else
        *config = made;
    return code;
}
