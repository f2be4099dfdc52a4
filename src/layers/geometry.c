/* SPDX-License-Identifier: MIT */
/* Grids and windows. A grid is height x width, row-major. A window layer of side w makes ceil(h/w) x ceil(w'/w) windows
 * from the top left ("drop": floor); the patches of a window are numbered row by row. */
#include "layers/geometry.h"

#include "core/size.h"
#include "core/versioned.h"
#include <math.h>

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

int64_t tn_isqrt(int64_t n)
{
    int64_t root = (int64_t)sqrt((double)n); /* within one of the truth, so correct it */
    while (root > 0 && root > n / root)
        root--;
    while (root + 1 <= n / (root + 1))
        root++;
    return root;
}

/* How many leading tokens a hint may suggest to prefix_tokens, beyond those that are. */
enum { most_registers = 17 };

/* Why `patches` = num_input - prefix_tokens is no square, and what would make it one. */
static tenon_status no_square(int64_t patches, int64_t prefix_tokens, tenon_error *error)
{
    char taken[96] = "", hint[128] = "";
    tn_text text = {taken, sizeof taken, 0}, advice = {hint, sizeof hint, 0};
    if (prefix_tokens > 0) {
        tn_text_add(&text, " less prefix_tokens=%lld, which is %lld,", (long long)prefix_tokens, (long long)patches);
    }
    for (int64_t fit = 0; fit < prefix_tokens + most_registers && fit < patches + prefix_tokens; fit++) {
        const int64_t rest = patches + prefix_tokens - fit, side = tn_isqrt(rest);
        if (side * side != rest) continue;
        tn_text_add(&advice, " prefix_tokens=%lld would leave %lldx%lld patches.", (long long)fit, (long long)side,
                    (long long)side);
        break;
    }
    return tn_fail(error, TENON_INVALID,
                   "pooling requires a square patch grid, but num_tokens=%lld%s is not a perfect square. Use a vision "
                   "encoder that strips any CLS token so the patch tokens form a square grid. Or give the grid.%s",
                   (long long)(patches + prefix_tokens), taken, hint);
}

static tenon_status square_grid(int64_t patches, int64_t prefix_tokens, int64_t *side, tenon_error *error)
{
    *side = tn_isqrt(patches);
    return *side * *side == patches ? TENON_OK : no_square(patches, prefix_tokens, error);
}

/* The grid of the call, or a square. `prefix_tokens` tokens have been taken off num_input; `patches` are left. */
static tenon_status find_grid(const tenon_call *call, int64_t num_input, int64_t prefix_tokens, int64_t *height,
                              int64_t *width, tenon_error *error)
{
    const int64_t patches = num_input - prefix_tokens;
    if (call->grid_height == TENON_UNSET && call->grid_width == TENON_UNSET) {
        TN_TRY(square_grid(patches, prefix_tokens, height, error));
        *width = *height;
        return TENON_OK;
    }
    int64_t cells;
    *height = call->grid_height;
    *width = call->grid_width;
    if (*height == TENON_UNSET || *width == TENON_UNSET) {
        return tn_fail(error, TENON_INVALID, "a grid needs both its height and its width; the %s is not set",
                       *height == TENON_UNSET ? "height" : "width");
    }
    if (*height <= 0 || *width <= 0 || !tn_mul_i64(*height, *width, &cells) || cells > INT64_MAX - prefix_tokens) {
        return tn_fail(error, TENON_INVALID, "grid %lldx%lld: %s", (long long)*height, (long long)*width,
                       *height <= 0 || *width <= 0 ? "height and width must be positive"
                                                   : "too many patches for 64 bits");
    }
    if (cells == patches) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH,
                   "grid %lldx%lld with prefix_tokens=%lld takes %lld + %lld = %lld tokens, but num_tokens=%lld",
                   (long long)*height, (long long)*width, (long long)prefix_tokens, (long long)prefix_tokens,
                   (long long)cells, (long long)(prefix_tokens + cells), (long long)num_input);
}

