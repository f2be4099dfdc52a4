/* SPDX-License-Identifier: MIT */
/* tenon families: the public models whose folders the other subcommands open. */
#include "commands.h"
#include "json.h"
#include "report.h"
#include "tenon/tenon.h"

#include <stdio.h>

typedef struct settings {
    bool json;
} settings;

static const tn_argument arguments[] = {{.name = NULL}};

static const tn_option options[] = {TN_OPTION_JSON(settings), {.name = NULL}};

static const tn_example examples[] = {{"tenon families", "family, connector type and model_type of config.json"},
                                      {"tenon inspect llava-1.5-7b-hf/", "what such a model's connector is"},
                                      {.line = NULL}};

static void print_text(const char *family)
{
    const char *type;
    printf("%-18s %-14s", family, tenon_family_connector(family));
    for (size_t i = 0; (type = tenon_family_model_type(family, i)); i++)
        printf("%s%s", i ? ", " : " ", type);
    printf("\n");
}

/* What of the connector each module of the model's class in transformers computes. */
static json_t *modules_as_json(const char *family)
{
    json_t *list = json_array();
    tenon_family_module module;
    tenon_family_module_init(&module);
    for (size_t i = 0; tenon_family_get_module(family, i, &module, NULL) == TENON_OK; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "path", module.path, "arguments",
                                              module.arguments, "first", module.first, "last", module.last));
    return list;
}

static json_t *as_json(const char *family)
{
    const char *type;
    json_t *types = json_array();
    for (size_t i = 0; (type = tenon_family_model_type(family, i)); i++)
        json_array_append_new(types, json_string(type));
    return json_pack("{s:s, s:s, s:o, s:o}", "family", family, "type", tenon_family_connector(family), "model_types",
                     types, "modules", modules_as_json(family));
}

static int run(const tn_command *command, int argc, char **argv)
{
    enum { MOST = 256 };
    settings given = {.json = false};
    const char *words[TN_MAX_ARGUMENTS], *families[MOST];
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code >= 0) return code;
    size_t count = tenon_list_families(families, MOST);
    json_t *list = json_array();
    if (!given.json) printf("%-18s %-14s model_type\n", "family", "type");
    for (size_t i = 0; i < count && i < MOST; i++) {
        if (given.json)
            json_array_append_new(list, as_json(families[i]));
        else
            print_text(families[i]);
    }
    if (given.json) return tn_print_json(json_pack("{s:o}", "families", list));
    json_decref(list);
    fflush(stdout);
    return TN_EXIT_OK;
}

const tn_command tn_command_families = {
    "families",
    "list the public models whose folders are opened",
    "Lists the families of public models. Every MODEL may be the folder of such a model in Hugging Face's format: its "
    "config.json says which family it is of, and only the connector's tensors are read.",
    arguments,
    options,
    examples,
    "0: listed. 2: invalid command line.",
    run,
    false};
