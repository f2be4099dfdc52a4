/* SPDX-License-Identifier: MIT */
/* LLaVA 1.5 and its kin: a few linear layers with an activation between them, row by row. */
#include "families/family.h"

/* Numbers of layers count from the end where they are negative, as in Python. */
#define LAYERS(key_, fallback_)                                                                                        \
    {                                                                                                                  \
        .key = key_, .kind = TN_KEY_LAYERS, .fallback = fallback_, .least = -1000, .most = 1000                        \
    }
#define WIDTH(option_, key_)                                                                                           \
    {                                                                                                                  \
        .option = option_, .key = key_, .kind = TN_KEY_INT, .least = 1, .most = 1 << 24                                \
    }
#define ACTIVATION(key_)                                                                                               \
    {                                                                                                                  \
        .option = "activation", .key = key_, .kind = TN_KEY_CHOICE, .fallback = "\"gelu\"",                            \
        .choices = tn_activation_choices                                                                               \
    }

/* transformers drops the first row of every image with "default", whatever the tower is. */
static const tn_choice select_strategies[] = {{"default", "1"}, {"full", "0"}, {NULL, NULL}};
#define STRATEGY(fallback_)                                                                                            \
    {                                                                                                                  \
        .option = "prefix_tokens", .key = "vision_feature_select_strategy", .kind = TN_KEY_CHOICE,                     \
        .fallback = fallback_, .choices = select_strategies                                                            \
    }

static const tn_alias projector_names[] = {
    {"proj1", "multi_modal_projector.linear_1"}, {"proj2", "multi_modal_projector.linear_2"}, {NULL, NULL}};

/* ---- llava ---- */

static const tn_mark llava_marks[] = {{"llava", "", NULL, NULL}, {NULL, NULL, NULL, NULL}};
static const tn_key llava_settings[] = {ACTIVATION("projector_hidden_act"),
                                        STRATEGY("1"),
                                        LAYERS("vision_feature_layer", "-2"),
                                        {.option = "in_dim",
                                         .key = "vision_config.hidden_size",
                                         .kind = TN_KEY_INT,
                                         .least = 1,
                                         .most = 1 << 24,
                                         .times = "vision_feature_layer"},
                                        WIDTH("out_dim", "text_config.hidden_size"),
                                        {.option = NULL}};
static const tn_feed llava_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the vision tower (0 is the embedding, -1 the last layer before "
     "any final norm), of several layers side by side in this order; all rows, CLIP's class row first; "
     "the connector drops {prefix_tokens} of them from the front; raster order"},
    {NULL, NULL}};
const tn_family tn_family_llava = {"llava", "mlp_2layer", llava_marks, llava_settings, {projector_names}, llava_feeds};

/* ---- pixtral: the same classes over another tower ---- */

static const tn_mark pixtral_marks[] = {{"llava", "", "vision_config.model_type", "pixtral"}, {NULL, NULL, NULL, NULL}};
static const tn_feed pixtral_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the Pixtral tower, which has no final norm and no class row; "
     "raster order, image after image; the connector drops {prefix_tokens} of them from the front"},
    {NULL, NULL}};
const tn_family tn_family_pixtral = {"pixtral",      "mlp_2layer",      pixtral_marks,
                                     llava_settings, {projector_names}, pixtral_feeds};

/* ---- llava_original: the names of the repository that LLaVA was trained in ---- */

static const tn_mark original_marks[] = {{"llava_llama", "", NULL, NULL},
                                         {"llava_mistral", "", NULL, NULL},
                                         {"llava_mpt", "", NULL, NULL},
                                         {"llava_qwen", "", NULL, NULL},
                                         {"llava", "", "architectures", "LlavaLlamaForCausalLM"},
                                         {NULL, NULL, NULL, NULL}};
static const tn_choice original_features[] = {{"patch", "1"}, {"cls_patch", "0"}, {NULL, NULL}};
static const tn_choice original_types[] = {{"mlp2x_gelu", "\"gelu\""}, {NULL, NULL}};
static const tn_key original_settings[] = {
    {.option = "activation", .key = "mm_projector_type", .kind = TN_KEY_CHOICE, .choices = original_types},
    {.option = "prefix_tokens",
     .key = "mm_vision_select_feature",
     .kind = TN_KEY_CHOICE,
     .fallback = "1",
     .choices = original_features},
    LAYERS("mm_vision_select_layer", "-2"),
    WIDTH("in_dim", "mm_hidden_size"),
    WIDTH("out_dim", "hidden_size"),
    {.option = NULL}};
static const tn_alias original_names[] = {{"proj1", "mm_projector.0"}, {"proj2", "mm_projector.2"}, {NULL, NULL}};
static const tn_feed original_feeds[] = {
    {"features", "hidden_states[{mm_vision_select_layer}] of the vision tower; all rows, CLIP's class row first; the "
                 "connector drops the first {prefix_tokens}; raster order"},
    {NULL, NULL}};
const tn_family tn_family_llava_original = {"llava_original",  "mlp_2layer",     original_marks,
                                            original_settings, {original_names}, original_feeds};

/* ---- video_llava: its image path ---- */

static const tn_mark video_llava_marks[] = {{"video_llava", "", NULL, NULL}, {NULL, NULL, NULL, NULL}};
static const tn_feed video_llava_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the image tower; all rows, the class row first; the connector "
     "drops {prefix_tokens} of them from the front; frames of the video tower keep their class row: `prefix_tokens=0`"},
    {NULL, NULL}};
const tn_family tn_family_video_llava = {"video_llava",  "mlp_2layer",      video_llava_marks,
                                         llava_settings, {projector_names}, video_llava_feeds};

/* ---- paligemma ---- */

static const tn_mark paligemma_marks[] = {{"paligemma", "", NULL, NULL}, {NULL, NULL, NULL, NULL}};
static const tn_key paligemma_settings[] = {
    WIDTH("in_dim", "vision_config.hidden_size"), WIDTH("out_dim", "vision_config.projection_dim"), {.option = NULL}};
static const tn_alias paligemma_names[] = {{"proj", "multi_modal_projector.linear"}, {NULL, NULL}};
static const tn_feed paligemma_feeds[] = {
    {"features",
     "last_hidden_state of the SigLIP tower, after post_layernorm; no class row; raster order. A program that "
     "scales the merged rows by sqrt(width) divides the tokens by it first"},
    {NULL, NULL}};
const tn_family tn_family_paligemma = {"paligemma",        "linear",          paligemma_marks,
                                       paligemma_settings, {paligemma_names}, paligemma_feeds};
