/* SPDX-License-Identifier: MIT */
/* Element-wise ops at every level of this machine: activations against libm in double, and copies. */
#include "ops_cases.h"

enum { batch = 4096 };
static const tn_act curves[] = {TN_ACT_GELU, TN_ACT_GELU_TANH, TN_ACT_QUICK_GELU, TN_ACT_SILU};
enum { num_curves = sizeof curves / sizeof *curves };

static void apply(const tn_ops *ops, float *y, const float *x, tn_act act, int64_t count)
{
    test_context t;
    context_open(&t, ops, 1, 0);
    const tn_rows from = {(void *)(uintptr_t)x, TN_F32, count, 1, NULL}, to = {y, TN_F32, count, 1, NULL};
    ops->activation(&t.context, to, from, act, 1, count);
    context_close(&t);
}

static double apply_one(const tn_ops *ops, tn_act act, double x)
{
    const float from = (float)x;
    float to;
    apply(ops, &to, &from, act, 1);
    return to;
}

/* Distance in units of the last place of a float at `want`. */
static double ulps(double got, double want)
{
    int exponent;
    frexp(want, &exponent);
    const double unit = ldexp(1.0, exponent - 24);
    return fabs(got - want) / (unit > 0x1p-149 ? unit : 0x1p-149);
}

/* Every 1009th float, finite, both signs: within 4 ulp from -1 up, 1.2e-7 max(1, |x|) below. */
static void curves_match_libm_in_double(void **state)
{
    (void)state;
    float *x = malloc(batch * sizeof *x), *y = malloc(batch * sizeof *y);
    FOR_EACH_TABLE(ops)
    {
        for (int i = 0; i < num_curves; i++) {
            double worst_ulps = 0, worst_absolute = 0;
            for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += UINT64_C(1009) * batch) {
                for (int j = 0; j < batch; j++) {
                    x[j] = tn_bits_to_f32((uint32_t)(bits + (uint64_t)j * 1009));
                    if (!isfinite(x[j])) x[j] = 1.0f;
                }
                apply(ops, y, x, curves[i], batch);
                for (int j = 0; j < batch; j++) {
                    const double want = act_double(curves[i], x[j]);
                    assert_false(isnan(y[j]));
                    if (x[j] >= -1.0f) {
                        worst_ulps = fmax(worst_ulps, ulps(y[j], want));
                    } else {
                        worst_absolute = fmax(worst_absolute, fabs(y[j] - want) / fabs(x[j]));
                    }
                }
            }
            print_message("%s, activation %d: %.2f ulp from -1 up, %.2e |x| below\n", ops->name, curves[i], worst_ulps,
                          worst_absolute);
            assert_true(worst_ulps <= 4.0);
            assert_true(worst_absolute <= 1.2e-7);
        }
    }
    free(x);
    free(y);
}

/* The curved part once more, finer. */
static void curves_match_near_zero(void **state)
{
    (void)state;
    float *x = malloc(batch * sizeof *x), *y = malloc(batch * sizeof *y);
    FOR_EACH_TABLE(ops)
    {
        for (int i = 0; i < num_curves; i++) {
            double worst = 0;
            for (int part = 0; part < 256; part++) {
                for (int j = 0; j < batch; j++)
                    x[j] = -1.0f + (float)(part * batch + j) * (8.0f / (256 * batch));
                apply(ops, y, x, curves[i], batch);
                for (int j = 0; j < batch; j++)
                    worst = fmax(worst, ulps(y[j], act_double(curves[i], x[j])));
            }
            print_message("%s, activation %d: %.2f ulp on [-1, 7]\n", ops->name, curves[i], worst);
            assert_true(worst <= 4.0);
        }
    }
    free(x);
    free(y);
}

static void b49_gelu_is_evaluated_in_f32(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        assert_true(apply_one(ops, TN_ACT_GELU, 1.0001) != apply_one(ops, TN_ACT_GELU, 1.0002));
        assert_near(apply_one(ops, TN_ACT_GELU, 1), 0.841344746, 1e-7 + 1e-6 * 0.84);
        assert_near(apply_one(ops, TN_ACT_GELU, -3), -0.00404969409, 1e-7 + 1e-6 * 0.004);
        assert_true(apply_one(ops, TN_ACT_GELU, 1e6) == 1e6);
    }
}

static void b50_three_gelus_are_three_functions(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        assert_near(apply_one(ops, TN_ACT_GELU, 2), 1.95449974, 5e-7);
        assert_near(apply_one(ops, TN_ACT_GELU_TANH, 2), 1.95459769, 5e-7);
        assert_near(apply_one(ops, TN_ACT_QUICK_GELU, 2), 1.93565862, 5e-7);
        const double erf_form = apply_one(ops, TN_ACT_GELU, -2.699),
                     tanh_form = apply_one(ops, TN_ACT_GELU_TANH, -2.699);
        assert_near(fabs(erf_form - tanh_form), 4.73e-4, 1e-6);
    }
}

/* Lengths 1 to 33, the special value at each place: its limit there, and the others as if they were alone. */
static void b51_limits_are_the_same_in_vectors_and_tails(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int act = TN_ACT_GELU; act < TN_ACT_COUNT; act++) {
            const float plain = (float)apply_one(ops, (tn_act)act, 0.7);
            for (int length = 1; length <= 33; length++) {
                for (int place = 0; place < length; place++) {
                    for (int special = 0; special < 3; special++) {
                        float x[33], y[33];
                        for (int i = 0; i < length; i++)
                            x[i] = 0.7f;
                        x[place] = special == 0 ? NAN : special == 1 ? INFINITY : -INFINITY;
                        apply(ops, y, x, (tn_act)act, length);
                        for (int i = 0; i < length; i++) {
                            if (i != place) assert_int_equal(tn_f32_to_bits(y[i]), tn_f32_to_bits(plain));
                        }
                        if (special == 0) assert_true(isnan(y[place]));
                        if (special == 1) assert_true(y[place] == INFINITY);
                        if (special == 2) assert_true(y[place] == 0.0f);
                    }
                }
            }
        }
    }
}

