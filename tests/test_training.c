/* SPDX-License-Identifier: MIT */
/* The calls of training: what they refuse, what they cost, packs that are written over, threads, and connectors of a
 * user's own. Values and bits of the shipped connectors are in test_backward.c and test_gradients.c.
 */
#include "adapter/adapter.h"
#include "adapters.h"
#include "ops_double.h"
#include "tenon/tenon.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static void prepare(tenon_adapter *adapter, bool train)
{
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.train = train;
    assert_ok(tenon_adapter_prepare(adapter, &options, &error));
}

/* --- one step: x, dy, tokens and all gradients of an adapter --- */

enum { most = 12 };

typedef struct step {
    const tenon_adapter *adapter;
    float *x, *y, *dy, *dx, *gradient[most];
    int64_t num, sizes[most];
    int64_t shapes[4][3];
    DLTensor tx, ty, tdy, tdx, tensors[most];
    const DLTensor *pointers[most];
    tenon_gradients gradients;
    tenon_call call;
} step;

static DLTensor tensor_of(float *data, int64_t *shape, int64_t a, int64_t b, int64_t c)
{
    memcpy(shape, (int64_t[]){a, b, c}, 3 * sizeof *shape);
    return (DLTensor){data, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, shape, NULL, 0};
}

static void step_new(step *s, const tenon_adapter *adapter, int64_t batch, int64_t tokens)
{
    const int64_t in = tenon_adapter_in_dim(adapter), out = tenon_adapter_out_dim(adapter);
    int64_t made;
    *s = (step){.adapter = adapter, .num = tenon_adapter_num_parameters(adapter)};
    tenon_call_init(&s->call);
    tenon_gradients_init(&s->gradients);
    assert_ok(tenon_adapter_output_num_tokens(adapter, NULL, tokens, &made, &error));
    s->x = random_floats(batch * tokens * in);
    s->dx = random_floats(batch * tokens * in);
    s->y = random_floats(batch * made * out);
    s->dy = random_floats(batch * made * out);
    s->tx = tensor_of(s->x, s->shapes[0], batch, tokens, in);
    s->tdx = tensor_of(s->dx, s->shapes[1], batch, tokens, in);
    s->ty = tensor_of(s->y, s->shapes[2], batch, made, out);
    s->tdy = tensor_of(s->dy, s->shapes[3], batch, made, out);
    for (int64_t i = 0; i < s->num; i++) {
        tenon_parameter p;
        tenon_parameter_init(&p);
        assert_ok(tenon_adapter_parameter(adapter, i, &p, &error));
        s->sizes[i] = p.shape[0] * (p.ndim == 2 ? p.shape[1] : 1);
        s->gradient[i] = calloc((size_t)s->sizes[i], sizeof(float));
        int64_t *shape = (int64_t *)(uintptr_t)p.shape; /* only read */
        s->tensors[i] = (DLTensor){s->gradient[i], {kDLCPU, 0}, p.ndim, {kDLFloat, 32, 1}, shape, NULL, 0};
        s->pointers[i] = &s->tensors[i];
    }
    s->gradients.x = &s->tdx;
    s->gradients.parameters = s->pointers;
}

static void step_free(step *s)
{
    for (int64_t i = 0; i < s->num; i++)
        free(s->gradient[i]);
    free(s->x), free(s->y), free(s->dy), free(s->dx);
}

static tenon_status forward(step *s, const tenon_workspace *workspace)
{
    return tenon_adapter_forward(s->adapter, &s->tx, &s->ty, &s->call, workspace, &error);
}

static tenon_status backward(step *s, const tenon_workspace *workspace)
{
    return tenon_adapter_backward(s->adapter, &s->tdy, &s->tx, &s->gradients, &s->call, workspace, &error);
}

/* --- what is refused --- */

