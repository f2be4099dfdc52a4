/* SPDX-License-Identifier: MIT */
/* Loading: the file's tensors are matched, then read into fresh storage. Nothing of the adapter changes before
 * everything has been read. */
#include "adapter/adapter.h"

#include "adapter/match.h"
#include "core/size.h"
#include "core/versioned.h"
#include "families/gguf.h"
#include "families/model_config.h"
#include "formats/format.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { first_options_size = TN_FIRST_SIZE(tenon_load_options, num_unused) };

void tenon_load_options_init(tenon_load_options *options)
{
    *options = (tenon_load_options){.size = sizeof *options};
}

/* The given options, or defaults; older callers' structs are shorter. */
static tenon_status read_options(tenon_load_options *settings, const tenon_load_options *options, tenon_error *error)
{
    tenon_load_options_init(settings);
    return tn_struct_read(settings, sizeof *settings, options, first_options_size, "tenon_load_options", error);
}

/* The outputs; read_options has checked that the struct has them. */
static void report(tenon_load_options *options, const tn_match *match, int64_t used, int64_t count)
{
    if (options == NULL) return;
    snprintf(options->used_prefix, sizeof options->used_prefix, "%s", match->spelt);
    options->num_used = used;
    options->num_unused = count - used;
}

/* ---- a checkpoint: tensors with their names ---- */

typedef struct checkpoint {
    tn_quoted source;
    tenon_file *file; /* NULL: tensors from elsewhere */
    tenon_file_tensor *tensors;
    tn_names names;
} checkpoint;

static void close_checkpoint(checkpoint *c)
{
    tn_names_free(&c->names);
    free(c->tensors);
    tenon_file_close(c->file);
}

static tenon_status name_tensors(checkpoint *c, int64_t count, const tenon_load_options *settings, tenon_error *error)
{
    TN_TRY(tn_names_make(&c->names, c->source.text, c->tensors, count, settings->rename, settings->num_rename, error));
    c->names.file = c->file;
    return TENON_OK;
}

