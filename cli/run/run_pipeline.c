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
    tn_run_job *job;
    int64_t count; /* images */
    bool is_first; /* of its job */
    bool is_last;
    tn_buffer parts[TN_ROLES]; /* [count, elements of one image] */
    tn_buffer mask_rows;       /* whole rows of a (clips, frames) mask around the chunk */
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
    int64_t images;
    int64_t tokens;
    tn_buffer workspace;                /* of the computing stage */
    tn_hasher *hashers[TN_INPUT_ROLES]; /* of the reading stage */
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

/* Keeps the first error. A reader that fails lets the chunks before finish their jobs; the others stop everyone. */
static void fail(pipeline *p, stage at, const tenon_error *error)
{
    pthread_mutex_lock(&p->lock);
    if (!p->failed) p->error = *error;
    p->failed = true;
    if (at != READ) p->stopped = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* ---- sizes ---- */

/* Bytes of one image in each part; false when they cannot be counted. */
static bool image_bytes(const tn_run_setup *setup, const tn_run_job *job, size_t bytes[TN_ROLES], tenon_error *error)
{
    size_t attention;
    bool past = false;
    memset(bytes, 0, TN_ROLES * sizeof *bytes);
    past |= __builtin_mul_overflow((size_t)job->tokens_in, (size_t)setup->in_dim, &bytes[TN_FEATURES]);
    past |= __builtin_mul_overflow(bytes[TN_FEATURES], job->dtype.bits / 8u, &bytes[TN_FEATURES]);
    past |= __builtin_mul_overflow((size_t)job->tokens_out, (size_t)setup->out_dim, &bytes[TN_TOKENS]);
    past |= __builtin_mul_overflow(bytes[TN_TOKENS], tenon_dtype_size(setup->dtype), &bytes[TN_TOKENS]);
    past |= __builtin_mul_overflow((size_t)job->tokens_out, (size_t)setup->heads, &attention);
    past |= __builtin_mul_overflow(attention, (size_t)setup->window_area, &attention);
    past |= __builtin_mul_overflow(attention, sizeof(float), &attention);
    if (job->paths[TN_ATTENTION]) bytes[TN_ATTENTION] = attention;
    if (job->paths[TN_FRAME_MASK]) bytes[TN_FRAME_MASK] = 1;
    if (job->paths[TN_PATCH_MASK]) bytes[TN_PATCH_MASK] = (size_t)(job->tokens_in - setup->prefix_tokens);
    if (!past) return true;
    return tn_error(error, "%s: one image of it, or its tokens, is larger than this machine can address",
                    job->paths[TN_FEATURES]);
}

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
    const tn_run_job *job = s->job;
    unsigned char *mask = s->parts[TN_FRAME_MASK].data;
    int64_t row = first / job->clip;
    int64_t rows = (first + s->count + job->clip - 1) / job->clip - row;
    size_t bytes = (size_t)rows * (size_t)job->clip;
    if (!tn_buffer_grow(&s->mask_rows, bytes, error)) return false;
    if (tenon_file_read(job->inputs[TN_FRAME_MASK], job->tensors[TN_FRAME_MASK], row, rows, s->mask_rows.data, bytes,
                        error) != TENON_OK)
        return false;
    memcpy(mask, (unsigned char *)s->mask_rows.data + (first - row * job->clip), (size_t)s->count);
    return true;
}

/* `count` slices of `bytes` bytes from the slice `first` on, hashed piece by piece while a piece is in the cache. */
static bool read_slices(pipeline *p, slot *s, tn_role role, int64_t first, int64_t count, size_t bytes,
                        tenon_error *error)
{
    const tn_run_job *job = s->job;
    int64_t step = bytes < piece_bytes ? (int64_t)(piece_bytes / bytes) : 1;
    for (int64_t done = 0; done < count; done += step) {
        int64_t slices = count - done < step ? count - done : step;
        char *data = (char *)s->parts[role].data + (size_t)done * bytes;
        if (tenon_file_read(job->inputs[role], job->tensors[role], first + done, slices, data, (size_t)slices * bytes,
                            error) != TENON_OK)
            return false;
        tn_hasher_add(p->hashers[role], data, (size_t)slices * bytes);
    }
    return true;
}

