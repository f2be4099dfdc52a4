/* SPDX-License-Identifier: MIT */
/* Layers of image reach, parameters as values, and what is stored of a group of images for them: each in a small graph,
 * judged as graph_case.h says; numbers that were computed by hand; and the same bits packed, padded and alone. */
#include "graph_case.h"

#include <math.h>
#include <stdlib.h>

static tenon_error error;

/* Learned queries over the features; keys and values are not the same rows' values. */
static void resampler(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b), heads = tenon_option_int(b, "heads", 2);
    const int64_t key_heads = tenon_option_int(b, "key_heads", 1), rows = tenon_option_int(b, "queries", 3);
    const int64_t dim = tenon_option_int(b, "head_dim", 5), value_dim = tenon_option_int(b, "value_dim", 4);
    const int keys = tenon_linear(b, "k_proj", key_heads * dim, TENON_BIAS);
    tenon_from(b, 0);
    const int values = tenon_linear(b, "v_proj", key_heads * value_dim, TENON_NO_BIAS);
    const int latents = tenon_parameter_rows(b, "query", rows, out, 0, 0.5, 0);
    tenon_layer_norm(b, "ln_q", 1e-6);
    const int queries = tenon_linear(b, "q_proj", heads * dim, TENON_BIAS);
    tenon_attention(b, queries, keys, values, heads, key_heads);
    const int attended = tenon_linear(b, "o_proj", out, TENON_BIAS);
    const int sum = tenon_sum(b, 2, (int[]){latents, attended});
    tenon_layer_norm(b, "ln_post", 1e-6);
    tenon_linear(b, "proj", out, TENON_NO_BIAS);
    const int last = tenon_activation(b, "gelu");
    tenon_sum(b, 2, (int[]){sum, last});
}

