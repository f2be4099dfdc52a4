/* SPDX-License-Identifier: MIT */
/* How far a run is, on standard error: a bar on a terminal, as wide as the terminal allows; elsewhere, and on a
 * terminal that cannot erase a line (TERM=dumb), a line every half minute. The environment variable TENON_PROGRESS has
 * the seconds between lines; 0: none, and no bar. */
#ifndef TN_CLI_PROGRESS_H
#define TN_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Zero-initialised: nothing is shown. */
typedef struct tn_progress {
    enum { TN_PROGRESS_NONE, TN_PROGRESS_BAR, TN_PROGRESS_LINES } kind;
    const char *unit; /* "images" */
    int64_t total;
    int64_t done;
    int64_t first; /* done before this process began */
    double interval;
    double started;
    double shown;
} tn_progress;

/* Seconds of a clock that only goes forward. */
double tn_seconds(void);

/* `done` of `total` units are done already. */
void tn_progress_start(tn_progress *progress, const char *unit, int64_t done, int64_t total);

void tn_progress_add(tn_progress *progress, int64_t more);

/* Goes to `done`, with a remark, the most important first: "loss 0.1  gradient 2". */
void tn_progress_set(tn_progress *progress, int64_t done, const char *remark);

/* Wipes the bar, so that what is printed next has a clean line. */
void tn_progress_end(tn_progress *progress);

#endif
