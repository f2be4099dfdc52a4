/* SPDX-License-Identifier: MIT */
/* Every tensor whose name ends in one of the connector's is a hit. Hits with the same prefix are a group; the group to
 * take is the only complete one, or the only complete one whose shapes fit. */
#include "adapter/match.h"

#include "core/items.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct hit {
    const char *name; /* of the tensor; the prefix is its first `length` bytes */
    size_t length;
    int64_t parameter, tensor;
} hit;

typedef struct group {
    const hit *hits; /* sorted by parameter */
    int64_t count;
    int64_t parameters; /* that have a hit */
    const hit *again;   /* a second hit of the same parameter; NULL: there is none */
    bool fits;
    bool is_absent; /* of some of its tensors only the name is known */
} group;

typedef struct search {
    const tn_names *names;
    const tn_expected *alternatives;
    int num_alternatives;
    hit *hits;
    group *groups;
    size_t num_groups;
    const tenon_file_tensor **found; /* [parameters] a group's tensors */
    char *plain;                     /* as long as the longest of our names */
} search;

int64_t tn_prefix_length(const char *name, const char *suffix, size_t suffix_length)
{
    const size_t length = strlen(name);
    if (length < suffix_length || memcmp(name + length - suffix_length, suffix, suffix_length) != 0) return -1;
    const size_t prefix = length - suffix_length;
    return prefix == 0 || name[prefix - 1] == '.' ? (int64_t)prefix : -1;
}

/* ---- hits and groups ---- */

/* Every pair of a tensor and a name of ours that it ends in; `hits` NULL: only counts. */
static size_t list_hits(hit *hits, const search *s)
{
    size_t count = 0;
    for (int64_t p = 0; p < s->alternatives->count; p++) {
        const size_t length = tn_name_unwrap(s->plain, s->alternatives->parameters[p].name);
        for (int64_t t = 0; t < s->names->count; t++) {
            const int64_t prefix = tn_prefix_length(s->names->plain[t], s->plain, length);
            if (prefix < 0) continue;
            if (hits != NULL) hits[count] = (hit){s->names->plain[t], (size_t)prefix, p, t};
            count++;
        }
    }
    return count;
}