static tenon_status list_tensors(checkpoint *c, const tenon_load_options *settings, tenon_error *error)
{
    const int64_t count = tenon_file_num_tensors(c->file);
    c->tensors = calloc((size_t)count + 1, sizeof *c->tensors); /* never of size 0 */
    if (c->tensors == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", c->source.text);
    for (int64_t t = 0; t < count; t++) {
        tenon_file_tensor_init(&c->tensors[t]);
        TN_TRY(tenon_file_get_tensor(c->file, t, &c->tensors[t], error));
    }
    return name_tensors(c, count, settings, error);
}

/* A file's tensors, named as the options say. The checkpoint is not to be moved. */
static tenon_status open_checkpoint(checkpoint *c, tenon_load_options *settings, const char *path,
                                    const tenon_load_options *options, tenon_error *error)
{
    *c = (checkpoint){.file = NULL};
    TN_TRY(read_options(settings, options, error));
    TN_TRY(tenon_file_open(path, NULL, &c->file, error));
    c->source = tn_quote(path);
    const tenon_status status = list_tensors(c, settings, error);
    if (status != TENON_OK) close_checkpoint(c);
    return status;
}

/* ---- reading ---- */

static tenon_status read_parameters(const tenon_adapter *adapter, const checkpoint *c, const tn_match *match,
                                    bool describe_only, tn_parameter *fresh, tenon_error *error)
{
    for (int64_t p = 0; p < adapter->graph->num_parameters; p++) {
        const int64_t index = match->tensors[p];
        tn_dtype dtype = TN_F32;
        (void)tn_dtype_from_dlpack(c->tensors[index].dtype, &dtype); /* tn_match_check has looked at it */
        fresh[p].dtype = dtype;
        fresh[p].source = strdup(c->tensors[index].name);
        if (fresh[p].source == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", c->source.text);
        if (describe_only) continue;
        TN_TRY(tn_parameter_allocate(adapter, fresh, p, dtype, error));
        TN_TRY(tenon_file_read(c->file, index, 0, c->tensors[index].shape[0], fresh[p].data, fresh[p].bytes, error));
    }
    return TENON_OK;
}

static tenon_status load_match(tenon_adapter *adapter, const checkpoint *c, const tn_match *match, bool describe_only,
                               tenon_error *error)
{
    tn_parameter *fresh = NULL;
    TN_TRY(tn_parameters_new(adapter, &fresh, error));
    const tenon_status status = read_parameters(adapter, c, match, describe_only, fresh, error);
    if (status != TENON_OK) {
        tn_parameters_free(adapter, fresh);
        return status;
    }
    tn_adapter_replace_parameters(adapter, fresh);
    return TENON_OK;
}

static tenon_status load_checkpoint(tenon_adapter *adapter, const checkpoint *c, const tenon_load_options *settings,
                                    tenon_load_options *options, tenon_error *error)
{
    const tn_expected expected = tn_expected_of_graph(adapter->graph);
    tn_match match;
    TN_TRY(tn_match_make(&match, &c->names, &expected, 1, tenon_config_type(adapter->config), settings->prefix, error));
    const tenon_status status = load_match(adapter, c, &match, false, error);
    if (status == TENON_OK) report(options, &match, expected.count, c->names.count);
    tn_match_free(&match);
    return status;
}

tenon_status tenon_adapter_load(tenon_adapter *adapter, const char *path, tenon_load_options *options,
                                tenon_error *error)
{
    tenon_load_options settings;
    checkpoint c;
    TN_TRY(open_checkpoint(&c, &settings, path, options, error));
    const tenon_status status = load_checkpoint(adapter, &c, &settings, options, error);
    close_checkpoint(&c);
    return status;
}

/* ---- the adapter that a checkpoint holds ---- */

/* A config and the widths that it tells; 0: they are the tensors'. */
typedef struct description {
    tenon_config *config;
    int64_t in_dim, out_dim;
    bool find_hidden;
    tn_model_config model; /* where the config is a public model's; else its family is NULL */
    char *json;            /* the connector's config that the model's says */
} description;

static void drop_description(description *d)
{
    tenon_config_free(d->config);
    tn_model_config_close(&d->model);
    free(d->json);
}

/* Takes the config of a public model: the text (NULL: none), whose name for messages is `source`. */
static tenon_status take_model(description *d, checkpoint *c, const char *source, const char *text,
                               const tenon_load_options *settings, tenon_error *error)
{
    const size_t length = text != NULL ? strlen(text) : 0;
    TN_TRY(tn_model_config_parse(&d->model, source, text, length, settings->family, error));
    c->names.family = d->model.family;
    return tn_model_config_json(&d->model, &d->json, error);
}

/* Says why a checkpoint without a config of tenon's and of a model's is not opened. */
static tenon_status fail_no_config(const checkpoint *c, tenon_error *error)
{
    const char *what = c->file != NULL ? tn_explain_neighbours(tn_input_path(c->file->inputs[0])) : NULL;
    if (what != NULL) return tn_fail(error, TENON_NOT_FOUND, "%s: %s", c->source.text, what);
    return tn_fail(error, TENON_NOT_FOUND,
                   "%s carries no adapter config (metadata '%s'), and no model's " TN_MODEL_CONFIG
                   " is beside it; give one with `config`, for example {\"type\": \"mlp_2layer\"}",
                   c->source.text, TN_METADATA_CONFIG);
}

/* The public model that a file without a config of its own is of. */
static tenon_status find_model(description *d, checkpoint *c, const tenon_load_options *settings, tenon_error *error)
{
    char *source = NULL, *text = NULL;
    const bool is_gguf = c->file != NULL && strcmp(c->file->kind, "GGUF") == 0;
    tenon_status status = TENON_OK;
    if (is_gguf) {
        status = tn_gguf_config(c->file, c->source.text, &text, error);
    } else if (c->file != NULL) {
        status = tn_model_file_read(c->file, &source, &text, error);
    }
    if (status == TENON_OK && text == NULL && settings->family == NULL) status = fail_no_config(c, error);
    if (status == TENON_OK) {
        status = take_model(d, c, source != NULL ? source : c->source.text, text, settings, error);
    }
    free(source);
    free(text);
    return status;
}

/* The JSON of the caller, of the file's metadata, or of the model that the file is of. */
static tenon_status find_json(description *d, checkpoint *c, const tenon_load_options *settings, const char **json,
                              tenon_error *error)
{
    const char *version = c->file != NULL ? tenon_file_metadata(c->file, TN_METADATA_FORMAT) : NULL;
    *json = settings->config_json;
    if (*json == NULL && version != NULL && strcmp(version, TN_METADATA_VERSION) != 0) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s has adapter format '%s'; this version of tenon reads '%s'",
                       c->source.text, tn_quote(version).text, TN_METADATA_VERSION);
    }
    if (*json != NULL && tn_is_model_config(*json, strlen(*json))) {
        TN_TRY(take_model(d, c, "the config", *json, settings, error));
        *json = d->json;
        return TENON_OK;
    }
    if (*json == NULL && c->file != NULL) *json = tenon_file_metadata(c->file, TN_METADATA_CONFIG);
    if (*json == NULL) {
        TN_TRY(find_model(d, c, settings, error));
        *json = d->json;
    } else if (settings->family != NULL) {
        return tn_fail(error, TENON_INVALID,
                       "%s: `family` does not apply where the connector's own config is given or in the file",
                       c->source.text);
    }
    return TENON_OK;
}

