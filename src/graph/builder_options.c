/* SPDX-License-Identifier: MIT */
/* Options of the config, as a builder function reads them. */
#include "graph/builder.h"
#include "graph/builder_state.h"

/* The option as it is set, or the fallback; recorded as what the builder got. NULL: use the fallback. */
static const tn_option *read_option(tenon_builder *builder, const char *name, const tn_option *fallback)
{
    tenon_error error;
    if (name == NULL) {
        tenon_builder_fail(builder, "adapter type '%s' reads an option without a name", builder->build->type);
        return NULL;
    }
    const tn_option *option = tn_options_find(builder->build->options, name);
    tenon_status status = tn_option_check_name(name, &error);
    if (status == TENON_OK) {
        status = tn_options_set(builder->read, name, option != NULL ? option : fallback, &error);
    }
    if (status != TENON_OK) tn_builder_set_error(builder, status, error.message);
    return option;
}

static void wrong_kind(tenon_builder *builder, const tn_option *option, tn_option_kind expected)
{
    tenon_builder_fail(builder, "option '%s' of adapter type '%s' is %s; expected %s", option->name,
                       builder->build->type, tn_option_kind_name(option->kind), tn_option_kind_name(expected));
}

int64_t tenon_option_int(tenon_builder *builder, const char *name, int64_t fallback)
{
    const tn_option *option = read_option(builder, name, &(tn_option){.kind = TN_OPTION_INT, .integer = fallback});
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_INT) return option->integer;
    wrong_kind(builder, option, TN_OPTION_INT);
    return fallback;
}

double tenon_option_real(tenon_builder *builder, const char *name, double fallback)
{
    const tn_option *option = read_option(builder, name, &(tn_option){.kind = TN_OPTION_REAL, .real = fallback});
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_REAL) return option->real;
    if (option->kind == TN_OPTION_INT) return (double)option->integer; /* 5 is a real number too */
    wrong_kind(builder, option, TN_OPTION_REAL);
    return fallback;
}

const char *tenon_option_string(tenon_builder *builder, const char *name, const char *fallback)
{
    const tn_option value = {.kind = fallback != NULL ? TN_OPTION_STRING : TN_OPTION_UNSET,
                             .string = (char *)(uintptr_t)fallback}; /* only read, copied */
    const tn_option *option = read_option(builder, name, &value);
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_STRING) return option->string;
    wrong_kind(builder, option, TN_OPTION_STRING);
    return fallback;
}

bool tenon_option_bool(tenon_builder *builder, const char *name, bool fallback)
{
    const tn_option *option = read_option(builder, name, &(tn_option){.kind = TN_OPTION_BOOL, .integer = fallback});
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_BOOL) return option->integer != 0;
    wrong_kind(builder, option, TN_OPTION_BOOL);
    return fallback;
}

const int64_t *tenon_option_ints(tenon_builder *builder, const char *name, int64_t *count, int64_t fallback_count,
                                 const int64_t *fallback)
{
    const tn_option value = {.kind = TN_OPTION_INTS, .list = (int64_t *)(uintptr_t)fallback, .count = fallback_count};
    *count = 0;
    if (fallback_count < 0 || (fallback_count > 0 && fallback == NULL)) {
        tenon_builder_fail(builder, "option '%s' has a default of %lld integers without values",
                           name != NULL ? tn_quote(name).text : "", (long long)fallback_count);
        return NULL;
    }
    const tn_option *option = read_option(builder, name, &value);
    *count = fallback_count;
    if (option == NULL) return fallback;
    if (option->kind == TN_OPTION_INTS) {
        *count = option->count;
        return option->list;
    }
    wrong_kind(builder, option, TN_OPTION_INTS);
    return fallback;
}
