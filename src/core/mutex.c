/* SPDX-License-Identifier: MIT */
#include "core/mutex.h"

#include "core/error.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* ---- processes ---- */

static atomic_uint generation = 1;
static bool forks_are_seen;

static void count_fork(void)
{
    atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
}

/* The handler takes no lock, so that it cannot come into the way of those of others. */
__attribute__((constructor)) static void watch_forks(void)
{
    forks_are_seen = pthread_atfork(NULL, NULL, count_fork) == 0;
}

unsigned tn_process(void)
{
    return atomic_load_explicit(&generation, memory_order_relaxed);
}

bool tn_is_forked_child(void)
{
    return !forks_are_seen || tn_process() != 1;
}

/* ---- locks ---- */

struct tn_mutex {
    atomic_uint owner; /* the process whose thread holds it; 0: free */
};

tenon_status tn_mutex_new(tn_mutex **lock, tenon_error *error)
{
    tn_mutex *made = malloc(sizeof *made);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a lock cannot be made");
    atomic_init(&made->owner, 0);
    *lock = made;
    return TENON_OK;
}

void tn_mutex_free(tn_mutex *lock)
{
    free(lock);
}

void tn_nap(int turn)
{
    const long microseconds = turn < 10 ? 1L << turn : 1000;
    nanosleep(&(struct timespec){0, 1000 * microseconds}, NULL);
}

/* Takes it from nobody, or from a thread that this process does not have. */
static bool try_to_take(tn_mutex *lock, unsigned process)
{
    unsigned owner = atomic_load_explicit(&lock->owner, memory_order_relaxed);
    return owner != process && atomic_compare_exchange_strong_explicit(&lock->owner, &owner, process,
                                                                       memory_order_acquire, memory_order_relaxed);
}

void tn_mutex_acquire(tn_mutex *lock)
{
    enum { tries = 100 }; /* more than the few instructions of another take, unless that thread was interrupted */
    const unsigned process = tn_process();
    for (int turn = 0;; turn++) {
        for (int i = 0; i < tries; i++) {
            if (try_to_take(lock, process)) return;
        }
        tn_nap(turn);
    }
}

void tn_mutex_release(tn_mutex *lock)
{
    atomic_store_explicit(&lock->owner, 0, memory_order_release);
}

static tn_mutex global;

void tn_global_mutex_acquire(void)
{
    tn_mutex_acquire(&global);
}

void tn_global_mutex_release(void)
{
    tn_mutex_release(&global);
}
