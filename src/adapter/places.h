/* SPDX-License-Identifier: MIT */
/* Where a family's parameters are in a checkpoint. Names are whole paths in parts (projector, merger, newline); each
 * part is under one prefix of its own out of a list, never found by its last words alone. */
#ifndef TN_ADAPTER_PLACES_H
#define TN_ADAPTER_PLACES_H

#include "adapter/expected.h"
#include "adapter/names.h"
#include "families/family.h"

typedef struct tn_places {
    char **wanted; /* [count] the full name of each parameter; NULL: no family told it */
    int64_t count;
    char *inside[TN_MAX_NAMES]; /* [num_inside] the parts that are there: "model.multi_modal_projector" */
    int num_inside;
} tn_places;

/* Finds the parts in the scheme of names that has most of the parameters. `prefix` NULL: one of the list; else the
 * caller's, with or without the part's own name. TENON_MISMATCH: a part is there twice, or holds what is no plain
 * weight (quantised, LoRA). Free with tn_places_free also after a failure. */
tenon_status tn_places_find(tn_places *places, const tn_family *family, const tn_names *names,
                            const tn_expected *expected, const char *prefix, tenon_error *error);
void tn_places_free(tn_places *places);

#endif
