/* SPDX-License-Identifier: MIT */
/* Finding a connector among tensors: names with wrappers in between, widths that nobody tells, new names, and the
 * sentence when it does not fit. */
#include "scratch.h"
#include <stdio.h>
#include <stdlib.h>

static tenon_error error;
static const DLDataType f32 = {kDLFloat, 32, 1};

enum { MAX_TENSORS = 1024 };

/* Tensors as a checkpoint has them. */
typedef struct checkpoint {
    int64_t count;
    char names[MAX_TENSORS][96];
    int64_t shapes[MAX_TENSORS][2];
    tenon_file_tensor tensors[MAX_TENSORS];
    const tenon_file_tensor *list[MAX_TENSORS];
} checkpoint;

static checkpoint c;

static void add(const char *name, int64_t rows, int64_t columns)
{
    const int64_t i = c.count++;
    assert_true(i < MAX_TENSORS);
    snprintf(c.names[i], sizeof c.names[i], "%s", name);
    c.shapes[i][0] = rows;
    c.shapes[i][1] = columns;
    tenon_file_tensor_init(&c.tensors[i]);
    c.tensors[i].name = c.names[i];
    c.tensors[i].stored = "F32";
    c.tensors[i].dtype = f32;
    c.tensors[i].ndim = columns < 0 ? 1 : 2;
    c.tensors[i].shape = c.shapes[i];
    c.list[i] = &c.tensors[i];
}

/* weight [rows, columns] and bias of a linear layer, `pattern` being the name with %s for what comes last. */
static void add_linear(const char *pattern, int64_t rows, int64_t columns)
{
    const char *place = strstr(pattern, "%s");
    for (int bias = 0; bias < 2; bias++) {
        char name[96];
        snprintf(name, sizeof name, "%.*s%s%s", (int)(place - pattern), pattern, bias ? "bias" : "weight", place + 2);
        add(name, rows, bias ? -1 : columns);
    }
}

/* A tensor of a shard that is not there: only its name is known. */
static void add_absent(const char *name, const char *shard)
{
    add(name, 0, 0);
    c.tensors[c.count - 1].stored = "";
    c.tensors[c.count - 1].ndim = 0;
    c.tensors[c.count - 1].absent_shard = shard;
}

static int64_t indices[64];

static tenon_status match(const char *json, const char *prefix, const tenon_rename *rename, int64_t num_rename,
                          tenon_adapter **adapter, tenon_load_options *options)
{
    tenon_load_options_init(options);
    options->config_json = json;
    options->prefix = prefix;
    options->rename = rename;
    options->num_rename = num_rename;
    return tenon_adapter_match("x.pt", c.list, c.count, options, adapter, indices, 64, &error);
}

static void expect_match(const char *json, const char *prefix, const tenon_rename *rename, int64_t num_rename,
                         const char *used, int64_t in_dim, int64_t out_dim, const char *config)
{
    tenon_adapter *adapter = NULL;
    tenon_load_options options;
    char text[512];
    const tenon_status status = match(json, prefix, rename, num_rename, &adapter, &options);
    if (status != TENON_OK) fail_msg("%s", error.message);
    assert_string_equal(options.used_prefix, used);
    assert_int_equal(tenon_adapter_in_dim(adapter), in_dim);
    assert_int_equal(tenon_adapter_out_dim(adapter), out_dim);
    assert_int_equal(options.num_used, tenon_adapter_num_parameters(adapter));
    assert_int_equal(options.num_unused, c.count - options.num_used);
    assert_int_equal(tenon_config_to_json(tenon_adapter_config(adapter), text, sizeof text, NULL, &error), TENON_OK);
    if (config != NULL && strstr(text, config) == NULL) fail_msg("'%s' is not in '%s'", config, text);
    for (int64_t p = 0; p < options.num_used; p++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        assert_int_equal(tenon_adapter_parameter(adapter, p, &parameter, &error), TENON_OK);
        assert_null(parameter.data);
        assert_memory_equal(parameter.shape, c.shapes[indices[p]], (size_t)parameter.ndim * sizeof(int64_t));
    }
    tenon_adapter_free(adapter);
}

