/* SPDX-License-Identifier: MIT */
/* Windows that a call brings as a map of rows: each layer in a small graph, judged as graph_case.h says; numbers that
 * were computed by hand; and what a call with a bad map is told. */
#include "graph_case.h"

#include <math.h>
#include <stdlib.h>

static tenon_error error;

/* Molmo2's adapter: attention over the rows of the map, a gated projection. */
static void pooled(tenon_builder *b)
{
    const int map = tenon_integers(b, "index", 0);
    tenon_map_attention(b, "pool", map, tenon_option_int(b, "heads", 2), tenon_option_int(b, "head_dim", 3),
                        TENON_BIAS);
    const int rows = tenon_linear(b, "o_proj", 4, TENON_BIAS);
    const int gate = tenon_linear(b, "gate", 5, TENON_NO_BIAS);
    tenon_from(b, rows);
    const int up = tenon_linear(b, "up", 5, TENON_NO_BIAS);
    tenon_gate(b, "silu", gate, up);
    tenon_linear(b, "down", tenon_builder_out_dim(b), TENON_NO_BIAS);
}

static void averaged(tenon_builder *b)
{
    tenon_map_mean(b, tenon_integers(b, "index", 0));
}

/* Layers on both sides of the map, and a value of the patches that is an output and read by two maps. */
static void between(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b);
    const int low = tenon_linear(b, "low", out, TENON_BIAS);
    tenon_output(b, "low", low);
    tenon_from(b, low);
    tenon_activation(b, "gelu");
    const int mean = tenon_map_mean(b, tenon_integers(b, "index", 0));
    tenon_from(b, low);
    const int attended = tenon_map_attention(b, "pool", tenon_integers(b, "index", 0), 1, out, TENON_NO_BIAS);
    tenon_sum(b, 2, (int[]){mean, attended});
    tenon_linear(b, "proj", out, TENON_BIAS);
}

/* A map of windows, and what attends to its rows. */
static void stacked(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b);
    tenon_linear(b, "low", out, TENON_BIAS);
    tenon_window_mean(b, 2, "partial");
    const int rows = tenon_map_mean(b, tenon_integers(b, "index", 3));
    const int queries = tenon_parameter_rows(b, "query", 2, out, 0, 1, 0);
    tenon_attention(b, queries, rows, rows, 1, 1);
}

static void undeclared(tenon_builder *b)
{
    tenon_map_mean(b, 0);
}

static int register_all(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        tenon_builder_function build;
    } types[] = {{"pooled", pooled},
                 {"averaged", averaged},
                 {"between", between},
                 {"stacked", stacked},
                 {"undeclared", undeclared}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (tenon_register_adapter(types[i].name, types[i].build, NULL, &error) != TENON_OK) return -1;
    }
    return 0;
}

enum { IMAGES = 3, MAPPED = 11, COLUMNS = 3, ROWS = 4 };

/* Rows below `rows` in no order, some repeated, some absent, the fourth all absent. */
static const int64_t *draw_map(int64_t rows)
{
    static int64_t map[IMAGES * MAPPED * COLUMNS];
    for (int64_t e = 0; e < IMAGES * MAPPED * COLUMNS; e++) {
        map[e] = (e * 7 + e / 5 + 2) % rows;
        if (e % 4 == 3 || e / COLUMNS % MAPPED == 3) map[e] = -1;
    }
    return map;
}

static void check_type(const char *json, int64_t in_dim, int64_t out_dim, int64_t most)
{
    static const int64_t grids[] = {2, 6, 4, 3, 3, 5};
    for (int masks = 0; masks < 2; masks++) {
        graph_case c = {.json = json,
                        .in_dim = in_dim,
                        .out_dim = out_dim,
                        .images = IMAGES,
                        .tokens = 12,
                        .height = 3,
                        .width = 4,
                        .integers = {{"index", 3, {IMAGES, MAPPED, COLUMNS}, draw_map(most)}},
                        .num_integers = 1,
                        .patch_mask = masks != 0,
                        .frame_mask = masks != 0,
                        .seed = 2};
        graph_check(&c);
        c.height = c.width = 0;
        c.tokens = 0;
        c.grids = grids;
        c.grid_columns = 2;
        graph_check(&c);
    }
}

static void windows_come_from_a_map(void **state)
{
    (void)state;
    check_type("{\"type\": \"averaged\"}", 5, 5, 12);
    check_type("{\"type\": \"pooled\"}", 5, 6, 12);
    check_type("{\"type\": \"pooled\", \"heads\": 3, \"head_dim\": 7}", 5, 6, 12);
    check_type("{\"type\": \"between\"}", 5, 6, 12);
    check_type("{\"type\": \"stacked\"}", 5, 6, 3);
}

/* Rows 10, 20, 30; means of rows 0 and 2, of row 1 twice and row 2, of none. */
static void means_are_of_what_is_there(void **state)
{
    (void)state;
    static const double x[] = {10, 20, 30};
    static const int64_t map[] = {2, -1, 0, 1, 2, 1, -1, -1, -1};
    const graph_case c = {.json = "{\"type\": \"averaged\"}",
                          .in_dim = 1,
                          .out_dim = 1,
                          .images = 1,
                          .tokens = 3,
                          .integers = {{"index", 3, {1, 3, 3}, map}},
                          .num_integers = 1};
    int64_t rows;
    double *tokens = graph_tokens_with(&c, NULL, NULL, x, &rows);
    assert_int_equal(rows, 3);
    assert_true(tokens[0] == 20 && fabs(tokens[1] - 70.0 / 3) < 1e-12 && tokens[2] == 0);
    free(tokens);
}