static void calls_are_checked(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"mlp_2layer\", \"hidden_dim\": 3}", 4, 5);
    step s;
    step_new(&s, adapter, 2, 3);
    assert_says(backward(&s, NULL), TENON_NOT_PREPARED, "not prepared");
    prepare(adapter, false);
    assert_says(backward(&s, NULL), TENON_NOT_PREPARED, "with train");
    s.call.saved = s.y, s.call.saved_size = 1;
    assert_says(forward(&s, NULL), TENON_NOT_PREPARED, "with train");
    prepare(adapter, true);
    assert_says(forward(&s, NULL), TENON_INVALID, "saved has 1 bytes");
    assert_says(backward(&s, NULL), TENON_INVALID, "saved has 1 bytes");
    s.call.saved = NULL;
    s.tdy.shape[1] = 2;
    assert_says(backward(&s, NULL), TENON_MISMATCH, "dy has shape [2, 2, 5]; expected [2, 3, 5]");
    s.tdy.shape[1] = 3;
    s.tdx.shape[2] = 5;
    assert_says(backward(&s, NULL), TENON_MISMATCH, "the gradient of x has shape [2, 3, 5]; expected [2, 3, 4]");
    s.tdx.shape[2] = 4;
    s.tdx.strides = (int64_t[]){24, 1, 3};
    assert_says(backward(&s, NULL), TENON_UNSUPPORTED, "the gradient of x has stride 3 on its last axis");
    s.tdx.strides = (int64_t[]){0, 4, 1};
    assert_says(backward(&s, NULL), TENON_INVALID, "two tokens share memory");
    s.tdx.strides = NULL;
    s.tensors[2].dtype.bits = 16;
    assert_says(backward(&s, NULL), TENON_UNSUPPORTED, "the gradient of 'proj2.weight' must be float32");
    s.tensors[2].dtype.bits = 32;
    s.tensors[2].shape = (int64_t[]){3, 5};
    assert_says(backward(&s, NULL), TENON_MISMATCH, "the gradient of 'proj2.weight' has shape [3, 5]; expected [5, 3]");
    s.tensors[2].shape = (int64_t[]){5, 3};
    s.tensors[2].strides = (int64_t[]){1, 5};
    assert_says(backward(&s, NULL), TENON_UNSUPPORTED, "dense");
    s.tensors[2].strides = NULL;
    s.gradients.size = 1;
    assert_says(backward(&s, NULL), TENON_INVALID, "tenon_gradients_init");
    s.gradients.size = sizeof s.gradients;
    const tenon_workspace small = {s.y, 8};
    assert_says(backward(&s, &small), TENON_INVALID, "the workspace has 8 bytes");
    assert_ok(backward(&s, NULL));
    step_free(&s);
    tenon_adapter_free(adapter);
}

static void overlaps_are_refused(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"linear\"}", 4, 4);
    step s;
    step_new(&s, adapter, 2, 3);
    prepare(adapter, true);
    s.tdx.data = s.x;
    assert_says(backward(&s, NULL), TENON_INVALID, "x and the gradient of x overlap");
    s.tdx.data = s.dy;
    assert_says(backward(&s, NULL), TENON_INVALID, "dy and the gradient of x overlap");
    s.tdx.data = s.dx;
    s.tensors[1].data = s.dx + 20;
    assert_says(backward(&s, NULL), TENON_INVALID, "the gradient of x and the gradient of 'proj.bias' overlap");
    s.tensors[1].data = s.gradient[0] + 12;
    assert_says(backward(&s, NULL), TENON_INVALID, "'proj.weight' and the gradient of 'proj.bias' overlap");
    s.tensors[1].data = s.x;
    assert_says(backward(&s, NULL), TENON_INVALID, "x and the gradient of 'proj.bias' overlap");
    s.tensors[1].data = s.gradient[1];
    assert_ok(backward(&s, NULL));
    step_free(&s);
    tenon_adapter_free(adapter);
}

/* --- what is done --- */

static void gradients_are_added(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"attentional_pool\", \"pool_heads\": 2}", 4, 5);
    step s;
    step_new(&s, adapter, 2, 16);
    prepare(adapter, true);
    assert_ok(backward(&s, NULL));
    for (int64_t i = 0; i < s.num; i++) {
        float *once = s.gradient[i], *twice = malloc((size_t)s.sizes[i] * sizeof *twice);
        memcpy(twice, once, (size_t)s.sizes[i] * sizeof *twice);
        s.tensors[i].data = twice;
    }
    assert_ok(backward(&s, NULL));
    for (int64_t i = 0; i < s.num; i++) {
        float *twice = s.tensors[i].data;
        for (int64_t j = 0; j < s.sizes[i]; j++)
            assert_true(twice[j] == 2 * s.gradient[i][j]);
        free(twice);
    }
    step_free(&s);
    tenon_adapter_free(adapter);
}

static void fill_gradients(step *s, float value)
{
    for (int64_t i = 0; i < s->num; i++) {
        for (int64_t j = 0; j < s->sizes[i]; j++)
            s->gradient[i][j] = value;
    }
}

