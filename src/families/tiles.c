/* SPDX-License-Identifier: MIT */
/* Families whose images are cut into tiles, which the connector puts together again: LLaVA-NeXT, LLaVA-OneVision. */
#include "families/rows.h"

#define PINPOINTS(fallback_)                                                                                           \
    {                                                                                                                  \
        .option = "image_grid_pinpoints", .key = "image_grid_pinpoints", .kind = TN_KEY_PAIRS, .fallback = fallback_,  \
        .least = 1, .most = 1 << 20                                                                                    \
    }
#define TILE(fallback_)                                                                                                \
    {                                                                                                                  \
        .option = "image_size", .key = "vision_config.image_size", .kind = TN_KEY_INT, .fallback = fallback_,          \
        .least = 1, .most = 1 << 20                                                                                    \
    }

static const tn_choice strategies[] = {{"default", "0"}, {"full", "0"}, {NULL, NULL}};
#define STRATEGY                                                                                                       \
    {                                                                                                                  \
        .key = "vision_feature_select_strategy", .kind = TN_KEY_CHOICE, .choices = strategies                          \
    }
static const tn_alias names[] = {{"linear_1", "multi_modal_projector.linear_1"},
                                 {"linear_2", "multi_modal_projector.linear_2"},
                                 {"image_newline", "image_newline"},
                                 {NULL, NULL}};
static const tn_module modules[] = {{"multi_modal_projector", "image_features", "", "linear_2"}, TN_ROW_NO_MODULE};

/* ---- llava_next ---- */

static const tn_mark llava_next_marks[] = {TN_ROW_MARK("llava_next"), TN_ROW_NO_MARK};
static const tn_key llava_next_keys[] = {TILE("336"),
                                         PINPOINTS(NULL),
                                         TN_ROW_ACTIVATION("projector_hidden_act"),
                                         TN_ROW_BIAS("multimodal_projector_bias", "true"),
                                         STRATEGY,
                                         TN_ROW_LAYERS("vision_feature_layer", "-2"),
                                         TN_ROW_LAYERS_WIDTH("vision_config.hidden_size", "vision_feature_layer"),
                                         TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                         TN_ROW_END};
static const tn_feed llava_next_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the vision tower, of several layers side by side in this order, "
     "without the class row; tile after tile, the whole image first, each in raster order; the tiles of an "
     "image are the frames of its grid (tiles, rows, columns)"},
    {"image_sizes", "height and width of each picture in pixels before it is resized"},
    {NULL, NULL}};
const tn_family tn_family_llava_next = {"llava_next", "llava_next",     llava_next_marks, llava_next_keys,
                                        {names},      llava_next_feeds, modules};

/* ---- llava_onevision ---- */

static const tn_mark llava_onevision_marks[] = {TN_ROW_MARK("llava_onevision"), TN_ROW_NO_MARK};
static const tn_choice aspect_ratios[] = {
    {"anyres_max_4", "4"}, {"anyres_max_6", "6"}, {"anyres_max_9", "9"}, {"anyres_max_16", "16"}, {NULL, NULL}};
static const tn_key llava_onevision_keys[] = {TILE("384"),
                                              PINPOINTS(NULL),
                                              {.option = "max_num_patches",
                                               .key = "vision_aspect_ratio",
                                               .kind = TN_KEY_CHOICE,
                                               .fallback = "9",
                                               .choices = aspect_ratios},
                                              TN_ROW_ACTIVATION("projector_hidden_act"),
                                              TN_ROW_BIAS("multimodal_projector_bias", "true"),
                                              STRATEGY,
                                              TN_ROW_LAYERS("vision_feature_layer", "-1"),
                                              TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                              TN_ROW_WIDTH("out_dim", "text_config.hidden_size"),
                                              TN_ROW_END};
static const tn_feed llava_onevision_feeds[] = {
    {"features",
     "hidden_states[{vision_feature_layer}] of the SigLIP tower, for -1 before post_layernorm; no class row; "
     "tile after tile, the whole image first, each in raster order; the tiles of an image are the frames of "
     "its grid (tiles, rows, columns). Frames of a clip with `video=true`"},
    {"image_sizes", "height and width of each picture in pixels before it is resized"},
    {NULL, NULL}};
const tn_family tn_family_llava_onevision = {"llava_onevision",
                                             "llava_onevision",
                                             llava_onevision_marks,
                                             llava_onevision_keys,
                                             {names},
                                             llava_onevision_feeds,
                                             modules};
