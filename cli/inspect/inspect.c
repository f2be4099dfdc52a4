/* SPDX-License-Identifier: MIT */
/* tenon inspect: what a file's connector is, what it costs and how many tokens it makes. This file reads the options
 * and describes connectors; see inspect.h for files that describe none. */
#include "inspect.h"

#include "commands.h"
#include "json.h"
#include "model.h"
#include "names.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    tn_model_settings model;
    int64_t window;
    tn_pair grid;
    int64_t in_dim;
    int64_t out_dim;
    bool all;
    bool dot;
    bool json;
} settings;

static const tn_argument arguments[] = {
    {"MODEL", false, "@model",
     "a safetensors file, an index of shards (model.safetensors.index.json) or its folder, or a GGUF mmproj file"},
    {.name = NULL}};

static const tn_option options[] = {
    {"window", 0, TN_INT, "W", NULL, 1, offsetof(settings, window), "pooling window, instead of the config's",
     "--window 3"},
    {"grid", 0, TN_PAIR, "HxW", NULL, 0, offsetof(settings, grid),
     "rows x columns of one patch grid, instead of the common grids", "--grid 32x128"},
    {"in-dim", 0, TN_INT, "C", NULL, 1, offsetof(settings, in_dim),
     "check that the features have this width; the exit code is 1 when they do not", "--in-dim 1152"},
    {"out-dim", 0, TN_INT, "D", NULL, 1, offsetof(settings, out_dim),
     "check that the tokens have this width; the exit code is 1 when they do not", "--out-dim 4096"},
    TN_MODEL_OPTION_PREFIX(settings),
    TN_MODEL_OPTION_RENAME(settings),
    TN_MODEL_OPTION_CONFIG(settings),
    TN_MODEL_OPTION_FAMILY(settings),
    TN_MODEL_OPTION_ACTIVATION(settings),
    {"all", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, all), "list every tensor of the file", "--all"},
    {"dot", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, dot), "write the graph alone, for Graphviz", "--dot"},
    TN_OPTION_JSON(settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon inspect adapter.safetensors", "type, widths, layers, parameters, cost and tokens"},
    {"tenon inspect adapter.safetensors --in-dim 1152 --out-dim 4096", "check that it fits between two models"},
    {"tenon inspect adapter.safetensors --dot", "its graph, of which Graphviz makes a picture: dot -Tsvg"},
    {"tenon inspect llava/", "what looks like a connector in a checkpoint, and how to open it"},
    {"tenon inspect llava/ --config adapter.json", "the connector inside a sharded checkpoint"},
    {.line = NULL}};

/* Encoders in use: 224/16, 256/16, 336/14, 384/14, 512/16, 518/14. */
static const tn_pair common_grids[] = {{14, 14}, {16, 16}, {24, 24}, {27, 27}, {32, 32}, {37, 37}};

/* One row of the table of grids. */
typedef struct grid_row {
    tn_pair grid;
    int64_t tokens_in;
    bool refused; /* the connector cannot pool this grid */
    int64_t tokens;
    double flops;
    size_t workspace;
} grid_row;

/* The file could not be opened as a connector: shows what it does hold, then says why. */
static int explain_failure(const tn_command *command, const char *path, const settings *given, const tenon_error *error)
{
    tenon_file *file;
    if (given->model.config || given->dot || tenon_file_open(path, NULL, &file, NULL) != TENON_OK)
        return tn_failed_error(error);
    if (given->json)
        tn_print_json(tn_survey_json(command, path, file));
    else
        tn_survey_text(command, path, file, given->all);
    tenon_file_close(file);
    fflush(stdout);
    return tn_failed_error(error);
}

/* ---- the connector ---- */

static void describe_grid(const tenon_adapter *adapter, const settings *given, grid_row *row)
{
    tenon_call call;
    tenon_call_init(&call);
    call.pool_window = given->window;
    call.grid_height = row->grid.height;
    call.grid_width = row->grid.width;
    row->refused = true;
    if (__builtin_mul_overflow(row->grid.height, row->grid.width, &row->tokens_in) ||
        __builtin_add_overflow(row->tokens_in, tn_config_int(tenon_adapter_config(adapter), "prefix_tokens"),
                               &row->tokens_in))
        return;
    if (tenon_adapter_output_num_tokens(adapter, &call, row->tokens_in, &row->tokens, NULL) != TENON_OK) return;
    if (tenon_adapter_flops(adapter, row->tokens_in, &call, &row->flops, NULL) != TENON_OK) return;
    row->refused = tenon_adapter_workspace_size(adapter, row->tokens_in, &call, &row->workspace, NULL) != TENON_OK;
}