static void told(const tenon_call *call, int64_t images, const char *says)
{
    static float x[6], y[6];
    tenon_config *config;
    tenon_adapter *adapter;
    assert_int_equal(tenon_config_from_json("{\"type\": \"averaged\"}", 20, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 1, 1, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_prepare(adapter, NULL, &error), TENON_OK);
    DLTensor tx = {x, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, (int64_t[]){images, 3, 1}, NULL, 0};
    DLTensor ty = {y, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, (int64_t[]){images, 2, 1}, NULL, 0};
    const tenon_status status = tenon_adapter_forward(adapter, &tx, &ty, call, NULL, &error);
    if (says == NULL && status != TENON_OK) fail_msg("%s", error.message);
    if (says != NULL && (status == TENON_OK || strstr(error.message, says) == NULL)) fail_msg("%s", error.message);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

static void bad_maps_are_told(void **state)
{
    (void)state;
    int64_t map[] = {0, 1, 2, -1};
    DLTensor tensor = {map, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, (int64_t[]){2, 2}, NULL, 0};
    tenon_named_tensor input = {"index", &tensor};
    tenon_call call;
    tenon_call_init(&call);
    told(&call, 1, "needs the integer tensor 'index'");
    call.inputs = &input;
    call.num_inputs = 1;
    told(&call, 1, NULL);
    told(&call, 2, "'index' is of 1 images, the features of 2");
    map[1] = 3;
    told(&call, 1, "'index' names row 3 of image 0, which has 3");
    map[1] = -2;
    told(&call, 1, "'index' names row -2 of image 0");
    map[1] = 1;
    tensor.shape = (int64_t[]){2, 0};
    told(&call, 1, "'index' has rows of no numbers");
    tensor.shape = (int64_t[]){2, 2};
    tensor.ndim = 1;
    told(&call, 1, "");
    input.name = "other";
    told(&call, 1, "has no input 'other'; beside the features it takes: index");
}

/* A map without rows makes no token, and leaves a gradient of zeros. */
static void maps_may_be_empty(void **state)
{
    (void)state;
    int64_t map[1] = {0};
    float x[3] = {1, 2, 3}, dx[3] = {NAN, NAN, NAN}, y[1] = {0};
    DLTensor tensor = {map, {kDLCPU, 0}, 3, {kDLInt, 64, 1}, (int64_t[]){1, 0, 2}, NULL, 0};
    tenon_named_tensor input = {"index", &tensor};
    DLTensor tx = {x, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, (int64_t[]){1, 3, 1}, NULL, 0}, tdx = tx;
    DLTensor ty = {y, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, (int64_t[]){1, 0, 1}, NULL, 0};
    tenon_config *config;
    tenon_adapter *adapter;
    tenon_call call;
    tenon_gradients gradients;
    tenon_prepare_options options;
    tdx.data = dx;
    assert_int_equal(tenon_config_from_json("{\"type\": \"averaged\"}", 20, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 1, 1, NULL, &adapter, &error), TENON_OK);
    tenon_prepare_options_init(&options);
    options.train = true;
    assert_int_equal(tenon_adapter_prepare(adapter, &options, &error), TENON_OK);
    tenon_call_init(&call);
    call.inputs = &input;
    call.num_inputs = 1;
    tenon_gradients_init(&gradients);
    gradients.x = &tdx;
    assert_int_equal(tenon_adapter_forward(adapter, &tx, &ty, &call, NULL, &error), TENON_OK);
    assert_int_equal(tenon_adapter_backward(adapter, &ty, &tx, &gradients, &call, NULL, &error), TENON_OK);
    assert_true(dx[0] == 0 && dx[1] == 0 && dx[2] == 0);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

/* Tokens are counted from the shape of the map. */
static void tokens_are_counted(void **state)
{
    (void)state;
    static const int64_t map[] = {0, 1, 2, -1};
    DLTensor tensor = {(void *)(uintptr_t)map, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, (int64_t[]){2, 2}, NULL, 0};
    tenon_named_tensor input = {"index", &tensor};
    tenon_config *config;
    tenon_adapter *adapter;
    tenon_call call;
    int64_t count;
    double flops;
    assert_int_equal(tenon_config_from_json("{\"type\": \"averaged\"}", 20, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 1, 1, NULL, &adapter, &error), TENON_OK);
    tenon_call_init(&call);
    assert_int_equal(tenon_adapter_output_num_tokens(adapter, &call, 3, &count, &error), TENON_INVALID);
    call.inputs = &input;
    call.num_inputs = 1;
    assert_int_equal(tenon_adapter_output_num_tokens(adapter, &call, 3, &count, &error), TENON_OK);
    assert_int_equal(count, 2);
    assert_int_equal(tenon_adapter_flops(adapter, 3, &call, &flops, &error), TENON_OK);
    assert_true(flops == 6);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
    assert_int_equal(tenon_config_from_json("{\"type\": \"undeclared\"}", 22, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 1, 1, NULL, &adapter, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "reads integer tensor 0; it has declared 0"));
    tenon_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_are_of_what_is_there), cmocka_unit_test(windows_come_from_a_map),
        cmocka_unit_test(bad_maps_are_told),          cmocka_unit_test(maps_may_be_empty),
        cmocka_unit_test(tokens_are_counted),
    };
    return cmocka_run_group_tests(tests, register_all, NULL);
}
