/* SPDX-License-Identifier: MIT */
/* What the tests of the ops share: arrays that end at a page that may not be read, rows in awkward places, and loops
 * over the levels of this machine. */
#ifndef TENON_OPS_CASES_H
#define TENON_OPS_CASES_H

#include "core/dtype.h"
#include "core/memory.h"
#include "core/size.h"
#include "ops/ops.h"
#include "tests.h"
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { num_dtypes = 3 };
static const tn_dtype dtypes[num_dtypes] = {TN_F32, TN_BF16, TN_F16};

/* Memory whose last byte is the last one before a page without access, and so is the byte before its first page. */
typedef struct guarded {
    void *data;
    size_t size;
    char *pages;
    size_t mapped;
} guarded;

static inline guarded guarded_new(size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = tn_align_up(size > 0 ? size : 1, page);
    const int zero = open("/dev/zero", O_RDWR);
    guarded g = {.size = size, .mapped = body + 2 * page};
    g.pages = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    close(zero);
    assert_true(g.pages != MAP_FAILED);
    assert_int_equal(mprotect(g.pages, page, PROT_NONE), 0);
    assert_int_equal(mprotect(g.pages + page + body, page, PROT_NONE), 0);
    g.data = g.pages + page + body - size;
    return g;
}

static inline void guarded_free(guarded *g)
{
    munmap(g->pages, g->mapped);
}

/* Uniform in [-1, 1). */
static inline double draw(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(*seed >> 8) * 0x1p-23 - 1.0;
}

/* Where the rows of a matrix lie. */
typedef enum layout {
    DENSE,
    PADDED,   /* gaps between rows */
    SHUFFLED, /* rows in reverse order, with gaps, through offsets */
    STEPPED,  /* columns 3 elements apart: for reading only */
    LAYOUTS
} layout;

typedef struct matrix {
    guarded memory;
    tn_rows rows;
    int64_t *offset;
    int64_t count, width;
} matrix;

static inline int64_t matrix_index(const matrix *m, int64_t r, int64_t c)
{
    return (m->rows.offset != NULL ? m->rows.offset[r] : r * m->rows.stride) + c * m->rows.step;
}

/* Gaps hold NaNs (0xff bytes). The last row ends at the guard page. */
static inline matrix matrix_new(tn_dtype dtype, int64_t count, int64_t width, layout l)
{
    matrix m = {.rows = {NULL, dtype, width, 1, NULL}, .count = count, .width = width};
    if (l == PADDED || l == SHUFFLED) m.rows.stride = width + 3;
    if (l == STEPPED) {
        m.rows.step = 3;
        m.rows.stride = width * 3 + 1;
    }
    const int64_t used = width > 0 ? (width - 1) * m.rows.step + 1 : 0;
    const int64_t elements = count > 0 ? (count - 1) * m.rows.stride + used : 0;
    m.memory = guarded_new((size_t)elements * tn_dtype_size(dtype));
    memset(m.memory.data, 0xff, m.memory.size);
    m.rows.data = m.memory.data;
    if (l == SHUFFLED) {
        m.offset = malloc((size_t)(count + 1) * sizeof *m.offset);
        for (int64_t r = 0; r < count; r++)
            m.offset[r] = (count - 1 - r) * m.rows.stride;
        m.rows.offset = m.offset;
    }
    return m;
}

static inline void matrix_free(matrix *m)
{
    guarded_free(&m->memory);
    free(m->offset);
}

static inline double matrix_get(const matrix *m, int64_t r, int64_t c)
{
    return tn_load(m->rows.data, m->rows.dtype, matrix_index(m, r, c));
}

static inline void matrix_set(matrix *m, int64_t r, int64_t c, double value)
{
    tn_store(m->rows.data, m->rows.dtype, matrix_index(m, r, c), value);
}

static inline void matrix_fill(matrix *m, uint32_t seed, double scale)
{
    for (int64_t r = 0; r < m->count; r++) {
        for (int64_t c = 0; c < m->width; c++)
            matrix_set(m, r, c, scale * draw(&seed));
    }
}

/* The storage bits of an element. */
static inline uint32_t matrix_bits(const matrix *m, int64_t r, int64_t c)
{
    const size_t size = tn_dtype_size(m->rows.dtype);
    uint32_t bits = 0;
    memcpy(&bits, (const char *)m->rows.data + (size_t)matrix_index(m, r, c) * size, size);
    return bits;
}

static inline void assert_same_row(const matrix *a, int64_t row_a, const matrix *b, int64_t row_b)
{
    for (int64_t c = 0; c < a->width; c++)
        assert_int_equal(matrix_bits(a, row_a, c), matrix_bits(b, row_b, c));
}

static inline void assert_same(const matrix *a, const matrix *b)
{
    for (int64_t r = 0; r < a->count; r++)
        assert_same_row(a, r, b, r);
}

/* Everything that is not an element of a row still holds 0xff. */
static inline void assert_gaps_untouched(const matrix *m)
{
    const size_t size = tn_dtype_size(m->rows.dtype);
    char *is_element = calloc(m->memory.size + 1, 1);
    for (int64_t r = 0; r < m->count; r++) {
        for (int64_t c = 0; c < m->width; c++)
            memset(is_element + (size_t)matrix_index(m, r, c) * size, 1, size);
    }
    for (size_t i = 0; i < m->memory.size; i++) {
        if (!is_element[i]) assert_int_equal(((const unsigned char *)m->memory.data)[i], 0xff);
    }
    free(is_element);
}

/* Relative error of a row against the reference: ||y - ref|| / ||ref||. A NaN gives a NaN, which fails every test. */
static inline double row_error(const matrix *y, int64_t r, const double *ref)
{
    double difference = 0, norm = 0;
    for (int64_t c = 0; c < y->width; c++) {
        const double d = matrix_get(y, r, c) - ref[c];
        difference += d * d;
        norm += ref[c] * ref[c];
    }
    return difference == 0 ? 0 : sqrt(difference / norm);
}

/* What one rounding to a dtype may add to a row's error. */
static inline double rounding_error(tn_dtype dtype)
{
    return dtype == TN_F32 ? 0 : dtype == TN_BF16 ? 0x1p-8 : 0x1p-11;
}

static inline void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) {
        print_error("got %.9g, want %.9g within %.3g\n", got, want, tolerance);
        fail();
    }
}

/* A context of `workers` threads with guarded scratch. */
typedef struct test_context {
    tn_parallel parallel;
    guarded scratch;
    tn_context context;
} test_context;

static inline void context_open(test_context *t, const tn_ops *ops, int workers, size_t scratch)
{
    assert_int_equal(tn_parallel_init(&t->parallel, workers, NULL, NULL), TENON_OK);
    assert_int_equal(scratch % TN_ALIGN, 0);
    t->scratch = guarded_new(scratch);
    memset(t->scratch.data, 0xff, scratch);
    t->context = (tn_context){ops, &t->parallel, t->scratch.data};
}

static inline void context_close(test_context *t)
{
    guarded_free(&t->scratch);
}

#define FOR_EACH_TABLE(ops) for (const tn_ops *const *each = tn_cpu_tables(), *ops = *each; ops != NULL; ops = *++each)

static inline double act_double(tn_act act, double x)
{
    switch (act) {
    case TN_ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case TN_ACT_GELU_TANH:
        return x / (1 + exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case TN_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case TN_ACT_SILU:
        return x / (1 + exp(-x));
    case TN_ACT_RELU:
        return x > 0 ? x : 0;
    case TN_ACT_NONE:
    case TN_ACT_COUNT:
        break;
    }
    return x;
}

#endif
