/* SPDX-License-Identifier: MIT */
/* Tiles to one picture, as LLaVA-NeXT packs them. An image is 1 + R C frames of h x w rows: the whole picture, then R x
 * C tiles, row by row. The output is the rows of the whole picture; then the R h x C w rows of the tiles put together,
 * without those that only padding gave, each line followed by the newline, a row of a parameter. An image of one frame
 * is its rows and one newline. With most_tiles, LLaVA-OneVision's "anyres_max", a picture of more than 1.21 times as
 * many rows as that many tiles have is resized to about that many before, bilinearly. A masked row stays one. Reach:
 * image.
 *
 * R and C are those of the resolution, out of a list, that holds the most of the image's original size without
 * enlarging it, and of those the smallest; in tiles of tile_size. The padding was put around the picture that was
 * scaled to touch that resolution: where the original is wider than it, above and below, else left and right. The
 * arithmetic is Python's in double, rounded as there, because a line more or less is another number of tokens.
 */
#include "core/size.h"
#include "layers/types.h"
#include "layers/weighted_rows.h"
#include <math.h>

enum { ROWS, NEWLINE, INPUTS };
enum { MOST_RESOLUTIONS = 256 };
static const int64_t most_pixels = (int64_t)1 << 30; /* of a side */

typedef struct tiles {
    int sizes; /* integer tensor: height and width of each image */
    int64_t tile_size, most_tiles, num_resolutions;
    int64_t resolutions[]; /* [num_resolutions, 2] height, width */
} tiles;

static bool check_resolutions(tenon_builder *builder, int64_t tile_size, int64_t count, const int64_t *resolutions)
{
    bool fit = count > 0 && count <= MOST_RESOLUTIONS && tile_size > 0 && tile_size < most_pixels;
    for (int64_t i = 0; fit && i < 2 * count; i++)
        fit = resolutions[i] >= tile_size && resolutions[i] < most_pixels;
    if (fit) return true;
    tenon_builder_fail(
        builder,
        "tiles need 1 to %d resolutions of height and width, each at least the tile's side, %lld (got %lld "
        "resolutions)",
        (int)MOST_RESOLUTIONS, (long long)tile_size, (long long)count);
    return false;
}

int tenon_unpad_tiles(tenon_builder *builder, int newline, int image_sizes, int64_t tile_size, int64_t most_tiles,
                      int64_t count, const int64_t *resolutions)
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
    own->most_tiles = most_tiles;
    own->num_resolutions = count;
    for (int64_t i = 0; i < 2 * count; i++)
        own->resolutions[i] = resolutions[i];
    (void)tn_builder_check_integers(builder, image_sizes, 2);
    if (tn_builder_space(builder, tn_builder_value(builder, inputs[ROWS])->space)->kind == TN_SPACE_SHARED) {
        tenon_builder_fail(builder, "rows that are made of parameters alone are no tiles of a picture");
    }
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
    const tiles *own = layer->own;
    tn_settings_int(settings, "tile_size", own->tile_size);
    tn_settings_int(settings, "most_tiles", own->most_tiles);
    char list[MOST_RESOLUTIONS * 24] = "";
    tn_text text = {list, sizeof list, 0};
    for (int64_t i = 0; i < own->num_resolutions; i++) {
        tn_text_add(&text, "%s%lldx%lld", i > 0 ? " " : "", (long long)own->resolutions[2 * i],
                    (long long)own->resolutions[2 * i + 1]);
    }
    tn_settings_string(settings, "resolutions", list);
}

/* ---- the picture ---- */

/* The part of the tiles put together that is the picture: lines [top, bottom), columns [left, right); and the lines and
 * columns that become rows of the output. */
