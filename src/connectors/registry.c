/* SPDX-License-Identifier: MIT */
/* Names of connector types and the functions that build them. Rows that a program registers are kept, under the global
 * lock, for the rest of the process. */
#include "connectors/registry.h"

#include "core/error.h"
#include "core/parallel.h"
#include <stdlib.h>
#include <string.h>

typedef struct row {
    const char *name;
    tn_recipe recipe;
    struct row *next;
} row;

/* Sorted by name. */
static row shipped[] = {
    {"attentional_pool", {tn_build_attentional_pool, NULL}, &shipped[1]},
    {"avgpool", {tn_build_avgpool, NULL}, &shipped[2]},
    {"linear", {tn_build_linear, NULL}, &shipped[3]},
    {"mlp_2layer", {tn_build_mlp_2layer, NULL}, NULL},
};

/* The list, sorted; rows are only ever added, under the global lock. */
static row *first = &shipped[0];

static const row *find_locked(const char *name)
{
    for (const row *r = first; r != NULL; r = r->next) {
        if (strcmp(r->name, name) == 0) return r;
    }
    return NULL;
}

static void insert_locked(row *added)
{
    row **link = &first;
    while (*link != NULL && strcmp((*link)->name, added->name) < 0)
        link = &(*link)->next;
    added->next = *link;
    *link = added;
}

tenon_status tn_registry_find(const char *name, tn_recipe *recipe, tenon_error *error)
{
    char names[1024] = "";
    tn_text text = {names, sizeof names, 0};
    tn_global_lock_acquire();
    const row *found = find_locked(name);
    if (found != NULL) *recipe = found->recipe;
    for (const row *r = first; r != NULL && found == NULL; r = r->next) {
        tn_text_add(&text, "%s%s", r == first ? "" : ", ", r->name);
    }
    tn_global_lock_release();
    if (found != NULL) return TENON_OK;
    return tn_fail(error, TENON_NOT_FOUND, "unknown adapter type '%s'; registered types: %s", tn_quote(name).text,
                   names);
}

tenon_status tenon_find_adapter(const char *name, tenon_error *error)
{
    tn_recipe recipe;
    if (name == NULL) return tn_fail(error, TENON_INVALID, "adapter type is NULL");
    return tn_registry_find(name, &recipe, error);
}

tenon_status tenon_register_adapter(const char *name, tenon_builder_function function, void *context,
                                    tenon_error *error)
{
    if (name == NULL || name[0] == '\0' || function == NULL) {
        return tn_fail(error, TENON_INVALID, "an adapter type needs a name and a builder function");
    }
    row *added = malloc(sizeof *added);
    char *copy = strdup(name);
    if (added == NULL || copy == NULL) {
        free(added);
        free(copy);
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: adapter/%s cannot be registered", tn_quote(name).text);
    }
    *added = (row){copy, {function, context}, NULL};
    tn_global_lock_acquire();
    const bool taken = find_locked(name) != NULL;
    if (!taken) insert_locked(added);
    tn_global_lock_release();
    if (!taken) return TENON_OK;
    free(added);
    free(copy);
    return tn_fail(error, TENON_EXISTS, "adapter/%s is already registered", tn_quote(name).text);
}

size_t tenon_list_adapters(const char **names, size_t capacity)
{
    size_t count = 0;
    tn_global_lock_acquire();
    for (const row *r = first; r != NULL; r = r->next, count++) {
        if (count < capacity) names[count] = r->name;
    }
    tn_global_lock_release();
    return count;
}
