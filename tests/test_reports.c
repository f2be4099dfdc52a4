/* SPDX-License-Identifier: MIT */
/* What broke elsewhere, as tests under the numbers of the collected reports (docs/reliability.md): counts, grids,
 * numerics and bits of the connectors.
 */
#include "counter_rng.h"
#include "scene.h"
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

static const char *const every_type[] = {
    "{\"type\": \"linear\"}",
    "{\"type\": \"mlp_2layer\", \"hidden_dim\": 270}",
    "{\"type\": \"avgpool\", \"pool_window\": 2}",
    "{\"type\": \"attentional_pool\", \"pool_window\": 2, \"pool_heads\": 2, \"ragged\": \"partial\"}",
};
enum { num_types = sizeof every_type / sizeof *every_type };

static void scene_new(scene *s, const char *json, int64_t width, int64_t batch, int64_t rows, int64_t columns)
{
    tenon_error error;
    *s = (scene){.in = width, .out = width, .tokens = rows * columns, .features = TENON_F32};
    s->call = (ref_call){.batch = batch, .height = rows, .width = columns};
    s->call_window = TENON_UNSET;
    s->give_grid = rows != columns;
    s->adapter = adapter_from_json(json, width, width, NULL);
    expect_ok(tenon_adapter_reset_parameters(s->adapter, TENON_F32, 5, &error), &error);
    scene_finish(s);
    scene_fill(s, 9, 1, false);
}

static void set_constant(scene *s, float value)
{
    for (int64_t i = 0; i < s->call.batch * s->tokens * s->in; i++)
        s->x[i] = round_to(s->features, value);
}

/* Every linear layer becomes the identity without bias. The caller frees what the adapter borrows. */
static float *set_identity(scene *s)
{
    const int64_t n = s->in;
    float *eye = grab((size_t)(n * n + n) * sizeof *eye);
    for (int64_t i = 0; i < n * n + n; i++)
        eye[i] = i < n * n && i / n == i % n ? 1 : 0;
    for (int64_t i = 0; i < tenon_adapter_num_parameters(s->adapter); i++) {
        tenon_parameter p;
        tenon_error error;
        tenon_parameter_init(&p);
        expect_ok(tenon_adapter_parameter(s->adapter, i, &p, &error), &error);
        int64_t shape[2] = {n, n};
        DLTensor t = {p.ndim == 2 ? eye : eye + n * n, {kDLCPU, 0}, p.ndim, {kDLFloat, 32, 1}, shape, NULL, 0};
        expect_ok(tenon_adapter_set_parameter(s->adapter, p.name, &t, &error), &error);
    }
    return eye;
}

static const char *best_level(void)
{
    int last = 0;
    while (cpu_level(last + 1) != NULL)
        last++;
    return cpu_level(last);
}

static void prepare_best(scene *s)
{
    scene_prepare(s, best_level());
}

static float *tokens_of(const scene *s)
{
    const run_options options = run_defaults(s);
    return scene_tokens(s, &options);
}

static void expect_message(tenon_status status, const tenon_error *error, const char *first, const char *second)
{
    assert_int_not_equal(status, TENON_OK);
    if (strstr(error->message, first) == NULL || strstr(error->message, second) == NULL)
        fail_msg("\"%s\" should name %s and %s", error->message, first, second);
}

/* 577 rows are fine for connectors that work row by row and do not make a 24 x 24 grid. */
static void b2_rows_that_are_no_grid(void **state)
{
    (void)state;
    for (size_t i = 0; i < num_types; i++) {
        tenon_adapter *adapter = adapter_from_json(every_type[i], 4, 4, NULL);
        int64_t count = -1;
        tenon_call call;
        tenon_error error;
        if (i < 2) {
            expect_ok(tenon_adapter_output_num_tokens(adapter, NULL, 577, &count, &error), &error);
            assert_int_equal(count, 577);
        } else {
            tenon_call_init(&call);
            call.grid_height = call.grid_width = 24;
            tenon_status status = tenon_adapter_output_num_tokens(adapter, &call, 577, &count, &error);
            expect_message(status, &error, "577", "576");
            status = tenon_adapter_output_num_tokens(adapter, NULL, 577, &count, &error);
            expect_message(status, &error, "577", "prefix_tokens");
            assert_int_equal(count, -1);
        }
        tenon_adapter_free(adapter);
    }
}

