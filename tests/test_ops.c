/* SPDX-License-Identifier: MIT */
/* The matrix ops at every level of this machine: values against plain C in double, and bits that must not change. */
#include "ops_cases.h"

/* One linear map with its weights in double, packed for a table. */
typedef struct map_case {
    tn_map map;
    double *w;   /* [groups, n, k] */
    float *bias; /* [groups, n] or NULL */
    guarded packed, bias_memory;
} map_case;

static double *weight(const map_case *m, int64_t g, int64_t i, int64_t j)
{
    return m->w + (g * m->map.n + i) * m->map.k + j;
}

enum { PACK_ROWS, PACK_COLUMNS, PACK_LOOSE, PACKS };

/* Stores w in the order that `how` names, in guarded memory, and packs it with that order's strides. */
static void pack_map(map_case *m, const tn_ops *ops, int how)
{
    const tn_map *map = &m->map;
    int64_t strides[3] = {map->n * map->k, map->k, 1};
    if (how == PACK_COLUMNS) strides[1] = 1, strides[2] = map->n;
    if (how == PACK_LOOSE) strides[0] *= 2, strides[1] *= 2, strides[2] = 2;
    const int64_t last = (map->groups - 1) * strides[0] + (map->n - 1) * strides[1] + (map->k - 1) * strides[2];
    const bool empty = map->groups == 0 || map->n == 0 || map->k == 0;
    guarded w = guarded_new(empty ? 0 : (size_t)(last + 1) * tn_dtype_size(map->dtype));
    for (int64_t g = 0; g < map->groups; g++) {
        for (int64_t i = 0; i < map->n; i++) {
            for (int64_t j = 0; j < map->k; j++)
                tn_store(w.data, map->dtype, g * strides[0] + i * strides[1] + j * strides[2], *weight(m, g, i, j));
        }
    }
    size_t bytes;
    assert_true(ops->packed_size(map, &bytes));
    m->packed = guarded_new(tn_align_up(bytes, TN_ALIGN));
    test_context t;
    context_open(&t, ops, 2, 0);
    ops->pack(&t.context, m->packed.data, w.data, map, strides[0], strides[1], strides[2]);
    context_close(&t);
    guarded_free(&w);
}

static map_case map_new(const tn_ops *ops, tn_map map, int how, bool biased)
{
    map_case m = {.map = map};
    const int64_t rows = map.groups * map.n;
    uint32_t seed = 11;
    m.w = malloc((size_t)(rows * map.k + 1) * sizeof *m.w);
    char one[8];
    for (int64_t i = 0; i < rows * map.k; i++) {
        tn_store(one, map.dtype, 0, draw(&seed));
        m.w[i] = tn_load(one, map.dtype, 0);
    }
    m.bias_memory = guarded_new((size_t)rows * sizeof(float));
    if (biased) {
        m.bias = m.bias_memory.data;
        for (int64_t i = 0; i < rows; i++)
            m.bias[i] = (float)draw(&seed);
    }
    pack_map(&m, ops, how);
    return m;
}

static void map_free(map_case *m)
{
    free(m->w);
    guarded_free(&m->packed);
    guarded_free(&m->bias_memory);
}

static void run_linear(const tn_ops *ops, int workers, matrix *y, const matrix *x, const map_case *m, tn_act act)
{
    test_context t;
    context_open(&t, ops, workers, ops->linear_scratch(&m->map, x->count, workers));
    ops->linear(&t.context, y->rows, x->rows, m->packed.data, m->bias, act, &m->map, x->count);
    context_close(&t);
}

static void reference_row(double *ref, const matrix *x, int64_t r, const map_case *m, tn_act act)
{
    const tn_map *map = &m->map;
    for (int64_t g = 0; g < map->groups; g++) {
        for (int64_t i = 0; i < map->n; i++) {
            double sum = m->bias != NULL ? m->bias[g * map->n + i] : 0;
            for (int64_t j = 0; j < map->k; j++)
                sum += matrix_get(x, r, g * map->k + j) * *weight(m, g, i, j);
            ref[g * map->n + i] = act_double(act, sum);
        }
    }
}

