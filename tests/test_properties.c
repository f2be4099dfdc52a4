/* SPDX-License-Identifier: MIT */
/* Properties that hold for every connector, on random scenes (fixed seeds), at every CPU level: the values are the
 * reference's, and a token's bits depend on the patches it reads, the weights, the config and the level alone. The
 * report numbers are in test_reports.c.
 */
#include "counter_rng.h"
#include "scene.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { num_scenes = 80 };

/* Runs check on every scene at every level that level_at lists. */
static void each_scene(void (*check)(scene *s, uint64_t seed), int step)
{
    for (uint64_t seed = 0; seed < num_scenes; seed += (uint64_t)step) {
        scene s;
        const char *level;
        scene_random(&s, seed);
        for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
            scene_prepare(&s, level);
            check(&s, seed);
        }
        scene_free(&s);
    }
}

static size_t image_floats(const scene *s)
{
    return (size_t)(s->out_tokens * s->out);
}

static void same_bits(const float *y, const float *expected, size_t count, const char *what, uint64_t seed)
{
    if (count > 0 && memcmp(y, expected, count * sizeof *y) != 0) fail_msg("scene %d: %s", (int)seed, what);
}

/* Runs with these options and expects the first run's bits for the same images. */
static void expect_bits(const scene *s, const run_options *options, const float *all, const char *what, uint64_t seed)
{
    float *y = scene_tokens(s, options);
    same_bits(y, all + options->first * (int64_t)image_floats(s), (size_t)options->count * image_floats(s), what, seed);
    free(y);
}

/* ---- values ---- */

static void check_reference(scene *s, uint64_t seed)
{
    const run_options options = run_defaults(s);
    float *y = scene_tokens(s, &options);
    double *ref = scene_reference(s, NULL);
    const double worst = worst_token(y, ref, s->call.batch * s->out_tokens, s->out);
    const double bar = s->out < 16 ? 1e-4 : 2e-6; /* a token of few numbers may all but cancel */
    if (!(worst <= bar))
        fail_msg("scene %d: %s %d -> %d, %dx%d, window %d %s: error %.3g", (int)seed, s->module.type, (int)s->in,
                 (int)s->out, (int)s->call.height, (int)s->call.width, (int)s->module.window, s->module.ragged, worst);
    free(y), free(ref);
}

/* The absorbed form of the attention, the window mean, the epilogues and the masks against the direct form. */
static void tokens_are_the_references(void **state)
{
    (void)state;
    each_scene(check_reference, 1);
}

static void check_attention(scene *s, uint64_t seed)
{
    const int64_t slots = s->module.window * s->module.window, rows = s->call.batch * s->out_tokens * s->module.heads;
    float *weights = grab((size_t)(rows * slots) * sizeof *weights);
    double *expected = grab((size_t)(rows * slots) * sizeof *expected);
    memset(weights, 0xff, (size_t)(rows * slots) * sizeof *weights);
    run_options options = run_defaults(s);
    float *plain = scene_tokens(s, &options);
    options.attention = weights;
    expect_bits(s, &options, plain, "asking for the attention changes the tokens", seed);
    double *ref = scene_reference(s, expected);
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, expected_sum = 0;
        for (int64_t i = r * slots; i < (r + 1) * slots; i++) {
            sum += (double)weights[i];
            expected_sum += expected[i];
            assert_true(fabs((double)weights[i] - expected[i]) <= 2e-6);
            assert_true(expected[i] != 0 || weights[i] == 0);
        }
        assert_true(fabs(sum - expected_sum) <= 1e-6); /* one, or zero where nothing is read */
    }
    free(plain), free(ref), free(weights), free(expected);
}

static void attention_weights_are_the_references(void **state)
{
    (void)state;
    for (uint64_t seed = 3; seed < num_scenes; seed += 4) {
        scene s;
        const char *level;
        scene_random(&s, seed);
        assert_string_equal(s.module.type, "attentional_pool");
        for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
            scene_prepare(&s, level);
            check_attention(&s, seed);
        }
        scene_free(&s);
    }
}

/* ---- the same bits ---- */

static void run_backwards(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    *(int *)context += 1;
    for (int i = count - 1; i >= 0; i--)
        job(argument, i);
}

static void check_threads(scene *s, uint64_t seed)
{
    int runs = 0;
    const tenon_executor executor = {sizeof executor, 3, run_backwards, &runs};
    run_options options = run_defaults(s);
    options.threads = 1;
    float *all = scene_tokens(s, &options);
    options.threads = 2;
    expect_bits(s, &options, all, "2 threads", seed);
    options.threads = 7;
    expect_bits(s, &options, all, "7 threads", seed);
    options.executor = &executor;
    options.threads = 0;
    expect_bits(s, &options, all, "the caller's executor", seed);
    free(all);
}

static void threads_do_not_change_bits(void **state)
{
    (void)state;
    each_scene(check_threads, 1);
}