/* Forward takes exactly the counted number of tokens, and writes them all. */
static void check_count(const tenon_adapter *adapter, const tenon_call *call, int64_t tokens, int64_t expected)
{
    enum { width = 2, most = 150 };
    static float x[most * width], y[(most + 1) * width];
    int64_t count = -1, x_shape[3] = {1, tokens, width}, y_shape[3] = {1, 0, width};
    DLTensor in = {x, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, x_shape, NULL, 0}, out = in;
    tenon_error error;
    out.data = y;
    out.shape = y_shape;
    expect_ok(tenon_adapter_output_num_tokens(adapter, call, tokens, &count, &error), &error);
    assert_int_equal(count, expected);
    for (int64_t i = 0; i < (most + 1) * width; i++)
        y[i] = NAN;
    for (int64_t off = -1; off <= 1; off += 2) {
        y_shape[1] = count + off;
        assert_int_not_equal(tenon_adapter_forward(adapter, &in, &out, call, NULL, &error), TENON_OK);
    }
    for (int64_t i = 0; i < (most + 1) * width; i++)
        assert_true(isnan(y[i])); /* a failed call leaves its destination as it was */
    y_shape[1] = count;
    expect_ok(tenon_adapter_forward(adapter, &in, &out, call, NULL, &error), &error);
    for (int64_t i = 0; i < (most + 1) * width; i++)
        assert_true(isnan(y[i]) == (i >= count * width));
}

static void b11_count_is_what_forward_writes(void **state)
{
    (void)state;
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 2, 1, 2, 2);
        prepare_best(&s);
        tenon_call call;
        tenon_call_init(&call);
        for (int64_t n = 0; n < 12 * 12 * 4; n++) {
            const int64_t h = n % 12 + 1, w = n / 12 % 12 + 1, window = n / 144 + 1;
            call.grid_height = h;
            call.grid_width = w;
            call.pool_window = i < 2 ? TENON_UNSET : window;
            const int64_t pooled = ((h + window - 1) / window) * ((w + window - 1) / window);
            check_count(s.adapter, &call, h * w, i < 2 ? h * w : pooled);
        }
        call.pool_window = i < 2 ? TENON_UNSET : 3;
        call.grid_height = 1;
        call.grid_width = 64;
        check_count(s.adapter, &call, 64, i < 2 ? 64 : 22);
        call.grid_height = 64;
        call.grid_width = 1;
        check_count(s.adapter, &call, 64, i < 2 ? 64 : 22);
        scene_free(&s);
    }
}

