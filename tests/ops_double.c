/* SPDX-License-Identifier: MIT */
/* The ops table in float64. Packed weights are doubles, [groups, n, k]. */
#include "ops_double.h"

#include "ops/window_pool.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double get(tn_rows rows, int64_t row, int64_t column)
{
    const int64_t start = rows.offset != NULL ? rows.offset[row] : row * rows.stride;
    return tn_load(rows.data, rows.dtype, start + column * rows.step);
}

static void put(tn_rows rows, int64_t row, int64_t column, double value)
{
    const int64_t start = rows.offset != NULL ? rows.offset[row] : row * rows.stride;
    tn_store(rows.data, rows.dtype, start + column * rows.step, value);
}

static bool is_absent(tn_rows rows, int64_t row)
{
    return rows.offset != NULL && rows.offset[row] < 0;
}

static double act_double(tn_act act, double x)
{
    switch (act) {
    case TN_ACT_GELU:
        return isinf(x) && x < 0 ? 0 : 0.5 * x * erfc(-x * sqrt(0.5));
    case TN_ACT_GELU_TANH:
        return isinf(x) && x < 0 ? 0 : 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case TN_ACT_QUICK_GELU:
        return isinf(x) && x < 0 ? 0 : x / (1 + exp(-1.702 * x));
    case TN_ACT_SILU:
        return isinf(x) && x < 0 ? 0 : x / (1 + exp(-x));
    case TN_ACT_RELU:
        return x > 0 || isnan(x) ? x : 0;
    default:
        return x;
    }
}

double act_slope_double(tn_act act, double x)
{
    const double pi = acos(-1.0), s = 1 / (1 + exp(-x)), q = 1 / (1 + exp(-1.702 * x));
    const double u = sqrt(2 / pi) * (x + 0.044715 * x * x * x), du = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
    if (isinf(x)) return x > 0;
    switch (act) {
    case TN_ACT_GELU:
        return 0.5 * erfc(-x * sqrt(0.5)) + x * exp(-x * x / 2) / sqrt(2 * pi);
    case TN_ACT_GELU_TANH:
        return 0.5 * (1 + tanh(u)) + 0.5 * x * (1 - tanh(u) * tanh(u)) * du;
    case TN_ACT_QUICK_GELU:
        return q + 1.702 * x * q * (1 - q);
    case TN_ACT_SILU:
        return s + x * s * (1 - s);
    case TN_ACT_RELU:
        return x > 0 || isnan(x) ? 1 : 0;
    default:
        return 1;
    }
}

static bool packed_size(const tn_map *map, size_t *bytes)
{
    *bytes = (size_t)(map->groups * map->n * map->k) * sizeof(double);
    return true;
}

static void pack(const tn_context *context, void *packed, const void *w, const tn_map *map, int64_t group_stride,
                 int64_t n_stride, int64_t k_stride)
{
    (void)context;
    double *to = packed;
    for (int64_t g = 0; g < map->groups; g++) {
        for (int64_t i = 0; i < map->n; i++) {
            for (int64_t j = 0; j < map->k; j++) {
                *to++ = tn_load(w, map->dtype, g * group_stride + i * n_stride + j * k_stride);
            }
        }
    }
}

static size_t linear_scratch(const tn_map *map, int64_t rows, int workers)
{
    (void)map;
    (void)rows;
    (void)workers;
    return 0;
}

static void linear(const tn_context *context, tn_rows y, tn_rows x, const void *packed, const void *bias, tn_act act,
                   const tn_map *map, int64_t rows)
{
    (void)context;
    const double *b = bias;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < map->groups * map->n; i++) {
            const double *w = (const double *)packed + i * map->k;
            double sum = b != NULL ? b[i] : 0;
            for (int64_t j = 0; j < map->k; j++)
                sum += w[j] * get(x, r, i / map->n * map->k + j);
            put(y, r, i, act_double(act, sum));
        }
    }
}

static void activation(const tn_context *context, tn_rows y, tn_rows x, tn_act act, int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++)
            put(y, r, i, act_double(act, get(x, r, i)));
    }
}

