/* SPDX-License-Identifier: MIT */
/* The ops table: everything that layers ask of a device. One table per CPU level; the tests have one in double.
 *
 * All arrays are tagged with their dtype. Sums and intermediates are of the table's `compute` dtype. An op's result for
 * a row depends on that row's inputs alone, bit for bit: not on the other rows, their number, strides or threads. Ops
 * never allocate: what they need beyond their arguments is `scratch`, sized by their _scratch function.
 */
#ifndef TN_OPS_OPS_H
#define TN_OPS_OPS_H

#include "core/dtype.h"
#include "core/parallel.h"

/* Element-wise functions; the formulas are in docs/connectors.md. */
typedef enum tn_act {
    TN_ACT_NONE,
    TN_ACT_GELU,       /* x Phi(x), the erf form */
    TN_ACT_GELU_TANH,  /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    TN_ACT_QUICK_GELU, /* x sigmoid(1.702 x) */
    TN_ACT_SILU,       /* x sigmoid(x) */
    TN_ACT_RELU,       /* max(x, 0); NaN stays NaN */
    TN_ACT_COUNT
} tn_act;

/* Rows of a matrix wherever they lie. Row r starts at element offset[r], or at r * stride when offset is NULL; its
 * columns are `step` elements apart (1 in everything that is written). A negative offset is an absent row, where an op
 * says that there may be some. */
typedef struct tn_rows {
    void *data;
    tn_dtype dtype;
    int64_t stride;
    int64_t step;
    const int64_t *offset; /* [rows] or NULL */
} tn_rows;

/* Dense rows of `width` elements. Inputs are never written through it. */
static inline tn_rows tn_dense_rows(const void *data, tn_dtype dtype, int64_t width)
{
    return (tn_rows){(void *)(uintptr_t)data, dtype, width, 1, NULL};
}

/* The rows from `first` on; none stay none. */
static inline tn_rows tn_rows_from(tn_rows rows, int64_t first)
{
    if (rows.data == NULL) return rows;
    if (rows.offset != NULL) {
        rows.offset += first;
    } else {
        rows.data = (char *)rows.data + first * rows.stride * (int64_t)tn_dtype_size(rows.dtype);
    }
    return rows;
}

/* The columns from `first` on; none stay none. */
static inline tn_rows tn_columns_from(tn_rows rows, int64_t first)
{
    if (rows.data == NULL) return rows;
    rows.data = (char *)rows.data + first * rows.step * (int64_t)tn_dtype_size(rows.dtype);
    return rows;
}

/* A packed linear map: `groups` independent ones of [n, k] side by side. Group g reads columns [g k, (g+1) k) of its
 * input and writes columns [g n, (g+1) n) of its output. An ordinary linear layer has one group. */
typedef struct tn_map {
    int64_t groups, n, k;
    tn_dtype dtype; /* of the packed weights */
} tn_map;

typedef struct tn_ops tn_ops;

/* What a call carries to every op. */
typedef struct tn_context {
    const tn_ops *ops;
    const tn_parallel *parallel;
    void *scratch; /* aligned to TN_ALIGN; shared by the ops of a call, which run one after another */
} tn_context;

/* Window pooling: multi-head attention of one query a window, the mean of its patches, over the patches, with
 * projections of queries, keys and values. The maths is with its code (window_pool.c). */
enum { TN_POOL_QUERY, TN_POOL_KEY, TN_POOL_VALUE, TN_POOL_MAPS };

/* Its weights (inner, width) and biases (inner). The data is read by packing alone. */
typedef struct tn_window_pool {
    int64_t width, inner, heads; /* of a patch; of all heads together; heads */
    bool has_bias;
    const void *weight[TN_POOL_MAPS], *bias[TN_POOL_MAPS];
    tn_dtype dtype[TN_POOL_MAPS], bias_dtype[TN_POOL_MAPS];
} tn_window_pool;

/* Bytes, for at most so many rows. */
typedef struct tn_window_pool_sizes {
    size_t packed, packed_backward; /* weights, as forward and as backward read them */
    size_t buffer, scratch;         /* of a call, forward or backward */
    size_t state;                   /* what forward leaves for backward */
} tn_window_pool_sizes;

