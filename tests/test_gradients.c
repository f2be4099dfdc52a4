/* SPDX-License-Identifier: MIT */
/* Properties that hold for the gradients of every connector, on random scenes (fixed seeds), at every CPU level: the
 * bits do not depend on threads, layout or workspace, nor on whether forward kept what backward needs; frozen
 * parameters change nothing for the others; what is masked, and what NaN cannot reach, stays clean. Values are judged
 * in test_backward.c.
 */
#include "adapter/adapter.h"
#include "scene.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { num_scenes = 60 };

static tenon_error error;

static void prepare(const scene *s, const char *level)
{
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.cpu = level;
    options.train = true;
    expect_ok(tenon_adapter_prepare(s->adapter, &options, &error), &error);
}

/* A scene with its gradients for dy: what others are compared with. */
typedef struct expected {
    const scene *s;
    float *dy;
    uint64_t seed;
    scene_gradients g;
} expected;

static void each_scene(void (*check)(const expected *e), int step)
{
    for (uint64_t seed = 0; seed < num_scenes; seed += (uint64_t)step) {
        scene s;
        const char *level;
        scene_random(&s, seed);
        for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
            prepare(&s, level);
            expected e = {.s = &s, .dy = scene_draw_dy(&s, seed), .seed = seed};
            const back_options options = back_defaults(&s);
            e.g = scene_backward(&s, e.dy, &options);
            check(&e);
            scene_gradients_free(&e.g);
            free(e.dy);
        }
        scene_free(&s);
    }
}

static void same_bits(const expected *e, const float *got, const float *want, int64_t count, const char *what)
{
    if (count > 0 && memcmp(got, want, (size_t)count * sizeof *got) != 0) fail_msg("scene %d: %s", (int)e->seed, what);
}

/* The gradients under these options are those of the first run, to the bit, where they are wanted. */
static void expect_bits(const expected *e, const back_options *options, const char *what)
{
    scene_gradients g = scene_backward(e->s, e->dy, options);
    for (int64_t i = 0; i < g.num; i++) {
        if (g.parameters[i] != NULL) same_bits(e, g.parameters[i], e->g.parameters[i], g.sizes[i], what);
    }
    for (int64_t i = 0; i < scene_count_x(e->s) && options->dx != 0; i++) {
        if (g.x[i] == round_to(options->dx, e->g.x[i])) continue;
        fail_msg("scene %d: %s: x's gradient %d", (int)e->seed, what, (int)i);
    }
    scene_gradients_free(&g);
}

static void run_backwards(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    (void)context;
    for (int i = count - 1; i >= 0; i--)
        job(argument, i);
}

static void check_threads(const expected *e)
{
    const tenon_executor executor = {sizeof executor, 3, run_backwards, NULL};
    back_options options = back_defaults(e->s);
    for (int threads = 1; threads <= 7; threads += 2) {
        options.run.threads = threads;
        expect_bits(e, &options, "threads");
    }
    options.run.threads = 0;
    options.run.executor = &executor;
    expect_bits(e, &options, "the caller's executor");
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    each_scene(check_threads, 3);
}

static void check_saved(const expected *e)
{
    back_options options = back_defaults(e->s);
    options.save = true;
    expect_bits(e, &options, "saved");
    options.run.misalign = NO_WORKSPACE;
    expect_bits(e, &options, "saved, without a workspace");
    options.save = false;
    options.run.misalign = 5;
    expect_bits(e, &options, "a workspace at an odd address");
}

static void saved_is_recomputed(void **state)
{
    (void)state;
    each_scene(check_saved, 1);
}

static void check_layouts(const expected *e)
{
    back_options options = back_defaults(e->s);
    for (int l = PACKED; l < LAYOUT_COUNT; l++) {
        options.run.x_layout = (layout)l;
        expect_bits(e, &options, "layout of x");
        options.run.x_layout = PACKED;
        options.run.y_layout = (layout)l;
        expect_bits(e, &options, "layout of dy");
        options.run.y_layout = PACKED;
        options.dx_layout = l == TRANSPOSED ? PACKED : (layout)l;
        expect_bits(e, &options, "layout of dx");
    }
    for (tenon_dtype dtype = TENON_BF16; dtype <= TENON_F16; dtype++) {
        options = back_defaults(e->s);
        options.dx = dtype;
        expect_bits(e, &options, "dx in 16 bits");
    }
    options = back_defaults(e->s);
    options.run.tokens = TENON_BF16;
    expect_bits(e, &options, "dy in 16 bits");
}

static void layouts_and_storage_do_not_matter(void **state)
{
    (void)state;
    each_scene(check_layouts, 2);
}

