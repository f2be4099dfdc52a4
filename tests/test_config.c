/* SPDX-License-Identifier: MIT */
/* Counting, configs, the registry and the builder: everything that needs no weights. */
#include "tenon/tenon.h"
#include "tests.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static tenon_error error;

static int64_t pooled(int64_t n, int64_t window)
{
    int64_t count = -1;
    assert_int_equal(tenon_pooled_token_count(n, window, false, &count, &error), TENON_OK);
    return count;
}

static void assert_says(tenon_status status, tenon_status expected, const char *part)
{
    assert_int_equal(status, expected);
    if (strstr(error.message, part) == NULL) fail_msg("'%s' is not in '%s'", part, error.message);
}

static tenon_config *config_of(const char *json)
{
    tenon_config *config = NULL;
    if (tenon_config_from_json(json, strlen(json), &config, &error) != TENON_OK) fail_msg("%s", error.message);
    return config;
}

static void counts_are_the_papers(void **state)
{
    (void)state;
    static const int64_t examples[][3] = {{196, 2, 49}, {256, 2, 64}, {729, 3, 81},  {16, 3, 4},  {100, 3, 16},
                                          {16, 1, 16},  {16, 4, 1},   {729, 2, 196}, {9, 100, 1}, {1, 2, 1}};
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        assert_int_equal(pooled(examples[i][0], examples[i][1]), examples[i][2]);
    }
    /* The largest square below 2^63, and its neighbours, which a double square root confuses. */
    const int64_t side = 3037000499, square = side * side;
    int64_t count = 5;
    assert_int_equal(pooled(square, 1), square);
    assert_int_equal(pooled(square, side), 1);
    assert_int_equal(tenon_pooled_token_count(square - 1, 1, false, &count, NULL), TENON_INVALID);
    assert_int_equal(tenon_pooled_token_count(square + 1, 1, false, &count, NULL), TENON_INVALID);
    assert_int_equal(tenon_pooled_token_count(INT64_MAX, 1, false, &count, NULL), TENON_INVALID);
    assert_int_equal(count, 5); /* untouched */
}

static void bad_counts_are_named(void **state)
{
    (void)state;
    int64_t count;
    assert_says(tenon_pooled_token_count(16, 0, false, &count, &error), TENON_INVALID,
                "pool window must be positive (got 0)");
    assert_says(tenon_pooled_token_count(0, 2, false, &count, &error), TENON_INVALID, "must be positive");
    assert_says(tenon_pooled_token_count(577, 2, false, &count, &error), TENON_INVALID, "num_tokens=577");
    assert_says(tenon_pooled_token_count(577, 2, false, &count, &error), TENON_INVALID, "square patch grid");
    assert_says(tenon_pooled_token_count(577, 2, false, &count, &error), TENON_INVALID, "CLS token");
    assert_says(tenon_pooled_token_count(577, 2, false, &count, &error), TENON_INVALID,
                "`prefix_tokens=1` would leave 24x24");
    assert_says(tenon_pooled_token_count(580, 2, false, &count, &error), TENON_INVALID,
                "`prefix_tokens=4` would leave 24x24");
    assert_says(tenon_pooled_token_count(16, 3, true, &count, &error), TENON_INVALID, "(4x4) be divisible");
    assert_says(tenon_pooled_token_count(16, 3, true, &count, &error), TENON_INVALID, "window (3)");
    assert_says(tenon_pooled_token_count(16, 3, true, &count, &error), TENON_INVALID, "num_tokens=16");
    assert_says(tenon_pooled_token_count(16, 3, true, &count, &error), TENON_INVALID, "ragged grid");
    assert_says(tenon_pooled_token_count(16, 3, true, &count, &error), TENON_INVALID, "avgpool");
    assert_int_equal(tenon_pooled_token_count(16, 2, true, &count, &error), TENON_OK);
    assert_int_equal(count, 4);
    assert_int_equal(tenon_pooled_token_count(16, -1, true, &count, NULL), TENON_INVALID); /* NULL error is allowed */
}

