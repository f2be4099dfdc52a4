/* SPDX-License-Identifier: MIT */
/* Grids and windows. A grid is height x width, row-major. Windows of side s make ceil(h/s) x ceil(w/s) rows from the
 * top left ("drop": floor) in each frame; the patches of a window are numbered row by row. */
#include "graph/geometry.h"

#include "core/size.h"
#include "core/versioned.h"
#include "graph/layer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void tenon_call_init(tenon_call *call)
{
    *call = (tenon_call){
        .size = sizeof *call, .pool_window = TENON_UNSET, .grid_height = TENON_UNSET, .grid_width = TENON_UNSET};
}

tenon_status tn_call_read(tenon_call *settings, const tenon_call *call, tenon_error *error)
{
    tenon_call_init(settings);
    return tn_struct_read(settings, sizeof *settings, call, TN_FIRST_SIZE(tenon_call, executor), "tenon_call", error);
}

tn_extents tn_extents_of(const tenon_call *call, int64_t images, int64_t num_input)
{
    return (tn_extents){.images = images,
                        .tokens = num_input,
                        .grid_height = call->grid_height,
                        .grid_width = call->grid_width,
                        .window = call->pool_window,
                        .whole_windows = call->attention != NULL};
}

int64_t tn_isqrt(int64_t n)
{
    int64_t root = (int64_t)sqrt((double)n); /* within one of the truth, so correct it */
    while (root > 0 && root > n / root)
        root--;
    while (root + 1 <= n / (root + 1))
        root++;
    return root;
}

/* ---- the grid of the features ---- */

/* How many leading tokens a hint may suggest to strip, beyond those that are. */
enum { most_registers = 16 };

/* Why `patches` = num_input - prefix_tokens is no square, and what would make it one. */
static tenon_status no_square(int64_t patches, int64_t prefix_tokens, tenon_error *error)
{
    char taken[64] = "", hint[160] = "";
    tn_text text = {taken, sizeof taken, 0}, advice = {hint, sizeof hint, 0};
    if (prefix_tokens > 0) {
        tn_text_add(&text, " less `prefix_tokens=%lld`, which is %lld,", (long long)prefix_tokens, (long long)patches);
    }
    for (int64_t fit = 0; fit < prefix_tokens + most_registers && fit < patches + prefix_tokens; fit++) {
        const int64_t rest = patches + prefix_tokens - fit, side = tn_isqrt(rest);
        if (side * side != rest) continue;
        tn_text_add(&advice, " `prefix_tokens=%lld` would leave %lldx%lld patches.", (long long)fit, (long long)side,
                    (long long)side);
        break;
    }
    return tn_fail(error, TENON_INVALID,
                   "pooling requires a square patch grid, but num_tokens=%lld%s is not a perfect square. Use a vision "
                   "encoder that strips any CLS token so the patch tokens form a square grid. Or set `grid`.%s",
                   (long long)(patches + prefix_tokens), taken, hint);
}

tenon_status tn_square_grid(int64_t patches, int64_t prefix_tokens, int64_t *side, tenon_error *error)
{
    *side = tn_isqrt(patches);
    return *side * *side == patches ? TENON_OK : no_square(patches, prefix_tokens, error);
}

/* The grid of the call, or a square. The prefix tokens have been taken off num_input; `patches` are left. */
static tenon_status find_grid(const tn_extents *extents, int64_t prefix_tokens, tn_shape *shape, tenon_error *error)
{
    const int64_t patches = extents->tokens - prefix_tokens;
    int64_t height = extents->grid_height, width = extents->grid_width, cells;
    if (height == TENON_UNSET && width == TENON_UNSET) {
        TN_TRY(tn_square_grid(patches, prefix_tokens, &height, error));
        *shape = (tn_shape){1, height, height};
        return TENON_OK;
    }
    if (height == TENON_UNSET || width == TENON_UNSET) {
        return tn_fail(error, TENON_INVALID, "a grid needs both its height and its width; `%s` is not set",
                       height == TENON_UNSET ? "grid_height" : "grid_width");
    }
    if (height <= 0 || width <= 0 || !tn_mul_i64(height, width, &cells) || cells > INT64_MAX - prefix_tokens) {
        return tn_fail(error, TENON_INVALID, "grid %lldx%lld: %s", (long long)height, (long long)width,
                       height <= 0 || width <= 0 ? "height and width must be positive"
                                                 : "too many patches for 64 bits");
    }
    *shape = (tn_shape){1, height, width};
    if (cells == patches) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH,
                   "grid %lldx%lld with `prefix_tokens=%lld` takes %lld + %lld = %lld tokens, but num_tokens=%lld",
                   (long long)height, (long long)width, (long long)prefix_tokens, (long long)prefix_tokens,
                   (long long)cells, (long long)(prefix_tokens + cells), (long long)extents->tokens);
}

