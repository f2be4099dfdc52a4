/* SPDX-License-Identifier: MIT */
/* The learning rate over the steps s = 0, 1, ...: a linear warm-up, then half a cosine down to a floor.
 *
 *     s < warmup:           lr (s + 1) / warmup
 *     warmup <= s < steps:  floor + (lr - floor) (1 + cos(pi (s - warmup) / (steps - warmup))) / 2
 *     s >= steps:           floor
 */
#ifndef TN_TRAIN_SCHEDULE_H
#define TN_TRAIN_SCHEDULE_H

#include <stdint.h>

typedef struct tn_schedule {
    double lr;
    double floor;
    int64_t warmup;
    int64_t steps; /* 0: no decay, the rate stays lr after the warm-up */
} tn_schedule;

double tn_schedule_rate(const tn_schedule *schedule, int64_t step);

#endif
