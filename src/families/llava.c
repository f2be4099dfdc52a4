/* SPDX-License-Identifier: MIT */
/* LLaVA 1.5 and its kin: linear layers with an activation between them, row by row. */
#include "families/rows.h"

const tn_choice tn_strategy_choices[] = {{"default", "1"}, {"full", "0"}, {NULL, NULL}};
const tn_alias tn_projector_names[] = {{"", "multi_modal_projector"}, {NULL, NULL}};

/* ---- llava ---- */

static const tn_mark llava_marks[] = {TN_ROW_MARK("llava"), TN_ROW_NO_MARK};
static const tn_key llava_keys[] = {TN_ROW_ACTIVATION("projector_hidden_act"),
                                    TN_ROW_BIAS("multimodal_projector_bias", "true"),
                                    TN_ROW_STRATEGY("1"),
                                    TN_ROW_LAYERS("vision_feature_layer", "-2"),
                                    TN_ROW_LAYERS_WIDTH("vision_config.hidden_size", "vision_feature_layer"),
                                    TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                    TN_ROW_END};
static const tn_feed llava_feeds[] = {
    {"features", "hidden_states[{vision_feature_layer}] of the vision tower (0 is the embedding, -1 the last layer "
                 "before any final norm), of several layers side by side in this order; all rows, CLIP's class row "
                 "first, of which the connector drops {prefix_tokens} from the front; raster order"},
    {NULL, NULL}};
static const tn_module llava_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "image_features"), TN_ROW_NO_MODULE};
const tn_family tn_family_llava = {"llava",     "llava",      llava_marks, llava_keys, {tn_projector_names},
                                   llava_feeds, llava_modules};

/* ---- pixtral: the same classes over another encoder ---- */

static const tn_mark pixtral_marks[] = {{"llava", "", "vision_config.model_type", "pixtral"}, TN_ROW_NO_MARK};
static const tn_feed pixtral_feeds[] = {
    {"features", "hidden_states[{vision_feature_layer}] of the Pixtral encoder, which has no final norm and no class "
                 "row; raster order, image after image; the connector drops {prefix_tokens} rows from the front"},
    {NULL, NULL}};
const tn_family tn_family_pixtral = {"pixtral",     "llava",      pixtral_marks, llava_keys, {tn_projector_names},
                                     pixtral_feeds, llava_modules};

/* ---- llava_original: the names of the repository that LLaVA was trained in ---- */

static const tn_mark original_marks[] = {TN_ROW_MARK("llava_llama"),
                                         TN_ROW_MARK("llava_mistral"),
                                         TN_ROW_MARK("llava_mpt"),
                                         TN_ROW_MARK("llava_qwen"),

                                         {"llava", "", "architectures", "LlavaLlamaForCausalLM"},
                                         {"llava", "", "architectures", "LlavaMptForCausalLM"},
                                         {"llava", "", "architectures", "LlavaMistralForCausalLM"},
                                         TN_ROW_NO_MARK};
static const tn_choice original_features[] = {{"patch", "1"}, {"cls_patch", "0"}, {NULL, NULL}};
static const tn_choice original_depths[] = {{"linear", "1"},          {"identity", "0"},   {"mlp1x_gelu", "1"},
                                            {"mlp2x_gelu", "2"},      {"mlp3x_gelu", "3"}, {"mlp4x_gelu", "4"},
                                            {"mlp2x_gelu_Norm", "2"}, {NULL, NULL}};
/* Rows of several tiles are packed otherwise. */
static const tn_choice original_packings[] = {{"flat", "0"}, {NULL, NULL}};
static const tn_choice original_norms[] = {{"mlp2x_gelu_Norm", "true"}, {"*", "false"}, {NULL, NULL}};
static const tn_key original_keys[] = {
    {.option = "depth", .key = "mm_projector_type", .kind = TN_KEY_CHOICE, .fallback = "1", .choices = original_depths},
    {.option = "norm", .key = "mm_projector_type", .kind = TN_KEY_CHOICE, .choices = original_norms},
    {.option = "prefix_tokens",
     .key = "mm_vision_select_feature",
     .kind = TN_KEY_CHOICE,
     .fallback = "1",
     .choices = original_features},
    TN_ROW_LAYERS("mm_vision_select_layer", "-2"),
    {.key = "mm_patch_merge_type", .kind = TN_KEY_CHOICE, .choices = original_packings},
    TN_ROW_WIDTH("in_dim", "mm_hidden_size"),
    TN_ROW_WIDTH("out_dim", "hidden_size"),
    TN_ROW_END};
static const tn_alias original_mlp[] = {{"linear_1", "mm_projector.0"},
                                        {"linear_2", "mm_projector.2"},
                                        {"linear_3", "mm_projector.4"},
                                        {"linear_4", "mm_projector.6"},
                                        {NULL, NULL}};
static const tn_alias original_linear[] = {{"linear_1", "mm_projector"}, {NULL, NULL}};
static const tn_alias original_norm[] = {{"linear_1", "mm_projector.0"},
                                         {"norm_1", "mm_projector.1"},
                                         {"linear_2", "mm_projector.3"},
                                         {"norm_2", "mm_projector.4"},
                                         {NULL, NULL}};
static const tn_feed original_feeds[] = {
    {"features", "hidden_states[{mm_vision_select_layer}] of the vision tower; all rows, CLIP's class row first, of "
                 "which the connector drops {prefix_tokens} from the front; raster order"},
    {NULL, NULL}};