static bool needs_grid(const tn_graph *graph)
{
    for (int i = 0; i < graph->num_spaces; i++) {
        if (graph->spaces[i].kind == TN_SPACE_WINDOWS) return true;
    }
    for (int i = 0; i < graph->num_layers; i++) {
        if (graph->layers[i]->type->needs_grid) return true;
    }
    return false;
}

/* Block-ordered features whose only geometry is windows of one side over them: every grid of as many blocks gives the
 * same rows, so that none is needed. Returns that side, or 0. */
static int64_t find_block_side(const tn_graph *graph)
{
    const int features = graph->values[0].space;
    int64_t side = 0;
    if (graph->spaces[features].order != TENON_ROWS_BLOCKS) return 0;
    for (int i = 0; i < graph->num_spaces; i++) {
        const tn_space *space = &graph->spaces[i];
        if (space->kind != TN_SPACE_WINDOWS) continue;
        if (space->parent != features || space->windows.is_pool || space->windows.transposed) return 0;
        if (side != 0 && side != space->windows.side) return 0;
        side = space->windows.side;
    }
    for (int i = 0; i < graph->num_layers; i++) {
        if (graph->layers[i]->type->needs_grid) return 0;
    }
    return side;
}

/* A column of blocks. */
static tenon_status block_features(const tn_graph *graph, int64_t tokens, int64_t side, tn_shape *shape,
                                   tenon_error *error)
{
    const int64_t patches = tokens - graph->prefix_tokens;
    *shape = (tn_shape){1, patches / side, side};
    if (patches % side == 0 && patches / side % side == 0) return TENON_OK;
    return tn_fail(error, TENON_INVALID,
                   "num_tokens=%lld is no whole number of blocks of %lldx%lld patches, in which the features of this "
                   "connector lie",
                   (long long)tokens, (long long)side, (long long)side);
}

/* The features of images that are all alike. */
static tenon_status uniform_features(const tn_graph *graph, const tn_extents *extents, tn_shape *shape,
                                     tenon_error *error)
{
    const bool given = extents->grid_height != TENON_UNSET || extents->grid_width != TENON_UNSET;
    const bool needed = needs_grid(graph);
    if (extents->tokens < 0 || (extents->tokens == 0 && (needed || given))) {
        return tn_fail(error, TENON_INVALID, "num_input_tokens must be positive (got %lld)",
                       (long long)extents->tokens);
    }
    if (extents->tokens < graph->prefix_tokens || (needed && extents->tokens == graph->prefix_tokens)) {
        return tn_fail(error, TENON_INVALID, "num_tokens=%lld leaves no patches after `prefix_tokens=%lld`",
                       (long long)extents->tokens, (long long)graph->prefix_tokens);
    }
    if (extents->window != TENON_UNSET && extents->window <= 0) {
        return tn_fail(error, TENON_INVALID, "`pool_window` must be positive (got %lld)", (long long)extents->window);
    }
    const int64_t side = given ? 0 : find_block_side(graph);
    if (side > 0) return block_features(graph, extents->tokens, side, shape, error);
    if (needed || given) return find_grid(extents, graph->prefix_tokens, shape, error);
    *shape = (tn_shape){1, extents->tokens - graph->prefix_tokens, 1};
    return TENON_OK;
}

/* The features of an image of a packed batch. */
static tenon_status packed_features(const tn_extents *extents, int64_t image, tn_shape *shape, tenon_error *error)
{
    const int64_t *grid = extents->grids + image * extents->grid_columns;
    const int64_t t = extents->grid_columns == 3 ? *grid++ : 1;
    int64_t frame, rows;
    *shape = (tn_shape){t, grid[0], grid[1]};
    if (t > 0 && grid[0] > 0 && grid[1] > 0 && tn_mul_i64(grid[0], grid[1], &frame) && tn_mul_i64(frame, t, &rows)) {
        return TENON_OK;
    }
    return tn_fail(error, TENON_INVALID,
                   "the grid of image %lld is %lldx%lldx%lld; its sides must be positive, and "
                   "its rows fit 64 bits",
                   (long long)image, (long long)t, (long long)grid[0], (long long)grid[1]);
}

/* ---- windows ---- */

