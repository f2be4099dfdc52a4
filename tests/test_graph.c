/* SPDX-License-Identifier: MIT */
/* Graphs that no shipped connector has: residuals, several inputs and outputs, rows that are read more than once,
 * packed batches; and what a builder is told. */
#include "graph_case.h"

#include <stdlib.h>

static tenon_error error;

/* y = fc2(gelu(fc1(x))) + skip(x), read twice more: everything that liveness can get wrong */
static void residual(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b);
    const int x = 0;
    tenon_from(b, x);
    tenon_linear(b, "fc1", 2 * out, TENON_BIAS);
    tenon_activation(b, "gelu");
    const int deep = tenon_linear(b, "fc2", out, TENON_BIAS);
    tenon_from(b, x);
    const int skip = tenon_linear(b, "skip", out, TENON_NO_BIAS);
    const int sum = tenon_sum(b, 2, (int[]){deep, skip});
    tenon_activation(b, "silu");
    const int last = tenon_linear(b, "last", out, TENON_BIAS);
    tenon_sum(b, 4, (int[]){last, sum, skip, deep});
}

/* Two taps beside the features, joined; an output of its own on the way. */
static void taps(tenon_builder *b)
{
    const int64_t in = tenon_builder_in_dim(b), out = tenon_builder_out_dim(b);
    const int first = tenon_tap(b, "tap.0", in), second = tenon_tap(b, "tap.1", 3);
    tenon_concat(b, 3, (int[]){first, 0, second});
    const int joined = tenon_linear(b, "joined", out + 1, TENON_BIAS);
    tenon_output(b, "joined", joined);
    tenon_from(b, joined);
    tenon_activation(b, "relu");
    tenon_linear(b, "proj", out, TENON_BIAS);
}

/* Windows of a sum; the other output has the rows of the patches, so that a value crosses a cut. */
static void cut(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b);
    const int low = tenon_linear(b, "low", out, TENON_BIAS);
    tenon_output(b, "patches", low);
    tenon_from(b, low);
    tenon_activation(b, "gelu_tanh");
    tenon_window_mean(b, tenon_option_int(b, "pool_window", 2), tenon_option_string(b, "ragged", "partial"));
    const int mean = tenon_linear(b, "mean", out, TENON_BIAS);
    tenon_from(b, low);
    const int attended = tenon_window_attention(b, "pool", 1, 2, "partial", TENON_BIAS);
    tenon_sum(b, 2, (int[]){mean, attended});
}

/* Windows of windows, and a mean beside an attention over the same windows. */
static void levels(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b);
    tenon_linear(b, "low", 4, TENON_BIAS);
    const int low = tenon_activation(b, "gelu");
    const int mean = tenon_window_mean(b, 2, "partial");
    tenon_from(b, low);
    const int attended = tenon_window_attention(b, "pool", 2, 2, "partial", TENON_BIAS);
    tenon_sum(b, 2, (int[]){mean, attended});
    tenon_window_mean(b, 2, "partial");
    tenon_linear(b, "proj", out, TENON_BIAS);
}

static void only_copy(tenon_builder *b)
{
    tenon_copy(b);
}

