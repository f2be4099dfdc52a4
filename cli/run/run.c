/* SPDX-License-Identifier: MIT */
/* tenon run: features through a connector. This file reads the options, opens the model and reports; see run.h. */
#include "run.h"

#include "commands.h"
#include "interrupt.h"
#include "json.h"
#include "model.h"
#include "pool.h"
#include "ranks.h"
#include "ranks_same.h"
#include "report.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct settings {
    tn_model_settings model;
    const char *output;
    const char *frame_mask;
    const char *patch_mask;
    const char *attention;
    const char *tensor;
    const char *dtype;
    const char *cpu;
    const char *device;
    int64_t window;
    int64_t prefix_tokens;
    int64_t threads;
    tn_pair grid;
    bool npy_bfloat16;
    bool check_finite;
    bool force;
    bool json;
} settings;

static const tn_argument arguments[] = {
    {"MODEL", false, "@model",
     "a connector's safetensors file, an index of shards, the folder of a checkpoint, or a GGUF mmproj file"},
    {"FEATURES", false, "@file-",
     "features (images, tokens, width), or (tokens, width) for one image, in f32, bf16 or f16: an .npy file, a "
     ".safetensors file, which may hold further inputs, grids and a mask by name, a folder of them, or - for standard "
     "input"},
    {.name = NULL}};

static const tn_option options[] = {
    {"output", 'o', TN_STRING, "TOKENS", "@output-", 0, offsetof(settings, output),
     "the .npy or .safetensors file to write; a folder when FEATURES is a folder; - for standard output, in the format "
     "of FEATURES",
     "-o tokens.npy"},
    {"window", 0, TN_INT, "W", NULL, 1, offsetof(settings, window), "pooling window, instead of the config's",
     "--window 3: video frames, with weights trained at 2"},
    {"grid", 0, TN_PAIR, "HxW", NULL, 0, offsetof(settings, grid),
     "rows x columns of the patch grid; default a square grid", "--grid 32x128"},
    {"prefix-tokens", 0, TN_INT, "K", NULL, 0, offsetof(settings, prefix_tokens),
     "leading tokens of each image that are not patches (CLS, registers), instead of the config's",
     "--prefix-tokens 0: the features come without the CLS token that the config counts"},
    {"frame-mask", 0, TN_STRING, "F", "@file", 0, offsetof(settings, frame_mask),
     "npy file (images) or (clips, frames) of bool, int8 or uint8; images with 0 are skipped and their tokens are zero",
     "--frame-mask frames.npy"},
    {"patch-mask", 0, TN_STRING, "F", "@file", 0, offsetof(settings, patch_mask),
     "npy file (images, patches) of bool, int8 or uint8; patches with 0 are treated as absent",
     "--patch-mask patches.npy"},
    {"attention", 0, TN_STRING, "FILE", "@output", 0, offsetof(settings, attention),
     "also write the pooling weights, f32 (images, tokens, heads, window^2), 0 for absent patches",
     "--attention weights.npy"},
    {"dtype", 0, TN_STRING, "D", "f32 bf16 f16", 0, offsetof(settings, dtype),
     "dtype of the tokens: f32, bf16 or f16; default that of the parameters; npy has no bfloat16, so bf16 is written "
     "there as uint16",
     "--dtype bf16"},
    TN_MODEL_OPTION_PREFIX(settings),
    TN_MODEL_OPTION_RENAME(settings),
    TN_MODEL_OPTION_CONFIG(settings),
    TN_MODEL_OPTION_FAMILY(settings),
    TN_MODEL_OPTION_ACTIVATION(settings),
    {"tensor", 0, TN_STRING, "NAME", NULL, 0, offsetof(settings, tensor),
     "name of the features in a .safetensors file; default features, or the only floating-point tensor",
     "--tensor image_features"},
    {"npy-bf16", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, npy_bfloat16), "read uint16 npy features as bfloat16",
     "--npy-bf16"},
    {"threads", 0, TN_INT, "N", NULL, 1, offsetof(settings, threads),
     "number of compute threads, which does not change the tokens; default OMP_NUM_THREADS, else one per core that "
     "affinity and CPU quota allow",
     "--threads 4"},
    {"cpu", 0, TN_STRING, "LEVEL", "@levels", 0, offsetof(settings, cpu),
     "highest CPU level to use; default TENON_CPU, else the best available", "--cpu baseline"},
    {"device", 0, TN_STRING, "D", "cpu", 0, offsetof(settings, device), "device to compute on; this build supports cpu",
     "--device cpu"},
    {"check-finite", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, check_finite),
     "fail where a feature that is read, or a token, is NaN or infinite; default count them and name the first",
     "--check-finite"},
    {"force", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, force),
     "recompute every shard of a folder, whatever its manifest says", "--force"},
    TN_OPTION_JSON(settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon run adapter.safetensors features.npy -o tokens.npy", "one file"},
    {"tenon run pool.safetensors clip.npy -o clip.safetensors --window 3 --dtype bf16", "frames of a video"},
    {"tenon run pool.safetensors - -o -", "in a pipe: < features.npy > tokens.npy"},
    {"tenon run pool.safetensors features/ -o tokens/",
     "a folder of shards; the same command continues after an interruption"},
    {.line = NULL}};