static void b53_large_inputs_come_back(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int i = 0; i < num_curves; i++) {
            for (double x = 8.0; x < 16.0; x += 0.5) {
                matrix from = matrix_new(TN_BF16, 1, 1, DENSE), to = matrix_new(TN_BF16, 1, 1, DENSE);
                matrix_set(&from, 0, 0, x);
                test_context t;
                context_open(&t, ops, 1, 0);
                ops->activation(&t.context, to.rows, from.rows, curves[i], 1, 1);
                context_close(&t);
                assert_true(matrix_get(&to, 0, 0) == x);
                matrix_free(&from);
                matrix_free(&to);
            }
            assert_true(apply_one(ops, curves[i], 100) == 100);
            assert_true(apply_one(ops, curves[i], 1e30) == (double)1e30f);
            assert_true(apply_one(ops, curves[i], -1e30) == 0);
            assert_true(apply_one(ops, curves[i], 3.4e38) == (double)3.4e38f);
        }
    }
}

/* All layouts and dtypes, tails, threads; and in place. */
static void copies_and_activations_in_any_layout(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{0, 5}, {5, 0}, {1, 1}, {7, 17}, {3, 255}, {2, 257}, {1, 5000}, {40, 33}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int v = 0; v < 9 * LAYOUTS * STEPPED; v++) {
                const int64_t rows = sizes[i][0], width = sizes[i][1];
                matrix x = matrix_new(dtypes[v % 3], rows, width, (layout)(v / 9 % LAYOUTS));
                matrix y = matrix_new(dtypes[v / 3 % 3], rows, width, (layout)(v / 9 / LAYOUTS));
                matrix_fill(&x, 8, 3.0);
                test_context t;
                context_open(&t, ops, 1 + v % 3, 0);
                ops->copy(&t.context, y.rows, x.rows, rows, width);
                matrix rounded = matrix_new(y.rows.dtype, rows, width, DENSE);
                for (int64_t r = 0; r < rows; r++) {
                    for (int64_t c = 0; c < width; c++)
                        matrix_set(&rounded, r, c, matrix_get(&x, r, c));
                }
                assert_same(&rounded, &y);
                ops->activation(&t.context, rounded.rows, y.rows, TN_ACT_GELU, rows, width);
                ops->activation(&t.context, y.rows, y.rows, TN_ACT_GELU, rows, width);
                assert_same(&rounded, &y);
                ops->copy(&t.context, y.rows, (tn_rows){NULL, TN_F32, 0, 1, NULL}, rows, width);
                for (int64_t r = 0; r < rows; r++) {
                    for (int64_t c = 0; c < width; c++)
                        assert_int_equal(matrix_bits(&y, r, c), 0);
                }
                assert_gaps_untouched(&y);
                context_close(&t);
                matrix_free(&x);
                matrix_free(&y);
                matrix_free(&rounded);
            }
        }
    }
}

/* Every half value is widened as core does it, and every kind of float is rounded as core does it. */
static void conversions_match_core(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        test_context t;
        context_open(&t, ops, 2, 0);
        for (int d = 1; d < num_dtypes; d++) {
            matrix half = matrix_new(dtypes[d], 16, 4096, DENSE), wide = matrix_new(TN_F32, 16, 4096, DENSE);
            for (int i = 0; i < 65536; i++)
                ((uint16_t *)half.rows.data)[i] = (uint16_t)i;
            ops->copy(&t.context, wide.rows, half.rows, 16, 4096);
            for (int i = 0; i < 65536; i++) {
                const float want = (float)tn_load(half.rows.data, dtypes[d], i);
                const uint32_t got = tn_f32_to_bits(((float *)wide.rows.data)[i]);
                if (isnan(want)) {
                    assert_true(isnan(tn_bits_to_f32(got)));
                } else {
                    assert_int_equal(got, tn_f32_to_bits(want));
                }
            }
            for (uint32_t step = 0; step < 65536; step += 4999) {
                for (uint32_t i = 0; i < 65536; i++)
                    ((float *)wide.rows.data)[i] = tn_bits_to_f32((i << 16) + step + (i & 1u));
                ops->copy(&t.context, half.rows, wide.rows, 16, 4096);
                for (int i = 0; i < 65536; i++) {
                    const float from = ((float *)wide.rows.data)[i];
                    const uint16_t want = dtypes[d] == TN_BF16 ? tn_f32_to_bf16(from) : tn_f32_to_f16(from);
                    const uint16_t got = ((uint16_t *)half.rows.data)[i];
                    if (isnan(from)) {
                        assert_true(isnan(tn_load(half.rows.data, dtypes[d], i)));
                    } else {
                        assert_int_equal(got, want);
                    }
                }
            }
            matrix_free(&half);
            matrix_free(&wide);
        }
        context_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(curves_match_libm_in_double),
        cmocka_unit_test(curves_match_near_zero),
        cmocka_unit_test(b49_gelu_is_evaluated_in_f32),
        cmocka_unit_test(b50_three_gelus_are_three_functions),
        cmocka_unit_test(b51_limits_are_the_same_in_vectors_and_tails),
        cmocka_unit_test(b53_large_inputs_come_back),
        cmocka_unit_test(copies_and_activations_in_any_layout),
        cmocka_unit_test(conversions_match_core),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
