/* SPDX-License-Identifier: MIT */
/* How fast the ops are, as a share of what the machine can do.
 *
 *   bench_ops [threads [level [repetitions]]]
 *
 * Contenders alternate, because machines change speed within a minute: compare figures of one line. Shown are the best
 * repetition, its share of the best multiply-add probe, and the median, all in GFLOP/s; for one to four rows, where
 * memory is the limit and weights are rotated so that no cache holds them, also GB/s and the share of the read probe.
 */
#include "core/dtype.h"
#include "core/memory.h"
#include "core/rng.h"
#include "core/size.h"
#include "ops/ops.h"
#include "probe.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef BENCH_BLAS
#include <cblas.h>
void openblas_set_num_threads(int threads);
#endif

enum { most_repetitions = 101, most_copies = 16, num_dtypes = 3 };
enum { contenders = num_dtypes + 2 }; /* products of each dtype, BLAS, f32 with GELU */
static const tn_dtype dtypes[num_dtypes] = {TN_F32, TN_BF16, TN_F16};
static const char *const dtype_names[num_dtypes] = {"f32", "bf16", "f16"};

/* On one thread processor time, which other processes disturb less. */
static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts, and gives the middle. */
static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

static void *get(size_t size)
{
    void *data = aligned_alloc(TN_ALIGN, tn_align_up(size > 0 ? size : 1, TN_ALIGN));
    if (data == NULL) {
        fputs("bench_ops: out of memory\n", stderr);
        exit(1);
    }
    return data;
}

static void fill(void *data, tn_dtype dtype, int64_t count, double scale)
{
    static uint32_t seed = 1;
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        tn_store(data, dtype, i, scale * ((double)(seed >> 8) * 0x1p-23 - 1.0));
    }
}

/* Waits until the threads of the contender before have stopped spinning. */
static void settle(void)
{
    nanosleep(&(struct timespec){0, 15 * 1000 * 1000}, NULL);
}

/* --- probes --- */

typedef struct probe_call {
    const tn_probe *probe;
    int kind; /* 0: f32, 1: f64, 2: read */
    const float *data;
    int64_t count; /* steps, or floats of a task */
} probe_call;

static void probe_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const probe_call *c = argument;
    if (c->kind == 0) {
        c->probe->fma_f32(c->count);
    } else if (c->kind == 1) {
        c->probe->fma_f64(c->count);
    } else {
        volatile float sum = c->probe->read(c->data + index * c->count, c->count);
        (void)sum;
    }
}

/* Operations, or bytes, per second and 1e9, on all threads. */
static double run_probe(const tn_context *context, const tn_probe *p, int kind, const float *data)
{
    enum { steps = 200000, tasks = 64, floats = 1 << 18 };
    probe_call c = {p, kind, data, kind == 2 ? floats : steps};
    const int count = kind == 2 ? tasks : context->parallel->workers;
    const double start = now();
    tn_parallel_for(context->parallel, count, probe_task, &c);
    const double seconds = now() - start;
    if (kind == 2) return (double)tasks * floats * sizeof(float) / seconds * 1e-9;
    const double work = kind == 0 ? p->fma_f32(1) : p->fma_f64(1);
    return work * steps * count / seconds * 1e-9;
}

/* --- products --- */

typedef struct shape {
    int64_t m, n, k;
} shape;

typedef struct product {
    shape s;
    float *x, *y, *bias;
    void *packed[num_dtypes][most_copies];
    float *w; /* for BLAS */
    int copies;
} product;

static const shape shapes[] = {{576, 4096, 1024}, {576, 4096, 4096}, {729, 1152, 1152}, {648, 4096, 1152},
                               {196, 4096, 768},  {81, 4096, 1152},  {49, 4096, 768},   {49, 1024, 768},
                               {1, 4096, 4096},   {4, 4096, 4096}};

static void prepare(const tn_context *context, product *p, shape s)
{
    p->s = s;
    p->x = get((size_t)(s.m * s.k) * sizeof(float));
    p->y = get((size_t)(s.m * s.n) * sizeof(float));
    p->bias = get((size_t)s.n * sizeof(float));
    p->w = get((size_t)(s.n * s.k) * sizeof(float));
    p->copies = s.m <= 4 ? 4 : 1;
    fill(p->x, TN_F32, s.m * s.k, 1.0);
    fill(p->bias, TN_F32, s.n, 1.0);
    for (int d = 0; d < num_dtypes; d++) {
        const tn_map map = {1, s.n, s.k, dtypes[d]};
        size_t bytes;
        if (!context->ops->packed_size(&map, &bytes)) exit(1);
        void *w = get((size_t)(s.n * s.k) * sizeof(float));
        fill(w, dtypes[d], s.n * s.k, 0.02);
        for (int i = 0; i < p->copies; i++) {
            p->packed[d][i] = get(bytes);
            context->ops->pack(context, p->packed[d][i], w, &map, 0, s.k, 1);
        }
        if (d == 0) memcpy(p->w, w, (size_t)(s.n * s.k) * sizeof(float));
        free(w);
    }
}

