/* SPDX-License-Identifier: MIT */
/* The threads that compute in run, fit and bench. They wait for work awake for a moment, then asleep: OpenMP's stay
 * awake for milliseconds, which takes the cores from the threads that read and write, and from other programs. */
#ifndef TN_CLI_POOL_H
#define TN_CLI_POOL_H

#include "tenon/tenon.h"

typedef struct tn_pool tn_pool;

/* Starts threads - 1 threads; whoever calls the executor is the last one. 0: as many as OMP_NUM_THREADS, or the cores,
 * say. On success the caller owns *pool. */
bool tn_pool_new(int threads, tn_pool **pool, tenon_error *error);
void tn_pool_free(tn_pool *pool);

/* For tenon_call, tenon_prepare_options and tenon_trainer_options, one call at a time. The pool keeps it. */
const tenon_executor *tn_pool_executor(const tn_pool *pool);

#endif
