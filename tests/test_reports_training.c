/* SPDX-License-Identifier: MIT */
/* What broke elsewhere in training, as tests under the numbers of the collected reports (docs/reliability.md). */
#include "counter_rng.h"
#include "scene.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static tenon_error error;

enum { MOST = 64 }; /* parameters of a connector */

/* A connector ready to train, its features, the gradient of its tokens, and room for all gradients. */
typedef struct setup {
    tenon_adapter *adapter;
    int64_t x_shape[3], y_shape[3];
    float *x, *dy, *dx;
    int64_t num_parameters, parameter_shape[MOST][4], count[MOST];
    float *gradients[MOST];
    DLTensor tensors[MOST];
    const DLTensor *list[MOST];
} setup;

static int64_t product(const int64_t shape[3])
{
    return shape[0] * shape[1] * shape[2];
}

static setup open_setup(const char *json, int64_t in, int64_t out, tenon_dtype dtype, int64_t batch, int64_t tokens)
{
    setup s = {.adapter = adapter_from_json(json, in, out, NULL), .x_shape = {batch, tokens, in}};
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.train = true;
    expect_ok(tenon_adapter_reset_parameters(s.adapter, dtype, 5, &error), &error);
    expect_ok(tenon_adapter_prepare(s.adapter, &options, &error), &error);
    s.y_shape[0] = batch;
    s.y_shape[2] = out;
    expect_ok(tenon_adapter_output_num_tokens(s.adapter, NULL, tokens, &s.y_shape[1], &error), &error);
    s.x = grab((size_t)product(s.x_shape) * sizeof(float));
    s.dx = grab((size_t)product(s.x_shape) * sizeof(float));
    s.dy = grab((size_t)product(s.y_shape) * sizeof(float));
    for (int64_t i = 0; i < product(s.x_shape); i++)
        s.x[i] = counter_value(1, (uint64_t)i);
    for (int64_t i = 0; i < product(s.y_shape); i++)
        s.dy[i] = counter_value(2, (uint64_t)i);
    s.num_parameters = tenon_adapter_num_parameters(s.adapter);
    assert_true(s.num_parameters <= MOST);
    for (int64_t p = 0; p < s.num_parameters; p++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        expect_ok(tenon_adapter_parameter(s.adapter, p, &parameter, &error), &error);
        s.count[p] = 1;
        for (int d = 0; d < parameter.ndim; d++)
            s.count[p] *= s.parameter_shape[p][d] = parameter.shape[d];
        s.gradients[p] = grab((size_t)s.count[p] * sizeof(float));
        s.tensors[p] = (DLTensor){s.gradients[p], {kDLCPU, 0}, parameter.ndim, {kDLFloat, 32, 1}, NULL, NULL, 0};
    }
    return s;
}

static void close_setup(setup *s)
{
    for (int64_t p = 0; p < s->num_parameters; p++)
        free(s->gradients[p]);
    tenon_adapter_free(s->adapter);
    free(s->x), free(s->dy), free(s->dx);
}

/* Gradients of the parameters that `parameters` says, from zero on, and of x where `features` says so. */
static void backward(setup *s, bool parameters, bool features, DLDataType dy_type, void *dy, int threads)
{
    const DLDataType f32 = {kDLFloat, 32, 1};
    DLTensor x = {s->x, {kDLCPU, 0}, 3, f32, s->x_shape, NULL, 0}, dx = x;
    const DLTensor gradient = {dy, {kDLCPU, 0}, 3, dy_type, s->y_shape, NULL, 0};
    tenon_call call;
    tenon_gradients gradients;
    tenon_call_init(&call);
    tenon_gradients_init(&gradients);
    call.threads = threads;
    dx.data = s->dx;
    for (int64_t p = 0; p < s->num_parameters; p++) {
        memset(s->gradients[p], 0, (size_t)s->count[p] * sizeof(float));
        s->tensors[p].shape = s->parameter_shape[p];
        s->list[p] = &s->tensors[p];
    }
    gradients.parameters = parameters ? s->list : NULL;
    gradients.x = features ? &dx : NULL;
    expect_ok(tenon_adapter_backward(s->adapter, &gradient, &x, &gradients, &call, NULL, &error), &error);
}

static uint32_t bits_of_parameters(const setup *s)
{
    uint32_t crc = 0;
    for (int64_t p = 0; p < s->num_parameters; p++)
        crc = crc32_bytes(crc, s->gradients[p], (size_t)s->count[p] * sizeof(float));
    return crc;
}

static uint32_t bits_of_features(const setup *s)
{
    return crc32_bytes(0, s->dx, (size_t)product(s->x_shape) * sizeof(float));
}

