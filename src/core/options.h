/* SPDX-License-Identifier: MIT */
/* A short list of named, typed settings: what a config holds and what a builder reads. */
#ifndef TN_CORE_OPTIONS_H
#define TN_CORE_OPTIONS_H

#include "tenon/tenon.h"

typedef enum tn_option_kind {
    TN_OPTION_INT,
    TN_OPTION_REAL,
    TN_OPTION_STRING,
    TN_OPTION_BOOL, /* in `integer`: 0 or 1 */
    TN_OPTION_INTS, /* a list of integers */
    TN_OPTION_UNSET /* read by a builder, set by nobody, without a default */
} tn_option_kind;

typedef struct tn_option {
    char *name;
    tn_option_kind kind;
    int64_t integer;
    double real;
    char *string;
    int64_t *list; /* [count] */
    int64_t count;
} tn_option;

/* Zero-initialised: empty. */
typedef struct tn_options {
    tn_option *items;
    size_t count;
} tn_options;

void tn_options_free(tn_options *options);

/* TENON_INVALID: not UTF-8, or a name that adapter files use beside the options ("type", "in_dim", "out_dim"). */
tenon_status tn_option_check_name(const char *name, tenon_error *error);

/* NULL when there is none, or it is not set. */
const tn_option *tn_options_find(const tn_options *options, const char *name);

/* Is the name there, set or not? */
bool tn_options_have(const tn_options *options, const char *name);

/* Adds or replaces; name, string and list are copied. `value` gives kind and value; its name is ignored.
 * TENON_INVALID: a string that is not UTF-8, or a real number that is not finite, which no file could hold. */
tenon_status tn_options_set(tn_options *options, const char *name, const tn_option *value, tenon_error *error);

tenon_status tn_options_copy(tn_options *to, const tn_options *from, tenon_error *error);

/* "an integer", "a real number", "a string", "a boolean", "a list of integers". */
const char *tn_option_kind_name(tn_option_kind kind);

#endif