/* Self attention over few rows, and a residual of the features. */
static void self_attention(tenon_builder *b)
{
    const int64_t width = tenon_builder_in_dim(b), heads = tenon_option_int(b, "heads", 2);
    const int queries = tenon_linear(b, "q_proj", 3 * heads, TENON_BIAS);
    tenon_from(b, 0);
    const int keys = tenon_linear(b, "k_proj", 3 * heads, TENON_BIAS);
    tenon_from(b, 0);
    const int values = tenon_linear(b, "v_proj", width, TENON_BIAS);
    tenon_attention(b, queries, keys, values, heads, heads);
    const int attended = tenon_linear(b, "o_proj", width, TENON_BIAS);
    tenon_sum(b, 2, (int[]){0, attended});
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

/* Nothing but attention: it reads the features where they are and writes the tokens where they belong. */
static void bare_attention(tenon_builder *b)
{
    tenon_attention(b, 0, 0, 0, tenon_option_int(b, "heads", 1), tenon_option_int(b, "heads", 1));
}

static void bare_resampler(tenon_builder *b)
{
    const int queries = tenon_parameter_rows(b, "query", 2, tenon_builder_in_dim(b), 0, 1, 0);
    tenon_attention(b, queries, 0, 0, 1, 1);
}

/* Idefics2's perceiver: keys from the features and the latents together, twice. */
static void perceiver(tenon_builder *b)
{
    const int64_t width = tenon_builder_out_dim(b);
    const int context = tenon_linear(b, "in", width, TENON_BIAS);
    int latents = tenon_parameter_rows(b, "latents", 3, width, 1, 0, 0);
    for (int i = 0; i < 2; i++) {
        const char *const names[2][5] = {{"0.q", "0.k", "0.v", "0.o", "0.n"}, {"1.q", "1.k", "1.v", "1.o", "1.n"}};
        tenon_from(b, latents);
        const int normed = tenon_rms_norm(b, names[i][4], 1e-6, 0);
        const int rows = tenon_concat_rows(b, 2, (int[]){context, normed});
        const int keys = tenon_linear(b, names[i][1], 4, TENON_NO_BIAS);
        tenon_from(b, rows);
        const int values = tenon_linear(b, names[i][2], 4, TENON_NO_BIAS);
        tenon_from(b, normed);
        const int queries = tenon_linear(b, names[i][0], 8, TENON_NO_BIAS);
        tenon_attention(b, queries, keys, values, 4, 2);
        const int attended = tenon_linear(b, names[i][3], width, TENON_NO_BIAS);
        latents = tenon_sum(b, 2, (int[]){latents, attended});
    }
}

/* Windows of the grid attend to each other; a value of the patches is an output too. */
static void windows(tenon_builder *b)
{
    const int64_t width = tenon_builder_out_dim(b);
    const int low = tenon_linear(b, "low", width, TENON_BIAS);
    tenon_output(b, "low", low);
    tenon_from(b, low);
    const int means = tenon_window_mean(b, 2, "partial");
    const int queries = tenon_parameter_rows(b, "query", 2, width, 0, 1, 0);
    const int few = tenon_attention(b, queries, means, means, 1, 1);
    tenon_attention(b, means, low, low, 1, 1);
    const int rows = tenon_linear(b, "rows", width, TENON_BIAS);
    tenon_concat_rows(b, 3, (int[]){few, rows, queries});
}

/* Rows alone. */
static void joined(tenon_builder *b)
{
    const int separator = tenon_parameter_rows(b, "separator", 1, tenon_builder_in_dim(b), 0, 1, TENON_VECTOR);
    tenon_concat_rows(b, 4, (int[]){0, separator, 0, separator});
}

/* Pictures of tiles, between layers and by themselves. */
static void unpad(tenon_builder *b, int rows)
{
    static const int64_t resolutions[] = {4, 8, 8, 4, 8, 8};
    const int sizes = tenon_integers(b, "image_sizes", 2);
    const int newline = tenon_parameter_rows(b, "newline", 1, tenon_value_width(b, rows), 0, 1, TENON_VECTOR);
    tenon_from(b, rows);
    tenon_unpad_tiles(b, newline, sizes, 4, tenon_option_int(b, "most_tiles", 0), 3, resolutions);
}

static void tiled(tenon_builder *b)
{
    unpad(b, tenon_linear(b, "in", 4, TENON_BIAS));
    tenon_activation(b, "gelu");
    tenon_linear(b, "out", tenon_builder_out_dim(b), TENON_BIAS);
}

static void bare_tiles(tenon_builder *b)
{
    unpad(b, 0);
}

/* LLaVA-OneVision's frames of a clip, and a resize by itself. */
static void resized(tenon_builder *b)
{
    tenon_linear(b, "in", 4, TENON_BIAS);
    const int small = tenon_resize(b, tenon_option_int(b, "factor", 2));
    const int newline = tenon_parameter_rows(b, "newline", 1, 4, 0, 1, TENON_VECTOR);
    tenon_concat_rows(b, 2, (int[]){small, newline});
    tenon_linear(b, "out", tenon_builder_out_dim(b), TENON_BIAS);
}

static void bare_resize(tenon_builder *b)
{
    tenon_resize(b, 2);
}

static void shared_keys(tenon_builder *b)
{
    const int rows = tenon_parameter_rows(b, "rows", 2, tenon_builder_in_dim(b), 0, 1, 0);
    tenon_attention(b, 0, rows, rows, 1, 1);
}

static void odd_heads(tenon_builder *b)
{
    tenon_attention(b, 0, 0, 0, 3, 2);
}

static void odd_widths(tenon_builder *b)
{
    const int keys = tenon_linear(b, "keys", 5, TENON_BIAS);
    tenon_attention(b, 0, keys, keys, 1, 1);
}

static void odd_sizes(tenon_builder *b)
{
    static const int64_t resolutions[] = {4, 4};
    const int sizes = tenon_integers(b, "image_sizes", 3);
    const int newline = tenon_parameter_rows(b, "newline", 1, tenon_builder_in_dim(b), 0, 1, TENON_VECTOR);
    tenon_from(b, 0);
    tenon_unpad_tiles(b, newline, sizes, 4, 0, 1, resolutions);
}

static void no_image(tenon_builder *b)
{
    tenon_parameter_rows(b, "rows", 2, tenon_builder_out_dim(b), 0, 1, 0);
}

static int register_all(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        tenon_builder_function build;
    } types[] = {{"resampler", resampler},
                 {"self_attention", self_attention},
                 {"bare_attention", bare_attention},
                 {"bare_resampler", bare_resampler},
                 {"perceiver", perceiver},
                 {"windows", windows},
                 {"joined", joined},
                 {"shared_keys", shared_keys},
                 {"odd_heads", odd_heads},
                 {"odd_widths", odd_widths},
                 {"no_image", no_image},
                 {"odd_sizes", odd_sizes},
                 {"tiled", tiled},
                 {"bare_tiles", bare_tiles},
                 {"resized", resized},
                 {"bare_resize", bare_resize}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (tenon_register_adapter(types[i].name, types[i].build, NULL, &error) != TENON_OK) return -1;
    }
    return 0;
}