/* ---- the setup ---- */

/* The connector's config, in_dim and out_dim included, with other prefix tokens; the caller frees it. NULL: no memory.
 */
static char *config_with_prefix_tokens(const tenon_adapter *adapter, int64_t prefix_tokens)
{
    json_t *config = tn_json_config(tenon_adapter_config(adapter));
    char *text = NULL;
    if (config && json_object_set_new(config, "in_dim", json_integer(tenon_adapter_in_dim(adapter))) == 0 &&
        json_object_set_new(config, "out_dim", json_integer(tenon_adapter_out_dim(adapter))) == 0 &&
        json_object_set_new(config, "prefix_tokens", json_integer(prefix_tokens)) == 0)
        text = json_dumps(config, JSON_COMPACT);
    json_decref(config);
    return text;
}

/* The connector, with --prefix-tokens in place of its config's: as a config of the command line. */
static bool open_model(const settings *given, const char *model, tenon_adapter **adapter, tenon_error *error)
{
    tn_model_settings how = given->model;
    char *config = NULL;
    bool good = true;
    if (given->prefix_tokens != TENON_UNSET) {
        tenon_adapter *described;
        if (tn_model_open(model, &how, true, &described, NULL, error) != TENON_OK) return false;
        if (tn_config_int(tenon_adapter_config(described), "prefix_tokens") != given->prefix_tokens) {
            how.config = config = config_with_prefix_tokens(described, given->prefix_tokens);
            good = config || tn_error(error, "out of memory");
        }
        tenon_adapter_free(described);
    }
    good = good && tn_model_open(model, &how, false, adapter, NULL, error) == TENON_OK;
    free(config);
    return good;
}

/* The attention weights' shape, from the layer that makes them. */
static bool find_attention(tn_run_setup *setup, tenon_error *error)
{
    const tenon_config *config = tenon_adapter_config(setup->adapter);
    int64_t window = setup->call.pool_window;
    for (int64_t i = 0; i < tenon_adapter_num_layers(setup->adapter); i++) {
        tenon_layer_info layer;
        tenon_layer_info_init(&layer);
        if (tenon_adapter_layer(setup->adapter, i, &layer, error) != TENON_OK) return false;
        if (strcmp(layer.type, "window_attention") != 0) continue;
        if (window == TENON_UNSET) window = tn_config_int(config, "pool_window");
        setup->heads = tn_config_int(config, "pool_heads");
        if (!__builtin_mul_overflow(window, window, &setup->window_area)) return true;
        return tn_error(error, "--window %" PRId64 " is too large", window);
    }
    return tn_error(error, "%s: %s has no layer of attention, so there are no pooling weights; leave --attention out",
                    setup->model, tenon_config_type(config));
}

static bool is_features_folder(const char *features)
{
    return !tn_is_stream(features) && tn_paths_is_folder(features);
}

/* An option that this connector or this input has no use for was meant for another; it is not passed over. */
static bool check_options_apply(const settings *given, const tn_run_setup *setup, const char *features,
                                tenon_error *error)
{
    const char *type = tenon_config_type(tenon_adapter_config(setup->adapter));
    const struct {
        const char *option, *path;
    } masks[] = {{"--frame-mask", given->frame_mask}, {"--patch-mask", given->patch_mask}};
    const bool is_folder = is_features_folder(features);
    if (given->window != TENON_UNSET && !tenon_type_pools(type))
        return tn_error(error, "--window %" PRId64 ": %s is a %s connector, which has no pooling window; omit it",
                        given->window, setup->model, type);
    if (given->force && !is_folder)
        return tn_error(error, "--force: %s is one file, whose tokens are always made anew; omit it", features);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        if (!is_folder && masks[i].path && tn_paths_is_folder(masks[i].path))
            return tn_error(error, "%s %s: is a folder, but %s is one file; give the mask's npy file", masks[i].option,
                            masks[i].path, features);
    return true;
}

static tenon_status first_dtype(const tenon_adapter *adapter, tenon_dtype *dtype, tenon_error *error)
{
    tenon_parameter parameter;
    tenon_parameter_init(&parameter);
    tenon_status status = tenon_adapter_parameter(adapter, 0, &parameter, error);
    if (status == TENON_OK) *dtype = parameter.dtype;
    return status;
}

