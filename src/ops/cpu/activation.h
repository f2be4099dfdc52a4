/* SPDX-License-Identifier: MIT */
/* Element-wise functions, without libm, so that bits are ours on every system.
 *
 *   gelu(x)       = x Phi(x), Phi(x) = 1 / (1 + exp(-x P(x^2) / Q(x^2))): the rational is fitted to the log-odds of Phi
 *                   over x on |x| <= 5.6, weighted by what its error does to Phi, 1e-8 at most
 *   gelu_tanh(x)  = x / (1 + exp(-2 u)), u = sqrt(2/pi) (x + 0.044715 x^3), since 1 + tanh(u) = 2 / (1 + exp(-2 u))
 *   quick_gelu(x) = x / (1 + exp(-1.702 x)),  silu(x) = x / (1 + exp(-x))
 *
 * No step overflows on the way to a finite value; +inf gives +inf, -inf gives 0, NaN gives NaN.
 */
#ifndef TN_OPS_CPU_ACTIVATION_H
#define TN_OPS_CPU_ACTIVATION_H

/* 1.5 * 2^23: a float below 2^22 that is added to it is rounded to an integer, which stands in the low bits. */
#define ROUNDER 0x1.8p23f

/* exp(x) for x in [-87, 88], to about 1 ulp; NaN gives NaN. x = i ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, the
 * first so short that its products with i are exact. */
static ALWAYS_INLINE vf exp_inner(vf x)
{
    const vf shifted = vf_fma(x, vf_set(0x1.715476p+0f), vf_set(ROUNDER));
    const vf i = shifted - vf_set(ROUNDER);
    vf r = vf_fma(i, vf_set(-0x1.63p-1f), x);
    r = vf_fma(i, vf_set(0x1.bd0106p-13f), r);
    vf p = vf_fma(r, vf_set(0x1.6d110ap-10f), vf_set(0x1.120b6ep-7f));
    p = vf_fma(p, r, vf_set(0x1.55551ap-5f));
    p = vf_fma(p, r, vf_set(0x1.5554dcp-3f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p * r, r, r);
    const vf scale = (vf)(((vu)shifted - (vu)vf_set(ROUNDER) + 127u) << 23);
    return vf_fma(p, scale, scale);
}

/* exp(x) for x <= 0, with 0 below -87. */
static ALWAYS_INLINE vf exp_negative(vf x)
{
    const vi tiny = x < vf_set(-87.0f);
    return vf_select(tiny, vf_set(0.0f), exp_inner(vf_select(tiny, vf_set(0.0f), x)));
}

/* x / (1 + exp(-z)); x and z have the same sign. Above 87 the sum is 1 and y is x; below -87, where x may be -inf, y is
 * 0. */
static ALWAYS_INLINE vf sigmoid_times(vf x, vf z)
{
    const vf within = vf_min(vf_max(z, vf_set(-87.0f)), vf_set(87.0f));
    const vf y = x / (vf_set(1.0f) + exp_inner(-within));
    return vf_select(z < vf_set(-87.0f), vf_set(0.0f), y);
}

static ALWAYS_INLINE vf gelu(vf x)
{
    const vf bounded = vf_min(vf_max(x, vf_set(-5.6f)), vf_set(5.6f)), t = bounded * bounded;
    vf p = vf_fma(t, vf_set(3.8214033e-4f), vf_set(1.50300794e-2f));
    vf q = vf_fma(t, vf_set(4.0186252e-5f), vf_set(5.8932712e-3f));
    p = vf_fma(p, t, vf_set(1.97821968e-1f));
    q = vf_fma(q, t, vf_set(7.8426813e-2f));
    p = vf_fma(p, t, vf_set(1.5957692f));
    q = vf_fma(q, t, vf_set(1.0f));
    return sigmoid_times(x, x * (p / q));
}

static ALWAYS_INLINE vf gelu_tanh(vf x)
{
    const vf slope = vf_fma(x * x, vf_set(0x1.2444f2p-4f), vf_set(0x1.988454p+0f));
    return sigmoid_times(x, x * slope);
}

static ALWAYS_INLINE vf quick_gelu(vf x)
{
    return sigmoid_times(x, x * vf_set(1.702f));
}

static ALWAYS_INLINE vf silu(vf x)
{
    return sigmoid_times(x, x);
}

static ALWAYS_INLINE vf relu(vf x)
{
    return vf_select(x <= vf_set(0.0f), vf_set(0.0f), x);
}

static ALWAYS_INLINE vf activated(vf x, tn_act act)
{
    switch (act) {
    case TN_ACT_GELU:
        return gelu(x);
    case TN_ACT_GELU_TANH:
        return gelu_tanh(x);
    case TN_ACT_QUICK_GELU:
        return quick_gelu(x);
    case TN_ACT_SILU:
        return silu(x);
    case TN_ACT_RELU:
        return relu(x);
    case TN_ACT_NONE:
    case TN_ACT_COUNT:
        break;
    }
    return x;
}

/* values[i] = f(values[i]) for i < count, a multiple of `lanes`. */
static void activate(float *values, tn_act act, int64_t count)
{
#define EACH_VECTOR(act)                                                                                               \
    case act:                                                                                                          \
        UNROLL_STEPS                                                                                                   \
        for (int64_t i = 0; i < count; i += lanes)                                                                     \
            vf_store(values + i, activated(vf_load(values + i), act));                                                 \
        break
    switch (act) {
        EACH_VECTOR(TN_ACT_GELU);
        EACH_VECTOR(TN_ACT_GELU_TANH);
        EACH_VECTOR(TN_ACT_QUICK_GELU);
        EACH_VECTOR(TN_ACT_SILU);
        EACH_VECTOR(TN_ACT_RELU);
    case TN_ACT_NONE:
    case TN_ACT_COUNT:
        break;
    }
#undef EACH_VECTOR
}

typedef struct element_call {
    tn_rows y, x;
    tn_act act;
    int64_t rows, width;
    blocking blocks;
} element_call;

/* y[r, from : to] = act(x[r, from : to]); x.data NULL stands for zeros. */
static void element_span(const element_call *c, int64_t r, int64_t from, int64_t to)
{
    enum { span = 256 };
    float values[span] = {0};
    for (int64_t i = from; i < to; i += span) {
        const int64_t count = tn_min_i64(span, to - i);
        if (c->x.data != NULL) widen(values, c->x.dtype, element_at(&c->x, r, i), c->x.step, count);
        activate(values, c->act, (int64_t)tn_align_up((size_t)count, lanes));
        narrow(element_at(&c->y, r, i), c->y.dtype, values, count);
    }
}

static void element_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const element_call *c = argument;
    const block b = block_of_task(&c->blocks, index, c->rows, c->width);
    for (int64_t r = b.first; r < b.last; r++)
        element_span(c, r, b.from, b.to);
}

static void activation(const tn_context *context, tn_rows y, tn_rows x, tn_act act, int64_t rows, int64_t width)
{
    element_call c = {y, x, act, rows, width, block_elements(rows, width)};
    tn_parallel_for(context->parallel, c.blocks.row_tasks * c.blocks.column_tasks, element_task, &c);
}

static void copy(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t width)
{
    activation(context, y, x, TN_ACT_NONE, rows, width);
}

#endif