static const int64_t grids[] = {2, 3, 5, 4, 1, 1, 3, 3};

/* A type on images that are all alike, and packed, with masks and without. */
static void check_type(const char *json, int64_t in_dim, int64_t out_dim)
{
    const int64_t prefix = strstr(json, "prefix_tokens") != NULL ? 2 : 0;
    graph_check(&(graph_case){.json = json,
                              .in_dim = in_dim,
                              .out_dim = out_dim,
                              .images = 12,
                              .tokens = 1 + prefix, /* some images have no row that is not masked */
                              .patch_mask = true});
    for (int masks = 0; masks < 2; masks++) {
        graph_check(&(graph_case){.json = json,
                                  .in_dim = in_dim,
                                  .out_dim = out_dim,
                                  .images = 3,
                                  .tokens = 12 + prefix,
                                  .height = 3,
                                  .width = 4,
                                  .patch_mask = masks != 0,
                                  .frame_mask = masks != 0,
                                  .seed = 5});
        graph_check(&(graph_case){.json = json,
                                  .in_dim = in_dim,
                                  .out_dim = out_dim,
                                  .images = 4,
                                  .grids = grids,
                                  .grid_columns = 2,
                                  .patch_mask = masks != 0,
                                  .frame_mask = masks != 0});
    }
}

static void learned_queries_attend(void **state)
{
    (void)state;
    check_type("{\"type\": \"resampler\"}", 6, 7);
    check_type("{\"type\": \"resampler\", \"prefix_tokens\": 2, \"heads\": 6, \"key_heads\": 2, \"queries\": 9, "
               "\"head_dim\": 17, \"value_dim\": 33}",
               6, 7);
    check_type("{\"type\": \"bare_resampler\"}", 5, 5);
}

static void rows_attend_to_each_other(void **state)
{
    (void)state;
    check_type("{\"type\": \"self_attention\"}", 6, 7);
    check_type("{\"type\": \"bare_attention\"}", 5, 5);
    check_type("{\"type\": \"bare_attention\", \"heads\": 2}", 6, 6);
}

static void keys_come_from_several_values(void **state)
{
    (void)state;
    check_type("{\"type\": \"perceiver\"}", 6, 5);
    check_type("{\"type\": \"windows\"}", 6, 5);
    check_type("{\"type\": \"joined\"}", 4, 4);
}

/* Many images and many keys: several groups of images, tiles of queries, blocks of keys. */
static void groups_are_smaller_than_the_batch(void **state)
{
    (void)state;
    graph_check(&(graph_case){
        .json = "{\"type\": \"perceiver\"}", .in_dim = 3, .out_dim = 4, .images = 16, .tokens = 9, .frame_mask = true});
    graph_check(&(graph_case){.json = "{\"type\": \"resampler\", \"queries\": 21}",
                              .in_dim = 3,
                              .out_dim = 4,
                              .images = 2,
                              .tokens = 150,
                              .patch_mask = true});
}

/* Images of 3 x 3 patches a frame: two tiles beside each other, the same with four lines of padding, four tiles, and
 * one frame. */
static const int64_t frames[] = {3, 3, 3, 3, 3, 3, 5, 3, 3, 1, 3, 3};
static const int64_t pixels[] = {3, 7, 5, 40, 8, 7, 3, 3};