static void check_linear(const tn_ops *ops, tn_map map, int64_t rows, tn_dtype x_dtype, tn_dtype y_dtype, int variant)
{
    map_case m = map_new(ops, map, variant % PACKS, variant % 2 == 0);
    matrix x = matrix_new(x_dtype, rows, map.groups * map.k, (layout)(variant % LAYOUTS));
    matrix y = matrix_new(y_dtype, rows, map.groups * map.n, (layout)(variant % STEPPED));
    const tn_act act = (tn_act)(variant % TN_ACT_COUNT);
    matrix_fill(&x, 5, 1.0);
    static const int workers[] = {1, 2, 3, 9}; /* nine share what they gather */
    run_linear(ops, workers[variant % 4], &y, &x, &m, act);
    double *ref = malloc((size_t)(map.groups * map.n + 1) * sizeof *ref);
    for (int64_t r = 0; r < rows; r++) {
        reference_row(ref, &x, r, &m, act);
        const double error = row_error(&y, r, ref), limit = 1e-6 + rounding_error(y_dtype);
        /* A few outputs may sit where terms cancel, or where an activation does: there the error is absolute. */
        if (map.n * map.groups < 32) {
            for (int64_t i = 0; i < y.width; i++)
                assert_near(matrix_get(&y, r, i), ref[i], 3e-7 * (1 + (double)map.k / 8) + limit * fabs(ref[i]));
        } else if (!(error <= limit)) {
            print_error("%s: %d rows, groups %d, n %d, k %d, row %d: error %g\n", ops->name, (int)rows, (int)map.groups,
                        (int)map.n, (int)map.k, (int)r, error);
            fail();
        }
    }
    assert_gaps_untouched(&y);
    free(ref);
    matrix_free(&x);
    matrix_free(&y);
    map_free(&m);
}

/* B56's sizes: around tiles, panels and blocks of k, all dtypes, layouts and activations in turn. */
static void linear_matches_double(void **state)
{
    (void)state;
    static const int64_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 29, 144, 288, 289, 293};
    static const int64_t ns[] = {0, 1, 7, 8, 15, 16, 17, 40, 130};
    static const int64_t ks[] = {0, 1, 5, 16, 255, 256, 257, 300, 513};
    int variant = 0;
    FOR_EACH_TABLE(ops)
    {
        for (size_t a = 0; a < sizeof rows / sizeof *rows; a++) {
            for (size_t b = 0; b < sizeof ns / sizeof *ns; b++) {
                for (size_t c = 0; c < sizeof ks / sizeof *ks; c++) {
                    if (rows[a] * ns[b] * ks[c] > 500000) continue;
                    const tn_map map = {1, ns[b], ks[c], dtypes[variant % 3]};
                    check_linear(ops, map, rows[a], dtypes[variant / 3 % 3], dtypes[variant / 9 % 3], variant);
                    variant++;
                }
            }
        }
    }
}

static void every_mix_of_dtypes_layouts_and_strides(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int variant = 0; variant < LAYOUTS * TN_ACT_COUNT; variant++) {
            for (int d = 0; d < 27; d++) {
                const tn_map map = {1, 21, 37, dtypes[d % 3]};
                check_linear(ops, map, 7, dtypes[d / 3 % 3], dtypes[d / 9], variant);
            }
        }
    }
}

static void groups_match_double(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{2, 9, 5}, {16, 72, 40}, {3, 300, 16}, {4, 17, 300}, {0, 4, 4}, {3, 20, 0}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int64_t rows = 1; rows < 160; rows += 7 + rows) {
                for (int d = 0; d < num_dtypes; d++) {
                    const tn_map map = {sizes[i][0], sizes[i][1], sizes[i][2], dtypes[d]};
                    check_linear(ops, map, rows, dtypes[(d + 1) % 3], TN_F32, (int)rows + d);
                }
            }
        }
    }
}

/* Some groups of a packed map, one after the other, are a packed map. */
static void groups_can_be_run_apart(void **state)
{
    (void)state;
    enum { groups = 5, n = 20, k = 270, rows = 13 };
    FOR_EACH_TABLE(ops)
    {
        for (int d = 0; d < num_dtypes; d++) {
            map_case m = map_new(ops, (tn_map){groups, n, k, dtypes[d]}, PACK_ROWS, false);
            matrix x = matrix_new(TN_F32, rows, groups * k, DENSE);
            matrix all = matrix_new(TN_F32, rows, groups * n, DENSE), y = matrix_new(TN_F32, rows, groups * n, DENSE);
            matrix_fill(&x, 5, 1.0);
            run_linear(ops, 2, &all, &x, &m, TN_ACT_NONE);
            for (int64_t first = 0; first < groups; first += 2) {
                const tn_map part = {tn_min_i64(2, groups - first), n, k, dtypes[d]}, one = {1, n, k, dtypes[d]};
                size_t before;
                assert_true(ops->packed_size(&one, &before));
                test_context t;
                context_open(&t, ops, 1, ops->linear_scratch(&part, rows, 1));
                ops->linear(&t.context, tn_columns_from(y.rows, first * n), tn_columns_from(x.rows, first * k),
                            (char *)m.packed.data + (size_t)first * before, NULL, TN_ACT_NONE, &part, rows);
                context_close(&t);
            }
            assert_same(&all, &y);
            matrix_free(&x);
            matrix_free(&all);
            matrix_free(&y);
            map_free(&m);
        }
    }
}

