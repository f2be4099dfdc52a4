/* SPDX-License-Identifier: MIT */
#include "adapter/names.h"

#include "adapter/rename.h"
#include "core/items.h"
#include <stdlib.h>
#include <string.h>

/* ---- wrappers ---- */

/* The length of the wrapper's part that a name begins with, its dot included; 0 when it begins with none. */
static size_t wrapper_length(const char *name)
{
    static const char *const wrappers[] = {"module.", "_orig_mod.", "_fsdp_wrapped_module.",
                                           "_checkpoint_wrapped_module."};
    for (size_t i = 0; i < sizeof wrappers / sizeof wrappers[0]; i++) {
        const size_t length = strlen(wrappers[i]);
        if (strncmp(name, wrappers[i], length) == 0) return length;
    }
    return 0;
}

size_t tn_name_unwrap(char *plain, const char *name)
{
    size_t length = 0;
    while (*name != '\0') {
        const size_t wrapper = wrapper_length(name);
        name += wrapper;
        if (wrapper > 0) continue;
        const char *dot = strchr(name, '.');
        const size_t part = dot != NULL ? (size_t)(dot - name) + 1 : strlen(name);
        memmove(plain + length, name, part);
        length += part;
        name += part;
    }
    plain[length] = '\0';
    return length;
}