static void frames_and_budgets(void **state)
{
    (void)state;
    int64_t count;
    assert_int_equal(tenon_tokens_per_frame(81 * 8, 8, &count, &error), TENON_OK);
    assert_int_equal(count, 81);
    assert_says(tenon_tokens_per_frame(100, 8, &count, &error), TENON_INVALID, "100 visual tokens");
    assert_says(tenon_tokens_per_frame(100, 8, &count, &error), TENON_INVALID, "8 frames");
    assert_int_equal(tenon_sequence_length(128, 81, 1000, &count, &error), TENON_OK);
    assert_int_equal(count, 128 * 81 + 1000);
    assert_says(tenon_sequence_length(INT64_MAX, 2, 0, &count, &error), TENON_INVALID, "64 bits");
    assert_says(tenon_sequence_length(1, -2, 0, &count, &error), TENON_INVALID, "negative");
}

static void config_defaults_and_checks(void **state)
{
    (void)state;
    tenon_config *config = config_of("{}");
    int64_t number;
    const char *text;
    double real;
    assert_string_equal(tenon_config_type(config), "mlp_2layer");
    assert_int_equal(tenon_config_get_int(config, "hidden_dim", &number, &error), TENON_OK);
    assert_int_equal(number, 0);
    assert_int_equal(tenon_config_get_int(config, "pool_window", &number, &error), TENON_OK);
    assert_int_equal(number, 2);
    assert_int_equal(tenon_config_get_int(config, "pool_heads", &number, &error), TENON_OK);
    assert_int_equal(number, 16);
    assert_int_equal(tenon_config_get_string(config, "activation", &text, &error), TENON_OK);
    assert_string_equal(text, "gelu");
    assert_says(tenon_config_get_string(config, "ragged", &text, &error), TENON_NOT_FOUND, "'ragged' is not set");
    assert_says(tenon_config_get_real(config, "prefix_tokens", &real, &error), TENON_INVALID, "is an integer");
    assert_says(tenon_config_set_int(config, "hidden_dim", -1, &error), TENON_INVALID,
                "`hidden_dim` must not be negative");
    assert_says(tenon_config_set_int(config, "pool_window", 0, &error), TENON_INVALID,
                "`pool_window` must be positive");
    assert_says(tenon_config_set_int(config, "pool_heads", -3, &error), TENON_INVALID, "(got -3)");
    assert_says(tenon_config_set_int(config, "prefix_tokens", -1, &error), TENON_INVALID,
                "`prefix_tokens` must not be negative");
    assert_says(tenon_config_set_string(config, "activation", "swish", &error), TENON_INVALID, "'swish'");
    assert_says(tenon_config_set_string(config, "activation", "swish", &error), TENON_INVALID,
                "['gelu', 'silu', 'relu', 'gelu_tanh', 'quick_gelu']");
    assert_says(tenon_config_set_string(config, "ragged", "maybe", &error), TENON_INVALID, "reject, partial, drop");
    assert_says(tenon_config_set_real(config, "pool_window", 2.0, &error), TENON_INVALID, "expected an integer");
    assert_says(tenon_config_set_real(config, "scale", 1.0 / 0.0, &error), TENON_INVALID, "not a finite number");
    assert_says(tenon_config_set_string(config, "type", "linear", &error), TENON_INVALID, "cannot be changed");
    tenon_config_free(config);
}

static void config_json_is_checked(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
        tenon_status status;
    } bad[] = {
        {"[1]", "no object", TENON_BAD_FILE},
        {"{\"type\": \"linear\"", "not valid JSON", TENON_BAD_FILE},
        {"{\"type\": \"linear\", \"type\": \"avgpool\"}", "duplicate", TENON_BAD_FILE},
        {"{\"type\": 3}", "'type' is not a string", TENON_BAD_FILE},
        {"{\"pool_window\": NaN}", "not valid JSON", TENON_BAD_FILE},
        {"{\"scale\": 1e999}", "not valid JSON", TENON_BAD_FILE},
        {"{\"pool_window\": 99999999999999999999}", "not valid JSON", TENON_BAD_FILE},
        {"{\"pool_window\": 2.5}", "expected an integer", TENON_INVALID},
        {"{\"pool_window\": [2]}", "`pool_window` is a list of integers; expected an integer", TENON_INVALID},
        {"{\"pool_window\": true}", "`pool_window` is a boolean; expected an integer", TENON_INVALID},
        {"{\"activation\": false}", "`activation` is a boolean; expected a string", TENON_INVALID},
        {"{\"layers\": [1, 2.5]}", "'layers' is a list whose element 1 is no integer", TENON_BAD_FILE},
        {"{\"layers\": {\"a\": 1}}", "'layers' is an object", TENON_BAD_FILE},
        {"{\"type\": \"mlp3\"}", "attentional_pool, avgpool, ", TENON_NOT_FOUND}, /* B32, B138 */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tenon_config *config = (tenon_config *)&error; /* must stay */
        assert_says(tenon_config_from_json(bad[i].json, strlen(bad[i].json), &config, &error), bad[i].status,
                    bad[i].says);
        assert_ptr_equal(config, &error);
    }
    tenon_config *config = config_of("{\"type\": \"avgpool\", \"pool_window\": 3, \"hidden_dim\": null}");
    char json[128];
    size_t length;
    assert_int_equal(tenon_config_to_json(config, NULL, 0, &length, &error), TENON_OK);
    assert_says(tenon_config_to_json(config, json, length, NULL, &error), TENON_INVALID, "the buffer has");
    assert_int_equal(tenon_config_to_json(config, json, length + 1, NULL, &error), TENON_OK);
    assert_string_equal(json, "{\"type\": \"avgpool\", \"pool_window\": 3}");
    tenon_config_free(config);
}

