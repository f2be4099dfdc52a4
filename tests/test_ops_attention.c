/* SPDX-License-Identifier: MIT */
/* Attention over an image, level by level against the ops table in double: sizes around tiles and blocks, dtypes,
 * rows in awkward places, absent rows, numbers that are not finite, and the same bits for any number of threads. */
#include "ops_cases.h"
#include "ops_double.h"

typedef struct scene {
    int64_t keys, queries, heads, key_heads, key_dim, value_dim;
    tn_dtype dtype;
    layout layout;
} scene;

enum { IMAGES = 3 };

/* q, k, v, dy; y, dq, dk, dv. */
enum { Q, K, V, DY, READ, Y = READ, DQ, DK, DV, ALL };

typedef struct work {
    const scene *s;
    tn_attention_image images[IMAGES];
    tn_attention how;
    matrix m[ALL];
} work;

/* Image 1 has fewer rows than the others, image 2 no key. */
static void work_open(work *w, const scene *s, bool wide)
{
    *w = (work){.s = s};
    int64_t query = 0, key = 0;
    for (int i = 0; i < IMAGES; i++) {
        const int64_t queries = i == 1 ? 1 : s->queries, keys = i == 2 ? 0 : i == 1 ? s->keys / 2 : s->keys;
        w->images[i] = (tn_attention_image){queries, query, keys, key, query};
        query += queries, key += keys;
    }
    w->how = (tn_attention){.images = IMAGES,
                            .image = w->images,
                            .heads = s->heads,
                            .key_heads = s->key_heads,
                            .key_dim = s->key_dim,
                            .value_dim = s->value_dim,
                            .most_queries = s->queries > 1 ? s->queries : 1,
                            .most_keys = s->keys,
                            .scale = 0.7};
    const int64_t rows[ALL] = {query, key, key, query, query, query, key, key};
    const int64_t q = s->heads * s->key_dim, k = s->key_heads * s->key_dim;
    const int64_t v = s->key_heads * s->value_dim, y = s->heads * s->value_dim;
    const int64_t widths[ALL] = {q, k, v, y, y, q, k, v};
    for (int i = 0; i < ALL; i++) {
        const bool written = i >= READ;
        const layout l = written && s->layout == STEPPED ? PADDED : s->layout;
        w->m[i] = matrix_new(wide ? TN_F64 : i == DY ? TN_F32 : s->dtype, rows[i], widths[i], wide ? DENSE : l);
    }
}

static void work_close(work *w)
{
    for (int i = 0; i < ALL; i++)
        matrix_free(&w->m[i]);
}

/* The same numbers in both, as the narrow one can hold them. */
static void fill(work *narrow, work *wide)
{
    for (int i = 0; i < READ; i++) {
        matrix_fill(&narrow->m[i], (uint32_t)i + 5, 1.5);
        for (int64_t r = 0; r < narrow->m[i].count; r++) {
            for (int64_t c = 0; c < narrow->m[i].width; c++)
                matrix_set(&wide->m[i], r, c, matrix_get(&narrow->m[i], r, c));
        }
    }
}

static void run(work *w, const tn_ops *ops, int workers)
{
    test_context t;
    size_t forward = ops->attention_scratch(&w->how, false, workers);
    size_t backward = ops->attention_scratch(&w->how, true, workers);
    forward = tn_align_up(forward, TN_ALIGN), backward = tn_align_up(backward, TN_ALIGN);
    context_open(&t, ops, workers, forward);
    ops->attention(&t.context, w->m[Y].rows, w->m[Q].rows, w->m[K].rows, w->m[V].rows, &w->how);
    context_close(&t);
    context_open(&t, ops, workers, backward);
    ops->attention_backward(&t.context, w->m[DQ].rows, w->m[DK].rows, w->m[DV].rows, w->m[DY].rows, w->m[Q].rows,
                            w->m[K].rows, w->m[V].rows, &w->how);
    context_close(&t);
}

static void check(const scene *s, const tn_ops *ops)
{
    work narrow, serial, wide;
    work_open(&narrow, s, false);
    work_open(&serial, s, false);
    work_open(&wide, s, true);
    fill(&narrow, &wide);
    fill(&serial, &wide);
    run(&narrow, ops, 3);
    run(&serial, ops, 1);
    run(&wide, &ops_double, 1);
    for (int i = READ; i < ALL; i++) {
        double whole = 0, difference = 0;
        for (int64_t r = 0; r < wide.m[i].count; r++) {
            for (int64_t c = 0; c < wide.m[i].width; c++) {
                const double expected = matrix_get(&wide.m[i], r, c), d = matrix_get(&narrow.m[i], r, c) - expected;
                whole += expected * expected, difference += d * d;
            }
        }
        const double most = (2e-6 + rounding_error(s->dtype)) * sqrt(whole) + 1e-12;
        if (!(sqrt(difference) <= most)) {
            fail_msg("%s: array %d, %d keys, %d queries, heads %d of %d, widths %d and %d: off by %.3g of %.3g",
                     ops->name, i, (int)s->keys, (int)s->queries, (int)s->heads, (int)s->key_heads, (int)s->key_dim,
                     (int)s->value_dim, sqrt(difference), sqrt(whole));
        }
        assert_same(&narrow.m[i], &serial.m[i]);
        assert_gaps_untouched(&narrow.m[i]);
    }
    work_close(&narrow);
    work_close(&serial);
    work_close(&wide);
}

