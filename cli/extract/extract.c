/* SPDX-License-Identifier: MIT */
/* tenon extract: the connector of any checkpoint in a file of its own. */
#include "commands.h"
#include "json.h"
#include "model.h"
#include "names.h"
#include "paths.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct settings {
    tn_model_settings model;
    const char *output;
    bool json;
} settings;

static const tn_argument arguments[] = {
    {"MODEL", false, "@model", "the folder of a model, a safetensors file, an index of shards, or a GGUF mmproj file"},
    {.name = NULL}};

static const tn_option options[] = {{"output", 'o', TN_STRING, "FILE", "@output", 0, offsetof(settings, output),
                                     "the .safetensors file to write", "-o connector.safetensors"},
                                    TN_MODEL_OPTION_PREFIX(settings),
                                    TN_MODEL_OPTION_RENAME(settings),
                                    TN_MODEL_OPTION_CONFIG(settings),
                                    TN_MODEL_OPTION_FAMILY(settings),
                                    TN_MODEL_OPTION_ACTIVATION(settings),
                                    TN_OPTION_JSON(settings),
                                    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon extract llava-1.5-7b-hf/ -o connector.safetensors", "the connector of a model in Hugging Face's format"},
    {"tenon extract mmproj.gguf -o connector.safetensors --activation gelu",
     "that of an mmproj file, with the activation that it was trained with"},
    {.line = NULL}};

static int report(const tenon_adapter *adapter, const settings *given)
{
    int64_t count = 0;
    double bytes = 0;
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        if (tenon_adapter_parameter(adapter, i, &parameter, NULL) != TENON_OK) continue;
        count += tn_count_elements(&parameter);
        bytes += (double)tn_count_elements(&parameter) * (double)tenon_dtype_size(parameter.dtype);
    }
    const tenon_config *config = tenon_adapter_config(adapter);
    const char *family = tenon_adapter_family(adapter);
    if (given->json)
        return tn_print_json(json_pack("{s:o, s:s, s:s?, s:o, s:I, s:I, s:I, s:I}", "file", tn_json_text(given->output),
                                       "type", tenon_config_type(config), "family", family, "config",
                                       tn_json_config(config), "in_dim", (json_int_t)tenon_adapter_in_dim(adapter),
                                       "out_dim", (json_int_t)tenon_adapter_out_dim(adapter), "parameters",
                                       (json_int_t)count, "bytes", (json_int_t)bytes));
    printf("%s %" PRId64 " -> %" PRId64 "%s%s: %s parameters, %s in %s\n", tenon_config_type(config),
           tenon_adapter_in_dim(adapter), tenon_adapter_out_dim(adapter), family ? " of a model of family " : "",
           family ? family : "", tn_count_text(count), tn_bytes_text(bytes), tn_name_text(given->output));
    return TN_EXIT_OK;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.output = NULL};
    const char *words[TN_MAX_ARGUMENTS];
    tenon_adapter *adapter = NULL;
    tenon_error error;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0 && !given.output) code = tn_usage(command, "extract needs -o FILE, the file to write");
    if (code < 0 && !tn_paths_has_suffix(given.output, ".safetensors"))
        code = tn_usage(command, "%s: a connector is written as .safetensors", given.output);
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code >= 0) return code;
    tenon_status status = tn_model_open(words[0], &given.model, false, &adapter, NULL, &error);
    if (status == TENON_OK) status = tenon_adapter_save(adapter, given.output, NULL, &error);
    code = status == TENON_OK ? report(adapter, &given) : tn_failed_error(&error);
    tenon_adapter_free(adapter);
    return code;
}

const tn_command tn_command_extract = {
    "extract",
    "write the connector of a model into a file of its own",
    "Reads the connector's tensors out of a checkpoint and writes them with the connector's config to a "
    "self-describing safetensors file, in the types that they have there; quantised tensors of an mmproj file become "
    "f32. The file is written atomically.",
    arguments,
    options,
    examples,
    "0: written. 1: the model has no connector that can be opened, or the file cannot be written. 2: invalid command "
    "line.",
    run,
    false};