typedef struct totals {
    int64_t elements;
    double bytes;
} totals;

static totals sum_parameters(const tenon_adapter *adapter)
{
    totals sum = {0, 0};
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        if (tenon_adapter_parameter(adapter, i, &parameter, NULL) != TENON_OK) continue;
        sum.elements += tn_count_elements(&parameter);
        sum.bytes += (double)tn_count_elements(&parameter) * (double)tenon_dtype_size(parameter.dtype);
    }
    return sum;
}

static const char *dtype_name(tenon_dtype dtype)
{
    const char *name = tenon_dtype_name(dtype);
    return name ? name : "-";
}

static void print_grids(const grid_row *rows, size_t count)
{
    printf("\ngrid      tokens in   tokens out   MFLOP an image   workspace\n");
    for (size_t i = 0; i < count; i++) {
        const grid_row *row = &rows[i];
        char grid[48];
        snprintf(grid, sizeof grid, "%" PRId64 "x%" PRId64, row->grid.height, row->grid.width);
        if (row->refused)
            printf("%-9s %9" PRId64 "            -                -           -\n", grid, row->tokens_in);
        else
            printf("%-9s %9" PRId64 "   %10" PRId64 "   %14.1f   %9s\n", grid, row->tokens_in, row->tokens,
                   row->flops / 1e6, tn_bytes_text((double)row->workspace));
    }
}

static void print_text(const char *path, const tenon_file *file, const tenon_adapter *adapter,
                       const tenon_load_options *found, const grid_row *rows, size_t count)
{
    const tenon_config *config = tenon_adapter_config(adapter);
    json_t *graph = tn_graph_json(adapter);
    totals sum = sum_parameters(adapter);
    char *text = tn_config_text(config);
    printf("%s: %s, %" PRId64 " -> %" PRId64 "\n", tn_name_text(path), tenon_config_type(config),
           tenon_adapter_in_dim(adapter), tenon_adapter_out_dim(adapter));
    printf("config      ");
    tn_print_safely(stdout, text ? text : "-");
    printf("\n");
    tn_family_text(adapter);
    tn_activation_text(adapter);
    printf("parameters  %s, %.0f bytes (%s)\n", tn_count_text(sum.elements), sum.bytes, tn_bytes_text(sum.bytes));
    if (found->used_prefix[0]) printf("prefix      %s\n", tn_name_text(found->used_prefix));
    if (found->num_unused)
        printf("tensors     %" PRId64 " used, %" PRId64 " others in the file\n", found->num_used, found->num_unused);
    tn_print_absent_shards(file);
    tn_family_sources_text(file, adapter);
    tn_metadata_text(file);
    tn_graph_text(graph, adapter);
    print_grids(rows, count);
    free(text);
    json_decref(graph);
}

static json_t *layers_as_json(const tenon_adapter *adapter)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < tenon_adapter_num_layers(adapter); i++) {
        tenon_layer_info layer;
        tenon_layer_info_init(&layer);
        if (tenon_adapter_layer(adapter, i, &layer, NULL) != TENON_OK) continue;
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:I}", "type", layer.type, "name", layer.name,
                                              "reach", layer.reach, "in_dim", (json_int_t)layer.in_dim, "out_dim",
                                              (json_int_t)layer.out_dim));
    }
    return list;
}

static json_t *parameters_as_json(const tenon_adapter *adapter)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        if (tenon_adapter_parameter(adapter, i, &parameter, NULL) != TENON_OK) continue;
        json_t *shape = json_array();
        for (int axis = 0; axis < parameter.ndim; axis++)
            json_array_append_new(shape, json_integer(parameter.shape[axis]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", parameter.name, "dtype",
                                              dtype_name(parameter.dtype), "shape", shape));
    }
    return list;
}

static json_t *grid_as_json(const grid_row *row)
{
    json_t *object = json_pack("{s:o, s:I}", "grid", tn_json_pair(row->grid.height, row->grid.width), "tokens_in",
                               (json_int_t)row->tokens_in);
    json_object_set_new(object, "tokens", row->refused ? json_null() : json_integer(row->tokens));
    json_object_set_new(object, "flops", row->refused ? json_null() : tn_json_real(row->flops));
    json_object_set_new(object, "workspace", row->refused ? json_null() : json_integer((json_int_t)row->workspace));
    return object;
}