tenon_status tn_tile(tn_tiling *tiling, const tn_window_rule *rule, int64_t window, int64_t height, int64_t width,
                     bool whole, tenon_error *error)
{
    const int64_t side = rule->is_pool && window != TENON_UNSET ? window : rule->side;
    if (side <= 0) return tn_fail(error, TENON_INVALID, "`pool_window` must be positive (got %lld)", (long long)side);
    const bool divides = height % side == 0 && width % side == 0;
    if (rule->ragged == TN_RAGGED_REJECT && !divides && !rule->is_pool) {
        return tn_fail(error, TENON_INVALID,
                       "this connector merges %lldx%lld patches into one token, which does not divide the patch grid "
                       "(%lldx%lld); use images whose grid it divides",
                       (long long)side, (long long)side, (long long)height, (long long)width);
    }
    if (rule->ragged == TN_RAGGED_REJECT && !divides) {
        return tn_fail(error, TENON_INVALID,
                       "this pooling connector requires the patch grid (%lldx%lld) be divisible by the pool window "
                       "(%lld); got a ragged grid (num_tokens=%lld). Use avgpool for ragged grids, or pick a divisible "
                       "window. Or set `ragged=partial`.",
                       (long long)height, (long long)width, (long long)side, (long long)(height * width));
    }
    const bool drop = rule->ragged == TN_RAGGED_DROP;
    *tiling = (tn_tiling){.in_height = height,
                          .in_width = width,
                          .out_height = drop ? height / side : tn_ceil_div(height, side),
                          .out_width = drop ? width / side : tn_ceil_div(width, side),
                          .side = side,
                          .transposed = rule->transposed,
                          .slot_height = whole ? side : tn_min_i64(side, height),
                          .slot_width = whole ? side : tn_min_i64(side, width)};
    int64_t slots;
    if (!tn_mul_i64(tiling->slot_height, tiling->slot_width, &slots)) {
        return tn_fail(error, TENON_INVALID, "a window of %lld has too many patches for 64 bits", (long long)side);
    }
    if (tiling->out_height == 0 || tiling->out_width == 0) {
        return tn_fail(error, TENON_INVALID,
                       "a window of %lld with `ragged=drop` leaves no token of a %lldx%lld grid; pick a smaller window",
                       (long long)side, (long long)height, (long long)width);
    }
    return TENON_OK;
}

static tenon_status tile_space(const tn_geometry *g, tn_tiling *tiling, int space, const tn_shape *parent,
                               tenon_error *error)
{
    const tn_space *s = &g->graph->spaces[space];
    TN_TRY(tn_tile(tiling, &s->windows, g->extents.window, parent->height, parent->width,
                   g->packed || g->extents.whole_windows || !s->windows.is_pool, error));
    const tn_space *below = &g->graph->spaces[s->parent];
    tiling->blocks = below->kind == TN_SPACE_INPUT && below->order == TENON_ROWS_BLOCKS;
    if (!tiling->blocks || (parent->height % tiling->side == 0 && parent->width % tiling->side == 0)) return TENON_OK;
    return tn_fail(error, TENON_INVALID,
                   "features whose rows are in blocks of %lldx%lld need a grid that it divides (got %lldx%lld)",
                   (long long)tiling->side, (long long)tiling->side, (long long)parent->height,
                   (long long)parent->width);
}

tn_tiling tn_geometry_tiling(const tn_geometry *geometry, int space, int64_t image)
{
    tn_tiling tiling = {.side = 1};
    const tn_shape *parent = tn_geometry_shape(geometry, geometry->graph->spaces[space].parent, image);
    (void)!tile_space(geometry, &tiling, space, parent, NULL); /* tn_geometry_make has checked it */
    return tiling;
}

int64_t tn_geometry_slots(const tn_geometry *geometry, int space)
{
    const tn_space *s = &geometry->graph->spaces[space];
    if (s->kind == TN_SPACE_MAP) return geometry->extents.integers[s->integers].columns;
    if (s->kind != TN_SPACE_WINDOWS) return 1;
    if (!geometry->packed) {
        const tn_tiling tiling = tn_geometry_tiling(geometry, space, 0);
        return tn_tiling_slots(&tiling);
    }
    const int64_t window = geometry->extents.window;
    const int64_t side = s->windows.is_pool && window != TENON_UNSET ? window : s->windows.side;
    return side * side;
}

