/* SPDX-License-Identifier: MIT */
#include "train/schedule.h"

#include <math.h>

double tn_schedule_rate(const tn_schedule *schedule, int64_t step)
{
    const double pi = 3.14159265358979323846;
    if (step < schedule->warmup) return schedule->lr * (double)(step + 1) / (double)schedule->warmup;
    if (schedule->steps == 0) return schedule->lr;
    if (step >= schedule->steps) return schedule->floor;
    const double share = (double)(step - schedule->warmup) / (double)(schedule->steps - schedule->warmup);
    return schedule->floor + (schedule->lr - schedule->floor) * (1 + cos(pi * share)) / 2;
}