/* Rows of windows, forward or backward. */
typedef struct tn_window_pool_call {
    int64_t rows, slots;
    const void *packed, *packed_backward;
    void *buffer, *state;                          /* forward: state is written, or NULL; backward: it is read */
    tn_rows x;                                     /* [rows * slots, width], some of them absent */
    tn_rows y;                                     /* forward: [rows, inner]; data NULL: only the state is wanted */
    tn_rows attention;                             /* forward: [rows, heads * slots], or data NULL */
    tn_act act;                                    /* forward */
    tn_rows dy, dx;                                /* backward: [rows, inner]; rows as in x, data NULL: not wanted */
    float *dw[TN_POOL_MAPS], *dbias[TN_POOL_MAPS]; /* backward: NULL: frozen */
    bool overwrite;                                /* backward: dw and dbias are overwritten, not added to */
} tn_window_pool_call;

/* Normalisation of a row: layer norm (`center`) or RMS norm. The weights are of the compute dtype, [width]. */
typedef struct tn_norm {
    bool center;
    bool plus_one; /* the weight is added to 1 */
    double eps;
    const void *weight, *bias; /* NULL: ones, zeros */
} tn_norm;

/* The queries and keys of an image: rows of q, of k and v, and of y. */
typedef struct tn_attention_image {
    int64_t queries, first_query;
    int64_t keys, first_key;
    int64_t first_row; /* of y, dy and dq */
} tn_attention_image;

/* Attention of images' queries over their keys. Head h of a query reads key head h / (heads / key_heads). q is
 * [rows, heads * key_dim], k [rows, key_heads * key_dim], v [rows, key_heads * value_dim], y [rows, heads * value_dim].
 */
typedef struct tn_attention {
    int64_t images;
    const tn_attention_image *image; /* [images] */
    int64_t heads, key_heads, key_dim, value_dim;
    int64_t most_queries, most_keys; /* of any image */
    double scale;
} tn_attention;

struct tn_ops {
    const char *name;   /* the level: "baseline", "avx2", "avx512", ... */
    tn_dtype compute;   /* dtype of intermediates and packed biases */
    int64_t block_rows; /* rows that a block of tokens should have at most */
    size_t group_bytes; /* bytes of stored values that a group of images should have at most */

    /* Bytes of a packed map; false when they do not fit size_t. Packed data is aligned to TN_ALIGN; groups follow each
     * other, so that some of them in a row are a packed map too. */
    bool (*packed_size)(const tn_map *map, size_t *bytes);

    /* Packs w, whose element (g, i, j), i < n, j < k, lies at g * group_stride + i * n_stride + j * k_stride. Of dtype
     * map->dtype. */
    void (*pack)(const tn_context *context, void *packed, const void *w, const tn_map *map, int64_t group_stride,
                 int64_t n_stride, int64_t k_stride);

    /* y[r, g n + i] = act(sum_j x[r, g k + j] w[g, i, j] + bias[g n + i]) for r < rows; bias may be NULL. y and x may
     * not overlap. y is rounded once, to its dtype. */
    size_t (*linear_scratch)(const tn_map *map, int64_t rows, int workers);
    void (*linear)(const tn_context *context, tn_rows y, tn_rows x, const void *packed, const void *bias, tn_act act,
                   const tn_map *map, int64_t rows);

    /* y[r, :] = act(x[r, :]); y may be x. */
    void (*activation)(const tn_context *context, tn_rows y, tn_rows x, tn_act act, int64_t rows, int64_t width);

    /* y[r, :] = mean over the present patches of x. x has rows * slots rows, row r's slots side by side, some of them
     * absent; a row without any patch gives zeros. x is read once. */
    size_t (*window_mean_scratch)(int64_t slots, int64_t width, int workers);
    void (*window_mean)(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t slots, int64_t width);

