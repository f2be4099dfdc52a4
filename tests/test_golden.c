/* SPDX-License-Identifier: MIT */
/* The library against float64 and against PyTorch's own rounding error, on the cases of tests/golden (described at the
 * head of scripts/make_golden.py), at every CPU level.
 */
#include "counter_rng.h"
#include "scene.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the files ---- */

typedef struct golden {
    json_t *cases;
    unsigned char *data;
    size_t size;
} golden;

static golden small, real, gradients;

static json_t *load_json(const char *name)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s/golden/%s.json", TESTS_DIR, name);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) fail_msg("%s:%d: %s", path, error.line, error.text);
    return root;
}

static void load(golden *g, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/golden/%s.bin", TESTS_DIR, name);
    g->cases = load_json(name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    g->size = (size_t)ftell(file);
    rewind(file);
    g->data = grab(g->size);
    assert_int_equal(fread(g->data, 1, g->size, file), g->size);
    fclose(file);
}

static int64_t integer(const json_t *c, const char *key)
{
    const json_t *value = json_object_get(c, key);
    if (!json_is_integer(value)) fail_msg("a case has no integer \"%s\"", key);
    return json_integer_value(value);
}

static double real_number(const json_t *c, const char *key)
{
    const json_t *value = json_object_get(c, key);
    if (!json_is_number(value)) fail_msg("a case has no number \"%s\"", key);
    return json_number_value(value);
}

static const char *string(const json_t *c, const char *key)
{
    const char *value = json_string_value(json_object_get(c, key));
    if (value == NULL) fail_msg("a case has no string \"%s\"", key);
    return value;
}

static tenon_dtype dtype(const json_t *c, const char *key)
{
    tenon_dtype value;
    tenon_error error;
    expect_ok(tenon_dtype_from_name(string(c, key), &value, &error), &error);
    return value;
}

/* The array of a case that starts at the offset under `key`: `count` elements of `item` bytes. */
static const void *array(const golden *g, const json_t *c, const char *key, int64_t count, size_t item)
{
    const int64_t offset = integer(c, key);
    assert_true(offset >= 0 && (size_t)offset + (size_t)count * item <= g->size);
    return g->data + offset;
}

/* ---- a case as a scene ---- */

static void draw_features(scene *s, const json_t *c)
{
    const bool outliers = strcmp(string(c, "inputs"), "outlier") == 0;
    const int64_t count = s->call.batch * s->tokens * s->in;
    const uint64_t seed = (uint64_t)integer(c, "input_seed");
    const float scale = (float)real_number(c, "scale");
    s->x = grab((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        const float value = outliers ? counter_outlier(seed, (uint64_t)i) : counter_value(seed, (uint64_t)i);
        s->x[i] = round_to(s->features, value * scale);
    }
}

static unsigned char *mask(const json_t *c, const char *key, int64_t count)
{
    const char *bits = json_string_value(json_object_get(c, key));
    if (bits == NULL) return NULL;
    assert_int_equal(strlen(bits), count);
    unsigned char *bytes = grab((size_t)count);
    for (int64_t i = 0; i < count; i++)
        bytes[i] = bits[i] == '1';
    return bytes;
}

/* The weights are drawn, not stored: what cannot be drawn bit for bit is not compared further. */
static void draw_weights(scene *s, const json_t *c)
{
    tenon_error error;
    tenon_parameter p;
    uint32_t crc = 0;
    expect_ok(tenon_adapter_reset_parameters(s->adapter, dtype(c, "weights"), (uint64_t)integer(c, "seed"), &error),
              &error);
    for (int64_t i = 0; i < tenon_adapter_num_parameters(s->adapter) && s->in < 700; i++) {
        tenon_parameter_init(&p);
        expect_ok(tenon_adapter_parameter(s->adapter, i, &p, &error), &error);
        const int64_t size = p.shape[0] * (p.ndim == 2 ? p.shape[1] : 1);
        crc = crc32_bytes(crc, p.data, (size_t)size * tenon_dtype_size(p.dtype));
    }
    if (s->in < 700) assert_int_equal(crc, integer(c, "weights_crc32"));
}

static void set_grid(scene *s, const json_t *c, int64_t patches)
{
    const json_t *call = json_object_get(c, "call"), *grid = json_object_get(call, "grid");
    s->call_window = json_object_get(call, "pool_window") == NULL ? TENON_UNSET : integer(call, "pool_window");
    s->give_grid = grid != NULL;
    s->call.height = (int64_t)floor(sqrt((double)patches));
    s->call.width = s->call.height;
    if (grid != NULL) {
        s->call.height = json_integer_value(json_array_get(grid, 0));
        s->call.width = json_integer_value(json_array_get(grid, 1));
    } else if (s->call.height * s->call.width != patches) { /* a projection */
        s->call.height = 1;
        s->call.width = patches;
    }
}

static void scene_from_case(scene *s, const json_t *c)
{
    *s = (scene){.in = integer(c, "in_dim"), .out = integer(c, "out_dim"), .tokens = integer(c, "tokens")};
    const json_t *config = json_object_get(c, "config"), *prefix_tokens = json_object_get(config, "prefix_tokens");
    char *text = json_dumps(config, 0);
    assert_non_null(text);
    s->adapter = adapter_from_json(text, s->in, s->out, NULL);
    free(text);
    s->features = dtype(c, "features");
    s->call.batch = integer(c, "batch");
    const int64_t patches = s->tokens - json_integer_value(prefix_tokens);
    s->patch_mask = mask(c, "patch_mask", s->call.batch * patches);
    s->frame_mask = mask(c, "frame_mask", s->call.batch);
    set_grid(s, c, patches);
    draw_weights(s, c);
    scene_finish(s);
    assert_int_equal(s->out_tokens, integer(c, "out_tokens"));
    draw_features(s, c);
}

/* ---- small cases ---- */

typedef void (*case_check)(scene *s, const golden *g, const json_t *c);

static void each_small_case(case_check check)
{
    size_t i;
    json_t *c;
    json_array_foreach(small.cases, i, c)
    {
        scene s;
        scene_from_case(&s, c);
        check(&s, &small, c);
        scene_free(&s);
    }
}

static int64_t rows_of(const scene *s)
{
    return s->call.batch * s->out_tokens;
}

/* The double reference in C and the one in Python were written apart. */
static void check_reference(scene *s, const golden *g, const json_t *c)
{
    const int64_t count = rows_of(s) * s->out;
    const double *ref = array(g, c, "ref64", count, sizeof *ref);
    double *y = scene_reference(s, NULL);
    for (int64_t t = 0; t < rows_of(s); t++) {
        double error = 0, norm = 0;
        for (int64_t i = t * s->out; i < (t + 1) * s->out; i++) {
            error += (y[i] - ref[i]) * (y[i] - ref[i]);
            norm += ref[i] * ref[i];
        }
        if (!(error <= 1e-26 * norm)) fail_msg("%s: the references differ in token %d", string(c, "name"), (int)t);
    }
    free(y);
}

static void references_agree(void **state)
{
    (void)state;
    each_small_case(check_reference);
}

/* The numbers by which we judge belong to the outputs that are stored beside them. */
static void check_recorded_error(scene *s, const golden *g, const json_t *c)
{
    const int64_t count = rows_of(s) * s->out;
    const double *ref = array(g, c, "ref64", count, sizeof *ref);
    const float *single = array(g, c, "torch_f32", count, sizeof *single);
    const uint16_t *half = array(g, c, "torch_bf16", count, sizeof *half);
    assert_true(fabs(worst_token(single, ref, rows_of(s), s->out) / real_number(c, "error_f32") - 1) < 1e-9);
    float *wide = grab((size_t)count * sizeof *wide);
    for (int64_t i = 0; i < count; i++)
        wide[i] = half_value(TENON_BF16, half[i]);
    assert_true(fabs(worst_token(wide, ref, rows_of(s), s->out) / real_number(c, "error_bf16") - 1) < 1e-9);
    free(wide);
}

static void recorded_errors_are_those_of_the_outputs(void **state)
{
    (void)state;
    each_small_case(check_recorded_error);
}

static double bar(const json_t *c)
{
    return fmax(1e-6, 1.25 * real_number(c, "error_f32"));
}

/* Tokens in half precision are the f32 tokens, rounded once. */
static void check_rounded_tokens(const scene *s, const float *y, tenon_dtype tokens, const char *name)
{
    run_options options = run_defaults(s);
    options.tokens = tokens;
    float *half = scene_tokens(s, &options);
    for (int64_t i = 0; i < rows_of(s) * s->out; i++)
        if (half[i] != round_to(tokens, y[i]))
            fail_msg("%s: %s token %d is %g, rounded from f32 %g", name, tenon_dtype_name(tokens), (int)(i / s->out),
                     (double)half[i], (double)y[i]);
    free(half);
}

static void check_small(scene *s, const golden *g, const json_t *c)
{
    const char *level, *name = string(c, "name");
    const double *ref = array(g, c, "ref64", rows_of(s) * s->out, sizeof *ref);
    for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
        scene_prepare(s, level);
        const run_options options = run_defaults(s);
        float *y = scene_tokens(s, &options);
        const double worst = worst_token(y, ref, rows_of(s), s->out);
        if (!(worst <= bar(c))) fail_msg("%s at %s: error %.3g, allowed %.3g", name, level, worst, bar(c));
        check_rounded_tokens(s, y, TENON_BF16, name);
        check_rounded_tokens(s, y, TENON_F16, name);
        free(y);
    }
}

static void small_cases(void **state)
{
    (void)state;
    each_small_case(check_small);
}

/* ---- real widths ---- */

/* A scene of the windows that the stored rows read, side by side: a token's bits do not depend on the rest. Shares the
 * adapter of `s`. */
static scene sampled(const scene *s, const json_t *rows)
{
    const int64_t w = tenon_type_pools(s->module.type) ? s->module.window : 1;
    const int64_t count = (int64_t)json_array_size(rows), columns = s->call.width / w, width = count * w;
    scene part = *s;
    part.give_grid = true;
    part.tokens = w * width;
    part.out_tokens = count;
    part.call.height = w;
    part.call.width = width;
    part.x = grab((size_t)(part.tokens * s->in) * sizeof(float));
    for (int64_t p = 0; p < part.tokens; p++) {
        const int64_t row = json_integer_value(json_array_get(rows, (size_t)(p % width / w)));
        const int64_t y = row / columns * w + p / width, x = row % columns * w + p % w;
        memcpy(part.x + p * s->in, s->x + (y * s->call.width + x) * s->in, (size_t)s->in * sizeof(float));
    }
    return part;
}

static void check_whole(const scene *s, const float *part, const json_t *rows, const char *name)
{
    const run_options options = run_defaults(s);
    float *y = scene_tokens(s, &options);
    for (size_t r = 0; r < json_array_size(rows); r++) {
        const int64_t row = json_integer_value(json_array_get(rows, r));
        if (memcmp(y + row * s->out, part + (int64_t)r * s->out, (size_t)s->out * sizeof *y) != 0)
            fail_msg("%s: token %d has other bits in the whole image", name, (int)row);
    }
    free(y);
}

/* Folding two wide layers at a lower level than the best takes seconds; once is enough. */
static bool runs_level(const scene *s, int level)
{
    return cpu_level(level + 1) == NULL || strcmp(s->module.type, "attentional_pool") != 0 || s->in < 1000;
}

/* So do whole images, lower levels and two large layers: the sampled windows must do there. */
static bool runs_whole(const scene *s, int level)
{
    return cpu_level(level) != NULL && cpu_level(level + 1) == NULL &&
           (strcmp(s->module.type, "mlp_2layer") != 0 || s->tokens < 200);
}

static void check_real(scene *s, const json_t *c)
{
    const json_t *rows = json_object_get(c, "rows");
    const int64_t count = (int64_t)json_array_size(rows) * s->out;
    const float *high = array(&real, c, "ref_hi", count, sizeof *high);
    const uint16_t *low = array(&real, c, "ref_lo", count, sizeof *low);
    double *ref = grab((size_t)count * sizeof *ref);
    for (int64_t i = 0; i < count; i++)
        ref[i] = (double)high[i] + (double)half_value(TENON_BF16, low[i]);
    scene part = sampled(s, rows);
    const char *level;
    for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
        if (!runs_level(s, l)) continue;
        scene_prepare(s, level);
        const run_options options = run_defaults(&part);
        float *y = scene_tokens(&part, &options);
        const double worst = worst_token(y, ref, part.out_tokens, s->out);
        print_message("%-20s %-8s error %.3g, PyTorch f32 %.3g, bf16 %.3g\n", string(c, "name"), level, worst,
                      real_number(c, "error_f32"), real_number(c, "error_bf16"));
        if (!(worst <= bar(c))) fail_msg("allowed %.3g", bar(c));
        if (runs_whole(s, l)) check_whole(s, y, rows, string(c, "name"));
        free(y);
    }
    free(part.x), free(ref);
}

