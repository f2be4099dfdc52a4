/* SPDX-License-Identifier: MIT */
/* Counts that need no connector: pooled tokens, frames, sequences. */
#include "core/size.h"
#include "graph/builder.h"
#include "graph/geometry.h"

static tenon_status count_windows(int64_t height, int64_t width, int64_t window, tn_ragged ragged, int64_t *count,
                                  tenon_error *error)
{
    const tn_window_rule rule = {.side = window, .ragged = ragged, .is_pool = true};
    tn_tiling tiling;
    TN_TRY(tn_tile(&tiling, &rule, TENON_UNSET, height, width, false, error));
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
    TN_TRY(tn_square_grid(num_input_tokens, 0, &side, error));
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