static size_t window_mean_scratch(int64_t slots, int64_t width, int workers)
{
    (void)slots;
    (void)width;
    (void)workers;
    return 0;
}

static void window_mean(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t slots, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++) {
            double sum = 0;
            int64_t count = 0;
            for (int64_t s = r * slots; s < (r + 1) * slots; s++) {
                if (is_absent(x, s)) continue;
                sum += get(x, s, i);
                count++;
            }
            put(y, r, i, count > 0 ? sum / (double)count : 0);
        }
    }
}

static size_t window_attend_scratch(int64_t slots, int64_t heads, int64_t width, int workers)
{
    (void)heads;
    (void)width;
    (void)workers;
    return (size_t)slots * sizeof(double);
}

/* a[s] = softmax over the present slots of row r, 0 where absent. */
static void soften(double *a, tn_rows x, tn_rows q, double scale, int64_t r, int64_t head, int64_t slots, int64_t width)
{
    double most = -INFINITY, sum = 0;
    for (int64_t s = 0; s < slots; s++) {
        a[s] = -INFINITY;
        if (is_absent(x, r * slots + s)) continue;
        a[s] = 0;
        for (int64_t i = 0; i < width; i++)
            a[s] += get(q, r, head * width + i) * get(x, r * slots + s, i);
        a[s] *= scale;
        most = a[s] > most || isnan(a[s]) ? a[s] : most;
    }
    for (int64_t s = 0; s < slots; s++) {
        a[s] = is_absent(x, r * slots + s) ? 0 : exp(a[s] - most);
        sum += a[s];
    }
    for (int64_t s = 0; s < slots; s++)
        a[s] = is_absent(x, r * slots + s) ? 0 : a[s] / sum;
}

static void window_attend(const tn_context *context, tn_rows y, tn_rows weights, tn_rows x, tn_rows q, double scale,
                          int64_t rows, int64_t slots, int64_t heads, int64_t width)
{
    double *a = context->scratch;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t h = 0; h < heads; h++) {
            soften(a, x, q, scale, r, h, slots, width);
            for (int64_t s = 0; s < slots && weights.data != NULL; s++)
                put(weights, r, h * slots + s, a[s]);
            for (int64_t i = 0; i < width; i++) {
                double sum = 0;
                for (int64_t s = 0; s < slots; s++) {
                    if (!is_absent(x, r * slots + s)) sum += a[s] * get(x, r * slots + s, i);
                }
                put(y, r, h * width + i, sum);
            }
        }
    }
}

static void copy(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++)
            put(y, r, i, x.data != NULL ? get(x, r, i) : 0);
    }
}

static void fold(const tn_context *context, void *w, const void *outer, tn_dtype outer_dtype, const void *inner,
                 tn_dtype inner_dtype, const void *add, tn_dtype add_dtype, int64_t n, int64_t k, int64_t inner_n)
{
    (void)context;
    double *to = w;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) {
            double sum = add != NULL ? tn_load(add, add_dtype, i * k + j) : 0;
            for (int64_t m = 0; m < inner_n; m++) {
                sum += tn_load(outer, outer_dtype, i * inner_n + m) * tn_load(inner, inner_dtype, m * k + j);
            }
            to[i * k + j] = sum;
        }
    }
}

static size_t weight_gradient_scratch(const tn_map *map, int64_t rows, int workers)
{
    return linear_scratch(map, rows, workers);
}

static void bias_gradient(const tn_context *context, float *dbias, tn_rows dy, int64_t rows, int64_t width, bool fresh)
{
    (void)context;
    for (int64_t i = 0; i < width; i++) {
        double sum = fresh ? 0 : (double)dbias[i];
        for (int64_t r = 0; r < rows; r++)
            sum += get(dy, r, i);
        dbias[i] = (float)sum;
    }
}

