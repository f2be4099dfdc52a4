/* SPDX-License-Identifier: MIT */
/* The options that describe a connector's config, shared by the subcommands that make one. */
#ifndef TN_CLI_CONFIG_OPTIONS_H
#define TN_CLI_CONFIG_OPTIONS_H

#include "options.h"
#include "tenon/tenon.h"

typedef struct tn_config_settings {
    const char *type;
    const char *activation;
    const char *ragged;
    int64_t hidden;
    int64_t window;
    int64_t heads;
    int64_t prefix_tokens;
    tn_mapping options;
} tn_config_settings;

#define TN_CONFIG_SETTINGS_DEFAULTS                                                                                    \
    {                                                                                                                  \
        .hidden = TENON_UNSET, .window = TENON_UNSET, .heads = TENON_UNSET, .prefix_tokens = TENON_UNSET               \
    }

/* Rows for the table of a subcommand whose settings struct `s` has a tn_config_settings named `config`. */
#define TN_CONFIG_OPTION_TYPE(s)                                                                                       \
    {                                                                                                                  \
        "type", 0, TN_STRING, "T", "@types", 0, offsetof(s, config.type), "type of the connector", "--type avgpool"    \
    }
#define TN_CONFIG_OPTION_WINDOW(s)                                                                                     \
    {                                                                                                                  \
        "window", 0, TN_INT, "W", NULL, 1, offsetof(s, config.window),                                                 \
            "pool W x W patches into one token, with a type that pools; default 2",                                    \
            "--window 3: 27x27 patches give 81 tokens"                                                                 \
    }
#define TN_CONFIG_OPTION_PREFIX_TOKENS(s)                                                                              \
    {                                                                                                                  \
        "prefix-tokens", 0, TN_INT, "K", NULL, 0, offsetof(s, config.prefix_tokens),                                   \
            "number of leading tokens that are not patches (CLS, registers) and are dropped",                          \
            "--prefix-tokens 1: 577 tokens are a CLS token and 24x24 patches"                                          \
    }
#define TN_CONFIG_OPTION_RAGGED(s)                                                                                     \
    {                                                                                                                  \
        "ragged", 0, TN_STRING, "R", "reject partial drop", 0, offsetof(s, config.ragged),                             \
            "windows that the grid does not fill: reject refuses the grid, partial pools the patches they have, drop " \
            "discards them; the default depends on the type",                                                          \
            "--ragged partial: 27x27 patches by window 2 give 196 tokens"                                              \
    }

#define TN_CONFIG_OPTION_OPTION(s)                                                                                     \
    {                                                                                                                  \
        "option", 0, TN_SETTING, "NAME=VALUE", NULL, 0, offsetof(s, config.options),                                   \
            "an option of the type that no other option here sets; the value as JSON has it: true, 2, 1e-6, [8,16], "  \
            "or a word; may be repeated",                                                                              \
            "--option pre_norm=rmsnorm"                                                                                \
    }

/* Makes the config. Returns -1, or the exit code after saying what is wrong; the caller frees *config on -1. */
int tn_config_from_settings(const tn_command *command, const tn_config_settings *settings, tenon_config **config);

#endif