static const tn_module llava_original_modules[] = {TN_ROW_WHOLE("mm_projector", "image_features"), TN_ROW_NO_MODULE};
const tn_family tn_family_llava_original = {"llava_original",
                                            "llava",
                                            original_marks,
                                            original_keys,
                                            {original_mlp, original_linear, original_norm},
                                            original_feeds,
                                            llava_original_modules};

/* ---- video_llava: its image path ---- */

static const tn_mark video_llava_marks[] = {TN_ROW_MARK("video_llava"), TN_ROW_NO_MARK};
static const tn_feed video_llava_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the image tower; all rows, the class row first, of which the "
     "connector drops {prefix_tokens} from the front; frames of the video tower keep their class row: "
     "prefix_tokens 0"},
    {NULL, NULL}};
const tn_family tn_family_video_llava = {"video_llava",        "llava",           video_llava_marks, llava_keys,
                                         {tn_projector_names}, video_llava_feeds, llava_modules};

/* ---- vip_llava ---- */

static const tn_mark vip_llava_marks[] = {TN_ROW_MARK("vipllava"), TN_ROW_NO_MARK};
static const tn_key vip_llava_keys[] = {TN_ROW_ACTIVATION("projector_hidden_act"),
                                        TN_ROW_EPS("projector_layernorm_eps", "1e-5"),
                                        TN_ROW_CONSTANT("prefix_tokens", "1"),
                                        TN_ROW_LAYERS("vision_feature_layer", "[-2, -5, -8, -11, 6]"),
                                        TN_ROW_LAYERS_WIDTH("vision_config.hidden_size", "vision_feature_layer"),
                                        TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                        TN_ROW_END};
static const tn_feed vip_llava_feeds[] = {
    {"features",
     "hidden_states of the layers {vision_feature_layer} of the vision tower side by side in this order (0 is "
     "the embedding); all rows, CLIP's class row first, which the connector drops; raster order"},
    {NULL, NULL}};
static const tn_module vip_llava_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "hidden_states"), TN_ROW_NO_MODULE};
const tn_family tn_family_vip_llava = {"vip_llava",          "vip_llava",     vip_llava_marks,  vip_llava_keys,
                                       {tn_projector_names}, vip_llava_feeds, vip_llava_modules};

/* ---- fast_vlm ---- */

static const tn_mark fast_vlm_marks[] = {TN_ROW_MARK("fast_vlm"), TN_ROW_NO_MARK};
static const tn_key fast_vlm_keys[] = {TN_ROW_ACTIVATION("projector_hidden_act"),
                                       TN_ROW_BIAS("multimodal_projector_bias", "true"),
                                       TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                       TN_ROW_WIDTH("out_dim", "text_config.hidden_size"), TN_ROW_END};
static const tn_feed fast_vlm_feeds[] = {
    {"features",
     "last_hidden_state of the convolutional tower, (images, width, rows, columns), as rows in raster order; "
     "no class row"},
    {NULL, NULL}};
const tn_family tn_family_fast_vlm = {"fast_vlm",           "llava",        fast_vlm_marks, fast_vlm_keys,
                                      {tn_projector_names}, fast_vlm_feeds, llava_modules};

/* ---- janus: what it understands images with ---- */

static const tn_mark janus_marks[] = {TN_ROW_MARK("janus"), TN_ROW_NO_MARK};
static const tn_key janus_keys[] = {
    TN_ROW_ACTIVATION("vision_config.hidden_act"),
    {.option = "depth", .key = "vision_config.depth", .kind = TN_KEY_INT, .fallback = "2", .least = 1, .most = 4},
    TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
    TN_ROW_WIDTH("out_dim", "vision_config.projection_dim"),
    TN_ROW_END};
static const tn_alias janus_names[] = {{"linear_1", "aligner.fc1"},
                                       {"linear_2", "aligner.hidden_layers.0"},
                                       {"linear_3", "aligner.hidden_layers.1"},
                                       {"linear_4", "aligner.hidden_layers.2"},
                                       {NULL, NULL}};
static const tn_feed janus_feeds[] = {
    {"features", "last_hidden_state of the vision model, after post_layernorm; no class row; raster order"},
    {NULL, NULL}};
static const tn_module janus_modules[] = {TN_ROW_WHOLE("aligner", "hidden_states"), TN_ROW_NO_MODULE};
const tn_family tn_family_janus = {"janus",       "llava",     janus_marks,  janus_keys,
                                   {janus_names}, janus_feeds, janus_modules};

/* ---- deepseek_vl ---- */

static const tn_mark deepseek_vl_marks[] = {TN_ROW_MARK("deepseek_vl"), TN_ROW_NO_MARK};
static const tn_key deepseek_vl_keys[] = {TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                          TN_ROW_WIDTH("out_dim", "text_config.hidden_size"), TN_ROW_END};
static const tn_alias deepseek_vl_names[] = {
    {"linear_1", "aligner.linear1"}, {"linear_2", "aligner.linear2"}, {NULL, NULL}};
static const tn_feed deepseek_vl_feeds[] = {
    {"features", "last_hidden_state of the SigLIP encoder, after post_layernorm; no class row; raster order"},
    {NULL, NULL}};
static const tn_module deepseek_vl_modules[] = {TN_ROW_WHOLE("aligner", "vision_encodings"), TN_ROW_NO_MODULE};
const tn_family tn_family_deepseek_vl = {"deepseek_vl",       "llava",           deepseek_vl_marks,  deepseek_vl_keys,
                                         {deepseek_vl_names}, deepseek_vl_feeds, deepseek_vl_modules};
