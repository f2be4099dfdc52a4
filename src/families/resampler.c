/* SPDX-License-Identifier: MIT */
/* Families whose connector attends: Idefics2, from a few latents to the whole image; Molmo2, in windows that a map
 * names.
 */
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

/* ---- molmo2 ---- */

static const tn_mark molmo2_marks[] = {TN_ROW_MARK("molmo2"), TN_ROW_NO_MARK};
static const tn_key molmo2_keys[] = {
    COUNT("num_attention_heads", "adapter_config.num_attention_heads", "16", 4096),
    COUNT("head_dim", "adapter_config.head_dim", "72", 65536),
    COUNT("hidden_dim", "adapter_config.intermediate_size", "18944", 1 << 24),
    {.option = "activation",
     .key = "adapter_config.hidden_act",
     .kind = TN_KEY_CHOICE,
     .fallback = "\"silu\"",
     .choices = tn_activation_choices},
    {.option = "attention_bias", .key = "adapter_config.attention_bias", .kind = TN_KEY_BOOL, .fallback = "true"},
    {.option = "mlp_bias", .key = "adapter_config.mlp_bias", .kind = TN_KEY_BOOL, .fallback = "false"},
    TN_ROW_LAYERS("adapter_config.vision_feature_layer", NULL),
    TN_ROW_LAYERS("adapter_config.vit_layers", NULL),
    TN_ROW_WIDTH("out_dim", "adapter_config.text_hidden_size"),
    TN_ROW_END};
static const tn_alias molmo2_names[] = {{"image_pooling_2d.q_proj", "vision_backbone.image_pooling_2d.wq"},
                                        {"image_pooling_2d.k_proj", "vision_backbone.image_pooling_2d.wk"},
                                        {"image_pooling_2d.v_proj", "vision_backbone.image_pooling_2d.wv"},
                                        {"image_pooling_2d.o_proj", "vision_backbone.image_pooling_2d.wo"},
                                        {"image_projector.gate_proj", "vision_backbone.image_projector.w1"},
                                        {"image_projector.down_proj", "vision_backbone.image_projector.w2"},
                                        {"image_projector.up_proj", "vision_backbone.image_projector.w3"},
                                        {NULL, NULL}};
static const tn_feed molmo2_feeds[] = {
    {"features",
     "outputs of the vision layers of adapter_config.vision_feature_layer (in files of the original vit_layers), "
     "the deeper one first, side by side; no class row, no final norm; crop after crop, each in raster order"},
    {"pooled_patches_idx", "for each token the rows of its image's features that it pools, -1: none"},
    {NULL, NULL}};
static const tn_module molmo2_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "image_features, pooled_patches_idx"),
                                           TN_ROW_NO_MODULE};
const tn_family tn_family_molmo2 = {
    "molmo2", "molmo2", molmo2_marks, molmo2_keys, {molmo2_names, tn_projector_names}, molmo2_feeds, molmo2_modules};
