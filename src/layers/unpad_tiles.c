/* SPDX-License-Identifier: MIT */
/* Tiles to one picture, as LLaVA-NeXT packs them. An image is 1 + R C frames of h x w rows: the whole picture, then R x
 * C tiles, row by row. The output is the rows of the whole picture; then the R h x C w rows of the tiles put together,
 * without those that only padding gave, each line followed by the newline, a row of a parameter. An image of one frame
 * is its rows and one newline. A masked row stays one. Reach: image.
 *
 * R and C are those of the resolution, out of a list, that holds the most of the image's original size without
 * enlarging it, and of those the smallest; in tiles of tile_size. The padding was put around the picture that was
 * scaled to touch that resolution: where the original is wider than it, above and below, else left and right. The
 * arithmetic is Python's in double, rounded as there, because a line more or less is another number of tokens.
 */
#include "core/size.h"
#include "layers/types.h"
#include <math.h>
#include <stdlib.h>

enum { ROWS, NEWLINE, INPUTS };
static const int64_t most_pixels = (int64_t)1 << 30; /* of a side */

typedef struct tiles {
    int sizes; /* integer tensor: height and width of each image */
    int64_t tile_size, num_resolutions;
    int64_t resolutions[]; /* [num_resolutions, 2] height, width */
} tiles;

static bool check_resolutions(tenon_builder *builder, int64_t tile_size, int64_t count, const int64_t *resolutions)
{
    bool fit = count > 0 && count < most_pixels && tile_size > 0 && tile_size < most_pixels;
    for (int64_t i = 0; fit && i < 2 * count; i++)
        fit = resolutions[i] >= tile_size && resolutions[i] < most_pixels;
    if (fit) return true;
    tenon_builder_fail(builder, "tiles need resolutions of height and width, each at least the tile's side (%lld)",
                       (long long)tile_size);
    return false;
}

int tenon_unpad_tiles(tenon_builder *builder, int newline, int image_sizes, int64_t tile_size, int64_t count,
                      const int64_t *resolutions)
{
    if (tn_builder_failed(builder) || !check_resolutions(builder, tile_size, count, resolutions)) return -1;
    const int inputs[INPUTS] = {[ROWS] = tn_builder_next(builder), [NEWLINE] = newline};
    const size_t size = sizeof(tiles) + (size_t)(2 * count) * sizeof(int64_t);
    tn_layer *layer = tn_builder_append(
        builder,
        &(tn_append){
            .type = &tn_unpad_tiles_type, .name = "", .own_size = size, .num_inputs = INPUTS, .inputs = inputs});
    if (layer == NULL) return -1;
    tiles *own = layer->own;
    own->sizes = image_sizes;
    own->tile_size = tile_size;
    own->num_resolutions = count;
    for (int64_t i = 0; i < 2 * count; i++)
        own->resolutions[i] = resolutions[i];
    const tn_value *line = tn_builder_value(builder, newline);
    const tn_space *space = tn_builder_space(builder, line->space);
    if (space->kind != TN_SPACE_SHARED || space->rows != 1 || line->width != layer->in_dim) {
        tenon_builder_fail(builder, "the newline of tiles (value %d) must be one row of a parameter, of width %lld",
                           newline, (long long)layer->in_dim);
    }
    return tn_builder_finish_in(builder, layer, tn_builder_layer_space(builder, layer));
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    tn_settings_int(settings, "tile_size", ((const tiles *)layer->own)->tile_size);
    tn_settings_int(settings, "resolutions", ((const tiles *)layer->own)->num_resolutions);
}

/* ---- the picture ---- */

/* The part of the tiles put together that is the picture: lines [top, bottom), columns [left, right). */
typedef struct picture {
    int64_t rows, columns; /* of tiles; 0: the image is one frame */
    int64_t top, bottom, left, right;
} picture;

