/* SPDX-License-Identifier: MIT */
/* Families whose connector attends to the whole image from a few latents: Idefics2. */
#include "families/rows.h"

#define COUNT(option_, key_, fallback_, most_)                                                                         \
    {                                                                                                                  \
        .option = option_, .key = key_, .kind = TN_KEY_INT, .fallback = fallback_, .least = 1, .most = most_           \
    }

static const tn_mark idefics2_marks[] = {TN_ROW_MARK("idefics2"), TN_ROW_NO_MARK};
static const tn_key idefics2_keys[] = {
    COUNT("resampler_n_latents", "perceiver_config.resampler_n_latents", "64", 65536),
    COUNT("resampler_depth", "perceiver_config.resampler_depth", "3", 1000),
    COUNT("resampler_n_heads", "perceiver_config.resampler_n_heads", "16", 4096),
    COUNT("resampler_head_dim", "perceiver_config.resampler_head_dim", "96", 65536),
    COUNT("num_key_value_heads", "perceiver_config.num_key_value_heads", "4", 4096),
    {.option = "activation",
     .key = "perceiver_config.hidden_act",
     .kind = TN_KEY_CHOICE,
     .fallback = "\"silu\"",
     .choices = tn_activation_choices},
    {.option = "projection_activation",
     .key = "text_config.hidden_act",
     .kind = TN_KEY_CHOICE,
     .fallback = "\"silu\"",
     .choices = tn_activation_choices},
    TN_ROW_EPS("perceiver_config.rms_norm_eps", "1e-6"),
    COUNT("hidden_dim", "text_config.intermediate_size", "14336", 1 << 24),
    TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
    TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
    TN_ROW_END};
static const tn_alias idefics2_names[] = {{"", "connector"}, {NULL, NULL}};
static const tn_feed idefics2_feeds[] = {
    {"features",
     "last_hidden_state of the vision model, after post_layernorm; no class row; raster order; rows of padding "
     "are masked; tiles are images of their own"},
    {NULL, NULL}};
static const tn_module idefics2_modules[] = {TN_ROW_WHOLE("connector", "image_hidden_states, attention_mask"),
                                             TN_ROW_NO_MODULE};
const tn_family tn_family_idefics2 = {"idefics2",       "idefics2",     idefics2_marks,  idefics2_keys,
                                      {idefics2_names}, idefics2_feeds, idefics2_modules};
