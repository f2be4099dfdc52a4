/* SPDX-License-Identifier: MIT */
/* Loading: finding an adapter's tensors in a file under whatever prefix they have, saying all that is wrong at once,
 * and reading them into fresh storage. Nothing of the adapter changes before everything has been read. */
#include "adapter/adapter.h"

#include "core/versioned.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A prefix under which the file has tensors with names of ours: the first `length` bytes of `name`, which the file
 * owns. */
typedef struct candidate {
    const char *name;
    size_t length;
    int64_t matches; /* names of ours under it */
    int64_t fitting; /* of these, with our shape */
} candidate;

typedef struct match {
    const tenon_file *file;
    const char *path;
    const tn_graph *graph;
    candidate *candidates; /* sorted by prefix, each once */
    size_t num_candidates;
} match;

enum { first_options_size = TN_FIRST_SIZE(tenon_load_options, num_unused), max_prefix = 255 };

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
static void report(tenon_load_options *options, const char *prefix, int64_t used, int64_t unused)
{
    if (options == NULL) return;
    snprintf(options->used_prefix, sizeof options->used_prefix, "%s", prefix);
    options->num_used = used;
    options->num_unused = unused;
}

static tenon_file_tensor tensor_at(const tenon_file *file, int64_t index)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    (void)!tenon_file_get_tensor(file, index, &tensor, NULL); /* index is in range */
    return tensor;
}

/* Length of the prefix when `name` is prefix + `suffix` with the prefix empty or ending in a dot; else -1. */
static int64_t prefix_length(const char *name, const char *suffix)
{
    const size_t name_length = strlen(name), suffix_length = strlen(suffix);
    if (name_length < suffix_length || strcmp(name + name_length - suffix_length, suffix) != 0) return -1;
    const size_t length = name_length - suffix_length;
    if (length > 0 && name[length - 1] != '.') return -1;
    return (int64_t)length;
}

static int compare_prefixes(const void *a, const void *b)
{
    const candidate *p = a, *q = b;
    const size_t common = p->length < q->length ? p->length : q->length;
    const int order = memcmp(p->name, q->name, common);
    return order != 0 ? order : (p->length > q->length) - (p->length < q->length);
}

/* Sorts and joins what has the same prefix. */
static size_t join_candidates(candidate *candidates, size_t count)
{
    size_t joined = 0;
    if (count == 0) return 0;
    qsort(candidates, count, sizeof *candidates, compare_prefixes);
    for (size_t i = 1; i < count; i++) {
        if (compare_prefixes(&candidates[joined], &candidates[i]) == 0) {
            candidates[joined].matches += candidates[i].matches;
            candidates[joined].fitting += candidates[i].fitting;
        } else {
            candidates[++joined] = candidates[i];
        }
    }
    return joined + 1;
}

static bool shape_fits(const tenon_file_tensor *tensor, const tn_parameter_spec *spec)
{
    return tensor->ndim == spec->ndim &&
           memcmp(tensor->shape, spec->shape, (size_t)spec->ndim * sizeof spec->shape[0]) == 0;
}

/* One candidate for each tensor and each of our names that it ends in; `found` NULL: only counts. */
static size_t list_candidates(candidate *found, const match *m)
{
    const int64_t tensors = tenon_file_num_tensors(m->file);
    size_t count = 0;
    for (int64_t t = 0; t < tensors; t++) {
        const tenon_file_tensor tensor = tensor_at(m->file, t);
        for (int64_t p = 0; p < m->graph->num_parameters; p++) {
            const tn_parameter_spec *spec = &m->graph->parameters[p];
            const int64_t length = prefix_length(tensor.name, spec->name);
            if (length < 0) continue;
            if (found != NULL) {
                found[count] = (candidate){tensor.name, (size_t)length, 1, shape_fits(&tensor, spec)};
            }
            count++;
        }
    }
    return count;
}

/* Fills m->candidates, which the caller frees. */
static tenon_status find_candidates(match *m, tenon_error *error)
{
    const size_t count = list_candidates(NULL, m);
    m->candidates = calloc(count + 1, sizeof *m->candidates); /* never of size 0 */
    if (m->candidates == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: %zu prefixes cannot be compared", count);
    }
    m->num_candidates = join_candidates(m->candidates, list_candidates(m->candidates, m));
    return TENON_OK;
}

/* A candidate's prefix, to be printed. */
static tn_quoted quote_prefix(const candidate *c)
{
    return tn_quote_bytes(c->name, c->length);
}