static int print_as_json(const char *path, const tenon_file *file, const tenon_adapter *adapter,
                         const tenon_load_options *found, const grid_row *rows, size_t count)
{
    totals sum = sum_parameters(adapter);
    json_t *grids = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(grids, grid_as_json(&rows[i]));
    return tn_print_json(tn_json_joined(
        json_pack("{s:o, s:s, s:I, s:I, s:o, s:I, s:I, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "file",
                  tn_json_text(path), "type", tenon_config_type(tenon_adapter_config(adapter)), "in_dim",
                  (json_int_t)tenon_adapter_in_dim(adapter), "out_dim", (json_int_t)tenon_adapter_out_dim(adapter),
                  "config", tn_json_config(tenon_adapter_config(adapter)), "parameters", (json_int_t)sum.elements,
                  "bytes", (json_int_t)sum.bytes, "prefix", tn_json_text(found->used_prefix), "tensors_used",
                  (json_int_t)found->num_used, "tensors_unused", (json_int_t)found->num_unused, "absent_shards",
                  tn_absent_shards(file), "layers", layers_as_json(adapter), "tensors", parameters_as_json(adapter),
                  "graph", tn_graph_json(adapter), "grids", grids),
        tn_json_joined(tn_family_json(file, adapter), tn_gguf_json(file, adapter))));
}

/* --in-dim and --out-dim: does it fit between two models? */
static int check_widths(const char *path, const tenon_adapter *adapter, const settings *given)
{
    int64_t in_dim = tenon_adapter_in_dim(adapter);
    int64_t out_dim = tenon_adapter_out_dim(adapter);
    if (given->in_dim && given->in_dim != in_dim)
        return tn_failed("%s: takes features of width %" PRId64 ", wanted %" PRId64
                         "; it belongs to another vision encoder",
                         path, in_dim, given->in_dim);
    if (given->out_dim && given->out_dim != out_dim)
        return tn_failed("%s: makes tokens of width %" PRId64 ", wanted %" PRId64
                         "; it belongs to another language model",
                         path, out_dim, given->out_dim);
    return TN_EXIT_OK;
}

static int print_dot(const tenon_adapter *adapter)
{
    json_t *graph = tn_graph_json(adapter);
    if (graph == NULL) return tn_failed("out of memory: the graph cannot be described");
    tn_graph_dot(graph, adapter);
    json_decref(graph);
    return TN_EXIT_OK;
}

static int describe(const char *path, const tenon_adapter *adapter, const settings *given,
                    const tenon_load_options *found)
{
    grid_row rows[sizeof common_grids / sizeof *common_grids];
    size_t count = given->grid.height ? 1 : sizeof common_grids / sizeof *common_grids;
    for (size_t i = 0; i < count; i++) {
        rows[i] = (grid_row){.grid = given->grid.height ? given->grid : common_grids[i]};
        describe_grid(adapter, given, &rows[i]);
    }
    tenon_file *file;
    tenon_error error;
    if (tenon_file_open(path, NULL, &file, &error) != TENON_OK) return tn_failed_error(&error);
    int code = TN_EXIT_OK;
    if (given->dot)
        code = print_dot(adapter);
    else if (given->json)
        code = print_as_json(path, file, adapter, found, rows, count);
    else
        print_text(path, file, adapter, found, rows, count);
    if (given->all && !given->json && !given->dot) tn_list_tensors(file);
    tenon_file_close(file);
    fflush(stdout);
    return code == TN_EXIT_OK ? check_widths(path, adapter, given) : code;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.window = TENON_UNSET};
    const char *words[TN_MAX_ARGUMENTS];
    tenon_adapter *adapter = NULL;
    tenon_load_options found;
    tenon_error error;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code >= 0) return code;
    if (given.dot && given.json) return tn_usage(command, "--dot and --json exclude each other");
    tenon_status status = tn_model_open(words[0], &given.model, true, &adapter, &found, &error);
    if (status != TENON_OK) return explain_failure(command, words[0], &given, &error);
    const char *type = tenon_config_type(tenon_adapter_config(adapter));
    if (given.window != TENON_UNSET && !tenon_type_pools(type))
        code = tn_failed("--window does not apply: %s has a connector of type '%s', which does not pool",
                         tn_name_text(words[0]), type);
    else
        code = describe(words[0], adapter, &given, &found);
    tenon_adapter_free(adapter);
    return code;
}

const tn_command tn_command_inspect = {
    "inspect",
    "say what a connector file holds and costs",
    "Prints the connector in a file: type, widths, config, bytes, its graph (the spaces that rows live in, the values, "
    "and the layers that make them, with their parameters), and for the grids of "
    "common encoders the tokens, the floating-point operations per image and the workspace ('-' where the grid is "
    "refused). Of any other checkpoint it shows what looks like a connector, with the command that opens it, and the "
    "tensors by prefix; the exit code is then 1.",
    arguments,
    options,
    examples,
    "0: described. 1: the file cannot be read, holds no connector, or has other widths than asked for. 2: invalid "
    "command line.",
    run,
    false};
