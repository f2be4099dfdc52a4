/* SPDX-License-Identifier: MIT */
/* The sentence about a checkpoint that does not fit: what is missing, misshapen and unexpected, what other connector it
 * may hold, and what prefixes it has. */
#include "adapter/match.h"

#include "core/dtype.h"
#include "core/items.h"
#include <stdlib.h>
#include <string.h>

/* Elements; INT64_MAX past what 64 bits hold. */
static int64_t count_elements(int ndim, const int64_t *shape)
{
    int64_t count = 1;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count)) return INT64_MAX;
    }
    return count;
}

/* What a shape that does not fit may come from. */
static const char *shape_hint(const tenon_file_tensor *tensor, int ndim, const int64_t *shape)
{
    const int64_t elements = count_elements(ndim, shape), found = count_elements(tensor->ndim, tensor->shape);
    if (found == 0) return " (empty: saved from a sharded run?)";
    if (tensor->dtype.bits == 8 && tensor->dtype.code != kDLFloat && elements % 2 == 0 && found == elements / 2) {
        return " (looks packed, 4 bits)";
    }
    if (ndim == 2 && tensor->ndim == 2 && tensor->shape[0] == shape[1] && tensor->shape[1] == shape[0]) {
        return " (looks transposed)";
    }
    return "";
}

/* "[4096, ?]": -1 stands for a side of which nothing is known. */
static void add_shape(tn_text *text, int ndim, const int64_t *shape)
{
    for (int i = 0; i < ndim; i++) {
        tn_text_add(text, "%s", i == 0 ? "[" : ", ");
        if (shape[i] < 0) {
            tn_text_add(text, "?");
        } else {
            tn_text_add(text, "%lld", (long long)shape[i]);
        }
    }
    tn_text_add(text, "]");
}

static bool shape_fits(const tenon_file_tensor *tensor, int ndim, const int64_t *shape)
{
    if (tensor->ndim != ndim) return false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] >= 0 ? tensor->shape[i] != shape[i] : tensor->shape[i] == 0) return false;
    }
    return true;
}

static int64_t add_missing(tn_text *text, const tn_match *m)
{
    int64_t count = 0;
    tn_items items = {.text = text};
    for (int64_t p = 0; p < m->expected->count; p++) {
        if (m->tensors[p] != -1) continue;
        if (count++ == 0) tn_text_add(text, "; missing: ");
        tn_items_add(&items, "%s", tn_match_name(m, p));
    }
    tn_items_end(&items);
    return count;
}

/* Names that several tensors have, but for wrappers. */
static int64_t add_ambiguous(tn_text *text, const tn_match *m)
{
    int64_t count = 0;
    tn_items items = {.text = text};
    for (int64_t p = 0; p < m->expected->count; p++) {
        if (m->tensors[p] != -2) continue;
        if (count++ == 0) tn_text_add(text, "; there several times, but for the parts that wrappers put in: ");
        tn_items_add(&items, "%s", tn_match_name(m, p));
    }
    tn_items_end(&items);
    return count;
}

/* The item of a tensor that does not fit; false for one that does. */
static bool describe_misfit(tn_text *text, const tn_match *m, int64_t index, const tenon_file_tensor *tensor)
{
    const tn_parameter_spec *parameter = &m->expected->parameters[index];
    int64_t shape[TN_MAX_SIDES];
    tn_dtype dtype;
    tn_expected_shape(m->expected, index, m->widths, shape);
    if (!shape_fits(tensor, parameter->ndim, shape)) {
        tn_text_add(text, "%s is %s, expected ", tn_match_name(m, index),
                    tn_shape_to_text(tensor->ndim, tensor->shape).text);
        add_shape(text, parameter->ndim, shape);
        tn_text_add(text, "%s", shape_hint(tensor, parameter->ndim, shape));
        return true;
    }
    if (tn_dtype_from_dlpack(tensor->dtype, &dtype)) return false;
    tn_text_add(text, "%s is %s, expected F32, BF16 or F16", tn_match_name(m, index), tn_quote(tensor->stored).text);
    return true;
}

static int64_t add_misshapen(tn_text *text, const tn_match *m, const tn_names *names)
{
    int64_t count = 0;
    tn_items items = {.text = text};
    for (int64_t p = 0; p < m->expected->count; p++) {
        char item[512] = "";
        tn_text line = {item, sizeof item, 0};
        const tenon_file_tensor *tensor = m->tensors[p] >= 0 ? &names->tensors[m->tensors[p]] : NULL;
        if (tensor == NULL || tensor->absent_shard != NULL || !describe_misfit(&line, m, p, tensor)) continue;
        if (count++ == 0) tn_text_add(text, "; misshapen: ");
        tn_items_add(&items, "%s", item);
    }
    tn_items_end(&items);
    return count;
}