/* "'model.' (20 tensors), ...": the prefixes of the file by their first two parts, most tensors first. */
static void add_prefixes_seen(tn_text *text, const tenon_file *file)
{
    const int64_t count = tenon_file_num_tensors(file);
    candidate *seen = malloc(((size_t)count + 1) * sizeof *seen);
    if (count == 0) tn_text_add(text, "none, the file is empty");
    for (int64_t t = 0; t < count && seen != NULL; t++) {
        const char *name = tensor_at(file, t).name;
        const char *dot = strchr(name, '.');
        const char *second = dot != NULL ? strchr(dot + 1, '.') : NULL;
        const char *end = second != NULL ? second + 1 : dot != NULL ? dot + 1 : name;
        seen[t] = (candidate){name, (size_t)(end - name), 1, 0};
    }
    const size_t prefixes = seen != NULL ? join_candidates(seen, (size_t)count) : 0;
    for (size_t shown = 0; shown < 5 && shown < prefixes; shown++) {
        candidate *most = &seen[0];
        for (size_t i = 1; i < prefixes; i++) {
            if (seen[i].matches > most->matches) most = &seen[i];
        }
        tn_text_add(text, "%s'%s' (%lld tensors)", shown > 0 ? ", " : "", quote_prefix(most).text,
                    (long long)most->matches);
        most->matches = 0;
    }
    free(seen);
}

static void add_if_complete(tn_text *text, match *other, const char *type)
{
    if (find_candidates(other, NULL) != TENON_OK) return;
    for (size_t c = 0; c < other->num_candidates; c++) {
        if (other->candidates[c].matches != other->graph->num_parameters) continue;
        tn_text_add(text, "; the file holds tensors of adapter type '%s' under prefix '%s'", type,
                    quote_prefix(&other->candidates[c]).text);
        break;
    }
    free(other->candidates);
}

/* " It looks like adapter type 'mlp_2layer'." where all parameter names of another registered type are there. */
static void add_look_alike(tn_text *text, const match *m)
{
    const char *names[64];
    const size_t count = tenon_list_adapters(names, 64);
    for (size_t i = 0; i < count && i < 64; i++) {
        tenon_config *config = NULL;
        tn_graph *graph = NULL;
        if (tenon_config_new(names[i], &config, NULL) == TENON_OK &&
            tn_config_graph(config, 0, 0, NULL, &graph, NULL) == TENON_OK) {
            add_if_complete(text, &(match){.file = m->file, .graph = graph}, names[i]);
        }
        tn_graph_free(graph);
        tenon_config_free(config);
    }
}

/* The caller's prefix, a dot added where it lacks one. */
static tenon_status given_prefix(const char *given, char *prefix, tenon_error *error)
{
    const size_t length = strlen(given);
    if (length >= max_prefix) {
        return tn_fail(error, TENON_INVALID, "prefix '%s' has %zu bytes; at most %d are supported",
                       tn_quote(given).text, length, max_prefix - 1);
    }
    snprintf(prefix, max_prefix + 1, "%s%s", given, length > 0 && given[length - 1] != '.' ? "." : "");
    return TENON_OK;
}

/* How good a candidate is: all names and shapes, all names, some names. */
static int64_t quality(const candidate *c, int64_t names)
{
    if (c->matches < names) return c->matches;
    return c->fitting < names ? names + 1 : names + 2;
}

/* The best candidate: the only complete one, or the only one whose shapes fit, or else the best to complain about. */
static tenon_status best_prefix(const match *m, char *prefix, tenon_error *error)
{
    const int64_t names = m->graph->num_parameters;
    const candidate *best = NULL;
    char several[512] = "";
    tn_text text = {several, sizeof several, 0};
    int equals = 0;
    for (size_t i = 0; i < m->num_candidates; i++) {
        if (best == NULL || quality(&m->candidates[i], names) > quality(best, names)) best = &m->candidates[i];
    }
    prefix[0] = '\0';
    if (best == NULL) return TENON_OK;
    for (size_t i = 0; i < m->num_candidates && best->matches == names; i++) {
        if (quality(&m->candidates[i], names) != quality(best, names)) continue;
        tn_text_add(&text, "%s'%s'", equals++ > 0 ? ", " : "", quote_prefix(&m->candidates[i]).text);
    }
    if (equals > 1) {
        return tn_fail(error, TENON_MISMATCH,
                       "%s: the adapter's tensors are there under %d prefixes: %s; give the prefix to use", m->path,
                       equals, several);
    }
    if (best->length > max_prefix) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: prefix '%s' has %zu bytes; at most %d are supported", m->path,
                       quote_prefix(best).text, best->length, max_prefix);
    }
    memcpy(prefix, best->name, best->length);
    prefix[best->length] = '\0';
    return TENON_OK;
}

static tenon_status choose_prefix(match *m, const char *given, char *prefix, tenon_error *error)
{
    if (given != NULL) return given_prefix(given, prefix, error);
    TN_TRY(find_candidates(m, error));
    const tenon_status status = best_prefix(m, prefix, error);
    free(m->candidates);
    return status;
}

