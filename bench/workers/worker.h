/* SPDX-License-Identifier: MIT */
/* A contender of bench/run.py: a process that reads one request a line and answers each with one line.
 *
 *   request   NAME key=value key=value ...
 *   answer    ok key=value ...        or        error SENTENCE
 *
 * Requests and keys keep their meaning, as `bench/run.py --against` asks the contenders of other commits too. New keys
 * may be added, with a default that is what was done before.
 *
 * A contender keeps what it prepared from one request to the next; the driver stops the process (SIGSTOP) while others
 * run. Times are nanoseconds of the monotonic clock, comma-separated.
 */
#ifndef BENCH_WORKER_H
#define BENCH_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WORKER_MAX_PAIRS = 32, WORKER_MAX_TIMES = 512 };

typedef struct request {
    const char *name;
    int count;
    const char *key[WORKER_MAX_PAIRS];
    const char *value[WORKER_MAX_PAIRS];
} request;

/* The value of a key, or the fallback. */
const char *request_text(const request *r, const char *key, const char *fallback);
int64_t request_int(const request *r, const char *key, int64_t fallback);

/* One request's answer. Each answers exactly once: it calls worker_ok, worker_times or worker_fail. */
typedef struct worker_command {
    const char *name;
    void (*run)(const request *r);
} worker_command;

/* Serves requests until the input ends; `commands` ends with a NULL name. Returns the exit code. */
int worker_serve(const worker_command *commands);

void worker_ok(const char *format, ...) __attribute__((format(printf, 1, 2)));
void worker_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Runs the job `warm` times, then `count` times against the clock (both from the request), and answers with ns=... */
void worker_times(const request *r, void (*job)(void *argument), void *argument);

int64_t worker_now(void);

/* Memory as callers have it, aligned to a page; or the end of the process. For free(). */
void *worker_memory(size_t bytes);

/* The same as a library at its best keeps what is its own, weights and workspaces: in large pages where the system has
 * them. Every contender's weights lie in such. */
void *worker_large_memory(size_t bytes);

/* Writes raw bytes as a file and answers. */
void worker_write(const char *path, const void *data, size_t bytes);

#endif
