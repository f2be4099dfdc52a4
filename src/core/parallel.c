/* SPDX-License-Identifier: MIT */
/* The only file that knows about threads and the floating-point environment. */
#include "core/parallel.h"

#include "core/error.h"
#include "core/mutex.h"
#include "core/quota.h"
#include "core/size.h"
#include "core/versioned.h"
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { max_workers = 4096 };

/* ---- how many threads ---- */

#ifdef _OPENMP
static const char variable[] = "OMP_NUM_THREADS";

/* Whether the value is a number from 1 to max_workers. Behind a comma OpenMP expects those of nested regions. */
static bool is_valid(const char *value)
{
    int64_t number = 0;
    value += strspn(value, " \t");
    for (; *value >= '0' && *value <= '9' && number <= max_workers; value++)
        number = 10 * number + (*value - '0');
    value += strspn(value, " \t");
    return number >= 1 && number <= max_workers && (*value == 0 || *value == ',');
}

/* The most threads that a call takes unasked: INT_MAX where OMP_NUM_THREADS says how many, 0 where it says nonsense,
 * else the cores that this process may use. Found once: OpenMP too reads its variables once, and files are slow to
 * read. */
static int most_threads(void)
{
    static atomic_int found = -1;
    int most = found;
    if (most >= 0) return most;
    const char *value = getenv(variable);
    if (value != NULL && value[0] != 0) {
        most = is_valid(value) ? INT_MAX : 0;
    } else {
        const int64_t quota = tn_cpu_quota("");
        most = omp_get_num_procs();
        if (quota > 0 && quota < most) most = (int)quota;
    }
    found = most;
    return most;
}

static bool has_openmp(void)
{
    return !tn_is_forked_child();
}

/* Every call comes by here, prepare first: a forward, which does not allocate, finds the files read. */
static void learn_most_threads(void)
{
    if (has_openmp()) (void)most_threads();
}

static tenon_status openmp_threads(int *threads, tenon_error *error)
{
    const int most = most_threads();
    if (most == 0) {
        const char *value = getenv(variable);
        return tn_fail(error, TENON_INVALID, "the environment variable %s is '%s'; expected a number from 1 to %d",
                       variable, tn_quote(value != NULL ? value : "").text, max_workers);
    }
    const int64_t found = tn_min_i64(tn_min_i64(omp_get_max_threads(), most), max_workers);
    *threads = found >= 1 ? (int)found : 1;
    return TENON_OK;
}
#else
static bool has_openmp(void)
{
    return false;
}

static void learn_most_threads(void)
{
}

static tenon_status openmp_threads(int *threads, tenon_error *error)
{
    (void)error;
    *threads = 1;
    return TENON_OK;
}
#endif

tenon_status tenon_num_threads(int *threads, tenon_error *error)
{
    if (has_openmp()) return openmp_threads(threads, error);
    *threads = 1;
    return TENON_OK;
}

void tenon_executor_init(tenon_executor *executor)
{
    *executor = (tenon_executor){.size = sizeof *executor, .width = 1};
}

tenon_status tn_parallel_init(tn_parallel *parallel, int threads, const tenon_executor *executor, tenon_error *error)
{
    learn_most_threads();
    if (threads < 0 || threads > max_workers) {
        return tn_fail(error, TENON_INVALID, "`threads` is %d; expected 0 (automatic) to %d", threads, max_workers);
    }
    if (executor == NULL) {
        int workers = threads;
        if (threads == 0 || !has_openmp()) TN_TRY(tenon_num_threads(&workers, error));
        *parallel = (tn_parallel){workers, NULL};
        return TENON_OK;
    }
    if (executor->size < TN_FIRST_SIZE(tenon_executor, context)) {
        return tn_fail(error, TENON_INVALID, "the executor has a size of %zu bytes; call tenon_executor_init first",
                       executor->size);
    }
    if (executor->run == NULL) return tn_fail(error, TENON_INVALID, "the executor has no run function");
    if (executor->width < 1 || executor->width > max_workers) {
        return tn_fail(error, TENON_INVALID, "the executor has a width of %d jobs at once; expected 1 to %d",
                       executor->width, max_workers);
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
