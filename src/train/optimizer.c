/* SPDX-License-Identifier: MIT */
#include "train/optimizer.h"

#include "core/size.h"
#include <math.h>
#include <string.h>

enum {
    CHUNK = 1 << 16, /* elements of one task */
    STRIP = 512,     /* widened at a time, on the stack */
    LANES = 8
};

/* ---- AdamW ---- */

/* The settings as the element loop uses them: doubles rounded once. */
typedef struct factors {
    float decay;      /* 1 - lr wd */
    float beta1_rest; /* 1 - beta1 */
    float beta2, beta2_rest;
    float root_correction; /* sqrt(1 - beta2^t) */
    float eps;
    float rate; /* -lr / (1 - beta1^t) */
    float scale;
} factors;

typedef struct adamw_job {
    const tn_adamw_arrays *arrays;
    factors f;
} adamw_job;

/* base^n by squaring, so that it does not depend on a libm. */
static double power(double base, int64_t n)
{
    double result = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

static factors factors_of(const tn_adamw *s)
{
    return (factors){.decay = (float)(1 - s->lr * s->weight_decay),
                     .beta1_rest = (float)(1 - s->beta1),
                     .beta2 = (float)s->beta2,
                     .beta2_rest = (float)(1 - s->beta2),
                     .root_correction = (float)sqrt(1 - power(s->beta2, s->step)),
                     .eps = (float)s->eps,
                     .rate = (float)(-s->lr / (1 - power(s->beta1, s->step))),
                     .scale = (float)s->scale};
}

static void update(float *restrict p, float *restrict m, float *restrict v, const float *restrict gradient,
                   int64_t count, factors f)
{
    for (int64_t i = 0; i < count; i++) {
        const float g = gradient[i] * f.scale;
        m[i] = m[i] + f.beta1_rest * (g - m[i]);
        v[i] = v[i] * f.beta2 + f.beta2_rest * g * g;
        const float denominator = sqrtf(v[i]) / f.root_correction + f.eps;
        p[i] = p[i] * f.decay + f.rate * m[i] / denominator;
    }
}

static void widen(float *to, const void *from, tn_dtype dtype, int64_t first, int64_t count)
{
    const uint16_t *half = (const uint16_t *)from + first;
    if (dtype == TN_F32) {
        memcpy(to, (const float *)from + first, (size_t)count * sizeof *to);
    } else {
        for (int64_t i = 0; i < count; i++)
            to[i] = dtype == TN_BF16 ? tn_bf16_to_f32(half[i]) : tn_f16_to_f32(half[i]);
    }
}

static void narrow(void *to, const float *from, tn_dtype dtype, int64_t first, int64_t count)
{
    uint16_t *half = (uint16_t *)to + first;
    if (dtype == TN_F32) {
        memcpy((float *)to + first, from, (size_t)count * sizeof *from);
    } else {
        for (int64_t i = 0; i < count; i++)
            half[i] = dtype == TN_BF16 ? tn_f32_to_bf16(from[i]) : tn_f32_to_f16(from[i]);
    }
}

static void adamw_task(void *argument, int64_t index, int worker)
{
    const adamw_job *job = argument;
    const tn_adamw_arrays *a = job->arrays;
    const int64_t end = tn_min_i64(a->count, (index + 1) * CHUNK);
    float values[STRIP];
    (void)worker;
    for (int64_t first = index * CHUNK; first < end; first += STRIP) {
        const int64_t count = tn_min_i64(STRIP, end - first);
        float *p = a->master != NULL ? a->master + first : values;
        if (a->master == NULL) widen(values, a->parameter, a->dtype, first, count);
        update(p, a->m + first, a->v + first, a->gradient + first, count, job->f);
        narrow(a->parameter, p, a->dtype, first, count);
    }
}

void tn_adamw_step(const tn_parallel *parallel, const tn_adamw_arrays *arrays, const tn_adamw *settings)
{
    adamw_job job = {arrays, factors_of(settings)};
    tn_parallel_for(parallel, tn_ceil_div(arrays->count, CHUNK), adamw_task, &job);
}

/* ---- the norm ---- */

typedef struct square_job {
    double *partial;
    const float *data;
    int64_t count;
} square_job;

static void square_task(void *argument, int64_t index, int worker)
{
    const square_job *job = argument;
    const float *x = job->data + index * CHUNK;
    const int64_t count = tn_min_i64(CHUNK, job->count - index * CHUNK);
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    (void)worker;
    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++)
            lane[j] += (double)x[i + j] * x[i + j];
    }
    for (; i < count; i++)
        lane[i % LANES] += (double)x[i] * x[i];
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    job->partial[index] = sum;
}

int64_t tn_square_parts(int64_t count)
{
    return tn_ceil_div(count, CHUNK);
}

double tn_sum_of_squares(const tn_parallel *parallel, double *partial, const float *data, int64_t count)
{
    square_job job = {partial, data, count};
    const int64_t parts = tn_square_parts(count);
    double sum = 0;
    tn_parallel_for(parallel, parts, square_task, &job);
    for (int64_t i = 0; i < parts; i++)
        sum += partial[i];
    return sum;
}

double tn_clip_factor(double norm, double limit)
{
    const double factor = limit / (norm + 1e-6);
    return limit > 0 && factor < 1 ? factor : 1;
}
