/* SPDX-License-Identifier: MIT */
/* The line protocol of a contender; see worker.h. */
#include "worker.h"

#include "core/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *request_text(const request *r, const char *key, const char *fallback)
{
    for (int i = 0; i < r->count; i++) {
        if (strcmp(r->key[i], key) == 0) return r->value[i];
    }
    return fallback;
}

int64_t request_int(const request *r, const char *key, int64_t fallback)
{
    const char *text = request_text(r, key, NULL);
    return text != NULL ? strtoll(text, NULL, 10) : fallback;
}

static void answer(const char *kind, const char *format, va_list arguments)
{
    fputs(kind, stdout);
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout);
}

void worker_ok(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    answer("ok ", format, arguments);
    va_end(arguments);
}

void worker_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    answer("error ", format, arguments);
    va_end(arguments);
}

int64_t worker_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void worker_times(const request *r, void (*job)(void *argument), void *argument)
{
    static int64_t times[WORKER_MAX_TIMES];
    const int64_t warm = request_int(r, "warm", 1), count = request_int(r, "count", 1);
    if (count < 1 || count > WORKER_MAX_TIMES) {
        worker_fail("count is 1 to %d", WORKER_MAX_TIMES);
        return;
    }
    for (int64_t i = 0; i < warm; i++)
        job(argument);
    for (int64_t i = 0; i < count; i++) {
        const int64_t start = worker_now();
        job(argument);
        times[i] = worker_now() - start;
    }
    fputs("ok ns=", stdout);
    for (int64_t i = 0; i < count; i++)
        printf("%s%lld", i > 0 ? "," : "", (long long)times[i]);
    putchar('\n');
    fflush(stdout);
}

enum { PAGE = 4096 };

static void *got(void *data, size_t bytes)
{
    if (data == NULL) {
        fprintf(stderr, "bench worker: cannot have %zu bytes\n", bytes);
        exit(1);
    }
    return data;
}

void *worker_memory(size_t bytes)
{
    return got(aligned_alloc(PAGE, (bytes + PAGE) / PAGE * PAGE), bytes);
}

void *worker_large_memory(size_t bytes)
{
    return got(tn_system_allocator.alloc(NULL, bytes + PAGE, PAGE), bytes);
}

void worker_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    bool good = file != NULL && fwrite(data, 1, bytes, file) == bytes;
    good = file != NULL && fclose(file) == 0 && good;
    if (good) {
        worker_ok("bytes=%zu", bytes);
    } else {
        worker_fail("cannot write %s: %s", path, strerror(errno));
    }
}

/* Cuts the line into its words in place. */
static request parse(char *line)
{
    request r = {"", 0, {NULL}, {NULL}};
    char *rest, *word = strtok_r(line, " \n", &rest);
    if (word != NULL) r.name = word;
    while (word != NULL && (word = strtok_r(NULL, " \n", &rest)) != NULL && r.count < WORKER_MAX_PAIRS) {
        char *equals = strchr(word, '=');
        if (equals == NULL) continue;
        *equals = '\0';
        r.key[r.count] = word;
        r.value[r.count++] = equals + 1;
    }
    return r;
}

int worker_serve(const worker_command *commands)
{
    static char line[4096];
    while (fgets(line, sizeof line, stdin) != NULL) {
        const request r = parse(line);
        const worker_command *c = commands;
        while (c->name != NULL && strcmp(c->name, r.name) != 0)
            c++;
        if (c->name != NULL) {
            c->run(&r);
        } else {
            worker_fail("no request is called %s", r.name);
        }
    }
    return 0;
}