static int64_t count_of(const char *json, int64_t n, int64_t height, int64_t width, int64_t window)
{
    tenon_config *config = config_of(json);
    tenon_call call;
    tenon_call_init(&call);
    call.grid_height = height;
    call.grid_width = width;
    call.pool_window = window;
    int64_t count = -1;
    if (tenon_config_output_num_tokens(config, &call, n, &count, &error) != TENON_OK) count = -1;
    tenon_config_free(config);
    return count;
}

static void config_counts(void **state)
{
    (void)state;
    const int64_t none = TENON_UNSET;
    assert_int_equal(count_of("{}", 577, none, none, none), 577); /* B2 */
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 196, none, none, none), 49);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 0, none, none, none), 0);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", -1, none, none, none), -1);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 729, none, none, 3), 81);
    assert_int_equal(count_of("{\"type\": \"avgpool\", \"prefix_tokens\": 1}", 577, none, none, none), 144);
    assert_int_equal(count_of("{\"type\": \"linear\", \"prefix_tokens\": 1}", 577, none, none, none), 576);
    /* B19: both readings of 27 / 2 are there, chosen explicitly. */
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 729, none, none, 2), 196);
    assert_int_equal(count_of("{\"type\": \"avgpool\", \"ragged\": \"drop\"}", 729, none, none, 2), 169);
    /* B11 */
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 64, 1, 64, 3), 22);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 64, 64, 1, 3), 22);
    /* B82 */
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 4096, 32, 128, 4), 8 * 32);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 4096, none, none, 4), 256);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 4095, none, none, 4), -1);
    /* B80 */
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 1, none, none, 2), 1);
    assert_int_equal(count_of("{\"type\": \"avgpool\", \"ragged\": \"drop\"}", 1, none, none, 2), -1);
    assert_non_null(strstr(error.message, "leaves no token"));
    /* B68 */
    assert_int_equal(count_of("{\"type\": \"attentional_pool\"}", 9, 3, 3, 2), -1);
    assert_non_null(strstr(error.message, "(3x3) be divisible by the pool window (2)"));
    assert_int_equal(count_of("{\"type\": \"attentional_pool\", \"ragged\": \"partial\"}", 9, 3, 3, 2), 4);
    /* B1, B2: both numbers are named. */
    assert_int_equal(count_of("{\"type\": \"avgpool\", \"prefix_tokens\": 1}", 729, 27, 27, none), -1);
    assert_non_null(strstr(error.message, "= 730 tokens, but num_tokens=729"));
    assert_int_equal(count_of("{\"type\": \"avgpool\", \"prefix_tokens\": 1}", 730, 27, 27, none), 196);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 577, 24, 24, none), -1);
    assert_non_null(strstr(error.message, "576 tokens, but num_tokens=577"));
    assert_int_equal(count_of("{\"type\": \"linear\"}", 577, 24, 24, none), -1);
    /* Nonsense in the call. */
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 16, none, none, 0), -1);
    assert_non_null(strstr(error.message, "`pool_window` must be positive (got 0)"));
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 16, 4, none, 2), -1);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 16, -4, -4, 2), -1);
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 16, INT64_MAX, 2, 2), -1);
    assert_int_equal(count_of("{\"type\": \"avgpool\", \"prefix_tokens\": 16}", 16, none, none, 2), -1);
    assert_non_null(strstr(error.message, "leaves no patches after `prefix_tokens=16`"));
}