static void expect_refusal(tenon_status status, const char *json, const char *prefix, const tenon_rename *rename,
                           int64_t num_rename, const char *const *parts)
{
    tenon_adapter *adapter = NULL;
    tenon_load_options options;
    assert_int_equal(match(json, prefix, rename, num_rename, &adapter, &options), status);
    assert_null(adapter);
    for (; *parts != NULL; parts++) {
        if (strstr(error.message, *parts) == NULL) fail_msg("'%s' is not in '%s'", *parts, error.message);
    }
}
#define EXPECT_REFUSAL(status, json, prefix, rename, num_rename, ...)                                                  \
    expect_refusal(status, json, prefix, rename, num_rename, (const char *const[]){__VA_ARGS__, NULL})

#define MLP "{\"type\": \"mlp_2layer\"}"
#define LINEAR "{\"type\": \"linear\"}"

/* in_dim, out_dim and hidden_dim follow from the shapes, and a config that the default describes stays as it is. */
static void widths_are_the_tensors(void **state)
{
    (void)state;
    c.count = 0;
    add_linear("mm.proj1.%s", 20, 24);
    add_linear("mm.proj2.%s", 10, 20);
    add("lm.weight", 7, 7);
    expect_match(MLP, NULL, NULL, 0, "mm.", 24, 10, "\"hidden_dim\": 20");
    expect_match("{\"type\": \"mlp_2layer\", \"hidden_dim\": 0}", NULL, NULL, 0, "mm.", 24, 10, "\"hidden_dim\": 20");
    expect_match("{\"type\": \"mlp_2layer\", \"in_dim\": 24}", NULL, NULL, 0, "mm.", 24, 10, "\"hidden_dim\": 20");
    expect_match("{\"in_dim\": 24, \"out_dim\": 10}", NULL, NULL, 0, "mm.", 24, 10, "\"hidden_dim\": 20");
    EXPECT_REFUSAL(TENON_MISMATCH, "{\"type\": \"mlp_2layer\", \"hidden_dim\": 21}", NULL, NULL, 0,
                   "proj1.weight is [20, 24], expected [21, 24]");
    EXPECT_REFUSAL(TENON_MISMATCH, "{\"type\": \"mlp_2layer\", \"in_dim\": 23}", NULL, NULL, 0,
                   "misshapen: proj1.weight is [20, 24], expected [20, 23];");
    EXPECT_REFUSAL(TENON_INVALID, "{\"type\": \"mlp_2layer\", \"in_dim\": 0}", NULL, NULL, 0, "must be positive");
    c.count = 0;
    add_linear("proj1.%s", 10, 24);
    add_linear("proj2.%s", 10, 10);
    expect_match(MLP, NULL, NULL, 0, "", 24, 10, "\"hidden_dim\": 0");
    c.count = 0;
    const char *const names[] = {"q_proj.%s", "k_proj.%s", "v_proj.%s", "o_proj.%s"};
    for (int i = 0; i < 4; i++)
        add_linear(names[i], 24, 24);
    add_linear("out_proj.%s", 10, 24);
    expect_match("{\"type\": \"attentional_pool\", \"pool_heads\": 12}", NULL, NULL, 0, "", 24, 10, NULL);
    EXPECT_REFUSAL(TENON_INVALID, "{\"type\": \"attentional_pool\"}", NULL, NULL, 0, "x.pt: ", "in_dim", "(24)",
                   "divisible by `pool_heads` (16)");
}

/* The width that most sides tell is the one that the others are measured by. */
static void what_does_not_fit_is_measured_by_what_does(void **state)
{
    (void)state;
    c.count = 0;
    add_linear("proj.%s", 2, 3);
    c.shapes[1][0] = 3;
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "misshapen: proj.bias is [3], expected [2];");
    c.count = 0;
    add("proj.weight", 0, -1);
    add("proj.bias", 3, -1);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0,
                   "proj.weight is [0], expected [3, ?] (empty: saved from a sharded run?)"); /* B23 */
    c.count = 0;
    add("proj.bias", 3, -1);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "missing: proj.weight;");
    c.count = 0;
    add("lm.weight", 3, 3);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "missing: proj.weight, proj.bias;",
                   "prefixes seen: 'lm.' (1 tensors)");
}

