/* SPDX-License-Identifier: MIT */
/* Ops of the backward pass at every level of this machine, at awkward sizes: against the same op of the table in
 * double, which is one plain loop each; and bits that may not depend on workers, layout or absent slots.
 */
#include "ops_cases.h"
#include "ops_double.h"

/* A context of the table in double. */
static test_context reference_context(size_t scratch)
{
    test_context t;
    context_open(&t, &ops_double, 1, tn_align_up(scratch, TN_ALIGN));
    return t;
}

static float *draw_floats(int64_t count, uint32_t seed)
{
    float *values = malloc((size_t)(count + 1) * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)draw(&seed);
    return values;
}

/* Values of [rows, width] are within `tolerance` of the reference's, relative to its largest. */
static void assert_close(const matrix *got, const matrix *want, double tolerance)
{
    double largest = 1e-30;
    for (int64_t r = 0; r < want->count; r++) {
        for (int64_t c = 0; c < want->width; c++)
            largest = fmax(largest, fabs(matrix_get(want, r, c)));
    }
    for (int64_t r = 0; r < want->count; r++) {
        for (int64_t c = 0; c < want->width; c++) {
            const double value = matrix_get(want, r, c);
            assert_near(matrix_get(got, r, c), value,
                        tolerance * largest + rounding_error(got->rows.dtype) * (fabs(value) + 1e-4));
        }
    }
}

/* --- gradients of a linear map --- */

static void run_dw(const tn_ops *ops, int workers, float *dw, float *dbias, const matrix *dy, const matrix *x,
                   const tn_map *map, bool fresh)
{
    test_context t;
    context_open(&t, ops, workers, ops->weight_gradient_scratch(map, dy->count, workers));
    ops->weight_gradient(&t.context, dw, dbias, dy->rows, x->rows, map, dy->count, fresh);
    context_close(&t);
}

/* The bias' gradient beside dw has the bits of the op of its own. */
static void check_dbias(const tn_ops *ops, const float *got, const matrix *dy, const float *start, bool fresh)
{
    float *alone = malloc((size_t)(dy->width + 1) * sizeof *alone);
    memcpy(alone, start, (size_t)dy->width * sizeof *alone);
    test_context t;
    context_open(&t, ops, 2, 0);
    ops->bias_gradient(&t.context, alone, dy->rows, dy->count, dy->width, fresh);
    context_close(&t);
    if (dy->width > 0) assert_memory_equal(got, alone, (size_t)dy->width * sizeof *alone);
    free(alone);
}

/* dw starts from random numbers, ends at the last readable byte, and is compared with the reference's. */
static void check_dw(const tn_ops *ops, const matrix *dy, const matrix *x, const tn_map *map, bool fresh)
{
    const int64_t count = map->groups * map->n * map->k;
    float *start = draw_floats(count + dy->width, 3), *dbias = start + count;
    float *sum_bias = malloc((size_t)(dy->width + 1) * sizeof *sum_bias);
    memcpy(sum_bias, dbias, (size_t)dy->width * sizeof *sum_bias);
    guarded a = guarded_new((size_t)count * sizeof(float)), b = guarded_new((size_t)count * sizeof(float));
    memcpy(a.data, start, a.size), memcpy(b.data, start, b.size);
    run_dw(ops, 1, a.data, NULL, dy, x, map, fresh);
    run_dw(ops, 3, b.data, sum_bias, dy, x, map, fresh);
    check_dbias(ops, sum_bias, dy, dbias, fresh);
    if (count > 0) assert_memory_equal(a.data, b.data, a.size);
    for (int64_t i = 0; i < count; i++) {
        double sum = fresh ? 0 : (double)start[i], size = fabs(sum);
        for (int64_t r = 0; r < dy->count; r++) {
            const double term =
                matrix_get(dy, r, i / map->k) * matrix_get(x, r, i / map->k / map->n * map->k + i % map->k);
            sum += term;
            size += fabs(term);
        }
        assert_near((double)((float *)a.data)[i], sum, 4e-7 * size + 1e-30);
    }
    guarded_free(&a), guarded_free(&b);
    free(start), free(sum_bias);
}

