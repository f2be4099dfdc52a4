/* SPDX-License-Identifier: MIT */
/* Concatenation of rows: for each image the rows of x_0, then those of x_1, ...; backward, each gets its rows of dy. A
 * value made of parameters alone is repeated for each image, and its gradient summed over the images in the order of
 * the call. A masked row stays one. Reach: image. */
#include "core/size.h"
#include "layers/types.h"

int tenon_concat_rows(tenon_builder *builder, int count, const int *values)
{
    if (count < 1) {
        tenon_builder_fail(builder, "a concatenation of rows needs at least one value (got %d)", count);
        return -1;
    }
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_concat_rows_type, .name = "", .num_inputs = count, .inputs = values});
    bool shared = true;
    for (int i = 0; layer != NULL && i < layer->num_inputs; i++) {
        const tn_value *value = tn_builder_value(builder, layer->inputs[i]);
        shared = shared && tn_builder_space(builder, value->space)->kind == TN_SPACE_SHARED;
        if (value->width == layer->in_dim) continue;
        tenon_builder_fail(builder, "a concatenation of rows reads values of width %lld and %lld (values %d and %d)",
                           (long long)layer->in_dim, (long long)value->width, layer->inputs[0], layer->inputs[i]);
        return -1;
    }
    if (layer != NULL && shared) {
        tenon_builder_fail(builder, "a concatenation of rows reads parameters alone; one value must be of an image");
    }
    return tn_builder_finish_in(builder, layer, tn_builder_layer_space(builder, layer));
}

static tenon_status shape(tn_shape *out, const tn_layer *layer, const tn_geometry *geometry, int64_t image,
                          const tn_shape *shapes, tenon_error *error)
{
    (void)image;
    *out = (tn_shape){1, 0, 1};
    for (int i = 0; i < layer->num_inputs; i++) {
        const int64_t rows = tn_shape_rows(&shapes[geometry->graph->values[layer->inputs[i]].space]);
        if (tn_add_i64(out->height, rows, &out->height)) continue;
        return tn_fail(error, TENON_INVALID, "an image has too many rows for 64 bits");
    }
    return TENON_OK;
}

static bool is_shared(const tn_layer_call *call, int input)
{
    const tn_graph *graph = call->images->geometry->graph;
    return graph->spaces[graph->values[call->layer->inputs[input]].space].kind == TN_SPACE_SHARED;
}

/* The part of the output that is input j of image i: the first row of each, and how many there are. */
typedef struct part {
    int64_t from, to, rows;
} part;

static part part_of(const tn_layer_call *call, int64_t i, int j)
{
    part p = {.to = tn_images_begin(call->images, call->layer->output, i)};
    for (int before = 0; before < j; before++)
        p.to += tn_shape_rows(tn_images_shape(call->images, call->layer->inputs[before], i));
    p.from = tn_images_begin(call->images, call->layer->inputs[j], i);
    p.rows = tn_shape_rows(tn_images_shape(call->images, call->layer->inputs[j], i));
    return p;
}

/* Going back a shared value's rows of dy, which may be of any dtype, are widened before they are added up. */
static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    size_t rows = 0;
    *bytes = (tn_layer_sizes){.packed = 0};
    for (int j = 0; q->images != NULL && q->backward && j < q->layer->num_inputs; j++) {
        const tn_graph *graph = q->images->geometry->graph;
        const tn_value *value = &graph->values[q->layer->inputs[j]];
        if (graph->spaces[value->space].kind != TN_SPACE_SHARED) continue;
        const int64_t shape[] = {graph->spaces[value->space].rows, value->width};
        if (!tn_shape_bytes(2, shape, tn_dtype_size(q->ops->compute), &rows)) return false;
        bytes->buffer = tn_max_size(bytes->buffer, rows);
    }
    return true;
}

/* One op over all rows of a part: merging one slot a row copies it, or writes zeros where it is absent. */
static void forward(const tn_layer_call *call)
{
    for (int64_t i = 0; i < call->images->count; i++) {
        for (int j = 0; j < call->layer->num_inputs; j++) {
            const part p = part_of(call, i, j);
            call->context->ops->merge(call->context, tn_rows_from(call->y, p.to), tn_rows_from(call->x[j], p.from),
                                      p.rows, 1, call->layer->out_dim, false);
        }
    }
}

static void exists(int64_t *alive, const tn_layer_call *call)
{
    for (int64_t i = 0; i < call->images->count; i++) {
        bool lives = false;
        for (int j = 0; j < call->layer->num_inputs; j++) {
            const part p = part_of(call, i, j);
            const int64_t *offset = call->x[j].offset;
            for (int64_t r = 0; r < p.rows; r++) {
                const bool present = offset == NULL || offset[p.from + r] >= 0;
                alive[p.to + r] = present ? p.to + r : -1;
                lives = lives || (present && !is_shared(call, j));
            }
        }
        for (int64_t r = tn_images_begin(call->images, call->layer->output, i);
             r < tn_images_begin(call->images, call->layer->output, i + 1) && !lives; r++)
            alive[r] = -1; /* rows of parameters alone make no image */
    }
}

/* Adds the rows of dy of each image that exists to the gradient of a shared value. */
static void backward_shared(const tn_layer_call *call, int j)
{
    const tn_context *context = call->context;
    const int64_t width = call->layer->out_dim, rows = part_of(call, 0, j).rows;
    const tn_rows wide = tn_dense_rows(call->buffer, context->ops->compute, width);
    context->ops->copy(context, call->dx[j], tn_dense_rows(NULL, context->ops->compute, 0), rows, width);
    for (int64_t i = 0; i < call->images->count; i++) {
        const part p = part_of(call, i, j);
        if (call->exists != NULL && call->exists[p.to] < 0) continue;
        context->ops->copy(context, wide, tn_rows_from(call->dy, p.to), rows, width);
        context->ops->accumulate(context, call->dx[j], wide, rows, width);
    }
}

static void backward(const tn_layer_call *call)
{
    for (int j = 0; j < call->layer->num_inputs; j++) {
        if (call->dx[j].data == NULL) continue;
        if (is_shared(call, j)) {
            backward_shared(call, j);
            continue;
        }
        for (int64_t i = 0; i < call->images->count; i++) {
            const part p = part_of(call, i, j);
            call->context->ops->merge_backward(call->context, tn_rows_from(call->dx[j], p.from),
                                               tn_rows_from(call->dy, p.to), p.rows, 1, call->layer->out_dim, false);
        }
    }
}

const tn_layer_type tn_concat_rows_type = {
    .name = "concat_rows",
    .reach = TN_REACH_IMAGE,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .shape = shape,
    .exists = exists,
};
