/* SPDX-License-Identifier: MIT */
/* Layer types: each in a small graph, judged as graph_case.h says; and numbers that were computed by hand. */
#include "graph_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static tenon_error error;

static void norms(tenon_builder *b)
{
    tenon_layer_norm(b, "first", tenon_option_real(b, "eps", 1e-5));
    tenon_linear(b, "fc", tenon_builder_out_dim(b), TENON_BIAS);
    tenon_rms_norm(b, "second", 1e-6, 0);
    tenon_rms_norm(b, "third", 1e-6, TENON_PLUS_ONE);
    tenon_activation(b, "gelu");
    tenon_rms_norm(b, "", 1e-6, TENON_NO_WEIGHT);
}

/* Qwen2-VL's merger, of rows in blocks. */
static void merger(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "side", 2);
    if (tenon_option_int(b, "blocks", 1)) tenon_features(b, TENON_ROWS_BLOCKS);
    tenon_layer_norm(b, "ln_q", 1e-6);
    tenon_patch_merge(b, side, tenon_option_int(b, "channel_first", 0) ? TENON_MERGE_C_DY_DX : TENON_MERGE_DY_DX_C,
                      tenon_option_string(b, "ragged", "reject"));
    tenon_linear(b, "mlp.0", 4 * tenon_builder_in_dim(b), TENON_BIAS);
    tenon_activation(b, "gelu");
    tenon_linear(b, "mlp.2", tenon_builder_out_dim(b), TENON_BIAS);
}

static void gated(tenon_builder *b)
{
    const int64_t hidden = 2 * tenon_builder_out_dim(b);
    const int gate = tenon_linear(b, "gate_proj", hidden, TENON_NO_BIAS);
    tenon_from(b, 0);
    const int up = tenon_linear(b, "up_proj", hidden, TENON_BIAS);
    tenon_gate(b, tenon_option_string(b, "activation", "silu"), gate, up);
    tenon_linear(b, "down_proj", tenon_builder_out_dim(b), TENON_BIAS | TENON_TRANSPOSED);
}

static void only_merge(tenon_builder *b)
{
    tenon_patch_merge(b, 2, tenon_option_int(b, "channel_first", 0) ? TENON_MERGE_C_DY_DX : TENON_MERGE_DY_DX_C,
                      "partial");
}

static void transposed(tenon_builder *b)
{
    if (tenon_option_bool(b, "blocks", false)) tenon_features(b, TENON_ROWS_BLOCKS);
    tenon_patch_merge(b, 2, TENON_MERGE_DY_DX_C_TRANSPOSED, "drop");
    tenon_linear(b, "fc", tenon_builder_out_dim(b), TENON_BIAS);
}

static void halves(tenon_builder *b)
{
    tenon_linear(b, "both", 2 * tenon_builder_out_dim(b), TENON_BIAS);
    tenon_gate_halves(b, tenon_option_string(b, "activation", "silu"), tenon_option_bool(b, "second", true));
}

static void only_halves(tenon_builder *b)
{
    tenon_gate_halves(b, "relu", tenon_option_bool(b, "second", true));
}

static void only_transposed(tenon_builder *b)
{
    tenon_patch_merge(b, 2, TENON_MERGE_DY_DX_C_TRANSPOSED, "reject");
}

static void bare(tenon_builder *b)
{
    tenon_linear(b, "mm_input_projection_weight", tenon_builder_out_dim(b), TENON_TRANSPOSED | TENON_BARE_NAME);
}

static int register_all(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        tenon_builder_function build;
    } types[] = {{"norms", norms},
                 {"merger", merger},
                 {"gated", gated},
                 {"only_merge", only_merge},
                 {"bare", bare},
                 {"transposed", transposed},
                 {"halves", halves},
                 {"only_halves", only_halves},
                 {"only_transposed", only_transposed}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (tenon_register_adapter(types[i].name, types[i].build, NULL, &error) != TENON_OK) return -1;
    }
    return 0;
}

static void rows_are_normalised(void **state)
{
    (void)state;
    static const int64_t widths[] = {2, 7, 33, 300};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        graph_check(&(graph_case){.json = "{\"type\": \"norms\"}",
                                  .in_dim = widths[i],
                                  .out_dim = 9,
                                  .images = 2,
                                  .tokens = 5,
                                  .patch_mask = true,
                                  .scale = 3,
                                  .seed = i});
    }
}

