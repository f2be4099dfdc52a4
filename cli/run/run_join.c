/* SPDX-License-Identifier: MIT */
/* What the ranks of a folder's run did together. */
#include "ranks.h"
#include "report.h"
#include "run.h"

#include <stdlib.h>

/* The seconds of a stage are the mean of the ranks. */
static void join_counts(tn_folder_result *result)
{
    tn_run_totals *t = &result->totals;
    double ranks = tn_ranks_count();
    double sums[] = {(double)t->images,       (double)t->tokens,       (double)result->done,
                     (double)result->skipped, t->read_seconds / ranks, t->compute_seconds / ranks,
                     t->write_seconds / ranks};
    tn_ranks_sum_doubles(sums, sizeof sums / sizeof *sums);
    t->images = (int64_t)sums[0];
    t->tokens = (int64_t)sums[1];
    t->read_seconds = sums[4];
    t->compute_seconds = sums[5];
    t->write_seconds = sums[6];
    result->done = (size_t)sums[2];
    result->skipped = (size_t)sums[3];
}

/* Each rank fills its part of an array of zeros, and the sum brings them together. */
static bool join_findings(tn_nonfinite found[TN_FINDINGS], tenon_error *error)
{
    enum { FIELDS = 6 };
    typedef double fields[TN_FINDINGS][FIELDS];
    const size_t ranks = (size_t)tn_ranks_count();
    fields *all = calloc(ranks, sizeof *all);
    if (!tn_ranks_agree(all != NULL)) {
        free(all);
        return tn_error(error, "out of memory");
    }
    for (int f = 0; f < TN_FINDINGS; f++) {
        const tn_nonfinite *own = &found[f];
        double *to = all[tn_ranks_index()][f];
        to[0] = (double)own->count, to[1] = (double)own->file, to[2] = (double)own->image;
        to[3] = (double)own->token, to[4] = (double)own->column, to[5] = own->value;
    }
    tn_ranks_sum_doubles(all[0][0], ranks * TN_FINDINGS * FIELDS);
    for (int f = 0; f < TN_FINDINGS; f++) {
        found[f] = (tn_nonfinite){.count = 0};
        for (size_t rank = 0; rank < ranks; rank++) {
            const double *of = all[rank][f];
            const tn_nonfinite one = {(int64_t)of[0], (size_t)of[1],  (int64_t)of[2],
                                      (int64_t)of[3], (int64_t)of[4], of[5]};
            tn_nonfinite_add(&found[f], &one);
        }
    }
    free(all);
    return true;
}

bool tn_join_results(tn_folder_result *result, tenon_error *error)
{
    join_counts(result);
    return join_findings(result->totals.found, error);
}
