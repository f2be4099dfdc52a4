/* SPDX-License-Identifier: MIT */
/* The processes that run one command together: this one alone, or those that mpirun started, where tenon was built with
 * -DTENON_MPI=ON. One source for each (ranks_alone.c, ranks_mpi.c); nothing else knows of MPI. Every call but the first
 * three is made by all ranks at once. */
#ifndef TN_CLI_RANKS_H
#define TN_CLI_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Joins the others. Called before any thread is made; tn_ranks_end leaves them. */
void tn_ranks_start(void);
int tn_ranks_index(void); /* 0 .. count - 1; rank 0 speaks and writes */
int tn_ranks_count(void);
void tn_ranks_end(void);

/* data[i] becomes the sum over the ranks, added up in the order of the ranks, on all of them; 0 when it is done. It is
 * what tenon_trainer_options.sum asks for. */
int tn_ranks_sum(void *context, float *data, size_t count);

/* The same for a few doubles. */
void tn_ranks_sum_doubles(double *values, size_t count);

/* `data` of rank 0 for all of them. */
void tn_ranks_broadcast(void *data, size_t bytes);

/* The lowest rank on which something failed; -1: nowhere. */
int tn_ranks_first_failure(bool failed);

/* The largest of the ranks' values. */
int tn_ranks_max(int value);

/* Nowhere did it fail: what every rank asks before it goes on to what it does with the others. */
static inline bool tn_ranks_agree(bool good)
{
    return tn_ranks_first_failure(!good) < 0;
}

/* For `tenon --version`: "one process" or "MPI". */
const char *tn_ranks_kind(void);

#endif