static void patches_are_merged(void **state)
{
    (void)state;
    static const int64_t grids[] = {1, 2, 4, 2, 4, 2, 1, 6, 2};
    graph_check(&(graph_case){.json = "{\"type\": \"merger\"}",
                              .in_dim = 5,
                              .out_dim = 7,
                              .images = 2,
                              .tokens = 24,
                              .height = 4,
                              .width = 6,
                              .patch_mask = true});
    graph_check(&(graph_case){.json = "{\"type\": \"merger\"}",
                              .in_dim = 5,
                              .out_dim = 7,
                              .images = 3,
                              .grids = grids,
                              .grid_columns = 3,
                              .patch_mask = true,
                              .frame_mask = true});
    graph_check(
        &(graph_case){.json = "{\"type\": \"merger\", \"blocks\": 0, \"channel_first\": 1, \"ragged\": \"partial\"}",
                      .in_dim = 5,
                      .out_dim = 7,
                      .images = 2,
                      .tokens = 15,
                      .height = 3,
                      .width = 5,
                      .patch_mask = true});
    graph_check(&(graph_case){.json = "{\"type\": \"merger\", \"blocks\": 0, \"side\": 3, \"ragged\": \"drop\"}",
                              .in_dim = 5,
                              .out_dim = 7,
                              .images = 2,
                              .tokens = 20,
                              .height = 4,
                              .width = 5});
}

static void values_gate_each_other(void **state)
{
    (void)state;
    static const char *const configs[] = {"{\"type\": \"gated\"}",
                                          "{\"type\": \"gated\", \"activation\": \"gelu_tanh\"}"};
    for (size_t i = 0; i < 2; i++) {
        graph_check(&(graph_case){.json = configs[i], .in_dim = 6, .out_dim = 5, .images = 2, .tokens = 7, .seed = i});
    }
}

/* y = f(one half) times the other: relu(-3, 4) (1, -2) = (0, -8), and the first half as the gate, relu(1, -2) (-3, 4)
 * = (-3, 0). */
static void halves_gate_each_other(void **state)
{
    (void)state;
    static const char *const configs[] = {"{\"type\": \"halves\"}", "{\"type\": \"halves\", \"second\": false}",
                                          "{\"type\": \"halves\", \"activation\": \"gelu\"}"};
    for (size_t i = 0; i < 3; i++) {
        graph_check(&(graph_case){
            .json = configs[i], .in_dim = 6, .out_dim = 21, .images = 2, .tokens = 7, .patch_mask = i == 1, .seed = i});
    }
    static const double x[] = {1, -2, -3, 4};
    static const double expected[2][2] = {{0, -8}, {-3, 0}};
    for (int second = 0; second < 2; second++) {
        const char *json = second ? "{\"type\": \"only_halves\"}" : "{\"type\": \"only_halves\", \"second\": false}";
        const graph_case c = {.json = json, .in_dim = 4, .out_dim = 2, .images = 1, .tokens = 1};
        int64_t rows;
        double *y = graph_tokens_with(&c, NULL, NULL, x, &rows);
        assert_true(rows == 1 && y[0] == expected[!second][0] && y[1] == expected[!second][1]);
        free(y);
    }
    tenon_config *config;
    tenon_adapter *adapter;
    assert_int_equal(tenon_config_from_json("{\"type\": \"only_halves\"}", 23, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 5, 2, NULL, &adapter, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "even width (got 5)"));
    tenon_config_free(config);
}

/* Windows column by column, over frames, blocks and images of their own size. */
static void merges_may_be_transposed(void **state)
{
    (void)state;
    static const int64_t grids[] = {1, 2, 4, 2, 4, 2, 1, 6, 4};
    graph_check(&(graph_case){.json = "{\"type\": \"transposed\"}",
                              .in_dim = 5,
                              .out_dim = 7,
                              .images = 2,
                              .tokens = 35,
                              .height = 5,
                              .width = 7,
                              .patch_mask = true});
    for (int i = 0; i < 2; i++) {
        graph_check(
            &(graph_case){.json = i ? "{\"type\": \"transposed\", \"blocks\": true}" : "{\"type\": \"transposed\"}",
                          .in_dim = 5,
                          .out_dim = 7,
                          .images = 3,
                          .grids = grids,
                          .grid_columns = 3,
                          .patch_mask = true,
                          .frame_mask = true});
    }
}

