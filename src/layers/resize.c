/* SPDX-License-Identifier: MIT */
/* Resize: each frame of h x w rows becomes one of ceil(h / factor) x ceil(w / factor), bilinearly, as
 * torch.nn.functional.interpolate does with align_corners false and without antialiasing: with the places (y, x) of an
 * output row in the frame, y = sum over the four rows around it. A masked row counts as zero; an image without any row
 * that is not masked gives zeros. Reach: image. */
#include "core/size.h"
#include "layers/types.h"
#include "layers/weighted_rows.h"

typedef struct resize {
    int64_t factor;
} resize;

int tenon_resize(tenon_builder *builder, int64_t factor)
{
    tn_layer *layer =
        tn_builder_append(builder, &(tn_append){.type = &tn_resize_type, .name = "", .own_size = sizeof(resize)});
    if (layer == NULL) return -1;
    if (factor <= 0) {
        tenon_builder_fail(builder, "a grid is resized by a factor of %lld; it must be positive", (long long)factor);
    }
    ((resize *)layer->own)->factor = factor;
    if (tn_builder_space(builder, tn_builder_value(builder, layer->inputs[0])->space)->kind == TN_SPACE_SHARED) {
        tenon_builder_fail(builder, "rows that are made of parameters alone are no grid to resize");
    }
    return tn_builder_finish_in(builder, layer, tn_builder_layer_space(builder, layer));
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    tn_settings_int(settings, "factor", ((const resize *)layer->own)->factor);
}

static tenon_status shape(tn_shape *out, const tn_layer *layer, const tn_geometry *geometry, int64_t image,
                          const tn_shape *shapes, tenon_error *error)
{
    (void)image;
    (void)error;
    const int64_t factor = ((const resize *)layer->own)->factor;
    const tn_shape *in = &shapes[geometry->graph->values[layer->inputs[0]].space];
    *out = (tn_shape){in->t, tn_ceil_div(in->height, factor), tn_ceil_div(in->width, factor)};
    return TENON_OK;
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    int64_t entries;
    *bytes = (tn_layer_sizes){.packed = 0};
    if (q->images == NULL || q->rows == 0) return true;
    return tn_mul_i64(q->rows, 4, &entries) && tn_weighted_rows_size(q->rows, q->slots, entries, &bytes->buffer);
}

static tn_weighted_rows list_rows(const tn_layer_call *call)
{
    const int input = call->layer->inputs[0];
    const int64_t inputs = tn_images_begin(call->images, input, call->images->count);
    tn_weighted_rows list = tn_weighted_rows_open(call->buffer, call->rows, inputs, 4 * call->rows);
    for (int64_t i = 0; i < call->images->count; i++) {
        const tn_shape *in = tn_images_shape(call->images, input, i);
        const tn_shape *out = tn_images_shape(call->images, call->layer->output, i);
        for (int64_t r = 0; r < tn_shape_rows(out); r++) {
            const int64_t frame = r / (out->height * out->width), cell = r % (out->height * out->width);
            const int64_t first = tn_images_begin(call->images, input, i) + frame * in->height * in->width;
            tn_weighted_rows_bilinear(&list, first, cell, in, out);
            tn_weighted_rows_next(&list);
        }
    }
    return list;
}

static void forward(const tn_layer_call *call)
{
    tn_weighted_rows list = list_rows(call);
    tn_weighted_rows_forward(&list, call->context, call->y, call->x[0], call->layer->out_dim);
}

static void backward(const tn_layer_call *call)
{
    tn_weighted_rows list = list_rows(call);
    tn_weighted_rows_backward(&list, call->context, call->dx[0], call->dy, call->exists, call->layer->out_dim);
}

static double flops(const tn_layer *layer, double rows, double inputs)
{
    (void)inputs;
    return 8 * rows * (double)layer->out_dim;
}

const tn_layer_type tn_resize_type = {
    .name = "resize",
    .reach = TN_REACH_IMAGE,
    .describe = describe,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .flops = flops,
    .shape = shape,
    .needs_grid = true,
};
