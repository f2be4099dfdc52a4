/* SPDX-License-Identifier: MIT */
/* Which tensors of a checkpoint are a connector's: under which prefix they are, what widths they have, and a sentence
 * about all that does not fit. */
#ifndef TN_ADAPTER_MATCH_H
#define TN_ADAPTER_MATCH_H

#include "adapter/expected.h"
#include "adapter/names.h"
#include "adapter/places.h"

enum { TN_MAX_PREFIX = 255 };

typedef struct tn_match {
    char prefix[TN_MAX_PREFIX + 1]; /* in front of the connector's names */
    char spelt[TN_MAX_PREFIX + 1];  /* the same with wrappers, where all (renamed) names have the same ones in front */
    const tn_expected *expected;    /* the alternative that was taken */
    int64_t widths[TN_NUM_WIDTHS];  /* 0: its tensors do not tell */
    int64_t *tensors;               /* [expected->count] numbers of tensors; owned */
    tn_places places;               /* where names->family has its parameters */
} tn_match;

/* Finds the tensors. Of the alternatives, which differ in shapes alone, the first that the most tensors fit is taken.
 * `prefix` NULL: the only one under which all are there, or what names->family says. TENON_MISMATCH, with all that is
 * wrong: it does not fit, or several do. */
tenon_status tn_match_make(tn_match *match, const tn_names *names, const tn_expected *alternatives, int count,
                           const char *type, const char *prefix, tenon_error *error);
void tn_match_free(tn_match *match);

/* misfit.c: TENON_OK when everything in the match fits, else TENON_MISMATCH and the sentence. */
tenon_status tn_match_check(const tn_match *match, const tn_names *names, const char *type, tenon_error *error);

/* The name under which parameter `index` is searched: whole with a family, else without the prefix. */
const char *tn_match_name(const tn_match *match, int64_t index);

/* The length of what stands before `suffix` (of `suffix_length` bytes) in `name`, when that is nothing or ends in a
 * dot; else -1. */
int64_t tn_prefix_length(const char *name, const char *suffix, size_t suffix_length);

#endif
