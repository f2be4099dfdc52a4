/* SPDX-License-Identifier: MIT */
/* Names of connector types and the functions that build them. Rows that a program registers are kept for the rest of
 * the process. */
#include "connectors/registry.h"

#include "core/error.h"
#include "core/mutex.h"
#include "core/utf8.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct row {
    const char *name;
    tn_recipe recipe;
    struct row *_Atomic next;
} row;

/* Sorted by name; each links to the next. */
static row shipped[] = {
    {"attentional_pool", {tn_build_attentional_pool, NULL}, &shipped[1]},
    {"avgpool", {tn_build_avgpool, NULL}, &shipped[2]},
    {"aya", {tn_build_aya, NULL}, &shipped[3]},
    {"gemma3", {tn_build_gemma3, NULL}, &shipped[4]},
    {"idefics2", {tn_build_idefics2, NULL}, &shipped[5]},
    {"idefics3", {tn_build_idefics3, NULL}, &shipped[6]},
    {"internvl", {tn_build_internvl, NULL}, &shipped[7]},
    {"linear", {tn_build_linear, NULL}, &shipped[8]},
    {"llama4", {tn_build_llama4, NULL}, &shipped[9]},
    {"llava", {tn_build_llava, NULL}, &shipped[10]},
    {"llava_next", {tn_build_llava_next, NULL}, &shipped[11]},
    {"llava_onevision", {tn_build_llava_onevision, NULL}, &shipped[12]},
    {"mistral3", {tn_build_mistral3, NULL}, &shipped[13]},
    {"mlp_2layer", {tn_build_mlp_2layer, NULL}, &shipped[14]},
    {"molmo2", {tn_build_molmo2, NULL}, &shipped[15]},
    {"qwen2_vl", {tn_build_qwen2_vl, NULL}, &shipped[16]},
    {"qwen3_vl", {tn_build_qwen3_vl, NULL}, &shipped[17]},
    {"vip_llava", {tn_build_vip_llava, NULL}, NULL},
};

/* The list, sorted. Rows are only ever added: under the global lock, and by one store, so that whoever reads, a forked
 * child too, needs no lock and finds a whole list. */
static row *_Atomic first = &shipped[0];

static const row *find(const char *name)
{
    for (const row *r = first; r != NULL; r = r->next) {
        if (strcmp(r->name, name) == 0) return r;
    }
    return NULL;
}

static void insert_locked(row *added)
{
    row *_Atomic *link = &first;
    row *next;
    while ((next = *link) != NULL && strcmp(next->name, added->name) < 0)
        link = &next->next;
    added->next = next;
    *link = added;
}

static tenon_status fail_unknown(const char *name, const char *list, tenon_error *error)
{
    enum { most = 256 };
    const char *known[most];
    char hint[160] = "";
    tn_text text = {hint, sizeof hint, 0};
    const size_t count = tenon_list_adapters(known, most);
    const char *nearest = tenon_nearest_name(name, known, count < most ? count : most);
    if (nearest != NULL) tn_text_add(&text, " (did you mean '%s'?)", nearest);
    return tn_fail(error, TENON_NOT_FOUND, "unknown adapter type '%s'%s; registered types: %s", tn_quote(name).text,
                   hint, list);
}

tenon_status tn_registry_find(const char *name, tn_recipe *recipe, tenon_error *error)
{
    char names[1024] = "";
    tn_text text = {names, sizeof names, 0};
    const row *found = find(name);
    if (found != NULL) {
        *recipe = found->recipe;
        return TENON_OK;
    }
    for (const row *r = first; r != NULL; r = r->next) {
        tn_text_add(&text, "%s%s", text.length > 0 ? ", " : "", r->name);
    }
    return fail_unknown(name, names, error);
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
    if (!tn_is_utf8(name)) {
        return tn_fail(error, TENON_INVALID, "adapter type '%s' is not UTF-8, as files that name it are",
                       tn_quote(name).text);
    }
    row *added = malloc(sizeof *added);
    char *copy = strdup(name);
    if (added == NULL || copy == NULL) {
        free(added);
        free(copy);
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: adapter/%s cannot be registered", tn_quote(name).text);
    }
    *added = (row){copy, {function, context}, NULL};
    tn_global_mutex_acquire();
    const bool taken = find(name) != NULL;
    if (!taken) insert_locked(added);
    tn_global_mutex_release();
    if (!taken) return TENON_OK;
    free(added);
    free(copy);
    return tn_fail(error, TENON_EXISTS, "adapter/%s is already registered", tn_quote(name).text);
}

size_t tenon_list_adapters(const char **names, size_t capacity)
{
    size_t count = 0;
    for (const row *r = first; r != NULL; r = r->next, count++) {
        if (count < capacity) names[count] = r->name;
    }
    return count;
}