/* The index of prefix + name in the file, or -1. */
static int64_t find_tensor(const tenon_file *file, const char *prefix, const char *name)
{
    char full[512];
    int64_t index;
    const int length = snprintf(full, sizeof full, "%s%s", prefix, name);
    if (length < 0 || (size_t)length >= sizeof full) return -1;
    return tenon_file_find_tensor(file, full, &index, NULL) == TENON_OK ? index : -1;
}

static int64_t count_elements(const tenon_file_tensor *tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        count *= tensor->shape[i]; /* the file's reader has checked the product */
    return count;
}

/* What a shape that does not fit may come from. */
static const char *shape_hint(const tenon_file_tensor *tensor, const tn_parameter_spec *spec)
{
    const int64_t elements = spec->shape[0] * (spec->ndim == 2 ? spec->shape[1] : 1);
    const int64_t found = count_elements(tensor);
    if (found == 0) return " (empty: saved from a sharded run?)";
    if (tensor->dtype.bits == 8 && tensor->dtype.code != kDLFloat && found * 2 == elements) {
        return " (looks packed, 4 bits)";
    }
    if (spec->ndim == 2 && tensor->ndim == 2 && tensor->shape[0] == spec->shape[1] &&
        tensor->shape[1] == spec->shape[0]) {
        return " (looks transposed)";
    }
    return "";
}

static void add_item(tn_text *text, const char *heading, int64_t *count, const char *item)
{
    tn_text_add(text, "%s%s", (*count)++ == 0 ? heading : ", ", item);
}

static int64_t add_missing(tn_text *text, const match *m, const char *prefix)
{
    int64_t count = 0;
    for (int64_t p = 0; p < m->graph->num_parameters; p++) {
        const char *name = m->graph->parameters[p].name;
        if (find_tensor(m->file, prefix, name) < 0) add_item(text, "; missing: ", &count, name);
    }
    return count;
}

static int64_t add_misshapen(tn_text *text, const match *m, const char *prefix)
{
    int64_t count = 0;
    for (int64_t p = 0; p < m->graph->num_parameters; p++) {
        const tn_parameter_spec *spec = &m->graph->parameters[p];
        const int64_t index = find_tensor(m->file, prefix, spec->name);
        if (index < 0) continue;
        const tenon_file_tensor tensor = tensor_at(m->file, index);
        tn_dtype dtype;
        char item[512];
        tn_text line = {item, sizeof item, 0};
        if (!shape_fits(&tensor, spec)) {
            tn_text_add(&line, "%s is %s, expected %s%s", spec->name, tn_shape_to_text(tensor.ndim, tensor.shape).text,
                        tn_shape_to_text(spec->ndim, spec->shape).text, shape_hint(&tensor, spec));
            add_item(text, "; misshapen: ", &count, item);
        } else if (!tn_dtype_from_dlpack(tensor.dtype, &dtype)) {
            tn_text_add(&line, "%s is %s, expected F32, BF16 or F16", spec->name, tn_quote(tensor.stored).text);
            add_item(text, "; misshapen: ", &count, item);
        }
    }
    return count;
}

static bool is_expected(const tn_graph *graph, const char *name)
{
    for (int64_t p = 0; p < graph->num_parameters; p++) {
        if (strcmp(graph->parameters[p].name, name) == 0) return true;
    }
    return false;
}

static int64_t add_unexpected(tn_text *text, const match *m, const char *prefix)
{
    int64_t count = 0;
    const size_t length = strlen(prefix);
    const int64_t tensors = tenon_file_num_tensors(m->file);
    for (int64_t t = 0; t < tensors; t++) {
        const char *name = tensor_at(m->file, t).name;
        if (strncmp(name, prefix, length) != 0 || is_expected(m->graph, name + length)) continue;
        add_item(text, "; unexpected: ", &count, tn_quote(name).text);
    }
    return count;
}

/* All that is wrong under a prefix, in one message. */
static tenon_status check_tensors(const match *m, const char *type, const char *prefix, tenon_error *error)
{
    char lists[TENON_ERROR_SIZE - 1024], seen[768];
    tn_text text = {lists, sizeof lists, 0}, prefixes = {seen, sizeof seen, 0};
    lists[0] = seen[0] = '\0';
    const int64_t missing = add_missing(&text, m, prefix);
    int64_t wrong = add_misshapen(&text, m, prefix);
    if (missing < m->graph->num_parameters) wrong += add_unexpected(&text, m, prefix);
    if (missing + wrong == 0) return TENON_OK;
    if (missing > 0) add_look_alike(&text, m);
    add_prefixes_seen(&prefixes, m->file);
    return tn_fail(error, TENON_MISMATCH, "%s does not fit adapter type '%s' under prefix '%s'%s; prefixes seen: %s",
                   m->path, type, tn_quote(prefix).text, lists, seen);
}

