/* SPDX-License-Identifier: MIT */
/* Features through the adapter in stages that overlap: a thread reads, this one computes, a thread writes, and one
 * waits for the disk. Chunks of whole images pass from stage to stage in a ring of slots, so memory is bounded by the
 * slots whatever the input:
 *
 *     read --> slots[passed[READ] % SLOTS] --> compute --> write --> free again
 *                                                            |
 *                                             outputs[complete % OUTPUTS] --> commit
 *
 * Chunks keep their order; one chunk belongs to one job, and a job's last chunk carries its end. Then its outputs go to
 * the disk and get their names, while the next job is written. */
#include "buffer.h"
#include "interrupt.h"
#include "report.h"
#include "run.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 3, OUTPUTS = 4 };

/* Features and tokens of one chunk: about as many as a forward takes at once, so that cutting a shard into chunks costs
 * little. A single image may be larger. */
static const size_t chunk_bytes = (size_t)36 << 20;

/* Read at once and then hashed. */
static const size_t piece_bytes = (size_t)1 << 20;

typedef enum stage { READ, COMPUTE, WRITE, COMMIT, STAGES } stage;

typedef struct slot {
    tn_run_chunk chunk;
    bool is_first; /* of its job */
    bool is_last;
    bool is_suspect;     /* something in the features is not finite, whether it is read or not */
    char *problem;       /* with which a stage gives the job up; NULL: none */
    tn_buffer mask_rows; /* whole rows of a (clips, frames) mask around the chunk */
} slot;

typedef struct pipeline {
    const tn_run_setup *setup;
    tn_run_job *jobs;
    size_t num_jobs;
    slot slots[SLOTS];
    pthread_mutex_t lock; /* of what follows, up to the blank line */
    pthread_cond_t changed;
    int64_t passed[STAGES]; /* chunks that a stage has handed on; COMMIT: jobs */
    int64_t complete;       /* jobs whose outputs are written */
    bool closed[STAGES];    /* the stage hands on no more */
    bool stopped;           /* everyone gives up */
    bool failed;
    tenon_error error;

    double seconds[STAGES];
    tn_run_totals totals;               /* of the committing stage: but for the seconds */
    tn_buffer workspace;                /* of the computing stage */
    tn_hasher *hashers[TN_INPUT_ROLES]; /* of the reading stage */
    tn_chunk_memory memory;             /* of the writing stage */
    tn_run_outputs outputs[OUTPUTS];    /* of the writing stage until they are complete, then of the committing one */
} pipeline;

/* ---- the ring ---- */