static void weight_gradients_match_double(void **state)
{
    (void)state;
    /* rows, groups, n, k */
    static const int64_t sizes[][4] = {{0, 1, 3, 4},     {1, 1, 1, 1},     {3, 1, 0, 4},    {3, 1, 4, 0},
                                       {5, 2, 7, 9},     {7, 3, 6, 16},    {255, 1, 5, 17}, {256, 1, 6, 8},
                                       {257, 1, 13, 33}, {600, 1, 7, 31},  {2, 1, 150, 5},  {4, 1, 9, 300},
                                       {3, 4, 73, 40},   {1, 1, 290, 530}, {20, 1, 29, 65}, {40, 2, 70, 90}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int v = 0; v < LAYOUTS; v++) {
                const tn_map map = {sizes[i][1], sizes[i][2], sizes[i][3], TN_F32};
                const tn_dtype dtype = dtypes[(size_t)(v + (int)i) % 3];
                matrix dy = matrix_new(v % 2 ? dtype : TN_F32, sizes[i][0], map.groups * map.n, (layout)v);
                matrix x = matrix_new(dtype, sizes[i][0], map.groups * map.k, (layout)(LAYOUTS - 1 - v));
                matrix_fill(&dy, 7, 1.0), matrix_fill(&x, 8, 1.0);
                check_dw(ops, &dy, &x, &map, (v + (int)i) % 2 == 1);
                matrix_free(&dy), matrix_free(&x);
            }
        }
    }
}

static void bias_gradients_match_double(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{0, 5}, {1, 1}, {3, 127}, {255, 3}, {257, 130}, {600, 17}, {4, 513}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int v = 0; v < LAYOUTS; v++) {
                matrix dy = matrix_new(dtypes[(size_t)v % 3], sizes[i][0], sizes[i][1], (layout)v);
                matrix_fill(&dy, 7, 1.0);
                guarded got[2];
                for (int workers = 1; workers <= 2; workers++) {
                    test_context t;
                    context_open(&t, ops, workers, 0);
                    got[workers - 1] = guarded_new((size_t)sizes[i][1] * sizeof(float));
                    for (int64_t c = 0; c < sizes[i][1]; c++)
                        ((float *)got[workers - 1].data)[c] = 0.5f;
                    ops->bias_gradient(&t.context, got[workers - 1].data, dy.rows, sizes[i][0], sizes[i][1],
                                       v % 2 == 1);
                    context_close(&t);
                }
                assert_memory_equal(got[0].data, got[1].data, got[0].size);
                for (int64_t c = 0; c < sizes[i][1]; c++) {
                    double sum = v % 2 == 1 ? 0 : 0.5, size = 0.5;
                    for (int64_t r = 0; r < sizes[i][0]; r++)
                        sum += matrix_get(&dy, r, c), size += fabs(matrix_get(&dy, r, c));
                    assert_near((double)((float *)got[0].data)[c], sum, 4e-7 * size);
                }
                guarded_free(&got[0]), guarded_free(&got[1]);
                matrix_free(&dy);
            }
        }
    }
}

/* --- activations --- */

static const tn_act acts[] = {TN_ACT_NONE, TN_ACT_GELU, TN_ACT_GELU_TANH, TN_ACT_QUICK_GELU, TN_ACT_SILU, TN_ACT_RELU};
enum { num_acts = sizeof acts / sizeof *acts };

static void slopes_of(const tn_ops *ops, float *slope, const float *x, tn_act act, int64_t count)
{
    test_context t;
    context_open(&t, ops, 1, 0);
    for (int64_t i = 0; i < count; i++)
        slope[i] = 1;
    const tn_rows from = {(void *)(uintptr_t)x, TN_F32, count, 1, NULL}, to = {slope, TN_F32, count, 1, NULL};
    ops->activation_backward(&t.context, to, to, from, act, 1, count);
    context_close(&t);
}

