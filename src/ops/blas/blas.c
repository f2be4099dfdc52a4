/* SPDX-License-Identifier: MIT */
/* The blas level (-DTENON_BLAS=ON): the machine's best table, but large products are the work of a CBLAS. It is for
 * machines that this library has no kernels for. What it gives up: bits are the BLAS's, so they may depend on rows,
 * threads and alignment; the BLAS may allocate; it runs on threads of its own, whatever the call asks for.
 *
 * A large map is packed as f32 rows, [groups][n][k], whatever its storage dtype. Rows of x that a BLAS cannot take as
 * they are (not f32, scattered) are copied first; the sums start as the bias; the activation is the table's own, and so
 * is everything about a small map.
 */
#include "core/memory.h"
#include "core/size.h"
#include "ops/cpu/levels.h"
#include <limits.h>

/* From the interface's definition: vendors agree on it, but not on the name of a header. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc);
void cblas_sgemv(int order, int trans, int m, int n, float alpha, const float *a, int lda, const float *x, int incx,
                 float beta, float *y, int incy);

static const tn_ops *own; /* the best table without a BLAS */

static bool is_large(const tn_map *map)
{
    enum { least = 64 * 64 };
    const int64_t side = tn_max_i64(map->n, map->k);
    return map->groups > 0 && map->n > 0 && map->k > 0 && side <= INT_MAX / map->groups && map->n * map->k >= least;
}

static bool blas_packed_size(const tn_map *map, size_t *bytes)
{
    if (!is_large(map)) return own->packed_size(map, bytes);
    return tn_shape_bytes(3, (int64_t[]){map->groups, map->n, map->k}, sizeof(float), bytes);
}

static void blas_pack(const tn_context *context, void *packed, const void *w, const tn_map *map, int64_t group_stride,
                      int64_t n_stride, int64_t k_stride)
{
    if (!is_large(map)) {
        own->pack(context, packed, w, map, group_stride, n_stride, k_stride);
        return;
    }
    for (int64_t g = 0; g < map->groups; g++) {
        const char *group = (const char *)w + g * group_stride * (int64_t)tn_dtype_size(map->dtype);
        tn_rows from = tn_dense_rows(group, map->dtype, n_stride);
        from.step = k_stride;
        const tn_rows to = tn_dense_rows((float *)packed + g * map->n * map->k, TN_F32, map->k);
        own->copy(context, to, from, map->n, map->k);
    }
}

/* Rows that go through the BLAS at once: scratch is sized by them. */
static int64_t rows_at_once(int64_t rows)
{
    return tn_min_i64(rows, own->block_rows);
}

/* [rows, groups k] and [rows, groups n], where x or y cannot be used as they are. */
static bool scratch_parts(const tn_map *map, int64_t rows, size_t *x, size_t *y)
{
    rows = tn_max_i64(rows_at_once(rows), 0);
    return tn_shape_bytes(3, (int64_t[]){rows, map->groups, map->k}, sizeof(float), x) &&
           tn_shape_bytes(3, (int64_t[]){rows, map->groups, map->n}, sizeof(float), y) && *x <= SIZE_MAX / 4 &&
           *y <= SIZE_MAX / 4;
}

static size_t blas_linear_scratch(const tn_map *map, int64_t rows, int workers)
{
    size_t x, y;
    if (!is_large(map)) return own->linear_scratch(map, rows, workers);
    return scratch_parts(map, rows, &x, &y) ? tn_align_up(x, TN_ALIGN) + tn_align_up(y, TN_ALIGN) : SIZE_MAX;
}

typedef struct product {
    float *y;       /* [rows, groups n], y_stride apart */
    const float *x; /* [rows, groups k], x_stride apart */
    const float *w; /* [groups, n, k] */
    const tn_map *map;
    int rows, y_stride, x_stride;
} product;

/* y += x w^T for one group. */
static void multiply(void *argument, int64_t group, int worker)
{
    (void)worker;
    const product *p = argument;
    const int n = (int)p->map->n, k = (int)p->map->k;
    const float *x = p->x + group * k, *w = p->w + group * n * k;
    float *y = p->y + group * n;
    if (p->rows == 1) {
        cblas_sgemv(ROW_MAJOR, NO_TRANS, n, k, 1.0f, w, k, x, 1, 1.0f, y, 1);
    } else {
        cblas_sgemm(ROW_MAJOR, NO_TRANS, TRANS, p->rows, n, k, 1.0f, x, p->x_stride, w, k, 1.0f, y, p->y_stride);
    }
}

static bool fits_blas(const tn_rows *rows, int64_t width)
{
    return rows->dtype == TN_F32 && rows->offset == NULL && rows->step == 1 && rows->stride >= width &&
           rows->stride <= INT_MAX;
}

/* The rows as the BLAS can take them: themselves, or a copy in `space`. */
static tn_rows plain_rows(const tn_context *context, tn_rows rows, void *space, int64_t count, int64_t width)
{
    if (fits_blas(&rows, width)) return rows;
    const tn_rows copied = tn_dense_rows(space, TN_F32, width);
    own->copy(context, copied, rows, count, width);
    return copied;
}