/* With overwrite nothing of what was there is left, in an empty batch and where no token has a patch either. */
static void gradients_are_overwritten(void **state)
{
    (void)state;
    static const char *const configs[] = {"{\"type\": \"mlp_2layer\", \"hidden_dim\": 7}",
                                          "{\"type\": \"attentional_pool\", \"pool_heads\": 2}"};
    for (int k = 0; k < 2; k++) {
        tenon_adapter *adapter = adapter_of(configs[k], 4, 5);
        step s, zeroed;
        step_new(&s, adapter, 2, 16);
        step_new(&zeroed, adapter, 2, 16);
        memcpy(zeroed.x, s.x, 2 * 16 * 4 * sizeof(float));
        memcpy(zeroed.dy, s.dy, (size_t)(s.tdy.shape[1] * 2 * 5) * sizeof(float));
        prepare(adapter, true);
        assert_ok(backward(&zeroed, NULL));
        s.gradients.overwrite = true;
        fill_gradients(&s, NAN);
        assert_ok(backward(&s, NULL));
        for (int64_t i = 0; i < s.num; i++)
            assert_memory_equal(s.gradient[i], zeroed.gradient[i], (size_t)s.sizes[i] * sizeof(float));
        uint8_t frames[2] = {0, 0};
        DLTensor mask = {frames, {kDLCPU, 0}, 1, {kDLUInt, 8, 1}, (int64_t[]){2}, NULL, 0};
        for (int empty = 0; empty < 2; empty++) {
            fill_gradients(&s, NAN);
            s.call.frame_mask = empty ? NULL : &mask;
            s.tx.shape[0] = s.tdx.shape[0] = s.tdy.shape[0] = empty ? 0 : 2;
            assert_ok(backward(&s, NULL));
            for (int64_t i = 0; i < s.num; i++) {
                for (int64_t j = 0; j < s.sizes[i]; j++)
                    assert_true(s.gradient[i][j] == 0);
            }
        }
        step_free(&s), step_free(&zeroed);
        tenon_adapter_free(adapter);
    }
}

/* Tokens of an adapter that is prepared for training are those of the layers one by one. */
static void forward_keeps_its_bits(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"mlp_2layer\", \"hidden_dim\": 30}", 20, 10);
    step s;
    step_new(&s, adapter, 2, 9);
    prepare(adapter, false);
    assert_ok(forward(&s, NULL));
    float *inference = s.y;
    s.y = malloc(2 * 9 * 10 * sizeof *s.y);
    s.ty.data = s.y;
    prepare(adapter, true);
    assert_ok(forward(&s, NULL));
    assert_memory_equal(s.y, inference, 2 * 9 * 10 * sizeof *s.y);
    assert_ok(tenon_adapter_saved_size(adapter, 2, 9, &s.call, &s.call.saved_size, &error));
    s.call.saved = malloc(s.call.saved_size);
    memset(s.y, 0, 2 * 9 * 10 * sizeof *s.y);
    assert_ok(forward(&s, NULL));
    assert_memory_equal(s.y, inference, 2 * 9 * 10 * sizeof *s.y);
    free(s.call.saved), free(inference);
    step_free(&s);
    tenon_adapter_free(adapter);
}

/* With a workspace nothing is allocated; a pack is written over in place. */
static void a_step_allocates_nothing(void **state)
{
    (void)state;
    static const char *const configs[] = {"{}", "{\"type\": \"attentional_pool\", \"pool_heads\": 2}"};
    for (int k = 0; k < 2; k++) {
        tenon_adapter *adapter = adapter_of(configs[k], 4, 6);
        step s;
        step_new(&s, adapter, 3, 16);
        prepare(adapter, true);
        tenon_workspace there, back;
        assert_ok(tenon_adapter_saved_size(adapter, 3, 16, &s.call, &s.call.saved_size, &error));
        s.call.saved = malloc(s.call.saved_size);
        assert_ok(tenon_adapter_workspace_size(adapter, 16, &s.call, &there.size, &error));
        assert_ok(tenon_adapter_backward_workspace_size(adapter, 16, &s.gradients, &s.call, &back.size, &error));
        there.data = malloc(there.size), back.data = malloc(back.size);
        assert_ok(forward(&s, &there)); /* OpenMP starts its threads */
        assert_ok(backward(&s, &back));
        const int before = allocations;
        prepare(adapter, true);
        assert_ok(forward(&s, &there));
        assert_ok(backward(&s, &back));
        assert_int_equal(allocations, before);
        free(there.data), free(back.data), free(s.call.saved);
        step_free(&s);
        tenon_adapter_free(adapter);
    }
}

