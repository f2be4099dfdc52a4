/* SPDX-License-Identifier: MIT */
/* LLaVA-NeXT and LLaVA-OneVision: the projector of LLaVA on each patch, then the tiles of a picture put together, or
 * the frames of a clip made smaller. The names are those of LlavaNextModel and LlavaOnevisionModel in Hugging Face's
 * transformers: of its projector, and of the newline beside it. */
#include "connectors/registry.h"
#include <math.h>

/* linear_2(act(linear_1(x))) */
static int project(tenon_builder *b)
{
    const int64_t hidden = tenon_option_int(b, "hidden_dim", 0), out = tenon_builder_out_dim(b);
    const char *activation = tenon_option_string(b, "activation", "gelu");
    const unsigned flags = tenon_option_bool(b, "bias", true) ? TENON_BIAS : TENON_NO_BIAS;
    tenon_linear(b, "linear_1", hidden > 0 ? hidden : out, flags);
    tenon_activation(b, activation);
    return tenon_linear(b, "linear_2", out, flags);
}

static int newline(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b);
    return tenon_parameter_rows(b, "image_newline", 1, out, 0, out > 0 ? 1 / sqrt((double)out) : 1, TENON_VECTOR);
}

/* The tiles of `rows` put together. */
static void unpad(tenon_builder *b, int rows, int64_t tile, int64_t most_tiles, int64_t fallback_count,
                  const int64_t *fallback)
{
    int64_t count;
    const int64_t *pinpoints = tenon_option_ints(b, "image_grid_pinpoints", &count, fallback_count, fallback);
    if (count % 2 != 0) {
        tenon_builder_fail(b, "`image_grid_pinpoints` is a list of heights and widths; it has %lld numbers",
                           (long long)count);
    }
    const int sizes = tenon_integers(b, "image_sizes", 2), line = newline(b);
    tenon_from(b, rows);
    tenon_unpad_tiles(b, line, sizes, tile, most_tiles, count / 2, pinpoints);
}

/* y = unpad(linear_2(act(linear_1(x)))) */
void tn_build_llava_next(tenon_builder *b)
{
    static const int64_t released[] = {336, 672, 672, 336, 672, 672, 1008, 336, 336, 1008};
    const int64_t tile = tenon_option_int(b, "image_size", 336);
    unpad(b, project(b), tile, 0, 10, released);
}

/* The same, of at most about max_num_patches tiles; or, with `video`, the frames of a clip at half their sides, and one
 * newline behind them. */
void tn_build_llava_onevision(tenon_builder *b)
{
    int64_t released[72]; /* one to six tiles of 384 a side */
    const int64_t tile = tenon_option_int(b, "image_size", 384);
    const int64_t most_tiles = tenon_option_int(b, "max_num_patches", 9);
    const bool video = tenon_option_bool(b, "video", false);
    const int rows = project(b);
    for (int i = 0; i < 36; i++) {
        released[2 * i] = 384 * (1 + i / 6);
        released[2 * i + 1] = 384 * (1 + i % 6);
    }
    if (!video) {
        unpad(b, rows, tile, most_tiles, 72, released);
        return;
    }
    const int small = tenon_resize(b, 2), line = newline(b);
    tenon_concat_rows(b, 2, (int[]){small, line});
}