static bool is_taken(const tn_match *m, int64_t tensor)
{
    for (int64_t p = 0; p < m->expected->count; p++) {
        if (m->tensors[p] == tensor) return true;
    }
    return false;
}

/* The place of a tensor in the checkpoint: its own name without as many parts at the end as the parameter has. */
static size_t place_length(const char *own, const char *parameter)
{
    size_t length = strlen(own);
    for (const char *c = parameter; c != NULL; c = strchr(c + 1, '.')) {
        while (length > 0 && own[length - 1] != '.')
            length--;
        length -= length > 0;
    }
    return length > 0 ? length + 1 : 0; /* with the dot */
}

/* The one place of all the connector's tensors; NULL: they have several. */
static const char *find_place(const tn_match *m, const tn_names *names, size_t *length)
{
    const char *place = NULL;
    for (int64_t p = 0; p < m->expected->count; p++) {
        if (m->tensors[p] < 0) continue;
        const char *own = names->tensors[m->tensors[p]].name;
        const size_t own_length = place_length(own, m->expected->parameters[p].name);
        if (place != NULL && (own_length != *length || memcmp(own, place, own_length) != 0)) return NULL;
        place = own;
        *length = own_length;
    }
    return place;
}

/* The same where a family says which places are the connector's. */
static int64_t add_unexpected_inside(tn_text *text, const tn_match *m, const tn_names *names)
{
    int64_t count = 0;
    tn_items items = {.text = text};
    for (int64_t t = 0; t < names->count; t++) {
        bool inside = false;
        for (int i = 0; i < m->places.num_inside; i++) {
            const size_t length = strlen(m->places.inside[i]);
            inside = inside || (strncmp(names->plain[t], m->places.inside[i], length) == 0 &&
                                (names->plain[t][length] == '.' || names->plain[t][length] == '\0'));
        }
        if (!inside || is_taken(m, t)) continue;
        if (count++ == 0) tn_text_add(text, "; unexpected: ");
        tn_items_add(&items, "%s", tn_quote(names->tensors[t].name).text);
    }
    tn_items_end(&items);
    return count;
}

/* Tensors in the connector's place that no parameter is made of: another connector's, which would be cut short. Where
 * the tensors have several places, what counts is the prefix; without one, who renamed them knows which they are. */
static int64_t add_unexpected(tn_text *text, const tn_match *m, const tn_names *names)
{
    size_t length = strlen(m->prefix);
    const char *place = find_place(m, names, &length);
    int64_t count = 0;
    tn_items items = {.text = text};
    if (names->family != NULL) return add_unexpected_inside(text, m, names);
    if (place == NULL && length == 0 && names->has_renames) return 0;
    for (int64_t t = 0; t < names->count; t++) {
        const char *own = names->tensors[t].name;
        const bool inside =
            place != NULL ? strncmp(own, place, length) == 0 : strncmp(names->plain[t], m->prefix, length) == 0;
        if (!inside || is_taken(m, t)) continue;
        if (count++ == 0) tn_text_add(text, "; unexpected: ");
        tn_items_add(&items, "%s", tn_quote(own).text);
    }
    tn_items_end(&items);
    return count;
}

/* ---- what else is there ---- */

/* The prefix under which all of a graph's names are there; -1: there is none. *at: a tensor that begins with it. */
static int64_t find_complete(const tn_names *names, const tn_graph *graph, int64_t *at)
{
    const char *first = graph->parameters[0].name;
    for (int64_t t = 0; t < names->count; t++) {
        char prefix[TN_MAX_PREFIX + 1];
        const int64_t length = tn_prefix_length(names->plain[t], first, strlen(first));
        if (length < 0 || length > TN_MAX_PREFIX) continue;
        memcpy(prefix, names->plain[t], (size_t)length);
        prefix[length] = '\0';
        int64_t p = 1;
        while (p < graph->num_parameters && tn_names_find(names, prefix, graph->parameters[p].name) >= 0)
            p++;
        *at = t;
        if (p == graph->num_parameters) return length;
    }
    return -1;
}

/* "; the file holds tensors of adapter type 'mlp_2layer' under prefix ''", for each such type. */
static void add_look_alikes(tn_text *text, const tn_names *names)
{
    const char *types[64];
    const size_t count = tenon_list_adapters(types, 64);
    for (size_t i = 0; i < count && i < 64; i++) {
        tenon_config *config = NULL;
        tn_graph *graph = NULL;
        int64_t tensor, length = -1;
        if (tenon_config_new(types[i], &config, NULL) == TENON_OK &&
            tn_config_graph(config, 0, 0, NULL, &graph, NULL) == TENON_OK && graph->num_parameters > 0) {
            length = find_complete(names, graph, &tensor);
        }
        if (length >= 0) {
            tn_text_add(text, "; the file holds tensors of adapter type '%s' under prefix '%s'", types[i],
                        tn_quote_bytes(names->plain[tensor], (size_t)length).text);
        }
        tn_graph_free(graph);
        tenon_config_free(config);
    }
}