static void weight_gradient(const tn_context *context, float *dw, float *dbias, tn_rows dy, tn_rows x,
                            const tn_map *map, int64_t rows, bool fresh)
{
    if (dbias != NULL) bias_gradient(context, dbias, dy, rows, map->groups * map->n, fresh);
    for (int64_t i = 0; i < map->groups * map->n; i++) {
        for (int64_t j = 0; j < map->k; j++) {
            double sum = fresh ? 0 : (double)dw[i * map->k + j];
            for (int64_t r = 0; r < rows; r++)
                sum += get(dy, r, i) * get(x, r, i / map->n * map->k + j);
            dw[i * map->k + j] = (float)sum;
        }
    }
}

static void activation_backward(const tn_context *context, tn_rows dx, tn_rows dy, tn_rows x, tn_act act, int64_t rows,
                                int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++)
            put(dx, r, i, get(dy, r, i) * act_slope_double(act, get(x, r, i)));
    }
}

static double count_present(tn_rows x, int64_t r, int64_t slots)
{
    int64_t count = 0;
    for (int64_t s = r * slots; s < (r + 1) * slots; s++)
        count += !is_absent(x, s);
    return (double)count;
}

static void window_mean_backward(const tn_context *context, tn_rows dx, tn_rows dy, int64_t rows, int64_t slots,
                                 int64_t width)
{
    (void)context;
    for (int64_t s = 0; s < rows * slots; s++) {
        for (int64_t i = 0; i < width && !is_absent(dx, s); i++)
            put(dx, s, i, get(dy, s / slots, i) / count_present(dx, s / slots, slots));
    }
}

static size_t window_attend_backward_scratch(int64_t slots, int64_t heads, int64_t width, int workers)
{
    return 2 * window_attend_scratch(slots, heads, width, workers);
}

/* One head of one row. */
static void attend_backward_head(double *a, double *ds, tn_rows dq, tn_rows dscores, tn_rows y, tn_rows weights,
                                 tn_rows dy, tn_rows x, tn_rows q, double scale, int64_t r, int64_t h, int64_t slots,
                                 int64_t width)
{
    double mean = 0;
    soften(a, x, q, scale, r, h, slots, width);
    for (int64_t s = 0; s < slots; s++) {
        ds[s] = 0;
        for (int64_t i = 0; i < width && !is_absent(x, r * slots + s); i++)
            ds[s] += get(dy, r, h * width + i) * get(x, r * slots + s, i);
        if (!is_absent(x, r * slots + s)) mean += a[s] * ds[s];
    }
    for (int64_t s = 0; s < slots; s++) {
        ds[s] = is_absent(x, r * slots + s) ? 0 : scale * a[s] * (ds[s] - mean);
        put(weights, r, h * slots + s, a[s]);
        put(dscores, r, h * slots + s, ds[s]);
    }
    for (int64_t i = 0; i < width; i++) {
        double query = 0, mix = 0;
        for (int64_t s = 0; s < slots; s++) {
            if (is_absent(x, r * slots + s)) continue;
            query += ds[s] * get(x, r * slots + s, i);
            mix += a[s] * get(x, r * slots + s, i);
        }
        put(dq, r, h * width + i, query);
        if (y.data != NULL) put(y, r, h * width + i, mix);
    }
}

static void window_attend_backward(const tn_context *context, tn_rows dq, tn_rows dscores, tn_rows y, tn_rows weights,
                                   tn_rows dy, tn_rows x, tn_rows q, double scale, int64_t rows, int64_t slots,
                                   int64_t heads, int64_t width)
{
    double *a = context->scratch, *ds = a + slots;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t h = 0; h < heads; h++)
            attend_backward_head(a, ds, dq, dscores, y, weights, dy, x, q, scale, r, h, slots, width);
    }
}

static void window_attend_dx(const tn_context *context, tn_rows dx, tn_rows weights, tn_rows dscores, tn_rows dy,
                             tn_rows q, tn_rows dmean, int64_t rows, int64_t slots, int64_t heads, int64_t width)
{
    (void)context;
    for (int64_t s = 0; s < rows * slots; s++) {
        const int64_t r = s / slots;
        for (int64_t i = 0; i < width && !is_absent(dx, s); i++) {
            double sum = get(dmean, r, i) / count_present(dx, r, slots);
            for (int64_t h = 0; h < heads; h++) {
                sum += get(weights, r, h * slots + s % slots) * get(dy, r, h * width + i);
                sum += get(dscores, r, h * slots + s % slots) * get(q, r, h * width + i);
            }
            put(dx, s, i, sum);
        }
    }
}