static void release(product *p)
{
    for (int d = 0; d < num_dtypes; d++) {
        for (int i = 0; i < p->copies; i++)
            free(p->packed[d][i]);
    }
    free(p->x);
    free(p->y);
    free(p->w);
    free(p->bias);
}

/* Seconds of one product of dtype d, or of BLAS when d is num_dtypes. */
static double time_product(tn_context *context, const product *p, int d, tn_act act, int turn)
{
    const shape s = p->s;
    if (d == num_dtypes) {
#ifdef BENCH_BLAS
        const double start = now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)s.m, (int)s.n, (int)s.k, 1.0f, p->x, (int)s.k, p->w,
                    (int)s.k, 0.0f, p->y, (int)s.n);
        return now() - start;
#else
        return 1e30;
#endif
    }
    const tn_map map = {1, s.n, s.k, dtypes[d]};
    const tn_rows y = {p->y, TN_F32, s.n, 1, NULL}, x = {p->x, TN_F32, s.k, 1, NULL};
    const double start = now();
    context->ops->linear(context, y, x, p->packed[d][turn % p->copies], p->bias, act, &map, s.m);
    return now() - start;
}

/* Sorts the figures and prints one line. */
static void print_product(shape s, double seconds[contenders][most_repetitions], double *peak, double *reads,
                          int repetitions)
{
    const double flop = 2e-9 * (double)s.m * (double)s.n * (double)s.k;
    const double fma_median = median(peak, repetitions), fma = peak[repetitions - 1];
    printf("%4dx%dx%d\tprobe %.0f median %.0f", (int)s.m, (int)s.n, (int)s.k, fma, fma_median);
    for (int j = 0; j < contenders; j++) {
        const double middle = median(seconds[j], repetitions), best = seconds[j][0];
        if (best > 1e9) continue;
        const char *name = j < num_dtypes ? dtype_names[j] : j == num_dtypes ? "OpenBLAS" : "f32+gelu";
        printf("\t%s %.0f (%.0f %%) median %.0f", name, flop / best, 100 * flop / best / fma, flop / middle);
    }
    if (s.m <= 4) {
        const double bytes = 4e-9 * (double)s.n * (double)s.k / seconds[0][0];
        median(reads, repetitions);
        printf("\tf32 %.1f GB/s (%.0f %% of reads)", bytes, 100 * bytes / reads[repetitions - 1]);
    }
    printf("\n");
}

static void bench_product(tn_context *context, const tn_probe *limits, shape s, int repetitions)
{
    product p;
    prepare(context, &p, s);
    context->scratch =
        get(context->ops->linear_scratch(&(tn_map){1, s.n, s.k, TN_F32}, s.m, context->parallel->workers));
    double seconds[contenders][most_repetitions], peak[most_repetitions], reads[most_repetitions];
    float *data = get(64 << 20);
    fill(data, TN_F32, (64 << 20) / 4, 1.0);
    for (int i = 0; i < repetitions; i++) {
        for (int j = 0; j < contenders; j++) {
            const int d = j <= num_dtypes ? j : 0;
            const tn_act act = j > num_dtypes ? TN_ACT_GELU : TN_ACT_NONE;
            settle();
            time_product(context, &p, d, act, 2 * i);
            seconds[j][i] = time_product(context, &p, d, act, 2 * i + 1);
        }
        settle();
        run_probe(context, limits, 0, NULL);
        peak[i] = run_probe(context, limits, 0, NULL);
        reads[i] = run_probe(context, limits, 2, data);
    }
    print_product(s, seconds, peak, reads, repetitions);
    free(data);
    free(context->scratch);
    release(&p);
}

/* --- the rest --- */

static void bench_pack(const tn_context *context, int repetitions)
{
    const int64_t n = 4096, k = 4096;
    for (int d = 0; d < num_dtypes - 1; d++) {
        const tn_map map = {1, n, k, dtypes[d]};
        const size_t bytes = (size_t)(n * k) * tn_dtype_size(dtypes[d]);
        char *w = get(bytes), *packed = get(bytes);
        memset(w, 1, bytes);
        memset(packed, 1, bytes);
        double seconds[2][most_repetitions];
        for (int i = 0; i < repetitions; i++) {
            double start = now();
            context->ops->pack(context, packed, w, &map, 0, k, 1);
            seconds[0][i] = now() - start;
            start = now();
            memcpy(packed, w, bytes);
            seconds[1][i] = now() - start;
        }
        median(seconds[0], repetitions);
        median(seconds[1], repetitions);
        printf("pack %s 4096x4096\t%.1f GB/s\tmemcpy on one thread %.1f GB/s\n", dtype_names[d],
               1e-9 * (double)bytes / seconds[0][0], 1e-9 * (double)bytes / seconds[1][0]);
        free(w);
        free(packed);
    }
}

