/* SPDX-License-Identifier: MIT */
/* Families whose connector merges or averages neighbours of a raster before it maps them: InternVL, Idefics3, Gemma 3,
 * Mistral 3, Aya Vision, Llama 4. */
#include "families/rows.h"

/* ---- gemma3 ---- */

static const tn_mark gemma3_marks[] = {TN_ROW_MARK("gemma3"), TN_ROW_NO_MARK};
static const tn_key gemma3_keys[] = {{.option = "pool_window",
                                      .key = "vision_config.image_size",
                                      .kind = TN_KEY_WINDOW,
                                      .fallback = "4",
                                      .patch = "vision_config.patch_size",
                                      .count = "mm_tokens_per_image"},
                                     TN_ROW_EPS("vision_config.layer_norm_eps", "1e-6"),
                                     TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                     TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                     TN_ROW_END};
static const tn_feed gemma3_feeds[] = {
    {"features",
     "last_hidden_state of the SigLIP encoder, after post_layernorm; no class row; raster order; crops of pan "
     "and scan are images of their own"},
    {NULL, NULL}};
static const tn_module gemma3_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "vision_outputs"), TN_ROW_NO_MODULE};
const tn_family tn_family_gemma3 = {"gemma3",     "gemma3",      gemma3_marks, gemma3_keys, {tn_projector_names},
                                    gemma3_feeds, gemma3_modules};

/* ---- internvl ---- */

static const tn_mark internvl_marks[] = {TN_ROW_MARK("internvl"), TN_ROW_NO_MARK};
static const tn_key internvl_keys[] = {TN_ROW_RATIO("downsample", "downsample_ratio", "2"),
                                       TN_ROW_ACTIVATION("projector_hidden_act"),
                                       TN_ROW_STRATEGY("1"),
                                       TN_ROW_LAYERS("vision_feature_layer", "-1"),
                                       TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                       TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                       TN_ROW_END};
static const tn_feed internvl_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the vision tower, for -1 its last_hidden_state; all rows, the "
     "class row first, of which the connector drops {prefix_tokens} from the front; raster order; tiles are "
     "images of their own"},
    {NULL, NULL}};
static const tn_module internvl_modules[] = {{"multi_modal_projector", "image_features", "layer_norm", "linear_2"},
                                             TN_ROW_NO_MODULE};
const tn_family tn_family_internvl = {"internvl",           "internvl",     internvl_marks,  internvl_keys,
                                      {tn_projector_names}, internvl_feeds, internvl_modules};

/* ---- internvl_chat: the original repository's names ---- */

static const tn_mark internvl_chat_marks[] = {TN_ROW_MARK("internvl_chat"), TN_ROW_NO_MARK};
static const tn_choice internvl_versions[] = {{"v1", "\"v1\""}, {"v2", "\"v2\""}, {NULL, NULL}};
static const tn_key internvl_chat_keys[] = {TN_ROW_RATIO("downsample", "downsample_ratio", "2"),
                                            {.option = "ps_version",
                                             .key = "ps_version",
                                             .kind = TN_KEY_CHOICE,
                                             .fallback = "\"v1\"",
                                             .choices = internvl_versions},
                                            TN_ROW_CONSTANT("prefix_tokens", "1"),
                                            TN_ROW_LAYERS("select_layer", "-1"),
                                            TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                            TN_ROW_WIDTH("out_dim", "llm_config.hidden_size"),
                                            TN_ROW_END};
static const tn_alias internvl_chat_names[] = {
    {"layer_norm", "mlp1.0"}, {"linear_1", "mlp1.1"}, {"linear_2", "mlp1.3"}, {NULL, NULL}};
static const tn_feed internvl_chat_feeds[] = {
    {"features", "hidden_states[{select_layer}] of the vision model, for -1 its last_hidden_state; all rows, the class "
                 "row first, which the connector drops; raster order; tiles are images of their own"},
    {NULL, NULL}};
static const tn_module internvl_chat_modules[] = {{"mlp1", "input", "layer_norm", "linear_2"}, TN_ROW_NO_MODULE};
const tn_family tn_family_internvl_chat = {
    "internvl_chat",       "internvl",          internvl_chat_marks,  internvl_chat_keys,
    {internvl_chat_names}, internvl_chat_feeds, internvl_chat_modules};

/* ---- idefics3 and smolvlm ---- */

static const tn_mark idefics3_marks[] = {TN_ROW_MARK("idefics3"), TN_ROW_MARK("smolvlm"), TN_ROW_NO_MARK};
static const tn_key idefics3_keys[] = {TN_ROW_SIDE("scale_factor", "scale_factor", "2"),
                                       TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                       TN_ROW_WIDTH("out_dim", "text_config.hidden_size"), TN_ROW_END};
static const tn_alias idefics3_names[] = {{"", "connector.modality_projection"}, {NULL, NULL}};
static const tn_feed idefics3_feeds[] = {
    {"features", "last_hidden_state of the vision model, after post_layernorm; no class row; raster order; tiles are "
                 "images of their own"},
    {NULL, NULL}};
static const tn_module idefics3_modules[] = {TN_ROW_WHOLE("connector", "image_hidden_states"), TN_ROW_NO_MODULE};
const tn_family tn_family_idefics3 = {"idefics3",       "idefics3",     idefics3_marks,  idefics3_keys,
                                      {idefics3_names}, idefics3_feeds, idefics3_modules};