static void add(const tn_context *context, tn_rows y, tn_rows a, tn_rows b, int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++)
            put(y, r, i, get(a, r, i) + get(b, r, i));
    }
}

static void accumulate(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width && !is_absent(y, r); i++)
            put(y, r, i, get(y, r, i) + get(x, r, i));
    }
}

static void weighted_sum(const tn_context *context, tn_rows y, tn_rows x, const int64_t *begin, const double *weight,
                         int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width && !is_absent(y, r); i++) {
            double sum = 0;
            for (int64_t e = begin[r]; e < begin[r + 1]; e++)
                sum += is_absent(x, e) ? 0 : weight[e] * get(x, e, i);
            put(y, r, i, sum);
        }
    }
}

static void moments(tn_rows x, int64_t r, const tn_norm *how, int64_t width, double *mean, double *root)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < width; i++)
        sum += get(x, r, i);
    *mean = how->center ? sum / (double)width : 0;
    for (int64_t i = 0; i < width; i++)
        squares += (get(x, r, i) - *mean) * (get(x, r, i) - *mean);
    *root = 1 / sqrt(squares / (double)width + how->eps);
}

static double norm_weight(const tn_norm *how, int64_t i)
{
    if (how->weight == NULL) return 1;
    return ((const double *)how->weight)[i] + (how->plus_one ? 1 : 0);
}

static void norm(const tn_context *context, tn_rows y, tn_rows x, const tn_norm *how, int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        double mean, root;
        moments(x, r, how, width, &mean, &root);
        for (int64_t i = 0; i < width; i++) {
            const double bias = how->bias != NULL ? ((const double *)how->bias)[i] : 0;
            put(y, r, i, (get(x, r, i) - mean) * root * norm_weight(how, i) + bias);
        }
    }
}

static size_t norm_backward_scratch(int64_t rows)
{
    (void)rows;
    return 0;
}

static void norm_backward(const tn_context *context, tn_rows dx, float *dw, float *dbias, tn_rows dy, tn_rows x,
                          const tn_norm *how, int64_t rows, int64_t width, bool overwrite)
{
    (void)context;
    double *sums = calloc((size_t)(2 * width) + 1, sizeof *sums);
    for (int64_t r = 0; r < rows; r++) {
        double mean, root, g = 0, gx = 0;
        moments(x, r, how, width, &mean, &root);
        for (int64_t i = 0; i < width; i++) {
            const double hat = (get(x, r, i) - mean) * root, slope = get(dy, r, i) * norm_weight(how, i);
            g += slope / (double)width;
            gx += slope * hat / (double)width;
            sums[i] += get(dy, r, i) * hat;
            sums[width + i] += get(dy, r, i);
        }
        for (int64_t i = 0; i < width && dx.data != NULL; i++) {
            const double hat = (get(x, r, i) - mean) * root, slope = get(dy, r, i) * norm_weight(how, i);
            put(dx, r, i, root * (slope - (how->center ? g : 0) - hat * gx));
        }
    }
    for (int64_t i = 0; i < width; i++) {
        if (dw != NULL) dw[i] = (float)(sums[i] + (overwrite ? 0 : (double)dw[i]));
        if (dbias != NULL) dbias[i] = (float)(sums[width + i] + (overwrite ? 0 : (double)dbias[i]));
    }
    free(sums);
}

static int64_t merged_column(int64_t s, int64_t c, int64_t slots, int64_t width, bool channel_first)
{
    return channel_first ? c * slots + s : s * width + c;
}

static void merge(const tn_context *context, tn_rows y, tn_rows x, int64_t rows, int64_t slots, int64_t width,
                  bool channel_first)
{
    (void)context;
    for (int64_t e = 0; e < rows * slots; e++) {
        for (int64_t c = 0; c < width; c++) {
            put(y, e / slots, merged_column(e % slots, c, slots, width, channel_first),
                is_absent(x, e) ? 0 : get(x, e, c));
        }
    }
}