/* The next slot for a stage; NULL when there will be none. */
static slot *take(pipeline *p, stage at)
{
    slot *found = NULL;
    pthread_mutex_lock(&p->lock);
    while (!p->stopped) {
        bool ready = at == READ ? p->passed[READ] - p->passed[WRITE] < SLOTS : p->passed[at] < p->passed[at - 1];
        if (ready) {
            found = &p->slots[p->passed[at] % SLOTS];
            break;
        }
        if (at != READ && p->closed[at - 1]) break;
        pthread_cond_wait(&p->changed, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return found;
}

static void pass(pipeline *p, stage at)
{
    pthread_mutex_lock(&p->lock);
    p->passed[at]++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void close_stage(pipeline *p, stage at)
{
    pthread_mutex_lock(&p->lock);
    p->closed[at] = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* Keeps the first error and stops everyone. */
static void fail(pipeline *p, const tenon_error *error)
{
    pthread_mutex_lock(&p->lock);
    if (!p->failed) p->error = *error;
    p->failed = p->stopped = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* Gives up the slot's job; the writing stage, where the slot comes last, drops what there is of it. */
static bool give_up(pipeline *p, slot *s, const tenon_error *error)
{
    if (!s->problem && !(s->problem = strdup(error->message))) fail(p, error);
    return s->problem != NULL;
}

/* ---- sizes ---- */

/* The smallest number of images whose tokens fill whole blocks of the disk. */
static int64_t images_of_blocks(size_t bytes)
{
    int64_t images = 1;
    while (images < 4096 && bytes * (size_t)images % 4096 != 0)
        images *= 2;
    return images;
}

/* Images of a chunk: as many as fit and about as many in each chunk of the job, so that every chunk but the last ends
 * with a block where that can be. */
static int64_t images_of_chunk(const size_t bytes[TN_ROLES], int64_t images)
{
    size_t sum = 1;
    for (int role = 0; role < TN_ROLES; role++) {
        if (bytes[role] >= chunk_bytes) return 1;
        sum += bytes[role];
    }
    int64_t most = sum < chunk_bytes ? (int64_t)(chunk_bytes / sum) : 1;
    if (images <= most) return most;
    int64_t chunks = images / most + (images % most != 0);
    int64_t even = images / chunks + (images % chunks != 0);
    int64_t unit = images_of_blocks(bytes[TN_TOKENS]);
    int64_t rounded = (even + unit - 1) / unit * unit;
    if (rounded > most) rounded = most / unit * unit;
    return rounded > 0 ? rounded : even;
}

/* ---- read ---- */

/* Images [first, first + count) of a frame mask of any rank, as one byte each. */
static bool read_frame_mask(slot *s, int64_t first, tenon_error *error)
{
    const tn_run_job *job = s->chunk.job;
    unsigned char *mask = s->chunk.parts[TN_FRAME_MASK].data;
    int64_t row = first / job->clip;
    int64_t rows = (first + s->chunk.count + job->clip - 1) / job->clip - row;
    size_t bytes = (size_t)rows * (size_t)job->clip;
    if (!tn_buffer_grow(&s->mask_rows, bytes, error)) return false;
    if (tenon_file_read(job->inputs[TN_FRAME_MASK], job->tensors[TN_FRAME_MASK], row, rows, s->mask_rows.data, bytes,
                        error) != TENON_OK)
        return false;
    memcpy(mask, (unsigned char *)s->mask_rows.data + (first - row * job->clip), (size_t)s->chunk.count);
    return true;
}

/* `count` slices of `bytes` bytes from the slice `first` on, hashed piece by piece while a piece is in the cache. */
static bool read_slices(pipeline *p, slot *s, tn_role role, int64_t first, int64_t count, size_t bytes,
                        tenon_error *error)
{
    const tn_run_job *job = s->chunk.job;
    int64_t step = bytes < piece_bytes ? (int64_t)(piece_bytes / bytes) : 1;
    for (int64_t done = 0; done < count; done += step) {
        int64_t slices = count - done < step ? count - done : step;
        char *data = (char *)s->chunk.parts[role].data + (size_t)done * bytes;
        if (tenon_file_read(job->inputs[role], job->tensors[role], first + done, slices, data, (size_t)slices * bytes,
                            error) != TENON_OK)
            return false;
        if (role == TN_FEATURES && !tn_all_finite(data, job->dtype, (size_t)slices * bytes)) s->is_suspect = true;
        tn_hasher_add(p->hashers[role], data, (size_t)slices * bytes);
    }
    return true;
}

/* The chunk's part of an input. */
static bool read_part(pipeline *p, slot *s, tn_role role, tenon_error *error)
{
    const tn_run_chunk *chunk = &s->chunk;
    const tn_run_job *job = chunk->job;
    const size_t bytes = job->bytes[role];
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (bytes == 0) return true;
    if (role == TN_FRAME_MASK) {
        if (!read_frame_mask(s, chunk->first, error)) return false;
        tn_hasher_add(p->hashers[role], chunk->parts[role].data, (size_t)chunk->count);
        return true;
    }
    if (tenon_file_get_tensor(job->inputs[role], job->tensors[role], &tensor, error) != TENON_OK) return false;
    /* Without a batch axis the slices along the first axis are the tokens of the one image. */
    bool whole = job->is_one_image && (role == TN_FEATURES || tensor.ndim == 1);
    if (!whole) return read_slices(p, s, role, chunk->first, chunk->count, bytes, error);
    return read_slices(p, s, role, 0, tensor.shape[0], bytes / (size_t)tensor.shape[0], error);
}

static bool read_chunk(pipeline *p, slot *s, tenon_error *error)
{
    tn_run_chunk *chunk = &s->chunk;
    double started = tn_seconds();
    bool good = true;
    s->is_suspect = false;
    for (int role = 0; good && role < TN_ROLES; role++)
        if (chunk->job->paths[role])
            good = tn_buffer_grow(&chunk->parts[role], chunk->job->bytes[role] * (size_t)chunk->count, error);
    for (int role = 0; good && role < TN_INPUT_ROLES; role++)
        if (chunk->job->paths[role] && chunk->count) good = read_part(p, s, (tn_role)role, error);
    if (good && s->is_suspect) good = tn_chunk_check_features(p->setup, chunk, error);
    p->seconds[READ] += tn_seconds() - started;
    return good;
}

static bool start_input_hashes(pipeline *p, const tn_run_job *job, tenon_error *error)
{
    for (int role = 0; p->setup->hashes && role < TN_INPUT_ROLES; role++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (!job->inputs[role]) continue;
        if (tenon_file_get_tensor(job->inputs[role], job->tensors[role], &tensor, error) != TENON_OK) return false;
        p->hashers[role] = tn_hasher_new(tensor.ndim, tensor.shape);
        if (!p->hashers[role]) return tn_error(error, "out of memory while hashing %s", job->paths[role]);
    }
    return true;
}

static void finish_input_hashes(pipeline *p, tn_run_job *job)
{
    for (int role = 0; role < TN_INPUT_ROLES; role++) {
        tn_hasher_finish(p->hashers[role], job->hashes[role]);
        p->hashers[role] = NULL;
    }
}

/* All chunks of a job; a job without images is one empty chunk. False: failed, or, without a message, told to stop. */
static bool read_job(pipeline *p, tn_run_job *job, tenon_error *error)
{
    error->message[0] = 0;
    if (!tn_job_open(job, p->setup, error) || !start_input_hashes(p, job, error)) return false;
    int64_t step = images_of_chunk(job->bytes, job->images);
    int64_t first = 0;
    do {
        slot *s = take(p, READ);
        if (!s) return false;
        s->chunk.job = job;
        s->chunk.first = first;
        s->chunk.count = job->images - first < step ? job->images - first : step;
        s->is_first = first == 0;
        s->is_last = first + s->chunk.count == job->images;
        if (!read_chunk(p, s, error)) return false;
        first += s->chunk.count;
        if (s->is_last) finish_input_hashes(p, job);
        pass(p, READ);
    } while (first < job->images);
    return true;
}

/* Hands on that the job cannot be read. False: told to stop. */
static bool give_up_reading(pipeline *p, tn_run_job *job, const tenon_error *error)
{
    finish_input_hashes(p, job);
    slot *s = error->message[0] ? take(p, READ) : NULL;
    if (!s) return false;
    s->chunk.job = job;
    s->chunk.count = 0;
    s->is_first = false;
    s->is_last = true;
    if (!give_up(p, s, error)) return false;
    pass(p, READ);
    return true;
}

static void *read_all(void *argument)
{
    pipeline *p = argument;
    tenon_error error;
    bool good = true;
    for (size_t i = 0; good && i < p->num_jobs; i++)
        good = read_job(p, &p->jobs[i], &error) || give_up_reading(p, &p->jobs[i], &error);
    close_stage(p, READ);
    return NULL;
}

/* ---- compute ---- */

/* *given_up: the job that the chunk before belonged to, if it could not be computed. */
static bool compute_next(pipeline *p, slot *s, const tn_run_job **given_up, tenon_error *error)
{
    const tn_run_chunk *chunk = &s->chunk;
    const tn_chunk_target to = {0, chunk->count, chunk->parts[TN_TOKENS].data, p->setup->dtype, false};
    tenon_error reason;
    if (tn_interrupt_signal()) return tn_error(error, "interrupted");
    double started = tn_seconds();
    bool good =
        chunk->count == 0 || chunk->job == *given_up || tn_chunk_forward(p->setup, chunk, &to, &p->workspace, &reason);
    p->seconds[COMPUTE] += tn_seconds() - started;
    tn_progress_add(p->setup->progress, chunk->count);
    if (good) return true;
    *given_up = chunk->job;
    tn_error(error, "%s: %.3000s", chunk->job->paths[TN_FEATURES], reason.message);
    return give_up(p, s, error);
}

static void compute_all(pipeline *p)
{
    const tn_run_job *given_up = NULL;
    tenon_error error;
    slot *s;
    while ((s = take(p, COMPUTE))) {
        if (!compute_next(p, s, &given_up, &error)) {
            fail(p, &error);
            break;
        }
        pass(p, COMPUTE);
    }
    close_stage(p, COMPUTE);
}

/* ---- write ---- */

/* The outputs of the job being written, once an earlier job has left them; NULL when everyone gives up. */
static tn_run_outputs *current_outputs(pipeline *p)
{
    tn_run_outputs *found = NULL;
    pthread_mutex_lock(&p->lock);
    while (!p->stopped && p->complete - p->passed[COMMIT] == OUTPUTS)
        pthread_cond_wait(&p->changed, &p->lock);
    if (!p->stopped) found = &p->outputs[p->complete % OUTPUTS];
    pthread_mutex_unlock(&p->lock);
    return found;
}

static void complete_outputs(pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    p->complete++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* False: the disk cannot take them. *all_finite is of the tokens. */
static bool write_chunk(pipeline *p, slot *s, tn_run_outputs *outputs, bool *all_finite, tenon_error *error)
{
    const tn_run_chunk *chunk = &s->chunk;
    bool unused;
    *all_finite = true;
    if (s->is_first && !tn_outputs_begin(p->setup, chunk->job, outputs, error)) return false;
    for (int role = TN_TOKENS; role < TN_ROLES; role++) {
        const size_t size = chunk->job->bytes[role] * (size_t)chunk->count;
        bool *finite = role == TN_TOKENS ? all_finite : &unused;
        if (size && !tn_outputs_write(outputs, p->setup, (tn_role)role, chunk->parts[role].data, size, finite, error))
            return false;
    }
    return true;
}

/* Writes the chunk, unless its job is given up: then what was written of it goes. */
static bool write_next(pipeline *p, slot *s, tn_run_outputs *outputs, tenon_error *error)
{
    tn_run_job *job = s->chunk.job;
    double started = tn_seconds();
    bool all_finite = true, good = true;
    if (!s->problem && !job->problem) good = write_chunk(p, s, outputs, &all_finite, error);
    if (good && !all_finite && !tn_chunk_check_tokens(p->setup, &s->chunk, &p->memory, error))
        good = give_up(p, s, error);
    if (good && s->problem && !job->problem) {
        tn_outputs_free(outputs);
        job->problem = s->problem;
        s->problem = NULL;
    }
    free(s->problem);
    s->problem = NULL;
    p->seconds[WRITE] += tn_seconds() - started;
    return good;
}

static void *write_all(void *argument)
{
    pipeline *p = argument;
    tenon_error error;
    tn_run_outputs *outputs;
    slot *s;
    while ((s = take(p, WRITE)) && (outputs = current_outputs(p))) {
        if (!write_next(p, s, outputs, &error)) {
            fail(p, &error);
            break;
        }
        if (s->is_last) {
            tn_job_close(s->chunk.job);
            if (!s->chunk.job->problem) complete_outputs(p);
        }
        pass(p, WRITE);
    }
    close_stage(p, WRITE);
    return NULL;
}

/* ---- commit ---- */

/* The outputs of the next complete job; NULL when there will be none. What is complete is kept whatever has failed. */
static tn_run_outputs *take_complete(pipeline *p)
{
    tn_run_outputs *found = NULL;
    pthread_mutex_lock(&p->lock);
    while (p->passed[COMMIT] == p->complete && !p->closed[WRITE])
        pthread_cond_wait(&p->changed, &p->lock);
    if (p->passed[COMMIT] < p->complete) found = &p->outputs[p->passed[COMMIT] % OUTPUTS];
    pthread_mutex_unlock(&p->lock);
    return found;
}

static void add_to_totals(tn_run_totals *totals, const tn_run_job *job)
{
    totals->images += job->images;
    totals->tokens += job->tokens;
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        tn_nonfinite_add(&totals->found[finding], &job->found[finding]);
}

static void *commit_all(void *argument)
{
    pipeline *p = argument;
    tenon_error error;
    tn_run_outputs *outputs;
    while ((outputs = take_complete(p))) {
        double started = tn_seconds();
        bool good = tn_outputs_commit(p->setup, outputs, &error);
        if (good) add_to_totals(&p->totals, outputs->job);
        tn_outputs_free(outputs);
        p->seconds[COMMIT] += tn_seconds() - started;
        if (!good) {
            fail(p, &error);
            break;
        }
        pass(p, COMMIT);
    }
    return NULL;
}

/* ---- the whole ---- */

static void release(pipeline *p)
{
    for (int role = 0; role < TN_INPUT_ROLES; role++) {
        char unused[TN_HASH_SIZE];
        tn_hasher_finish(p->hashers[role], unused);
    }
    for (int i = 0; i < OUTPUTS; i++)
        tn_outputs_free(&p->outputs[i]);
    for (int i = 0; i < SLOTS; i++) {
        for (int role = 0; role < TN_ROLES; role++)
            tn_buffer_free(&p->slots[i].chunk.parts[role]);
        tn_buffer_free(&p->slots[i].mask_rows);
        free(p->slots[i].problem);
    }
    for (size_t i = 0; i < p->num_jobs; i++)
        tn_job_close(&p->jobs[i]);
    tn_buffer_free(&p->workspace);
    tn_buffer_free(&p->memory.tokens);
    tn_buffer_free(&p->memory.workspace);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
}

/* The other stages on threads of their own; this thread computes. */
static void run_stages(pipeline *p)
{
    static void *(*const stages[])(void *) = {read_all, write_all, commit_all};
    enum { COUNT = sizeof stages / sizeof *stages };
    pthread_t threads[COUNT];
    int started = 0;
    while (started < COUNT && pthread_create(&threads[started], NULL, stages[started], p) == 0)
        started++;
    if (started == COUNT) {
        compute_all(p);
    } else {
        tenon_error error;
        tn_error(&error, "cannot start the threads that read and write");
        fail(p, &error);
        close_stage(p, COMPUTE);
    }
    while (started > 0)
        pthread_join(threads[--started], NULL);
}

bool tn_pipeline_run(const tn_run_setup *setup, tn_run_job *jobs, size_t count, tn_run_totals *totals,
                     tenon_error *error)
{
    pipeline *p = calloc(1, sizeof *p);
    if (!p) return tn_error(error, "out of memory");
    p->setup = setup;
    p->jobs = jobs;
    p->num_jobs = count;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    run_stages(p);
    bool failed = p->failed;
    if (failed) *error = p->error;
    *totals = p->totals;
    totals->read_seconds = p->seconds[READ];
    totals->compute_seconds = p->seconds[COMPUTE];
    totals->write_seconds = p->seconds[WRITE] + p->seconds[COMMIT];
    release(p);
    free(p);
    return !failed;
}