/* A struct that was never initialised is refused, one of a later header only if it asks for what is not known. */
static void struct_sizes_are_checked(void **state)
{
    (void)state;
    tenon_config *config = config_of("{\"type\": \"avgpool\"}");
    tenon_call call = {.pool_window = 3};
    int64_t count;
    assert_says(tenon_config_output_num_tokens(config, &call, 729, &count, &error), TENON_INVALID,
                "call tenon_call_init first");
    struct {
        tenon_call call;
        int64_t later;
    } longer;
    tenon_call_init(&longer.call);
    longer.call.size = sizeof longer;
    longer.call.pool_window = 3;
    longer.later = 0;
    assert_int_equal(tenon_config_output_num_tokens(config, &longer.call, 729, &count, &error), TENON_OK);
    assert_int_equal(count, 81);
    longer.later = 1;
    assert_says(tenon_config_output_num_tokens(config, &longer.call, 729, &count, &error), TENON_UNSUPPORTED,
                "does not know");
    tenon_config_free(config);
}

static void absurd_windows_are_refused(void **state)
{
    (void)state;
    tenon_config *config = config_of("{\"type\": \"avgpool\"}");
    tenon_call call;
    int64_t count;
    tenon_call_init(&call);
    static const int64_t windows[] = {INT64_C(1) << 31, INT64_C(1) << 32, 3037000500, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        call.pool_window = windows[i];
        assert_int_equal(tenon_config_output_num_tokens(config, &call, 729, &count, &error), TENON_OK);
        assert_int_equal(count, 1);
        tenon_adapter *adapter;
        size_t bytes;
        assert_int_equal(tenon_adapter_new(config, 4, 4, NULL, &adapter, &error), TENON_OK);
        assert_int_equal(tenon_adapter_workspace_size(adapter, 729, &call, &bytes, &error), TENON_OK);
        /* A patch for each token of 2^62: the map of one window does not fit. */
        tenon_call huge = call;
        huge.grid_height = huge.grid_width = INT64_C(1) << 31;
        assert_int_equal(tenon_adapter_workspace_size(adapter, INT64_C(1) << 62, &huge, &bytes, &error), TENON_INVALID);
        tenon_adapter_free(adapter);
    }
    tenon_config_free(config);
}

static void grids_count_without_a_config(void **state)
{
    (void)state;
    int64_t count;
    assert_int_equal(tenon_pooled_grid_count(25, 33, 2, "partial", &count, &error), TENON_OK);
    assert_int_equal(count, 13 * 17);
    assert_int_equal(tenon_pooled_grid_count(25, 33, 2, "drop", &count, &error), TENON_OK);
    assert_int_equal(count, 12 * 16);
    assert_says(tenon_pooled_grid_count(25, 33, 2, "reject", &count, &error), TENON_INVALID, "(25x33)");
    assert_says(tenon_pooled_grid_count(0, 33, 2, "drop", &count, &error), TENON_INVALID, "positive");
    assert_says(tenon_pooled_grid_count(5, 5, 0, "drop", &count, &error), TENON_INVALID, "positive");
    assert_says(tenon_pooled_grid_count(5, 5, 2, "floor", &count, &error), TENON_INVALID, "reject, partial, drop");
    /* The prefix tokens are told, and so is what would fit. */
    assert_int_equal(
        count_of("{\"type\": \"avgpool\", \"prefix_tokens\": 1}", 576, TENON_UNSET, TENON_UNSET, TENON_UNSET), -1);
    assert_non_null(
        strstr(error.message, "num_tokens=576 less `prefix_tokens=1`, which is 575, is not a perfect square"));
    assert_non_null(strstr(error.message, "`prefix_tokens=0` would leave 24x24"));
    assert_int_equal(count_of("{\"type\": \"avgpool\"}", 16, 4, TENON_UNSET, TENON_UNSET), -1);
    assert_non_null(strstr(error.message, "`grid_width` is not set"));
}

static void two_layers_of_windows(tenon_builder *b)
{
    tenon_window_mean(b, tenon_option_int(b, "first_window", 2), "partial");
    tenon_activation(b, tenon_option_string(b, "activation", "relu"));
    tenon_window_mean(b, 2, "partial");
    tenon_linear(b, "head", tenon_builder_out_dim(b), tenon_option_real(b, "bias", 1.0) != 0 ? TENON_BIAS : 0);
}

static void wrong_width(tenon_builder *b)
{
    tenon_linear(b, "head", tenon_builder_out_dim(b) + 1, TENON_NO_BIAS);
}