static void fill_call(const settings *given, const tn_pool *pool, tenon_call *call)
{
    tenon_call_init(call);
    call->pool_window = given->window;
    call->executor = tn_pool_executor(pool);
    tn_call_set_grid(call, given->grid);
}

/* The pooling window where the config drops what the grid cuts off; else 0. */
static int64_t find_drop_window(const tenon_adapter *adapter, int64_t given)
{
    const tenon_config *config = tenon_adapter_config(adapter);
    const char *ragged;
    if (!tenon_type_pools(tenon_config_type(config)) ||
        tenon_config_get_string(config, "ragged", &ragged, NULL) != TENON_OK || strcmp(ragged, "drop") != 0)
        return 0;
    return given != TENON_UNSET ? given : tn_config_int(config, "pool_window");
}

static bool prepare(tenon_adapter *adapter, const settings *given, const char *features, const tn_pool *pool,
                    tn_run_setup *setup, tenon_error *error)
{
    tenon_prepare_options prepared;
    tenon_prepare_options_init(&prepared);
    prepared.cpu = given->cpu;
    prepared.executor = tn_pool_executor(pool);
    setup->adapter = adapter;
    if (!tn_ports_read(&setup->ports, adapter, error)) return false;
    setup->tensor = given->tensor;
    setup->npy_bfloat16 = given->npy_bfloat16;
    setup->in_dim = tenon_adapter_in_dim(adapter);
    setup->out_dim = tenon_adapter_out_dim(adapter);
    setup->prefix_tokens = tn_config_int(tenon_adapter_config(adapter), "prefix_tokens");
    setup->check_finite = given->check_finite;
    setup->notes = !given->json;
    fill_call(given, pool, &setup->call);
    setup->drop_window = find_drop_window(adapter, given->window);
    if (!setup->dtype && first_dtype(adapter, &setup->dtype, error) != TENON_OK) return false;
    if (!check_options_apply(given, setup, features, error)) return false;
    if (given->attention && !find_attention(setup, error)) return false;
    if (!tn_hash_weights(adapter, setup->weights, error)) return false;
    return tenon_adapter_prepare(adapter, &prepared, error) == TENON_OK;
}

/* ---- one file, or a folder ---- */

static bool copy_paths(tn_run_job *job, const settings *given, const char *features, tenon_error *error)
{
    const char *const sources[TN_ROLES] = {features, given->frame_mask, given->patch_mask, given->output,
                                           given->attention};
    for (int role = 0; role < TN_ROLES; role++) {
        if (!sources[role]) continue;
        job->is_stream[role] = tn_is_stream(sources[role]);
        const char *stream = role == TN_FEATURES ? "standard input" : "standard output";
        job->paths[role] = strdup(job->is_stream[role] ? stream : sources[role]);
        if (!job->paths[role]) return tn_error(error, "out of memory");
    }
    return true;
}

static bool run_file(const tn_run_setup *setup, tn_run_job *job, tn_folder_result *result, tenon_error *error)
{
    double kinds[TN_KINDS] = {0};
    if (!tn_job_open(job, setup, error)) return false;
    kinds[job->kind]++;
    json_t *ignored = json_object();
    if (ignored && tn_named_list_ignored(job, setup, ignored))
        tn_named_note_ignored(setup, job->paths[TN_FEATURES], ignored);
    json_decref(ignored);
    if (!tn_check_kinds(setup, job->paths[TN_FEATURES], kinds, error)) return false;
    tn_progress_start(setup->progress, "images", 0, job->images);
    bool good = tn_jobs_run(setup, job, 1, &result->totals, error);
    tn_progress_end(setup->progress);
    if (good && job->problem) good = tn_error(error, "%s", job->problem);
    return good;
}

static bool run_any(tn_run_setup *setup, const settings *given, const char *features, tn_run_outcome *out,
                    tenon_error *error)
{
    tn_run_job job;
    memset(&job, 0, sizeof job);
    bool good = copy_paths(&job, given, features, error);
    out->is_folder = is_features_folder(features);
    if (good && out->is_folder && out->is_output_stream)
        good = tn_error(error, "-o -: %s is a folder, whose tokens need a folder too", features);
    else if (good && !out->is_folder && !out->is_output_stream && tn_paths_is_folder(given->output))
        good = tn_error(error, "%s: is a folder, but %s is one file; name the file to write", given->output, features);
    setup->hashes = setup->direct = out->is_folder;
    if (!tn_ranks_agree(good))
        good = false;
    else if (out->is_folder)
        good = tn_run_folder(setup, job.paths, given->force, &out->result, error);
    else /* there is nothing to share */
        good = tn_ranks_agree(tn_ranks_index() > 0 || run_file(setup, &job, &out->result, error));
    tn_job_close(&job);
    tn_job_free(&job);
    return good;
}

/* ---- the command ---- */