static void packs_follow_parameters_changed_in_place(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"linear\"}", 1, 1);
    float weight = 2, bias = 0;
    DLTensor w = {&weight, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){1, 1}, NULL, 0};
    DLTensor b = {&bias, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, (int64_t[]){1}, NULL, 0};
    assert_ok(tenon_adapter_set_parameter(adapter, "proj.weight", &w, &error));
    assert_ok(tenon_adapter_set_parameter(adapter, "proj.bias", &b, &error));
    step s;
    step_new(&s, adapter, 1, 1);
    for (weight = 2; weight < 5; weight++) {
        prepare(adapter, true);
        s.x[0] = 10, s.dy[0] = 1;
        assert_ok(forward(&s, NULL));
        assert_ok(backward(&s, NULL));
        assert_true(s.y[0] == 10 * weight && s.dx[0] == weight);
    }
    /* A pack that a call holds is left to it. */
    const tn_pack *held = tn_pack_acquire(adapter);
    prepare(adapter, true);
    const tn_pack *fresh = tn_pack_acquire(adapter);
    assert_ptr_not_equal(held, fresh);
    tn_pack_release(adapter, held);
    tn_pack_release(adapter, fresh);
    step_free(&s);
    tenon_adapter_free(adapter);
}

/* --- no work for what is frozen --- */

static int dws, dbiases, products, others;
static tn_ops counted;

static void count_dw(const tn_context *context, float *dw, float *dbias, tn_rows dy, tn_rows x, const tn_map *map,
                     int64_t rows, bool fresh)
{
    dws++;
    dbiases += dbias != NULL;
    ops_double.weight_gradient(context, dw, dbias, dy, x, map, rows, fresh);
}

static void count_dbias(const tn_context *context, float *dbias, tn_rows dy, int64_t rows, int64_t width, bool fresh)
{
    dbiases++;
    ops_double.bias_gradient(context, dbias, dy, rows, width, fresh);
}

static void count_product(const tn_context *context, tn_rows y, tn_rows x, const void *packed, const void *bias,
                          tn_act act, const tn_map *map, int64_t rows)
{
    products++;
    ops_double.linear(context, y, x, packed, bias, act, map, rows);
}

static void count_activation(const tn_context *context, tn_rows y, tn_rows x, tn_act act, int64_t rows, int64_t width)
{
    others++;
    ops_double.activation(context, y, x, act, rows, width);
}

static void count_slope(const tn_context *context, tn_rows dx, tn_rows dy, tn_rows x, tn_act act, int64_t rows,
                        int64_t width)
{
    others++;
    ops_double.activation_backward(context, dx, dy, x, act, rows, width);
}

/* The ops that a backward of one block calls when the parameters of `wanted` (a bit each) and dx are. */
static void expect_work(step *s, unsigned wanted, bool dx, int want_dws, int want_dbiases, int want_products,
                        int want_others)
{
    for (int64_t i = 0; i < s->num; i++)
        s->pointers[i] = (wanted >> i & 1) != 0 ? &s->tensors[i] : NULL;
    s->gradients.x = dx ? &s->tdx : NULL;
    dws = dbiases = products = others = 0;
    assert_ok(backward(s, NULL));
    assert_int_equal(dws, want_dws);
    assert_int_equal(dbiases, want_dbiases);
    assert_int_equal(products, want_products);
    assert_int_equal(others, want_others);
}