static tenon_status read_parameters(const tenon_adapter *adapter, const tenon_file *file, const char *prefix,
                                    bool describe_only, tn_parameter *fresh, tenon_error *error)
{
    for (int64_t p = 0; p < adapter->graph->num_parameters; p++) {
        const int64_t index = find_tensor(file, prefix, adapter->graph->parameters[p].name);
        const tenon_file_tensor tensor = tensor_at(file, index);
        tn_dtype dtype = TN_F32;
        (void)tn_dtype_from_dlpack(tensor.dtype, &dtype); /* check_tensors has looked at it */
        fresh[p].dtype = dtype;
        if (describe_only) continue;
        TN_TRY(tn_parameter_allocate(adapter, fresh, p, dtype, error));
        TN_TRY(tenon_file_read(file, index, 0, tensor.shape[0], fresh[p].data, fresh[p].bytes, error));
    }
    return TENON_OK;
}

static tenon_status load_from(tenon_adapter *adapter, const tenon_file *file, const char *path, bool describe_only,
                              tenon_load_options *options, tenon_error *error)
{
    tenon_load_options settings;
    TN_TRY(read_options(&settings, options, error));
    match m = {.file = file, .path = path, .graph = adapter->graph};
    char prefix[max_prefix + 1];
    TN_TRY(choose_prefix(&m, settings.prefix, prefix, error));
    TN_TRY(check_tensors(&m, tenon_config_type(adapter->config), prefix, error));
    tn_parameter *fresh = NULL;
    TN_TRY(tn_parameters_new(adapter, &fresh, error));
    const tenon_status status = read_parameters(adapter, file, prefix, describe_only, fresh, error);
    if (status != TENON_OK) {
        tn_parameters_free(adapter, fresh);
        return status;
    }
    tn_adapter_replace_parameters(adapter, fresh);
    const int64_t used = adapter->graph->num_parameters;
    report(options, prefix, used, tenon_file_num_tensors(file) - used);
    return TENON_OK;
}

tenon_status tenon_adapter_load(tenon_adapter *adapter, const char *path, tenon_load_options *options,
                                tenon_error *error)
{
    tenon_file *file;
    TN_TRY(tenon_file_open(path, NULL, &file, error));
    const tenon_status status = load_from(adapter, file, path, false, options, error);
    tenon_file_close(file);
    return status;
}

/* The adapter that the file's metadata, or the caller's config, describes. */
static tenon_status make_adapter(const tenon_file *file, const char *path, const tenon_load_options *settings,
                                 tenon_adapter **adapter, tenon_error *error)
{
    const char *version = tenon_file_metadata(file, TN_METADATA_FORMAT);
    const char *json = settings->config_json;
    if (json == NULL && version != NULL && strcmp(version, TN_METADATA_VERSION) != 0) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s has adapter format '%s'; this version of tenon reads '%s'", path,
                       tn_quote(version).text, TN_METADATA_VERSION);
    }
    if (json == NULL) json = tenon_file_metadata(file, TN_METADATA_CONFIG);
    if (json == NULL) {
        return tn_fail(error, TENON_NOT_FOUND,
                       "%s carries no adapter config (metadata '%s'); give one, for example "
                       "{\"type\": \"mlp_2layer\", \"in_dim\": 1152, \"out_dim\": 4096}",
                       path, TN_METADATA_CONFIG);
    }
    tenon_config *config = NULL;
    int64_t in_dim, out_dim;
    tenon_error reason = {""};
    tenon_status status = tn_config_from_adapter_json(json, strlen(json), &config, &in_dim, &out_dim, &reason);
    if (status == TENON_OK) {
        status = tenon_adapter_new(config, in_dim, out_dim, settings->allocator, adapter, &reason);
        tenon_config_free(config);
    }
    return status == TENON_OK ? status : tn_fail(error, status, "%s: %.3000s", path, reason.message);
}

tenon_status tenon_adapter_open(const char *path, tenon_load_options *options, tenon_adapter **adapter,
                                tenon_error *error)
{
    tenon_load_options settings;
    tenon_file *file;
    tenon_adapter *made = NULL;
    TN_TRY(read_options(&settings, options, error));
    TN_TRY(tenon_file_open(path, NULL, &file, error));
    tenon_status status = make_adapter(file, path, &settings, &made, error);
    if (status == TENON_OK) status = load_from(made, file, path, settings.describe_only, options, error);
    tenon_file_close(file);
    if (status != TENON_OK) {
        tenon_adapter_free(made);
        return status;
    }
    *adapter = made;
    return TENON_OK;
}
