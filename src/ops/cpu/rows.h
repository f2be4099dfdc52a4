/* SPDX-License-Identifier: MIT */
/* Rows of any dtype and step, read as f32 and written from f32, a dense span at a time. Reads stay inside the row: the
 * last vector of a span goes through a small array.
 */
#ifndef TN_OPS_CPU_ROWS_H
#define TN_OPS_CPU_ROWS_H

static ALWAYS_INLINE int64_t element_size(tn_dtype dtype)
{
    return dtype == TN_F32 ? 4 : 2;
}

/* Element offset of row r; negative when it is absent. */
static ALWAYS_INLINE int64_t row_offset(const tn_rows *rows, int64_t r)
{
    return rows->offset != NULL ? rows->offset[r] : r * rows->stride;
}

static ALWAYS_INLINE char *element_at(const tn_rows *rows, int64_t r, int64_t column)
{
    return (char *)rows->data + (row_offset(rows, r) + column * rows->step) * element_size(rows->dtype);
}

/* `lanes` elements from index i on, as f32. With a constant dtype nothing but the load is left. */
static ALWAYS_INLINE vf load_as(tn_dtype dtype, const void *from, int64_t i)
{
    if (dtype == TN_F32) return vf_load((const float *)from + i);
    const uint16_t *half = (const uint16_t *)from + i;
    return dtype == TN_BF16 ? vf_load_bf16(half) : vf_load_f16(half);
}

static ALWAYS_INLINE void store_as(tn_dtype dtype, void *to, int64_t i, vf v)
{
    if (dtype == TN_F32) {
        vf_store((float *)to + i, v);
    } else if (dtype == TN_BF16) {
        vf_store_bf16((uint16_t *)to + i, v);
    } else {
        vf_store_f16((uint16_t *)to + i, v);
    }
}

static float load_one(tn_dtype dtype, const void *from, int64_t i)
{
    if (dtype == TN_F32) return ((const float *)from)[i];
    const uint16_t half = ((const uint16_t *)from)[i];
    return dtype == TN_BF16 ? tn_bf16_to_f32(half) : tn_f16_to_f32(half);
}

/* The first `count` < lanes elements, `step` apart, then zeros. */
static vf load_some(tn_dtype dtype, const void *from, int64_t step, int64_t count)
{
    float some[lanes] = {0};
    for (int64_t i = 0; i < count; i++)
        some[i] = load_one(dtype, from, i * step);
    return vf_load(some);
}

static void store_some(tn_dtype dtype, void *to, vf v, int64_t count)
{
    float some[lanes];
    store_as(dtype, some, 0, v);
    memcpy(to, some, (size_t)(count * element_size(dtype)));
}

/* `count` elements from column i of a row, at most `lanes` of them, then zeros. */
static ALWAYS_INLINE vf load_columns(tn_dtype dtype, const void *row, int64_t step, int64_t i, int64_t count)
{
    if (step == 1 && count >= lanes) return load_as(dtype, row, i);
    const char *from = (const char *)row + i * step * element_size(dtype);
    return load_some(dtype, from, step, count < lanes ? count : lanes);
}

static ALWAYS_INLINE void store_columns(tn_dtype dtype, void *row, int64_t i, vf v, int64_t count)
{
    if (count >= lanes) {
        store_as(dtype, row, i, v);
    } else {
        store_some(dtype, (char *)row + i * element_size(dtype), v, count);
    }
}

static ALWAYS_INLINE void widen_as(tn_dtype dtype, float *to, const void *from, int64_t step, int64_t count)
{
    int64_t i = 0;
    if (step == 1) {
        for (; i + lanes <= count; i += lanes)
            vf_store(to + i, load_as(dtype, from, i));
    }
    for (; i < count; i++)
        to[i] = load_one(dtype, from, i * step);
}

/* to[i] = from[i * step] for i < count. */
static void widen(float *to, tn_dtype dtype, const void *from, int64_t step, int64_t count)
{
    if (dtype == TN_F32) {
        widen_as(TN_F32, to, from, step, count);
    } else if (dtype == TN_BF16) {
        widen_as(TN_BF16, to, from, step, count);
    } else {
        widen_as(TN_F16, to, from, step, count);
    }
}

static ALWAYS_INLINE void narrow_as(tn_dtype dtype, void *to, const float *from, int64_t count)
{
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        store_as(dtype, to, i, vf_load(from + i));
    if (i < count) store_columns(dtype, to, i, load_some(TN_F32, from + i, 1, count - i), count - i);
}

/* to[i] = from[i], rounded, for i < count. */
static void narrow(void *to, tn_dtype dtype, const float *from, int64_t count)
{
    if (dtype == TN_F32) {
        memcpy(to, from, (size_t)count * sizeof *from);
    } else if (dtype == TN_BF16) {
        narrow_as(TN_BF16, to, from, count);
    } else {
        narrow_as(TN_F16, to, from, count);
    }
}

/* The one NaN that kernels write: which operand's NaN an instruction hands on depends on how it was compiled. */
static ALWAYS_INLINE vf plain_nan(vf v)
{
    return vf_select(v == v, v, vf_set(__builtin_nanf("")));
}

/* Tasks for work of rows x width: each takes `rows` rows and `columns` columns, so that one row can use all threads and
 * many narrow ones do not drown in tasks. */
typedef struct blocking {
    int64_t rows, columns, row_tasks, column_tasks;
} blocking;

static blocking block_elements(int64_t rows, int64_t width)
{
    enum { most_columns = 2048, elements = 16384 };
    blocking b;
    b.columns = tn_min_i64(tn_max_i64(width, 1), most_columns);
    b.rows = tn_max_i64(elements / b.columns, 1);
    if (b.rows * 8 > rows) b.rows = tn_max_i64(rows / 8, 1);
    b.row_tasks = tn_ceil_div(rows, b.rows);
    b.column_tasks = tn_ceil_div(width, b.columns);
    return b;
}

/* Rows [first, last) and columns [from, to) of task `index`. */
typedef struct block {
    int64_t first, last, from, to;
} block;

static block block_of_task(const blocking *b, int64_t index, int64_t rows, int64_t width)
{
    const int64_t first = index / b->column_tasks * b->rows, from = index % b->column_tasks * b->columns;
    return (block){first, tn_min_i64(first + b->rows, rows), from, tn_min_i64(from + b->columns, width)};
}

#endif
