/* SPDX-License-Identifier: MIT */
/* Grafting: a model's file with an adapter's parameters in place of its own connector's. */
#include "adapter/adapter.h"

#include "core/size.h"
#include "core/versioned.h"
#include "formats/format.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct graft {
    const tenon_adapter *adapter;
    tn_quoted source; /* the base, for messages */
    tenon_file *file;
    tenon_adapter *own; /* the base's connector, without numbers */
    tenon_graft_options *options;
    tn_replacement *replacements; /* [parameters] */
    void **data;                  /* [parameters] what they hold; owned */
} graft;

void tenon_graft_options_init(tenon_graft_options *options)
{
    *options = (tenon_graft_options){.size = sizeof *options};
}

/* ---- does it fit? ---- */

/* What may differ: it changes neither what a parameter means nor how rows are arranged. The widths are compared as
 * shapes. */
static bool may_differ(const char *option)
{
    static const char *const names[] = {"activation", "prefix_tokens", "hidden_dim"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(option, names[i]) == 0) return true;
    }
    return false;
}

static bool is_same(const tn_option *a, const tn_option *b)
{
    if (a->kind != b->kind) return false;
    if (a->kind == TN_OPTION_STRING) return strcmp(a->string, b->string) == 0;
    return a->kind == TN_OPTION_REAL ? a->real == b->real : a->integer == b->integer;
}

/* Both configs hold all options that their builder read. */
static tenon_status check_options(const graft *g, tenon_error *error)
{
    const tn_options *theirs = &g->own->config->options, *ours = &g->adapter->config->options;
    for (size_t i = 0; i < theirs->count; i++) {
        const tn_option *found = tn_options_find(ours, theirs->items[i].name);
        if (may_differ(theirs->items[i].name) || found == NULL || is_same(found, &theirs->items[i])) continue;
        return tn_fail(error, TENON_MISMATCH,
                       "%s: its connector has another '%s' than the one to graft; they do not compute the same",
                       g->source.text, theirs->items[i].name);
    }
    return TENON_OK;
}

static tenon_status check_type(const graft *g, tenon_error *error)
{
    const char *theirs = tenon_config_type(g->own->config), *ours = tenon_config_type(g->adapter->config);
    if (strcmp(theirs, ours) == 0) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH, "%s: holds a connector of type '%s', but the one to graft is of type '%s'",
                   g->source.text, theirs, ours);
}

static tenon_status check_shape(const graft *g, int64_t p, tenon_error *error)
{
    const tn_parameter_spec *ours = &g->adapter->graph->parameters[p], *theirs = &g->own->graph->parameters[p];
    if (strcmp(ours->name, theirs->name) == 0 && ours->ndim == theirs->ndim &&
        memcmp(ours->shape, theirs->shape, (size_t)ours->ndim * sizeof *ours->shape) == 0)
        return TENON_OK;
    return tn_fail(error, TENON_MISMATCH,
                   "%s: tensor '%s' is %s, but '%s' of the connector to graft is %s (%lld -> %lld, the file's is "
                   "%lld -> %lld); it belongs to another model",
                   g->source.text, tn_quote(g->own->parameters[p].source).text,
                   tn_shape_to_text(theirs->ndim, theirs->shape).text, ours->name,
                   tn_shape_to_text(ours->ndim, ours->shape).text, (long long)g->adapter->in_dim,
                   (long long)g->adapter->out_dim, (long long)g->own->in_dim, (long long)g->own->out_dim);
}

static tenon_status check_fit(const graft *g, tenon_error *error)
{
    TN_TRY(check_type(g, error));
    const int64_t count = g->own->graph->num_parameters;
    if (g->adapter->graph->num_parameters != count) {
        return tn_fail(error, TENON_MISMATCH, "%s: its connector has %lld parameters, the one to graft %lld",
                       g->source.text, (long long)count, (long long)g->adapter->graph->num_parameters);
    }
    for (int64_t p = 0; p < count; p++)
        TN_TRY(check_shape(g, p, error));
    return check_options(g, error);
}

static void compare_activations(const graft *g)
{
    const char *theirs = NULL, *ours = NULL;
    if (tenon_config_get_string(g->own->config, "activation", &theirs, NULL) != TENON_OK ||
        tenon_config_get_string(g->adapter->config, "activation", &ours, NULL) != TENON_OK)
        return;
    if (strcmp(theirs, ours) != 0) {
        snprintf(g->options->activation, sizeof g->options->activation, "%s", theirs);
    }
}

/* ---- the tensors ---- */

/* What the tensor is stored as in the new file. llama.cpp adds no vector that is not F32. */
static const tn_encoding *choose_encoding(const graft *g, const tn_entry *entry)
{
    const tn_encoding *same = tn_encoding_to_write_as(entry->stored);
    if (entry->ndim < 2) return same != NULL && same->block == 0 ? same : tn_encoding_to_write_as("F32");
    const tn_encoding *chosen = g->options->type != NULL ? tn_encoding_to_write_as(g->options->type) : same;
    const bool fits =
        chosen != NULL && (chosen->block == 0 || entry->shape[entry->ndim - 1] % (int64_t)chosen->block == 0);
    return fits ? chosen : tn_encoding_to_write_as("F16");
}