/* The first two parts of names, and how many tensors have them. */
typedef struct seen {
    const char *name;
    size_t length;
    int64_t count;
} seen;

static int compare_seen(const void *a, const void *b)
{
    const seen *p = a, *q = b;
    const size_t common = p->length < q->length ? p->length : q->length;
    const int order = memcmp(p->name, q->name, common);
    return order != 0 ? order : (p->length > q->length) - (p->length < q->length);
}

static int compare_counts(const void *a, const void *b)
{
    const seen *p = a, *q = b;
    if (p->count != q->count) return p->count > q->count ? -1 : 1;
    return compare_seen(a, b);
}

/* Sorted by how many tensors there are, each once; returns how many they are. */
static size_t count_seen(seen *all, const tn_names *names)
{
    size_t joined = 0;
    for (int64_t t = 0; t < names->count; t++) {
        const char *name = names->renamed[t], *dot = strchr(name, '.');
        const char *second = dot != NULL ? strchr(dot + 1, '.') : NULL;
        const char *end = second != NULL ? second + 1 : dot != NULL ? dot + 1 : name;
        all[t] = (seen){name, (size_t)(end - name), 1};
    }
    if (names->count == 0) return 0;
    qsort(all, (size_t)names->count, sizeof *all, compare_seen);
    for (int64_t t = 1; t < names->count; t++) {
        if (compare_seen(&all[joined], &all[t]) == 0) {
            all[joined].count++;
        } else {
            all[++joined] = all[t];
        }
    }
    qsort(all, joined + 1, sizeof *all, compare_counts);
    return joined + 1;
}

/* "'model.layers.' (20 tensors), ..." */
static void add_prefixes_seen(tn_text *text, const tn_names *names)
{
    seen *all = calloc((size_t)names->count + 1, sizeof *all); /* never of size 0 */
    const size_t count = all != NULL ? count_seen(all, names) : 0;
    tn_items items = {.text = text, .most = 5};
    if (names->count == 0) tn_text_add(text, "none, the file is empty");
    for (size_t i = 0; i < count; i++) {
        tn_items_add(&items, "'%s' (%lld tensors)", tn_quote_bytes(all[i].name, all[i].length).text,
                     (long long)all[i].count);
    }
    tn_items_end(&items);
    free(all);
}

/* Refuses tensors whose shards are not there; the index names them all the same. */
static tenon_status check_present(const tn_match *m, const tn_names *names, tenon_error *error)
{
    for (int64_t p = 0; p < m->expected->count; p++) {
        const tenon_file_tensor *tensor = &names->tensors[m->tensors[p]];
        int64_t index;
        if (tensor->absent_shard == NULL) continue;
        if (names->file != NULL) return tenon_file_find_tensor(names->file, tensor->name, &index, error);
        return tn_fail(error, TENON_NOT_FOUND, "%s: the shard '%s' is not there; it holds tensor '%s'", names->source,
                       tn_quote(tensor->absent_shard).text, tn_quote(tensor->name).text);
    }
    return TENON_OK;
}

tenon_status tn_match_check(const tn_match *match, const tn_names *names, const char *type, tenon_error *error)
{
    char lists[TENON_ERROR_SIZE - 1200], prefixes[800];
    tn_text text = {lists, sizeof lists, 0}, others = {prefixes, sizeof prefixes, 0};
    lists[0] = prefixes[0] = '\0';
    const int64_t missing = add_missing(&text, match);
    int64_t wrong = add_ambiguous(&text, match);
    wrong += add_misshapen(&text, match, names);
    if (missing < match->expected->count) wrong += add_unexpected(&text, match, names);
    if (missing + wrong == 0) return check_present(match, names, error);
    if (missing > 0) add_look_alikes(&text, names);
    add_prefixes_seen(&others, names);
    if (names->family != NULL) {
        return tn_fail(error, TENON_MISMATCH, "%s does not fit family '%s' (adapter type '%s')%s; prefixes seen: %s",
                       names->source, names->family->name, type, lists, prefixes);
    }
    return tn_fail(error, TENON_MISMATCH, "%s does not fit adapter type '%s' under prefix '%s'%s; prefixes seen: %s",
                   names->source, type, tn_quote(match->spelt).text, lists, prefixes);
}
