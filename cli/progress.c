/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 24 };

double tn_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void draw(tn_progress *progress, double now)
{
    double share = progress->total ? (double)progress->done / (double)progress->total : 1;
    double elapsed = now - progress->started;
    double rate = elapsed > 0 ? (double)progress->done / elapsed : 0;
    double left = rate > 0 ? (double)(progress->total - progress->done) / rate : 0;
    int64_t seconds = left < 359999 ? (int64_t)(left + 0.5) : 359999;
    char bar[BAR + 1];
    for (int i = 0; i < BAR; i++)
        bar[i] = i < (int)(share * BAR) ? '#' : '.';
    bar[BAR] = 0;
    fprintf(stderr, "\r%s %3d%%  %" PRId64 "/%" PRId64 " images  %.1f/s", bar, (int)(share * 100), progress->done,
            progress->total, rate);
    if (rate > 0)
        fprintf(stderr, "  %" PRId64 ":%02d:%02d left", seconds / 3600, (int)(seconds / 60 % 60), (int)(seconds % 60));
    fprintf(stderr, "\033[K");
    fflush(stderr);
    progress->drawn = now;
}

void tn_progress_start(tn_progress *progress, int64_t total)
{
    double now = tn_seconds();
    *progress = (tn_progress){.shown = isatty(STDERR_FILENO) != 0, .total = total, .started = now};
    if (progress->shown) draw(progress, now);
}

void tn_progress_add(tn_progress *progress, int64_t images)
{
    progress->done += images;
    if (!progress->shown) return;
    double now = tn_seconds();
    if (now - progress->drawn >= 0.1 || progress->done == progress->total) draw(progress, now);
}

void tn_progress_end(tn_progress *progress)
{
    if (progress->shown) fprintf(stderr, "\r\033[K");
    progress->shown = false;
}
