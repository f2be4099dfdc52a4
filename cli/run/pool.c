/* SPDX-License-Identifier: MIT */
#include "pool.h"

#include "report.h"

#include <pthread.h>
#include <stdlib.h>

struct tn_pool {
    tenon_executor executor;
    pthread_t *threads;
    int num_threads;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t begun;
    pthread_cond_t done;
    void (*job)(void *argument, int index);
    void *argument;
    int next; /* of `count` jobs */
    int count;
    int unfinished;
    bool stopped;
};

/* Takes jobs until there is none. The lock is held before and after, not during a job. */
static void take_jobs(tn_pool *pool)
{
    while (pool->next < pool->count) {
        int index = pool->next++;
        pthread_mutex_unlock(&pool->lock);
        pool->job(pool->argument, index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->unfinished == 0) pthread_cond_signal(&pool->done);
    }
}

static void *serve(void *argument)
{
    tn_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    while (!pool->stopped) {
        take_jobs(pool);
        if (!pool->stopped) pthread_cond_wait(&pool->begun, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* A thread that wakes late finds its job taken by one that is done with its own. */
static void run(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    tn_pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    pool->job = job;
    pool->argument = argument;
    pool->next = 0;
    pool->count = pool->unfinished = count;
    pthread_cond_broadcast(&pool->begun);
    take_jobs(pool);
    while (pool->unfinished > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static bool start_threads(tn_pool *pool, int threads, tenon_error *error)
{
    pool->threads = calloc((size_t)threads, sizeof *pool->threads);
    if (!pool->threads) return tn_error(error, "out of memory");
    while (pool->num_threads < threads - 1) {
        if (pthread_create(&pool->threads[pool->num_threads], NULL, serve, pool) != 0)
            return tn_error(error, "cannot start %d threads; choose fewer with --threads", threads);
        pool->num_threads++;
    }
    return true;
}

bool tn_pool_new(int threads, tn_pool **pool, tenon_error *error)
{
    tn_pool *made = calloc(1, sizeof *made);
    if (!made) return tn_error(error, "out of memory");
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->begun, NULL);
    pthread_cond_init(&made->done, NULL);
    tenon_executor_init(&made->executor);
    made->executor.width = threads;
    made->executor.run = run;
    made->executor.context = made;
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
    pthread_mutex_lock(&pool->lock);
    pool->stopped = true;
    pthread_cond_broadcast(&pool->begun);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->num_threads; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->begun);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    free(pool);
}

const tenon_executor *tn_pool_executor(const tn_pool *pool)
{
    return &pool->executor;
}
