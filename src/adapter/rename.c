/* SPDX-License-Identifier: MIT */
#include "adapter/rename.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A dot at the end says no more than that a prefix is meant. */
static size_t length_without_dots(const char *name)
{
    size_t length = strlen(name);
    while (length > 0 && name[length - 1] == '.')
        length--;
    return length;
}

static tenon_status check_rule(const tn_rename_rule *rules, int64_t index, tenon_error *error)
{
    const tn_rename_rule *rule = &rules[index];
    if (rule->from_length == 0) {
        return tn_fail(error, TENON_INVALID, "`rename` maps an empty name to '%s'; it maps names or their beginnings",
                       tn_quote(rule->to).text);
    }
    for (int64_t i = 0; i < index; i++) {
        if (rules[i].from_length != rule->from_length || memcmp(rules[i].from, rule->from, rule->from_length) != 0) {
            continue;
        }
        return tn_fail(error, TENON_INVALID, "`rename` maps '%s' twice, to '%s' and to '%s'",
                       tn_quote_bytes(rule->from, rule->from_length).text, tn_quote(rules[i].to).text,
                       tn_quote(rule->to).text);
    }
    return TENON_OK;
}

tenon_status tn_rename_rules(tn_rename_rule **rules, const tenon_rename *rename, int64_t count, tenon_error *error)
{
    if (count < 0 || (count > 0 && rename == NULL)) {
        return tn_fail(error, TENON_INVALID, "`rename` has %lld pairs of names%s", (long long)count,
                       count < 0 ? "" : ", but the array is NULL");
    }
    tn_rename_rule *made = calloc((size_t)count + 1, sizeof *made); /* never of size 0 */
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: tensors cannot be renamed");
    for (int64_t i = 0; i < count; i++) {
        tenon_status status = TENON_OK;
        if (rename[i].from == NULL || rename[i].to == NULL) {
            status = tn_fail(error, TENON_INVALID, "`rename` has a name that is NULL");
        } else {
            made[i] = (tn_rename_rule){rename[i].from, rename[i].to, length_without_dots(rename[i].from),
                                       length_without_dots(rename[i].to), false};
            status = check_rule(made, i, error);
        }
        if (status != TENON_OK) {
            free(made);
            return status;
        }
    }
    *rules = made;
    return TENON_OK;
}

tn_rename_rule *tn_rename_find(tn_rename_rule *rules, int64_t count, const char *name)
{
    tn_rename_rule *best = NULL;
    for (int64_t i = 0; i < count; i++) {
        const size_t length = rules[i].from_length;
        if (strncmp(name, rules[i].from, length) != 0 || (name[length] != '.' && name[length] != '\0')) continue;
        rules[i].is_used = true;
        if (best == NULL || length > best->from_length) best = &rules[i];
    }
    return best;
}

/* What stands behind the part that is mapped, and whether a dot goes before it. */
static const char *rest_of(const tn_rename_rule *rule, const char *name, bool *dot)
{
    const char *rest = name + rule->from_length;
    if (*rest == '.') rest++;
    *dot = *rest != '\0' && rule->to_length > 0;
    return rest;
}

size_t tn_rename_size(const tn_rename_rule *rule, const char *name)
{
    bool dot;
    const char *rest = rest_of(rule, name, &dot);
    return rule->to_length + dot + strlen(rest) + 1;
}

void tn_rename_apply(char *to, const tn_rename_rule *rule, const char *name)
{
    bool dot;
    const char *rest = rest_of(rule, name, &dot);
    memcpy(to, rule->to, rule->to_length);
    snprintf(to + rule->to_length, strlen(rest) + 2, "%s%s", dot ? "." : "", rest);
}