/* Every 10007th float, finite, both signs. */
static void slopes_match_libm_in_double(void **state)
{
    (void)state;
    enum { batch = 4096 };
    float *x = malloc(batch * sizeof *x), *y = malloc(batch * sizeof *y);
    FOR_EACH_TABLE(ops)
    {
        for (int i = 0; i < num_acts; i++) {
            double worst = 0;
            for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += UINT64_C(10007) * batch) {
                for (int j = 0; j < batch; j++) {
                    x[j] = tn_bits_to_f32((uint32_t)(bits + (uint64_t)j * 10007));
                    if (!isfinite(x[j])) x[j] = 1.0f;
                    if (j % 2 == 0) x[j] = (float)(j - batch / 2) * 0.01f + (float)(bits % 977) * 1e-5f;
                }
                slopes_of(ops, y, x, acts[i], batch);
                for (int j = 0; j < batch; j++) {
                    const double cut = fmax(-1e3, fmin(1e3, (double)x[j])); /* the double table's own limits */
                    assert_false(isnan(y[j]));
                    worst = fmax(worst, fabs((double)y[j] - act_slope_double(acts[i], cut)));
                }
            }
            print_message("%s, slope of activation %d: within %.2e\n", ops->name, acts[i], worst);
            assert_true(worst <= 4e-7);
        }
    }
    free(x), free(y);
}

static void slopes_keep_limits_and_nan(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int i = 1; i < num_acts; i++) {
            const float x[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 3e38f, -3e38f, 1e-40f};
            float y[8];
            slopes_of(ops, y, x, acts[i], 8);
            assert_true(y[0] == 1 && y[1] == 0 && y[5] == 1 && y[6] == 0);
            if (acts[i] == TN_ACT_RELU) {
                assert_true(y[2] == 1 && y[3] == 0 && y[4] == 0 && y[7] == 1);
            } else {
                assert_true(isnan(y[2]));
                assert_true(y[3] == 0.5f && y[4] == 0.5f && y[7] == 0.5f);
            }
        }
    }
}

static void slopes_in_any_layout(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{0, 3}, {1, 1}, {3, 255}, {2, 257}, {5, 300}, {9, 7}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int v = 0; v < 3 * LAYOUTS; v++) {
                matrix dx = matrix_new(dtypes[v % 3], sizes[i][0], sizes[i][1], (layout)(v % STEPPED));
                matrix want = matrix_new(TN_F64, sizes[i][0], sizes[i][1], DENSE);
                matrix dy = matrix_new(dtypes[(v + 1) % 3], sizes[i][0], sizes[i][1], (layout)(v / 3));
                matrix x = matrix_new(dtypes[(v + 2) % 3], sizes[i][0], sizes[i][1], (layout)(LAYOUTS - 1 - v / 3));
                matrix_fill(&dy, 4, 1.0), matrix_fill(&x, 5, 4.0);
                test_context t, ref = reference_context(0);
                context_open(&t, ops, 2, 0);
                const tn_act act = acts[v % num_acts];
                ops->activation_backward(&t.context, dx.rows, dy.rows, x.rows, act, sizes[i][0], sizes[i][1]);
                ops_double.activation_backward(&ref.context, want.rows, dy.rows, x.rows, act, sizes[i][0], sizes[i][1]);
                assert_close(&dx, &want, 1e-6);
                assert_gaps_untouched(&dx);
                context_close(&t), context_close(&ref);
                matrix_free(&dx), matrix_free(&want), matrix_free(&dy), matrix_free(&x);
            }
        }
    }
}

/* --- windows --- */