/* Sums past 65504 whose result is in range: the mean of nine 60000s, and 4 x 60000 - 3 x 60000. */
static void b46_f16_sums_do_not_overflow(void **state)
{
    (void)state;
    for (size_t i = 2; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 8, 1, 3, 3);
        float *eye = set_identity(&s);
        s.features = TENON_F16;
        s.call_window = s.module.window = 3;
        s.out_tokens = 1;
        set_constant(&s, 60000);
        for (int l = 0; cpu_level(l) != NULL; l++) {
            scene_prepare(&s, cpu_level(l));
            run_options options = run_defaults(&s);
            options.tokens = TENON_F16;
            float *y = scene_tokens(&s, &options);
            for (int64_t c = 0; c < s.out; c++)
                assert_true(y[c] == 60000);
            free(y);
        }
        scene_free(&s), free(eye);
    }
    scene s;
    scene_new(&s, every_type[0], 7, 1, 1, 1);
    uint16_t weight[49], bias[7] = {0};
    for (int i = 0; i < 49; i++)
        weight[i] = half_bits(TENON_F16, i % 7 < 4 ? 1 : -1);
    int64_t shape[2] = {7, 7};
    DLTensor t = {weight, {kDLCPU, 0}, 2, {kDLFloat, 16, 1}, shape, NULL, 0};
    tenon_error error;
    expect_ok(tenon_adapter_set_parameter(s.adapter, "proj.weight", &t, &error), &error);
    t.data = bias;
    t.ndim = 1;
    expect_ok(tenon_adapter_set_parameter(s.adapter, "proj.bias", &t, &error), &error);
    s.features = TENON_F16;
    set_constant(&s, 60000);
    for (int l = 0; cpu_level(l) != NULL; l++) {
        scene_prepare(&s, cpu_level(l));
        run_options options = run_defaults(&s);
        options.tokens = TENON_F16;
        float *y = scene_tokens(&s, &options);
        assert_true(y[0] == 60000 && y[6] == 60000);
        free(y);
    }
    scene_free(&s);
}

/* The first `count` tokens of a scene: a strip of windows side by side. */
static void first_windows(scene *part, const scene *s, int64_t count)
{
    *part = *s;
    const int64_t w = s->out_tokens == s->tokens ? 1 : s->module.window;
    part->tokens = count * w * w;
    part->call.width = count * w;
    part->out_tokens = count;
    part->x = grab((size_t)(part->tokens * s->in) * sizeof(float));
    for (int64_t r = 0; r < w; r++)
        memcpy(part->x + r * count * w * s->in, s->x + r * s->call.width * s->in,
               (size_t)(count * w * s->in) * sizeof(float));
}

/* Token r computed with 1, 2, 7, 64 and 577 rows, on 1, 2, 4 and 7 threads, at sizes past every tile and cut. */
static void b56_rows_and_threads_do_not_change_bits(void **state)
{
    (void)state;
    static const int counts[] = {1, 2, 7, 64, 577}, threads[] = {1, 2, 4, 7};
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        const int64_t w = i < 2 ? 1 : 2;
        scene_new(&s, every_type[i], 300, 1, w, 577 * w);
        s.give_grid = true;
        for (int l = 0; cpu_level(l) != NULL; l++) {
            scene_prepare(&s, cpu_level(l));
            float *all = tokens_of(&s);
            for (int n = 0; n < 5 * 4; n++) {
                scene part;
                first_windows(&part, &s, counts[n / 4]);
                run_options options = run_defaults(&part);
                options.threads = threads[n % 4];
                float *y = scene_tokens(&part, &options);
                if (memcmp(y, all, (size_t)(part.out_tokens * s.out) * sizeof *y) != 0)
                    fail_msg("%s: %d rows on %d threads", every_type[i], counts[n / 4], threads[n % 4]);
                free(y), free(part.x);
            }
            free(all);
        }
        scene_free(&s);
    }
}

/* A long sum, so that every cut of the inner dimension is passed. */
static void b57_strides_do_not_change_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 1100, 2, 4, 4);
        for (s.features = TENON_F32; s.features <= TENON_F16; s.features++) {
            scene_fill(&s, 9, 1, false);
            prepare_best(&s);
            run_options options = run_defaults(&s);
            float *packed = scene_tokens(&s, &options);
            for (int how = 1; how < LAYOUT_COUNT; how++) {
                options.x_layout = (layout)how;
                float *y = scene_tokens(&s, &options);
                assert_memory_equal(y, packed, (size_t)(2 * s.out_tokens * s.out) * sizeof *y);
                free(y);
            }
            free(packed);
        }
        scene_free(&s);
    }
}