static void real_widths(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(real.cases, i, c)
    {
        scene s;
        scene_from_case(&s, c);
        check_real(&s, c);
        scene_free(&s);
    }
}

/* ---- gradients ---- */

static void prepare_training(const scene *s, const char *level)
{
    tenon_prepare_options options;
    tenon_error error;
    tenon_prepare_options_init(&options);
    options.cpu = level;
    options.train = true;
    expect_ok(tenon_adapter_prepare(s->adapter, &options, &error), &error);
}

/* ||g - ref|| <= 1e-5 ||ref||; a gradient that is zero but for PyTorch's rounding is exactly zero here. */
static void check_gradient(const float *g, const float *ref, int64_t count, const char *name, const char *what)
{
    double difference = 0, norm = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)g[i] - (double)ref[i]) * ((double)g[i] - (double)ref[i]);
        norm += (double)ref[i] * (double)ref[i];
        size += (double)g[i] * (double)g[i];
    }
    const bool silent = strcmp(what, "k_proj.bias") == 0;
    if (silent ? size == 0 && norm < 1e-20 : difference <= 1e-10 * norm) return;
    fail_msg("%s, %s: the gradient differs by %.3g of %.3g", name, what, sqrt(difference), sqrt(norm));
}

static void check_gradients(const scene *s, const json_t *c, const float *dy, bool save)
{
    back_options options = back_defaults(s);
    options.save = save;
    scene_gradients g = scene_backward(s, dy, &options);
    const json_t *offsets = json_object_get(c, "parameters");
    const int64_t features = s->call.batch * s->tokens * s->in;
    assert_int_equal(json_array_size(offsets), g.num);
    check_gradient(g.x, array(&gradients, c, "dx", features, sizeof(float)), features, string(c, "name"), "x");
    for (int64_t i = 0; i < g.num; i++) {
        tenon_parameter p;
        tenon_error error;
        tenon_parameter_init(&p);
        expect_ok(tenon_adapter_parameter(s->adapter, i, &p, &error), &error);
        const size_t offset = (size_t)json_integer_value(json_array_get(offsets, (size_t)i));
        assert_true(offset + (size_t)g.sizes[i] * sizeof(float) <= gradients.size);
        const void *ref = gradients.data + offset;
        check_gradient(g.parameters[i], ref, g.sizes[i], string(c, "name"), p.name);
    }
    scene_gradients_free(&g);
}

static void gradients_of_small_cases(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(gradients.cases, i, c)
    {
        scene s;
        const char *level;
        scene_from_case(&s, c);
        float *dy = grab((size_t)(rows_of(&s) * s.out) * sizeof *dy);
        for (int64_t j = 0; j < rows_of(&s) * s.out; j++)
            dy[j] = counter_value((uint64_t)integer(c, "dy_seed"), (uint64_t)j);
        for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
            prepare_training(&s, level);
            check_gradients(&s, c, dy, false);
            check_gradients(&s, c, dy, true);
        }
        free(dy);
        scene_free(&s);
    }
}

/* test_golden [PATTERN]: the tests whose names match. */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    load(&small, "small");
    load(&real, "real");
    load(&gradients, "gradients");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_agree),
        cmocka_unit_test(recorded_errors_are_those_of_the_outputs),
        cmocka_unit_test(small_cases),
        cmocka_unit_test(real_widths),
        cmocka_unit_test(gradients_of_small_cases),
    };
    const int failures = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(small.cases), json_decref(real.cases), json_decref(gradients.cases);
    free(small.data), free(real.data), free(gradients.data);
    return failures;
}
