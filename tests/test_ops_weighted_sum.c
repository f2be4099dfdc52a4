/* SPDX-License-Identifier: MIT */
/* Sums of rows with weights, level by level against the ops table in double: widths around vectors, dtypes, rows in
 * awkward places, absent rows, numbers that are not finite, and the same bits for any number of threads. */
#include "ops_cases.h"
#include "ops_double.h"

enum { ROWS = 6, ENTRIES = 11 };

/* Rows of no, one, four, two, three and one entries; entry 6 is absent, and so is row 4. */
static const int64_t begin[ROWS + 1] = {0, 0, 1, 5, 7, 10, 11};
static const double weight[ENTRIES] = {1, 0.25, 0.1, -2, 0.65, 3, 7, 0.5, 0.5, 1, -1};

static void run(const tn_ops *ops, matrix *y, const matrix *x, int64_t width, int workers)
{
    test_context t;
    int64_t from[ENTRIES], to[ROWS];
    tn_rows rows = x->rows, result = y->rows;
    for (int64_t e = 0; e < ENTRIES; e++)
        from[e] = e == 6 ? -1 : matrix_index(x, e, 0);
    for (int64_t r = 0; r < ROWS; r++)
        to[r] = r == 4 ? -1 : matrix_index(y, r, 0);
    rows.offset = from;
    result.offset = to;
    context_open(&t, ops, workers, 0);
    ops->weighted_sum(&t.context, result, rows, begin, weight, ROWS, width);
    context_close(&t);
}

static void check(const tn_ops *ops, tn_dtype dtype, layout l, int64_t width, double odd)
{
    matrix x = matrix_new(dtype, ENTRIES, width, l), wide_x = matrix_new(TN_F64, ENTRIES, width, DENSE);
    const layout written = l == STEPPED ? PADDED : l;
    matrix y = matrix_new(dtype, ROWS, width, written), serial = matrix_new(dtype, ROWS, width, written);
    matrix wide = matrix_new(TN_F64, ROWS, width, DENSE);
    matrix_fill(&x, 3, 2);
    for (int64_t c = 0; c < width; c++) {
        matrix_set(&x, 6, c, NAN);
        if (odd != 0) matrix_set(&x, 10, c, odd);
        for (int64_t e = 0; e < ENTRIES; e++)
            matrix_set(&wide_x, e, c, matrix_get(&x, e, c));
    }
    run(ops, &y, &x, width, 3);
    run(ops, &serial, &x, width, 1);
    run(&ops_double, &wide, &wide_x, width, 1);
    for (int64_t r = 0; r < ROWS; r++) {
        assert_same_row(&y, r, &serial, r);
        for (int64_t c = 0; c < width && r != 4; c++) {
            const double expected = matrix_get(&wide, r, c), found = matrix_get(&y, r, c);
            if (isfinite(expected)) assert_near(found, expected, 8 * (1e-6 + rounding_error(dtype)));
            if (isnan(expected)) assert_true(isnan(found));
            if (isinf(expected)) assert_true(found == expected);
        }
        if (r == 0) assert_true(matrix_get(&y, r, 0) == 0);
        if (r == 4) assert_int_equal(matrix_bits(&y, r, 0) & 0xffff, 0xffff); /* left alone */
    }
    assert_gaps_untouched(&y);
    matrix_free(&x), matrix_free(&y), matrix_free(&serial), matrix_free(&wide), matrix_free(&wide_x);
}

static void rows_are_summed(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 3, 4, 7, 8, 15, 16, 17, 33, 300, 2049};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
            check(ops, TN_F32, DENSE, widths[i], 0);
        for (int d = 0; d < num_dtypes; d++) {
            for (int l = 0; l < LAYOUTS; l++)
                check(ops, dtypes[d], (layout)l, 21, 0);
        }
        check(ops, TN_F32, DENSE, 21, NAN);
        check(ops, TN_F32, DENSE, 21, INFINITY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_summed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