/* B58, B59: nothing in, nothing out; no heads and no width are refused when the adapter is made. */
static void b58_empty_batches(void **state)
{
    (void)state;
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 4, 1, 4, 4);
        prepare_best(&s);
        s.call.batch = 0;
        for (int how = 0; how < LAYOUT_COUNT; how++) {
            run_options options = run_defaults(&s);
            options.x_layout = (layout)how;
            options.threads = how;
            free(scene_tokens(&s, &options));
        }
        int64_t x_shape[3] = {0, 16, 4}, y_shape[3] = {0, s.out_tokens, 4};
        DLTensor x = {NULL, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, x_shape, NULL, 0}, y = x;
        tenon_error error;
        y.shape = y_shape;
        expect_ok(tenon_adapter_forward(s.adapter, &x, &y, NULL, NULL, &error), &error);
        scene_free(&s);
    }
}

static void b59_no_width_and_no_heads(void **state)
{
    (void)state;
    tenon_config *config = NULL;
    tenon_adapter *adapter = NULL;
    tenon_error error;
    expect_ok(tenon_config_new("attentional_pool", &config, &error), &error);
    assert_int_equal(tenon_config_set_int(config, "pool_heads", 0, &error), TENON_INVALID);
    expect_message(tenon_adapter_new(config, 0, 5, NULL, &adapter, &error), &error, "must be positive", "");
    expect_message(tenon_adapter_new(config, 32, -1, NULL, &adapter, &error), &error, "must be positive", "");
    expect_message(tenon_adapter_new(config, 33, 5, NULL, &adapter, &error), &error, "33", "16");
    assert_null(adapter);
    tenon_config_free(config);
}

/* A window without a valid patch is exactly zero, whatever the patches hold and whatever the biases are. */
static void b60_masked_windows_are_zero(void **state)
{
    (void)state;
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 12, 2, 4, 4);
        unsigned char mask[32] = {0};
        mask[31] = 1;
        s.patch_mask = mask;
        scene_fill(&s, 1, 1, false);
        for (int64_t r = 0; r < 31 * s.in; r++)
            s.x[r] = r % 3 == 0 ? NAN : r % 3 == 1 ? INFINITY : 1e30f;
        const int64_t used = 2 * s.out_tokens - 1;
        for (int l = 0; cpu_level(l) != NULL; l++) {
            scene_prepare(&s, cpu_level(l));
            float *y = tokens_of(&s);
            for (int64_t k = 0; k < used * s.out; k++)
                assert_true(y[k] == 0);
            for (int64_t k = used * s.out; k < (used + 1) * s.out; k++)
                assert_true(isfinite(y[k]) && y[k] != 0);
            free(y);
        }
        s.patch_mask = NULL;
        scene_free(&s);
    }
}

/* Means and softmax sums of many ones are one. */
static void b63_bf16_ones_average_to_one(void **state)
{
    (void)state;
    for (size_t i = 2; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 8, 1, i == 2 ? 27 : 16, i == 2 ? 27 : 32);
        float *eye = set_identity(&s);
        s.features = TENON_BF16;
        s.call_window = s.module.window = 32;
        s.out_tokens = 1;
        set_constant(&s, 1);
        for (int l = 0; cpu_level(l) != NULL; l++) {
            scene_prepare(&s, cpu_level(l));
            float *y = tokens_of(&s);
            for (int64_t c = 0; c < s.out; c++)
                assert_true(i == 2 ? y[c] == 1 : fabsf(y[c] - 1) < 1e-6f);
            free(y);
        }
        scene_free(&s), free(eye);
    }
}