/* The norm of the worst row's error at K = 4096: chains of 256 keep it at 3e-7, one chain would give 1e-6. */
static void long_sums_stay_accurate(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        map_case m = map_new(ops, (tn_map){1, 48, 4096, TN_F32}, PACK_ROWS, true);
        matrix x = matrix_new(TN_F32, 24, 4096, DENSE), y = matrix_new(TN_F32, 24, 48, DENSE);
        matrix_fill(&x, 3, 1.0);
        run_linear(ops, 2, &y, &x, &m, TN_ACT_NONE);
        for (int r = 0; r < 24; r++) {
            double ref[48];
            reference_row(ref, &x, r, &m, TN_ACT_NONE);
            assert_true(row_error(&y, r, ref) < 5e-7);
        }
        matrix_free(&x);
        matrix_free(&y);
        map_free(&m);
    }
}

/* A row's bits are the same alone, among 577, in any layout, on any number of threads, and wherever y lies. */
static void check_row_bits(const tn_ops *ops, tn_map map, tn_dtype x_dtype, tn_act act)
{
    enum { many = 577 };
    map_case m = map_new(ops, map, PACK_ROWS, true);
    matrix x = matrix_new(x_dtype, many, map.groups * map.k, DENSE);
    matrix all = matrix_new(TN_F32, many, map.groups * map.n, DENSE);
    matrix_fill(&x, 9, 1.0);
    run_linear(ops, 1, &all, &x, &m, act);
    for (int64_t rows = 1; rows <= 20; rows++) {
        const int64_t first = rows * 23;
        matrix part = matrix_new(x_dtype, rows, x.width, (layout)(rows % LAYOUTS));
        matrix y = matrix_new(TN_F32, rows, all.width, (layout)(rows % STEPPED));
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < x.width; c++)
                matrix_set(&part, r, c, matrix_get(&x, first + r, c));
        }
        run_linear(ops, rows % 3 == 0 ? 7 : (int)(rows % 3), &y, &part, &m, act);
        for (int64_t r = 0; r < rows; r++)
            assert_same_row(&all, first + r, &y, r);
        matrix_free(&part);
        matrix_free(&y);
    }
    for (int workers = 2; workers <= 10; workers += 4) {
        matrix y = matrix_new(TN_F32, many, all.width, SHUFFLED);
        run_linear(ops, workers, &y, &x, &m, act);
        assert_same(&all, &y);
        matrix_free(&y);
    }
    matrix_free(&x);
    matrix_free(&all);
    map_free(&m);
}

static void row_bits_do_not_depend_on_the_call(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int d = 0; d < 9; d++) {
            for (tn_act act = TN_ACT_NONE; act <= TN_ACT_GELU; act++) {
                check_row_bits(ops, (tn_map){1, 150, 300, dtypes[d % 3]}, dtypes[d / 3], act);
                check_row_bits(ops, (tn_map){3, 20, 260, dtypes[d % 3]}, dtypes[d / 3], act);
            }
        }
    }
}

/* Weights arrive in any order of strides; what is packed is the same, so y is. y in bf16 or f16 is y in f32, rounded.
 */
static void packing_and_rounding_are_exact(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int d = 0; d < 9; d++) {
            const tn_map map = {2, 70, 4100, dtypes[d % 3]};
            matrix x = matrix_new(TN_F32, 3, 2 * map.k, DENSE), y[PACKS], half;
            matrix_fill(&x, 1, 1.0);
            for (int how = 0; how < PACKS; how++) {
                map_case m = map_new(ops, map, how, true);
                y[how] = matrix_new(TN_F32, 3, 140, DENSE);
                run_linear(ops, 2, &y[how], &x, &m, TN_ACT_SILU);
                if (how > 0) assert_same(&y[0], &y[how]);
                if (how == 0) {
                    half = matrix_new(dtypes[d / 3], 3, 140, PADDED);
                    run_linear(ops, 2, &half, &x, &m, TN_ACT_SILU);
                }
                map_free(&m);
            }
            matrix rounded = matrix_new(dtypes[d / 3], 3, 140, DENSE);
            for (int r = 0; r < 3; r++) {
                for (int c = 0; c < 140; c++)
                    matrix_set(&rounded, r, c, matrix_get(&y[0], r, c));
            }
            assert_same(&rounded, &half);
            for (int how = 0; how < PACKS; how++)
                matrix_free(&y[how]);
            matrix_free(&x);
            matrix_free(&half);
            matrix_free(&rounded);
        }
    }
}