static void complains(tenon_builder *b)
{
    assert_int_equal(tenon_linear(b, "a", 4, TENON_BIAS), 1);
    tenon_builder_fail(b, "no thanks: %d", 42);
    tenon_builder_fail(b, "second");
    assert_int_equal(tenon_linear(b, "b", 4, TENON_BIAS), -1);
}

static void twice(tenon_builder *b)
{
    tenon_linear(b, "a", 4, TENON_BIAS);
    tenon_linear(b, "a", 4, TENON_BIAS);
}

static void careless(tenon_builder *b)
{
    assert_null(tenon_option_string(b, "norm", NULL)); /* no fallback is a fallback */
    if (tenon_builder_context(b) == NULL) return;
    switch (*(const char *)tenon_builder_context(b)) {
    case 'n':
        tenon_linear(b, NULL, 4, TENON_BIAS);
        break;
    case 'a':
        tenon_activation(b, NULL);
        break;
    case 'r':
        tenon_window_mean(b, 2, NULL);
        break;
    case 'o':
        tenon_option_int(b, "in_dim", 1);
        break;
    case 'p':
        tenon_option_int(b, NULL, 1);
        break;
    case 'i':
        tenon_option_real(b, "scale", HUGE_VAL);
        break;
    case 'f':
        tenon_linear(b, "a", 4, 0xfff0);
        break;
    case 'b':
        tenon_linear(b, "a", 4, tenon_option_bool(b, "bias", true) ? TENON_BIAS : TENON_NO_BIAS);
        break;
    case 'l': {
        int64_t count;
        const int64_t *widths = tenon_option_ints(b, "widths", &count, 2, (const int64_t[]){3, 4});
        for (int64_t i = 0; i < count; i++)
            tenon_linear(b, (const char *[]){"a", "b", "c", "d"}[i], widths[i], TENON_NO_BIAS);
        break;
    }
    case 'd':
        tenon_option_real(b, "alpha", 0.5) == 5 ? tenon_linear(b, "a", 4, TENON_NO_BIAS) : 0;
        break;
    case 't':
        tenon_window_attention(b, "first", 2, 2, "partial", TENON_NO_BIAS);
        tenon_window_attention(b, "second", 2, 2, "partial", TENON_BIAS);
        break;
    default:
        break;
    }
}

/* 1,000 layers and 2,000 parameters, with names longer than most. */
static void deep(tenon_builder *b)
{
    for (int i = 0; i < 1000; i++) {
        char name[160];
        snprintf(name, sizeof name, "a.rather.deep.path.of.modules.whose.names.are.as.long.as.those.of.some.models.%d",
                 i);
        tenon_linear(b, name, tenon_builder_out_dim(b), TENON_BIAS);
    }
}

static void nothing(tenon_builder *b)
{
    (void)b;
}

static tenon_status build(const char *json, int64_t in_dim, int64_t out_dim, tenon_adapter **adapter)
{
    tenon_config *config = config_of(json);
    const tenon_status status = tenon_adapter_new(config, in_dim, out_dim, NULL, adapter, &error);
    tenon_config_free(config);
    return status;
}