/* Its config, of small sizes. The string lives until the next call. */
static const char *config_of(const char *type)
{
    static char json[128];
    snprintf(json, sizeof json, "{\"type\": \"%s\", \"pool_window\": 2, \"pool_heads\": 2}", type);
    return json;
}

static setup open_type(const char *type, int64_t batch)
{
    return open_setup(config_of(type), 8, 6, TENON_F32, batch, 16);
}

/* Does a call have to bring integer tensors? Those types are judged with their layers, in test_map_layers.c. */
static bool needs_integers(const char *type)
{
    char graph[1 << 16];
    tenon_adapter *adapter = adapter_from_json(config_of(type), 8, 6, NULL);
    expect_ok(tenon_adapter_graph_json(adapter, graph, sizeof graph, NULL, &error), &error);
    tenon_adapter_free(adapter);
    return strstr(graph, "\"integers\": []") == NULL;
}

/* B120: every kind that is offered forward has a backward, of finite numbers that are not all zero. Their values are
 * judged in test_training.c and test_gradients.c. */
static void test_B120_every_type_has_a_backward(void **state)
{
    const char *types[64];
    const size_t count = tenon_list_adapters(types, 64);
    (void)state;
    assert_true(count >= 4 && count <= 64);
    for (size_t i = 0; i < count; i++) {
        if (needs_integers(types[i])) continue;
        setup s = open_type(types[i], 3);
        backward(&s, true, true, (DLDataType){kDLFloat, 32, 1}, s.dy, 0);
        for (int64_t p = 0; p < s.num_parameters; p++) {
            double sum = 0;
            for (int64_t k = 0; k < s.count[p]; k++)
                sum += fabs((double)s.gradients[p][k]);
            /* k_proj.bias shifts all scores of a window alike: its gradient is zero, and ours exactly so. */
            const bool is_key_bias = strcmp(types[i], "attentional_pool") == 0 && p == 3;
            assert_true(isfinite(sum) && (sum > 0) != is_key_bias);
        }
        close_setup(&s);
    }
}

/* B122: a gradient of 1e-8 through f16 weights is not flushed to zero: gradients are f32. */
static void test_B122_small_gradients_through_f16_weights(void **state)
{
    (void)state;
    setup s = open_setup("{\"type\": \"linear\"}", 4, 3, TENON_F16, 1, 1);
    for (int k = 0; k < 4; k++)
        s.x[k] = 1;
    for (int k = 0; k < 3; k++)
        s.dy[k] = 1e-8f;
    backward(&s, true, false, (DLDataType){kDLFloat, 32, 1}, s.dy, 0);
    for (int k = 0; k < 12; k++)
        assert_true(s.gradients[0][k] == 1e-8f);
    close_setup(&s);
}

/* B124: what several tokens read adds up, and ten runs on four threads give the same bits. */
static void test_B124_gradients_add_up_the_same_way_each_time(void **state)
{
    (void)state;
    setup s = open_type("attentional_pool", 40);
    backward(&s, true, true, (DLDataType){kDLFloat, 32, 1}, s.dy, 1);
    const uint32_t parameters = bits_of_parameters(&s), features = bits_of_features(&s);
    for (int i = 0; i < 10; i++) {
        backward(&s, true, true, (DLDataType){kDLFloat, 32, 1}, s.dy, 4);
        assert_true(parameters == bits_of_parameters(&s) && features == bits_of_features(&s));
    }
    close_setup(&s);
}

/* B125: 12,500 rows of f16 0.01 give a bias gradient of 125, not the 32 where an f16 sum stops growing. */
static void test_B125_sums_over_rows_are_f32(void **state)
{
    enum { ROWS = 12500, OUT = 3 };
    (void)state;
    setup s = open_setup("{\"type\": \"linear\"}", 4, OUT, TENON_F16, 1, ROWS);
    uint16_t *dy = grab(ROWS * OUT * sizeof *dy);
    for (int i = 0; i < ROWS * OUT; i++)
        dy[i] = half_bits(TENON_F16, 0.01f);
    backward(&s, true, false, (DLDataType){kDLFloat, 16, 1}, dy, 0);
    for (int k = 0; k < OUT; k++)
        assert_true(fabsf(s.gradients[1][k] - 125) <= 125e-3f);
    free(dy);
    close_setup(&s);
}

/* B126: no rows are a legal call, forward and backward, with gradients that are all there and exactly zero. */
static void test_B126_no_rows(void **state)
{
    static const char *const types[] = {"linear", "mlp_2layer", "avgpool", "attentional_pool"};
    (void)state;
    for (int i = 0; i < 4; i++) {
        setup s = open_type(types[i], 0);
        backward(&s, true, true, (DLDataType){kDLFloat, 32, 1}, s.dy, 0);
        for (int64_t p = 0; p < s.num_parameters; p++) {
            for (int64_t k = 0; k < s.count[p]; k++)
                assert_true(s.gradients[p][k] == 0);
        }
        close_setup(&s);
    }
}

