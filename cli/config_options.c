/* SPDX-License-Identifier: MIT */
#include "config_options.h"

#include "report.h"

static tenon_status set_options(const tn_config_settings *settings, tenon_config *config, tenon_error *error)
{
    const struct {
        const char *name;
        int64_t value;
    } integers[] = {{"hidden_dim", settings->hidden},
                    {"pool_window", settings->window},
                    {"pool_heads", settings->heads},
                    {"prefix_tokens", settings->prefix_tokens}};
    const struct {
        const char *name;
        const char *value;
    } strings[] = {{"activation", settings->activation}, {"ragged", settings->ragged}};
    tenon_status status = TENON_OK;
    for (size_t i = 0; i < sizeof integers / sizeof *integers && status == TENON_OK; i++)
        if (integers[i].value != TENON_UNSET)
            status = tenon_config_set_int(config, integers[i].name, integers[i].value, error);
    for (size_t i = 0; i < sizeof strings / sizeof *strings && status == TENON_OK; i++)
        if (strings[i].value) status = tenon_config_set_string(config, strings[i].name, strings[i].value, error);
    return status;
}

int tn_config_from_settings(const tn_command *command, const tn_config_settings *settings, tenon_config **config)
{
    tenon_error error;
    tenon_config *made = NULL;
    if (!settings->type) return tn_usage(command, "%s needs --type", command->name);
    tenon_status status = tenon_config_new(settings->type, &made, &error);
    if (status == TENON_OK) status = set_options(settings, made, &error);
    if (status != TENON_OK) {
        tenon_config_free(made);
        return status == TENON_NO_MEMORY ? tn_failed_error(&error) : tn_usage(command, "%s", error.message);
    }
    *config = made;
    return -1;
}