/* An image's dx does not depend on the other images. */
static void check_alone(const expected *e)
{
    const int64_t tokens = e->s->out_tokens * e->s->out, features = e->s->tokens * e->s->in;
    back_options options = back_defaults(e->s);
    options.run.count = 1;
    for (int64_t image = 0; image < e->s->call.batch; image++) {
        options.run.first = image;
        scene_gradients g = scene_backward(e->s, e->dy + image * tokens, &options);
        same_bits(e, g.x, e->g.x + image * features, features, "an image alone");
        scene_gradients_free(&g);
    }
}

static void images_do_not_meet_in_dx(void **state)
{
    (void)state;
    each_scene(check_alone, 2);
}

/* --- frozen --- */

static void check_frozen(const expected *e)
{
    bool frozen[16];
    const int64_t num = e->g.num;
    assert_true(num <= 10);
    for (int subset = 0; subset < 2 << num; subset++) {
        for (int64_t i = 0; i < num; i++)
            frozen[i] = (subset >> i & 1) != 0;
        back_options options = back_defaults(e->s);
        options.frozen = frozen;
        options.dx = (subset >> num & 1) != 0 ? 0 : TENON_F32;
        options.save = subset % 3 == 0;
        expect_bits(e, &options, "frozen");
    }
}

static void every_frozen_combination(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"type\": \"linear\"}",
        "{\"type\": \"mlp_2layer\", \"hidden_dim\": 9}",
        "{\"type\": \"avgpool\"}",
        "{\"type\": \"attentional_pool\", \"pool_heads\": 2}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        scene s = {.in = 6, .out = 7, .tokens = 4, .features = TENON_F32, .call_window = TENON_UNSET};
        s.adapter = adapter_from_json(configs[i], s.in, s.out, NULL);
        s.call.batch = s.call.height = s.call.width = 2;
        expect_ok(tenon_adapter_reset_parameters(s.adapter, TENON_F32, i, &error), &error);
        scene_finish(&s);
        scene_fill(&s, i, 1, false);
        const char *level = NULL;
        for (int l = 0; cpu_level(l) != NULL; l++)
            level = cpu_level(l);
        prepare(&s, level);
        expected e = {.s = &s, .dy = scene_draw_dy(&s, i), .seed = i};
        const back_options options = back_defaults(&s);
        e.g = scene_backward(&s, e.dy, &options);
        check_frozen(&e);
        scene_gradients_free(&e.g);
        free(e.dy);
        scene_free(&s);
    }
}

/* --- masks and NaN --- */

static bool all_zero(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (values[i] != 0) return false;
    }
    return true;
}

/* Every patch is masked, and dy is NaN: nothing is read, everything is zero. */
static void check_masked(const expected *e)
{
    scene s = *e->s;
    const int64_t patches = s.call.height * s.call.width, tokens = s.call.batch * s.out_tokens * s.out;
    float *dy = grab((size_t)tokens * sizeof *dy);
    for (int64_t i = 0; i < tokens; i++)
        dy[i] = NAN;
    for (int whole = 0; whole < 2; whole++) {
        unsigned char *mask = calloc((size_t)(s.call.batch * patches), 1);
        s.patch_mask = whole ? NULL : mask;
        s.frame_mask = whole ? mask : NULL;
        const back_options options = back_defaults(&s);
        scene_gradients g = scene_backward(&s, dy, &options);
        assert_true(all_zero(g.x, scene_count_x(&s)));
        for (int64_t i = 0; i < g.num; i++)
            assert_true(all_zero(g.parameters[i], g.sizes[i]));
        scene_gradients_free(&g);
        free(mask);
    }
    free(dy);
}

static void what_is_masked_has_no_gradient(void **state)
{
    (void)state;
    each_scene(check_masked, 2);
}

/* One image is NaN: its NaN is in the gradients of all parameters that it reaches, and in no other image's dx. */
static void nan_stays_where_it_belongs(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < num_scenes; seed++) {
        scene s;
        const char *level;
        scene_random(&s, seed);
        free(s.patch_mask), free(s.frame_mask);
        s.patch_mask = s.frame_mask = NULL;
        s.call.patch_mask = s.call.frame_mask = NULL;
        scene_fill(&s, seed, 2, false);
        float *dy = scene_draw_dy(&s, seed);
        const int64_t features = s.tokens * s.in, last = s.call.batch - 1;
        const back_options options = back_defaults(&s);
        for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
            prepare(&s, level);
            scene_gradients clean = scene_backward(&s, dy, &options);
            float *x = s.x;
            s.x = grab((size_t)scene_count_x(&s) * sizeof *x);
            memcpy(s.x, x, (size_t)scene_count_x(&s) * sizeof *x);
            for (int64_t i = last * features; i < scene_count_x(&s); i++)
                s.x[i] = NAN;
            scene_gradients g = scene_backward(&s, dy, &options);
            assert_memory_equal(g.x, clean.x, (size_t)(last * features) * sizeof *x);
            for (int64_t i = 0; i < g.sizes[0]; i++)
                assert_true(isnan(g.parameters[0][i]));
            scene_gradients_free(&g), scene_gradients_free(&clean);
            free(s.x);
            s.x = x;
        }
        free(dy);
        scene_free(&s);
    }
}