static int compare_prefixes(const hit *a, const hit *b)
{
    const size_t common = a->length < b->length ? a->length : b->length;
    const int order = memcmp(a->name, b->name, common);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

static int compare_hits(const void *a, const void *b)
{
    const hit *p = a, *q = b;
    const int order = compare_prefixes(p, q);
    if (order != 0) return order;
    if (p->parameter != q->parameter) return p->parameter < q->parameter ? -1 : 1;
    return (p->tensor > q->tensor) - (p->tensor < q->tensor);
}

static void list_groups(search *s, size_t num_hits)
{
    for (size_t i = 0; i < num_hits; i++) {
        const hit *h = &s->hits[i];
        if (i == 0 || compare_prefixes(h, h - 1) != 0) s->groups[s->num_groups++] = (group){.hits = h};
        group *g = &s->groups[s->num_groups - 1];
        if (g->count > 0 && h->parameter == h[-1].parameter) {
            if (g->again == NULL) g->again = h;
        } else {
            g->parameters++;
        }
        g->count++;
    }
}

/* Whether the tensors of a complete group have shapes that one alternative expects. */
static tenon_status judge(group *g, const search *s, tenon_error *error)
{
    for (int64_t i = 0; i < g->count; i++) {
        const tenon_file_tensor *tensor = &s->names->tensors[g->hits[i].tensor];
        s->found[g->hits[i].parameter] = tensor;
        g->is_absent = g->is_absent || tensor->absent_shard != NULL;
    }
    for (int a = 0; a < s->num_alternatives && !g->fits; a++) {
        int64_t widths[TN_NUM_WIDTHS];
        TN_TRY(tn_expected_solve(&s->alternatives[a], s->found, widths, error));
        g->fits = tn_expected_fitting(&s->alternatives[a], s->found, widths) == s->alternatives->count;
    }
    return TENON_OK;
}

static size_t longest_name(const tn_expected *expected)
{
    size_t longest = 0;
    for (int64_t p = 0; p < expected->count; p++) {
        const size_t length = strlen(expected->parameters[p].name);
        longest = length > longest ? length : longest;
    }
    return longest;
}

static tenon_status find_groups(search *s, tenon_error *error)
{
    s->plain = malloc(longest_name(s->alternatives) + 1);
    if (s->plain == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for names", s->names->source);
    const size_t count = list_hits(NULL, s);
    s->hits = calloc(count + 1, sizeof *s->hits); /* none of these is of size 0 */
    s->groups = calloc(count + 1, sizeof *s->groups);
    s->found = calloc((size_t)s->alternatives->count + 1, sizeof *s->found);
    if (s->hits == NULL || s->groups == NULL || s->found == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory: %zu prefixes cannot be compared", s->names->source,
                       count);
    }
    (void)list_hits(s->hits, s);
    qsort(s->hits, count, sizeof *s->hits, compare_hits);
    list_groups(s, count);
    for (size_t i = 0; i < s->num_groups; i++) {
        if (s->groups[i].parameters == s->alternatives->count) TN_TRY(judge(&s->groups[i], s, error));
    }
    return TENON_OK;
}

/* ---- the group to take ---- */

static tn_quoted quote_prefix(const group *g)
{
    return tn_quote_bytes(g->hits->name, g->hits->length);
}

/* Complete groups that fit go before those that may fit, these before other complete ones, and these before the rest,
 * which is as good as it has names. */
static int64_t quality(const group *g, int64_t names)
{
    if (g->parameters < names) return g->parameters;
    if (!g->fits) return names + 1;
    return g->is_absent ? names + 2 : names + 3;
}

static tenon_status refuse_several(const search *s, int64_t best, tenon_error *error)
{
    const int64_t names = s->alternatives->count;
    char several[2048] = "";
    tn_text text = {several, sizeof several, 0};
    tn_items items = {.text = &text};
    for (size_t i = 0; i < s->num_groups; i++) {
        if (quality(&s->groups[i], names) == best) tn_items_add(&items, "'%s'", quote_prefix(&s->groups[i]).text);
    }
    const long long count = (long long)items.count;
    tn_items_end(&items);
    return tn_fail(error, TENON_MISMATCH,
                   "%s: the adapter's tensors are there under %lld prefixes: %s; choose one with `prefix`",
                   s->names->source, count, several);
}

static tenon_status check_group(const search *s, const group *g, tenon_error *error)
{
    if (g->again != NULL && g->parameters == s->alternatives->count) {
        return tn_fail(error, TENON_MISMATCH,
                       "%s: tensors '%s' and '%s' have the same name, but for the parts that wrappers put in; choose "
                       "one with `prefix`",
                       s->names->source, tn_quote(s->names->renamed[g->again[-1].tensor]).text,
                       tn_quote(s->names->renamed[g->again->tensor]).text);
    }
    if (g->hits->length > TN_MAX_PREFIX) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: prefix '%s' has %zu bytes; at most %d are supported",
                       s->names->source, quote_prefix(g).text, g->hits->length, TN_MAX_PREFIX);
    }
    return TENON_OK;
}

static tenon_status take_best(const search *s, char *prefix, tenon_error *error)
{
    const int64_t names = s->alternatives->count;
    const group *best = NULL;
    int64_t most = 0, equals = 0;
    for (size_t i = 0; i < s->num_groups; i++) {
        const int64_t value = quality(&s->groups[i], names);
        if (value == most) equals++;
        if (value <= most) continue;
        best = &s->groups[i];
        most = value;
        equals = 1;
    }
    prefix[0] = '\0';
    if (best == NULL) return TENON_OK;
    if (most > names && equals > 1) return refuse_several(s, most, error);
    TN_TRY(check_group(s, best, error));
    memcpy(prefix, best->hits->name, best->hits->length);
    prefix[best->hits->length] = '\0';
    return TENON_OK;
}

static tenon_status choose_prefix(tn_match *match, const tn_names *names, const tn_expected *alternatives, int count,
                                  tenon_error *error)
{
    search s = {.names = names, .alternatives = alternatives, .num_alternatives = count};
    tenon_status status = find_groups(&s, error);
    if (status == TENON_OK) status = take_best(&s, match->prefix, error);
    free(s.hits);
    free(s.groups);
    free(s.found);
    free(s.plain);
    return status;
}

/* The caller's prefix, a dot added where it lacks one. */
static tenon_status take_prefix(tn_match *match, const char *given, tenon_error *error)
{
    const size_t length = strlen(given);
    if (length >= TN_MAX_PREFIX) {
        return tn_fail(error, TENON_INVALID, "`prefix` '%s' has %zu bytes; at most %d are supported",
                       tn_quote(given).text, length, TN_MAX_PREFIX - 1);
    }
    snprintf(match->prefix, sizeof match->prefix, "%s%s", given, length > 0 && given[length - 1] != '.' ? "." : "");
    return TENON_OK;
}

/* ---- the match ---- */

