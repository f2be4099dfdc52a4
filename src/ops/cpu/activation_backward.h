/* SPDX-License-Identifier: MIT */
/* Gradients through element-wise functions, dx = dy act'(x), and of a bias. With s = 1 / (1 + exp(-z)):
 *
 *   gelu'(x)             = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi),  Phi(x) = gelu(x) / x
 *   (x s)'               = s (1 + x z' (1 - s)),  1 - s = s exp(-z), for
 *   gelu_tanh            z = 2 sqrt(2/pi) (x + 0.044715 x^3)
 *   quick_gelu, silu     z = 1.702 x, z = x
 *   relu'(x)             = 0 for x <= 0, else 1 (NaN too, as in PyTorch)
 *
 * No step overflows: x is cut where the slope is 0 or 1 to the last bit.
 */
#ifndef TN_OPS_CPU_ACTIVATION_BACKWARD_H
#define TN_OPS_CPU_ACTIVATION_BACKWARD_H

/* x cut to [-limit, limit]; NaN stays NaN, because vf_min and vf_max hand on their second operand. */
static ALWAYS_INLINE vf bounded(vf x, float limit)
{
    return vf_min(vf_set(limit), vf_max(vf_set(-limit), x));
}

/* The slope that was found for bounded x; exactly 0 below. Above it is 1 anyway. */
static ALWAYS_INLINE vf settled(vf x, float limit, vf slope)
{
    return vf_select(x < vf_set(-limit), vf_set(0.0f), slope);
}

/* (x s(z))' with slope z'. */
static ALWAYS_INLINE vf sigmoid_times_slope(vf x, vf z, vf slope)
{
    const vf e = exp_inner(-bounded(z, 87.0f)), s = vf_set(1.0f) / (vf_set(1.0f) + e);
    return vf_fma(x * slope * s, s * e, s);
}

static ALWAYS_INLINE vf gelu_slope(vf x)
{
    const float limit = 10.0f;
    const vf cut = bounded(x, limit), small = vf_set(0x1p-60f);
    /* Next to 0 the quotient gelu(x) / x has no digits. */
    const vf apart = vf_select(bounded(cut, 0x1p-60f) == cut, small, cut);
    const vf density = vf_set(0x1.988454p-2f) * exp_inner(cut * cut * vf_set(-0.5f));
    return settled(x, limit, vf_fma(cut, density, gelu(apart) / apart));
}

static ALWAYS_INLINE vf gelu_tanh_slope(vf x)
{
    const float limit = 20.0f;
    const vf cut = bounded(x, limit), square = cut * cut;
    const vf z = cut * vf_fma(square, vf_set(0x1.2444f2p-4f), vf_set(0x1.988454p+0f));
    const vf slope = vf_fma(square, vf_set(0x1.b6676cp-3f), vf_set(0x1.988454p+0f));
    return settled(x, limit, sigmoid_times_slope(cut, z, slope));
}

static ALWAYS_INLINE vf quick_gelu_slope(vf x)
{
    const float limit = 100.0f;
    const vf cut = bounded(x, limit);
    return settled(x, limit, sigmoid_times_slope(cut, cut * vf_set(1.702f), vf_set(1.702f)));
}

static ALWAYS_INLINE vf silu_slope(vf x)
{
    const float limit = 100.0f;
    const vf cut = bounded(x, limit);
    return settled(x, limit, sigmoid_times_slope(cut, cut, vf_set(1.0f)));
}

static ALWAYS_INLINE vf relu_slope(vf x)
{
    return vf_select(x <= vf_set(0.0f), vf_set(0.0f), vf_set(1.0f));
}

/* values[i] *= slope(x[i]) for i < count, a multiple of `lanes`. */
#define EACH_VECTOR(slope)                                                                                             \
    UNROLL_STEPS                                                                                                       \
    for (int64_t i = 0; i < count; i += lanes)                                                                         \
    vf_store(values + i, vf_load(values + i) * slope(vf_load(x + i)))

static void times_slope(float *values, const float *x, tn_act act, int64_t count)
{
    switch (act) {
    case TN_ACT_GELU:
        EACH_VECTOR(gelu_slope);
        break;
    case TN_ACT_GELU_TANH:
        EACH_VECTOR(gelu_tanh_slope);
        break;
    case TN_ACT_QUICK_GELU:
        EACH_VECTOR(quick_gelu_slope);
        break;
    case TN_ACT_SILU:
        EACH_VECTOR(silu_slope);
        break;
    case TN_ACT_RELU:
        EACH_VECTOR(relu_slope);
        break;
    case TN_ACT_NONE:
    case TN_ACT_COUNT:
        break;
    }
}

#undef EACH_VECTOR

typedef struct slope_call {
    tn_rows dx, dy, x;
    tn_act act;
    int64_t rows, width;
    blocking blocks;
} slope_call;

static void slope_span(const slope_call *c, int64_t r, int64_t from, int64_t to)
{
    enum { span = 256 };
    float values[span] = {0}, x[span] = {0};
    for (int64_t i = from; i < to; i += span) {
        const int64_t count = tn_min_i64(span, to - i);
        widen(values, c->dy.dtype, element_at(&c->dy, r, i), c->dy.step, count);
        widen(x, c->x.dtype, element_at(&c->x, r, i), c->x.step, count);
        times_slope(values, x, c->act, (int64_t)tn_align_up((size_t)count, lanes));
        narrow(element_at(&c->dx, r, i), c->dx.dtype, values, count);
    }
}

static void slope_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const slope_call *c = argument;
    const block b = block_of_task(&c->blocks, index, c->rows, c->width);
    for (int64_t r = b.first; r < b.last; r++)
        slope_span(c, r, b.from, b.to);
}

static void activation_backward(const tn_context *context, tn_rows dx, tn_rows dy, tn_rows x, tn_act act, int64_t rows,
                                int64_t width)
{
    slope_call c = {dx, dy, x, act, rows, width, block_elements(rows, width)};
    tn_parallel_for(context->parallel, c.blocks.row_tasks * c.blocks.column_tasks, slope_task, &c);
}

#endif