/* 27 x 27 by 2: 169 whole windows, 26 with two patches, one with one; the mean of ones is exactly one in each. */
static void b76_edge_windows_count_their_patches(void **state)
{
    (void)state;
    for (size_t i = 2; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 4, 1, 27, 27);
        float *eye = set_identity(&s), attention[196 * 2 * 4];
        set_constant(&s, 1);
        assert_int_equal(s.out_tokens, 196);
        for (int l = 0; cpu_level(l) != NULL; l++) {
            scene_prepare(&s, cpu_level(l));
            run_options options = run_defaults(&s);
            options.attention = i == 3 ? attention : NULL;
            float *y = scene_tokens(&s, &options);
            for (int64_t k = 0; k < 196 * s.out; k++)
                assert_true(i == 2 ? y[k] == 1 : fabsf(y[k] - 1) < 1e-6f);
            free(y);
            int with[5] = {0};
            for (int t = 0; i == 3 && t < 196; t++) {
                int present = 0;
                for (int j = 0; j < 4; j++)
                    present += attention[t * 8 + j] > 0;
                with[present]++;
            }
            if (i == 3) assert_true(with[4] == 169 && with[2] == 26 && with[1] == 1);
        }
        scene_free(&s), free(eye);
    }
}

/* One patch is a window of its own; a connector that drops what is not whole has nothing to give and says so. */
static void b80_one_patch(void **state)
{
    (void)state;
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 12, 1, 1, 1);
        float *eye = i == 1 ? NULL : set_identity(&s);
        prepare_best(&s);
        float *y = tokens_of(&s);
        for (int64_t c = 0; c < s.out && i != 1; c++)
            assert_true(y[c] == s.x[c]);
        free(y);
        scene_free(&s), free(eye);
    }
    tenon_adapter *adapter =
        adapter_from_json("{\"type\": \"avgpool\", \"pool_window\": 2, \"ragged\": \"drop\"}", 4, 4, NULL);
    int64_t count = -1;
    tenon_error error;
    assert_int_not_equal(tenon_adapter_output_num_tokens(adapter, NULL, 1, &count, &error), TENON_OK);
    assert_int_equal(count, -1);
    tenon_adapter_free(adapter);
}

/* 4096 patches as 32 x 128 are not a square, though their number is. */
static void b82_the_grid_is_given(void **state)
{
    (void)state;
    for (size_t i = 2; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 4, 1, 32, 128);
        s.call_window = s.module.window = 4;
        s.out_tokens = 8 * 32;
        prepare_best(&s);
        float *wide = tokens_of(&s);
        double *ref = scene_reference(&s, NULL);
        assert_true(worst_token(wide, ref, 256, 4) < 2e-6);
        s.give_grid = false;
        s.call.height = s.call.width = 64;
        float *square = tokens_of(&s);
        assert_memory_not_equal(wide, square, 256 * 4 * sizeof *wide);
        free(wide), free(square), free(ref);
        int64_t count = -1;
        tenon_error error;
        const tenon_status status = tenon_adapter_output_num_tokens(s.adapter, NULL, 4095, &count, &error);
        expect_message(status, &error, "4095", "");
        scene_free(&s);
    }
}

/* Frames are independent: chunks of 1, 8 and 64 give the same bytes. A call's workspace does not depend on the batch.
 */
static void b112_chunks_of_frames(void **state)
{
    (void)state;
    scene s;
    scene_new(&s, "{\"type\": \"attentional_pool\", \"pool_window\": 3, \"pool_heads\": 2}", 8, 64, 27, 27);
    prepare_best(&s);
    float *all = tokens_of(&s);
    for (int64_t chunk = 1; chunk <= 8; chunk += 7) {
        run_options options = run_defaults(&s);
        options.count = chunk;
        for (options.first = 0; options.first < 64; options.first += chunk) {
            float *y = scene_tokens(&s, &options);
            const size_t image = (size_t)(81 * s.out);
            assert_memory_equal(y, all + (size_t)options.first * image, (size_t)chunk * image * sizeof *y);
            free(y);
        }
    }
    free(all);
    scene_free(&s);
}

/* What a caller may have set: rounding upwards, and flushing denormals where there is such a switch. */
static void set_odd_mode(void)
{
    assert_int_equal(fesetround(FE_UPWARD), 0);
#ifdef __SSE2__
    _mm_setcsr(_mm_getcsr() | 0x8040u); /* FTZ and DAZ */
#endif
}

