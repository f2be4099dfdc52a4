/* SPDX-License-Identifier: MIT */
/* Typed settings, kept in the order in which they were set. */
#include "core/options.h"

#include "core/error.h"
#include "core/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void tn_options_free(tn_options *options)
{
    for (size_t i = 0; i < options->count; i++) {
        free(options->items[i].name);
        free(options->items[i].string);
        free(options->items[i].list);
    }
    free(options->items);
    *options = (tn_options){NULL, 0};
}

tenon_status tn_option_check_name(const char *name, tenon_error *error)
{
    static const char *const taken[] = {"type", "in_dim", "out_dim"};
    if (!tn_is_utf8(name)) return tn_fail(error, TENON_INVALID, "option name '%s' is not UTF-8", tn_quote(name).text);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        if (strcmp(name, taken[i]) != 0) continue;
        return tn_fail(error, TENON_INVALID, "option name '%s' is taken: adapter files use it themselves", name);
    }
    return TENON_OK;
}

const tn_option *tn_options_find(const tn_options *options, const char *name)
{
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = &options->items[i];
        if (option->kind != TN_OPTION_UNSET && strcmp(option->name, name) == 0) return option;
    }
    return NULL;
}

bool tn_options_have(const tn_options *options, const char *name)
{
    for (size_t i = 0; i < options->count; i++) {
        if (strcmp(options->items[i].name, name) == 0) return true;
    }
    return false;
}

/* The place of `name`, made when there is none; NULL: no memory. */
static tn_option *place(tn_options *options, const char *name)
{
    for (size_t i = 0; i < options->count; i++) {
        if (strcmp(options->items[i].name, name) == 0) return &options->items[i];
    }
    char *copy = strdup(name);
    tn_option *items = realloc(options->items, (options->count + 1) * sizeof *items);
    if (items != NULL) options->items = items;
    if (copy == NULL || items == NULL) {
        free(copy);
        return NULL;
    }
    items[options->count] = (tn_option){.name = copy};
    return &items[options->count++];
}

/* Makes string and list its own, NULL where the kind has none. False: no memory, and it owns what it could copy. */
static bool copy_value(tn_option *value)
{
    const bool text = value->kind == TN_OPTION_STRING, list = value->kind == TN_OPTION_INTS;
    value->string = text ? strdup(value->string) : NULL;
    const int64_t *numbers = value->list;
    if (!list) value->count = 0;
    value->list = list ? calloc((size_t)value->count + 1, sizeof *numbers) : NULL; /* never of size 0 */
    if ((text && value->string == NULL) || (list && value->list == NULL)) return false;
    if (value->count > 0) memcpy(value->list, numbers, (size_t)value->count * sizeof *numbers);
    return true;
}

tenon_status tn_options_set(tn_options *options, const char *name, const tn_option *value, tenon_error *error)
{
    if (value->kind == TN_OPTION_STRING && !tn_is_utf8(value->string)) {
        return tn_fail(error, TENON_INVALID, "option '%s' is not UTF-8", tn_quote(name).text);
    }
    if (value->kind == TN_OPTION_REAL && !isfinite(value->real)) {
        return tn_fail(error, TENON_INVALID, "option '%s' is not a finite number", tn_quote(name).text);
    }
    tn_option copy = *value;
    tn_option *option = copy_value(&copy) ? place(options, name) : NULL;
    if (option == NULL) {
        free(copy.string);
        free(copy.list);
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: option '%s' cannot be stored", tn_quote(name).text);
    }
    free(option->string);
    free(option->list);
    copy.name = option->name;
    *option = copy;
    return TENON_OK;
}

tenon_status tn_options_copy(tn_options *to, const tn_options *from, tenon_error *error)
{
    tn_options copy = {NULL, 0};
    for (size_t i = 0; i < from->count; i++) {
        const tenon_status status = tn_options_set(&copy, from->items[i].name, &from->items[i], error);
        if (status != TENON_OK) {
            tn_options_free(&copy);
            return status;
        }
    }
    tn_options_free(to);
    *to = copy;
    return TENON_OK;
}

const char *tn_option_kind_name(tn_option_kind kind)
{
    static const char *const names[] = {
        [TN_OPTION_INT] = "an integer", [TN_OPTION_REAL] = "a real number",      [TN_OPTION_STRING] = "a string",
        [TN_OPTION_BOOL] = "a boolean", [TN_OPTION_INTS] = "a list of integers", [TN_OPTION_UNSET] = "not set"};
    return names[kind];
}