static void frozen_parameters_cost_nothing(void **state)
{
    (void)state;
    const tn_parallel serial = {1, NULL};
    counted = ops_double;
    counted.weight_gradient = count_dw;
    counted.bias_gradient = count_dbias;
    counted.linear = count_product;
    counted.activation = count_activation;
    counted.activation_backward = count_slope;
    tenon_adapter *adapter = adapter_of("{\"type\": \"mlp_2layer\", \"hidden_dim\": 3}", 4, 5);
    assert_ok(tn_adapter_prepare_train_for(adapter, &counted, &serial, &error));
    step s;
    step_new(&s, adapter, 1, 4);
    enum { w1 = 1, b1 = 2, w2 = 4, b2 = 8 };
    expect_work(&s, 0, false, 0, 0, 0, 0);
    expect_work(&s, b2, false, 0, 1, 0, 0);
    expect_work(&s, w2, false, 1, 0, 1, 1);               /* proj1 and its activation, again */
    expect_work(&s, w2 | b2, false, 1, 1, 1, 1);          /* the same */
    expect_work(&s, b1, false, 0, 1, 2, 1);               /* proj1 again, dy back through proj2; act' */
    expect_work(&s, w1 | b1, false, 1, 1, 2, 1);          /* no dx of proj1, no dw of proj2 */
    expect_work(&s, 0, true, 0, 0, 3, 1);                 /* dx alone */
    expect_work(&s, w1 | b1 | w2 | b2, true, 2, 2, 3, 2); /* all */
    s.gradients.parameters = NULL;
    dws = dbiases = products = 0;
    assert_ok(backward(&s, NULL));
    assert_true(dws == 0 && dbiases == 0 && products == 3);
    step_free(&s);
    tenon_adapter_free(adapter);
}

/* --- threads --- */

typedef struct runner {
    step s;
    const step *expected;
    int differences;
} runner;

static void *run_often(void *argument)
{
    runner *r = argument;
    tenon_error own;
    for (int trial = 0; trial < 50; trial++) {
        for (int64_t i = 0; i < r->s.num; i++)
            memset(r->s.gradient[i], 0, (size_t)r->s.sizes[i] * sizeof(float));
        const tenon_status status =
            tenon_adapter_backward(r->s.adapter, &r->s.tdy, &r->expected->tx, &r->s.gradients, &r->s.call, NULL, &own);
        r->differences += status != TENON_OK;
        for (int64_t i = 0; i < r->s.num; i++) {
            const size_t size = (size_t)r->s.sizes[i] * sizeof(float);
            r->differences += memcmp(r->s.gradient[i], r->expected->gradient[i], size) != 0;
        }
    }
    return NULL;
}

/* Backwards at once, while the adapter is prepared again and again. */
static void one_adapter_serves_many_threads(void **state)
{
    (void)state;
    enum { count = 4 };
    tenon_adapter *adapter = adapter_of("{\"type\": \"attentional_pool\", \"pool_heads\": 2}", 8, 6);
    prepare(adapter, true);
    step first;
    step_new(&first, adapter, 2, 16);
    assert_ok(backward(&first, NULL));
    runner runners[count];
    pthread_t threads[count];
    for (int i = 0; i < count; i++) {
        runners[i] = (runner){.expected = &first};
        step_new(&runners[i].s, adapter, 2, 16);
        memcpy(runners[i].s.dy, first.dy, 2 * 4 * 6 * sizeof(float));
    }
    for (int i = 0; i < count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_often, &runners[i]), 0);
    for (int i = 0; i < 100; i++)
        prepare(adapter, true);
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(runners[i].differences, 0);
        step_free(&runners[i].s);
    }
    step_free(&first);
    tenon_adapter_free(adapter);
}

/* --- connectors of a user's own --- */

/* Rows before, between and after two levels of windows. */
static void pyramid(tenon_builder *b)
{
    tenon_linear(b, "stem", 3, TENON_BIAS);
    tenon_window_mean(b, 2, "partial");
    tenon_activation(b, "silu");
    tenon_window_mean(b, 2, "drop");
    tenon_linear(b, "head", tenon_builder_out_dim(b), TENON_BIAS);
}

/* Activations first, twice and last; attention on rows that are no features, with one fused to it. */
static void crowded(tenon_builder *b)
{
    tenon_activation(b, "silu");
    tenon_linear(b, "stem", 4, TENON_NO_BIAS);
    tenon_activation(b, "gelu");
    tenon_activation(b, "quick_gelu");
    tenon_window_attention(b, "pool", 2, 2, "partial", TENON_NO_BIAS);
    tenon_activation(b, "gelu_tanh");
    tenon_linear(b, "head", tenon_builder_out_dim(b), TENON_BIAS);
    tenon_activation(b, "silu");
}

/* Attention last, straight on the features. */
static void bare(tenon_builder *b)
{
    tenon_window_attention(b, "", 2, 3, "partial", TENON_BIAS);
}

static double loss(step *s)
{
    double sum = 0;
    const int64_t count = s->ty.shape[0] * s->ty.shape[1] * s->ty.shape[2];
    assert_ok(forward(s, NULL));
    for (int64_t i = 0; i < count; i++)
        sum += (double)s->y[i] * (double)s->dy[i];
    return sum;
}