static void bench_fold(const tn_context *context, const tn_probe *limits, int repetitions)
{
    const int64_t n = 1536, k = 1152, inner = 1536;
    float *w = get((size_t)(n * k) * 4), *a = get((size_t)(n * inner) * 4), *b = get((size_t)(inner * k) * 4);
    fill(a, TN_F32, n * inner, 1.0);
    fill(b, TN_F32, inner * k, 1.0);
    double seconds[most_repetitions], peak[most_repetitions];
    for (int i = 0; i < repetitions; i++) {
        const double start = now();
        context->ops->fold(context, w, a, TN_F32, b, TN_F32, NULL, TN_F32, n, k, inner);
        seconds[i] = now() - start;
        peak[i] = run_probe(context, limits, 1, NULL);
    }
    median(seconds, repetitions);
    median(peak, repetitions);
    const double gflops = 2e-9 * (double)n * (double)k * (double)inner / seconds[0], fma = peak[repetitions - 1];
    printf("fold %dx%dx%d\tprobe %.0f\tf64 %.0f (%.0f %%)\n", (int)n, (int)k, (int)inner, fma, gflops,
           100 * gflops / fma);
    free(w);
    free(a);
    free(b);
}

/* 8 images of 27 x 27 patches of 1152 columns, windows of 3 x 3, 16 heads. */
static void bench_windows(tn_context *context, int repetitions)
{
    const int64_t rows = 648, slots = 9, width = 1152, heads = 16;
    float *x = get((size_t)(rows * slots * width) * 4), *q = get((size_t)(rows * heads * width) * 4);
    float *y = get((size_t)(rows * heads * width) * 4);
    fill(x, TN_F32, rows * slots * width, 1.0);
    fill(q, TN_F32, rows * heads * width, 0.1);
    const size_t mean_scratch = context->ops->window_mean_scratch(slots, width, context->parallel->workers);
    const size_t scratch = context->ops->window_attend_scratch(slots, heads, width, context->parallel->workers);
    context->scratch = get(scratch > mean_scratch ? scratch : mean_scratch);
    double seconds[3][most_repetitions];
    const tn_rows from = {x, TN_F32, width, 1, NULL}, none = {NULL, TN_F32, 0, 1, NULL};
    const tn_rows query = {q, TN_F32, heads * width, 1, NULL}, to = {y, TN_F32, heads * width, 1, NULL};
    for (int i = 0; i < repetitions; i++) {
        double start = now();
        context->ops->window_mean(context, to, from, rows, slots, width);
        seconds[0][i] = now() - start;
        start = now();
        context->ops->window_attend(context, to, none, from, query, 0.1, rows, slots, heads, width);
        seconds[1][i] = now() - start;
        start = now();
        context->ops->activation(context, to, query, TN_ACT_GELU, rows, heads * width);
        seconds[2][i] = now() - start;
    }
    for (int i = 0; i < 3; i++)
        median(seconds[i], repetitions);
    const double mean = seconds[0][0], attend = seconds[1][0];
    printf("window_mean 648x9x1152\t%.2f ms\t%.1f GB/s\n", 1e3 * mean, 4e-9 * (double)(rows * slots * width) / mean);
    printf("window_attend 648x9x16x1152\t%.2f ms\t%.0f GFLOP/s\n", 1e3 * attend,
           4e-9 * (double)(rows * slots * heads * width) / attend);
    printf("gelu 648x18432\t%.2f ms\n", 1e3 * seconds[2][0]);
    free(context->scratch);
    free(x);
    free(q);
    free(y);
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 0;
    const tn_ops *ops = tn_cpu_find(argc > 2 ? argv[2] : NULL);
    const int repetitions = argc > 3 ? atoi(argv[3]) : 9;
    tn_parallel parallel;
    if (ops == NULL || repetitions < 1 || repetitions > most_repetitions ||
        tn_parallel_init(&parallel, threads, NULL, NULL) != TENON_OK) {
        fputs("usage: bench_ops [threads [level [repetitions]]]\n", stderr);
        return 2;
    }
    if (parallel.workers == 1) clock_used = CLOCK_PROCESS_CPUTIME_ID;
    const tn_probe *limits = tn_probe_find(ops->name);
#ifdef BENCH_BLAS
    openblas_set_num_threads(parallel.workers);
#endif
    tn_context context = {ops, &parallel, NULL};
    printf("level %s, %d threads, %d repetitions; best (share of the best probe) and median, GFLOP/s\n", ops->name,
           parallel.workers, repetitions);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        bench_product(&context, limits, shapes[i], repetitions);
    bench_windows(&context, repetitions);
    bench_pack(&context, repetitions);
    bench_fold(&context, limits, repetitions);
    return 0;
}