void tn_tiling_patches(int64_t *patches, const tn_tiling *tiling, int64_t index)
{
    const int64_t frame = tiling->out_height * tiling->out_width, t = index / frame;
    const int64_t before = t * tiling->in_height * tiling->in_width, within = index % frame;
    const int64_t row = tiling->transposed ? within % tiling->out_height : within / tiling->out_width;
    const int64_t column = tiling->transposed ? within / tiling->out_height : within % tiling->out_width;
    if (tiling->blocks) {
        const int64_t slots = tn_tiling_slots(tiling), block = t * frame + row * tiling->out_width + column;
        for (int64_t j = 0; j < slots; j++)
            patches[j] = block * slots + j;
        return;
    }
    const int64_t top = row * tiling->side, left = column * tiling->side;
    for (int64_t y = 0; y < tiling->slot_height; y++) {
        for (int64_t x = 0; x < tiling->slot_width; x++) {
            const bool inside = top + y < tiling->in_height && left + x < tiling->in_width;
            *patches++ = inside ? before + (top + y) * tiling->in_width + left + x : -1;
        }
    }
}

/* ---- all spaces ---- */

static tenon_status input_shape(const tn_geometry *g, int space, int64_t image, tn_shape *shape, tenon_error *error)
{
    const int input = g->graph->spaces[space].layer;
    if (input == 0 && g->packed) return packed_features(&g->extents, image, shape, error);
    if (input == 0) return uniform_features(g->graph, &g->extents, shape, error);
    if (g->extents.input_tokens == NULL) {
        return tn_fail(error, TENON_INVALID, "the rows of input '%s' are not known", g->graph->inputs[input].name);
    }
    const int64_t rows = g->extents.input_tokens[input], side = tn_isqrt(rows);
    *shape = side * side == rows ? (tn_shape){1, side, side} : (tn_shape){1, rows, 1};
    return TENON_OK;
}

static tenon_status find_shape(const tn_geometry *g, tn_shape *shapes, int space, int64_t image, tenon_error *error)
{
    const tn_space *s = &g->graph->spaces[space];
    tn_tiling tiling = {.side = 0};
    switch (s->kind) {
    case TN_SPACE_INPUT:
        return input_shape(g, space, image, &shapes[space], error);
    case TN_SPACE_SHARED:
        shapes[space] = (tn_shape){1, s->rows, 1};
        return TENON_OK;
    case TN_SPACE_WINDOWS:
        TN_TRY(tile_space(g, &tiling, space, &shapes[s->parent], error));
        shapes[space] = (tn_shape){shapes[s->parent].t, tiling.out_height, tiling.out_width};
        if (tiling.transposed) shapes[space] = (tn_shape){shapes[space].t, tiling.out_width, tiling.out_height};
        return TENON_OK;
    case TN_SPACE_MAP:
        if (g->extents.integers == NULL || g->extents.integers[s->integers].data == NULL) {
            return tn_fail(error, TENON_INVALID, "this connector needs the integer tensor '%s'",
                           g->graph->integers[s->integers].name);
        }
        if (g->extents.integers[s->integers].columns <= 0) {
            return tn_fail(error, TENON_INVALID, "'%s' has rows of no numbers; a map names at least one row in each",
                           g->graph->integers[s->integers].name);
        }
        shapes[space] = (tn_shape){1, g->extents.integers[s->integers].rows, 1};
        return TENON_OK;
    case TN_SPACE_LAYER:
        return g->graph->layers[s->layer]->type->shape(&shapes[space], g->graph->layers[s->layer], g, image, shapes,
                                                       error);
    }
    return TENON_OK;
}

/* First rows of the images in a space; false when they do not fit. */
static bool find_first(tn_geometry *g, int space)
{
    const bool shared = g->graph->spaces[space].kind == TN_SPACE_SHARED;
    int64_t *first = g->first + space * (g->extents.images + 1);
    first[0] = 0;
    for (int64_t i = 0; i < g->extents.images; i++) {
        const int64_t rows = shared ? 0 : tn_shape_rows(tn_geometry_shape(g, space, i));
        if (!tn_add_i64(first[i], rows, &first[i + 1])) return false;
    }
    return true;
}

/* All rows of a call have numbers that fit 64 bits. */
static tenon_status check_total(const tn_geometry *g, int space, const tn_shape *shape, tenon_error *error)
{
    int64_t frame, rows, total;
    if (tn_mul_i64(shape->height, shape->width, &frame) && tn_mul_i64(frame, shape->t, &rows) &&
        tn_mul_i64(rows, tn_max_i64(1, g->extents.images), &total)) {
        return TENON_OK;
    }
    return tn_fail(error, TENON_INVALID, "space %d of %lld images of %lldx%lldx%lld has too many rows for 64 bits",
                   space, (long long)g->extents.images, (long long)shape->t, (long long)shape->height,
                   (long long)shape->width);
}