static void merge_backward(const tn_context *context, tn_rows dx, tn_rows dy, int64_t rows, int64_t slots,
                           int64_t width, bool channel_first)
{
    (void)context;
    for (int64_t e = 0; e < rows * slots; e++) {
        for (int64_t c = 0; c < width && !is_absent(dx, e); c++)
            put(dx, e, c, get(dy, e / slots, merged_column(e % slots, c, slots, width, channel_first)));
    }
}

static void multiply(const tn_context *context, tn_rows y, tn_rows a, tn_rows b, int64_t rows, int64_t width)
{
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++)
            put(y, r, i, get(a, r, i) * get(b, r, i));
    }
}

static size_t attention_scratch(const tn_attention *how, bool backward, int workers)
{
    (void)backward;
    (void)workers;
    return 2 * (size_t)how->most_keys * sizeof(double);
}

static bool key_is_absent(tn_rows k, tn_rows v, int64_t row)
{
    return is_absent(k, row) || is_absent(v, row);
}

/* a of query row i and head h of an image. */
static void attention_weights(double *a, tn_rows q, tn_rows k, tn_rows v, const tn_attention *how,
                              const tn_attention_image *image, int64_t i, int64_t h)
{
    const int64_t group = h / (how->heads / how->key_heads), width = how->key_dim;
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < image->keys; j++) {
        const int64_t row = image->first_key + j;
        a[j] = 0;
        for (int64_t c = 0; c < width && !key_is_absent(k, v, row); c++)
            a[j] += how->scale * get(q, image->first_query + i, h * width + c) * get(k, row, group * width + c);
        if (!key_is_absent(k, v, row)) most = a[j] > most || isnan(a[j]) ? a[j] : most;
    }
    for (int64_t j = 0; j < image->keys; j++) {
        a[j] = key_is_absent(k, v, image->first_key + j) ? 0 : exp(a[j] - most);
        sum += a[j];
    }
    for (int64_t j = 0; j < image->keys; j++)
        a[j] = key_is_absent(k, v, image->first_key + j) ? 0 : a[j] / sum;
}

/* sum over the present keys j of weight[j] rows[j, column]. */
static double attention_mix(const double *weight, tn_rows rows, tn_rows k, tn_rows v, const tn_attention_image *image,
                            int64_t column)
{
    double sum = 0;
    for (int64_t j = 0; j < image->keys; j++) {
        const int64_t row = image->first_key + j;
        if (!key_is_absent(k, v, row)) sum += weight[j] * get(rows, row, column);
    }
    return sum;
}

static void attention(const tn_context *context, tn_rows y, tn_rows q, tn_rows k, tn_rows v, const tn_attention *how)
{
    double *a = context->scratch;
    for (int64_t n = 0; n < how->images * how->heads; n++) {
        const tn_attention_image *image = &how->image[n / how->heads];
        const int64_t h = n % how->heads, group = h / (how->heads / how->key_heads), width = how->value_dim;
        for (int64_t i = 0; i < image->queries; i++) {
            if (is_absent(q, image->first_query + i)) continue;
            attention_weights(a, q, k, v, how, image, i, h);
            for (int64_t c = 0; c < width; c++)
                put(y, image->first_row + i, h * width + c, attention_mix(a, v, k, v, image, group * width + c));
        }
    }
}

/* Rows of gradients that are sums begin at zero. */
static void attention_clear(tn_rows dx, tn_rows k, tn_rows v, const tn_attention *how, int64_t width)
{
    for (int64_t n = 0; n < how->images && dx.data != NULL; n++) {
        for (int64_t j = 0; j < how->image[n].keys; j++) {
            const int64_t row = how->image[n].first_key + j;
            for (int64_t c = 0; c < how->key_heads * width && !key_is_absent(k, v, row); c++)
                put(dx, row, c, 0);
        }
    }
}