static unsigned control_word(void)
{
#ifdef __SSE2__
    return (_mm_getcsr() & ~0x3fu) ^ (unsigned)fegetround() << 16; /* the low six bits are sticky flags */
#else
    return (unsigned)fegetround();
#endif
}

static void run_serial(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    (void)context;
    for (int i = 0; i < count; i++)
        job(argument, i);
}

/* Denormal features count, in every mode of the caller's, and the caller gets its mode back. */
static void b115_modes_of_the_caller(void **state)
{
    (void)state;
    const tenon_executor executor = {sizeof executor, 2, run_serial, NULL};
    for (size_t i = 0; i < num_types; i++) {
        scene s;
        scene_new(&s, every_type[i], 40, 1, 4, 4);
        for (int64_t k = 0; k < s.tokens * s.in; k += 2)
            s.x[k] *= 1e-39f;
        float *eye = i == 0 ? set_identity(&s) : NULL;
        for (int l = 0; cpu_level(l) != NULL; l++) {
            scene_prepare(&s, cpu_level(l));
            float *expected = tokens_of(&s);
            if (i == 0) assert_memory_equal(expected, s.x, (size_t)(s.tokens * s.in) * sizeof *expected);
            for (int threads = 0; threads <= 2; threads++) {
                run_options options = run_defaults(&s);
                options.threads = threads;
                options.executor = threads == 0 ? &executor : NULL;
                fenv_t mode;
                assert_int_equal(feholdexcept(&mode), 0);
                set_odd_mode();
                const unsigned before = control_word();
                float *y = scene_tokens(&s, &options);
                const unsigned after = control_word();
                assert_int_equal(fesetenv(&mode), 0);
                assert_int_equal(after, before);
                assert_memory_equal(y, expected, (size_t)(s.out_tokens * s.out) * sizeof *y);
                free(y);
            }
            free(expected);
        }
        scene_free(&s), free(eye);
    }
}

/* One adapter takes grid after grid, and the first again. */
static void b143_one_adapter_any_grid(void **state)
{
    (void)state;
    static const int64_t grids[][2] = {{4, 4}, {6, 10}, {27, 27}, {4, 4}};
    for (size_t i = 0; i < num_types; i++) {
        float *first = NULL;
        scene s;
        scene_new(&s, every_type[i], 12, 1, 27, 27);
        prepare_best(&s);
        for (size_t g = 0; g < 4; g++) {
            scene part = s;
            part.call.height = grids[g][0];
            part.call.width = grids[g][1];
            part.tokens = part.call.height * part.call.width;
            part.give_grid = true;
            part.out_tokens = ref_out_tokens(&part.module, &part.call);
            float *y = tokens_of(&part);
            double *ref = scene_reference(&part, NULL);
            assert_true(worst_token(y, ref, part.out_tokens, part.out) < 2e-6);
            if (g == 3) assert_memory_equal(y, first, (size_t)(part.out_tokens * part.out) * sizeof *y);
            if (g == 0)
                first = y;
            else
                free(y);
            free(ref);
        }
        free(first);
        scene_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(b2_rows_that_are_no_grid),
        cmocka_unit_test(b11_count_is_what_forward_writes),
        cmocka_unit_test(b46_f16_sums_do_not_overflow),
        cmocka_unit_test(b56_rows_and_threads_do_not_change_bits),
        cmocka_unit_test(b57_strides_do_not_change_bits),
        cmocka_unit_test(b58_empty_batches),
        cmocka_unit_test(b59_no_width_and_no_heads),
        cmocka_unit_test(b60_masked_windows_are_zero),
        cmocka_unit_test(b63_bf16_ones_average_to_one),
        cmocka_unit_test(b76_edge_windows_count_their_patches),
        cmocka_unit_test(b80_one_patch),
        cmocka_unit_test(b82_the_grid_is_given),
        cmocka_unit_test(b112_chunks_of_frames),
        cmocka_unit_test(b115_modes_of_the_caller),
        cmocka_unit_test(b143_one_adapter_any_grid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
