/* SPDX-License-Identifier: MIT */
/* Window ops at every level of this machine: means and attention against plain C in double; which bits may change. */
#include "ops_cases.h"

/* Windows of `slots` patches for `rows` rows, some absent: x's rows through offsets, in a matrix of patches. */
typedef struct windows {
    int64_t rows, slots, width;
    matrix patches;
    tn_rows x;
    int64_t *offset; /* [rows, slots] */
} windows;

/* absent: of 8, how many slots are left out; row 1 is wholly absent when any are. */
static windows windows_new(tn_dtype dtype, int64_t rows, int64_t slots, int64_t width, layout l, int absent)
{
    windows w = {rows, slots, width, matrix_new(dtype, rows * slots, width, l), {0}, NULL};
    matrix_fill(&w.patches, 21, 1.0);
    w.offset = malloc((size_t)(rows * slots + 1) * sizeof *w.offset);
    uint32_t seed = 5;
    for (int64_t i = 0; i < rows * slots; i++) {
        const bool gone = absent > 0 && ((draw(&seed) + 1) * 4 < absent || i / slots == 1);
        w.offset[i] = gone ? -1 : matrix_index(&w.patches, i, 0);
    }
    w.x = w.patches.rows;
    w.x.offset = w.offset;
    return w;
}

static void windows_free(windows *w)
{
    matrix_free(&w->patches);
    free(w->offset);
}

static double patch(const windows *w, int64_t r, int64_t j, int64_t c)
{
    return matrix_get(&w->patches, r * w->slots + j, c);
}

/* The same windows with their absent slots closed up; rows that have fewer patches keep absent slots at the end. */
static windows windows_compacted(const windows *from)
{
    windows w = *from;
    w.patches.memory.pages = NULL;
    w.offset = malloc((size_t)(w.rows * w.slots + 1) * sizeof *w.offset);
    for (int64_t r = 0; r < w.rows; r++) {
        int64_t at = 0;
        for (int64_t j = 0; j < w.slots; j++) {
            const int64_t offset = from->offset[r * w.slots + j];
            if (offset >= 0) w.offset[r * w.slots + at++] = offset;
        }
        for (; at < w.slots; at++)
            w.offset[r * w.slots + at] = -7;
    }
    w.x.offset = w.offset;
    return w;
}

static void run_mean(const tn_ops *ops, int workers, matrix *y, const windows *w)
{
    test_context t;
    context_open(&t, ops, workers, tn_align_up(ops->window_mean_scratch(w->slots, w->width, workers), TN_ALIGN));
    ops->window_mean(&t.context, y->rows, w->x, w->rows, w->slots, w->width);
    context_close(&t);
}

static void check_mean_row(const windows *w, const matrix *y, int64_t r)
{
    double *mean = calloc((size_t)w->width + 1, sizeof *mean);
    int64_t present = 0;
    for (int64_t j = 0; j < w->slots; j++)
        present += w->offset[r * w->slots + j] >= 0;
    for (int64_t c = 0; c < w->width; c++) {
        for (int64_t j = 0; j < w->slots; j++) {
            if (w->offset[r * w->slots + j] >= 0) mean[c] += patch(w, r, j, c) / (double)present;
        }
        assert_near(matrix_get(y, r, c), mean[c], 3e-7 + rounding_error(y->rows.dtype) * (fabs(mean[c]) + 1e-4));
    }
    if (w->width > 16 && present > 0) assert_true(row_error(y, r, mean) < 1e-6 + rounding_error(y->rows.dtype));
    free(mean);
}

static void means_match_double(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{0, 4, 5},  {3, 0, 5},   {3, 4, 0},    {1, 1, 1},    {5, 4, 31},  {4, 9, 33},
                                       {9, 16, 7}, {2, 17, 64}, {1, 40, 129}, {2, 729, 40}, {30, 3, 100}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int v = 0; v < 9 * LAYOUTS; v++) {
                const int64_t rows = sizes[i][0], slots = sizes[i][1], width = sizes[i][2];
                windows w = windows_new(dtypes[v % 3], rows, slots, width, (layout)(v / 9), v % 2 * 3);
                windows compact = windows_compacted(&w);
                matrix y = matrix_new(dtypes[v / 3 % 3], rows, width, (layout)(v % STEPPED));
                matrix again = matrix_new(dtypes[v / 3 % 3], rows, width, DENSE);
                run_mean(ops, 2, &y, &w);
                run_mean(ops, 1, &again, &compact);
                assert_same(&again, &y);
                for (int64_t r = 0; r < rows; r++)
                    check_mean_row(&w, &y, r);
                assert_gaps_untouched(&y);
                matrix_free(&y);
                matrix_free(&again);
                free(compact.offset);
                windows_free(&w);
            }
        }
    }
}