/* Passes on what is wrong with a config, with the checkpoint's name before it. */
static tenon_status blame(const checkpoint *c, tenon_status status, const tenon_error *reason, tenon_error *error)
{
    return status == TENON_OK ? status : tn_fail(error, status, "%s: %.3000s", c->source.text, reason->message);
}

/* A connector without parameters has the widths that the model's config says. */
static tenon_status take_model_widths(description *d, tenon_error *error)
{
    tn_graph *graph = NULL;
    TN_TRY(tn_config_graph(d->config, 0, 0, NULL, &graph, error));
    const int64_t parameters = graph->num_parameters;
    tn_graph_free(graph);
    if (parameters > 0) return TENON_OK;
    TN_TRY(tn_model_width(&d->model, "in_dim", &d->in_dim, error));
    return tn_model_width(&d->model, "out_dim", &d->out_dim, error);
}

static tenon_status describe(description *d, checkpoint *c, const tenon_load_options *settings, tenon_error *error)
{
    const char *json;
    int64_t hidden;
    tenon_error reason;
    TN_TRY(find_json(d, c, settings, &json, error));
    TN_TRY(blame(c, tn_config_from_adapter_json(json, strlen(json), &d->config, &d->in_dim, &d->out_dim, &reason),
                 &reason, error));
    if (settings->activation != NULL) {
        TN_TRY(
            blame(c, tenon_config_set_string(d->config, "activation", settings->activation, &reason), &reason, error));
    }
    /* A file's own config is whole. */
    d->find_hidden = (settings->config_json != NULL || d->model.family != NULL) &&
                     tenon_config_get_int(d->config, "hidden_dim", &hidden, NULL) == TENON_OK && hidden == 0;
    return TENON_OK;
}

/* What the config expects: with the hidden width that it implies, and with any other. */
enum { MAX_ALTERNATIVES = 2 };
static tenon_status list_alternatives(tn_expected alternatives[MAX_ALTERNATIVES], int *count, const description *d,
                                      tenon_error *error)
{
    *count = 0;
    TN_TRY(tn_expected_make(&alternatives[0], d->config, d->in_dim, d->out_dim, false, error));
    *count = 1;
    if (!d->find_hidden) return TENON_OK;
    if (tn_expected_make(&alternatives[1], d->config, d->in_dim, d->out_dim, true, NULL) != TENON_OK) return TENON_OK;
    if (tn_expected_uses(&alternatives[1], TN_HIDDEN_DIM)) {
        *count = 2;
    } else {
        tn_expected_free(&alternatives[1]);
    }
    return TENON_OK;
}

/* Completes the description by the widths that the tensors tell. */
static tenon_status take_widths(description *d, int64_t widths[TN_NUM_WIDTHS], tenon_error *error)
{
    if (d->model.family != NULL) { /* where no tensor's shape tells a width, the mismatch is shown with the config's */
        if (widths[TN_IN_DIM] == 0) TN_TRY(tn_model_width(&d->model, "in_dim", &widths[TN_IN_DIM], error));
        if (widths[TN_OUT_DIM] == 0) TN_TRY(tn_model_width(&d->model, "out_dim", &widths[TN_OUT_DIM], error));
    }
    const char *unknown = widths[TN_IN_DIM] == 0 ? "in_dim" : widths[TN_OUT_DIM] == 0 ? "out_dim" : NULL;
    if (unknown != NULL) {
        return tn_fail(error, TENON_INVALID, "no tensor of adapter type '%s' tells `%s`; give it in the config",
                       tenon_config_type(d->config), unknown);
    }
    d->in_dim = widths[TN_IN_DIM];
    d->out_dim = widths[TN_OUT_DIM];
    if (widths[TN_HIDDEN_DIM] == 0) return TENON_OK;
    return tenon_config_set_int(d->config, "hidden_dim", widths[TN_HIDDEN_DIM], error);
}