    /* For each row r and head h: a = softmax over the present slots j of scale * dot(q[r, h width : (h+1) width],
     * x[r slots + j, :]); y[r, h width : (h+1) width] = sum_j a_j x[r slots + j, :]. When weights.data is not NULL,
     * weights[r, h slots + j] = a_j, 0 where absent. A row without any patch gives zeros. The patches present decide
     * the bits: absent slots between them do not. y may be q. */
    size_t (*window_attend_scratch)(int64_t slots, int64_t heads, int64_t width, int workers);
    void (*window_attend)(const tn_context *context, tn_rows y, tn_rows weights, tn_rows x, tn_rows q, double scale,
                          int64_t rows, int64_t slots, int64_t heads, int64_t width);

    /* Window pooling as one op. False when a size does not fit. packed_backward may be NULL. */
    bool (*window_pool_sizes)(tn_window_pool_sizes *sizes, const tn_ops *ops, const tn_window_pool *pool, int64_t rows,
                              int64_t slots, int workers, bool backward);
    void (*window_pool_pack)(const tn_context *context, void *packed, void *packed_backward,
                             const tn_window_pool *pool);
    void (*window_pool)(const tn_context *context, const tn_window_pool *pool, const tn_window_pool_call *call);
    void (*window_pool_backward)(const tn_context *context, const tn_window_pool *pool,
                                 const tn_window_pool_call *call);

    /* For query i and head h of each image: a = softmax over the image's present keys j of scale * dot(q[i, h],
     * k[j, g]); y[i, h] = sum_j a_j v[j, g]. A key is present where its rows of k and v are. Where an image has none, y
     * is zero; rows of y whose query is absent are left alone. Absent rows decide nothing. */
    size_t (*attention_scratch)(const tn_attention *how, bool backward, int workers);
    void (*attention)(const tn_context *context, tn_rows y, tn_rows q, tn_rows k, tn_rows v, const tn_attention *how);

    /* y[r, :] = x[r, :], widened or rounded. x.data NULL: zeros. */
    void (*copy)(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t width);

    /* y[r, :] = a[r, :] + b[r, :]; y may be a. */
    void (*add)(const tn_context *context, tn_rows y, tn_rows a, tn_rows b, int64_t rows, int64_t width);

    /* y[r, :] = sum over e from begin[r] to begin[r + 1] - 1, ascending, of weight[e] x[e, :], for r < rows; weights
     * are rounded to the compute dtype. Absent x[e] count as zero, absent rows of y are left alone. */
    void (*weighted_sum)(const tn_context *context, tn_rows y, tn_rows x, const int64_t *begin, const double *weight,
                         int64_t rows, int64_t width);

    /* y[r, :] += x[r, :], r ascending: rows of y may be the same, or absent. Both are of the compute dtype, step 1. */
    void (*accumulate)(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t width);

    /* y[r, :] = x[r, :] normalised. */
    void (*norm)(const tn_context *context, tn_rows y, tn_rows x, const tn_norm *norm, int64_t rows, int64_t width);

    /* Its gradients; dx.data, dw and dbias may be NULL. */
    size_t (*norm_backward_scratch)(int64_t rows);
    void (*norm_backward)(const tn_context *context, tn_rows dx, float *dw, float *dbias, tn_rows dy, tn_rows x,
                          const tn_norm *norm, int64_t rows, int64_t width, bool overwrite);

    /* y[r, s width + c] = x[r slots + s, c], zero where a slot is absent; with channel_first y[r, c slots + s]. And
     * back: dx[r slots + s, c] of the present slots. */
    void (*merge)(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t slots, int64_t width,
                  bool channel_first);
    void (*merge_backward)(const tn_context *context, tn_rows dx, tn_rows dy, int64_t rows, int64_t slots,
                           int64_t width, bool channel_first);

    /* y[r, :] = a[r, :] b[r, :], element by element; y may be a or b. */
    void (*multiply)(const tn_context *context, tn_rows y, tn_rows a, tn_rows b, int64_t rows, int64_t width);

    /* Sets memory of the table's device to zero. */
    void (*zero)(void *data, size_t bytes);