static void b63_means_are_summed_in_f32(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        windows w = windows_new(TN_BF16, 1, 729, 20, DENSE, 0);
        for (int64_t j = 0; j < 729; j++) {
            for (int64_t c = 0; c < 20; c++)
                matrix_set(&w.patches, j, c, 1.0);
        }
        matrix y = matrix_new(TN_F32, 1, 20, DENSE);
        run_mean(ops, 2, &y, &w);
        for (int64_t c = 0; c < 20; c++)
            assert_true(matrix_get(&y, 0, c) == 1.0);
        matrix_free(&y);
        windows_free(&w);
    }
}

static void run_attend(const tn_ops *ops, int workers, matrix *y, matrix *weights, const windows *w, const matrix *q,
                       int64_t first, int64_t rows)
{
    const int64_t heads = q->width / (w->width > 0 ? w->width : 1);
    test_context t;
    const size_t size = ops->window_attend_scratch(w->slots, heads, w->width, workers);
    context_open(&t, ops, workers, size);
    tn_rows to = y->rows, query = q->rows, x = w->x, none = {NULL, TN_F32, 0, 1, NULL};
    x.offset += first * w->slots;
    query.data = (char *)query.data + (size_t)(first * query.stride) * tn_dtype_size(query.dtype);
    ops->window_attend(&t.context, to, weights != NULL ? weights->rows : none, x, query, 0.3, rows, w->slots, heads,
                       w->width);
    context_close(&t);
}

/* Softmax and weighted mean of one head in double. a: [slots], out: [width]. */
static void attend_double(double *a, double *out, const windows *w, const matrix *q, int64_t r, int64_t h)
{
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < w->slots; j++) {
        a[j] = -INFINITY;
        if (w->offset[r * w->slots + j] < 0) continue;
        a[j] = 0;
        for (int64_t c = 0; c < w->width; c++)
            a[j] += 0.3 * matrix_get(q, r, h * w->width + c) * patch(w, r, j, c);
        most = fmax(most, a[j]);
    }
    for (int64_t j = 0; j < w->slots; j++) {
        a[j] = a[j] == -INFINITY ? 0 : exp(a[j] - most);
        sum += a[j];
    }
    memset(out, 0, (size_t)w->width * sizeof *out);
    for (int64_t j = 0; j < w->slots; j++) {
        if (sum > 0) a[j] /= sum;
        for (int64_t c = 0; c < w->width && a[j] > 0; c++)
            out[c] += a[j] * patch(w, r, j, c);
    }
}

static void check_attention(const windows *w, const matrix *y, const matrix *weights, const matrix *q)
{
    double *a = malloc((size_t)(w->slots + 1) * sizeof *a), *out = malloc((size_t)(w->width + 1) * sizeof *out);
    for (int64_t r = 0; r < w->rows; r++) {
        for (int64_t h = 0; w->width > 0 && h < q->width / w->width; h++) {
            attend_double(a, out, w, q, r, h);
            for (int64_t j = 0; j < w->slots; j++) {
                const double tolerance = 1e-6 + rounding_error(weights->rows.dtype);
                assert_near(matrix_get(weights, r, h * w->slots + j), a[j], tolerance * (a[j] + 1e-3));
            }
            for (int64_t c = 0; c < w->width; c++) {
                const double tolerance = 1e-6 + rounding_error(y->rows.dtype) * (fabs(out[c]) + 1e-4);
                assert_near(matrix_get(y, r, h * w->width + c), out[c], tolerance);
            }
        }
    }
    free(a);
    free(out);
}

static void attention_matches_double(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{0, 4, 2, 5},   {3, 4, 1, 1},   {1, 1, 1, 9},    {2, 4, 3, 17}, {5, 9, 4, 24},
                                       {4, 3, 16, 40}, {2, 16, 7, 33}, {1, 130, 2, 37}, {9, 5, 5, 8},  {3, 0, 2, 8}};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int v = 0; v < 27 * LAYOUTS; v++) {
                const int64_t rows = sizes[i][0], slots = sizes[i][1], heads = sizes[i][2], width = sizes[i][3];
                windows w = windows_new(dtypes[v % 3], rows, slots, width, (layout)(v / 27), v % 2 * 3);
                windows compact = windows_compacted(&w);
                matrix q = matrix_new(dtypes[v / 3 % 3], rows, heads * width, PADDED);
                matrix y = matrix_new(dtypes[v / 9 % 3], rows, heads * width, (layout)(v % STEPPED));
                matrix again = matrix_new(y.rows.dtype, rows, heads * width, DENSE);
                matrix weights = matrix_new(dtypes[v % 2], rows, heads * slots, (layout)(v % STEPPED));
                matrix_fill(&q, 3, 2.0);
                run_attend(ops, 2, &y, &weights, &w, &q, 0, rows);
                check_attention(&w, &y, &weights, &q);
                run_attend(ops, 7, &again, NULL, &compact, &q, 0, rows);
                assert_same(&again, &y);
                assert_gaps_untouched(&y);
                assert_gaps_untouched(&weights);
                matrix_free(&q);
                matrix_free(&y);
                matrix_free(&again);
                matrix_free(&weights);
                free(compact.offset);
                windows_free(&w);
            }
        }
    }
}