static tenon_status tile(tn_tiling *tiling, const tn_layer *layer, const tenon_call *call, int64_t height,
                         int64_t width, bool whole_windows, tenon_error *error)
{
    int64_t window = layer->window;
    if (layer->type->pools && call->pool_window != TENON_UNSET) window = call->pool_window;
    if (window <= 0) {
        return tn_fail(error, TENON_INVALID, "pool_window must be positive (got %lld)", (long long)window);
    }
    if (layer->ragged == TN_RAGGED_REJECT && (height % window != 0 || width % window != 0)) {
        return tn_fail(error, TENON_INVALID,
                       "this pooling connector requires the patch grid (%lldx%lld) be divisible by the pool window "
                       "(%lld); got a ragged grid (num_tokens=%lld). Use avgpool for ragged grids, or pick a divisible "
                       "window. Or set ragged to 'partial'.",
                       (long long)height, (long long)width, (long long)window, (long long)(height * width));
    }
    const bool drop = layer->ragged == TN_RAGGED_DROP;
    *tiling = (tn_tiling){.in_height = height,
                          .in_width = width,
                          .out_height = drop ? height / window : tn_ceil_div(height, window),
                          .out_width = drop ? width / window : tn_ceil_div(width, window),
                          .window = window,
                          .slot_height = whole_windows ? window : tn_min_i64(window, height),
                          .slot_width = whole_windows ? window : tn_min_i64(window, width)};
    int64_t slots;
    if (!tn_mul_i64(tiling->slot_height, tiling->slot_width, &slots)) {
        return tn_fail(error, TENON_INVALID, "a window of %lld has too many patches for 64 bits", (long long)window);
    }
    if (tiling->out_height == 0 || tiling->out_width == 0) {
        return tn_fail(error, TENON_INVALID,
                       "a window of %lld with ragged='drop' leaves no token of a %lldx%lld grid; pick a smaller window",
                       (long long)window, (long long)height, (long long)width);
    }
    return TENON_OK;
}

static tenon_status tile_levels(tn_geometry *geometry, const tn_list *list, const tenon_call *call, int64_t height,
                                int64_t width, bool whole_windows, tenon_error *error)
{
    for (int i = 0; i < list->num_layers; i++) {
        if (list->layers[i].type->reach != TN_REACH_WINDOW) continue;
        tn_tiling *tiling = &geometry->tiling[geometry->num_windows];
        TN_TRY(tile(tiling, &list->layers[i], call, height, width, whole_windows, error));
        height = tiling->out_height;
        width = tiling->out_width;
        geometry->count[++geometry->num_windows] = height * width;
    }
    return TENON_OK;
}

static bool has_windows(const tn_list *list)
{
    for (int i = 0; i < list->num_layers; i++) {
        if (list->layers[i].type->reach == TN_REACH_WINDOW) return true;
    }
    return false;
}

tenon_status tn_geometry_make(tn_geometry *geometry, const tn_list *list, const tenon_call *call, int64_t num_input,
                              bool whole_windows, tenon_error *error)
{
    const bool grid_given = call->grid_height != TENON_UNSET || call->grid_width != TENON_UNSET;
    const bool needs_grid = has_windows(list);
    tn_geometry made = {.prefix_tokens = list->prefix_tokens};
    if (num_input < 0 || (num_input == 0 && (needs_grid || grid_given))) {
        return tn_fail(error, TENON_INVALID, "num_input_tokens must be positive (got %lld)", (long long)num_input);
    }
    if (num_input < list->prefix_tokens || (needs_grid && num_input == list->prefix_tokens)) {
        return tn_fail(error, TENON_INVALID, "num_tokens=%lld leaves no patches after prefix_tokens=%lld",
                       (long long)num_input, (long long)list->prefix_tokens);
    }
    if (call->pool_window != TENON_UNSET && call->pool_window <= 0) {
        return tn_fail(error, TENON_INVALID, "pool_window must be positive (got %lld)", (long long)call->pool_window);
    }
    made.count[0] = num_input - list->prefix_tokens;
    if (needs_grid || grid_given) {
        int64_t height, width;
        TN_TRY(find_grid(call, num_input, list->prefix_tokens, &height, &width, error));
        TN_TRY(tile_levels(&made, list, call, height, width, whole_windows, error));
    }
    *geometry = made;
    return TENON_OK;
}