/* The chunk's part of an input; `bytes` are an image's. */
static bool read_part(pipeline *p, slot *s, tn_role role, int64_t first, size_t bytes, tenon_error *error)
{
    const tn_run_job *job = s->job;
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (bytes == 0) return true;
    if (role == TN_FRAME_MASK) {
        if (!read_frame_mask(s, first, error)) return false;
        tn_hasher_add(p->hashers[role], s->parts[role].data, (size_t)s->count);
        return true;
    }
    if (tenon_file_get_tensor(job->inputs[role], job->tensors[role], &tensor, error) != TENON_OK) return false;
    /* Without a batch axis the slices along the first axis are the tokens of the one image. */
    bool whole = job->is_one_image && (role == TN_FEATURES || tensor.ndim == 1);
    if (!whole) return read_slices(p, s, role, first, s->count, bytes, error);
    return read_slices(p, s, role, 0, tensor.shape[0], bytes / (size_t)tensor.shape[0], error);
}

static bool read_chunk(pipeline *p, slot *s, int64_t first, const size_t bytes[TN_ROLES], tenon_error *error)
{
    double started = tn_seconds();
    bool good = true;
    for (int role = 0; good && role < TN_ROLES; role++)
        if (s->job->paths[role]) good = tn_buffer_grow(&s->parts[role], bytes[role] * (size_t)s->count, error);
    for (int role = 0; good && role < TN_INPUT_ROLES; role++)
        if (s->job->paths[role] && s->count) good = read_part(p, s, (tn_role)role, first, bytes[role], error);
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

/* All chunks of a job; a job without images is one empty chunk. False: failed, or told to stop. */
static bool read_job(pipeline *p, tn_run_job *job, tenon_error *error)
{
    size_t bytes[TN_ROLES];
    error->message[0] = 0;
    if (!tn_job_open(job, p->setup, error) || !image_bytes(p->setup, job, bytes, error) ||
        !start_input_hashes(p, job, error))
        return false;
    int64_t step = images_of_chunk(bytes, job->images);
    int64_t first = 0;
    do {
        slot *s = take(p, READ);
        if (!s) return false;
        s->job = job;
        s->count = job->images - first < step ? job->images - first : step;
        s->is_first = first == 0;
        s->is_last = first + s->count == job->images;
        if (!read_chunk(p, s, first, bytes, error)) return false;
        first += s->count;
        if (s->is_last) finish_input_hashes(p, job);
        pass(p, READ);
    } while (first < job->images);
    return true;
}

static void *read_all(void *argument)
{
    pipeline *p = argument;
    tenon_error error;
    for (size_t i = 0; i < p->num_jobs; i++) {
        if (read_job(p, &p->jobs[i], &error)) continue;
        if (error.message[0]) fail(p, READ, &error);
        break;
    }
    close_stage(p, READ);
    return NULL;
}

/* ---- compute ---- */

static DLTensor tensor_of(void *data, DLDataType dtype, int ndim, int64_t *shape)
{
    return (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = ndim, .dtype = dtype, .shape = shape};
}

static bool compute_chunk(pipeline *p, slot *s, tenon_error *error)
{
    const tn_run_setup *setup = p->setup;
    const tn_run_job *job = s->job;
    const DLDataType byte = {kDLUInt, 8, 1}, f32 = {kDLFloat, 32, 1};
    int64_t x_shape[] = {s->count, job->tokens_in, setup->in_dim};
    int64_t y_shape[] = {s->count, job->tokens_out, setup->out_dim};
    int64_t mask_shape[] = {s->count, job->tokens_in - setup->prefix_tokens};
    int64_t attention_shape[] = {s->count, job->tokens_out, setup->heads, setup->window_area};
    DLTensor x = tensor_of(s->parts[TN_FEATURES].data, job->dtype, 3, x_shape);
    DLTensor y = tensor_of(s->parts[TN_TOKENS].data, tenon_dtype_to_dlpack(setup->dtype), 3, y_shape);
    DLTensor frame_mask = tensor_of(s->parts[TN_FRAME_MASK].data, byte, 1, mask_shape);
    DLTensor patch_mask = tensor_of(s->parts[TN_PATCH_MASK].data, byte, 2, mask_shape);
    DLTensor attention = tensor_of(s->parts[TN_ATTENTION].data, f32, 4, attention_shape);
    tenon_call call = setup->call;
    size_t bytes;
    if (job->paths[TN_FRAME_MASK]) call.frame_mask = &frame_mask;
    if (job->paths[TN_PATCH_MASK]) call.patch_mask = &patch_mask;
    if (job->paths[TN_ATTENTION]) call.attention = &attention;
    if (tenon_adapter_workspace_size(setup->adapter, job->tokens_in, &call, &bytes, error) != TENON_OK) return false;
    if (!tn_buffer_grow(&p->workspace, bytes, error)) return false;
    tenon_workspace workspace = {p->workspace.data, p->workspace.size};
    return tenon_adapter_forward(setup->adapter, &x, &y, &call, &workspace, error) == TENON_OK;
}

static bool compute_next(pipeline *p, slot *s, tenon_error *error)
{
    tenon_error reason;
    if (tn_interrupt_signal()) return tn_error(error, "interrupted");
    double started = tn_seconds();
    bool good = s->count == 0 || compute_chunk(p, s, &reason);
    p->seconds[COMPUTE] += tn_seconds() - started;
    if (!good) return tn_error(error, "%s: %.3000s", s->job->paths[TN_FEATURES], reason.message);
    p->images += s->count;
    p->tokens += s->count * s->job->tokens_out;
    tn_progress_add(p->setup->progress, s->count);
    return true;
}

static void compute_all(pipeline *p)
{
    tenon_error error;
    slot *s;
    while ((s = take(p, COMPUTE))) {
        if (!compute_next(p, s, &error)) {
            fail(p, COMPUTE, &error);
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

static bool write_chunk(pipeline *p, slot *s, tn_run_outputs *outputs, tenon_error *error)
{
    size_t bytes[TN_ROLES];
    double started = tn_seconds();
    bool good = image_bytes(p->setup, s->job, bytes, error);
    if (good && s->is_first) good = tn_outputs_begin(p->setup, s->job, outputs, error);
    for (int role = TN_TOKENS; good && role < TN_ROLES; role++) {
        size_t size = bytes[role] * (size_t)s->count;
        if (size) good = tn_outputs_write(outputs, (tn_role)role, s->parts[role].data, size, error);
    }
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
        if (!write_chunk(p, s, outputs, &error)) {
            fail(p, WRITE, &error);
            break;
        }
        if (s->is_last) {
            tn_job_close(s->job);
            complete_outputs(p);
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

static void *commit_all(void *argument)
{
    pipeline *p = argument;
    tenon_error error;
    tn_run_outputs *outputs;
    while ((outputs = take_complete(p))) {
        double started = tn_seconds();
        bool good = tn_outputs_commit(p->setup, outputs, &error);
        tn_outputs_free(outputs);
        p->seconds[COMMIT] += tn_seconds() - started;
        if (!good) {
            fail(p, COMMIT, &error);
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
            tn_buffer_free(&p->slots[i].parts[role]);
        tn_buffer_free(&p->slots[i].mask_rows);
    }
    for (size_t i = 0; i < p->num_jobs; i++)
        tn_job_close(&p->jobs[i]);
    tn_buffer_free(&p->workspace);
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
        fail(p, COMPUTE, &error);
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
    *totals = (tn_run_totals){p->images, p->tokens, p->seconds[READ], p->seconds[COMPUTE],
                              p->seconds[WRITE] + p->seconds[COMMIT]};
    release(p);
    free(p);
    return !failed;
}