/* On a 4 x 4 grid whose patch p is the number p the second token is the window below the first. */
static void transposed_windows_go_down(void **state)
{
    (void)state;
    static const double x[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const double expected[] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    const graph_case c = {
        .json = "{\"type\": \"only_transposed\"}", .in_dim = 1, .out_dim = 4, .images = 1, .tokens = 16};
    int64_t rows;
    double *tokens = graph_tokens_with(&c, NULL, NULL, x, &rows);
    assert_int_equal(rows, 4);
    assert_memory_equal(tokens, expected, sizeof expected);
    free(tokens);
}

static void weights_may_be_stored_transposed(void **state)
{
    (void)state;
    graph_check(&(graph_case){.json = "{\"type\": \"bare\"}", .in_dim = 6, .out_dim = 9, .images = 2, .tokens = 7});
    tenon_config *config;
    tenon_adapter *adapter;
    tenon_parameter parameter;
    assert_int_equal(tenon_config_from_json("{\"type\": \"bare\"}", 16, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 6, 9, NULL, &adapter, &error), TENON_OK);
    tenon_parameter_init(&parameter);
    assert_int_equal(tenon_adapter_parameter(adapter, 0, &parameter, &error), TENON_OK);
    assert_string_equal(parameter.name, "mm_input_projection_weight");
    assert_true(parameter.shape[0] == 6 && parameter.shape[1] == 9);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

/* On a 2 x 3 grid whose patch p has the channels (10 p, 10 p + 1), the second window has its right column missing. */
static void merges_have_their_order(void **state)
{
    (void)state;
    static const double x[] = {0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51};
    static const double patches_first[] = {0, 1, 10, 11, 30, 31, 40, 41, 20, 21, 0, 0, 50, 51, 0, 0};
    static const double channels_first[] = {0, 10, 30, 40, 1, 11, 31, 41, 20, 0, 50, 0, 21, 0, 51, 0};
    for (int channel_first = 0; channel_first < 2; channel_first++) {
        const graph_case c = {.json = channel_first ? "{\"type\": \"only_merge\", \"channel_first\": 1}"
                                                    : "{\"type\": \"only_merge\"}",
                              .in_dim = 2,
                              .out_dim = 8,
                              .images = 1,
                              .tokens = 6,
                              .height = 2,
                              .width = 3};
        int64_t rows;
        double *tokens = graph_tokens_with(&c, NULL, NULL, x, &rows);
        const double *expected = channel_first ? channels_first : patches_first;
        assert_int_equal(rows, 2);
        for (int i = 0; i < 16; i++)
            assert_true(tokens[i] == expected[i]);
        free(tokens);
    }
}

/* The JSON of a graph holds these pieces. */
static void expect_graph(const char *json, int64_t in_dim, int64_t out_dim, const char *const *pieces)
{
    static char text[16384];
    size_t length;
    tenon_config *config;
    tenon_adapter *adapter;
    assert_int_equal(tenon_config_from_json(json, strlen(json), &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, in_dim, out_dim, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_graph_json(adapter, NULL, 0, &length, &error), TENON_OK);
    assert_int_equal(tenon_adapter_graph_json(adapter, text, length, NULL, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "bytes; the buffer has"));
    assert_int_equal(tenon_adapter_graph_json(adapter, text, sizeof text, &length, &error), TENON_OK);
    assert_int_equal(strlen(text), length);
    for (; *pieces != NULL; pieces++) {
        if (strstr(text, *pieces) == NULL) fail_msg("%s is not in %s", *pieces, text);
    }
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

static void graphs_are_described(void **state)
{
    (void)state;
    expect_graph(
        "{\"type\": \"merger\", \"prefix_tokens\": 1}", 5, 7,
        (const char *const[]){
            "{\"type\": \"merger\", \"in_dim\": 5, \"out_dim\": 7, \"prefix_tokens\": 1, ",
            "\"inputs\": [{\"name\": \"features\", \"value\": 0}], \"integers\": [], ",
            "\"outputs\": [{\"name\": \"tokens\", \"value\": 5}], ",
            "\"spaces\": [{\"kind\": \"input\", \"order\": \"blocks\"}, {\"kind\": \"windows\", \"parent\": 0, "
            "\"side\": 2, \"ragged\": \"reject\", \"is_pool\": false, \"transposed\": false}], ",
            "\"values\": [{\"space\": 0, \"width\": 5, \"input\": \"features\"}, {\"space\": 0, \"width\": 5, "
            "\"layer\": 0}, {\"space\": 1, \"width\": 20, \"layer\": 1}, ",
            "{\"type\": \"norm\", \"name\": \"ln_q\", \"reach\": \"row\", \"inputs\": [0], \"output\": 1, "
            "\"settings\": {\"center\": true, \"eps\": ",
            ", \"weight\": true, \"plus_one\": false, \"bias\": true}, \"parameters\": [\"ln_q.weight\", "
            "\"ln_q.bias\"]}",
            "\"settings\": {\"order\": \"dy_dx_c\"}",
            "{\"type\": \"activation\", \"name\": \"gelu\", \"reach\": \"row\", \"inputs\": [3], \"output\": 4, "
            "\"settings\": {\"activation\": \"gelu\"}, \"parameters\": []}",
            "{\"name\": \"ln_q.weight\", \"shape\": [5], \"initial\": {\"rule\": \"constant\", \"value\": 1.0}, "
            "\"decays\": false}",
            "{\"name\": \"mlp.0.weight\", \"shape\": [20, 20], \"initial\": {\"rule\": \"kaiming_uniform\", "
            "\"fan_in\": 20}, \"decays\": true}",
            "{\"name\": \"mlp.2.bias\", \"shape\": [7], \"initial\": {\"rule\": \"uniform\", \"fan_in\": 20}, "
            "\"decays\": false}",
            NULL});
    expect_graph(
        "{\"type\": \"gated\"}", 6, 5,
        (const char *const[]){"{\"type\": \"gate\", \"name\": \"silu\", \"reach\": \"row\", \"inputs\": [1, 2]",
                              "\"settings\": {\"activation\": \"silu\"}",
                              "\"settings\": {\"bias\": true, \"transposed\": true}", NULL});
    expect_graph("{\"type\": \"attentional_pool\", \"pool_heads\": 2}", 6, 5,
                 (const char *const[]){"\"settings\": {\"heads\": 2, \"bias\": true}", "\"reach\": \"window\"",
                                       "\"is_pool\": true", NULL});
}

/* Whatever grid a type needs. */
static void configs_are_checked_without_a_grid(void **state)
{
    (void)state;
    tenon_config *config;
    assert_int_equal(tenon_config_from_json("{\"type\": \"merger\"}", 18, &config, &error), TENON_OK);
    assert_int_equal(tenon_config_set_int(config, "side", 3, &error), TENON_OK);
    assert_int_equal(tenon_config_check(config, &error), TENON_OK);
    assert_int_equal(tenon_config_set_int(config, "side", 0, &error), TENON_OK);
    assert_int_equal(tenon_config_check(config, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "a patch merge needs a positive side"));
    assert_int_equal(tenon_config_set_int(config, "side", 3, &error), TENON_OK);
    assert_int_equal(tenon_config_set_int(config, "sides", 3, &error), TENON_OK);
    assert_int_equal(tenon_config_check(config, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "has no option 'sides' (did you mean 'side'?)"));
    tenon_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_normalised),      cmocka_unit_test(patches_are_merged),
        cmocka_unit_test(values_gate_each_other),   cmocka_unit_test(weights_may_be_stored_transposed),
        cmocka_unit_test(merges_have_their_order),  cmocka_unit_test(halves_gate_each_other),
        cmocka_unit_test(merges_may_be_transposed), cmocka_unit_test(transposed_windows_go_down),
        cmocka_unit_test(graphs_are_described),     cmocka_unit_test(configs_are_checked_without_a_grid),
    };
    return cmocka_run_group_tests(tests, register_all, NULL);
}