static void find_grid(picture *p, const tiles *own, int64_t height, int64_t width)
{
    int64_t best = -1, most = 0, least = 0;
    for (int64_t i = 0; i < own->num_resolutions; i++) {
        const int64_t h = own->resolutions[2 * i], w = own->resolutions[2 * i + 1];
        const double across = (double)w / (double)width, down = (double)h / (double)height;
        const double scale = down < across ? down : across;
        const int64_t scaled = (int64_t)((double)width * scale) * (int64_t)((double)height * scale);
        const int64_t used = tn_min_i64(scaled, height * width), wasted = h * w - used;
        if (best >= 0 && (used < most || (used == most && wasted >= least))) continue;
        best = i, most = used, least = wasted;
    }
    p->rows = own->resolutions[2 * best] / own->tile_size;
    p->columns = own->resolutions[2 * best + 1] / own->tile_size;
}

/* int(round(x, 7)) of Python, for x >= 0: what is within half a unit of the seventh place below an integer is it. */
static int64_t rounded(double x)
{
    const double next = floor(x) + 1;
    return (int64_t)(next - x < 0.5e-7 ? next : floor(x));
}

static void find_padding(picture *p, int64_t height, int64_t width, const tn_shape *frame)
{
    const int64_t lines = p->rows * frame->height, columns = p->columns * frame->width;
    *p = (picture){p->rows, p->columns, 0, lines, 0, columns};
    if ((double)width / (double)height > (double)columns / (double)lines) {
        const int64_t kept = rounded((double)height * ((double)columns / (double)width));
        p->top = (lines - kept) / 2;
        p->bottom = lines - p->top;
    } else {
        const int64_t kept = rounded((double)width * ((double)lines / (double)height));
        p->left = (columns - kept) / 2;
        p->right = columns - p->left;
    }
}

static picture picture_of(const tn_layer *layer, const int64_t *size, const tn_shape *frames)
{
    picture p = {0};
    if (frames->t == 1) return p;
    find_grid(&p, layer->own, size[0], size[1]);
    find_padding(&p, size[0], size[1], frames);
    return p;
}

static int64_t newlines_of(const picture *p)
{
    return p->rows == 0 ? 1 : p->bottom - p->top;
}

/* ---- the space ---- */

static const int64_t *size_of(const tn_layer *layer, const tn_geometry *geometry, int64_t image)
{
    return geometry->extents.integers[((const tiles *)layer->own)->sizes].data + 2 * image;
}

/* Sides of tiles that a call can bring have been checked by the geometry, so that products fit 64 bits. */
static tenon_status shape(tn_shape *out, const tn_layer *layer, const tn_geometry *geometry, int64_t image,
                          const tn_shape *shapes, tenon_error *error)
{
    const tiles *own = layer->own;
    const tn_graph *graph = geometry->graph;
    const tn_shape *frames = &shapes[graph->values[layer->inputs[ROWS]].space];
    const char *name = graph->integers[own->sizes].name;
    if (geometry->extents.integers == NULL || geometry->extents.integers[own->sizes].data == NULL) {
        return tn_fail(error, TENON_INVALID, "this connector needs the integer tensor '%s'", name);
    }
    if (!geometry->packed) {
        return tn_fail(error, TENON_INVALID,
                       "this connector makes of each image as many tokens as its size says; give the features packed, "
                       "with `grids` of (frames, height, width)");
    }
    const int64_t *size = size_of(layer, geometry, image);
    if (size[0] <= 0 || size[1] <= 0 || size[0] >= most_pixels || size[1] >= most_pixels ||
        frames->height >= most_pixels || frames->width >= most_pixels) {
        return tn_fail(error, TENON_INVALID, "'%s' says that image %lld is %lldx%lld; sides must be positive", name,
                       (long long)image, (long long)size[0], (long long)size[1]);
    }
    picture p = {0};
    if (frames->t > 1) find_grid(&p, own, size[0], size[1]);
    if (frames->t != 1 + p.rows * p.columns) {
        return tn_fail(error, TENON_MISMATCH,
                       "image %lld of %lldx%lld is cut into %lldx%lld tiles, which are %lld frames with the whole "
                       "picture; `grids` says %lld",
                       (long long)image, (long long)size[0], (long long)size[1], (long long)p.rows,
                       (long long)p.columns, (long long)(1 + p.rows * p.columns), (long long)frames->t);
    }
    p = picture_of(layer, size, frames);
    const int64_t lines = p.bottom - p.top, columns = p.right - p.left;
    int64_t rows = 1;
    *out = (tn_shape){1, 0, 1};
    if ((frames->t == 1 || tn_mul_i64(lines, columns + 1, &rows)) &&
        tn_add_i64(rows, frames->height * frames->width, &out->height)) {
        return TENON_OK;
    }
    return tn_fail(error, TENON_INVALID, "image %lld has too many rows for 64 bits", (long long)image);
}

