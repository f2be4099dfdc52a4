/* SPDX-License-Identifier: MIT */
#include "ranks_same.h"

#include "ranks.h"
#include "report.h"

#include <stdlib.h>
#include <string.h>

/* Rank 0's text on every rank, freed with free(); `mine` is this rank's. NULL on all of them: memory was short. */
static char *text_of_rank_0(const char *mine, tenon_error *error)
{
    size_t size = mine ? strlen(mine) + 1 : 0;
    if (!tn_ranks_agree(mine || tn_error(error, "out of memory"))) return NULL;
    tn_ranks_broadcast(&size, sizeof size);
    char *text = malloc(size);
    if (!tn_ranks_agree(text || tn_error(error, "out of memory"))) {
        free(text);
        return NULL;
    }
    if (tn_ranks_index() == 0) memcpy(text, mine, size);
    tn_ranks_broadcast(text, size);
    return text;
}

static bool compare(const char *first, const json_t *facts, const char *advice, tenon_error *error)
{
    char list[3000];
    json_t *theirs = json_loads(first, 0, NULL);
    if (!theirs) return tn_error(error, "out of memory");
    const bool same = tn_json_same(theirs, facts, (tn_json_words){"is", "on rank 0 and", " here"}, list, sizeof list);
    json_decref(theirs);
    return same || tn_error(error, "is not in the run of rank 0: %s; %.500s", list, advice);
}

bool tn_ranks_same(json_t *facts, const char *advice, tenon_error *error)
{
    bool same = true;
    if (tn_ranks_count() > 1) {
        char *mine = facts ? json_dumps(facts, JSON_COMPACT) : NULL;
        char *first = text_of_rank_0(mine, error);
        same = first && tn_ranks_agree(compare(first, facts, advice, error));
        free(first);
        free(mine);
    }
    json_decref(facts);
    return same;
}
