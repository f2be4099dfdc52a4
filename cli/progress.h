/* SPDX-License-Identifier: MIT */
/* A progress bar on a terminal: share, images, rate, time left. Nothing anywhere else. */
#ifndef TN_CLI_PROGRESS_H
#define TN_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tn_progress {
    bool shown;
    int64_t total;
    int64_t done;
    double started;
    double drawn;
} tn_progress;

/* Seconds of a clock that only goes forward. */
double tn_seconds(void);

void tn_progress_start(tn_progress *progress, int64_t total);
void tn_progress_add(tn_progress *progress, int64_t images);

/* Wipes the bar, so that what is printed next has a clean line. */
void tn_progress_end(tn_progress *progress);

#endif
