/* SPDX-License-Identifier: MIT */
/* What all threads together reach in the probes: the machine's limits in the minute of the measurement. */
#ifndef TN_CLI_BENCH_LIMITS_H
#define TN_CLI_BENCH_LIMITS_H

#include "tenon/tenon.h"

typedef struct tn_limits tn_limits;

/* Gets ready to probe with the instructions of a CPU level; `threads` at least 1. The caller owns *limits. */
tenon_status tn_limits_new(const char *level, int threads, tn_limits **limits, tenon_error *error);
void tn_limits_free(tn_limits *limits);

/* Multiply-adds in registers, GFLOP/s, and plain reads of more memory than caches hold, GB/s; 0 when a thread could not
 * be started. Each takes some ten milliseconds. */
double tn_limits_fma(const tn_limits *limits);
double tn_limits_read(const tn_limits *limits);

#endif
