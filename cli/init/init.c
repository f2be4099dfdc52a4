/* SPDX-License-Identifier: MIT */
/* tenon init: a connector with fresh parameters, drawn as PyTorch draws them, in a self-describing file. */
#include "commands.h"
#include "config_options.h"
#include "json.h"
#include "model.h"
#include "names.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct settings {
    tn_config_settings config;
    int64_t in_dim;
    int64_t out_dim;
    uint64_t seed;
    const char *dtype;
    const char *output;
    bool json;
} settings;

static const tn_argument arguments[] = {{.name = NULL}};

static const tn_option options[] = {
    TN_CONFIG_OPTION_TYPE(settings),
    {"in-dim", 0, TN_INT, "C", NULL, 1, offsetof(settings, in_dim), "width of the vision encoder's features",
     "--in-dim 1152"},
    {"out-dim", 0, TN_INT, "D", NULL, 1, offsetof(settings, out_dim), "width of the language model", "--out-dim 4096"},
    {"hidden", 0, TN_INT, "H", NULL, 0, offsetof(settings, config.hidden),
     "hidden width of an MLP; default 0: the value of --out-dim", "--hidden 4096"},
    {"activation", 0, TN_STRING, "A", "gelu gelu_tanh quick_gelu silu relu", 0, offsetof(settings, config.activation),
     "activation: gelu (erf form), gelu_tanh, quick_gelu, silu or relu; default gelu", "--activation silu"},
    TN_CONFIG_OPTION_WINDOW(settings),
    {"heads", 0, TN_INT, "H", NULL, 1, offsetof(settings, config.heads),
     "number of attention heads, a divisor of --in-dim; default 16", "--heads 12: 1152 / 12 = 96 a head"},
    TN_CONFIG_OPTION_RAGGED(settings),
    TN_CONFIG_OPTION_PREFIX_TOKENS(settings),
    TN_CONFIG_OPTION_OPTION(settings),
    {"seed", 0, TN_UINT, "S", NULL, 0, offsetof(settings, seed),
     "seed of the random numbers, as for torch.manual_seed; default 0", "--seed 7"},
    {"dtype", 0, TN_STRING, "D", "f32 bf16 f16", 0, offsetof(settings, dtype),
     "dtype of the parameters: f32, bf16 or f16; default f32", "--dtype bf16"},
    {"output", 'o', TN_STRING, "FILE", "@output", 0, offsetof(settings, output), "the .safetensors file to write",
     "-o adapter.safetensors"},
    TN_OPTION_JSON(settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon init --type mlp_2layer --in-dim 1024 --out-dim 4096 -o adapter.safetensors", "LLaVA's connector"},
    {"tenon init --type attentional_pool --in-dim 1152 --out-dim 4096 --window 3 --heads 12 --seed 7 --dtype bf16 -o "
     "pool.safetensors",
     "81 tokens from 27x27 patches"},
    {.line = NULL}};

static int64_t count_parameters(const tenon_adapter *adapter, size_t *bytes)
{
    int64_t total = 0;
    *bytes = 0;
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        if (tenon_adapter_parameter(adapter, i, &parameter, NULL) != TENON_OK) continue;
        int64_t elements = tn_count_elements(&parameter);
        total += elements;
        *bytes += (size_t)elements * tenon_dtype_size(parameter.dtype);
    }
    return total;
}

/* JSON integers are signed here; a seed above them is a string. */
static json_t *seed_as_json(uint64_t seed)
{
    char text[24];
    if (seed <= INT64_MAX) return json_integer((json_int_t)seed);
    snprintf(text, sizeof text, "%" PRIu64, seed);
    return json_string(text);
}

static int report(const tenon_adapter *adapter, const settings *given, tenon_dtype dtype)
{
    size_t bytes;
    int64_t count = count_parameters(adapter, &bytes);
    if (given->json)
        return tn_print_json(json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:s, s:o}", "file", tn_json_text(given->output),
                                       "config", tn_json_config(tenon_adapter_config(adapter)), "in_dim",
                                       (json_int_t)given->in_dim, "out_dim", (json_int_t)given->out_dim, "parameters",
                                       (json_int_t)count, "bytes", (json_int_t)bytes, "dtype", tenon_dtype_name(dtype),
                                       "seed", seed_as_json(given->seed)));
    printf("%s %" PRId64 " -> %" PRId64 ": %s %s parameters, seed %" PRIu64 ", %s in %s\n",
           tenon_config_type(tenon_adapter_config(adapter)), given->in_dim, given->out_dim, tn_count_text(count),
           tenon_dtype_name(dtype), given->seed, tn_bytes_text((double)bytes), tn_name_text(given->output));
    return TN_EXIT_OK;
}

static int make(const tenon_config *config, const settings *given, tenon_dtype dtype)
{
    tenon_error error;
    tenon_adapter *adapter = NULL;
    tenon_status status = tenon_adapter_new(config, given->in_dim, given->out_dim, NULL, &adapter, &error);
    if (status == TENON_OK) status = tenon_adapter_reset_parameters(adapter, dtype, given->seed, &error);
    if (status == TENON_OK) status = tenon_adapter_save(adapter, given->output, NULL, &error);
    int code = status == TENON_OK ? report(adapter, given, dtype) : tn_failed_error(&error);
    tenon_adapter_free(adapter);
    return code;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.config = TN_CONFIG_SETTINGS_DEFAULTS, .dtype = "f32"};
    const char *words[TN_MAX_ARGUMENTS];
    tenon_error error;
    tenon_dtype dtype;
    tenon_config *config;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code >= 0) return code;
    if (!given.in_dim || !given.out_dim) return tn_usage(command, "init needs --in-dim and --out-dim");
    if (!given.output) return tn_usage(command, "init needs -o FILE, the file to write");
    if (tenon_dtype_from_name(given.dtype, &dtype, &error) != TENON_OK) return tn_usage(command, "%s", error.message);
    code = tn_config_from_settings(command, &given.config, &config);
    if (code >= 0) return code;
    code = make(config, &given, dtype);
    tenon_config_free(config);
    return code;
}

const tn_command tn_command_init = {
    "init",
    "make a connector with fresh parameters",
    "Initialises the parameters of a connector with the same bits as PyTorch after torch.manual_seed(S) and writes "
    "them "
    "with the config to a self-describing safetensors file. The file is written atomically.",
    arguments,
    options,
    examples,
    "0: written. 1: the file cannot be written, or the widths do not suit the type. 2: invalid command line.",
    run,
    false};
