/* SPDX-License-Identifier: MIT */
/* New names for tensors: {"linear_1", "proj1"} makes "proj1.weight" of "linear_1.weight". */
#ifndef TN_ADAPTER_RENAME_H
#define TN_ADAPTER_RENAME_H

#include "core/error.h"

/* One rename, without dots at the ends. */
typedef struct tn_rename_rule {
    const char *from, *to;
    size_t from_length, to_length;
    bool is_used; /* a name begins with it */
} tn_rename_rule;

/* *rules: [count], which the caller frees with free(). TENON_INVALID: empty, or a name twice. */
tenon_status tn_rename_rules(tn_rename_rule **rules, const tenon_rename *rename, int64_t count, tenon_error *error);

/* The rule for `name`, of several the one with the longest `from`; NULL when there is none. All of them are used. */
tn_rename_rule *tn_rename_find(tn_rename_rule *rules, int64_t count, const char *name);

/* Bytes of the new name with its NUL, and the name itself. */
size_t tn_rename_size(const tn_rename_rule *rule, const char *name);
void tn_rename_apply(char *to, const tn_rename_rule *rule, const char *name);

#endif