bool tn_geometry_size(const tn_graph *graph, const tn_extents *extents, size_t *bytes)
{
    const int64_t images = extents->grids != NULL ? extents->images : 1;
    size_t shapes, first = 0;
    if (!tn_shape_bytes(2, (int64_t[]){images, graph->num_spaces}, sizeof(tn_shape), &shapes)) return false;
    if (extents->grids != NULL && (images == INT64_MAX || !tn_shape_bytes(2, (int64_t[]){images + 1, graph->num_spaces},
                                                                          sizeof(int64_t), &first))) {
        return false;
    }
    return tn_add_size(shapes, first, bytes);
}

tenon_status tn_geometry_make(tn_geometry *geometry, const tn_graph *graph, const tn_extents *extents, void *memory,
                              tenon_error *error)
{
    tn_geometry made = {.graph = graph, .extents = *extents, .packed = extents->grids != NULL, .shapes = memory};
    const int64_t images = made.packed ? extents->images : 1;
    made.first = made.packed ? (int64_t *)(void *)(made.shapes + images * graph->num_spaces) : NULL;
    for (int64_t i = 0; i < images; i++) {
        for (int s = 0; s < graph->num_spaces; s++) {
            tn_shape *shapes = made.shapes + i * graph->num_spaces;
            TN_TRY(find_shape(&made, shapes, s, i, error));
            TN_TRY(check_total(&made, s, &shapes[s], error));
        }
    }
    for (int s = 0; s < graph->num_spaces && made.packed; s++) {
        if (!find_first(&made, s)) return tn_fail(error, TENON_INVALID, "the images have too many rows for 64 bits");
    }
    *geometry = made;
    return TENON_OK;
}

int64_t tn_geometry_image(const tn_geometry *geometry, int space, int64_t row, int64_t hint)
{
    if (!geometry->packed) {
        const int64_t rows = tn_shape_rows(&geometry->shapes[space]);
        return rows > 0 ? row / rows : 0;
    }
    const int64_t *first = geometry->first + space * (geometry->extents.images + 1);
    while (row < first[hint])
        hint--;
    while (row >= first[hint + 1])
        hint++;
    return hint;
}

/* Rows and columns of the integer tensors that a call brings; their numbers are not read. */
static void find_integers(tn_integers *integers, const tn_graph *graph, const tenon_call *call)
{
    static const int64_t some[1];
    for (int i = 0; i < graph->num_integers; i++) {
        integers[i] = (tn_integers){.data = NULL};
        for (int64_t k = 0; k < call->num_inputs; k++) {
            const tenon_named_tensor *given = &call->inputs[k];
            if (given->name == NULL || given->tensor == NULL || strcmp(given->name, graph->integers[i].name) != 0) {
                continue;
            }
            const int ndim = given->tensor->ndim;
            if (ndim < 2 || ndim > 3 || given->tensor->shape[ndim - 2] < 0) continue;
            integers[i] = (tn_integers){some, given->tensor->shape[ndim - 2], given->tensor->shape[ndim - 1]};
        }
    }
}

tenon_status tn_geometry_of_one(tn_geometry *geometry, void **memory, const tn_graph *graph, const tenon_call *call,
                                int64_t num_input, tenon_error *error)
{
    tn_extents extents = tn_extents_of(call, 1, num_input);
    const size_t shapes = (size_t)graph->num_spaces * sizeof(tn_shape);
    extents.whole_windows = false;
    *memory = malloc(shapes + (size_t)graph->num_integers * sizeof(tn_integers));
    if (*memory == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: tokens cannot be counted");
    tn_integers *integers = (tn_integers *)(void *)((char *)*memory + shapes);
    find_integers(integers, graph, call);
    extents.integers = integers;
    return tn_geometry_make(geometry, graph, &extents, *memory, error);
}

tenon_status tn_graph_count(const tn_graph *graph, const tenon_call *call, int64_t num_input, int64_t *count,
                            tenon_error *error)
{
    tn_geometry geometry;
    void *memory;
    const tenon_status status = tn_geometry_of_one(&geometry, &memory, graph, call, num_input, error);
    if (status == TENON_OK) {
        const int tokens = graph->values[graph->outputs[0].value].space;
        *count = tn_shape_rows(&geometry.shapes[tokens]);
    }
    free(memory);
    return status;
}