/* What stands between the names of modules is left out, wherever it stands. */
static void wrappers_are_left_out(void **state)
{
    (void)state;
    static const struct {
        const char *first, *second, *prefix;
    } cases[] = {
        {"module.proj1.%s", "module.proj2.%s", "module."},
        {"_orig_mod.model.proj1.%s", "_orig_mod.model.proj2.%s", "_orig_mod.model."},
        {"a._fsdp_wrapped_module.proj1._orig_mod.%s", "a._fsdp_wrapped_module.proj2._orig_mod.%s", "a."},
        {"a.proj1._checkpoint_wrapped_module.%s", "a.proj2.%s", "a."},
        {"module.a.module.proj1.%s", "a.proj2.%s", "a."},
        {"module._orig_mod.proj1.module.%s", "proj2.%s", ""},
        {"my_module.proj1.%s", "my_module.proj2.%s", "my_module."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        c.count = 0;
        add_linear(cases[i].first, 20, 24);
        add_linear(cases[i].second, 10, 20);
        expect_match(MLP, NULL, NULL, 0, cases[i].prefix, 24, 10, NULL);
        expect_match(MLP, cases[i].prefix, NULL, 0, cases[i].prefix, 24, 10, NULL);
    }
    /* Two models that differ in wrappers alone: nobody guesses. */
    c.count = 0;
    add_linear("proj.%s", 10, 20);
    add_linear("module.proj.%s", 10, 24);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "'proj.weight' and 'module.proj.weight' have the same name",
                   "choose one with `prefix`");
    expect_match(LINEAR, "module", NULL, 0, "module.", 24, 10, NULL);
    c.count = 0;
    add_linear("proj._orig_mod.%s", 10, 20);
    add_linear("_orig_mod.proj.%s", 10, 24);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, "", NULL, 0, "there several times", "proj.weight, proj.bias");
}

/* A connector is not another one cut short, and others beside it do not matter. */
static void unexpected_tensors_are_those_under_the_prefix(void **state)
{
    (void)state;
    c.count = 0;
    add_linear("model.module.proj.%s", 10, 20);
    add("model.lm.weight", 4, 4);
    expect_match(LINEAR, NULL, NULL, 0, "model.module.", 20, 10, NULL);
    add("model.module.extra.scale", 4, -1);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "unexpected: model.module.extra.scale;");
}

/* New names do not make others unexpected, but the old names tell what belongs together. */
static void renamed_tensors_have_their_old_place(void **state)
{
    (void)state;
    const tenon_rename rename[] = {{"mm.linear_1", "proj1"}, {"mm.linear_2", "proj2"}};
    c.count = 0;
    add_linear("module.mm.linear_1.%s", 20, 24);
    add_linear("module.mm.linear_2.%s", 10, 20);
    add_linear("module.lm.head.%s", 3, 3);
    expect_match(MLP, NULL, rename, 2, "", 24, 10, NULL);
    add_linear("module.mm.linear_3.%s", 10, 10);
    EXPECT_REFUSAL(TENON_MISMATCH, MLP, NULL, rename, 2,
                   "unexpected: module.mm.linear_3.weight, module.mm.linear_3.bias;");
    const tenon_rename apart[] = {{"a.up", "proj1"}, {"b.down", "proj2"}};
    c.count = 0;
    add_linear("a.up.%s", 20, 24);
    add_linear("b.down.%s", 10, 20);
    add_linear("lm.head.%s", 3, 3);
    expect_match(MLP, NULL, apart, 2, "", 24, 10, NULL);
}

/* C11: shards that the connector does not need need not be there; one that it needs is named. */
static void c11_shards_that_are_not_there(void **state)
{
    (void)state;
    c.count = 0;
    for (int i = 0; i < 24; i++) {
        char name[64];
        snprintf(name, sizeof name, "vision.%d.attn.proj.weight", i);
        add_absent(name, "m-3");
        snprintf(name, sizeof name, "vision.%d.attn.proj.bias", i);
        add_absent(name, "m-3");
    }
    add_linear("mm.proj.%s", 10, 24);
    expect_match(LINEAR, NULL, NULL, 0, "mm.", 24, 10, NULL);
    c.count = 0;
    add("mm.proj.weight", 10, 24);
    add_absent("mm.proj.bias", "m-2");
    add_absent("lm.head.weight", "m-3");
    EXPECT_REFUSAL(TENON_NOT_FOUND, LINEAR, NULL, NULL, 0, "x.pt: the shard 'm-2' is not there",
                   "holds tensor 'mm.proj.bias'");
    c.shapes[0][1] = 23;
    EXPECT_REFUSAL(TENON_MISMATCH, "{\"type\": \"linear\", \"in_dim\": 24}", NULL, NULL, 0,
                   "proj.weight is [10, 23], expected [10, 24]");
    c.count = 0;
    add_absent("mm.proj.weight", "m-2");
    add_absent("mm.proj.bias", "m-2");
    EXPECT_REFUSAL(TENON_NOT_FOUND, LINEAR, NULL, NULL, 0, "the shard 'm-2' is not there");
}