static void unread(tenon_builder *b)
{
    tenon_linear(b, "lost", 3, TENON_BIAS);
    tenon_from(b, 0);
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

static void unknown_value(tenon_builder *b)
{
    tenon_from(b, 7);
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

static void other_rows(tenon_builder *b)
{
    const int low = tenon_linear(b, "low", 4, TENON_BIAS);
    const int mean = tenon_window_mean(b, 2, "partial");
    tenon_sum(b, 2, (int[]){low, mean});
}

static void other_width(tenon_builder *b)
{
    const int low = tenon_linear(b, "low", 4, TENON_BIAS);
    tenon_sum(b, 2, (int[]){0, low});
}

static void two_names(tenon_builder *b)
{
    const int low = tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
    tenon_output(b, "more", low);
    tenon_output(b, "more", low);
}

static int register_all(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        tenon_builder_function build;
    } types[] = {{"residual", residual},
                 {"taps", taps},
                 {"cut", cut},
                 {"levels", levels},
                 {"only_copy", only_copy},
                 {"unread", unread},
                 {"unknown_value", unknown_value},
                 {"other_rows", other_rows},
                 {"other_width", other_width},
                 {"two_names", two_names}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (tenon_register_adapter(types[i].name, types[i].build, NULL, &error) != TENON_OK) return -1;
    }
    return 0;
}

static void values_are_read_more_than_once(void **state)
{
    (void)state;
    graph_check(&(graph_case){.json = "{\"type\": \"residual\"}", .in_dim = 7, .out_dim = 5, .images = 3, .tokens = 6});
    graph_check(&(graph_case){.json = "{\"type\": \"residual\", \"prefix_tokens\": 2}",
                              .in_dim = 17,
                              .out_dim = 20,
                              .images = 2,
                              .tokens = 1300,
                              .patch_mask = true,
                              .frame_mask = true});
}

static void inputs_and_outputs_have_names(void **state)
{
    (void)state;
    graph_check(&(graph_case){.json = "{\"type\": \"taps\"}",
                              .in_dim = 6,
                              .out_dim = 4,
                              .images = 2,
                              .tokens = 9,
                              .patch_mask = true,
                              .nonlinear_kinks = true,
                              .seed = 3});
}

static void segments_are_cut(void **state)
{
    (void)state;
    static const int64_t grids[] = {2, 3, 5, 4, 1, 1, 3, 3};
    graph_check(&(graph_case){.json = "{\"type\": \"cut\"}", .in_dim = 5, .out_dim = 6, .images = 2, .tokens = 16});
    graph_check(&(graph_case){.json = "{\"type\": \"cut\", \"ragged\": \"partial\"}",
                              .in_dim = 5,
                              .out_dim = 6,
                              .images = 3,
                              .tokens = 20,
                              .height = 4,
                              .width = 5,
                              .patch_mask = true,
                              .frame_mask = true});
    graph_check(&(graph_case){.json = "{\"type\": \"cut\"}",
                              .in_dim = 5,
                              .out_dim = 6,
                              .images = 4,
                              .grids = grids,
                              .grid_columns = 2,
                              .patch_mask = true});
}

static void windows_lie_in_windows(void **state)
{
    (void)state;
    static const int64_t grids[] = {1, 2, 3, 2, 5, 4, 1, 1, 1};
    graph_check(&(graph_case){.json = "{\"type\": \"levels\"}",
                              .in_dim = 5,
                              .out_dim = 6,
                              .images = 2,
                              .tokens = 35,
                              .height = 5,
                              .width = 7,
                              .patch_mask = true});
    graph_check(&(graph_case){.json = "{\"type\": \"levels\", \"prefix_tokens\": 1}",
                              .in_dim = 5,
                              .out_dim = 6,
                              .images = 3,
                              .grids = grids,
                              .grid_columns = 3,
                              .patch_mask = true,
                              .frame_mask = true});
}

static void an_input_can_be_the_output(void **state)
{
    (void)state;
    graph_check(
        &(graph_case){.json = "{\"type\": \"only_copy\"}", .in_dim = 4, .out_dim = 4, .images = 2, .tokens = 3});
}

static void builders_are_told(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } cases[] = {{"{\"type\": \"unread\"}", "which nothing reads"},
                 {"{\"type\": \"unknown_value\"}", "reads value 7; there are values 0 to 0"},
                 {"{\"type\": \"other_rows\"}", "whose rows are not the same"},
                 {"{\"type\": \"other_width\"}", "adds values of width 6 and 4"},
                 {"{\"type\": \"two_names\"}", "declares the output 'more' twice"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        graph_refused(cases[i].json, cases[i].says);
}

/* A batch of images of different size has the bits of each image by itself. */
static void packed_images_are_what_they_are_alone(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"type\": \"avgpool\", \"prefix_tokens\": 1}",
        "{\"type\": \"attentional_pool\", \"pool_heads\": 2, \"ragged\": \"partial\"}", "{\"type\": \"mlp_2layer\"}",
        "{\"type\": \"levels\"}"};
    static const int64_t grids[] = {4, 4, 3, 5, 1, 1, 6, 2};
    enum { images = 4, in = 6, out = 5 };
    for (size_t k = 0; k < sizeof configs / sizeof configs[0]; k++) {
        const int64_t prefix = k == 0 ? 1 : 0;
        tenon_config *config;
        tenon_adapter *adapter;
        assert_int_equal(tenon_config_from_json(configs[k], strlen(configs[k]), &config, &error), TENON_OK);
        assert_int_equal(tenon_adapter_new(config, in, out, NULL, &adapter, &error), TENON_OK);
        assert_int_equal(tenon_adapter_reset_parameters(adapter, TENON_F32, 3, &error), TENON_OK);
        assert_int_equal(tenon_adapter_prepare(adapter, NULL, &error), TENON_OK);
        int64_t rows = 0, tokens = 0, counts[images];
        tenon_call call;
        for (int i = 0; i < images; i++) {
            tenon_call_init(&call);
            call.grid_height = grids[2 * i], call.grid_width = grids[2 * i + 1];
            const int64_t n = grids[2 * i] * grids[2 * i + 1] + prefix;
            assert_int_equal(tenon_adapter_output_num_tokens(adapter, &call, n, &counts[i], &error), TENON_OK);
            rows += n, tokens += counts[i];
        }
        float *x = malloc((size_t)(rows * in) * sizeof *x), *y = calloc((size_t)(tokens * out), sizeof *y);
        float *alone = calloc((size_t)(tokens * out), sizeof *alone);
        for (int64_t i = 0; i < rows * in; i++)
            x[i] = (float)((i * 37) % 101 - 50) / 25;
        DLTensor grid = {(void *)(uintptr_t)grids, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, (int64_t[]){images, 2}, NULL, 0};
        DLTensor tx = {x, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){rows, in}, NULL, 0};
        DLTensor ty = {y, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){tokens, out}, NULL, 0};
        tenon_call_init(&call);
        call.grids = &grid;
        int64_t offsets[images + 1];
        assert_int_equal(tenon_adapter_output_offsets(adapter, 0, &call, images, 0, offsets, &error), TENON_OK);
        for (int i = 0; i < images; i++)
            assert_int_equal(offsets[i + 1] - offsets[i], counts[i]);
        assert_true(offsets[0] == 0 && offsets[images] == tokens);
        assert_int_equal(tenon_adapter_output_offsets(adapter, 0, &call, images + 1, 0, offsets, &error),
                         TENON_MISMATCH);
        assert_int_equal(tenon_adapter_output_offsets(adapter, 1, &call, images, 0, offsets, &error), TENON_NOT_FOUND);
        if (tenon_adapter_forward(adapter, &tx, &ty, &call, NULL, &error) != TENON_OK) fail_msg("%s", error.message);
        int64_t row = 0, token = 0;
        for (int i = 0; i < images; i++) {
            tenon_call_init(&call);
            call.grid_height = grids[2 * i], call.grid_width = grids[2 * i + 1];
            const int64_t n = grids[2 * i] * grids[2 * i + 1] + prefix;
            DLTensor ax = {x + row * in, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){n, in}, NULL, 0};
            DLTensor ay = {alone + token * out,         {kDLCPU, 0}, 2, {kDLFloat, 32, 1},
                           (int64_t[]){counts[i], out}, NULL,        0};
            if (tenon_adapter_forward(adapter, &ax, &ay, &call, NULL, &error) != TENON_OK)
                fail_msg("%s", error.message);
            row += n, token += counts[i];
        }
        assert_memory_equal(y, alone, (size_t)(tokens * out) * sizeof *y);
        free(x), free(y), free(alone);
        tenon_config_free(config);
        tenon_adapter_free(adapter);
    }
}