static void check_memory(scene *s, uint64_t seed)
{
    run_options options = run_defaults(s);
    float *all = scene_tokens(s, &options);
    options.misalign = NO_WORKSPACE;
    expect_bits(s, &options, all, "no workspace", seed);
    for (options.misalign = 1; options.misalign < 64; options.misalign += 21)
        expect_bits(s, &options, all, "misaligned workspace", seed);
    options.misalign = 0;
    for (int how = 1; how < LAYOUT_COUNT; how++) {
        options.x_layout = (layout)how;
        expect_bits(s, &options, all, "strided features", seed);
        if (how == TRANSPOSED) continue;
        options.y_layout = (layout)how;
        expect_bits(s, &options, all, "strided tokens", seed);
    }
    free(all);
}

static void layout_and_alignment_do_not_change_bits(void **state)
{
    (void)state;
    each_scene(check_memory, 1);
}

static void check_slices(scene *s, uint64_t seed)
{
    run_options options = run_defaults(s);
    float *all = scene_tokens(s, &options);
    options.count = 1;
    for (options.first = 0; options.first < s->call.batch; options.first++)
        expect_bits(s, &options, all, "an image alone", seed);
    free(all);
}

static void batch_does_not_change_bits(void **state)
{
    (void)state;
    each_scene(check_slices, 1);
}

/* A batch of nine images of the same scene, unmasked. */
static void batch_of_nine_is_nine_images(void **state)
{
    (void)state;
    const char *level;
    for (uint64_t seed = 0; seed < 12; seed++) {
        scene s;
        scene_random(&s, seed);
        free(s.patch_mask), free(s.frame_mask), free(s.x);
        s.patch_mask = s.frame_mask = NULL;
        s.call.patch_mask = s.call.frame_mask = NULL;
        s.x = NULL;
        s.call.batch = 9;
        scene_fill(&s, seed, 1, true);
        for (int l = 0; (level = cpu_level(l)) != NULL; l++) {
            scene_prepare(&s, level);
            check_slices(&s, seed);
        }
        scene_free(&s);
    }
}

/* Reversing the images of a batch, masks with them, reverses the tokens. */
static void check_permutation(scene *s, uint64_t seed)
{
    run_options options = run_defaults(s);
    const int64_t batch = s->call.batch, patches = s->call.height * s->call.width;
    const size_t row = (size_t)(s->tokens * s->in);
    float *all = scene_tokens(s, &options);
    scene turned = *s;
    turned.x = grab((size_t)batch * row * sizeof(float));
    turned.patch_mask = s->patch_mask == NULL ? NULL : grab((size_t)(batch * patches));
    turned.frame_mask = s->frame_mask == NULL ? NULL : grab((size_t)batch);
    for (int64_t b = 0; b < batch; b++) {
        const int64_t from = batch - 1 - b;
        memcpy(turned.x + (size_t)b * row, s->x + (size_t)from * row, row * sizeof(float));
        if (s->patch_mask != NULL)
            memcpy(turned.patch_mask + b * patches, s->patch_mask + from * patches, (size_t)patches);
        if (s->frame_mask != NULL) turned.frame_mask[b] = s->frame_mask[from];
    }
    float *y = scene_tokens(&turned, &options);
    for (int64_t b = 0; b < batch; b++)
        same_bits(y + (size_t)b * image_floats(s), all + (size_t)(batch - 1 - b) * image_floats(s), image_floats(s),
                  "permuted images", seed);
    free(y), free(all), free(turned.x), free(turned.patch_mask), free(turned.frame_mask);
}

static void permuting_images_permutes_tokens(void **state)
{
    (void)state;
    each_scene(check_permutation, 1);
}

/* Tokens whose patches are all valid have the bits they have without any mask; a mask of ones is no mask. */
static void check_masked_neighbours(scene *s, uint64_t seed)
{
    if (s->patch_mask == NULL) return;
    run_options options = run_defaults(s);
    const int64_t patches = s->call.height * s->call.width;
    float *masked = scene_tokens(s, &options);
    scene bare = *s;
    bare.x = NULL;
    bare.patch_mask = bare.frame_mask = NULL;
    scene_fill(&bare, seed + 77, 2.0f, false);
    float *all = scene_tokens(&bare, &options);
    bare.patch_mask = grab((size_t)(s->call.batch * patches));
    memset(bare.patch_mask, 1, (size_t)(s->call.batch * patches));
    expect_bits(&bare, &options, all, "a mask of ones", seed);
    for (int64_t i = 0; i < s->call.batch * s->out_tokens; i++) {
        const int64_t image = i / s->out_tokens;
        bool whole = s->frame_mask == NULL || s->frame_mask[image] != 0;
        for (int64_t p = 0; p < patches; p++)
            whole = whole && (!scene_reads(s, i % s->out_tokens, p) || s->patch_mask[image * patches + p] != 0);
        if (whole) same_bits(masked + i * s->out, all + i * s->out, (size_t)s->out, "masks on other tokens", seed);
    }
    free(masked), free(all), free(bare.x), free(bare.patch_mask);
}

