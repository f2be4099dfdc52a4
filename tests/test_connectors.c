/* SPDX-License-Identifier: MIT */
/* The connectors of public models, each judged as graph_case.h says: gradients by finite differences in double, every
 * CPU level beside the double table, the same bits packed, alone and on any number of threads. What they compute is
 * judged in Python, by the models' own classes. */
#include "graph_case.h"

static const int64_t blocks[] = {1, 2, 6, 2, 4, 2, 1, 6, 4};
static const int64_t even[] = {4, 6, 2, 2, 8, 2};
static const int64_t odd[] = {5, 7, 4, 4, 6, 5};

static void tokens_are_kept(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"type\": \"llava\", \"hidden_dim\": 11, \"prefix_tokens\": 1}",
        "{\"type\": \"llava\", \"depth\": 3, \"norm\": true, \"bias\": false, \"activation\": \"silu\"}",
        "{\"type\": \"llava\", \"depth\": 1}",
        "{\"type\": \"vip_llava\", \"hidden_dim\": 6, \"eps\": 0.001}",
        "{\"type\": \"mlp_2layer\", \"pre_norm\": \"layernorm\", \"hidden_dim\": 7}",
        "{\"type\": \"mlp_2layer\", \"pre_norm\": \"rmsnorm\"}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        graph_check(&(graph_case){.json = configs[i],
                                  .in_dim = 9,
                                  .out_dim = 8,
                                  .images = 2,
                                  .tokens = 10,
                                  .patch_mask = i % 2 == 0,
                                  .frame_mask = i % 3 == 0,
                                  .seed = i});
    }
    graph_check(&(graph_case){
        .json = "{\"type\": \"llava\", \"depth\": 0}", .in_dim = 8, .out_dim = 8, .images = 2, .tokens = 5});
}

static void blocks_are_merged(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"type\": \"qwen2_vl\"}", "{\"type\": \"qwen2_vl\", \"norm\": \"rmsnorm\", \"activation\": \"gelu_tanh\"}",
        "{\"type\": \"qwen3_vl\"}", "{\"type\": \"qwen3_vl\", \"deepstack\": 2}"};
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        graph_check(&(graph_case){.json = configs[i],
                                  .in_dim = 5,
                                  .out_dim = 6,
                                  .images = 3,
                                  .grids = blocks,
                                  .grid_columns = 3,
                                  .patch_mask = i % 2 == 0,
                                  .frame_mask = i % 2 == 1,
                                  .seed = i});
        graph_check(&(graph_case){.json = configs[i], .in_dim = 5, .out_dim = 6, .images = 2, .tokens = 12, .seed = i});
    }
}

static void grids_are_merged_and_pooled(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        const int64_t *grids;
    } cases[] = {
        {"{\"type\": \"internvl\"}", even},
        {"{\"type\": \"internvl\", \"ps_version\": \"v1\"}", even},
        {"{\"type\": \"idefics3\"}", even},
        {"{\"type\": \"aya\", \"hidden_dim\": 10}", even},
        {"{\"type\": \"llama4\", \"hidden_dim\": 10}", even},
        {"{\"type\": \"gemma3\"}", odd},
        {"{\"type\": \"mistral3\"}", odd},
        {"{\"type\": \"mistral3\", \"bias\": true, \"spatial_merge_size\": 3}", odd},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const graph_case c = {.json = cases[i].json, .in_dim = 5, .out_dim = 6, .patch_mask = i % 2 == 0, .seed = i};
        graph_case packed = c, alike = c;
        packed.images = 3;
        packed.grids = cases[i].grids;
        packed.grid_columns = 2;
        graph_check(&packed);
        alike.images = 2;
        alike.height = cases[i].grids[0];
        alike.width = cases[i].grids[1];
        alike.tokens = alike.height * alike.width;
        graph_check(&alike);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_kept),
        cmocka_unit_test(blocks_are_merged),
        cmocka_unit_test(grids_are_merged_and_pooled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
