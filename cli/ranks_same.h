/* SPDX-License-Identifier: MIT */
/* What the ranks of a run must have in common. A sum over ranks with other weights, data or options is a number that
 * means nothing, and nothing would show it. */
#ifndef TN_CLI_RANKS_SAME_H
#define TN_CLI_RANKS_SAME_H

#include "json.h"
#include "tenon/tenon.h"

/* The advice for ranks that were started with other words, or on other files. */
#define TN_RANKS_ADVICE "start all ranks with the same command, on the same files and at one CPU level (--cpu)"

/* Called by all ranks. `facts` (taken; NULL: out of memory) is an object whose keys are words for a sentence, such as
 * "--lr" or "the CPU level". Returns true on all ranks or on none; those whose facts are not rank 0's say in *error
 * which differ, and then the advice. */
bool tn_ranks_same(json_t *facts, const char *advice, tenon_error *error);

#endif
