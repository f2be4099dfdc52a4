/* SPDX-License-Identifier: MIT */
/* A list in a sentence, cut with a count: "proj1.weight, proj1.bias and 520 more". */
#ifndef TN_CORE_ITEMS_H
#define TN_CORE_ITEMS_H

#include "core/error.h"

/* Starts as {.text = &text}. */
typedef struct tn_items {
    tn_text *text;
    int64_t most;         /* how many are shown; 0: eight, fewer where they do not fit */
    int64_t count, shown; /* so far */
} tn_items;

void tn_items_add(tn_items *items, const char *format, ...) TENON_PRINTF(2, 3);

/* Adds how many were left out. The list that follows in the same text starts anew. */
void tn_items_end(tn_items *items);

#endif
