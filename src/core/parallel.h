/* SPDX-License-Identifier: MIT */
/* All threading of the library: queues of tasks over OpenMP, a caller's executor, or one thread. */
#ifndef TN_CORE_PARALLEL_H
#define TN_CORE_PARALLEL_H

#include "tenon/tenon.h"
#include <fenv.h>

/* How the tasks of one call are run. `workers` bounds how many run at once: scratch is sized by it. */
typedef struct tn_parallel {
    int workers;
    const tenon_executor *executor; /* NULL: OpenMP */
} tn_parallel;

/* `threads` 0: as many as the executor offers, without one as tenon_num_threads says. One worker where threads cannot
 * be had: a build without OpenMP, or a forked child (libgomp does not survive a fork). */
tenon_status tn_parallel_init(tn_parallel *parallel, int threads, const tenon_executor *executor, tenon_error *error);

/* Calls task(argument, i, worker) once for each i in [0, count), with worker in [0, parallel->workers); returns when
 * all are done. Each worker begins with neighbours, the same ones in every call with as many tasks, and then helps the
 * others with theirs. Tasks run with round-to-nearest and denormals on; the caller's floating-point state is given
 * back. Tasks never wait for each other. */
typedef void (*tn_task)(void *argument, int64_t index, int worker);
void tn_parallel_for(const tn_parallel *parallel, int64_t count, tn_task task, void *argument);

/* The caller's floating-point state, put aside while the library computes with round-to-nearest and denormals on. */
typedef struct tn_environment {
    fenv_t callers;
} tn_environment;
void tn_environment_enter(tn_environment *environment);
void tn_environment_leave(const tn_environment *environment);

/* "OpenMP" or "serial". */
const char *tn_parallel_kind(void);

#endif