/* ---- the group ---- */

/* Row numbers: of the output's rows, the row of x that each is, -1: the newline. */
static void list_sources(int64_t *source, const tn_layer *layer, const tn_images *images)
{
    for (int64_t i = 0; i < images->count; i++) {
        const tn_shape *frame = tn_images_shape(images, layer->inputs[ROWS], i);
        const int64_t first = tn_images_begin(images, layer->inputs[ROWS], i), cells = frame->height * frame->width;
        const picture p = picture_of(layer, size_of(layer, images->geometry, images->first + i), frame);
        for (int64_t r = 0; r < cells; r++)
            *source++ = first + r;
        if (frame->t == 1) *source++ = -1;
        for (int64_t y = p.top; y < p.bottom; y++) {
            for (int64_t x = p.left; x < p.right; x++) {
                const int64_t tile = 1 + y / frame->height * p.columns + x / frame->width;
                *source++ = first + tile * cells + y % frame->height * frame->width + x % frame->width;
            }
            *source++ = -1;
        }
    }
}

static int64_t count_newlines(const tn_layer *layer, const tn_images *images)
{
    int64_t count = 0;
    for (int64_t i = 0; i < images->count; i++) {
        const tn_shape *frame = tn_images_shape(images, layer->inputs[ROWS], i);
        const picture p = picture_of(layer, size_of(layer, images->geometry, images->first + i), frame);
        count += newlines_of(&p);
    }
    return count;
}

static int64_t offset_of(const tn_rows *rows, int64_t r)
{
    return rows->offset != NULL ? rows->offset[r] : r * rows->stride;
}

/* The buffer: for each row of the output its source, then as many offsets of each side of a copy; going back as many as
 * x has rows, and the newlines of dy. */
typedef struct lists {
    int64_t *source, *to, *from;
    void *wide;
} lists;

static bool place(lists *l, char *base, int64_t rows, int64_t inputs, size_t wide, size_t *size)
{
    const int64_t most = tn_max_i64(rows, inputs);
    size_t first, each;
    if (!tn_shape_bytes(1, &rows, sizeof(int64_t), &first) || !tn_shape_bytes(1, &most, sizeof(int64_t), &each) ||
        first > SIZE_MAX / 8 || each > SIZE_MAX / 8 || wide > SIZE_MAX / 8) {
        return false;
    }
    first = tn_align_up(first, 64), each = tn_align_up(each, 64);
    *size = first + 2 * each + wide;
    if (base == NULL) return true;
    *l = (lists){(int64_t *)(void *)base, (int64_t *)(void *)(base + first), (int64_t *)(void *)(base + first + each),
                 base + first + 2 * each};
    return true;
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    size_t wide = 0;
    *bytes = (tn_layer_sizes){.packed = 0};
    if (q->images == NULL || q->rows == 0) return true;
    if (q->backward) {
        const int64_t shape_of[] = {count_newlines(q->layer, q->images), q->layer->out_dim};
        if (!tn_shape_bytes(2, shape_of, tn_dtype_size(q->ops->compute), &wide)) return false;
    }
    return place(&(lists){NULL}, NULL, q->rows, q->slots, wide, &bytes->buffer);
}

static lists open_lists(const tn_layer_call *call)
{
    lists l;
    size_t size;
    const int64_t inputs = tn_images_begin(call->images, call->layer->inputs[ROWS], call->images->count);
    (void)place(&l, call->buffer, call->rows, inputs, 0, &size);
    list_sources(l.source, call->layer, call->images);
    return l;
}