/* The tokens first, then what else the builder named; offsets of images that are all alike. */
static void outputs_are_told(void **state)
{
    (void)state;
    tenon_config *config;
    tenon_adapter *adapter;
    const char *name;
    int64_t width, offsets[4];
    assert_int_equal(tenon_config_from_json("{\"type\": \"cut\"}", 15, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 4, 5, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_num_outputs(adapter), 2);
    assert_int_equal(tenon_adapter_output(adapter, 0, &name, &width, &error), TENON_OK);
    assert_true(strcmp(name, "tokens") == 0 && width == 5);
    assert_int_equal(tenon_adapter_output(adapter, 1, &name, &width, &error), TENON_OK);
    assert_true(strcmp(name, "patches") == 0 && width == 5);
    assert_int_equal(tenon_adapter_output(adapter, 2, &name, &width, &error), TENON_NOT_FOUND);
    assert_int_equal(tenon_adapter_output_offsets(adapter, 0, NULL, 3, 25, offsets, &error), TENON_OK);
    assert_true(offsets[0] == 0 && offsets[1] == 9 && offsets[3] == 27);
    assert_int_equal(tenon_adapter_output_offsets(adapter, 1, NULL, 3, 25, offsets, &error), TENON_OK);
    assert_true(offsets[1] == 25 && offsets[3] == 75);
    assert_int_equal(tenon_adapter_output_offsets(adapter, 0, NULL, -1, 25, offsets, &error), TENON_INVALID);
    assert_int_equal(tenon_adapter_output_offsets(adapter, 0, NULL, 1, 24, offsets, &error), TENON_INVALID);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

/* Further inputs of a packed batch have the rows of the features, prefix tokens included. */
static void packed_taps_have_prefix_tokens(void **state)
{
    (void)state;
    static const char json[] = "{\"type\": \"taps\", \"prefix_tokens\": 2}";
    static const int64_t grids[] = {1, 2, 2, 2};
    tenon_config *config;
    tenon_adapter *adapter;
    assert_int_equal(tenon_config_from_json(json, strlen(json), &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 3, 2, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_reset_parameters(adapter, TENON_F32, 3, &error), TENON_OK);
    assert_int_equal(tenon_adapter_prepare(adapter, NULL, &error), TENON_OK);
    float x[10 * 3], first[10 * 3], second[10 * 3], y[6 * 2], joined[6 * 3], alone[4 * 2], alone_joined[4 * 3];
    for (int i = 0; i < 30; i++)
        x[i] = (float)(i % 7) / 4, first[i] = (float)(i % 5) / 3, second[i] = (float)(i % 11) / 8;
    DLTensor grid = {(void *)(uintptr_t)grids, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, (int64_t[]){2, 2}, NULL, 0};
    DLTensor t[5];
    float *const data[] = {x, first, second, y, joined};
    int64_t shapes[5][2] = {{10, 3}, {10, 3}, {10, 3}, {6, 2}, {6, 3}};
    for (int i = 0; i < 5; i++)
        t[i] = (DLTensor){data[i], {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shapes[i], NULL, 0};
    const tenon_named_tensor inputs[] = {{"tap.0", &t[1]}, {"tap.1", &t[2]}}, outputs[] = {{"joined", &t[4]}};
    tenon_call call;
    tenon_call_init(&call);
    call.grids = &grid;
    call.inputs = inputs, call.num_inputs = 2;
    call.outputs = outputs, call.num_outputs = 1;
    int64_t offsets[3];
    assert_int_equal(tenon_adapter_output_offsets(adapter, 1, &call, 2, 0, offsets, &error), TENON_OK);
    assert_true(offsets[1] == 2 && offsets[2] == 6);
    if (tenon_adapter_forward(adapter, &t[0], &t[3], &call, NULL, &error) != TENON_OK) fail_msg("%s", error.message);
    /* The second image by itself. */
    call.grids = NULL;
    for (int i = 0; i < 3; i++)
        t[i].data = data[i] + 4 * 3, shapes[i][0] = 6;
    t[3].data = alone, shapes[3][0] = 4;
    t[4].data = alone_joined, shapes[4][0] = 4;
    if (tenon_adapter_forward(adapter, &t[0], &t[3], &call, NULL, &error) != TENON_OK) fail_msg("%s", error.message);
    assert_memory_equal(alone, y + 2 * 2, sizeof alone);
    assert_memory_equal(alone_joined, joined + 2 * 3, sizeof alone_joined);
    /* A tap without the prefix tokens is refused, not read past its end. */
    call.grids = &grid;
    for (int i = 0; i < 3; i++)
        t[i].data = data[i], shapes[i][0] = i == 1 ? 6 : 10;
    t[3].data = y, shapes[3][0] = 6;
    t[4].data = joined, shapes[4][0] = 6;
    assert_int_equal(tenon_adapter_forward(adapter, &t[0], &t[3], &call, NULL, &error), TENON_MISMATCH);
    assert_non_null(strstr(error.message, "tap.0 has 6 rows; the grids of its 2 images make 10"));
    tenon_config_free(config);
    tenon_adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_read_more_than_once),
        cmocka_unit_test(inputs_and_outputs_have_names),
        cmocka_unit_test(segments_are_cut),
        cmocka_unit_test(windows_lie_in_windows),
        cmocka_unit_test(an_input_can_be_the_output),
        cmocka_unit_test(builders_are_told),
        cmocka_unit_test(packed_images_are_what_they_are_alone),
        cmocka_unit_test(outputs_are_told),
        cmocka_unit_test(packed_taps_have_prefix_tokens),
    };
    return cmocka_run_group_tests(tests, register_all, NULL);
}