static void note_rounding(const graft *g, const tn_entry *entry, double moved)
{
    tenon_graft_options *options = g->options;
    options->num_rounded += moved > 0;
    if (moved <= options->largest_error) return;
    options->largest_error = moved;
    snprintf(options->largest_tensor, sizeof options->largest_tensor, "%s", tn_quote(entry->name).text);
}

static tenon_status make_replacement(const graft *g, int64_t p, tenon_error *error)
{
    const tn_parameter *parameter = &g->adapter->parameters[p];
    tn_replacement *r = &g->replacements[p];
    double moved;
    TN_TRY(tenon_file_find_tensor(g->file, g->own->parameters[p].source, &r->tensor, error));
    const tn_entry *entry = &g->file->entries[r->tensor];
    r->encoding = choose_encoding(g, entry);
    const size_t count = (size_t)tn_parameter_elements(&g->adapter->graph->parameters[p]);
    TN_TRY(tn_store_as(&g->data[p], &moved, parameter->data, parameter->dtype, count, r->encoding, error));
    r->data = g->data[p];
    g->options->num_tensors++;
    g->options->num_retyped += r->encoding != entry->encoding;
    note_rounding(g, entry, moved);
    return TENON_OK;
}

static tenon_status write(graft *g, const char *path, tenon_error *error)
{
    const int64_t count = g->adapter->graph->num_parameters;
    g->replacements = calloc((size_t)count + 1, sizeof *g->replacements);
    g->data = calloc((size_t)count + 1, sizeof *g->data);
    if (g->replacements == NULL || g->data == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory");
    for (int64_t p = 0; p < count; p++)
        TN_TRY(make_replacement(g, p, error));
    return tn_gguf_replace(g->file, g->replacements, count, path, error);
}

static void drop(graft *g)
{
    for (int64_t p = 0; g->data != NULL && p < g->adapter->graph->num_parameters; p++)
        free(g->data[p]);
    free(g->data);
    free(g->replacements);
    tenon_adapter_free(g->own);
    tenon_file_close(g->file);
}

/* ---- the whole ---- */

static tenon_status open_base(graft *g, const char *base, tenon_error *error)
{
    tenon_load_options load;
    tenon_load_options_init(&load);
    load.describe_only = true;
    g->source = tn_quote(base);
    TN_TRY(tenon_file_open(base, NULL, &g->file, error));
    if (strcmp(g->file->kind, "GGUF") != 0) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: is %s; this version grafts into mmproj files (GGUF)",
                       g->source.text, g->file->kind);
    }
    return tenon_adapter_open(base, &load, &g->own, error);
}

static tenon_status check_request(const tenon_adapter *adapter, const char *base, const tenon_graft_options *options,
                                  tenon_error *error)
{
    tenon_error reason;
    const tn_encoding *encoding = options->type != NULL ? tn_encoding_to_write_as(options->type) : NULL;
    if (options->type != NULL &&
        (encoding == NULL || (encoding->dtype.code != kDLFloat && encoding->dtype.code != kDLBfloat))) {
        return tn_fail(error, TENON_INVALID, "`type` is '%s'; expected F32, F16, BF16 or Q8_0",
                       tn_quote(options->type).text);
    }
    TN_TRY(tn_adapter_check_storage(adapter, error));
    if (options->allow_nonfinite || tenon_adapter_check_finite(adapter, &reason) == TENON_OK) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "%s: is not grafted into: %s", tn_quote(base).text, reason.message);
}

tenon_status tenon_adapter_graft(const tenon_adapter *adapter, const char *base, const char *path,
                                 tenon_graft_options *options, tenon_error *error)
{
    tenon_graft_options settings;
    tenon_graft_options_init(&settings);
    if (adapter == NULL || base == NULL || path == NULL) {
        return tn_fail(error, TENON_INVALID, "tenon_adapter_graft: an argument is NULL");
    }
    TN_TRY(tn_struct_read(&settings, sizeof settings, options, TN_FIRST_SIZE(tenon_graft_options, activation),
                          "tenon_graft_options", error));
    settings = (tenon_graft_options){
        .size = sizeof settings, .type = settings.type, .allow_nonfinite = settings.allow_nonfinite};
    TN_TRY(check_request(adapter, base, &settings, error));
    graft g = {.adapter = adapter, .options = &settings};
    tenon_status status = open_base(&g, base, error);
    if (status == TENON_OK) status = check_fit(&g, error);
    if (status == TENON_OK) compare_activations(&g);
    if (status == TENON_OK) status = write(&g, path, error);
    drop(&g);
    if (status == TENON_OK && options != NULL) {
        status = tn_struct_write(options, &settings, sizeof settings, TN_FIRST_SIZE(tenon_graft_options, activation),
                                 "tenon_graft_options", error);
    }
    return status;
}
