/* SPDX-License-Identifier: MIT */
/* tenon graft: a connector back into the file of its model. */
#include "commands.h"
#include "json.h"
#include "model.h"
#include "names.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct settings {
    const char *type;
    const char *output;
    bool json;
} settings;

static const tn_argument arguments[] = {
    {"BASE", false, "@model", "the model: an mmproj file (GGUF)"},
    {"CONNECTOR", false, "@model", "the trained connector, a safetensors file of tenon's"},
    {.name = NULL}};

static const tn_option options[] = {
    {"output", 'o', TN_STRING, "FILE", "@output", 0, offsetof(settings, output), "the file to write", "-o new.gguf"},
    {"type", 0, TN_STRING, "T", "F32 F16 BF16 Q8_0", 0, offsetof(settings, type),
     "type of the matrices: F32, F16, BF16 or Q8_0; default that of the base where it is one of these, else F16",
     "--type F16"},
    TN_OPTION_JSON(settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon graft mmproj.gguf fitted.safetensors -o new.gguf", "what fit trained, for llama.cpp"}, {.line = NULL}};

static int report(const tenon_adapter *adapter, const settings *given, const char *base,
                  const tenon_graft_options *done)
{
    if (given->json)
        return tn_print_json(json_pack(
            "{s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o}", "file", tn_json_text(given->output), "base", tn_json_text(base),
            "tensors", (json_int_t)done->num_tensors, "retyped", (json_int_t)done->num_retyped, "rounded",
            (json_int_t)done->num_rounded, "largest_error", tn_json_real(done->largest_error), "largest_tensor",
            done->largest_tensor[0] ? json_string(done->largest_tensor) : json_null(), "base_activation",
            done->activation[0] ? json_string(done->activation) : json_null()));
    printf("%" PRId64 " tensors of %s replaced in %s", done->num_tensors, tn_name_text(base),
           tn_name_text(given->output));
    if (done->num_retyped) printf(", %" PRId64 " of them in another type", done->num_retyped);
    if (done->num_rounded)
        printf("; %" PRId64 " rounded, by at most %.3g (%s)", done->num_rounded, done->largest_error,
               done->largest_tensor);
    printf("\n");
    if (done->activation[0])
        tn_note("the file asks for %s, as llama.cpp computes it; the connector was trained with %s", done->activation,
                tn_config_string(tenon_adapter_config(adapter), "activation"));
    return TN_EXIT_OK;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.output = NULL};
    const char *words[TN_MAX_ARGUMENTS];
    const tn_model_settings plain = {.prefix = NULL};
    tenon_graft_options graft;
    tenon_adapter *adapter = NULL;
    tenon_error error;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0 && !given.output) code = tn_usage(command, "graft needs -o FILE, the file to write");
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code >= 0) return code;
    tenon_graft_options_init(&graft);
    graft.type = given.type;
    tenon_status status = tn_model_open(words[1], &plain, false, &adapter, NULL, &error);
    if (status == TENON_OK) status = tenon_adapter_graft(adapter, words[0], given.output, &graft, &error);
    code = status == TENON_OK ? report(adapter, &given, words[0], &graft) : tn_failed_error(&error);
    tenon_adapter_free(adapter);
    return code;
}

const tn_command tn_command_graft = {
    "graft",
    "write a trained connector back into its model's file",
    "Writes a copy of an mmproj file in which the connector's tensors are those of CONNECTOR. Each tensor is written "
    "in "
    "the type that it has in BASE, where that is F32, F16, BF16 or Q8_0, else in F16. Where no type changes, all bytes "
    "outside these tensors stay the same; else their offsets change, and the data of all other tensors stays the same. "
    "The last line names what was rounded. A connector of another type or of other widths is refused. The file is "
    "written atomically.",
    arguments,
    options,
    examples,
    "0: written. 1: the connector does not fit the file, or a file cannot be read or written. 2: invalid command line.",
    run,
    false};