/* C40: a few names and how many more. */
static void c40_many_unmatched_tensors(void **state)
{
    (void)state;
    c.count = 0;
    add_linear("proj.%s", 10, 20);
    for (int i = 0; i < 1000; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight_scale_of_it", i);
        add(name, 4, 4);
    }
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0,
                   "unexpected: model.layers.0.mlp.down_proj.weight_scale_of_it, ",
                   "model.layers.7.mlp.down_proj.weight_scale_of_it and 992 more; prefixes seen: 'model.layers.'");
    assert_true(strlen(error.message) < 900);
    c.count = 0;
    for (int i = 0; i < 100; i++) {
        char name[64];
        snprintf(name, sizeof name, "blocks.%d.attn.proj.%%s", i);
        add_linear(name, 8, 8);
    }
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "under 100 prefixes: 'blocks.0.attn.', ", " and 92 more;");
}

/* C37: names are hostile. */
static void c37_names_are_escaped(void **state)
{
    (void)state;
    c.count = 0;
    add_linear("a\x1b[31m\nb.proj.%s", 10, 20);
    add("a\x1b[31m\nb.scale", 4, -1);
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "under prefix 'a\\x1b[31m\\x0ab.'",
                   "unexpected: a\\x1b[31m\\x0ab.scale;");
    assert_null(strchr(error.message, '\x1b'));
    assert_null(strchr(error.message, '\n'));
}

static void tensors_get_new_names(void **state)
{
    (void)state;
    const tenon_rename layers[] = {{"mm.linear_1", "proj1"}, {"mm.linear_2.", "proj2."}};
    c.count = 0;
    add_linear("mm.linear_1.%s", 20, 24);
    add_linear("mm.linear_2.%s", 10, 20);
    expect_match(MLP, NULL, layers, 2, "", 24, 10, "\"hidden_dim\": 20");
    const tenon_rename kept[] = {{"mm.linear_1", "mm.proj1"}, {"mm.linear_2", "mm.proj2"}};
    expect_match(MLP, NULL, kept, 2, "mm.", 24, 10, NULL);
    expect_match(MLP, "mm", kept, 2, "mm.", 24, 10, NULL);
    /* Of several the longest, whatever the order; whole names too; "" drops the parts. */
    const tenon_rename longest[] = {
        {"mm", ""}, {"mm.linear_2", "proj2"}, {"mm.linear_1", "proj1"}, {"mm.linear_2.weight", "proj2.weight"}};
    expect_match(MLP, NULL, longest, 4, "", 24, 10, NULL);
    /* Names may change places. */
    c.count = 0;
    add_linear("proj2.%s", 20, 24);
    add_linear("proj1.%s", 10, 20);
    const tenon_rename swapped[] = {{"proj1", "proj2"}, {"proj2", "proj1"}};
    expect_match(MLP, NULL, swapped, 2, "", 24, 10, NULL);
    /* With the wrappers' parts or without. */
    c.count = 0;
    add_linear("module.mm._orig_mod.linear_1.%s", 10, 24);
    const tenon_rename plain[] = {{"mm.linear_1", "proj"}}, spelt[] = {{"module.mm._orig_mod.linear_1", "proj"}};
    expect_match(LINEAR, NULL, plain, 1, "", 24, 10, NULL);
    expect_match(LINEAR, NULL, spelt, 1, "", 24, 10, NULL);
}

static void renames_that_cannot_be(void **state)
{
    (void)state;
    c.count = 0;
    add_linear("projector.linear_1.%s", 10, 24);
    add_linear("projector.linear_10.%s", 10, 24);
    EXPECT_REFUSAL(TENON_NOT_FOUND, LINEAR, NULL, (&(tenon_rename){"linear_1", "proj"}), 1,
                   "x.pt: no tensor is named 'linear_1' or begins with 'linear_1.', as `rename` wants",
                   "nearest: 'projector.linear_1'");
    EXPECT_REFUSAL(TENON_NOT_FOUND, LINEAR, NULL, (&(tenon_rename){"projector.linear", "proj"}), 1,
                   "no tensor is named 'projector.linear'");
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, (&(tenon_rename){".", "proj"}), 1, "empty name");
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, (&(tenon_rename){"projector.linear_1.bias", ""}), 1,
                   "nothing of the name of tensor 'projector.linear_1.bias'");
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, (&(tenon_rename){"projector.linear_1", "projector.linear_10"}), 1,
                   "gives tensors 'projector.linear_1.bias' and 'projector.linear_10.bias' the same name");
    const tenon_rename twice[] = {{"projector", "a"}, {"projector.", "b"}};
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, twice, 2, "maps 'projector' twice, to 'a' and to 'b'");
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, (&(tenon_rename){"projector", NULL}), 1, "NULL");
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, NULL, 1, "NULL");
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, NULL, -1, "-1");
}

