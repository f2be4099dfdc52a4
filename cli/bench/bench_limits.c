/* SPDX-License-Identifier: MIT */
/* The probes on all threads; see bench_limits.h. */
#include "bench_limits.h"

#include "probe.h"
#include "progress.h"
#include "report.h"

#include <pthread.h>
#include <stdlib.h>

enum { FMA_STEPS = 8 << 20, READ_FLOATS = 64 << 20 }; /* tens of milliseconds; 256 MiB */

struct tn_limits {
    const tn_probe *probe;
    int threads;
    float *buffer; /* [READ_FLOATS] */
};

/* One thread's part of a probe. */
typedef struct part {
    pthread_t thread;
    const tn_limits *limits;
    bool reads;
    int index;
    double work; /* operations or bytes */
    double started;
    double ended;
} part;

tenon_status tn_limits_new(const char *level, int threads, tn_limits **limits, tenon_error *error)
{
    tn_limits *made = calloc(1, sizeof *made);
    float *buffer = malloc(READ_FLOATS * sizeof *buffer);
    if (!made || !buffer) {
        free(made);
        free(buffer);
        tn_error(error, "out of memory: the probe of the memory's speed reads 256 MiB");
        return TENON_NO_MEMORY;
    }
    /* Not zeros: they could all be one page. */
    for (int64_t i = 0; i < READ_FLOATS; i++)
        buffer[i] = (float)(i & 1023);
    *made = (tn_limits){tn_probe_find(level), threads, buffer};
    *limits = made;
    return TENON_OK;
}

void tn_limits_free(tn_limits *limits)
{
    if (!limits) return;
    free(limits->buffer);
    free(limits);
}

static void *run_part(void *argument)
{
    part *p = argument;
    const tn_limits *limits = p->limits;
    p->started = tn_seconds();
    if (p->reads) {
        int64_t each = READ_FLOATS / limits->threads / 64 * 64;
        volatile float sum = limits->probe->read(limits->buffer + p->index * each, each);
        (void)sum;
        p->work = (double)each * (double)sizeof(float);
    } else {
        p->work = limits->probe->fma_f32(FMA_STEPS);
    }
    p->ended = tn_seconds();
    return NULL;
}

/* The rates of threads that ran at the same time add up; how long starting them took does not count. */
static double probe_all(const tn_limits *limits, bool reads)
{
    part *parts = calloc((size_t)limits->threads, sizeof *parts);
    double rate = 0;
    int started = 0;
    for (; parts && started < limits->threads; started++) {
        parts[started] = (part){.limits = limits, .reads = reads, .index = started};
        if (pthread_create(&parts[started].thread, NULL, run_part, &parts[started]) != 0) break;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(parts[i].thread, NULL);
        rate += 1e-9 * parts[i].work / (parts[i].ended - parts[i].started);
    }
    free(parts);
    return started == limits->threads ? rate : 0;
}

double tn_limits_fma(const tn_limits *limits)
{
    return probe_all(limits, false);
}

double tn_limits_read(const tn_limits *limits)
{
    return probe_all(limits, true);
}