void tn_tiling_patches(int64_t *patches, const tn_tiling *tiling, int64_t index)
{
    const int64_t top = index / tiling->out_width * tiling->window;
    const int64_t left = index % tiling->out_width * tiling->window;
    for (int64_t y = 0; y < tiling->slot_height; y++) {
        for (int64_t x = 0; x < tiling->slot_width; x++) {
            const bool inside = top + y < tiling->in_height && left + x < tiling->in_width;
            *patches++ = inside ? (top + y) * tiling->in_width + left + x : -1;
        }
    }
}

static tenon_status count_windows(int64_t height, int64_t width, int64_t window, tn_ragged ragged, int64_t *count,
                                  tenon_error *error)
{
    const tn_layer layer = {.type = &tn_window_mean_type, .window = window, .ragged = ragged};
    tenon_call call;
    tn_tiling tiling = {.window = window};
    tenon_call_init(&call);
    TN_TRY(tile(&tiling, &layer, &call, height, width, false, error));
    *count = tiling.out_height * tiling.out_width;
    return TENON_OK;
}

tenon_status tenon_pooled_token_count(int64_t num_input_tokens, int64_t window, bool require_divisible, int64_t *count,
                                      tenon_error *error)
{
    if (window <= 0) {
        return tn_fail(error, TENON_INVALID, "pool window must be positive (got %lld)", (long long)window);
    }
    if (num_input_tokens <= 0) {
        return tn_fail(error, TENON_INVALID, "num_input_tokens must be positive (got %lld)",
                       (long long)num_input_tokens);
    }
    int64_t side;
    TN_TRY(square_grid(num_input_tokens, 0, &side, error));
    const tn_ragged ragged = require_divisible ? TN_RAGGED_REJECT : TN_RAGGED_PARTIAL;
    return count_windows(side, side, window, ragged, count, error);
}

tenon_status tenon_pooled_grid_count(int64_t height, int64_t width, int64_t window, const char *ragged, int64_t *count,
                                     tenon_error *error)
{
    int64_t cells;
    tn_ragged rule;
    TN_TRY(tn_ragged_from_name(ragged, &rule, error));
    if (height <= 0 || width <= 0 || !tn_mul_i64(height, width, &cells)) {
        return tn_fail(error, TENON_INVALID, "grid %lldx%lld: height, width and their product must be positive",
                       (long long)height, (long long)width);
    }
    return count_windows(height, width, window, rule, count, error);
}

tenon_status tenon_tokens_per_frame(int64_t num_tokens, int64_t num_frames, int64_t *count, tenon_error *error)
{
    if (num_frames <= 0 || num_tokens < 0 || num_tokens % num_frames != 0) {
        return tn_fail(error, TENON_INVALID, "%lld visual tokens do not divide into %lld frames", (long long)num_tokens,
                       (long long)num_frames);
    }
    *count = num_tokens / num_frames;
    return TENON_OK;
}

tenon_status tenon_sequence_length(int64_t num_frames, int64_t tokens_per_frame, int64_t max_text_len, int64_t *length,
                                   tenon_error *error)
{
    int64_t visual, total;
    if (num_frames < 0 || tokens_per_frame < 0 || max_text_len < 0) {
        return tn_fail(error, TENON_INVALID,
                       "frames, tokens per frame and text length must not be negative (got %lld, "
                       "%lld, %lld)",
                       (long long)num_frames, (long long)tokens_per_frame, (long long)max_text_len);
    }
    if (!tn_mul_i64(num_frames, tokens_per_frame, &visual) || !tn_add_i64(visual, max_text_len, &total)) {
        return tn_fail(error, TENON_INVALID, "%lld frames of %lld tokens and %lld of text do not fit 64 bits",
                       (long long)num_frames, (long long)tokens_per_frame, (long long)max_text_len);
    }
    *length = total;
    return TENON_OK;
}