/* Offsets for windows of a matrix of patches, some absent: [rows, slots]. Row 1 has no patch. */
static int64_t *window_offsets(const matrix *patches, int64_t slots, int absent)
{
    int64_t *offset = malloc((size_t)(patches->count + 1) * sizeof *offset);
    uint32_t seed = 5;
    for (int64_t i = 0; i < patches->count; i++) {
        const bool gone = absent > 0 && ((draw(&seed) + 1) * 4 < absent || i / slots == 1);
        offset[i] = gone ? -1 : matrix_index(patches, i, 0);
    }
    return offset;
}

static tn_rows rows_at(const matrix *m, const int64_t *offset)
{
    tn_rows rows = m->rows;
    rows.offset = offset;
    return rows;
}

/* Rows, slots, width of windows; heads. */
static const int64_t window_sizes[][4] = {
    {0, 4, 5, 1},   {1, 1, 1, 1},   {5, 4, 31, 2},  {4, 9, 33, 4},  {9, 16, 7, 5}, {2, 17, 64, 3}, {1, 40, 129, 1},
    {3, 5, 100, 6}, {20, 2, 24, 4}, {2, 130, 9, 2}, {3, 7, 300, 2}, {2, 8, 48, 3}, {2, 10, 50, 1}, {2, 11, 25, 2}};

static void mean_gradients_match_double(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof window_sizes / sizeof *window_sizes; i++) {
            for (int v = 0; v < 9 * STEPPED; v++) {
                const int64_t rows = window_sizes[i][0], slots = window_sizes[i][1], width = window_sizes[i][2];
                matrix dx = matrix_new(dtypes[v % 3], rows * slots, width, (layout)(v / 9));
                matrix want = matrix_new(TN_F64, rows * slots, width, DENSE);
                matrix dy = matrix_new(dtypes[v / 3 % 3], rows, width, (layout)(v % LAYOUTS));
                matrix_fill(&dx, 1, 0), matrix_fill(&want, 1, 0), matrix_fill(&dy, 9, 1.0);
                int64_t *offset = window_offsets(&dx, slots, v % 2 * 3),
                        *same = window_offsets(&want, slots, v % 2 * 3);
                test_context t, ref = reference_context(0);
                context_open(&t, ops, 2, 0);
                ops->window_mean_backward(&t.context, rows_at(&dx, offset), dy.rows, rows, slots, width);
                ops_double.window_mean_backward(&ref.context, rows_at(&want, same), dy.rows, rows, slots, width);
                assert_close(&dx, &want, 1e-7);
                assert_gaps_untouched(&dx);
                context_close(&t), context_close(&ref);
                free(offset), free(same);
                matrix_free(&dx), matrix_free(&want), matrix_free(&dy);
            }
        }
    }
}

/* What one call of each of the two ops of attention makes. */
typedef struct attended {
    matrix dq, dscores, y, weights, dx;
} attended;

typedef struct attention_case {
    int64_t rows, slots, width, heads;
    const matrix *patches;
    const int64_t *offset;
} attention_case;

static attended attended_new(const attention_case *c, tn_dtype dtype, tn_dtype dx, layout l)
{
    return (attended){
        matrix_new(dtype, c->rows, c->heads * c->width, l), matrix_new(dtype, c->rows, c->heads * c->slots, l),
        matrix_new(dtype, c->rows, c->heads * c->width, l), matrix_new(dtype, c->rows, c->heads * c->slots, l),
        matrix_new(dx, c->rows * c->slots, c->width, l)};
}

static void attended_free(attended *a)
{
    matrix_free(&a->dq), matrix_free(&a->dscores), matrix_free(&a->y), matrix_free(&a->weights), matrix_free(&a->dx);
}