/* There is one NaN. */
static bool is_infinite_or_plain_nan(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return isinf(value) || bits == 0x7fc00000u;
}

/* A NaN or an infinity reaches its own row, all of it, and leaves the other rows' bits alone. */
static void nan_and_infinity_stay_in_their_row(void **state)
{
    (void)state;
    static const double bad[] = {-NAN, INFINITY, -INFINITY};
    FOR_EACH_TABLE(ops)
    {
        for (int rows = 1; rows <= 20; rows++) {
            for (int b = 0; b < 3; b++) {
                map_case m = map_new(ops, (tn_map){1, 35, 300, dtypes[b]}, PACK_ROWS, true);
                matrix x = matrix_new(TN_F32, rows, 300, DENSE);
                matrix clean = matrix_new(TN_F32, rows, 35, DENSE), y = matrix_new(TN_F32, rows, 35, DENSE);
                matrix_fill(&x, 4, 1.0);
                run_linear(ops, 2, &clean, &x, &m, TN_ACT_NONE);
                const int spoiled = (rows * 5) % rows;
                matrix_set(&x, spoiled, (rows * 29) % 300, bad[b]);
                run_linear(ops, 2, &y, &x, &m, TN_ACT_NONE);
                for (int r = 0; r < rows; r++) {
                    if (r != spoiled) assert_same_row(&clean, r, &y, r);
                    for (int c = 0; c < 35 && r == spoiled; c++)
                        assert_true(is_infinite_or_plain_nan((float)matrix_get(&y, r, c)));
                }
                matrix_free(&x);
                matrix_free(&y);
                matrix_free(&clean);
                map_free(&m);
            }
        }
    }
}

/* A map of ones: y = sum of x's row. */
static double sum_of_row(const tn_ops *ops, tn_dtype w_dtype, matrix *x, tn_dtype y_dtype, double w0, double w1,
                         const float *bias)
{
    const tn_map map = {1, 1, x->width, w_dtype};
    guarded w = guarded_new((size_t)x->width * tn_dtype_size(w_dtype));
    for (int64_t i = 0; i < x->width; i++)
        tn_store(w.data, w_dtype, i, i == 0 ? w0 : w1);
    size_t bytes;
    assert_true(ops->packed_size(&map, &bytes));
    guarded packed = guarded_new(tn_align_up(bytes, TN_ALIGN));
    matrix y = matrix_new(y_dtype, 1, 1, DENSE);
    test_context t;
    context_open(&t, ops, 1, ops->linear_scratch(&map, 1, 1));
    ops->pack(&t.context, packed.data, w.data, &map, 0, x->width, 1);
    ops->linear(&t.context, y.rows, x->rows, packed.data, bias, TN_ACT_NONE, &map, 1);
    const double value = matrix_get(&y, 0, 0);
    context_close(&t);
    matrix_free(&y);
    guarded_free(&packed);
    guarded_free(&w);
    return value;
}

static void b48_half_products_are_summed_in_f32(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        matrix x = matrix_new(TN_F16, 1, 4096, DENSE);
        for (int i = 0; i < 4096; i++)
            matrix_set(&x, 0, i, 32);
        assert_true(sum_of_row(ops, TN_F16, &x, TN_F32, 1, 1, NULL) == 131072.0);
        assert_true(sum_of_row(ops, TN_F16, &x, TN_F16, 1, 1, NULL) == INFINITY);
        matrix_free(&x);
    }
}

static void b55_bias_is_added_before_the_one_rounding(void **state)
{
    (void)state;
    const float bias = 0x1p-8f;
    FOR_EACH_TABLE(ops)
    {
        matrix x = matrix_new(TN_BF16, 1, 2, DENSE);
        matrix_set(&x, 0, 0, 1);
        matrix_set(&x, 0, 1, 1);
        assert_true(sum_of_row(ops, TN_BF16, &x, TN_BF16, 1, 0x1p-8, &bias) == 1.0078125);
        matrix_free(&x);
    }
}

