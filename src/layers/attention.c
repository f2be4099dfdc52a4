/* SPDX-License-Identifier: MIT */
/* Attention over an image: heads of queries over keys and values of the same image, all of them projected already.
 * Reach: image. The maths is with the op.
 *
 * Queries are the rows of a parameter, the same for all images, or rows of each image: those of the keys or others. The
 * output has a row for each query. A masked row is no key. A query that comes from a masked row does not exist, nor do
 * the queries of an image without keys: their rows are zero.
 */
#include "core/size.h"
#include "layers/types.h"
#include <math.h>

enum { KEYS, VALUES, QUERIES }; /* inputs */

typedef struct image_attention {
    int64_t heads, key_heads;
    int64_t queries; /* rows of the parameter; 0: queries are rows of each image */
} image_attention;

static bool is_shared(const tenon_builder *builder, int value)
{
    return tn_builder_space(builder, tn_builder_value(builder, value)->space)->kind == TN_SPACE_SHARED;
}

/* Widths of queries, keys and values, and heads. */
static void check_widths(tenon_builder *builder, const tn_layer *layer, int64_t heads, int64_t key_heads)
{
    const int64_t q = tn_builder_value(builder, layer->inputs[QUERIES])->width;
    const int64_t k = tn_builder_value(builder, layer->inputs[KEYS])->width;
    const int64_t v = tn_builder_value(builder, layer->inputs[VALUES])->width;
    if (heads <= 0 || key_heads <= 0 || heads % key_heads != 0) {
        tenon_builder_fail(builder,
                           "attention has %lld heads and %lld key heads; heads must be a positive multiple of "
                           "key heads",
                           (long long)heads, (long long)key_heads);
    } else if (q % heads != 0 || k % key_heads != 0 || v % key_heads != 0 || q / heads != k / key_heads) {
        tenon_builder_fail(builder,
                           "attention of %lld heads and %lld key heads reads queries of width %lld, keys of width "
                           "%lld and values of width %lld; queries need the width of a key head for each head",
                           (long long)heads, (long long)key_heads, (long long)q, (long long)k, (long long)v);
    }
}

static void check_rows(tenon_builder *builder, const tn_layer *layer)
{
    const int keys = layer->inputs[KEYS], values = layer->inputs[VALUES];
    if (is_shared(builder, keys) || is_shared(builder, values)) {
        tenon_builder_fail(builder,
                           "attention reads keys or values (values %d and %d) that are made of parameters "
                           "alone; they must be rows of an image",
                           keys, values);
    } else if (tn_builder_value(builder, keys)->space != tn_builder_value(builder, values)->space) {
        tenon_builder_fail(builder, "attention reads keys and values (values %d and %d) whose rows are not the same",
                           keys, values);
    }
}

int tenon_attention(tenon_builder *builder, int queries, int keys, int values, int64_t heads, int64_t key_heads)
{
    const int inputs[] = {[KEYS] = keys, [VALUES] = values, [QUERIES] = queries};
    tn_layer *layer = tn_builder_append(builder, &(tn_append){.type = &tn_attention_type,
                                                              .name = "",
                                                              .own_size = sizeof(image_attention),
                                                              .num_inputs = 3,
                                                              .inputs = inputs});
    if (layer == NULL) return -1;
    image_attention *own = layer->own;
    *own = (image_attention){.heads = heads, .key_heads = key_heads};
    check_widths(builder, layer, heads, key_heads);
    check_rows(builder, layer);
    if (tn_builder_failed(builder)) return -1;
    const int space = tn_builder_value(builder, queries)->space;
    if (!tn_mul_i64(tn_builder_value(builder, values)->width / key_heads, heads, &layer->out_dim)) {
        tenon_builder_fail(builder, "attention of %lld heads is too wide for 64 bits", (long long)heads);
    }
    if (!is_shared(builder, queries)) return tn_builder_finish_in(builder, layer, space);
    own->queries = tn_builder_space(builder, space)->rows;
    return tn_builder_finish_in(builder, layer, tn_builder_layer_space(builder, layer));
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    const image_attention *own = layer->own;
    tn_settings_int(settings, "heads", own->heads);
    tn_settings_int(settings, "key_heads", own->key_heads);
}

static tenon_status shape(tn_shape *out, const tn_layer *layer, const tn_geometry *geometry, int64_t image,
                          const tn_shape *shapes, tenon_error *error)
{
    (void)geometry;
    (void)image;
    (void)shapes;
    (void)error;
    *out = (tn_shape){1, ((const image_attention *)layer->own)->queries, 1};
    return TENON_OK;
}

/* ---- the group ---- */

/* How the op is to go through the images, whose entries it gets from `image` [count]; NULL: only the sizes are filled
 * in. */
