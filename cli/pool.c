/* SPDX-License-Identifier: MIT */
/* Rounds of jobs. Each thread has a seat, with the job of its number: from round to round it meets what is in its own
 * caches. Who is done takes the seats of those who have not woken up yet, so that nobody waits for a thread that has no
 * core. */
#include "pool.h"

#include "progress.h"
#include "report.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* How long a thread looks for the next round before it sleeps. Waking up takes about as long. */
static const double MOMENT = 50e-6;

/* A number that changes, and those who sleep until it does. */
typedef struct gate {
    _Alignas(64) atomic_uint_fast64_t round;
    atomic_int sleepers;
    pthread_cond_t changed;
} gate;

/* The job of a seat: 2 r while it is to be taken in round r, 2 r + 1 when it is taken. */
typedef struct seat {
    _Alignas(64) atomic_uint_fast64_t state;
    tn_pool *pool;
    pthread_t thread;
} seat;

struct tn_pool {
    tenon_executor executor;
    gate begun, finished;
    pthread_mutex_t lock; /* of sleeping and waking */
    seat *seats;          /* [executor.width]; the first is the caller's */
    int started;          /* threads, from seat 1 on */
    atomic_bool stopped;
    /* The round at hand. Valid for whoever has taken one of its jobs, as it cannot end before that job has. */
    void (*_Atomic job)(void *argument, int index);
    void *_Atomic argument;
    atomic_int count;
    atomic_int unfinished;
};

/* ---- waiting ---- */

static bool changes_soon(const gate *g, uint_fast64_t round)
{
    const double until = tn_seconds() + MOMENT;
    do {
        for (int i = 0; i < 20; i++)
            if (atomic_load_explicit(&g->round, memory_order_acquire) != round) return true;
    } while (tn_seconds() < until);
    return false;
}

static void wait_for_change(tn_pool *pool, gate *g, uint_fast64_t round)
{
    if (changes_soon(g, round)) return;
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->round) == round)
        pthread_cond_wait(&g->changed, &pool->lock);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void change(tn_pool *pool, gate *g, uint_fast64_t round)
{
    atomic_store(&g->round, round);
    if (atomic_load(&g->sleepers) == 0) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- jobs ---- */

/* Those of this round that nobody has taken, one's own first. Where the round has ended meanwhile there is none: its
 * seats are taken, or belong to a later round. */
static void take_jobs(tn_pool *pool, uint_fast64_t round, int own)
{
    void (*job)(void *, int) = atomic_load_explicit(&pool->job, memory_order_relaxed);
    void *argument = atomic_load_explicit(&pool->argument, memory_order_relaxed);
    const int count = atomic_load_explicit(&pool->count, memory_order_relaxed);
    for (int i = 0; i < count; i++) {
        const int index = (own + i) % count;
        uint_fast64_t open = 2 * round;
        if (!atomic_compare_exchange_strong(&pool->seats[index].state, &open, open + 1)) continue;
        job(argument, index);
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1) change(pool, &pool->finished, round);
    }
}

static void *serve(void *argument)
{
    seat *own = argument;
    tn_pool *pool = own->pool;
    for (uint_fast64_t round = 0;;) {
        wait_for_change(pool, &pool->begun, round);
        round = atomic_load(&pool->begun.round);
        if (atomic_load(&pool->stopped)) return NULL;
        take_jobs(pool, round, (int)(own - pool->seats));
    }
}

static void run(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    tn_pool *pool = context;
    for (; count > pool->executor.width; count--) /* more jobs than seats: what the library does not ask for */
        job(argument, count - 1);
    const uint_fast64_t round = atomic_load_explicit(&pool->begun.round, memory_order_relaxed) + 1;
    atomic_store_explicit(&pool->job, job, memory_order_relaxed);
    atomic_store_explicit(&pool->argument, argument, memory_order_relaxed);
    atomic_store_explicit(&pool->count, count, memory_order_relaxed);
    atomic_store_explicit(&pool->unfinished, count, memory_order_relaxed);
    for (int i = 0; i < count; i++)
        atomic_store_explicit(&pool->seats[i].state, 2 * round, memory_order_release);
    change(pool, &pool->begun, round);
    take_jobs(pool, round, 0);
    wait_for_change(pool, &pool->finished, round - 1);
}

/* ---- the pool ---- */

static bool start_threads(tn_pool *pool, int threads, tenon_error *error)
{
    for (int i = 1; i < threads; i++, pool->started++) {
        pool->seats[i].pool = pool;
        const int code = pthread_create(&pool->seats[i].thread, NULL, serve, &pool->seats[i]);
        if (code != 0)
            return tn_error(error, "cannot start %d threads: %s; choose fewer with --threads", threads, strerror(code));
    }
    return true;
}

static void set_up_gate(gate *g)
{
    atomic_init(&g->round, 0);
    atomic_init(&g->sleepers, 0);
    pthread_cond_init(&g->changed, NULL);
}

bool tn_pool_new(int threads, tn_pool **pool, tenon_error *error)
{
    if (threads == 0 && tenon_num_threads(&threads, error) != TENON_OK) return false;
    tn_pool *made = aligned_alloc(_Alignof(tn_pool), sizeof *made);
    seat *seats = aligned_alloc(_Alignof(seat), (size_t)threads * sizeof *seats);
    if (!made || !seats) {
        free(made);
        free(seats);
        return tn_error(error, "out of memory");
    }
    memset(made, 0, sizeof *made);
    memset(seats, 0, (size_t)threads * sizeof *seats);
    tenon_executor_init(&made->executor);
    made->executor.width = threads;
    made->executor.run = run;
    made->executor.context = made;
    made->seats = seats;
    pthread_mutex_init(&made->lock, NULL);
    set_up_gate(&made->begun);
    set_up_gate(&made->finished);
    if (!start_threads(made, threads, error)) {
        tn_pool_free(made);
        return false;
    }
    *pool = made;
    return true;
}

void tn_pool_free(tn_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->stopped, true);
    change(pool, &pool->begun, atomic_load(&pool->begun.round) + 1);
    for (int i = 1; i <= pool->started; i++)
        pthread_join(pool->seats[i].thread, NULL);
    pthread_cond_destroy(&pool->begun.changed);
    pthread_cond_destroy(&pool->finished.changed);
    pthread_mutex_destroy(&pool->lock);
    free(pool->seats);
    free(pool);
}

const tenon_executor *tn_pool_executor(const tn_pool *pool)
{
    return &pool->executor;
}