/* d loss / d value, by two central differences (Richardson): tokens are f32, so the steps are long. */
static double slope(tenon_adapter *adapter, step *s, float *value)
{
    const tn_parallel serial = {1, NULL};
    const float start = *value;
    double side[4];
    for (int k = 0; k < 4; k++) {
        *value = start + (k < 2 ? 0.0625f : 0.03125f) * (k % 2 == 0 ? 1.0f : -1.0f);
        assert_ok(tn_adapter_prepare_train_for(adapter, &ops_double, &serial, &error));
        side[k] = loss(s);
    }
    *value = start;
    return (4 * (side[2] - side[3]) / 0.0625 - (side[0] - side[1]) / 0.125) / 3;
}

static void check_user_connector(const char *json, int64_t in, int64_t out, int64_t tokens)
{
    tenon_adapter *adapter = adapter_of(json, in, out);
    const tn_parallel serial = {1, NULL};
    step s;
    step_new(&s, adapter, 2, tokens);
    for (int save = 0; save < 2; save++) {
        assert_ok(tn_adapter_prepare_train_for(adapter, &ops_double, &serial, &error));
        for (int64_t i = 0; i < s.num; i++)
            memset(s.gradient[i], 0, (size_t)s.sizes[i] * sizeof(float));
        s.call.saved = NULL;
        if (save == 1) {
            assert_ok(tenon_adapter_saved_size(adapter, 2, tokens, &s.call, &s.call.saved_size, &error));
            s.call.saved = malloc(s.call.saved_size);
            assert_ok(forward(&s, NULL));
        }
        assert_ok(backward(&s, NULL));
        free(s.call.saved);
        s.call.saved = NULL;
        for (int64_t i = 0; i < s.num; i++) {
            tenon_parameter p;
            tenon_parameter_init(&p);
            assert_ok(tenon_adapter_parameter(adapter, i, &p, &error));
            float *values = (float *)(uintptr_t)p.data;
            for (int64_t j = 0; j < s.sizes[i]; j += 1 + s.sizes[i] / 5)
                assert_true(fabs((double)s.gradient[i][j] - slope(adapter, &s, values + j)) < 2e-4);
        }
        for (int64_t j = 0; j < 2 * tokens * in; j += 7)
            assert_true(fabs((double)s.dx[j] - slope(adapter, &s, s.x + j)) < 2e-4);
    }
    step_free(&s);
    tenon_adapter_free(adapter);
}

static void user_connectors_train(void **state)
{
    (void)state;
    (void)!tenon_register_adapter("pyramid", pyramid, NULL, NULL);
    (void)!tenon_register_adapter("crowded", crowded, NULL, NULL);
    (void)!tenon_register_adapter("bare", bare, NULL, NULL);
    check_user_connector("{\"type\": \"pyramid\"}", 4, 5, 36);
    check_user_connector("{\"type\": \"crowded\", \"prefix_tokens\": 2}", 3, 5, 27);
    check_user_connector("{\"type\": \"bare\"}", 4, 4, 25);
}

static void names_match_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool matches;
    } cases[] = {
        {"proj1.*", "proj1.weight", true},
        {"proj1.*", "proj2.weight", false},
        {"proj1.*", "proj1", false},
        {"*", "", true},
        {"*", "anything", true},
        {"", "", true},
        {"", "a", false},
        {"?", "a", true},
        {"?", "", false},
        {"*.bias", "q_proj.bias", true},
        {"*.bias", "q_proj.biases", false},
        {"?_proj.*", "q_proj.bias", true},
        {"?_proj.*", "qk_proj.bias", false},
        {"*a*b*c", "xaxbxbxc", true},
        {"*a*b*c", "xaxcxb", false},
        {"a**b", "ab", true},
        {"proj.weight", "proj.weight", true},
        {"proj.weight", "proj.weigh", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(tenon_name_matches(cases[i].pattern, cases[i].name), cases[i].matches);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_are_checked),
        cmocka_unit_test(overlaps_are_refused),
        cmocka_unit_test(gradients_are_added),
        cmocka_unit_test(gradients_are_overwritten),
        cmocka_unit_test(forward_keeps_its_bits),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(packs_follow_parameters_changed_in_place),
        cmocka_unit_test(frozen_parameters_cost_nothing),
        cmocka_unit_test(one_adapter_serves_many_threads),
        cmocka_unit_test(user_connectors_train),
        cmocka_unit_test(names_match_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
