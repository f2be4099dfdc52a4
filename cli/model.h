/* SPDX-License-Identifier: MIT */
/* Opening the MODEL of a subcommand: a file or folder, --prefix, --rename, --config, --family, --activation. */
#ifndef TN_CLI_MODEL_H
#define TN_CLI_MODEL_H

#include "options.h"
#include "tenon/tenon.h"

typedef struct tn_model_settings {
    const char *prefix;
    const char *config; /* a JSON file, or the JSON itself */
    const char *family;
    const char *activation;
    tn_mapping rename;
} tn_model_settings;

#define TN_MODEL_OPTION_PREFIX(s)                                                                                      \
    {                                                                                                                  \
        "prefix", 0, TN_STRING, "P", NULL, 0, offsetof(s, model.prefix),                                               \
            "prefix of the connector's tensor names in a larger checkpoint; default: detected",                        \
            "--prefix model.adapter."                                                                                  \
    }
#define TN_MODEL_OPTION_RENAME(s)                                                                                      \
    {                                                                                                                  \
        "rename", 0, TN_MAPPING, "OLD=NEW", NULL, 0, offsetof(s, model.rename),                                        \
            "map tensor names, or their first parts, before they are matched; several pairs are separated by commas, " \
            "or the option is repeated",                                                                               \
            "--rename mm.linear_1=proj1,mm.linear_2=proj2"                                                             \
    }
#define TN_MODEL_OPTION_CONFIG(s)                                                                                      \
    {                                                                                                                  \
        "config", 0, TN_STRING, "JSON", "@file", 0, offsetof(s, model.config),                                         \
            "config for a checkpoint that has none: a JSON file, or the JSON itself, with the type and options of "    \
            "the "                                                                                                     \
            "connector; in_dim, out_dim and hidden_dim are found from the tensors",                                    \
            "--config '{\"type\": \"mlp_2layer\"}'"                                                                    \
    }

#define TN_MODEL_OPTION_FAMILY(s)                                                                                      \
    {                                                                                                                  \
        "family", 0, TN_STRING, "NAME", NULL, 0, offsetof(s, model.family),                                            \
            "family of the public model whose folder MODEL is, where its config.json does not tell it; `tenon "        \
            "families` lists them",                                                                                    \
            "--family llava"                                                                                           \
    }

#define TN_MODEL_OPTION_ACTIVATION(s)                                                                                  \
    {                                                                                                                  \
        "activation", 0, TN_STRING, "NAME", NULL, 0, offsetof(s, model.activation),                                    \
            "activation to compute instead of the one that the file asks for, such as gelu for an mmproj file, of "    \
            "which llama.cpp computes gelu_tanh",                                                                      \
            "--activation gelu"                                                                                        \
    }

/* Opens the connector. On success the caller owns *adapter; *found (may be NULL) says what was used. */
tenon_status tn_model_open(const char *path, const tn_model_settings *settings, bool describe_only,
                           tenon_adapter **adapter, tenon_load_options *found, tenon_error *error);

/* The call's grid, where --grid was given. */
void tn_call_set_grid(tenon_call *call, tn_pair grid);

/* Elements of one parameter. */
int64_t tn_count_elements(const tenon_parameter *parameter);

/* A string option of the adapter's config; "" when it has none of this name. */
const char *tn_config_string(const tenon_config *config, const char *name);

/* An integer field of the adapter's config; 0 when it has none of this name. */
int64_t tn_config_int(const tenon_config *config, const char *name);

#endif
