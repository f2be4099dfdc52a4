/* SPDX-License-Identifier: MIT */
/* tenon bench: how fast a connector runs on an input of a given shape, beside what the machine can do. Forwards and
 * probes alternate and medians are reported, because machines change speed within a minute. */
#include "bench_limits.h"
#include "commands.h"
#include "json.h"
#include "model.h"
#include "names.h"
#include "pool.h"
#include "progress.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    tn_model_settings model;
    int64_t tokens;
    int64_t batch;
    int64_t window;
    int64_t repeat;
    int64_t threads;
    tn_pair grid;
    const char *dtype;
    const char *cpu;
    bool json;
} settings;

enum { MOST_REPEATS = 1001 };

static const tn_argument arguments[] = {
    {"MODEL", false, "@model",
     "a connector's safetensors file, an index of shards, the folder of a checkpoint, or a GGUF mmproj file"},
    {.name = NULL}};

static const tn_option options[] = {
    {"tokens", 0, TN_INT, "N", NULL, 1, offsetof(settings, tokens), "tokens per image", "--tokens 729"},
    {"batch", 0, TN_INT, "B", NULL, 1, offsetof(settings, batch), "images per call; default 1", "--batch 8"},
    {"dtype", 0, TN_STRING, "D", "f32 bf16 f16", 0, offsetof(settings, dtype),
     "dtype of features and tokens: f32, bf16 or f16; default that of the parameters", "--dtype bf16"},
    {"threads", 0, TN_INT, "T", NULL, 1, offsetof(settings, threads),
     "number of compute threads; default OMP_NUM_THREADS, else one per core that affinity and CPU quota allow",
     "--threads 1"},
    {"window", 0, TN_INT, "W", NULL, 1, offsetof(settings, window), "pooling window, instead of the config's",
     "--window 3"},
    {"grid", 0, TN_PAIR, "HxW", NULL, 0, offsetof(settings, grid),
     "rows x columns of the patch grid; default a square grid", "--grid 32x128"},
    {"repeat", 0, TN_INT, "R", NULL, 1, offsetof(settings, repeat), "number of timed forward passes; default 21",
     "--repeat 101"},
    {"cpu", 0, TN_STRING, "LEVEL", "@levels", 0, offsetof(settings, cpu),
     "highest CPU level to use; default TENON_CPU, else the best available", "--cpu baseline"},
    TN_MODEL_OPTION_PREFIX(settings),
    TN_MODEL_OPTION_RENAME(settings),
    TN_MODEL_OPTION_CONFIG(settings),
    TN_MODEL_OPTION_FAMILY(settings),
    TN_MODEL_OPTION_ACTIVATION(settings),
    TN_OPTION_JSON(settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon bench adapter.safetensors --tokens 576", "one image of CLIP-L/14 at 336 pixels"},
    {"tenon bench pool.safetensors --tokens 729 --batch 8 --dtype bf16 --json", "eight video frames, as JSON"},
    {.line = NULL}};

/* What a forward needs. */
typedef struct work {
    tenon_adapter *adapter;
    tenon_call call;
    tenon_workspace workspace;
    int64_t x_shape[3];
    int64_t y_shape[3];
    DLTensor x; /* (batch, tokens, in_dim) */
    DLTensor y; /* (batch, out_tokens, out_dim) */
    double flops;
    double weight_bytes;
} work;

/* Medians over the repeats, and the quartiles of the time. */
typedef struct figures {
    double seconds;
    double low;
    double high;
    double fma;
    double read;
} figures;

/* ---- the setup ---- */

/* Values of either sign between 1/2 and 1, made as bit patterns. */
static void fill(void *data, tenon_dtype dtype, size_t bytes)
{
    uint32_t random = 1;
    uint32_t *words = data;
    for (size_t i = 0; i < bytes / sizeof *words; i++) {
        random = random * 1664525u + 1013904223u;
        if (dtype == TENON_F32)
            words[i] = (random & 0x807fffffu) | 0x3f000000u;
        else if (dtype == TENON_BF16)
            words[i] = (random & 0x807f807fu) | 0x3f003f00u;
        else
            words[i] = (random & 0x83ff83ffu) | 0x38003800u;
    }
}

static bool tensor_bytes(const int64_t shape[3], tenon_dtype dtype, size_t *bytes)
{
    *bytes = tenon_dtype_size(dtype);
    for (int axis = 0; axis < 3; axis++)
        if (__builtin_mul_overflow(*bytes, (size_t)shape[axis], bytes)) return false;
    return *bytes < SIZE_MAX / 2;
}

static bool make_tensor(DLTensor *tensor, int64_t shape[3], tenon_dtype dtype, tenon_error *error)
{
    size_t bytes;
    if (!tensor_bytes(shape, dtype, &bytes))
        return tn_error(error, "the input is too large: %s", tn_shape_text(3, shape));
    void *data = malloc(bytes + sizeof(uint32_t));
    if (!data)
        return tn_error(error, "out of memory: %s %s is %s", tn_shape_text(3, shape), tenon_dtype_name(dtype),
                        tn_bytes_text((double)bytes));
    fill(data, dtype, bytes + sizeof(uint32_t));
    *tensor = (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = 3, .dtype = tenon_dtype_to_dlpack(dtype)};
    tensor->shape = shape;
    return true;
}

/* The storage asked for, or the parameters'. */
static bool find_dtype(const tenon_adapter *adapter, const settings *given, tenon_dtype *dtype, tenon_error *error)
{
    if (given->dtype) return tenon_dtype_from_name(given->dtype, dtype, error) == TENON_OK;
    tenon_parameter first;
    tenon_parameter_init(&first);
    if (tenon_adapter_parameter(adapter, 0, &first, error) != TENON_OK) return false;
    *dtype = first.dtype;
    return true;
}

static bool sum_weights(work *w, tenon_error *error)
{
    for (int64_t i = 0; i < tenon_adapter_num_parameters(w->adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        if (tenon_adapter_parameter(w->adapter, i, &parameter, error) != TENON_OK) return false;
        w->weight_bytes += (double)tn_count_elements(&parameter) * (double)tenon_dtype_size(parameter.dtype);
    }
    return true;
}

static bool prepare(work *w, const settings *given, const tn_pool *pool, tenon_error *error)
{
    tenon_prepare_options prepared;
    tenon_prepare_options_init(&prepared);
    prepared.cpu = given->cpu;
    prepared.executor = tn_pool_executor(pool);
    tenon_call_init(&w->call);
    w->call.executor = prepared.executor;
    w->call.pool_window = given->window;
    tn_call_set_grid(&w->call, given->grid);
    return tenon_adapter_prepare(w->adapter, &prepared, error) == TENON_OK && sum_weights(w, error);
}

static bool measure_shapes(work *w, const settings *given, tenon_error *error)
{
    int64_t out_tokens;
    const tenon_call *call = &w->call;
    if (tenon_adapter_output_num_tokens(w->adapter, call, given->tokens, &out_tokens, error) != TENON_OK ||
        tenon_adapter_flops(w->adapter, given->tokens, call, &w->flops, error) != TENON_OK ||
        tenon_adapter_workspace_size(w->adapter, given->tokens, call, &w->workspace.size, error) != TENON_OK)
        return false;
    w->flops *= (double)given->batch;
    const int64_t x[3] = {given->batch, given->tokens, tenon_adapter_in_dim(w->adapter)};
    const int64_t y[3] = {given->batch, out_tokens, tenon_adapter_out_dim(w->adapter)};
    memcpy(w->x_shape, x, sizeof x);
    memcpy(w->y_shape, y, sizeof y);
    return true;
}

static bool check_window(const char *path, const work *w, const settings *given, tenon_error *error)
{
    const char *type = tenon_config_type(tenon_adapter_config(w->adapter));
    return given->window == TENON_UNSET || tenon_type_pools(type) ||
           tn_error(error, "--window does not apply: %s has a connector of type '%s', which does not pool",
                    tn_name_text(path), type);
}

static bool set_up(work *w, const settings *given, const tn_pool *pool, tenon_error *error)
{
    tenon_dtype dtype;
    if (!prepare(w, given, pool, error) || !measure_shapes(w, given, error) ||
        !find_dtype(w->adapter, given, &dtype, error) || !make_tensor(&w->x, w->x_shape, dtype, error) ||
        !make_tensor(&w->y, w->y_shape, dtype, error))
        return false;
    w->workspace.data = malloc(w->workspace.size);
    return w->workspace.data ||
           tn_error(error, "out of memory: the workspace is %s", tn_bytes_text((double)w->workspace.size));
}

static void tear_down(work *w)
{
    free(w->x.data);
    free(w->y.data);
    free(w->workspace.data);
    tenon_adapter_free(w->adapter);
}

/* ---- the measurement ---- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value at this share of the sorted ones. */
static double quantile(double *values, int64_t count, double share)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[(int64_t)(share * (double)(count - 1) + 0.5)];
}

static bool forward(work *w, double *seconds, tenon_error *error)
{
    const double started = tn_seconds();
    const tenon_status status = tenon_adapter_forward(w->adapter, &w->x, &w->y, &w->call, &w->workspace, error);
    *seconds = tn_seconds() - started;
    return status == TENON_OK;
}

static bool measure(work *w, const tn_limits *limits, int64_t repeat, figures *found, tenon_error *error)
{
    double seconds[MOST_REPEATS], fma[MOST_REPEATS], read[MOST_REPEATS];
    tn_progress progress;
    bool good = true;
    tn_progress_start(&progress, "forward passes", 0, repeat);
    for (int64_t i = 0; i < repeat && good; i++) {
        fma[i] = tn_limits_fma(limits);
        read[i] = tn_limits_read(limits);
        /* The first forward after the probes finds its weights out of the caches and its threads asleep. */
        good = forward(w, &seconds[i], error) && forward(w, &seconds[i], error);
        tn_progress_add(&progress, 1);
    }
    tn_progress_end(&progress);
    if (!good) return false;
    *found = (figures){quantile(seconds, repeat, 0.5), quantile(seconds, repeat, 0.25), quantile(seconds, repeat, 0.75),
                       quantile(fma, repeat, 0.5), quantile(read, repeat, 0.5)};
    return true;
}

/* ---- the report ---- */

static int report_json(const char *path, const settings *given, const work *w, const figures *f)
{
    return tn_print_json(
        json_pack("{s:o, s:s, s:I, s:[I, I, I], s:[I, I, I], s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "model",
                  tn_json_text(path), "level", tenon_adapter_cpu(w->adapter), "threads", (json_int_t)given->threads,
                  "features", (json_int_t)w->x_shape[0], (json_int_t)w->x_shape[1], (json_int_t)w->x_shape[2], "tokens",
                  (json_int_t)w->y_shape[0], (json_int_t)w->y_shape[1], (json_int_t)w->y_shape[2], "median_ms",
                  tn_json_real(1e3 * f->seconds), "low_ms", tn_json_real(1e3 * f->low), "high_ms",
                  tn_json_real(1e3 * f->high), "gflops", tn_json_real(1e-9 * w->flops / f->seconds), "fma_peak_gflops",
                  tn_json_real(f->fma), "read_gbs", tn_json_real(f->read), "weights_gbs",
                  tn_json_real(1e-9 * w->weight_bytes / f->seconds), "workspace_bytes", (json_int_t)w->workspace.size));
}

static int report_text(const char *path, const settings *given, const work *w, const figures *f)
{
    const double gflops = 1e-9 * w->flops / f->seconds, weights = 1e-9 * w->weight_bytes / f->seconds;
    printf("%s: %s -> %s, %" PRId64 " thread%s, %s\n", tn_name_text(path), tn_shape_text(3, w->x_shape),
           tn_shape_text(3, w->y_shape), given->threads, given->threads == 1 ? "" : "s", tenon_adapter_cpu(w->adapter));
    printf("time        %.3f ms (quartiles %.3f to %.3f)\n", 1e3 * f->seconds, 1e3 * f->low, 1e3 * f->high);
    printf("arithmetic  %.1f GFLOP/s, %.0f %% of the %.1f that multiply-adds in registers reach\n", gflops,
           100 * gflops / f->fma, f->fma);
    printf("weights     %.2f GB/s, %.0f %% of the %.2f that plain reads reach\n", weights, 100 * weights / f->read,
           f->read);
    printf("workspace   %zu bytes (%s)\n", w->workspace.size, tn_bytes_text((double)w->workspace.size));
    return TN_EXIT_OK;
}

/* ---- the command ---- */

static int check_settings(const tn_command *command, settings *given)
{
    if (!given->tokens) return tn_usage(command, "bench needs --tokens N, the tokens of an image");
    int code = tn_check_most(command, "threads", given->threads, TN_MOST_THREADS);
    return code >= 0 ? code : tn_check_most(command, "repeat", given->repeat, MOST_REPEATS);
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.window = TENON_UNSET, .batch = 1, .repeat = 21};
    const char *words[TN_MAX_ARGUMENTS];
    work w = {.adapter = NULL};
    tn_pool *pool = NULL;
    tn_limits *limits = NULL;
    figures found;
    tenon_error error;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code < 0) code = check_settings(command, &given);
    if (code >= 0) return code;
    bool good = tn_pool_new((int)given.threads, &pool, &error);
    if (good) given.threads = tn_pool_executor(pool)->width;
    good = good && tn_model_open(words[0], &given.model, false, &w.adapter, NULL, &error) == TENON_OK &&
           check_window(words[0], &w, &given, &error) && set_up(&w, &given, pool, &error) &&
           tn_limits_new(tenon_adapter_cpu(w.adapter), (int)given.threads, &limits, &error) == TENON_OK &&
           measure(&w, limits, given.repeat, &found, &error);
    if (!good)
        code = tn_failed_error(&error);
    else
        code = given.json ? report_json(words[0], &given, &w, &found) : report_text(words[0], &given, &w, &found);
    tn_limits_free(limits);
    tear_down(&w);
    tn_pool_free(pool);
    return code;
}

const tn_command tn_command_bench = {
    "bench",
    "time a connector on this machine",
    "Runs a connector on synthetic features of the given shape and prints the median time and two limits of the "
    "machine: multiply-adds in registers, and memory reads. Forward passes and these probes alternate; the quartiles "
    "show how much the times vary. Weights are counted once per forward pass. Nothing is written.",
    arguments,
    options,
    examples,
    "0: measured. 1: the model cannot be read, or does not accept this input. 2: invalid command line.",
    run,
    false};