static void programs_register_connectors(void **state)
{
    (void)state;
    tenon_adapter *adapter = NULL;
    const size_t shipped = tenon_list_adapters(NULL, 0);
    assert_int_equal(tenon_register_adapter("pyramid", two_layers_of_windows, NULL, &error), TENON_OK);
    assert_says(tenon_register_adapter("pyramid", two_layers_of_windows, NULL, &error), TENON_EXISTS,
                "adapter/pyramid is already registered");
    assert_says(tenon_register_adapter("linear", two_layers_of_windows, NULL, &error), TENON_EXISTS,
                "adapter/linear is already registered");
    assert_says(tenon_register_adapter("caf\xe9", two_layers_of_windows, NULL, &error), TENON_INVALID, "not UTF-8");
    assert_int_equal(tenon_register_adapter("wrong_width", wrong_width, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("complains", complains, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("twice", twice, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("deep", deep, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("nothing", nothing, NULL, &error), TENON_OK);
    assert_int_equal(tenon_register_adapter("", nothing, NULL, NULL), TENON_INVALID);

    const char *names[64];
    assert_int_equal(tenon_list_adapters(names, 64), shipped + 6);
    assert_string_equal(names[0], "attentional_pool");
    assert_string_equal(names[shipped + 5], "wrong_width");
    assert_says(tenon_find_adapter("none", &error), TENON_NOT_FOUND, "twice");
    assert_int_equal(tenon_find_adapter("pyramid", &error), TENON_OK);

    assert_int_equal(count_of("{\"type\": \"pyramid\"}", 100, TENON_UNSET, TENON_UNSET, TENON_UNSET), 9);
    assert_int_equal(count_of("{\"type\": \"pyramid\", \"first_window\": 5}", 100, 10, 10, TENON_UNSET), 1);
    assert_int_equal(build("{\"type\": \"pyramid\"}", 3, 5, &adapter), TENON_OK);
    assert_int_equal(tenon_adapter_num_layers(adapter), 4);
    assert_int_equal(tenon_adapter_num_parameters(adapter), 2);
    double bias;
    assert_int_equal(tenon_config_get_real(tenon_adapter_config(adapter), "bias", &bias, &error), TENON_OK);
    assert_true(bias == 1.0); /* what the builder read is recorded */
    tenon_adapter_free(adapter);

    assert_says(build("{\"type\": \"wrong_width\"}", 3, 5, &adapter), TENON_INVALID, "width 6; expected `out_dim` 5");
    assert_says(build("{\"type\": \"complains\"}", 3, 5, &adapter), TENON_INVALID, "no thanks: 42");
    assert_says(build("{\"type\": \"twice\"}", 4, 4, &adapter), TENON_INVALID, "'a.weight' twice");
    assert_int_equal(build("{\"type\": \"deep\"}", 4, 4, &adapter), TENON_OK);
    assert_int_equal(tenon_adapter_num_layers(adapter), 1000);
    assert_int_equal(tenon_adapter_num_parameters(adapter), 2000);
    tenon_adapter_free(adapter);
    assert_says(build("{\"type\": \"nothing\"}", 4, 4, &adapter), TENON_INVALID, "no layers");
}

/* Booleans and lists of integers: read, saved with the adapter's config, and refused where another kind is asked. */
static void options_of_other_kinds(char *which)
{
    tenon_adapter *adapter = NULL;
    bool truth = true;
    int64_t count;
    const int64_t *list;
    which[0] = 'b';
    assert_int_equal(build("{\"type\": \"careless\", \"bias\": false}", 4, 4, &adapter), TENON_OK);
    assert_int_equal(tenon_adapter_num_parameters(adapter), 1);
    const tenon_config *config = tenon_adapter_config(adapter);
    assert_int_equal(tenon_config_get_bool(config, "bias", &truth, &error), TENON_OK);
    assert_false(truth);
    assert_says(tenon_config_get_int(config, "bias", &count, &error), TENON_INVALID,
                "is a boolean; expected an integer");
    char json[128];
    assert_int_equal(tenon_config_to_json(config, json, sizeof json, NULL, &error), TENON_OK);
    assert_string_equal(json, "{\"type\": \"careless\", \"bias\": false}"); /* not "norm", which nobody set */
    tenon_adapter_free(adapter);
    assert_says(build("{\"type\": \"careless\", \"bias\": 1}", 4, 4, &adapter), TENON_INVALID,
                "option 'bias' of adapter type 'careless' is an integer; expected a boolean");
    which[0] = 'd';
    assert_says(build("{\"type\": \"careless\", \"alpha\": true}", 4, 4, &adapter), TENON_INVALID,
                "is a boolean; expected a real number");
    static const char *const reals[] = {"1e-06", "0.10000000000000001", "0.30000000000000004"};
    static const char *const written[] = {"1e-6", "0.1", "0.30000000000000004"};
    for (int i = 0; i < 3; i++) { /* as few digits as keep the number */
        char given[80], expected[80];
        snprintf(given, sizeof given, "{\"type\": \"careless\", \"alpha\": %s}", reals[i]);
        snprintf(expected, sizeof expected, "{\"type\": \"careless\", \"alpha\": %s}", written[i]);
        tenon_config *real = config_of(given);
        assert_int_equal(tenon_config_to_json(real, json, sizeof json, NULL, &error), TENON_OK);
        assert_string_equal(json, expected);
        tenon_config_free(real);
    }
    which[0] = 'l';
    assert_int_equal(build("{\"type\": \"careless\"}", 4, 4, &adapter), TENON_OK);
    assert_int_equal(tenon_config_get_ints(tenon_adapter_config(adapter), "widths", &list, &count, &error), TENON_OK);
    assert_int_equal(count, 2);
    assert_int_equal(list[1], 4);
    tenon_adapter_free(adapter);
    assert_int_equal(build("{\"type\": \"careless\", \"widths\": [2, 3, 4]}", 4, 4, &adapter), TENON_OK);
    assert_int_equal(tenon_config_to_json(tenon_adapter_config(adapter), json, sizeof json, NULL, &error), TENON_OK);
    assert_string_equal(json, "{\"type\": \"careless\", \"widths\": [2, 3, 4]}");
    assert_int_equal(tenon_adapter_num_parameters(adapter), 3);
    tenon_adapter_free(adapter);
    assert_says(build("{\"type\": \"careless\", \"widths\": 4}", 4, 4, &adapter), TENON_INVALID,
                "is an integer; expected a list of integers");
    tenon_config *own = config_of("{}");
    assert_says(tenon_config_set_ints(own, "widths", -1, NULL, &error), TENON_INVALID, "-1 integers");
    assert_says(tenon_config_set_bool(own, "hidden_dim", true, &error), TENON_INVALID, "`hidden_dim` is a boolean");
    assert_true(tenon_type_has_option("careless", "norm")); /* one without a default */
    tenon_config_free(own);
}

static void careless_builders_are_told(void **state)
{
    (void)state;
    static char which[] = "n";
    tenon_adapter *adapter = NULL;
    assert_int_equal(tenon_register_adapter("careless", careless, which, &error), TENON_OK);
    static const struct {
        char kind;
        const char *says;
    } cases[] = {{'n', "linear layer whose name is NULL"},
                 {'a', "activation layer whose name is NULL"},
                 {'r', "ragged is NULL"},
                 {'o', "'in_dim' is taken"},
                 {'p', "an option without a name"},
                 {'i', "option 'scale' is not a finite number"},
                 {'f', "flags 0xfff0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        which[0] = cases[i].kind;
        assert_says(build("{\"type\": \"careless\"}", 4, 4, &adapter), TENON_INVALID, cases[i].says);
    }
    which[0] = 'd';
    assert_int_equal(build("{\"type\": \"careless\", \"alpha\": 5}", 4, 4, &adapter),
                     TENON_OK); /* an integer is real */
    tenon_adapter_free(adapter);
    assert_int_equal(build("{\"type\": \"careless\", \"alpha\": 4}", 4, 4, &adapter), TENON_INVALID);
    options_of_other_kinds(which);
    which[0] = 't';
    assert_int_equal(build("{\"type\": \"careless\"}", 4, 4, &adapter), TENON_OK);
    int64_t index;
    assert_int_equal(tenon_adapter_num_parameters(adapter), 9);
    assert_int_equal(tenon_adapter_find_parameter(adapter, "second.v_proj.bias", &index, &error), TENON_OK);
    assert_int_equal(index, 8);
    tenon_adapter_free(adapter);
    tenon_config *config = config_of("{}");
    assert_says(tenon_config_set_int(config, "out_dim", 3, &error), TENON_INVALID, "'out_dim' is taken");
    assert_says(tenon_config_set_int(config, "\xff", 3, &error), TENON_INVALID, "not UTF-8");
    assert_says(tenon_config_set_string(config, "name", "\xc3\x28", &error), TENON_INVALID, "not UTF-8");
    /* Surrogates and overlong forms have the form of UTF-8 and are refused by readers of JSON. */
    assert_says(tenon_config_set_string(config, "name", "\xed\xa0\x80", &error), TENON_INVALID, "not UTF-8");
    assert_says(tenon_config_set_string(config, "name", "\xe0\x80\x80", &error), TENON_INVALID, "not UTF-8");
    assert_int_equal(tenon_config_set_string(config, "name", "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", &error),
                     TENON_OK);
    tenon_config_free(config);
}

static void adapters_are_checked_when_made(void **state)
{
    (void)state;
    tenon_adapter *adapter = NULL;
    assert_says(build("{\"type\": \"linear\"}", 0, 5, &adapter), TENON_INVALID, "must be positive");
    assert_says(build("{\"type\": \"linear\"}", 5, -1, &adapter), TENON_INVALID, "must be positive");
    assert_says(build("{\"type\": \"attentional_pool\"}", 24, 4, &adapter), TENON_INVALID,
                "`in_dim` (24) must be divisible by `pool_heads` (16)");
    assert_says(build("{\"type\": \"linear\", \"ragged\": \"partial\"}", 4, 4, &adapter), TENON_INVALID,
                "'linear' has no option 'ragged'; its options are prefix_tokens");
    assert_says(build("{\"type\": \"avgpool\", \"windw\": 3}", 4, 4, &adapter), TENON_INVALID,
                "no option 'windw' (did you mean 'pool_window'?); its options are pool_window, ragged, prefix_tokens");
    assert_says(build("{\"type\": \"linear\"}", INT64_C(1) << 40, INT64_C(1) << 40, &adapter), TENON_INVALID,
                "64 bits");
    assert_says(build("{\"hiden_dim\": null}", 4, 4, &adapter), TENON_INVALID,
                "no option 'hiden_dim' (did you mean 'hidden_dim'?)");
    assert_null(adapter);
    /* Known names without a value are not set. */
    assert_int_equal(
        build("{\"type\": \"linear\", \"ragged\": null, \"pool_heads\": null, \"in_dim\": null}", 4, 4, &adapter),
        TENON_OK);
    tenon_adapter_free(adapter);
    /* Fields that a type does not use are carried. */
    assert_int_equal(build("{\"type\": \"linear\", \"pool_heads\": 5, \"activation\": \"silu\"}", 4, 4, &adapter),
                     TENON_OK);
    int64_t heads;
    assert_int_equal(tenon_config_get_int(tenon_adapter_config(adapter), "pool_heads", &heads, &error), TENON_OK);
    assert_int_equal(heads, 5);
    tenon_adapter_free(adapter);
    tenon_adapter_free(NULL);
}

static void lists_of_types_are_derived(void **state)
{
    (void)state;
    assert_true(tenon_type_pools("avgpool"));
    assert_true(tenon_type_pools("attentional_pool"));
    assert_false(tenon_type_pools("linear"));
    assert_false(tenon_type_pools("mlp_2layer"));
    assert_false(tenon_type_pools("no such type"));
    assert_true(tenon_type_needs_divisible("attentional_pool"));
    assert_false(tenon_type_needs_divisible("avgpool"));
}

/* B140: parameters and sizes are known before anything is allocated. */
static void adapters_describe_themselves(void **state)
{
    (void)state;
    tenon_adapter *adapter;
    assert_int_equal(build("{\"hidden_dim\": 4096}", 1024, 4096, &adapter), TENON_OK);
    int64_t elements = 0;
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter p;
        tenon_parameter_init(&p);
        assert_int_equal(tenon_adapter_parameter(adapter, i, &p, &error), TENON_OK);
        assert_null(p.data);
        elements += p.shape[0] * (p.ndim == 2 ? p.shape[1] : 1);
    }
    assert_int_equal(elements, 20979712);
    tenon_layer_info layer;
    tenon_layer_info_init(&layer);
    assert_int_equal(tenon_adapter_layer(adapter, 1, &layer, &error), TENON_OK);
    assert_string_equal(layer.type, "activation");
    assert_string_equal(layer.name, "gelu");
    assert_int_equal(layer.in_dim, 4096);
    assert_int_equal(layer.num_parameters, 0);
    assert_says(tenon_adapter_layer(adapter, 3, &layer, &error), TENON_NOT_FOUND, "no layer 3");
    double flops;
    assert_int_equal(tenon_adapter_flops(adapter, 576, NULL, &flops, &error), TENON_OK);
    assert_true(flops == 2.0 * 576 * 4096 * (1024 + 4096));
    int64_t index;
    assert_says(tenon_adapter_find_parameter(adapter, "proj3.bias", &index, &error), TENON_NOT_FOUND,
                "proj1.weight, proj1.bias, proj2.weight, proj2.bias");
    assert_int_equal(tenon_adapter_find_parameter(adapter, "proj2.weight", &index, &error), TENON_OK);
    assert_int_equal(index, 2);
    tenon_adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_the_papers),        cmocka_unit_test(bad_counts_are_named),
        cmocka_unit_test(frames_and_budgets),           cmocka_unit_test(config_defaults_and_checks),
        cmocka_unit_test(config_json_is_checked),       cmocka_unit_test(config_counts),
        cmocka_unit_test(struct_sizes_are_checked),     cmocka_unit_test(absurd_windows_are_refused),
        cmocka_unit_test(grids_count_without_a_config), cmocka_unit_test(programs_register_connectors),
        cmocka_unit_test(careless_builders_are_told),   cmocka_unit_test(adapters_are_checked_when_made),
        cmocka_unit_test(lists_of_types_are_derived),   cmocka_unit_test(adapters_describe_themselves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