/* Finds what the config leaves out. `prefix` gets the prefix under which the tensors are. */
static tenon_status complete(description *d, const checkpoint *c, const char *given, char prefix[TN_MAX_PREFIX + 1],
                             tenon_error *error)
{
    tn_expected alternatives[MAX_ALTERNATIVES];
    tn_match match;
    tenon_error reason;
    int count;
    TN_TRY(blame(c, list_alternatives(alternatives, &count, d, &reason), &reason, error));
    tenon_status status =
        tn_match_make(&match, &c->names, alternatives, count, tenon_config_type(d->config), given, error);
    if (status == TENON_OK) {
        snprintf(prefix, TN_MAX_PREFIX + 1, "%s", match.prefix);
        status = blame(c, take_widths(d, match.widths, &reason), &reason, error);
        tn_match_free(&match);
    }
    for (int a = 0; a < count; a++)
        tn_expected_free(&alternatives[a]);
    return status;
}

/* The described adapter without parameters, and where these are in the checkpoint. */
static tenon_status make_adapter(tenon_adapter **adapter, tn_match *match, description *d, const checkpoint *c,
                                 const tenon_load_options *settings, tenon_error *error)
{
    char found[TN_MAX_PREFIX + 1];
    const char *prefix = settings->prefix;
    tenon_adapter *made = NULL;
    tenon_error reason;
    if (d->model.family != NULL) TN_TRY(blame(c, take_model_widths(d, &reason), &reason, error));
    if (d->in_dim == 0 || d->out_dim == 0 || d->find_hidden) {
        TN_TRY(complete(d, c, prefix, found, error));
        if (c->names.family == NULL) prefix = found;
    }
    TN_TRY(blame(c, tenon_adapter_new(d->config, d->in_dim, d->out_dim, settings->allocator, &made, &reason), &reason,
                 error));
    const tn_expected expected = tn_expected_of_graph(made->graph);
    const tenon_status status =
        tn_match_make(match, &c->names, &expected, 1, tenon_config_type(d->config), prefix, error);
    if (status != TENON_OK) {
        tenon_adapter_free(made);
        return status;
    }
    match->expected = NULL; /* it was ours */
    *adapter = made;
    return TENON_OK;
}

/* ---- a public model ---- */

/* The first tensor, or the last, that has a side of this width; it is shown where the config says another one. */
static const tenon_file_tensor *find_side(const tenon_adapter *adapter, const tn_match *match, const checkpoint *c,
                                          int64_t width, bool last)
{
    const tenon_file_tensor *found = &c->tensors[match->tensors[0]];
    bool is_found = false;
    for (int64_t p = 0; p < adapter->graph->num_parameters; p++) {
        const tenon_file_tensor *tensor = &c->tensors[match->tensors[p]];
        for (int d = 0; d < tensor->ndim; d++) {
            if (tensor->shape[d] != width || (is_found && !last)) continue;
            found = tensor;
            is_found = true;
        }
    }
    return found;
}

/* Compares the widths with the model's config, and notes what the adapter is of. */
static tenon_status note_model(tenon_adapter *adapter, const tn_match *match, const description *d, const checkpoint *c,
                               tenon_error *error)
{
    if (adapter->graph->num_parameters > 0) {
        const tenon_file_tensor *in = find_side(adapter, match, c, adapter->in_dim, false);
        const tenon_file_tensor *out = find_side(adapter, match, c, adapter->out_dim, true);
        TN_TRY(tn_model_check_width(&d->model, "in_dim", adapter->in_dim, in->name, in->ndim, in->shape, error));
        TN_TRY(tn_model_check_width(&d->model, "out_dim", adapter->out_dim, out->name, out->ndim, out->shape, error));
    }
    adapter->family = d->model.family;
    adapter->feeding = tn_model_feeding(&d->model, d->json);
    if (adapter->feeding != NULL) return TENON_OK;
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", c->source.text);
}

/* Adds what the model's config says to a sentence about tensors that do not fit, or options that cannot be. */
static tenon_status explain_model(tenon_status status, const description *d, const tenon_error *reason,
                                  tenon_error *error)
{
    char values[900] = "";
    tn_text text = {values, sizeof values, 0};
    if ((status != TENON_MISMATCH && status != TENON_INVALID) || d->model.family == NULL) {
        return tn_fail(error, status, "%s", reason->message);
    }
    tn_model_add_values(&text, &d->model);
    return tn_fail(error, status, "%.2900s; %s has %s", reason->message, d->model.source.text,
                   values[0] != '\0' ? values : "nothing about it");
}

static tenon_status find_adapter(tenon_adapter **adapter, tn_match *match, checkpoint *c,
                                 const tenon_load_options *settings, tenon_error *error)
{
    description d = {.config = NULL};
    tenon_adapter *made = NULL;
    tenon_error reason;
    tenon_status status = describe(&d, c, settings, error);
    if (status == TENON_OK) {
        status = make_adapter(&made, match, &d, c, settings, &reason);
        if (status != TENON_OK) (void)explain_model(status, &d, &reason, error);
    }
    if (status == TENON_OK && d.model.family != NULL) {
        status = note_model(made, match, &d, c, error);
        if (status != TENON_OK) {
            tn_match_free(match);
            tenon_adapter_free(made);
        }
    }
    if (status == TENON_OK) *adapter = made;
    drop_description(&d);
    return status;
}

