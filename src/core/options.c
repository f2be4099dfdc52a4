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
        if (strcmp(options->items[i].name, name) == 0) return &options->items[i];
    }
    return NULL;
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

tenon_status tn_options_set(tn_options *options, const char *name, const tn_option *value, tenon_error *error)
{
    if (value->kind == TN_OPTION_STRING && !tn_is_utf8(value->string)) {
        return tn_fail(error, TENON_INVALID, "option '%s' is not UTF-8", tn_quote(name).text);
    }
    if (value->kind == TN_OPTION_REAL && !isfinite(value->real)) {
        return tn_fail(error, TENON_INVALID, "option '%s' is not a finite number", tn_quote(name).text);
    }
    char *string = value->kind == TN_OPTION_STRING ? strdup(value->string) : NULL;
    tn_option *option = value->kind != TN_OPTION_STRING || string != NULL ? place(options, name) : NULL;
    if (option == NULL) {
        free(string);
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: option '%s' cannot be stored", tn_quote(name).text);
    }
    free(option->string);
    option->kind = value->kind;
    option->integer = value->integer;
    option->real = value->real;
    option->string = string;
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
    static const char *const names[] = {"an integer", "a real number", "a string"};
    return names[kind];
}