/* *plain: a copy without wrappers, or `name` itself where there are none. */
static tenon_status unwrap(char **plain, char *name, tenon_error *error)
{
    char *copy = malloc(strlen(name) + 1);
    if (copy == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory for the names of tensors");
    (void)tn_name_unwrap(copy, name);
    const bool same = strcmp(copy, name) == 0;
    if (same) free(copy);
    *plain = same ? name : copy;
    return TENON_OK;
}

/* ---- renaming ---- */

/* *renamed: a copy as the rules want it, or the tensor's own name. A rule may spell the name with wrappers or without.
 */
static tenon_status rename_one(char **renamed, const char *name, tn_rename_rule *rules, int64_t num_rules,
                               tenon_error *error)
{
    char *own = (char *)(uintptr_t)name; /* only read */
    char *plain = own;
    *renamed = own;
    if (num_rules == 0) return TENON_OK;
    tn_rename_rule *rule = tn_rename_find(rules, num_rules, name);
    if (rule == NULL) {
        TN_TRY(unwrap(&plain, own, error));
        rule = tn_rename_find(rules, num_rules, plain);
    }
    tenon_status status = TENON_OK;
    if (rule != NULL) {
        char *made = malloc(tn_rename_size(rule, plain));
        if (made == NULL) {
            status = tn_fail(error, TENON_NO_MEMORY, "out of memory for the names of tensors");
        } else {
            tn_rename_apply(made, rule, plain);
            *renamed = made;
        }
    }
    if (plain != own) free(plain);
    return status;
}

/* Names, or parts of them, in which `from` stands somewhere behind the beginning: who says "linear_1" may mean
 * "projector.linear_1". */
static void add_near(tn_text *text, const tn_names *names, const tn_rename_rule *rule)
{
    tn_items items = {.text = text, .most = 3};
    const char *last = "";
    size_t last_length = 0;
    for (int64_t t = 0; t < names->count; t++) {
        const char *name = names->tensors[t].name;
        for (const char *dot = strchr(name, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
            const char end = strncmp(dot + 1, rule->from, rule->from_length) == 0 ? dot[1 + rule->from_length] : 'x';
            if (end != '.' && end != '\0') continue;
            const size_t length = (size_t)(dot - name) + 1 + rule->from_length;
            if (length == last_length && memcmp(name, last, length) == 0) break;
            last = name;
            last_length = length;
            if (items.count == 0) tn_text_add(text, "; nearest: ");
            tn_items_add(&items, "'%s'", tn_quote_bytes(name, length).text);
            break;
        }
    }
    tn_items_end(&items);
}

static tenon_status check_used(const tn_names *names, const tn_rename_rule *rules, int64_t num_rules,
                               tenon_error *error)
{
    for (int64_t i = 0; i < num_rules; i++) {
        char near[1024] = "";
        tn_text text = {near, sizeof near, 0};
        if (rules[i].is_used) continue;
        add_near(&text, names, &rules[i]);
        const tn_quoted from = tn_quote_bytes(rules[i].from, rules[i].from_length);
        return tn_fail(error, TENON_NOT_FOUND, "%s: no tensor is named '%s' or begins with '%s.', as `rename` wants%s",
                       names->source, from.text, from.text, near);
    }
    return TENON_OK;
}

static tenon_status check_new_names(const tn_names *names, tenon_error *error)
{
    for (int64_t i = 0; i < names->count; i++) {
        const tn_name *name = &names->by_renamed[i];
        const char *own = names->tensors[name->tensor].name;
        if (name->text[0] == '\0' && own[0] != '\0') {
            return tn_fail(error, TENON_INVALID, "%s: `rename` leaves nothing of the name of tensor '%s'",
                           names->source, tn_quote(own).text);
        }
        if (i == 0 || strcmp(name->text, name[-1].text) != 0) continue;
        return tn_fail(error, TENON_INVALID, "%s: `rename` gives tensors '%s' and '%s' the same name, '%s'",
                       names->source, tn_quote(names->tensors[name[-1].tensor].name).text, tn_quote(own).text,
                       tn_quote(name->text).text);
    }
    return TENON_OK;
}

/* ---- the names together ---- */

static int compare_names(const void *a, const void *b)
{
    const tn_name *p = a, *q = b;
    const int order = strcmp(p->text, q->text);
    return order != 0 ? order : (p->tensor > q->tensor) - (p->tensor < q->tensor);
}

static void sort_names(tn_name *sorted, char *const *names, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        sorted[i] = (tn_name){names[i], i};
    qsort(sorted, (size_t)count, sizeof *sorted, compare_names);
}

static tenon_status fill(tn_names *names, tn_rename_rule *rules, int64_t num_rules, tenon_error *error)
{
    for (int64_t t = 0; t < names->count; t++) {
        TN_TRY(rename_one(&names->renamed[t], names->tensors[t].name, rules, num_rules, error));
        TN_TRY(unwrap(&names->plain[t], names->renamed[t], error));
    }
    sort_names(names->by_renamed, names->renamed, names->count);
    sort_names(names->by_plain, names->plain, names->count);
    TN_TRY(check_used(names, rules, num_rules, error));
    return num_rules > 0 ? check_new_names(names, error) : TENON_OK;
}

tenon_status tn_names_make(tn_names *names, const char *source, const tenon_file_tensor *tensors, int64_t count,
                           const tenon_rename *rename, int64_t num_rename, tenon_error *error)
{
    tn_rename_rule *rules = NULL;
    TN_TRY(tn_rename_rules(&rules, rename, num_rename, error));
    const size_t places = (size_t)count + 1; /* never 0 */
    *names = (tn_names){.source = source, .tensors = tensors, .count = count, .has_renames = num_rename > 0};
    names->renamed = calloc(places, sizeof *names->renamed);
    names->plain = calloc(places, sizeof *names->plain);
    names->by_renamed = calloc(places, sizeof *names->by_renamed);
    names->by_plain = calloc(places, sizeof *names->by_plain);
    tenon_status status;
    if (names->renamed == NULL || names->plain == NULL || names->by_renamed == NULL || names->by_plain == NULL) {
        status = tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %lld names", source, (long long)count);
    } else {
        status = fill(names, rules, num_rename, error);
    }
    free(rules);
    if (status != TENON_OK) tn_names_free(names);
    return status;
}

void tn_names_free(tn_names *names)
{
    for (int64_t t = 0; t < names->count && names->renamed != NULL && names->plain != NULL; t++) {
        if (names->plain[t] != names->renamed[t]) free(names->plain[t]);
        if (names->renamed[t] != names->tensors[t].name) free(names->renamed[t]);
    }
    free(names->renamed);
    free(names->plain);
    free(names->by_renamed);
    free(names->by_plain);
    *names = (tn_names){.count = 0};
}

/* The first place of `text` among the sorted names, or where it would be. */
static int64_t lower_bound(const tn_name *sorted, int64_t count, const char *text)
{
    int64_t low = 0, high = count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (strcmp(sorted[middle].text, text) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool tn_names_begin(const tn_names *names, const char *text)
{
    const int64_t at = lower_bound(names->by_plain, names->count, text);
    return at < names->count && strncmp(names->by_plain[at].text, text, strlen(text)) == 0;
}

static int64_t find_sorted(const tn_name *sorted, int64_t count, const char *text)
{
    const int64_t at = lower_bound(sorted, count, text);
    if (at == count || strcmp(sorted[at].text, text) != 0) return -1;
    if (at + 1 < count && strcmp(sorted[at + 1].text, text) == 0) return -2;
    return sorted[at].tensor;
}

int64_t tn_names_find(const tn_names *names, const char *prefix, const char *name)
{
    enum { longest = 512 };
    char full[longest];
    const size_t before = strlen(prefix), length = strlen(name);
    if (before + length >= longest) return -1;
    memcpy(full, prefix, before);
    memcpy(full + before, name, length + 1);
    const int64_t found = find_sorted(names->by_renamed, names->count, full);
    if (found >= 0) return found;
    (void)tn_name_unwrap(full, full);
    return find_sorted(names->by_plain, names->count, full);
}