static void masked_neighbours_do_not_change_bits(void **state)
{
    (void)state;
    each_scene(check_masked_neighbours, 1);
}

/* ---- NaN and infinity ---- */

static bool any_not_finite(const float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(y[i])) return true;
    return false;
}

static bool all_nan(const float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isnan(y[i])) return false;
    return true;
}

/* One bad number in a patch of the last image reaches the tokens that read the patch, and no others. */
static void check_spread(scene *s, uint64_t seed, float bad)
{
    run_options options = run_defaults(s);
    const int64_t patches = s->call.height * s->call.width, image = s->call.batch - 1;
    const int64_t patch = counter_range(seed, 50, 0, patches - 1);
    const int64_t at =
        ((image * s->tokens) + s->module.prefix_tokens + patch) * s->in + counter_range(seed, 51, 0, s->in - 1);
    const bool hidden = (s->patch_mask != NULL && s->patch_mask[image * patches + patch] == 0) ||
                        (s->frame_mask != NULL && s->frame_mask[image] == 0);
    float *good = scene_tokens(s, &options);
    const float before = s->x[at];
    s->x[at] = bad;
    float *y = scene_tokens(s, &options);
    s->x[at] = before;
    for (int64_t i = 0; i < s->call.batch * s->out_tokens; i++) {
        const float *token = y + i * s->out;
        if (i / s->out_tokens != image || hidden || !scene_reads(s, i % s->out_tokens, patch))
            same_bits(token, good + i * s->out, (size_t)s->out, "a bad number reached another token", seed);
        else if (isnan(bad) ? !all_nan(token, s->out) : !any_not_finite(token, s->out))
            fail_msg("scene %d: %g vanished on its way", (int)seed, (double)bad);
    }
    free(good), free(y);
}

static void check_nan(scene *s, uint64_t seed)
{
    check_spread(s, seed, NAN);
    check_spread(s, seed + 500, NAN);
}

static void nan_reaches_its_tokens_and_no_others(void **state)
{
    (void)state;
    each_scene(check_nan, 1);
}

/* relu and its kin turn -infinity into 0, so infinity is followed through the linear connectors and the pools only. */
static void check_infinity(scene *s, uint64_t seed)
{
    if (strcmp(s->module.type, "mlp_2layer") == 0) return;
    check_spread(s, seed, INFINITY);
    check_spread(s, seed + 500, -INFINITY);
}

static void infinity_reaches_its_tokens_and_no_others(void **state)
{
    (void)state;
    each_scene(check_infinity, 1);
}

/* ---- memory ---- */

typedef struct tally {
    int blocks, calls;
} tally;

static void *tally_alloc(void *context, size_t size, size_t align)
{
    tally *t = context;
    void *data = NULL;
    if (posix_memalign(&data, align < sizeof(void *) ? sizeof(void *) : align, size > 0 ? size : 1) != 0) return NULL;
    t->blocks++;
    t->calls++;
    return data;
}

static void tally_free(void *context, void *data, size_t size)
{
    (void)size;
    if (data != NULL) ((tally *)context)->blocks--;
    free(data);
}

static void forward_allocates_nothing(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"type\": \"mlp_2layer\"}",
        "{\"type\": \"avgpool\", \"pool_window\": 3}",
        "{\"type\": \"attentional_pool\", \"pool_window\": 3, \"pool_heads\": 4, \"ragged\": \"partial\"}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        tally t = {0, 0};
        const tenon_allocator allocator = {sizeof allocator, tally_alloc, tally_free, &t};
        scene s = {.in = 24, .out = 40, .tokens = 49, .features = TENON_F32, .call_window = TENON_UNSET};
        s.call = (ref_call){.batch = 2, .height = 7, .width = 7};
        tenon_error error;
        s.adapter = adapter_from_json(configs[i], s.in, s.out, &allocator);
        expect_ok(tenon_adapter_reset_parameters(s.adapter, TENON_F32, 1, &error), &error);
        scene_finish(&s);
        scene_fill(&s, 1, 1, false);
        scene_prepare(&s, cpu_level(0));
        run_options options = run_defaults(&s);
        const int before = t.calls, blocks = t.blocks;
        free(scene_tokens(&s, &options));
        assert_int_equal(t.calls, before);
        options.misalign = NO_WORKSPACE;
        free(scene_tokens(&s, &options));
        assert_true(t.calls > before);
        assert_int_equal(t.blocks, blocks);
        scene_free(&s);
        assert_int_equal(t.blocks, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_the_references),
        cmocka_unit_test(attention_weights_are_the_references),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(layout_and_alignment_do_not_change_bits),
        cmocka_unit_test(batch_does_not_change_bits),
        cmocka_unit_test(batch_of_nine_is_nine_images),
        cmocka_unit_test(permuting_images_permutes_tokens),
        cmocka_unit_test(masked_neighbours_do_not_change_bits),
        cmocka_unit_test(nan_reaches_its_tokens_and_no_others),
        cmocka_unit_test(infinity_reaches_its_tokens_and_no_others),
        cmocka_unit_test(forward_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