/* ---- mistral3 ---- */

static const tn_mark mistral3_marks[] = {TN_ROW_MARK("mistral3"), TN_ROW_NO_MARK};
static const tn_key mistral3_keys[] = {TN_ROW_SIDE("spatial_merge_size", "spatial_merge_size", "2"),
                                       TN_ROW_EPS("text_config.rms_norm_eps", "1e-6"),
                                       TN_ROW_ACTIVATION("projector_hidden_act"),
                                       TN_ROW_BIAS("multimodal_projector_bias", "false"),
                                       TN_ROW_LAYERS("vision_feature_layer", "-1"),
                                       TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                       TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                       TN_ROW_END};
static const tn_feed mistral3_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the Pixtral encoder, which has no final norm and no class row; "
     "raster order, image after image; rows and columns that fill no block are left out"},
    {NULL, NULL}};
static const tn_module mistral3_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "image_features, image_sizes"),
                                             TN_ROW_NO_MODULE};
const tn_family tn_family_mistral3 = {"mistral3",           "mistral3",     mistral3_marks,  mistral3_keys,
                                      {tn_projector_names}, mistral3_feeds, mistral3_modules};

/* ---- lighton_ocr: the same with other names and nothing to choose ---- */

static const tn_mark lighton_ocr_marks[] = {TN_ROW_MARK("lighton_ocr"), TN_ROW_NO_MARK};
static const tn_key lighton_ocr_keys[] = {TN_ROW_SIDE("spatial_merge_size", "spatial_merge_size", "2"),
                                          TN_ROW_EPS("text_config.rms_norm_eps", "1e-6"),
                                          TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                          TN_ROW_WIDTH("out_dim", "text_config.hidden_size"), TN_ROW_END};
static const tn_alias lighton_ocr_names[] = {{"", "vision_projection"}, {NULL, NULL}};
static const tn_feed lighton_ocr_feeds[] = {
    {"features", "last_hidden_state of the Pixtral encoder; no class row; raster order, image after image; rows and "
                 "columns that fill no block are left out"},
    {NULL, NULL}};
static const tn_module lighton_ocr_modules[] = {TN_ROW_WHOLE("vision_projection", "image_features, image_sizes"),
                                                TN_ROW_NO_MODULE};
const tn_family tn_family_lighton_ocr = {
    "lighton_ocr",     "mistral3",         lighton_ocr_marks, lighton_ocr_keys, {lighton_ocr_names, tn_projector_names},
    lighton_ocr_feeds, lighton_ocr_modules};

/* ---- aya_vision ---- */

static const tn_mark aya_vision_marks[] = {TN_ROW_MARK("aya_vision"), TN_ROW_NO_MARK};
#define HIDDEN(key_)                                                                                                   \
    {                                                                                                                  \
        .option = "hidden_dim", .key = key_, .kind = TN_KEY_INT, .least = 2, .most = 1 << 24                           \
    }
static const tn_key aya_vision_keys[] = {TN_ROW_SIDE("downsample", "downsample_factor", "2"),
                                         HIDDEN("alignment_intermediate_size"),
                                         HIDDEN("text_config.hidden_size"), /* where the other is not there */
                                         TN_ROW_EPS("adapter_layer_norm_eps", "1e-6"),
                                         TN_ROW_STRATEGY("0"),
                                         TN_ROW_LAYERS("vision_feature_layer", "-1"),
                                         TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                         TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                         TN_ROW_END};
static const tn_feed aya_vision_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the vision tower, for SigLIP's -1 before post_layernorm; the "
     "connector drops {prefix_tokens} rows from the front; raster order; tiles are images of their own"},
    {NULL, NULL}};
static const tn_module aya_vision_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "image_features"),
                                               TN_ROW_NO_MODULE};
const tn_family tn_family_aya_vision = {
    "aya_vision", "aya", aya_vision_marks, aya_vision_keys, {tn_projector_names}, aya_vision_feeds, aya_vision_modules};

/* ---- llama4 ---- */

static const tn_mark llama4_marks[] = {TN_ROW_MARK("llama4"), TN_ROW_NO_MARK};
static const tn_key llama4_keys[] = {TN_ROW_RATIO("downsample", "vision_config.pixel_shuffle_ratio", "2"),
                                     TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                     TN_ROW_WIDTH("out_dim", "text_config.hidden_size"), TN_ROW_END};
static const tn_alias llama4_names[] = {
    {"mlp", "vision_model.vision_adapter.mlp"}, {"linear_1", "multi_modal_projector.linear_1"}, {NULL, NULL}};
static const tn_feed llama4_feeds[] = {
    {"features",
     "rows of the vision model after layernorm_post, without the class row, which is the last of each tile; "
     "raster order; tiles are images of their own"},
    {NULL, NULL}};
static const tn_module llama4_modules[] = {{"vision_adapter", "encoded_patches", "", "mlp.fc2"},
                                           {"multi_modal_projector", "image_features", "linear_1", ""},
                                           TN_ROW_NO_MODULE};
const tn_family tn_family_llama4 = {"llama4",       "llama4",     llama4_marks,  llama4_keys,
                                    {llama4_names}, llama4_feeds, llama4_modules};