static tn_rows listed(tn_rows rows, const int64_t *offset)
{
    rows.offset = offset;
    return rows;
}

static void forward(const tn_layer_call *call)
{
    const tn_ops *ops = call->context->ops;
    const tn_rows *x = &call->x[ROWS];
    lists l = open_lists(call);
    int64_t count = 0;
    for (int64_t r = 0; r < call->rows; r++)
        l.from[r] = l.source[r] >= 0 ? offset_of(x, l.source[r]) : -1;
    ops->merge(call->context, call->y, listed(*x, l.from), call->rows, 1, call->layer->out_dim, false);
    for (int64_t r = 0; r < call->rows; r++) {
        if (l.source[r] < 0) l.to[count++] = offset_of(&call->y, r);
    }
    for (int64_t k = 0; k < count; k++)
        l.from[k] = 0;
    ops->copy(call->context, listed(call->y, l.to), listed(call->x[NEWLINE], l.from), count, call->layer->out_dim);
}

/* A newline exists with its image, which has a row that is not masked. */
static void exists(int64_t *alive, const tn_layer_call *call)
{
    const int64_t *offset = call->x[ROWS].offset;
    list_sources(alive, call->layer, call->images);
    for (int64_t i = 0; i < call->images->count; i++) {
        const int64_t begin = tn_images_begin(call->images, call->layer->output, i);
        const int64_t end = tn_images_begin(call->images, call->layer->output, i + 1);
        bool lives = false;
        for (int64_t r = begin; r < end; r++)
            lives = lives || (alive[r] >= 0 && (offset == NULL || offset[alive[r]] >= 0));
        for (int64_t r = begin; r < end; r++) {
            const bool present = alive[r] < 0 ? lives : offset == NULL || offset[alive[r]] >= 0;
            alive[r] = present ? r : -1;
        }
    }
}

/* Rows of x that no output row is get zeros. */
static void backward_rows(const tn_layer_call *call, const lists *l)
{
    const tn_rows *dx = &call->dx[ROWS];
    const int64_t inputs = tn_images_begin(call->images, call->layer->inputs[ROWS], call->images->count);
    int64_t count = 0;
    for (int64_t r = 0; r < inputs; r++)
        l->to[r] = -1;
    for (int64_t r = 0; r < call->rows; r++) {
        if (l->source[r] >= 0) l->to[l->source[r]] = offset_of(&call->dy, r);
    }
    for (int64_t r = 0; r < inputs; r++) {
        if (offset_of(dx, r) < 0) continue;
        l->from[count] = l->to[r];
        l->to[count++] = offset_of(dx, r);
    }
    call->context->ops->merge(call->context, listed(*dx, l->to), listed(call->dy, l->from), count, 1,
                              call->layer->out_dim, false);
}

/* The sum of the newlines' rows of dy, in order. */
static void backward_newline(const tn_layer_call *call, const lists *l)
{
    const tn_ops *ops = call->context->ops;
    const int64_t width = call->layer->out_dim;
    const tn_rows wide = tn_dense_rows(l->wide, ops->compute, width);
    int64_t count = 0;
    for (int64_t r = 0; r < call->rows; r++) {
        if (l->source[r] >= 0 || (call->exists != NULL && call->exists[r] < 0)) continue;
        l->to[count] = 0;
        l->from[count++] = offset_of(&call->dy, r);
    }
    ops->copy(call->context, wide, listed(call->dy, l->from), count, width);
    ops->copy(call->context, call->dx[NEWLINE], tn_dense_rows(NULL, ops->compute, 0), 1, width);
    ops->accumulate(call->context, listed(call->dx[NEWLINE], l->to), wide, count, width);
}

static void backward(const tn_layer_call *call)
{
    const lists l = open_lists(call);
    if (call->dx[ROWS].data != NULL) backward_rows(call, &l);
    if (call->dx[NEWLINE].data != NULL) backward_newline(call, &l);
}

const tn_layer_type tn_unpad_tiles_type = {
    .name = "unpad_tiles",
    .reach = TN_REACH_IMAGE,
    .describe = describe,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .shape = shape,
    .exists = exists,
    .needs_grid = true,
};