static tn_attention attention_of(const tn_layer *layer, const tn_images *images, const int64_t *widths,
                                 tn_attention_image *image)
{
    const image_attention *own = layer->own;
    tn_attention how = {.images = images->count, .image = image, .heads = own->heads, .key_heads = own->key_heads};
    how.key_dim = widths[QUERIES] / own->heads;
    how.value_dim = widths[VALUES] / own->key_heads;
    how.scale = how.key_dim > 0 ? 1 / sqrt((double)how.key_dim) : 0;
    for (int64_t i = 0; i < images->count; i++) {
        tn_attention_image one;
        one.queries = own->queries > 0 ? own->queries : tn_shape_rows(tn_images_shape(images, layer->output, i));
        one.first_row = tn_images_begin(images, layer->output, i);
        one.first_query = own->queries > 0 ? 0 : one.first_row;
        one.keys = tn_shape_rows(tn_images_shape(images, layer->inputs[KEYS], i));
        one.first_key = tn_images_begin(images, layer->inputs[KEYS], i);
        how.most_queries = tn_max_i64(how.most_queries, one.queries);
        how.most_keys = tn_max_i64(how.most_keys, one.keys);
        if (image != NULL) image[i] = one;
    }
    return how;
}

/* The buffer: the images' entries, then, going back to queries of a parameter, dq of each image [rows, width]. */
static size_t entries_size(const tn_images *images)
{
    return tn_align_up((size_t)images->count * sizeof(tn_attention_image), 64);
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    const image_attention *own = q->layer->own;
    const tn_graph *graph = q->images != NULL ? q->images->geometry->graph : NULL;
    size_t parts = 0;
    *bytes = (tn_layer_sizes){.packed = 0};
    if (graph == NULL || q->rows == 0) return true;
    int64_t widths[3];
    for (int j = 0; j < 3; j++)
        widths[j] = graph->values[q->layer->inputs[j]].width;
    const tn_attention how = attention_of(q->layer, q->images, widths, NULL);
    if (q->images->count > INT64_MAX / 64) return false;
    if (q->backward && own->queries > 0 &&
        !tn_shape_bytes(2, (int64_t[]){q->rows, widths[QUERIES]}, tn_dtype_size(q->ops->compute), &parts)) {
        return false;
    }
    bytes->scratch = q->ops->attention_scratch(&how, q->backward, q->workers);
    return bytes->scratch != SIZE_MAX && tn_add_size(entries_size(q->images), parts, &bytes->buffer);
}

static void forward(const tn_layer_call *call)
{
    const tn_attention how = attention_of(call->layer, call->images, call->widths, call->buffer);
    call->context->ops->attention(call->context, call->y, call->x[QUERIES], call->x[KEYS], call->x[VALUES], &how);
}

/* A row exists where its query does and its image has a key. */
static void exists(int64_t *alive, const tn_layer_call *call)
{
    const image_attention *own = call->layer->own;
    const int64_t *keys = call->x[KEYS].offset, *values = call->x[VALUES].offset, *queries = call->x[QUERIES].offset;
    for (int64_t i = 0; i < call->images->count; i++) {
        const int64_t begin = tn_images_begin(call->images, call->layer->output, i);
        const int64_t end = tn_images_begin(call->images, call->layer->output, i + 1);
        bool lives = false;
        for (int64_t k = tn_images_begin(call->images, call->layer->inputs[KEYS], i);
             k < tn_images_begin(call->images, call->layer->inputs[KEYS], i + 1) && !lives; k++)
            lives = (keys == NULL || keys[k] >= 0) && (values == NULL || values[k] >= 0);
        for (int64_t r = begin; r < end; r++)
            alive[r] = lives && (own->queries > 0 || queries == NULL || queries[r] >= 0) ? r : -1;
    }
}

static bool reads_input(const tn_layer *layer, int input, float *const *gradient, bool wants_dx)
{
    (void)layer;
    (void)input;
    (void)gradient;
    return wants_dx;
}

/* Queries that all images share: each image's part, then their sum in the order of the call. */
static void backward(const tn_layer_call *call)
{
    const image_attention *own = call->layer->own;
    const tn_context *context = call->context;
    const tn_ops *ops = context->ops;
    const int64_t width = call->widths[QUERIES];
    const tn_attention how = attention_of(call->layer, call->images, call->widths, call->buffer);
    tn_rows dq = call->dx[QUERIES];
    const bool parts = own->queries > 0 && dq.data != NULL;
    if (parts) dq = tn_dense_rows((char *)call->buffer + entries_size(call->images), ops->compute, width);
    ops->attention_backward(context, dq, call->dx[KEYS], call->dx[VALUES], call->dy, call->x[QUERIES], call->x[KEYS],
                            call->x[VALUES], &how);
    if (!parts) return;
    ops->copy(context, call->dx[QUERIES], tn_dense_rows(NULL, ops->compute, 0), own->queries, width);
    for (int64_t i = 0; i < how.images; i++)
        ops->accumulate(context, call->dx[QUERIES], tn_rows_from(dq, how.image[i].first_row), own->queries, width);
}

static double flops(const tn_layer *layer, double rows, double inputs)
{
    const image_attention *own = layer->own;
    return 2 * rows * inputs *
           ((double)layer->in_dim / (double)own->key_heads * (double)own->heads + (double)layer->out_dim);
}

const tn_layer_type tn_attention_type = {
    .name = "attention",
    .reach = TN_REACH_IMAGE,
    .describe = describe,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .reads_input = reads_input,
    .flops = flops,
    .shape = shape,
    .exists = exists,
};
