/* SPDX-License-Identifier: MIT */
/* Threads that compute while others read and write: OpenMP's spin while they wait for each other, which takes the core
 * from a thread that has something to copy; these sleep. */
#ifndef TN_CLI_POOL_H
#define TN_CLI_POOL_H

#include "tenon/tenon.h"

typedef struct tn_pool tn_pool;

/* Starts threads - 1 threads; whoever calls the executor is the last one. On success the caller owns *pool. */
bool tn_pool_new(int threads, tn_pool **pool, tenon_error *error);
void tn_pool_free(tn_pool *pool);

/* For tenon_call and tenon_prepare_options, one call at a time. The pool keeps it. */
const tenon_executor *tn_pool_executor(const tn_pool *pool);

#endif