/* "-" is for one stream in and one out. */
static int check_streams(const settings *given, const char *features)
{
    if (tn_stream_is_closed(features, STDIN_FILENO)) return tn_failed("standard input is closed");
    if (tn_stream_is_closed(given->output, STDOUT_FILENO)) return tn_failed("-o -: standard output is closed");
    if (tn_is_stream(given->output) && isatty(STDOUT_FILENO))
        return tn_failed("-o -: standard output is a terminal; redirect it to a file or a pipe");
    return -1;
}

static int check_settings(const tn_command *command, const settings *given, const char *const words[TN_MAX_ARGUMENTS],
                          tenon_dtype *dtype)
{
    tenon_error error;
    if (!given->output) return tn_usage(command, "run needs -o TOKENS, where to write");
    int code = tn_check_most(command, "threads", given->threads, TN_MOST_THREADS);
    if (code >= 0) return code;
    if (given->dtype && tenon_dtype_from_name(given->dtype, dtype, &error) != TENON_OK)
        return tn_usage(command, "%s", error.message);
    return check_streams(given, words[1]);
}

static bool check_names(const tn_command *command, const settings *given, const char *const words[TN_MAX_ARGUMENTS],
                        tenon_error *error)
{
    tn_names *names;
    if (!tn_names_new(command, given, words, &names, error)) return false;
    bool good =
        !is_features_folder(words[1]) || tn_run_folder_names(names, words[1], given->output, given->attention, error);
    good = good && tn_names_check(names, error);
    tn_names_free(names);
    return good;
}

static bool check_ranks(const tn_run_setup *setup, const char *features, tenon_error *error)
{
    return tn_ranks_same(json_pack("{s:s, s:s, s:s, s:b}", "the subcommand", "run", "tenon", tenon_version(),
                                   "the hash of MODEL", setup->weights, "that FEATURES is a folder",
                                   is_features_folder(features)),
                         TN_RANKS_ADVICE, error);
}

static int run_model(const tn_command *command, const settings *given, const char *const words[TN_MAX_ARGUMENTS],
                     tn_run_setup *setup)
{
    const char *model = words[0], *features = words[1];
    tenon_error error;
    tn_progress progress = {.kind = TN_PROGRESS_NONE};
    tn_run_outcome out = {
        .features = features, .output = given->output, .is_output_stream = tn_is_stream(given->output)};
    double started = tn_seconds();
    tenon_adapter *adapter = NULL;
    tn_pool *pool = NULL;
    error.message[0] = 0;
    setup->model = model;
    setup->progress = &progress;
    bool good = check_names(command, given, words, &error) && tn_pool_new((int)given->threads, &pool, &error) &&
                open_model(given, model, &adapter, &error) && prepare(adapter, given, features, pool, setup, &error);
    out.load_seconds = tn_seconds() - started;
    good =
        tn_ranks_agree(good) && check_ranks(setup, features, &error) && run_any(setup, given, features, &out, &error);
    out.total_seconds = tn_seconds() - started;
    int code = good ? tn_run_report(setup, &out, given->json) : tn_failed_on_ranks(&error);
    tn_folder_result_free(&out.result);
    tn_ports_free(&setup->ports);
    tenon_adapter_free(adapter);
    tn_pool_free(pool);
    return code;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.window = TENON_UNSET, .prefix_tokens = TENON_UNSET};
    const char *words[TN_MAX_ARGUMENTS];
    tn_run_setup setup;
    memset(&setup, 0, sizeof setup);
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = check_settings(command, &given, words, &setup.dtype);
    if (code >= 0) return code;
    tn_ranks_start();
    tn_interrupt_install();
    /* A reader that goes away is a failed write with a sentence. */
    if (tn_is_stream(given.output)) signal(SIGPIPE, SIG_IGN);
    code = run_model(command, &given, words, &setup);
    tn_ranks_end();
    if (code != TN_EXIT_OK) tn_interrupt_end(); /* nothing half-made is left */
    return code;
}

const tn_command tn_command_run = {
    "run",
    "run features through a connector",
    "Runs patch features through a connector and writes the tokens. Memory is bounded for inputs of any size; reading, "
    "computing and writing overlap. FEATURES may be a folder of shards: then TOKENS is a folder with a manifest.json "
    "that records the hashes of weights, options and shards; finished shards are skipped when the same command runs "
    "again, and masks and attention are folders of npy files with the names of the shards. Outputs are written "
    "atomically. Under mpirun, in a build with MPI, the ranks share the shards. A summary line on standard error "
    "gives the counts, the CPU level and the seconds of each stage.",
    arguments,
    options,
    examples,
    "0: done. 1: invalid data or a failure; every output is complete or unchanged, and finished shards are kept. 2: "
    "invalid command line.",
    run,
    true};