typedef struct picture {
    int64_t rows, columns; /* of tiles; 0: the image is one frame */
    int64_t top, bottom, left, right;
    int64_t height, width;
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
    *p = (picture){.rows = p->rows, .columns = p->columns, .bottom = lines, .right = columns};
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

/* a // b of Python, for a >= 0 and b > 0. */
static int64_t floor_divide(double a, double b)
{
    const double quotient = (a - fmod(a, b)) / b, down = floor(quotient);
    return (int64_t)(quotient - down > 0.5 ? down + 1 : down);
}

static void find_size(picture *p, int64_t most_tiles, const tn_shape *frame)
{
    p->height = p->bottom - p->top;
    p->width = p->right - p->left;
    if (most_tiles <= 0) return;
    const double side = (double)frame->height, rows = (double)p->height * (double)p->width;
    const double ratio = sqrt(rows / ((double)most_tiles * (side * side)));
    if (!(ratio > 1.1)) return;
    p->height = floor_divide((double)p->height, ratio);
    p->width = floor_divide((double)p->width, ratio);
}

static picture picture_of(const tn_layer *layer, const int64_t *size, const tn_shape *frames)
{
    const tiles *own = layer->own;
    picture p = {0};
    if (frames->t == 1) return p;
    find_grid(&p, own, size[0], size[1]);
    find_padding(&p, size[0], size[1], frames);
    find_size(&p, own->most_tiles, frames);
    return p;
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
    int64_t rows = 1;
    *out = (tn_shape){1, 0, 1};
    if ((frames->t == 1 || tn_mul_i64(p.height, p.width + 1, &rows)) &&
        tn_add_i64(rows, frames->height * frames->width, &out->height)) {
        return TENON_OK;
    }
    return tn_fail(error, TENON_INVALID, "image %lld has too many rows for 64 bits", (long long)image);
}

/* ---- the group ---- */

/* The row of x that a place of the picture is, which the image's rows begin at `first`. */
static int64_t place_in_tiles(const picture *p, const tn_shape *frame, int64_t first, int64_t line, int64_t column)
{
    const int64_t y = p->top + line, x = p->left + column;
    const int64_t tile = 1 + y / frame->height * p->columns + x / frame->width;
    return first + (tile * frame->height + y % frame->height) * frame->width + x % frame->width;
}

/* The rows of an image: those of the output that are a newline have no entries. */
static void list_image(tn_weighted_rows *list, const picture *p, const tn_shape *frame, int64_t first)
{
    const tn_shape whole = {1, p->bottom - p->top, p->right - p->left}, kept = {1, p->height, p->width};
    const bool resized = kept.height != whole.height || kept.width != whole.width;
    for (int64_t r = 0; r < frame->height * frame->width; r++) {
        tn_weighted_rows_add(list, first + r, 1);
        tn_weighted_rows_next(list);
    }
    if (frame->t == 1) tn_weighted_rows_next(list);
    for (int64_t y = 0; y < kept.height; y++) {
        for (int64_t x = 0; x < kept.width; x++) {
            const int64_t e = list->begin[list->filled + 1];
            if (resized) {
                tn_weighted_rows_bilinear(list, 0, y * kept.width + x, &whole, &kept);
            } else {
                tn_weighted_rows_add(list, y * whole.width + x, 1);
            }
            for (int64_t k = e; k < list->begin[list->filled + 1]; k++) {
                const int64_t cell = list->source[k];
                list->source[k] = place_in_tiles(p, frame, first, cell / whole.width, cell % whole.width);
            }
            tn_weighted_rows_next(list);
        }
        tn_weighted_rows_next(list);
    }
}

static int64_t entries_of(const tn_layer *layer, int64_t rows)
{
    return ((const tiles *)layer->own)->most_tiles > 0 ? 4 * rows : rows;
}

static int64_t rows_of_input(const tn_layer_call *call)
{
    return tn_images_begin(call->images, call->layer->inputs[ROWS], call->images->count);
}

/* The buffer: the list; then, of as many rows as the output has, offsets of newlines and of what they are copied from;
 * and going back the newlines of dy, widened. */
static bool buffer_sizes(size_t parts[3], const tn_layer *layer, int64_t rows, int64_t inputs)
{
    size_t offsets;
    if (rows > INT64_MAX / 8 || !tn_weighted_rows_size(rows, inputs, entries_of(layer, rows), &parts[0]) ||
        !tn_shape_bytes(1, &rows, sizeof(int64_t), &offsets) || offsets > SIZE_MAX / 16) {
        return false;
    }
    parts[1] = parts[2] = tn_align_up(offsets, 64);
    return true;
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    size_t parts[3], wide = 0;
    *bytes = (tn_layer_sizes){.packed = 0};
    if (q->images == NULL || q->rows == 0) return true;
    if (!buffer_sizes(parts, q->layer, q->rows, q->slots)) return false;
    int64_t newlines = 0;
    for (int64_t i = 0; i < q->images->count; i++) {
        const tn_shape *frame = tn_images_shape(q->images, q->layer->inputs[ROWS], i);
        const picture p = picture_of(q->layer, size_of(q->layer, q->images->geometry, q->images->first + i), frame);
        newlines += frame->t == 1 ? 1 : p.height;
    }
    const int64_t shape_of[] = {newlines, q->layer->out_dim};
    if (q->backward && !tn_shape_bytes(2, shape_of, tn_dtype_size(q->ops->compute), &wide)) return false;
    return tn_add_size(parts[0], parts[1] + parts[2], &bytes->buffer) &&
           tn_add_size(bytes->buffer, wide, &bytes->buffer);
}

/* A call at work. */
typedef struct pass {
    tn_weighted_rows list;
    int64_t *to, *from; /* offsets */
    void *wide;
} pass;

static pass open_pass(const tn_layer_call *call)
{
    pass t;
    size_t parts[3];
    char *buffer = call->buffer;
    (void)buffer_sizes(parts, call->layer, call->rows, rows_of_input(call));
    t.list = tn_weighted_rows_open(buffer, call->rows, rows_of_input(call), entries_of(call->layer, call->rows));
    t.to = (int64_t *)(void *)(buffer + parts[0]);
    t.from = (int64_t *)(void *)(buffer + parts[0] + parts[1]);
    t.wide = buffer + parts[0] + parts[1] + parts[2];
    for (int64_t i = 0; i < call->images->count; i++) {
        const tn_shape *frame = tn_images_shape(call->images, call->layer->inputs[ROWS], i);
        const int64_t *size = size_of(call->layer, call->images->geometry, call->images->first + i);
        const picture p = picture_of(call->layer, size, frame);
        list_image(&t.list, &p, frame, tn_images_begin(call->images, call->layer->inputs[ROWS], i));
    }
    return t;
}

static bool is_newline(const pass *t, int64_t r)
{
    return t->list.begin[r] == t->list.begin[r + 1];
}

static int64_t offset_of(const tn_rows *rows, int64_t r)
{
    return rows->offset != NULL ? rows->offset[r] : r * rows->stride;
}

static tn_rows listed(tn_rows rows, const int64_t *offset)
{
    rows.offset = offset;
    return rows;
}

static void forward(const tn_layer_call *call)
{
    pass t = open_pass(call);
    const int64_t width = call->layer->out_dim;
    int64_t count = 0;
    tn_weighted_rows_forward(&t.list, call->context, call->y, call->x[ROWS], width);
    for (int64_t r = 0; r < call->rows; r++) {
        if (!is_newline(&t, r)) continue;
        t.from[count] = 0;
        t.to[count++] = offset_of(&call->y, r);
    }
    call->context->ops->copy(call->context, listed(call->y, t.to), listed(call->x[NEWLINE], t.from), count, width);
}

/* A row exists where one that it is made of does, a newline with its image, of which some row does. */
static void exists(int64_t *alive, const tn_layer_call *call)
{
    const pass t = open_pass(call);
    const int64_t *offset = call->x[ROWS].offset;
    for (int64_t i = 0; i < call->images->count; i++) {
        const int64_t begin = tn_images_begin(call->images, call->layer->output, i);
        const int64_t end = tn_images_begin(call->images, call->layer->output, i + 1);
        bool lives = false;
        for (int64_t r = begin; r < end; r++) {
            bool present = false;
            for (int64_t e = t.list.begin[r]; e < t.list.begin[r + 1]; e++)
                present = present || offset == NULL || offset[t.list.source[e]] >= 0;
            alive[r] = present ? r : -1;
            lives = lives || present;
        }
        for (int64_t r = begin; r < end; r++) {
            if (lives && is_newline(&t, r)) alive[r] = r;
        }
    }
}

/* The sum of the newlines' rows of dy, in order. */
static void backward_newline(const tn_layer_call *call, const pass *t)
{
    const tn_ops *ops = call->context->ops;
    const int64_t width = call->layer->out_dim;
    const tn_rows wide = tn_dense_rows(t->wide, ops->compute, width);
    int64_t count = 0;
    for (int64_t r = 0; r < call->rows; r++) {
        if (!is_newline(t, r) || (call->exists != NULL && call->exists[r] < 0)) continue;
        t->to[count] = 0;
        t->from[count++] = offset_of(&call->dy, r);
    }
    ops->copy(call->context, wide, listed(call->dy, t->from), count, width);
    ops->copy(call->context, call->dx[NEWLINE], tn_dense_rows(NULL, ops->compute, 0), 1, width);
    ops->accumulate(call->context, listed(call->dx[NEWLINE], t->to), wide, count, width);
}

static void backward(const tn_layer_call *call)
{
    pass t = open_pass(call);
    if (call->dx[ROWS].data != NULL) {
        tn_weighted_rows_backward(&t.list, call->context, call->dx[ROWS], call->dy, call->exists, call->layer->out_dim);
    }
    if (call->dx[NEWLINE].data != NULL) backward_newline(call, &t);
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
