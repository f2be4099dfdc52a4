/* SPDX-License-Identifier: MIT */
/* Reads the images of the coming batches on a thread of its own while this step computes: two batches are in memory,
 * one being used and one being read. Batches come in the order in which the run needs them; where shards differ in
 * shape a micro-batch comes in pieces, each of one shape. */
#include "fit.h"
#include "ranks.h"
#include "report.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 2 };

typedef struct slot {
    int64_t *images; /* [batch] of the micro-batch */
    tn_fit_batch batch;
} slot;

struct tn_fit_reader {
    tn_fit *fit;
    slot slots[SLOTS];
    pthread_t thread;
    bool started;
    int64_t turn;         /* the micro-batch being read, counted from the start of the run */
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    int64_t read, used; /* batches handed over, and given back */
    bool stopped, failed;
    tenon_error error;
};

/* The images of a micro-batch of this rank: the ranks' shares lie one behind the other, so that K ranks with batch b
 * see in each step what one rank with batch K b sees. */
void tn_fit_pick(const tn_fit *fit, int64_t turn, int64_t *images)
{
    const int64_t batch = fit->given->batch;
    const int64_t first = (turn * tn_ranks_count() + tn_ranks_index()) * batch;
    for (int64_t i = 0; i < batch; i++)
        images[i] = tn_fit_data_next(fit->data, first + i);
}

/* A slot that is free; NULL: the run ends. */
static slot *wait_for_slot(tn_fit_reader *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->stopped && r->read - r->used >= SLOTS)
        pthread_cond_wait(&r->changed, &r->lock);
    slot *found = r->stopped ? NULL : &r->slots[r->read % SLOTS];
    pthread_mutex_unlock(&r->lock);
    return found;
}

static void hand_over(tn_fit_reader *r, const tenon_error *error)
{
    pthread_mutex_lock(&r->lock);
    if (error) {
        r->failed = true;
        r->error = *error;
    } else {
        r->read++;
    }
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void *read_ahead(void *argument)
{
    tn_fit_reader *r = argument;
    const int64_t batch = r->fit->given->batch, turns = r->fit->steps * r->fit->given->accumulate;
    tenon_error error;
    for (; r->turn < turns; r->turn++) {
        for (int64_t done = 0; done < batch;) {
            slot *s = wait_for_slot(r);
            if (!s) return NULL;
            tn_fit_pick(r->fit, r->turn, s->images);
            if (!tn_fit_data_read(r->fit->data, s->images + done, batch - done, &s->batch, &error)) {
                hand_over(r, &error);
                return NULL;
            }
            done += s->batch.count;
            hand_over(r, NULL);
        }
    }
    return NULL;
}

bool tn_fit_reader_start(tn_fit *fit, tn_fit_reader **reader, tenon_error *error)
{
    tn_fit_reader *made = calloc(1, sizeof *made);
    if (!made) return tn_error(error, "out of memory");
    made->fit = fit;
    made->turn = fit->state.done * fit->given->accumulate;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, NULL);
    bool good = true;
    for (int i = 0; i < SLOTS; i++) {
        made->slots[i].images = malloc((size_t)fit->given->batch * sizeof *made->slots[i].images);
        good = good && made->slots[i].images;
    }
    if (!good)
        tn_error(error, "out of memory for a batch of %" PRId64 " images; give a smaller --batch", fit->given->batch);
    const int reason = good ? pthread_create(&made->thread, NULL, read_ahead, made) : 0;
    made->started = good && reason == 0;
    if (reason != 0) good = tn_error(error, "cannot start a thread that reads: %s", strerror(reason));
    if (good)
        *reader = made;
    else
        tn_fit_reader_stop(made);
    return good;
}

const tn_fit_batch *tn_fit_reader_next(tn_fit_reader *reader, tenon_error *error)
{
    pthread_mutex_lock(&reader->lock);
    while (!reader->failed && reader->read == reader->used)
        pthread_cond_wait(&reader->changed, &reader->lock);
    /* What was read before a failure is used first. */
    const bool good = reader->read > reader->used;
    if (!good) *error = reader->error;
    pthread_mutex_unlock(&reader->lock);
    return good ? &reader->slots[reader->used % SLOTS].batch : NULL;
}

void tn_fit_reader_give_back(tn_fit_reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    reader->used++;
    pthread_cond_broadcast(&reader->changed);
    pthread_mutex_unlock(&reader->lock);
}

void tn_fit_reader_stop(tn_fit_reader *reader)
{
    if (!reader) return;
    pthread_mutex_lock(&reader->lock);
    reader->stopped = true;
    pthread_cond_broadcast(&reader->changed);
    pthread_mutex_unlock(&reader->lock);
    if (reader->started) pthread_join(reader->thread, NULL);
    for (int i = 0; i < SLOTS; i++) {
        free(reader->slots[i].images);
        tn_fit_batch_free(&reader->slots[i].batch);
    }
    pthread_cond_destroy(&reader->changed);
    pthread_mutex_destroy(&reader->lock);
    free(reader);
}