/* B128: gradients of the features alone, or of the parameters alone, are those of both together. */
static void test_B128_what_is_asked_for_alone(void **state)
{
    static const char *const types[] = {"linear", "mlp_2layer", "avgpool", "attentional_pool"};
    (void)state;
    for (int i = 0; i < 4; i++) {
        setup s = open_type(types[i], 5);
        backward(&s, true, true, (DLDataType){kDLFloat, 32, 1}, s.dy, 0);
        const uint32_t parameters = bits_of_parameters(&s), features = bits_of_features(&s);
        memset(s.dx, 0xff, (size_t)product(s.x_shape) * sizeof(float));
        backward(&s, true, false, (DLDataType){kDLFloat, 32, 1}, s.dy, 0);
        assert_true(parameters == bits_of_parameters(&s));
        backward(&s, false, true, (DLDataType){kDLFloat, 32, 1}, s.dy, 0);
        assert_true(features == bits_of_features(&s));
        close_setup(&s);
    }
}

/* A gradient that is zero by nature, as that of a key bias in a softmax, makes 0 / eps. */
static void test_C29_eps_is_not_zero(void **state)
{
    const double refused[] = {0, -1e-8, 1e-46, 1e-300, 1e39, INFINITY, NAN}, taken[] = {1e-8, 2e-45, 1e-38, 1};
    tenon_adapter *adapter = adapter_from_json("{\"type\": \"linear\"}", 4, 3, NULL);
    tenon_trainer *trainer = NULL;
    tenon_trainer_options options;
    (void)state;
    expect_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 1, &error), &error);
    tenon_trainer_options_init(&options);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        options.eps = refused[i];
        assert_int_equal(tenon_trainer_new(adapter, &options, &trainer, &error), TENON_INVALID);
        assert_non_null(strstr(error.message, "`eps` must be above 0"));
        assert_int_equal(tenon_trainer_options_check(&options, &error), TENON_INVALID);
        assert_null(trainer);
    }
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        options.eps = taken[i];
        expect_ok(tenon_trainer_options_check(&options, &error), &error);
        expect_ok(tenon_trainer_new(adapter, &options, &trainer, &error), &error);
        tenon_trainer_free(trainer);
    }
    tenon_adapter_free(adapter);
}

static void test_C29_a_zero_gradient_changes_nothing(void **state)
{
    float x[2 * 4 * 4] = {0}, target[2 * 4 * 3] = {0};
    int64_t x_shape[] = {2, 4, 4}, t_shape[] = {2, 4, 3};
    const DLDataType f32 = {kDLFloat, 32, 1};
    const DLTensor features = {x, {kDLCPU, 0}, 3, f32, x_shape, NULL, 0},
                   wanted = {target, {kDLCPU, 0}, 3, f32, t_shape, NULL, 0};
    tenon_adapter *adapter = adapter_from_json("{\"type\": \"linear\"}", 4, 3, NULL);
    tenon_trainer *trainer;
    tenon_trainer_options options;
    tenon_parameter weight;
    (void)state;
    expect_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 1, &error), &error);
    tenon_trainer_options_init(&options);
    options.eps = 2e-45; /* the smallest but one that f32 has */
    options.weight_decay = 0;
    expect_ok(tenon_trainer_new(adapter, &options, &trainer, &error), &error);
    for (int step = 0; step < 3; step++) {
        expect_ok(tenon_trainer_step(trainer, &features, &wanted, NULL, NULL, &error), &error);
        expect_ok(tenon_trainer_apply(trainer, NULL, &error), &error);
    }
    tenon_parameter_init(&weight);
    expect_ok(tenon_adapter_parameter(adapter, 0, &weight, &error), &error);
    for (int i = 0; i < 12; i++)
        assert_true(isfinite(((const float *)weight.data)[i]));
    tenon_trainer_free(trainer);
    tenon_adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B120_every_type_has_a_backward),
        cmocka_unit_test(test_B122_small_gradients_through_f16_weights),
        cmocka_unit_test(test_B124_gradients_add_up_the_same_way_each_time),
        cmocka_unit_test(test_B125_sums_over_rows_are_f32),
        cmocka_unit_test(test_B126_no_rows),
        cmocka_unit_test(test_B128_what_is_asked_for_alone),
        cmocka_unit_test(test_C29_eps_is_not_zero),
        cmocka_unit_test(test_C29_a_zero_gradient_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