static void multiply_rows(const tn_context *context, tn_rows y, tn_rows x, const void *packed, const void *bias,
                          tn_act act, const tn_map *map, int64_t rows)
{
    const int64_t in = map->groups * map->k, out = map->groups * map->n;
    const tn_parallel caller = {1, NULL}; /* the BLAS has threads of its own */
    size_t x_size = 0, y_size = 0;
    scratch_parts(map, rows, &x_size, &y_size);
    const tn_rows sums =
        fits_blas(&y, out) ? y : tn_dense_rows((char *)context->scratch + tn_align_up(x_size, TN_ALIGN), TN_F32, out);
    const tn_rows start = {(void *)(uintptr_t)bias, TN_F32, 0, 1, NULL};
    own->copy(context, sums, start, rows, out);
    x = plain_rows(context, x, context->scratch, rows, in);
    product p = {.y = sums.data, .x = x.data, .w = packed, .map = map, .rows = (int)rows};
    p.y_stride = (int)sums.stride;
    p.x_stride = (int)x.stride;
    tn_parallel_for(&caller, map->groups, multiply, &p);
    if (sums.data != y.data || act != TN_ACT_NONE) own->activation(context, y, sums, act, rows, out);
}

static void blas_linear(const tn_context *context, tn_rows y, tn_rows x, const void *packed, const void *bias,
                        tn_act act, const tn_map *map, int64_t rows)
{
    if (!is_large(map)) {
        own->linear(context, y, x, packed, bias, act, map, rows);
        return;
    }
    for (int64_t first = 0; first < rows; first += own->block_rows) {
        multiply_rows(context, tn_rows_from(y, first), tn_rows_from(x, first), packed, bias, act, map,
                      rows_at_once(rows - first));
    }
}

/* --- the gradient of the weights --- */

static size_t blas_weight_gradient_scratch(const tn_map *map, int64_t rows, int workers)
{
    if (!is_large(map) || rows == 0) return own->weight_gradient_scratch(map, rows, workers);
    return blas_linear_scratch(map, rows, workers);
}

typedef struct gradient {
    float *dw;       /* [groups, n, k] */
    const float *dy; /* [rows, groups n], dy_stride apart */
    const float *x;  /* [rows, groups k], x_stride apart */
    const tn_map *map;
    int rows, dy_stride, x_stride;
    float add_to; /* 0: dw is overwritten; 1: added to */
} gradient;

/* dw = or += dy^T x for one group. */
static void multiply_transposed(void *argument, int64_t group, int worker)
{
    (void)worker;
    const gradient *g = argument;
    const int n = (int)g->map->n, k = (int)g->map->k;
    cblas_sgemm(ROW_MAJOR, TRANS, NO_TRANS, n, k, g->rows, 1.0f, g->dy + group * n, g->dy_stride, g->x + group * k,
                g->x_stride, g->add_to, g->dw + group * n * k, k);
}

static void blas_weight_gradient(const tn_context *context, float *dw, float *dbias, tn_rows dy, tn_rows x,
                                 const tn_map *map, int64_t rows, bool fresh)
{
    if (!is_large(map) || rows == 0) {
        own->weight_gradient(context, dw, dbias, dy, x, map, rows, fresh);
        return;
    }
    const tn_parallel caller = {1, NULL};
    const int64_t in = map->groups * map->k, out = map->groups * map->n;
    size_t x_size = 0, y_size = 0;
    scratch_parts(map, rows, &x_size, &y_size);
    if (dbias != NULL) own->bias_gradient(context, dbias, dy, rows, out, fresh);
    for (int64_t first = 0; first < rows; first += own->block_rows) {
        const int64_t count = rows_at_once(rows - first);
        const tn_rows x_rows = plain_rows(context, tn_rows_from(x, first), context->scratch, count, in);
        const tn_rows dy_rows = plain_rows(context, tn_rows_from(dy, first),
                                           (char *)context->scratch + tn_align_up(x_size, TN_ALIGN), count, out);
        gradient g = {.dw = dw, .dy = dy_rows.data, .x = x_rows.data, .map = map, .rows = (int)count};
        g.dy_stride = (int)dy_rows.stride;
        g.x_stride = (int)x_rows.stride;
        g.add_to = fresh && first == 0 ? 0.0f : 1.0f;
        tn_parallel_for(&caller, map->groups, multiply_transposed, &g);
    }
}

tn_ops tn_ops_blas;

void tn_blas_build(const tn_ops *best)
{
    own = best;
    tn_ops_blas = *best;
    tn_ops_blas.name = "blas";
    tn_ops_blas.packed_size = blas_packed_size;
    tn_ops_blas.pack = blas_pack;
    tn_ops_blas.linear_scratch = blas_linear_scratch;
    tn_ops_blas.linear = blas_linear;
    tn_ops_blas.weight_gradient_scratch = blas_weight_gradient_scratch;
    tn_ops_blas.weight_gradient = blas_weight_gradient;
}