static void tiles_are_put_together(void **state)
{
    (void)state;
    for (int masks = 0; masks < 2; masks++) {
        graph_case c = {.json = "{\"type\": \"tiled\"}",
                        .in_dim = 5,
                        .out_dim = 6,
                        .images = 4,
                        .grids = frames,
                        .grid_columns = 3,
                        .integers = {{"image_sizes", 2, {4, 2}, pixels}},
                        .num_integers = 1,
                        .patch_mask = masks != 0,
                        .frame_mask = masks != 0};
        graph_check(&c);
        c.json = "{\"type\": \"tiled\", \"most_tiles\": 1}";
        graph_check(&c);
        c.json = "{\"type\": \"bare_tiles\"}";
        c.out_dim = 5;
        graph_check(&c);
    }
}

static void grids_are_resized(void **state)
{
    (void)state;
    check_type("{\"type\": \"resized\"}", 5, 6);
    check_type("{\"type\": \"resized\", \"factor\": 3}", 5, 6);
    check_type("{\"type\": \"bare_resize\"}", 5, 5);
}

/* torch.nn.functional.interpolate of 3 x 5 to 2 x 3: row r at column c of 10 r + c. */
static void resizing_is_bilinear(void **state)
{
    (void)state;
    double x[15];
    for (int i = 0; i < 15; i++)
        x[i] = 10 * (i / 5) + i % 5;
    const graph_case c = {.json = "{\"type\": \"bare_resize\"}",
                          .in_dim = 1,
                          .out_dim = 1,
                          .images = 1,
                          .tokens = 15,
                          .height = 3,
                          .width = 5};
    int64_t rows;
    double *tokens = graph_tokens_with(&c, NULL, NULL, x, &rows);
    assert_int_equal(rows, 6);
    for (int i = 0; i < 6; i++) {
        const double y = (i / 3 + 0.5) * 3 / 2 - 0.5, column = (i % 3 + 0.5) * 5 / 3 - 0.5;
        assert_true(fabs(tokens[i] - (10 * y + column)) < 1e-12);
    }
    free(tokens);
}

