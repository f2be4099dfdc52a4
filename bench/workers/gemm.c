/* SPDX-License-Identifier: MIT */
/* A BLAS as a contender: `bench_gemm LIBRARY` loads it and calls its CBLAS interface; see bench/run.py.
 *
 *   prepare m= n= k= copies=      run warm= count=      output path=
 *
 * The library gets the product without the bias, which BLAS has none of. One row is a matrix-vector product, where
 * libraries are faster by sgemv.
 */
#include "inputs.h"
#include "worker.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, MAX_COPIES = 64 };

typedef void (*sgemm_function)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                               int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef void (*sgemv_function)(int order, int trans, int m, int n, float alpha, const float *a, int lda, const float *x,
                               int incx, float beta, float *y, int incy);

static struct {
    sgemm_function sgemm;
    sgemv_function sgemv;
    int m, n, k;
    float *x, *y; /* [m, k], [m, n] */
    float *w[MAX_COPIES];
    int64_t copies, turn;
} s;

static void release(void)
{
    for (int64_t i = 0; i < s.copies; i++)
        free(s.w[i]);
    free(s.x);
    free(s.y);
    s.copies = 0;
    s.x = s.y = NULL;
}

static void prepare(const request *r)
{
    release();
    s.m = (int)request_int(r, "m", 1);
    s.n = (int)request_int(r, "n", 1);
    s.k = (int)request_int(r, "k", 1);
    const int64_t elements = (int64_t)s.n * s.k;
    s.x = worker_memory((size_t)s.m * (size_t)s.k * sizeof(float));
    s.y = worker_memory((size_t)s.m * (size_t)s.n * sizeof(float));
    inputs_fill(s.x, TN_F32, SEED_FEATURES, 1.0f, (int64_t)s.m * s.k);
    for (s.copies = 0; s.copies < request_int(r, "copies", 1) && s.copies < MAX_COPIES; s.copies++) {
        s.w[s.copies] = worker_large_memory((size_t)elements * sizeof(float));
        if (s.copies == 0) {
            inputs_fill(s.w[0], TN_F32, SEED_PARAMETERS, inputs_scale(s.k), elements);
        } else {
            memcpy(s.w[s.copies], s.w[0], (size_t)elements * sizeof(float));
        }
    }
    worker_ok("bias=0");
}

static void product(void *unused)
{
    (void)unused;
    const float *w = s.w[s.turn++ % s.copies];
    if (s.m == 1) {
        s.sgemv(ROW_MAJOR, NO_TRANS, s.n, s.k, 1.0f, w, s.k, s.x, 1, 0.0f, s.y, 1);
    } else {
        s.sgemm(ROW_MAJOR, NO_TRANS, TRANS, s.m, s.n, s.k, 1.0f, s.x, s.k, w, s.k, 0.0f, s.y, s.n);
    }
}

static void run(const request *r)
{
    if (s.copies == 0) {
        worker_fail("nothing is prepared");
    } else {
        worker_times(r, product, NULL);
    }
}

static void output(const request *r)
{
    product(NULL);
    worker_write(request_text(r, "path", ""), s.y, (size_t)s.m * (size_t)s.n * sizeof(float));
}

/* The version in the library's own words, without blanks. */
static void version(const request *r)
{
    (void)r;
    void *self = dlopen(NULL, RTLD_NOW);
    char *(*openblas)(void) = NULL, *(*blis)(void) = NULL;
    *(void **)&openblas = dlsym(self, "openblas_get_config");
    *(void **)&blis = dlsym(self, "bli_info_get_version_str");
    char text[256];
    snprintf(text, sizeof text, "%s", openblas != NULL ? openblas() : blis != NULL ? blis() : "unknown");
    for (char *c = text; *c != '\0'; c++) {
        if (*c == ' ') *c = '_';
    }
    worker_ok("version=%s", text);
}

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (library == NULL) {
        fprintf(stderr, "bench_gemm: %s\n", argc == 2 ? dlerror() : "usage: bench_gemm LIBRARY");
        return 2;
    }
    *(void **)&s.sgemm = dlsym(library, "cblas_sgemm");
    *(void **)&s.sgemv = dlsym(library, "cblas_sgemv");
    if (s.sgemm == NULL || s.sgemv == NULL) {
        fprintf(stderr, "bench_gemm: %s has no CBLAS interface\n", argv[1]);
        return 2;
    }
    return worker_serve((const worker_command[]){
        {"version", version}, {"prepare", prepare}, {"run", run}, {"output", output}, {NULL, NULL}});
}