static tenon_status open_adapter(tenon_adapter **adapter, checkpoint *c, const tenon_load_options *settings,
                                 tenon_load_options *options, tenon_error *error)
{
    tenon_adapter *made = NULL;
    tn_match match;
    TN_TRY(find_adapter(&made, &match, c, settings, error));
    const tenon_status status = load_match(made, c, &match, settings->describe_only, error);
    if (status == TENON_OK) {
        report(options, &match, made->graph->num_parameters, c->names.count);
        *adapter = made;
    } else {
        tenon_adapter_free(made);
    }
    tn_match_free(&match);
    return status;
}

tenon_status tenon_adapter_open(const char *path, tenon_load_options *options, tenon_adapter **adapter,
                                tenon_error *error)
{
    tenon_load_options settings;
    checkpoint c;
    TN_TRY(open_checkpoint(&c, &settings, path, options, error));
    const tenon_status status = open_adapter(adapter, &c, &settings, options, error);
    close_checkpoint(&c);
    return status;
}

/* ---- tensors from elsewhere ---- */

static tenon_status check_tensor(const checkpoint *c, const tenon_file_tensor *tensor, tenon_error *error)
{
    size_t bytes;
    if (tensor->name == NULL || tensor->stored == NULL) {
        return tn_fail(error, TENON_INVALID, "%s: a tensor has no name, or no name of its stored type", c->source.text);
    }
    if (tensor->ndim < 0 || (tensor->ndim > 0 && tensor->shape == NULL) ||
        !tn_shape_bytes(tensor->ndim, tensor->shape, 1, &bytes)) {
        return tn_fail(error, TENON_INVALID, "%s: tensor '%s' has a shape that is NULL, negative or past 64 bits",
                       c->source.text, tn_quote(tensor->name).text);
    }
    return TENON_OK;
}

static tenon_status gather(checkpoint *c, const tenon_file_tensor *const *tensors, int64_t count,
                           const tenon_load_options *settings, tenon_error *error)
{
    c->tensors = calloc((size_t)count + 1, sizeof *c->tensors); /* never of size 0 */
    if (c->tensors == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", c->source.text);
    for (int64_t t = 0; t < count; t++) {
        tenon_file_tensor_init(&c->tensors[t]);
        TN_TRY(tn_struct_read(&c->tensors[t], sizeof c->tensors[t], tensors[t], TN_FIRST_SIZE(tenon_file_tensor, shape),
                              "tenon_file_tensor", error));
        TN_TRY(check_tensor(c, &c->tensors[t], error));
    }
    return name_tensors(c, count, settings, error);
}

static tenon_status match_adapter(tenon_adapter **adapter, int64_t *indices, int64_t capacity, checkpoint *c,
                                  const tenon_load_options *settings, tenon_load_options *options, tenon_error *error)
{
    tenon_adapter *made = NULL;
    tn_match match;
    TN_TRY(find_adapter(&made, &match, c, settings, error));
    const int64_t count = made->graph->num_parameters;
    tenon_status status = TENON_OK;
    if (capacity < count) {
        tenon_adapter_free(made);
        status = tn_fail(error, TENON_INVALID, "%s: the adapter has %lld parameters, but there is room for %lld",
                         c->source.text, (long long)count, (long long)capacity);
    } else {
        memcpy(indices, match.tensors, (size_t)count * sizeof *indices);
        report(options, &match, count, c->names.count);
        *adapter = made;
    }
    tn_match_free(&match);
    return status;
}

tenon_status tenon_adapter_match(const char *source, const tenon_file_tensor *const *tensors, int64_t count,
                                 tenon_load_options *options, tenon_adapter **adapter, int64_t *indices,
                                 int64_t capacity, tenon_error *error)
{
    tenon_load_options settings;
    if (source == NULL || count < 0 || (count > 0 && tensors == NULL) || adapter == NULL || indices == NULL) {
        return tn_fail(error, TENON_INVALID, "tenon_adapter_match: an argument is NULL, or the count is negative");
    }
    TN_TRY(read_options(&settings, options, error));
    checkpoint c = {.source = tn_quote(source)};
    tenon_status status = gather(&c, tensors, count, &settings, error);
    if (status == TENON_OK) status = match_adapter(adapter, indices, capacity, &c, &settings, options, error);
    close_checkpoint(&c);
    return status;
}
