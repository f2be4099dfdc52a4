/* SPDX-License-Identifier: MIT */
/* What the machine can do at most, on any number of threads; see bench/run.py.
 *
 *   level name=avx2                             which probes to use (the level that ours was prepared for)
 *   run kind=fma_f32|fma_f64|read threads=T     rate=... in GFLOP/s or GB/s, one for each of count= repetitions
 *   spin seconds=S                              is busy for that long
 */
#include "probe.h"
#include "core/parallel.h"
#include "worker.h"

#include <stdio.h>
#include <string.h>

enum { steps = 4000000, pieces = 64 }; /* about 5 ms of multiply-adds */

static const tn_probe *probe = &tn_probe_portable;
static float *buffer;
static size_t buffer_floats, piece_floats;
static int64_t turn;

typedef struct job {
    const char *kind;
    tn_parallel parallel;
    double work; /* operations or bytes */
} job;

static void task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const job *j = argument;
    if (strcmp(j->kind, "fma_f32") == 0) {
        probe->fma_f32(steps);
    } else if (strcmp(j->kind, "fma_f64") == 0) {
        probe->fma_f64(steps);
    } else {
        const size_t start = (size_t)((turn * pieces + index) * (int64_t)piece_floats) % buffer_floats;
        volatile float sum = probe->read(buffer + start, (int64_t)piece_floats);
        (void)sum;
    }
}

/* The buffer is larger than any cache and read piece by piece, so that no piece is there from the last time. */
static void make_buffer(void)
{
    enum { mib = 1 << 20 };
    if (buffer != NULL) return;
    buffer_floats = (size_t)512 * mib / sizeof *buffer;
    piece_floats = (size_t)mib / sizeof *buffer;
    buffer = worker_large_memory(buffer_floats * sizeof *buffer);
    for (size_t i = 0; i < buffer_floats; i++)
        buffer[i] = 1e-9f * (float)(i & 1023);
}

static double once(job *j)
{
    const bool reads = strcmp(j->kind, "read") == 0;
    const int count = reads ? pieces : j->parallel.workers;
    const int64_t start = worker_now();
    tn_parallel_for(&j->parallel, count, task, j);
    const double seconds = 1e-9 * (double)(worker_now() - start);
    turn++;
    if (reads) return 1e-9 * pieces * (double)(piece_floats * sizeof *buffer) / seconds;
    const double work = strcmp(j->kind, "fma_f64") == 0 ? probe->fma_f64(1) : probe->fma_f32(1);
    return 1e-9 * work * steps * count / seconds;
}

static void run(const request *r)
{
    job j = {request_text(r, "kind", "fma_f32"), {0, NULL}, 0};
    double rate[WORKER_MAX_TIMES];
    const int64_t count = request_int(r, "count", 1);
    if (count < 1 || count > WORKER_MAX_TIMES ||
        tn_parallel_init(&j.parallel, (int)request_int(r, "threads", 0), NULL, NULL) != TENON_OK) {
        worker_fail("run: bad count or threads");
        return;
    }
    if (strcmp(j.kind, "read") == 0) make_buffer();
    for (int64_t i = 0; i < request_int(r, "warm", 1); i++)
        once(&j);
    for (int64_t i = 0; i < count; i++)
        rate[i] = once(&j);
    fputs("ok rate=", stdout);
    for (int64_t i = 0; i < count; i++)
        printf("%s%.6g", i > 0 ? "," : "", rate[i]);
    putchar('\n');
    fflush(stdout);
}

static void level(const request *r)
{
    probe = tn_probe_find(request_text(r, "name", ""));
    worker_ok("probe=%s", probe->level);
}

static void spin(const request *r)
{
    const int64_t end = worker_now() + request_int(r, "seconds", 1) * 1000000000;
    while (worker_now() < end)
        probe->fma_f32(1000);
    worker_ok("done=1");
}

int main(void)
{
    return worker_serve((const worker_command[]){{"level", level}, {"run", run}, {"spin", spin}, {NULL, NULL}});
}
