/* SPDX-License-Identifier: MIT */
/* Qwen's mergers: rows come in blocks of spatial_merge_size x spatial_merge_size patches, as Qwen's processors order
 * them. */
#include "families/rows.h"

static const tn_alias merger_names[] = {{"", "visual.merger"}, {NULL, NULL}};
#define SIDE TN_ROW_SIDE("spatial_merge_size", "vision_config.spatial_merge_size", "2")

/* ---- qwen2_vl ---- */

static const tn_mark qwen2_vl_marks[] = {TN_ROW_MARK("qwen2_vl"), TN_ROW_NO_MARK};
static const tn_key qwen2_vl_keys[] = {SIDE, TN_ROW_CONSTANT("norm", "\"layernorm\""),
                                       TN_ROW_WIDTH("in_dim", "vision_config.embed_dim"),
                                       TN_ROW_WIDTH("out_dim", "vision_config.hidden_size"), TN_ROW_END};
static const tn_feed qwen2_vl_feeds[] = {
    {"features",
     "rows of the last vision block, before the merger's norm; no class row; in blocks of "
     "{vision_config.spatial_merge_size} x {vision_config.spatial_merge_size} patches as the processor orders "
     "them, image after image, frame after frame"},
    {NULL, NULL}};
static const tn_module qwen2_vl_modules[] = {TN_ROW_WHOLE("visual.merger", "x"), TN_ROW_NO_MODULE};
const tn_family tn_family_qwen2_vl = {"qwen2_vl",     "qwen2_vl",     qwen2_vl_marks,  qwen2_vl_keys,
                                      {merger_names}, qwen2_vl_feeds, qwen2_vl_modules};

/* ---- qwen2_5_vl, with the omni models as a whole and as the Thinker alone ---- */

static const tn_mark qwen2_5_vl_marks[] = {TN_ROW_MARK("qwen2_5_vl"),
                                           {"qwen2_5_omni", "thinker_config", NULL, NULL},
                                           TN_ROW_MARK("qwen2_5_omni_thinker"),
                                           TN_ROW_MARK("exaone4_5"),
                                           TN_ROW_NO_MARK};
static const tn_key qwen2_5_vl_keys[] = {SIDE, TN_ROW_CONSTANT("norm", "\"rmsnorm\""),
                                         TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                         TN_ROW_WIDTH("out_dim", "vision_config.out_hidden_size"), TN_ROW_END};
static const tn_feed qwen2_5_vl_feeds[] = {
    {"features", "rows of the last vision block, before the merger's norm; no class row; in blocks of "
                 "{vision_config.spatial_merge_size} x {vision_config.spatial_merge_size} patches. Tokens come in the "
                 "order of the blocks: where those are in the order of attention windows, the model sorts the tokens "
                 "back afterwards"},
    {NULL, NULL}};
const tn_family tn_family_qwen2_5_vl = {"qwen2_5_vl",   "qwen2_vl",       qwen2_5_vl_marks, qwen2_5_vl_keys,
                                        {merger_names}, qwen2_5_vl_feeds, qwen2_vl_modules};

/* ---- qwen3_vl ---- */

static const tn_mark qwen3_vl_marks[] = {TN_ROW_MARK("qwen3_vl"), TN_ROW_MARK("qwen3_vl_moe"), TN_ROW_NO_MARK};
static const tn_key qwen3_vl_keys[] = {SIDE,
                                       {.option = "deepstack",
                                        .key = "vision_config.deepstack_visual_indexes",
                                        .kind = TN_KEY_LENGTH,
                                        .fallback = "3",
                                        .most = 64},
                                       TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                       TN_ROW_WIDTH("out_dim", "vision_config.out_hidden_size"),
                                       TN_ROW_END};
static const tn_alias qwen3_vl_names[] = {
    {"merger", "visual.merger"}, {"deepstack_merger_list", "visual.deepstack_merger_list"}, {NULL, NULL}};
static const tn_feed qwen3_vl_feeds[] = {
    {"features",
     "rows of the last vision block, before the merger's norm; no class row; in blocks of "
     "{vision_config.spatial_merge_size} x {vision_config.spatial_merge_size} patches as the processor orders "
     "them, image after image, frame after frame"},
    {"tap.i",
     "rows of block {vision_config.deepstack_visual_indexes}[i] (its output, 0 is the first block), in the same "
     "order; output deepstack.i is added to the image's rows behind layer i of the language model"},
    {NULL, NULL}};
static const tn_module qwen3_vl_modules[] = {
    {"visual.merger", "x", "merger.norm", "merger.linear_fc2"},
    {"visual.deepstack_merger_list.{i}", "x", "deepstack_merger_list.{i}.norm", "deepstack_merger_list.{i}.linear_fc2"},
    TN_ROW_NO_MODULE};
const tn_family tn_family_qwen3_vl = {"qwen3_vl",       "qwen3_vl",     qwen3_vl_marks,  qwen3_vl_keys,
                                      {qwen3_vl_names}, qwen3_vl_feeds, qwen3_vl_modules};

/* ---- qwen3_omni: the same with the names of Qwen2-VL ---- */

static const tn_mark qwen3_omni_marks[] = {
    {"qwen3_omni_moe", "thinker_config", NULL, NULL}, TN_ROW_MARK("qwen3_omni_moe_thinker"), TN_ROW_NO_MARK};
#define LIST(i)                                                                                                        \
    {"deepstack_merger_list." #i ".norm", "visual.merger_list." #i ".ln_q"},                                           \
        {"deepstack_merger_list." #i ".linear_fc1", "visual.merger_list." #i ".mlp.0"},                                \
    {                                                                                                                  \
        "deepstack_merger_list." #i ".linear_fc2", "visual.merger_list." #i ".mlp.2"                                   \
    }
static const tn_alias qwen3_omni_names[] = {{"merger.norm", "visual.merger.ln_q"},
                                            {"merger.linear_fc1", "visual.merger.mlp.0"},
                                            {"merger.linear_fc2", "visual.merger.mlp.2"},
                                            LIST(0),
                                            LIST(1),
                                            LIST(2),
                                            LIST(3),
                                            {NULL, NULL}};
static const tn_module qwen3_omni_modules[] = {
    {"visual.merger", "hidden", "merger.norm", "merger.linear_fc2"},
    {"visual.merger_list.{i}", "hidden", "deepstack_merger_list.{i}.norm", "deepstack_merger_list.{i}.linear_fc2"},
    TN_ROW_NO_MODULE};
const tn_family tn_family_qwen3_omni = {"qwen3_omni",       "qwen3_vl",     qwen3_omni_marks,  qwen3_vl_keys,
                                        {qwen3_omni_names}, qwen3_vl_feeds, qwen3_omni_modules};

/* ---- qwen3_5: without DeepStack ---- */

static const tn_mark qwen3_5_marks[] = {TN_ROW_MARK("qwen3_5"), TN_ROW_MARK("qwen3_5_moe"), TN_ROW_NO_MARK};
static const tn_key qwen3_5_keys[] = {SIDE, TN_ROW_CONSTANT("deepstack", "0"),
                                      TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                      TN_ROW_WIDTH("out_dim", "vision_config.out_hidden_size"), TN_ROW_END};
static const tn_alias qwen3_5_names[] = {{"merger", "visual.merger"}, {NULL, NULL}};
const tn_family tn_family_qwen3_5 = {"qwen3_5",       "qwen3_vl",     qwen3_5_marks,   qwen3_5_keys,
                                     {qwen3_5_names}, qwen2_vl_feeds, qwen2_vl_modules};
