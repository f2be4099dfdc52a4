/* SPDX-License-Identifier: MIT */
#include "reference.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *zeros(int64_t count)
{
    double *data = calloc((size_t)(count > 0 ? count : 1), sizeof(double));
    if (data == NULL) abort();
    return data;
}

double ref_activation(const char *name, double x)
{
    if (strcmp(name, "gelu") == 0) return 0.5 * x * (1 + erf(x * sqrt(0.5)));
    if (strcmp(name, "gelu_tanh") == 0) return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    if (strcmp(name, "quick_gelu") == 0) return x / (1 + exp(-1.702 * x));
    if (strcmp(name, "silu") == 0) return x / (1 + exp(-x));
    return x < 0 ? 0 : x; /* relu: NaN stays NaN */
}

/* y [out] = W x + b */
static void apply(double *y, const ref_linear *layer, const double *x)
{
    for (int64_t i = 0; i < layer->out; i++) {
        double sum = layer->bias[i];
        for (int64_t j = 0; j < layer->in; j++)
            sum += layer->weight[i * layer->in + j] * x[j];
        y[i] = sum;
    }
}

/* The patches of one window that may be read. */
typedef struct window {
    int64_t count;
    const double **patch; /* [count][in] */
    int64_t *slot;        /* [count], place in the full window, row-major */
} window;

static int is_pool(const ref_module *module)
{
    return strcmp(module->type, "avgpool") == 0 || strcmp(module->type, "attentional_pool") == 0;
}

static int64_t per_side(const ref_module *module, int64_t side)
{
    if (strcmp(module->ragged, "drop") == 0) return side / module->window;
    return (side + module->window - 1) / module->window;
}

int64_t ref_out_tokens(const ref_module *module, const ref_call *call)
{
    if (!is_pool(module)) return call->height * call->width;
    return per_side(module, call->height) * per_side(module, call->width);
}

/* Fills `w` with the readable patches of token t; image is [height * width, in]. */
static void collect(window *w, const double *image, const unsigned char *mask, int64_t t, const ref_module *module,
                    const ref_call *call)
{
    const int64_t side = is_pool(module) ? module->window : 1;
    const int64_t columns = is_pool(module) ? per_side(module, call->width) : call->width;
    const int64_t in = module->linear[0].in;
    w->count = 0;
    for (int64_t slot = 0; slot < side * side; slot++) {
        const int64_t row = t / columns * side + slot / side, column = t % columns * side + slot % side;
        const int64_t patch = row * call->width + column;
        if (row >= call->height || column >= call->width || (mask != NULL && mask[patch] == 0)) continue;
        w->patch[w->count] = image + patch * in;
        w->slot[w->count++] = slot;
    }
}

static void mean(double *y, const window *w, int64_t width)
{
    for (int64_t c = 0; c < width; c++) {
        y[c] = 0;
        for (int64_t j = 0; j < w->count; j++)
            y[c] += w->patch[j][c];
        y[c] /= (double)w->count;
    }
}

/* One head: share [count] = softmax of its scores; o [size] = sum of share * value. q is the head's part of the query,
 * keys and values are [count, width] from the head's first column on. */
static void attend_head(double *o, double *share, const double *q, const double *keys, const double *values,
                        int64_t count, int64_t size, int64_t width)
{
    double most = -INFINITY, total = 0;
    for (int64_t j = 0; j < count; j++) {
        share[j] = 0;
        for (int64_t c = 0; c < size; c++)
            share[j] += q[c] * keys[j * width + c];
        share[j] /= sqrt((double)size);
        most = share[j] > most ? share[j] : most;
    }
    for (int64_t j = 0; j < count; j++) {
        share[j] = exp(share[j] - most);
        total += share[j];
    }
    for (int64_t c = 0; c < size; c++)
        o[c] = 0;
    for (int64_t j = 0; j < count; j++) {
        share[j] /= total;
        for (int64_t c = 0; c < size; c++)
            o[c] += share[j] * values[j * width + c];
    }
}

/* o [in]: the attention of one window, before o_proj; weights [heads, window^2], zero on entry, or NULL. */
static void attend(double *o, double *weights, const window *w, const ref_module *module)
{
    const int64_t in = module->linear[0].in, size = in / module->heads, slots = module->window * module->window;
    double *average = zeros(in), *query = zeros(in), *share = zeros(w->count);
    double *keys = zeros(w->count * in), *values = zeros(w->count * in);
    mean(average, w, in);
    apply(query, &module->linear[0], average);
    for (int64_t j = 0; j < w->count; j++) {
        apply(keys + j * in, &module->linear[1], w->patch[j]);
        apply(values + j * in, &module->linear[2], w->patch[j]);
    }
    for (int64_t h = 0; h < module->heads; h++) {
        const int64_t at = h * size;
        attend_head(o + at, share, query + at, keys + at, values + at, w->count, size, in);
        for (int64_t j = 0; weights != NULL && j < w->count; j++)
            weights[h * slots + w->slot[j]] = share[j];
    }
    free(average), free(query), free(share), free(keys), free(values);
}

/* One token from a window that has patches. */
static void token(double *y, double *weights, const window *w, const ref_module *module)
{
    const ref_linear *linear = module->linear;
    double *a = zeros(linear[0].in), *b = zeros(linear[0].out);
    if (strcmp(module->type, "linear") == 0) {
        apply(y, &linear[0], w->patch[0]);
    } else if (strcmp(module->type, "mlp_2layer") == 0) {
        apply(b, &linear[0], w->patch[0]);
        for (int64_t i = 0; i < linear[0].out; i++)
            b[i] = ref_activation(module->activation, b[i]);
        apply(y, &linear[1], b);
    } else if (strcmp(module->type, "avgpool") == 0) {
        mean(a, w, linear[0].in);
        apply(y, &linear[0], a);
    } else {
        attend(a, weights, w, module);
        apply(b, &linear[3], a);
        apply(y, &linear[4], b);
    }
    free(a), free(b);
}

static int64_t out_dim(const ref_module *module)
{
    if (strcmp(module->type, "mlp_2layer") == 0) return module->linear[1].out;
    return strcmp(module->type, "attentional_pool") == 0 ? module->linear[4].out : module->linear[0].out;
}

void ref_forward(double *y, double *attention, const double *x, const ref_module *module, const ref_call *call)
{
    const int64_t in = module->linear[0].in, out = out_dim(module), tokens = ref_out_tokens(module, call);
    const int64_t patches = call->height * call->width, slots = module->window * module->window;
    const int64_t weights = module->heads * slots;
    window w = {0, calloc((size_t)slots + 1, sizeof *w.patch), calloc((size_t)slots + 1, sizeof *w.slot)};
    if (w.patch == NULL || w.slot == NULL) abort();
    for (int64_t i = 0; i < call->batch * tokens; i++) {
        const int64_t image = i / tokens;
        const unsigned char *mask = call->patch_mask == NULL ? NULL : call->patch_mask + image * patches;
        double *pooling = attention == NULL ? NULL : attention + i * weights;
        if (pooling != NULL) memset(pooling, 0, (size_t)weights * sizeof(double));
        memset(y + i * out, 0, (size_t)out * sizeof(double));
        if (call->frame_mask != NULL && call->frame_mask[image] == 0) continue;
        collect(&w, x + (image * (patches + module->prefix_tokens) + module->prefix_tokens) * in, mask, i % tokens,
                module, call);
        if (w.count > 0) token(y + i * out, pooling, &w, module);
    }
    free(w.patch), free(w.slot);
}