/* A connector of somebody's own, with widths that follow from others by more than a copy. */
static void merge(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "side", 3);
    tenon_linear(b, "up", side * side * tenon_builder_in_dim(b) + 5, TENON_BIAS);
    tenon_linear(b, "down", tenon_builder_out_dim(b), TENON_NO_BIAS);
}

static void picky(tenon_builder *b)
{
    if (tenon_builder_in_dim(b) != 0 && tenon_builder_in_dim(b) != 24) tenon_builder_fail(b, "only 24 will do");
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

static void silent(tenon_builder *b)
{
    tenon_activation(b, "gelu");
    (void)tenon_window_mean(b, 2, "partial");
}

static void connectors_of_ones_own(void **state)
{
    (void)state;
    assert_int_equal(tenon_register_adapter("merge", merge, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("picky", picky, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("silent", silent, NULL, &error), TENON_OK);
    c.count = 0;
    add_linear("x.up.%s", 9 * 24 + 5, 24);
    add("x.down.weight", 10, 9 * 24 + 5);
    expect_match("{\"type\": \"merge\"}", NULL, NULL, 0, "x.", 24, 10, "\"side\": 3");
    c.count = 0;
    add_linear("proj.%s", 10, 24);
    EXPECT_REFUSAL(TENON_UNSUPPORTED, "{\"type\": \"picky\"}", NULL, NULL, 0, "only 24 will do", "give `in_dim`");
    expect_match("{\"type\": \"picky\", \"in_dim\": 24, \"out_dim\": 10}", NULL, NULL, 0, "", 24, 10, NULL);
    EXPECT_REFUSAL(TENON_UNSUPPORTED, "{\"type\": \"silent\"}", NULL, NULL, 0, "cannot be found from its tensors");
}

static void arguments_are_checked(void **state)
{
    (void)state;
    tenon_adapter *adapter = NULL;
    tenon_load_options options;
    c.count = 0;
    add_linear("proj.%s", 10, 24);
    EXPECT_REFUSAL(TENON_NOT_FOUND, NULL, NULL, NULL, 0, "carries no adapter config", "`config`");
    tenon_load_options_init(&options);
    options.config_json = LINEAR;
    assert_int_equal(tenon_adapter_match("x", c.list, 2, &options, &adapter, indices, 1, &error), TENON_INVALID);
    expect_message(&error, "2 parameters", "room for 1", NULL);
    assert_null(adapter);
    assert_int_equal(tenon_adapter_match("x", NULL, 2, &options, &adapter, indices, 64, &error), TENON_INVALID);
    c.tensors[0].stored = "I32";
    c.tensors[0].dtype.code = kDLInt;
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "proj.weight is I32, expected F32, BF16 or F16");
    c.shapes[0][0] = -1;
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, NULL, 0, "proj.weight", "negative");
    c.shapes[0][0] = c.shapes[0][1] = INT64_C(1) << 40;
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, NULL, 0, "past 64 bits");
    c.tensors[0].name = NULL;
    EXPECT_REFUSAL(TENON_INVALID, LINEAR, NULL, NULL, 0, "no name");
    c.count = 0;
    EXPECT_REFUSAL(TENON_MISMATCH, LINEAR, NULL, NULL, 0, "prefixes seen: none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_are_the_tensors),
        cmocka_unit_test(what_does_not_fit_is_measured_by_what_does),
        cmocka_unit_test(wrappers_are_left_out),
        cmocka_unit_test(unexpected_tensors_are_those_under_the_prefix),
        cmocka_unit_test(renamed_tensors_have_their_old_place),
        cmocka_unit_test(c11_shards_that_are_not_there),
        cmocka_unit_test(c40_many_unmatched_tensors),
        cmocka_unit_test(c37_names_are_escaped),
        cmocka_unit_test(tensors_get_new_names),
        cmocka_unit_test(renames_that_cannot_be),
        cmocka_unit_test(connectors_of_ones_own),
        cmocka_unit_test(arguments_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