/* What a call of tiles is told; the workspace is asked for with tensors that do not fit each other too. */
static void bad_tiles_are_told(void **state)
{
    (void)state;
    static const struct {
        int64_t grid[6], images, size[4], axes;
        const char *says;
    } cases[] = {
        {{3, 3, 3, 5, 3, 3}, 2, {3, 7, 8, 7}, 2, NULL},
        {{3, 3, 3, 5, 3, 3}, 1, {3, 7}, 2, "'image_sizes' is of 1 images, the features of 2"},
        {{3, 3, 3, 5, 3, 3}, 2, {3, 7, 0, 7}, 2, "image 1 is 0x7; sides must be positive"},
        {{3, 3, 3, 4, 3, 3}, 2, {3, 7, 8, 7}, 2, "is cut into 2x2 tiles, which are 5 frames"},
        {{3, 3, 3, 5, 3, 3}, 1, {3, 7, 8, 7}, 3, "'image_sizes' has 3 axes; expected 2"},
    };
    tenon_config *config;
    tenon_adapter *adapter;
    assert_int_equal(tenon_config_from_json("{\"type\": \"tiled\"}", 17, &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 2, 2, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_reset_parameters(adapter, TENON_F32, 1, &error), TENON_OK);
    assert_int_equal(tenon_adapter_prepare(adapter, NULL, &error), TENON_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t shape[] = {cases[i].images, 2, 2};
        DLTensor grid = {(void *)(uintptr_t)cases[i].grid, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, (int64_t[]){2, 3}, NULL, 0};
        DLTensor size = {
            (void *)(uintptr_t)cases[i].size, {kDLCPU, 0}, (int)cases[i].axes, {kDLInt, 64, 1}, shape, NULL, 0};
        tenon_named_tensor input = {"image_sizes", &size};
        tenon_call call;
        size_t bytes;
        tenon_call_init(&call);
        call.grids = &grid;
        call.inputs = &input;
        call.num_inputs = 1;
        const tenon_status status = tenon_adapter_workspace_size(adapter, 0, &call, &bytes, &error);
        if (cases[i].says == NULL && status != TENON_OK) fail_msg("%s", error.message);
        if (cases[i].says != NULL && (status == TENON_OK || strstr(error.message, cases[i].says) == NULL))
            fail_msg("%s instead of %s", status == TENON_OK ? "no error" : error.message, cases[i].says);
    }
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

static void set_newline(tenon_adapter *adapter, void *context)
{
    static float value[] = {-7};
    (void)context;
    DLTensor tensor = {value, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, (int64_t[]){1}, NULL, 0};
    assert_int_equal(tenon_adapter_set_parameter(adapter, "newline", &tensor, &error), TENON_OK);
}

/* As unpad_image of Hugging Face's transformers has it: of 3 x 6 patches the middle line is left; then one frame. */
static void padding_is_left_out(void **state)
{
    (void)state;
    static const int64_t sides[] = {3, 3, 3, 1, 3, 3}, size[] = {5, 40, 3, 3};
    static const double expected[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  12, 13, 14, 21,
                                      22, 23, -7, 27, 28, 29, 30, 31, 32, 33, 34, 35, -7};
    double x[36];
    for (int i = 0; i < 36; i++)
        x[i] = i;
    const graph_case c = {.json = "{\"type\": \"bare_tiles\"}",
                          .in_dim = 1,
                          .out_dim = 1,
                          .images = 2,
                          .grids = sides,
                          .grid_columns = 3,
                          .integers = {{"image_sizes", 2, {2, 2}, size}},
                          .num_integers = 1};
    int64_t rows;
    double *tokens = graph_tokens_with(&c, set_newline, NULL, x, &rows);
    assert_int_equal(rows, 26);
    for (int i = 0; i < 26; i++)
        assert_true(tokens[i] == expected[i]);
    free(tokens);
}

/* Two queries over three rows of width 1: a = softmax(q x), y = sum a x. The second row of the second image is masked.
 */
static void set_queries(tenon_adapter *adapter, void *context)
{
    static float values[] = {0, 1};
    (void)context;
    DLTensor tensor = {values, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){2, 1}, NULL, 0};
    assert_int_equal(tenon_adapter_set_parameter(adapter, "query", &tensor, &error), TENON_OK);
}

static void attention_is_what_it_says(void **state)
{
    (void)state;
    static const double x[] = {1, 2, 4};
    const graph_case c = {
        .json = "{\"type\": \"bare_resampler\"}", .in_dim = 1, .out_dim = 1, .images = 1, .tokens = 3};
    int64_t rows;
    double *tokens = graph_tokens_with(&c, set_queries, NULL, x, &rows);
    const double sum = exp(1) + exp(2) + exp(4);
    assert_int_equal(rows, 2);
    assert_true(fabs(tokens[0] - 7.0 / 3) < 1e-12);
    assert_true(fabs(tokens[1] - (exp(1) + 2 * exp(2) + 4 * exp(4)) / sum) < 1e-12);
    free(tokens);
}

static void builders_are_told(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } cases[] = {{"{\"type\": \"shared_keys\"}", "must be rows of an image"},
                 {"{\"type\": \"odd_heads\"}", "3 heads and 2 key heads; heads must be a positive multiple"},
                 {"{\"type\": \"odd_widths\"}", "reads queries of width 6, keys of width 5"},
                 {"{\"type\": \"odd_sizes\"}", "'image_sizes' with 3 columns; its layer reads 2"},
                 {"{\"type\": \"no_image\"}", "is made of parameters alone"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        graph_refused(cases[i].json, cases[i].says);
}

/* ---- packed, padded, alone ---- */

enum { IN = 6, OUT = 5, IMAGES = 4, MOST = 20 };

static float value_at(int64_t image, int64_t i)
{
    return (float)(((image + 3) * 71 + i * 37) % 101 - 50) / 25;
}

static tenon_adapter *adapter_of(const char *json)
{
    tenon_config *config;
    tenon_adapter *adapter;
    assert_int_equal(tenon_config_from_json(json, strlen(json), &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, IN, OUT, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_reset_parameters(adapter, TENON_F32, 3, &error), TENON_OK);
    assert_int_equal(tenon_adapter_prepare(adapter, NULL, &error), TENON_OK);
    tenon_config_free(config);
    return adapter;
}

static void run(tenon_adapter *adapter, DLTensor *x, DLTensor *y, tenon_call *call)
{
    if (tenon_adapter_forward(adapter, x, y, call, NULL, &error) != TENON_OK) fail_msg("%s", error.message);
}

/* A batch of images of different size, and one that is padded with masked rows, have the bits of each image alone. */
static void images_are_what_they_are_alone(void **state)
{
    (void)state;
    static const char *const configs[] = {"{\"type\": \"resampler\", \"queries\": 3}", "{\"type\": \"perceiver\"}"};
    for (size_t k = 0; k < 2; k++) {
        tenon_adapter *adapter = adapter_of(configs[k]);
        enum { TOKENS = 3 };
        float packed_x[IMAGES * MOST * IN], padded_x[IMAGES * MOST * IN], packed_y[IMAGES * TOKENS * OUT];
        float padded_y[IMAGES * TOKENS * OUT], alone[TOKENS * OUT];
        signed char mask[IMAGES * MOST];
        int64_t rows = 0;
        for (int64_t i = 0; i < IMAGES; i++) {
            const int64_t n = grids[2 * i] * grids[2 * i + 1];
            for (int64_t r = 0; r < MOST; r++)
                mask[i * MOST + r] = r < n;
            for (int64_t e = 0; e < MOST * IN; e++)
                padded_x[i * MOST * IN + e] = e < n * IN ? value_at(i, e) : NAN;
            memcpy(packed_x + rows * IN, padded_x + i * MOST * IN, (size_t)(n * IN) * sizeof(float));
            rows += n;
        }
        DLTensor grid = {(void *)(uintptr_t)grids, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, (int64_t[]){IMAGES, 2}, NULL, 0};
        DLTensor px = {packed_x, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){rows, IN}, NULL, 0};
        DLTensor py = {packed_y, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){IMAGES * TOKENS, OUT}, NULL, 0};
        DLTensor qx = {padded_x, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, (int64_t[]){IMAGES, MOST, IN}, NULL, 0};
        DLTensor qy = {padded_y, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, (int64_t[]){IMAGES, TOKENS, OUT}, NULL, 0};
        DLTensor masks = {mask, {kDLCPU, 0}, 2, {kDLInt, 8, 1}, (int64_t[]){IMAGES, MOST}, NULL, 0};
        tenon_call call;
        tenon_call_init(&call);
        call.grids = &grid;
        run(adapter, &px, &py, &call);
        tenon_call_init(&call);
        call.patch_mask = &masks;
        run(adapter, &qx, &qy, &call);
        for (int64_t i = 0; i < IMAGES; i++) {
            const int64_t n = grids[2 * i] * grids[2 * i + 1];
            DLTensor ax = {padded_x + i * MOST * IN, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){n, IN}, NULL, 0};
            DLTensor ay = {alone, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){TOKENS, OUT}, NULL, 0};
            tenon_call_init(&call);
            run(adapter, &ax, &ay, &call);
            assert_memory_equal(packed_y + i * TOKENS * OUT, alone, sizeof alone);
            assert_memory_equal(padded_y + i * TOKENS * OUT, alone, sizeof alone);
        }
        tenon_adapter_free(adapter);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_what_it_says), cmocka_unit_test(learned_queries_attend),
        cmocka_unit_test(rows_attend_to_each_other), cmocka_unit_test(keys_come_from_several_values),
        cmocka_unit_test(tiles_are_put_together),    cmocka_unit_test(padding_is_left_out),
        cmocka_unit_test(bad_tiles_are_told),        cmocka_unit_test(grids_are_resized),
        cmocka_unit_test(resizing_is_bilinear),      cmocka_unit_test(groups_are_smaller_than_the_batch),
        cmocka_unit_test(builders_are_told),         cmocka_unit_test(images_are_what_they_are_alone),
    };
    return cmocka_run_group_tests(tests, register_all, NULL);
}