/* Few rows are cut by heads, many are not; the bits are the same. */
static void attention_bits_do_not_depend_on_the_call(void **state)
{
    (void)state;
    enum { rows = 50, slots = 9, heads = 11, width = 45 };
    FOR_EACH_TABLE(ops)
    {
        windows w = windows_new(TN_F32, rows, slots, width, DENSE, 2);
        matrix q = matrix_new(TN_F32, rows, heads * width, DENSE), all = matrix_new(TN_F32, rows, heads * width, DENSE);
        matrix_fill(&q, 3, 2.0);
        run_attend(ops, 1, &all, NULL, &w, &q, 0, rows);
        for (int64_t first = 0; first < rows; first += 7) {
            const int64_t count = tn_min_i64(rows - first, 1 + first % 6);
            matrix y = matrix_new(TN_F32, count, heads * width, SHUFFLED);
            run_attend(ops, 3, &y, NULL, &w, &q, first, count);
            for (int64_t r = 0; r < count; r++)
                assert_same_row(&all, first + r, &y, r);
            matrix_free(&y);
        }
        run_attend(ops, 3, &q, NULL, &w, &q, 0, rows); /* in place */
        assert_same(&all, &q);
        matrix_free(&q);
        matrix_free(&all);
        windows_free(&w);
    }
}

static void a_nan_stays_in_its_window(void **state)
{
    (void)state;
    enum { rows = 9, slots = 5, heads = 3, width = 21 };
    FOR_EACH_TABLE(ops)
    {
        for (int bad = 0; bad < rows * slots; bad += 4) {
            windows w = windows_new(TN_F32, rows, slots, width, DENSE, 0);
            matrix q = matrix_new(TN_F32, rows, heads * width, DENSE);
            matrix mean[2], attention[2];
            matrix_fill(&q, 3, 2.0);
            for (int i = 0; i < 2; i++) {
                mean[i] = matrix_new(TN_F32, rows, width, DENSE);
                attention[i] = matrix_new(TN_F32, rows, heads * width, DENSE);
                run_mean(ops, 2, &mean[i], &w);
                run_attend(ops, 2, &attention[i], NULL, &w, &q, 0, rows);
                matrix_set(&w.patches, bad, bad % width, NAN);
            }
            for (int r = 0; r < rows; r++) {
                if (r != bad / slots) {
                    assert_same_row(&mean[0], r, &mean[1], r);
                    assert_same_row(&attention[0], r, &attention[1], r);
                } else {
                    assert_true(isnan(matrix_get(&mean[1], r, bad % width)));
                    for (int c = 0; c < heads * width; c++)
                        assert_true(isnan(matrix_get(&attention[1], r, c)));
                }
            }
            for (int i = 0; i < 2; i++) {
                matrix_free(&mean[i]);
                matrix_free(&attention[i]);
            }
            matrix_free(&q);
            windows_free(&w);
        }
    }
}

static void b63_attention_over_512_equal_keys(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        windows w = windows_new(TN_BF16, 1, 512, 24, DENSE, 0);
        for (int64_t j = 0; j < 512; j++) {
            for (int64_t c = 0; c < 24; c++)
                matrix_set(&w.patches, j, c, 1.0);
        }
        matrix q = matrix_new(TN_BF16, 1, 24, DENSE), y = matrix_new(TN_F32, 1, 24, DENSE);
        matrix weights = matrix_new(TN_F32, 1, 512, DENSE);
        matrix_fill(&q, 1, 1.0);
        run_attend(ops, 2, &y, &weights, &w, &q, 0, 1);
        for (int64_t c = 0; c < 24; c++)
            assert_true(matrix_get(&y, 0, c) == 1.0);
        for (int64_t j = 0; j < 512; j++)
            assert_true(matrix_get(&weights, 0, j) == 0x1p-9);
        matrix_free(&q);
        matrix_free(&y);
        matrix_free(&weights);
        windows_free(&w);
    }
}

/* Scores far apart: the largest takes all, nothing overflows. */
static void large_scores_do_not_overflow(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        windows w = windows_new(TN_F32, 1, 3, 8, DENSE, 0);
        matrix q = matrix_new(TN_F32, 1, 8, DENSE), y = matrix_new(TN_F32, 1, 8, DENSE);
        matrix_fill(&q, 1, 1.0);
        for (int64_t c = 0; c < 8; c++) {
            matrix_set(&q, 0, c, 1e3);
            for (int64_t j = 0; j < 3; j++)
                matrix_set(&w.patches, j, c, j == 1 ? 1e4 : -1e4);
        }
        run_attend(ops, 1, &y, NULL, &w, &q, 0, 1);
        for (int64_t c = 0; c < 8; c++)
            assert_true(matrix_get(&y, 0, c) == 1e4);
        matrix_free(&q);
        matrix_free(&y);
        windows_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_match_double),           cmocka_unit_test(b63_means_are_summed_in_f32),
        cmocka_unit_test(attention_matches_double),     cmocka_unit_test(attention_bits_do_not_depend_on_the_call),
        cmocka_unit_test(a_nan_stays_in_its_window),    cmocka_unit_test(b63_attention_over_512_equal_keys),
        cmocka_unit_test(large_scores_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