static void no_inputs_give_the_bias(void **state)
{
    (void)state;
    const float bias = -0.5f;
    FOR_EACH_TABLE(ops)
    {
        matrix x = matrix_new(TN_F32, 1, 0, DENSE);
        assert_true(sum_of_row(ops, TN_F32, &x, TN_F32, 1, 1, &bias) == -0.5);
        assert_true(sum_of_row(ops, TN_F32, &x, TN_F32, 1, 1, NULL) == 0.0);
        matrix_free(&x);
    }
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        size_t bytes;
        assert_false(ops->packed_size(&(tn_map){1, INT64_MAX, 1, TN_F32}, &bytes));
        assert_false(ops->packed_size(&(tn_map){1, INT64_C(1) << 40, INT64_C(1) << 40, TN_F32}, &bytes));
        assert_true(ops->packed_size(&(tn_map){0, 5, 5, TN_F32}, &bytes));
        assert_int_equal(bytes, 0);
        const tn_map wide = {1, 1, INT64_C(1) << 40, TN_F32};
        assert_true(ops->linear_scratch(&wide, INT64_C(1) << 40, 2) == SIZE_MAX);
        assert_true(ops->window_attend_scratch(INT64_MAX / 2, 3, 1, 2) == SIZE_MAX);
    }
}

static void check_fold(const tn_ops *ops, int64_t n, int64_t k, int64_t inner_n, tn_dtype outer_dtype,
                       tn_dtype inner_dtype, bool with_add)
{
    matrix outer = matrix_new(outer_dtype, n, inner_n, DENSE), inner = matrix_new(inner_dtype, inner_n, k, DENSE);
    matrix one = matrix_new(TN_F32, n, k, DENSE), many = matrix_new(TN_F32, n, k, DENSE);
    matrix_fill(&outer, 1, 1.0);
    matrix_fill(&inner, 2, 1.0);
    matrix add = matrix_new(inner_dtype, n, k, DENSE);
    matrix_fill(&add, 3, 1.0);
    test_context t;
    for (int workers = 1; workers <= 3; workers += 2) {
        context_open(&t, ops, workers, 0);
        ops->fold(&t.context, workers == 1 ? one.rows.data : many.rows.data, outer.rows.data, outer_dtype,
                  inner.rows.data, inner_dtype, with_add ? add.rows.data : NULL, inner_dtype, n, k, inner_n);
        context_close(&t);
    }
    assert_same(&one, &many);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) {
            double sum = with_add ? matrix_get(&add, i, j) : 0;
            for (int64_t m = 0; m < inner_n; m++)
                sum += matrix_get(&outer, i, m) * matrix_get(&inner, m, j);
            assert_near(matrix_get(&one, i, j), sum, fabs(sum) * 0x1.001p-24 + 1e-13 * (double)inner_n);
        }
    }
    matrix_free(&outer);
    matrix_free(&inner);
    matrix_free(&add);
    matrix_free(&one);
    matrix_free(&many);
}

static void fold_is_exact_to_one_rounding(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{0, 3, 3},    {3, 0, 3},     {3, 3, 0},     {1, 1, 1},
                                       {6, 8, 128},  {7, 9, 129},   {48, 130, 5},  {49, 17, 96},
                                       {96, 130, 5}, {97, 17, 300}, {100, 129, 64}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int d = 0; d < 9; d++)
                check_fold(ops, sizes[i][0], sizes[i][1], sizes[i][2], dtypes[d % 3], dtypes[d / 3], d % 2 == 0);
        }
    }
}

static void C28_levels_are_found_by_name(void **state)
{
    (void)state;
    const tn_ops *const *tables = tn_cpu_tables();
    assert_string_equal(tables[0]->name, "baseline");
    const tn_ops *best = tables[0];
    FOR_EACH_TABLE(ops)
    {
        assert_ptr_equal(tn_cpu_find(ops->name), ops);
        best = ops;
    }
    assert_ptr_equal(tn_cpu_find(NULL), best);
    /* A level of this build that the machine lacks means the best one below it, one of another machine is refused. */
    assert_true((tn_cpu_find("avx2") != NULL) == (tn_cpu_find("avx512") != NULL));
    assert_true((tn_cpu_find("avx512") != NULL) != (tn_cpu_find("neon") != NULL));
    assert_null(tn_cpu_find("avx"));
    assert_null(tn_cpu_find(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_matches_double),
        cmocka_unit_test(every_mix_of_dtypes_layouts_and_strides),
        cmocka_unit_test(groups_match_double),
        cmocka_unit_test(groups_can_be_run_apart),
        cmocka_unit_test(long_sums_stay_accurate),
        cmocka_unit_test(row_bits_do_not_depend_on_the_call),
        cmocka_unit_test(packing_and_rounding_are_exact),
        cmocka_unit_test(nan_and_infinity_stay_in_their_row),
        cmocka_unit_test(b48_half_products_are_summed_in_f32),
        cmocka_unit_test(b55_bias_is_added_before_the_one_rounding),
        cmocka_unit_test(no_inputs_give_the_bias),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(fold_is_exact_to_one_rounding),
        cmocka_unit_test(C28_levels_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