const char *tn_match_name(const tn_match *match, int64_t index)
{
    return match->places.wanted != NULL ? match->places.wanted[index] : match->expected->parameters[index].name;
}

/* What all names of a family's tensors begin with, up to a dot. */
static void spell_common(tn_match *match, const tn_names *names)
{
    const char *first = NULL;
    size_t length = 0;
    for (int64_t p = 0; p < match->expected->count; p++) {
        if (match->tensors[p] < 0) continue;
        const char *name = names->renamed[match->tensors[p]];
        if (first == NULL) length = strlen(name);
        if (first == NULL) first = name;
        while (length > 0 && (strncmp(name, first, length) != 0 || first[length - 1] != '.'))
            length--;
    }
    if (length > TN_MAX_PREFIX) length = 0;
    snprintf(match->spelt, sizeof match->spelt, "%.*s", (int)length, first != NULL ? first : "");
}

/* What stands before the name of parameter `index` in its tensor's name; -1: wrappers are in between. */
static int64_t spelt_length(const tn_match *match, const tn_names *names, int64_t index)
{
    const char *name = match->expected->parameters[index].name;
    const int64_t length = tn_prefix_length(names->renamed[match->tensors[index]], name, strlen(name));
    return length <= TN_MAX_PREFIX ? length : -1;
}

/* Keeps the wrappers in front of the names, where they are the same for all. */
static void spell_prefix(tn_match *match, const tn_names *names)
{
    const char *first = NULL;
    int64_t length = 0;
    snprintf(match->spelt, sizeof match->spelt, "%s", match->prefix);
    for (int64_t p = 0; p < match->expected->count; p++) {
        if (match->tensors[p] < 0) continue;
        const char *name = names->renamed[match->tensors[p]];
        const int64_t own = spelt_length(match, names, p);
        if (own < 0 || (first != NULL && (own != length || memcmp(name, first, (size_t)own) != 0))) return;
        first = name;
        length = own;
    }
    if (first != NULL) snprintf(match->spelt, sizeof match->spelt, "%.*s", (int)length, first);
}

static tenon_status find_tensors(tn_match *match, const tn_names *names, const tn_expected *alternatives, int count,
                                 tenon_error *error)
{
    const int64_t parameters = alternatives->count;
    const tenon_file_tensor **found = calloc((size_t)parameters + 1, sizeof *found); /* never of size 0 */
    match->tensors = calloc((size_t)parameters + 1, sizeof *match->tensors);
    if (found == NULL || match->tensors == NULL) {
        free(found);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory: tensors cannot be matched", names->source);
    }
    for (int64_t p = 0; p < parameters; p++) {
        const int64_t tensor = tn_names_find(names, match->prefix, tn_match_name(match, p));
        match->tensors[p] = tensor;
        found[p] = tensor >= 0 ? &names->tensors[tensor] : NULL;
    }
    tenon_status status = TENON_OK;
    int64_t most = -1;
    for (int a = 0; a < count && status == TENON_OK; a++) {
        int64_t widths[TN_NUM_WIDTHS];
        status = tn_expected_solve(&alternatives[a], found, widths, error);
        const int64_t fitting = tn_expected_fitting(&alternatives[a], found, widths);
        if (fitting <= most) continue;
        most = fitting;
        match->expected = &alternatives[a];
        memcpy(match->widths, widths, sizeof widths);
    }
    free(found);
    return status;
}

static tenon_status make(tn_match *match, const tn_names *names, const tn_expected *alternatives, int count,
                         const char *type, const char *prefix, tenon_error *error)
{
    if (names->family != NULL) {
        TN_TRY(tn_places_find(&match->places, names->family, names, alternatives, prefix, error));
    } else {
        TN_TRY(prefix != NULL ? take_prefix(match, prefix, error)
                              : choose_prefix(match, names, alternatives, count, error));
    }
    TN_TRY(find_tensors(match, names, alternatives, count, error));
    if (names->family != NULL) {
        spell_common(match, names);
    } else {
        spell_prefix(match, names);
    }
    return tn_match_check(match, names, type, error);
}

tenon_status tn_match_make(tn_match *match, const tn_names *names, const tn_expected *alternatives, int count,
                           const char *type, const char *prefix, tenon_error *error)
{
    *match = (tn_match){.expected = alternatives};
    const tenon_status status = make(match, names, alternatives, count, type, prefix, error);
    if (status != TENON_OK) tn_match_free(match);
    return status;
}

void tn_match_free(tn_match *match)
{
    free(match->tensors);
    match->tensors = NULL;
    tn_places_free(&match->places);
}
