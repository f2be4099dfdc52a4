/* SPDX-License-Identifier: MIT */
/* Gradients against finite differences of the reference, on the ops table in double and at every CPU level. What must
 * hold whatever the values are is in test_gradients.c, PyTorch's own gradients in test_golden.c.
 */
#include "adapter/adapter.h"
#include "counter_rng.h"
#include "ops_double.h"
#include "scene.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static tenon_error error;

static void prepare(scene *s, const tn_ops *ops)
{
    const tn_parallel two = {2, NULL}, one = {1, NULL};
    expect_ok(tn_adapter_prepare_train_for(s->adapter, ops, ops == &ops_double ? &one : &two, &error), &error);
}

/* The tables to test, the one in double first. */
static const tn_ops *table(int index)
{
    return index == 0 ? &ops_double : tn_cpu_tables()[index - 1];
}

/* ---- the oracle: a loss sum(y dy) of the reference in double ---- */

typedef struct oracle {
    const scene *s;
    const float *dy;
    ref_module module;
    double *weights, *x, *y;
} oracle;

static oracle oracle_new(const scene *s, const float *dy)
{
    oracle o = {.s = s, .dy = dy};
    o.module = scene_module(s, &o.weights);
    o.x = grab((size_t)scene_count_x(s) * sizeof *o.x);
    o.y = grab((size_t)(s->call.batch * s->out_tokens * s->out) * sizeof *o.y);
    for (int64_t i = 0; i < scene_count_x(s); i++)
        o.x[i] = (double)s->x[i];
    return o;
}

static void oracle_free(oracle *o)
{
    free(o->weights), free(o->x), free(o->y);
}

static double loss(const oracle *o)
{
    double sum = 0;
    ref_forward(o->y, NULL, o->x, &o->module, &o->s->call);
    for (int64_t i = 0; i < o->s->call.batch * o->s->out_tokens * o->s->out; i++)
        sum += o->y[i] * (double)o->dy[i];
    return sum;
}

/* The derivative of the loss along `direction` in `values`. */
static double slope(const oracle *o, double *values, const double *direction, int64_t count)
{
    const double step = 1e-5;
    double *start = grab((size_t)count * sizeof *start), side[2];
    memcpy(start, values, (size_t)count * sizeof *start);
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < count; i++)
            values[i] = start[i] + (k == 0 ? step : -step) * direction[i];
        side[k] = loss(o);
    }
    memcpy(values, start, (size_t)count * sizeof *start);
    free(start);
    return (side[0] - side[1]) / (2 * step);
}

/* All of `gradient` [count], number by number. */
static void check_numbers(const oracle *o, const float *gradient, double *values, int64_t count, const char *what,
                          double tolerance)
{
    double difference = 0, norm = 0, one = 1;
    for (int64_t i = 0; i < count; i++) {
        const double expected = isnan(values[i]) ? 0 : slope(o, values + i, &one, 1);
        const double d = (double)gradient[i] - expected;
        difference += d * d;
        norm += expected * expected;
    }
    if (!(sqrt(difference) <= tolerance * sqrt(norm) + 1e-9)) {
        fail_msg("%s: differs by %.3g of %.3g", what, sqrt(difference), sqrt(norm));
    }
}

/* `gradient` along a few random directions. */
static void check_directions(const oracle *o, const float *gradient, double *values, int64_t count, const char *what,
                             double tolerance)
{
    double *direction = grab((size_t)count * sizeof *direction);
    for (uint64_t trial = 0; trial < 3; trial++) {
        double along = 0, norm = 0, length = 0;
        for (int64_t i = 0; i < count; i++) {
            direction[i] = isnan(values[i]) ? 0 : (double)counter_value(trial + 5, (uint64_t)i);
            if (isnan(values[i])) assert_true(gradient[i] == 0);
            along += (double)gradient[i] * direction[i];
            norm += (double)gradient[i] * (double)gradient[i];
            length += direction[i] * direction[i];
        }
        const double expected = slope(o, values, direction, count);
        if (!(fabs(along - expected) <= tolerance * sqrt(norm * length) + 1e-8)) {
            fail_msg("%s: slope %.9g, expected %.9g of %.3g", what, along, expected, sqrt(norm * length));
        }
    }
    free(direction);
}

