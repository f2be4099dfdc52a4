/* SPDX-License-Identifier: MIT */
/* The only file that knows about threads and the floating-point environment. */
#include "core/parallel.h"

#include "core/error.h"
#include "core/lock.h"
#include "core/size.h"
#include "core/versioned.h"
#include <stdatomic.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static int openmp_threads(int threads)
{
#ifdef _OPENMP
    if (tn_is_forked_child()) return 1;
    return threads > 0 ? threads : omp_get_max_threads();
#else
    (void)threads;
    return 1;
#endif
}

int tenon_num_threads(void)
{
    return openmp_threads(0);
}

void tenon_executor_init(tenon_executor *executor)
{
    *executor = (tenon_executor){.size = sizeof *executor, .width = 1};
}

tenon_status tn_parallel_init(tn_parallel *parallel, int threads, const tenon_executor *executor, tenon_error *error)
{
    enum { max_workers = 4096 };
    if (threads < 0 || threads > max_workers) {
        return tn_fail(error, TENON_INVALID, "threads is %d; expected 0 (automatic) to %d", threads, max_workers);
    }
    if (executor == NULL) {
        *parallel = (tn_parallel){openmp_threads(threads), NULL};
        return TENON_OK;
    }
    if (executor->size < TN_FIRST_SIZE(tenon_executor, context) || executor->run == NULL || executor->width < 1 ||
        executor->width > max_workers) {
        return tn_fail(error, TENON_INVALID, "an executor needs its size, a run function and a width of 1 to %d",
                       max_workers);
    }
    const int workers = threads > 0 && threads < executor->width ? threads : executor->width;
    *parallel = (tn_parallel){workers, executor};
    return TENON_OK;
}

void tn_environment_enter(tn_environment *environment)
{
    fegetenv(&environment->callers);
    fesetenv(FE_DFL_ENV);
}

void tn_environment_leave(const tn_environment *environment)
{
    fesetenv(&environment->callers);
}

/* Indices that are taken one after another; on a cache line of its own. */
typedef struct queue {
    _Alignas(64) _Atomic(int64_t) next;
    int64_t end;
} queue;

/* One parallel loop. Each worker has a queue of neighbours, so that from call to call, and from op to op, it meets what
 * is in its own caches already; when that is done it helps with the others. */
enum { most_queues = 64 };

typedef struct loop {
    tn_task task;
    void *argument;
    int num_queues;
    queue queues[most_queues];
} loop;

static void work(void *argument, int worker)
{
    loop *l = argument;
    tn_environment environment;
    tn_environment_enter(&environment);
    for (int i = 0; i < l->num_queues; i++) {
        queue *q = &l->queues[(worker + i) % l->num_queues];
        for (;;) {
            const int64_t index = atomic_fetch_add_explicit(&q->next, 1, memory_order_relaxed);
            if (index >= q->end) break;
            l->task(l->argument, index, worker);
        }
    }
    tn_environment_leave(&environment);
}

static void run_openmp(loop *l, int workers)
{
#ifdef _OPENMP
#pragma omp parallel num_threads(workers)
    work(l, omp_get_thread_num());
#else
    (void)workers;
    work(l, 0);
#endif
}

void tn_parallel_for(const tn_parallel *parallel, int64_t count, tn_task task, void *argument)
{
    if (count <= 0) return;
    const int workers = (int)tn_min_i64(parallel->workers, count);
    loop l;
    l.task = task;
    l.argument = argument;
    l.num_queues = (int)tn_min_i64(workers, most_queues);
    for (int i = 0; i < l.num_queues; i++) {
        const int64_t each = count / l.num_queues, more = count % l.num_queues;
        atomic_init(&l.queues[i].next, i * each + tn_min_i64(i, more));
        l.queues[i].end = (i + 1) * each + tn_min_i64(i + 1, more);
    }
    if (workers == 1) {
        work(&l, 0);
    } else if (parallel->executor != NULL) {
        parallel->executor->run(parallel->executor->context, workers, work, &l);
    } else {
        run_openmp(&l, workers);
    }
}

const char *tn_parallel_kind(void)
{
#ifdef _OPENMP
    return "OpenMP";
#else
    return "serial";
#endif
}