    /* Folding of two linear maps: w[i, j] = sum_m outer[i, m] inner[m, j] + add[i, j] for i < n, j < k, m < inner_n;
     * dense rows; `add` may be NULL; sums in float64, w in `compute`. */
    void (*fold)(const tn_context *context, void *w, const void *outer, tn_dtype outer_dtype, const void *inner,
                 tn_dtype inner_dtype, const void *add, tn_dtype add_dtype, int64_t n, int64_t k, int64_t inner_n);

    /* --- backward; gradients of rows are overwritten, those of parameters, which are dense f32, are with `fresh` and
     * else added to --- */

    /* dw[g n + i, j] += sum_r dy[r, g n + i] x[r, g k + j], rows in order, in blocks of a fixed length that are summed
     * from zero and then added up. dbias, when it is not NULL, as bias_gradient makes it of dy. map->dtype is not used.
     */
    size_t (*weight_gradient_scratch)(const tn_map *map, int64_t rows, int workers);
    void (*weight_gradient)(const tn_context *context, float *dw, float *dbias, tn_rows dy, tn_rows x,
                            const tn_map *map, int64_t rows, bool fresh);

    /* dbias[i] += sum_r dy[r, i], rows in order, in blocks as above. */
    void (*bias_gradient)(const tn_context *context, float *dbias, tn_rows dy, int64_t rows, int64_t width, bool fresh);

    /* dx[r, :] = dy[r, :] act'(x[r, :]); dx may be dy. The limits are kept: act' is 1 at +inf, 0 at -inf. */
    void (*activation_backward)(const tn_context *context, tn_rows dx, tn_rows dy, tn_rows x, tn_act act, int64_t rows,
                                int64_t width);

    /* dx[r slots + j, :] = dy[r, :] / count for the present slots j of row r, of which there are `count`. */
    void (*window_mean_backward)(const tn_context *context, tn_rows dx, tn_rows dy, int64_t rows, int64_t slots,
                                 int64_t width);

    /* What window_attend makes of x and q, once more: y (data NULL: not wanted) and weights, a. And from its gradient
     * dy, for present slots j: da_j = dot(dy[r, h], x[r slots + j]), ds_j = scale a_j (da_j - sum_i a_i da_i), dq[r, h]
     * = sum_j ds_j x[r slots + j]. dscores[r, h slots + j] = ds_j, 0 where absent. q and dy are of the compute dtype,
     * step 1. */
    size_t (*window_attend_backward_scratch)(int64_t slots, int64_t heads, int64_t width, int workers);
    void (*window_attend_backward)(const tn_context *context, tn_rows dq, tn_rows dscores, tn_rows y, tn_rows weights,
                                   tn_rows dy, tn_rows x, tn_rows q, double scale, int64_t rows, int64_t slots,
                                   int64_t heads, int64_t width);

    /* Gradients of attention, data NULL: not wanted: dq at the rows of y; dk and dv of the present keys. dy is read
     * where the query is present. */
    void (*attention_backward)(const tn_context *context, tn_rows dq, tn_rows dk, tn_rows dv, tn_rows dy, tn_rows q,
                               tn_rows k, tn_rows v, const tn_attention *how);

    /* dx[r slots + j, :] = dmean[r, :] / count + sum_h (a_hj dy[r, h] + ds_hj q[r, h]) for the present slots j of row
     * r, `count` of them. All but dx are of the compute dtype, step 1. */
    void (*window_attend_dx)(const tn_context *context, tn_rows dx, tn_rows weights, tn_rows dscores, tn_rows dy,
                             tn_rows q, tn_rows dmean, int64_t rows, int64_t slots, int64_t heads, int64_t width);
};

/* The CPU tables of this build that this machine can run, lowest level first, ended by NULL. */
const tn_ops *const *tn_cpu_tables(void);

/* The table of the level `name`, or of the best level up to it that this machine has; NULL name: the best. NULL: this
 * build has no such level (the caller lists tn_cpu_tables). */
const tn_ops *tn_cpu_find(const char *name);

#endif