typedef void check_gradient(const oracle *o, const float *gradient, double *values, int64_t count, const char *what,
                            double tolerance);

static void check_scene(scene *s, uint64_t seed, check_gradient *check)
{
    float *dy = scene_draw_dy(s, seed + 1);
    oracle o = oracle_new(s, dy);
    for (int t = 0; t < 1 || table(t) != NULL; t++) {
        prepare(s, table(t));
        const double tolerance = t == 0 ? 1e-6 : 1e-5;
        const back_options options = back_defaults(s);
        scene_gradients g = scene_backward(s, dy, &options);
        char what[200];
        int64_t at = 0;
        for (int64_t i = 0; i < g.num; i++) {
            tenon_parameter p;
            tenon_parameter_init(&p);
            expect_ok(tenon_adapter_parameter(s->adapter, i, &p, &error), &error);
            snprintf(what, sizeof what, "scene %d (%s), %s, %s", (int)seed, s->module.type, table(t)->name, p.name);
            check(&o, g.parameters[i], o.weights + at, g.sizes[i], what, tolerance);
            for (int64_t j = 0; j < g.sizes[i] && strcmp(p.name, "k_proj.bias") == 0; j++)
                assert_true(g.parameters[i][j] == 0);
            at += g.sizes[i];
        }
        snprintf(what, sizeof what, "scene %d (%s), %s, x", (int)seed, s->module.type, table(t)->name);
        check(&o, g.x, o.x, scene_count_x(s), what, tolerance);
        scene_gradients_free(&g);
    }
    oracle_free(&o);
    free(dy);
}

/* A small scene: f32, or of the given dtypes, with some patches masked. */
static void small_scene(scene *s, const char *json, int64_t in, int64_t out, int64_t height, int64_t width,
                        uint64_t seed)
{
    *s = (scene){.in = in, .out = out, .features = TENON_F32, .give_grid = true, .call_window = TENON_UNSET};
    s->adapter = adapter_from_json(json, in, out, NULL);
    expect_ok(tenon_adapter_reset_parameters(s->adapter, TENON_F32, seed, &error), &error);
    int64_t prefix_tokens = 0;
    (void)!tenon_config_get_int(tenon_adapter_config(s->adapter), "prefix_tokens", &prefix_tokens, NULL);
    s->call.batch = 2;
    s->call.height = height;
    s->call.width = width;
    s->tokens = height * width + prefix_tokens;
    s->patch_mask = grab((size_t)(2 * height * width));
    for (int64_t i = 0; i < 2 * height * width; i++)
        s->patch_mask[i] = counter_range(seed, (uint64_t)i, 0, 4) > 0;
    scene_finish(s);
    scene_fill(s, seed, 1.5f, true);
}

static void every_number(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"type\": \"linear\", \"prefix_tokens\": 1}",
        "{\"type\": \"mlp_2layer\", \"hidden_dim\": 7}",
        "{\"type\": \"mlp_2layer\", \"hidden_dim\": 5, \"activation\": \"silu\"}",
        "{\"type\": \"mlp_2layer\", \"hidden_dim\": 5, \"activation\": \"relu\"}",
        "{\"type\": \"mlp_2layer\", \"hidden_dim\": 5, \"activation\": \"gelu_tanh\"}",
        "{\"type\": \"mlp_2layer\", \"hidden_dim\": 5, \"activation\": \"quick_gelu\"}",
        "{\"type\": \"avgpool\", \"pool_window\": 2, \"ragged\": \"partial\"}",
        "{\"type\": \"avgpool\", \"pool_window\": 3, \"ragged\": \"drop\", \"prefix_tokens\": 2}",
        "{\"type\": \"attentional_pool\", \"pool_heads\": 2, \"ragged\": \"partial\"}",
        "{\"type\": \"attentional_pool\", \"pool_heads\": 3, \"pool_window\": 3, \"ragged\": \"drop\"}",
    };
    for (uint64_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        scene s;
        small_scene(&s, configs[i], 6, 5, 4, 5, i);
        check_scene(&s, i, check_numbers);
        scene_free(&s);
    }
}

enum { num_scenes = 60 };

static void random_scenes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < num_scenes; seed++) {
        scene s;
        scene_random(&s, seed);
        check_scene(&s, seed, check_directions);
        scene_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number),
        cmocka_unit_test(random_scenes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