/* --- batches --- */

static void an_empty_batch_adds_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        scene s;
        scene_random(&s, seed);
        prepare(&s, cpu_level(0));
        back_options options = back_defaults(&s);
        options.run.count = 0;
        for (int save = 0; save < 2; save++) {
            options.save = save == 1;
            scene_gradients g = scene_backward(&s, s.x, &options);
            for (int64_t i = 0; i < g.num; i++)
                assert_true(all_zero(g.parameters[i], g.sizes[i]));
            scene_gradients_free(&g);
        }
        scene_free(&s);
    }
}

/* Thousands of tokens in several blocks: dw and db of a linear layer, summed in double. */
static void blocks_add_up(void **state)
{
    (void)state;
    enum { in = 3, out = 2, tokens = 2500 };
    scene s = {.in = in, .out = out, .tokens = tokens, .features = TENON_F32, .call_window = TENON_UNSET};
    s.adapter = adapter_from_json("{\"type\": \"linear\"}", in, out, NULL);
    s.call = (ref_call){.batch = 2, .height = 1, .width = tokens};
    expect_ok(tenon_adapter_reset_parameters(s.adapter, TENON_F32, 3, &error), &error);
    scene_finish(&s);
    scene_fill(&s, 9, 1, false);
    float *dy = scene_draw_dy(&s, 4);
    const char *level;
    for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
        prepare(&s, level);
        back_options options = back_defaults(&s);
        scene_gradients g = scene_backward(&s, dy, &options);
        for (int64_t i = 0; i < in * out; i++) {
            double w = 0, b = 0, size = 0;
            for (int64_t r = 0; r < 2 * tokens; r++) {
                w += (double)dy[r * out + i / in] * (double)s.x[r * in + i % in];
                b += (double)dy[r * out + i / in];
                size += fabs((double)dy[r * out + i / in]);
            }
            assert_true(fabs((double)g.parameters[0][i] - w) < 1e-6 * size);
            assert_true(fabs((double)g.parameters[1][i / in] - b) < 1e-6 * size);
        }
        expected e = {.s = &s, .dy = dy, .seed = 0, .g = g};
        options.save = true;
        expect_bits(&e, &options, "saved, in blocks");
        options.run.threads = 3;
        expect_bits(&e, &options, "three threads, in blocks");
        scene_gradients_free(&g);
    }
    free(dy);
    scene_free(&s);
}

/* So many heads that the rows of a block are taken in several pieces: all images at once against one after another. */
static void pieces_add_up(void **state)
{
    (void)state;
    enum { width = 256, out = 5, side = 16, images = 2 };
    scene s = {.in = width, .out = out, .tokens = side * side, .features = TENON_F32, .call_window = TENON_UNSET};
    s.adapter = adapter_from_json("{\"type\": \"attentional_pool\", \"pool_heads\": 256}", width, out, NULL);
    s.call = (ref_call){.batch = images, .height = side, .width = side};
    expect_ok(tenon_adapter_reset_parameters(s.adapter, TENON_F32, 3, &error), &error);
    scene_finish(&s);
    scene_fill(&s, 9, 1, false);
    float *dy = scene_draw_dy(&s, 4);
    prepare(&s, NULL);
    back_options options = back_defaults(&s);
    expected e = {.s = &s, .dy = dy, .seed = 0, .g = scene_backward(&s, dy, &options)};
    options.save = true;
    options.run.threads = 3;
    expect_bits(&e, &options, "saved, in pieces");
    options.run.count = 1;
    scene_gradients one = scene_backward(&s, dy, &options);
    options.run.first = 1;
    scene_gradients other = scene_backward(&s, dy + s.out_tokens * out, &options);
    same_bits(&e, one.x, e.g.x, s.tokens * width, "pieces of an image alone");
    for (int64_t i = 0; i < e.g.num; i++) {
        double difference = 0, norm = 0;
        for (int64_t j = 0; j < e.g.sizes[i]; j++) {
            const double sum = (double)one.parameters[i][j] + (double)other.parameters[i][j];
            difference += (sum - (double)e.g.parameters[i][j]) * (sum - (double)e.g.parameters[i][j]);
            norm += sum * sum;
        }
        assert_true(difference <= 1e-12 * norm);
    }
    scene_gradients_free(&one), scene_gradients_free(&other), scene_gradients_free(&e.g);
    free(dy);
    scene_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(saved_is_recomputed),
        cmocka_unit_test(layouts_and_storage_do_not_matter),
        cmocka_unit_test(images_do_not_meet_in_dx),
        cmocka_unit_test(every_frozen_combination),
        cmocka_unit_test(what_is_masked_has_no_gradient),
        cmocka_unit_test(nan_stays_where_it_belongs),
        cmocka_unit_test(an_empty_batch_adds_nothing),
        cmocka_unit_test(blocks_add_up),
        cmocka_unit_test(pieces_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