/* rows[j, first + c] += weight[j] from[row, column + c] for the present keys j. */
static void attention_spread(tn_rows rows, const double *weight, tn_rows from, int64_t row, int64_t column, tn_rows k,
                             tn_rows v, const tn_attention_image *image, int64_t first, int64_t width)
{
    for (int64_t j = 0; j < image->keys && rows.data != NULL; j++) {
        const int64_t key = image->first_key + j;
        for (int64_t c = 0; c < width && !key_is_absent(k, v, key); c++)
            put(rows, key, first + c, get(rows, key, first + c) + weight[j] * get(from, row, column + c));
    }
}

static void attention_backward(const tn_context *context, tn_rows dq, tn_rows dk, tn_rows dv, tn_rows dy, tn_rows q,
                               tn_rows k, tn_rows v, const tn_attention *how)
{
    double *a = context->scratch, *ds = a + how->most_keys;
    attention_clear(dk, k, v, how, how->key_dim);
    attention_clear(dv, k, v, how, how->value_dim);
    for (int64_t n = 0; n < how->images * how->heads; n++) {
        const tn_attention_image *image = &how->image[n / how->heads];
        const int64_t h = n % how->heads, group = h / (how->heads / how->key_heads);
        const int64_t key_dim = how->key_dim, value_dim = how->value_dim;
        for (int64_t i = 0; i < image->queries; i++) {
            const int64_t query = image->first_query + i, row = image->first_row + i;
            double mean = 0;
            if (is_absent(q, query)) continue;
            attention_weights(a, q, k, v, how, image, i, h);
            attention_spread(dv, a, dy, row, h * value_dim, k, v, image, group * value_dim, value_dim);
            if (dq.data == NULL && dk.data == NULL) continue;
            for (int64_t j = 0; j < image->keys; j++) {
                ds[j] = 0;
                for (int64_t c = 0; c < value_dim && !key_is_absent(k, v, image->first_key + j); c++)
                    ds[j] += get(dy, row, h * value_dim + c) * get(v, image->first_key + j, group * value_dim + c);
                mean += a[j] * ds[j];
            }
            for (int64_t j = 0; j < image->keys; j++)
                ds[j] = how->scale * a[j] * (ds[j] - mean);
            attention_spread(dk, ds, q, query, h * key_dim, k, v, image, group * key_dim, key_dim);
            for (int64_t c = 0; c < key_dim && dq.data != NULL; c++)
                put(dq, row, h * key_dim + c, attention_mix(ds, k, k, v, image, group * key_dim + c));
        }
    }
}

static void zero(void *data, size_t bytes)
{
    memset(data, 0, bytes);
}

const tn_ops ops_double = {
    .name = "double",
    .compute = TN_F64,
    .block_rows = 7,        /* small, so that blocks are crossed, */
    .group_bytes = 1 << 12, /* and groups of images */
    .packed_size = packed_size,
    .pack = pack,
    .linear_scratch = linear_scratch,
    .linear = linear,
    .activation = activation,
    .window_mean_scratch = window_mean_scratch,
    .window_mean = window_mean,
    .window_attend_scratch = window_attend_scratch,
    .window_attend = window_attend,
    .copy = copy,
    .fold = fold,
    .weight_gradient_scratch = weight_gradient_scratch,
    .weight_gradient = weight_gradient,
    .bias_gradient = bias_gradient,
    .activation_backward = activation_backward,
    .window_mean_backward = window_mean_backward,
    .window_attend_backward_scratch = window_attend_backward_scratch,
    .window_attend_backward = window_attend_backward,
    .window_attend_dx = window_attend_dx,
    .window_pool_sizes = tn_window_pool_sizes_of,
    .window_pool_pack = tn_window_pool_pack,
    .window_pool = tn_window_pool_forward,
    .window_pool_backward = tn_window_pool_backward,
    .add = add,
    .accumulate = accumulate,
    .weighted_sum = weighted_sum,
    .zero = zero,
    .norm = norm,
    .norm_backward_scratch = norm_backward_scratch,
    .norm_backward = norm_backward,
    .merge = merge,
    .merge_backward = merge_backward,
    .multiply = multiply,
    .attention_scratch = attention_scratch,
    .attention = attention,
    .attention_backward = attention_backward,
};