/* q, dy and dmean are drawn the same for every table. */
static attended attend_back(const tn_ops *ops, int workers, const attention_case *c, tn_dtype dx, layout l)
{
    attended a = attended_new(c, ops->compute, dx, l);
    matrix q = matrix_new(ops->compute, c->rows, c->heads * c->width, DENSE);
    matrix dy = matrix_new(ops->compute, c->rows, c->heads * c->width, DENSE);
    matrix dmean = matrix_new(ops->compute, c->rows, c->width, DENSE);
    matrix_fill(&q, 1, 1.0), matrix_fill(&dy, 2, 1.0), matrix_fill(&dmean, 3, 1.0), matrix_fill(&a.dx, 4, 0);
    int64_t *offset = malloc((size_t)(a.dx.count + 1) * sizeof *offset);
    for (int64_t i = 0; i < a.dx.count; i++)
        offset[i] = c->offset[i] < 0 ? -1 : matrix_index(&a.dx, i, 0);
    test_context t;
    context_open(&t, ops, workers,
                 tn_align_up(ops->window_attend_backward_scratch(c->slots, c->heads, c->width, workers), TN_ALIGN));
    ops->window_attend_backward(&t.context, a.dq.rows, a.dscores.rows, a.y.rows, a.weights.rows, dy.rows,
                                rows_at(c->patches, c->offset), q.rows, 0.3, c->rows, c->slots, c->heads, c->width);
    matrix weights = matrix_new(ops->compute, c->rows, c->heads * c->slots, DENSE);
    matrix dscores = matrix_new(ops->compute, c->rows, c->heads * c->slots, DENSE);
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t j = 0; j < c->heads * c->slots; j++) {
            matrix_set(&weights, r, j, matrix_get(&a.weights, r, j));
            matrix_set(&dscores, r, j, matrix_get(&a.dscores, r, j));
        }
    }
    ops->window_attend_dx(&t.context, rows_at(&a.dx, offset), weights.rows, dscores.rows, dy.rows, q.rows, dmean.rows,
                          c->rows, c->slots, c->heads, c->width);
    context_close(&t);
    free(offset);
    matrix_free(&q), matrix_free(&dy), matrix_free(&dmean), matrix_free(&weights), matrix_free(&dscores);
    return a;
}

static void check_attention(const tn_ops *ops, const attention_case *c, tn_dtype dx, layout l)
{
    attended got = attend_back(ops, 2, c, dx, l), again = attend_back(ops, 1, c, dx, DENSE);
    attended want = attend_back(&ops_double, 1, c, TN_F64, DENSE);
    assert_close(&got.weights, &want.weights, 2e-6);
    assert_close(&got.dscores, &want.dscores, 4e-6);
    assert_close(&got.y, &want.y, 2e-6);
    assert_close(&got.dq, &want.dq, 4e-6);
    assert_close(&got.dx, &want.dx, 4e-6);
    assert_same(&got.dq, &again.dq), assert_same(&got.dscores, &again.dscores), assert_same(&got.y, &again.y);
    assert_same(&got.dx, &again.dx);
    assert_gaps_untouched(&got.dq), assert_gaps_untouched(&got.dscores), assert_gaps_untouched(&got.y);
    assert_gaps_untouched(&got.weights), assert_gaps_untouched(&got.dx);
    attended_free(&got), attended_free(&again), attended_free(&want);
}

static void attention_gradients_match_double(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof window_sizes / sizeof *window_sizes; i++) {
            for (int v = 0; v < 3 * LAYOUTS; v++) {
                const int64_t *size = window_sizes[i];
                matrix patches = matrix_new(dtypes[v % 3], size[0] * size[1], size[2], (layout)(v / 3));
                matrix_fill(&patches, 11, 1.0);
                int64_t *offset = window_offsets(&patches, size[1], v % 2 * 3);
                const attention_case c = {size[0], size[1], size[2], size[3], &patches, offset};
                check_attention(ops, &c, dtypes[(v + 1) % 3], (layout)(v % STEPPED));
                free(offset);
                matrix_free(&patches);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weight_gradients_match_double),
        cmocka_unit_test(bias_gradients_match_double),
        cmocka_unit_test(slopes_match_libm_in_double),
        cmocka_unit_test(slopes_keep_limits_and_nan),
        cmocka_unit_test(slopes_in_any_layout),
        cmocka_unit_test(mean_gradients_match_double),
        cmocka_unit_test(attention_gradients_match_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