static void sizes_around_tiles_and_blocks(void **state)
{
    (void)state;
    static const int64_t keys[] = {1, 2, 3, 4, 5, 15, 17, 127, 129, 300};
    static const int64_t queries[] = {1, 3, 4, 5, 15, 17};
    static const int64_t dims[] = {1, 7, 8, 16, 33, 72};
    FOR_EACH_TABLE(ops)
    {
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
            check(&(scene){keys[i], queries[i % 6], 4, i % 2 ? 2 : 4, dims[i % 6], dims[(i + 2) % 6], TN_F32, DENSE},
                  ops);
        }
        for (size_t i = 0; i < 6; i++)
            check(&(scene){19, queries[i], 3, 1, dims[i], dims[5 - i], TN_F32, DENSE}, ops);
    }
}

static void dtypes_and_layouts(void **state)
{
    (void)state;
    FOR_EACH_TABLE(ops)
    {
        for (int d = 0; d < num_dtypes; d++) {
            for (int l = 0; l < LAYOUTS; l++)
                check(&(scene){21, 5, 4, 2, 19, 24, dtypes[d], (layout)l}, ops);
        }
    }
}

/* Absent keys and queries decide nothing: the bits are those of the rows that are there, by themselves. */
static void absent_rows_decide_nothing(void **state)
{
    (void)state;
    enum { KEYS = 40, QUERIES = 21, WIDTH = 24 };
    FOR_EACH_TABLE(ops)
    {
        const scene s = {KEYS, QUERIES, 2, 2, WIDTH / 2, WIDTH / 2, TN_F32, DENSE};
        work all, few, wide;
        work_open(&all, &s, false);
        work_open(&few, &s, false);
        work_open(&wide, &s, true);
        fill(&all, &wide);
        int64_t keys[2 * KEYS], queries[2 * QUERIES + 1], kept_keys = 0, kept_queries = 0;
        for (int64_t j = 0; j < KEYS; j++) {
            keys[j] = j % 3 == 1 ? -1 : j * WIDTH;
            for (int64_t c = 0; c < WIDTH; c++) {
                if (keys[j] >= 0) {
                    matrix_set(&few.m[K], kept_keys, c, matrix_get(&all.m[K], j, c));
                    matrix_set(&few.m[V], kept_keys, c, matrix_get(&all.m[V], j, c));
                } else {
                    matrix_set(&all.m[K], j, c, NAN);
                }
            }
            kept_keys += keys[j] >= 0;
        }
        for (int64_t i = 0; i < QUERIES; i++) {
            queries[i] = i % 4 == 2 ? -1 : i * WIDTH;
            for (int64_t c = 0; c < WIDTH && queries[i] >= 0; c++) {
                matrix_set(&few.m[Q], kept_queries, c, matrix_get(&all.m[Q], i, c));
                matrix_set(&few.m[DY], kept_queries, c, matrix_get(&all.m[DY], i, c));
            }
            kept_queries += queries[i] >= 0;
        }
        all.m[K].rows.offset = all.m[V].rows.offset = keys;
        all.m[Q].rows.offset = queries;
        all.how.images = few.how.images = 1;
        few.images[0].keys = kept_keys, few.images[0].queries = kept_queries;
        run(&all, ops, 2);
        run(&few, ops, 2);
        all.m[K].rows.offset = all.m[V].rows.offset = all.m[Q].rows.offset = NULL;
        for (int64_t j = 0, kept = 0; j < KEYS; j++) {
            if (keys[j] < 0) continue;
            assert_same_row(&all.m[DK], j, &few.m[DK], kept);
            assert_same_row(&all.m[DV], j, &few.m[DV], kept++);
        }
        for (int64_t i = 0, kept = 0; i < QUERIES; i++) {
            if (queries[i] < 0) continue;
            assert_same_row(&all.m[Y], i, &few.m[Y], kept);
            assert_same_row(&all.m[DQ], i, &few.m[DQ], kept++);
        }
        work_close(&all);
        work_close(&few);
        work_close(&wide);
    }
}

/* A NaN or an infinity in a key reaches its image alone. */
static void numbers_that_are_not_finite(void **state)
{
    (void)state;
    const scene s = {9, 3, 2, 1, 5, 6, TN_F32, DENSE};
    static const double odd[] = {NAN, INFINITY, -INFINITY};
    FOR_EACH_TABLE(ops)
    {
        for (int which = 0; which < 3; which++) {
            work w, wide;
            work_open(&w, &s, false);
            work_open(&wide, &s, true);
            fill(&w, &wide);
            matrix_set(&w.m[V], 4, 2, odd[which]);
            run(&w, ops, 2);
            for (int64_t i = 0; i < s.queries; i++) {
                const double y = matrix_get(&w.m[Y], i, 2);
                assert_true(which == 0 ? isnan(y) : y == odd[which]);
                assert_true(isfinite(matrix_get(&w.m[Y], i, 1)));
            }
            assert_true(isfinite(matrix_get(&w.m[Y], s.queries, 2)));
            assert_true(matrix_get(&w.m[Y], s.queries + 1, 2) == 0); /* the image without a key */
            work_close(&w);
            work_close(&wide);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_around_tiles_and_blocks),
        cmocka_unit_test(dtypes_and_layouts),
        cmocka_unit_test(absent_rows_decide_nothing),
        cmocka_unit_test(numbers_that_are_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
