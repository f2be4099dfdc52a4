/* SPDX-License-Identifier: MIT */
/* Families whose connector is one linear layer. */
#include "families/rows.h"

/* ---- paligemma ---- */

static const tn_mark paligemma_marks[] = {TN_ROW_MARK("paligemma"), TN_ROW_NO_MARK};
static const tn_key paligemma_keys[] = {TN_ROW_WIDTH("in_dim", "vision_config.hidden_size"),
                                        TN_ROW_WIDTH("out_dim", "vision_config.projection_dim"), TN_ROW_END};
static const tn_alias paligemma_names[] = {{"proj", "multi_modal_projector.linear"}, {NULL, NULL}};
static const tn_feed paligemma_feeds[] = {
    {"features", "last_hidden_state of the SigLIP encoder, after post_layernorm; no class row; raster order. A program "
                 "that scales the merged rows by the square root of their width divides the tokens by it first"},
    {NULL, NULL}};
static const tn_module paligemma_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "image_features"),
                                              TN_ROW_NO_MODULE};
const tn_family tn_family_paligemma = {"paligemma",       "linear",        paligemma_marks,  paligemma_keys,
                                       {paligemma_names}, paligemma_feeds, paligemma_modules};

/* ---- mllama ---- */

static const tn_mark mllama_marks[] = {TN_ROW_MARK("mllama"), TN_ROW_NO_MARK};
static const tn_key mllama_keys[] = {TN_ROW_WIDTH("in_dim", "vision_config.vision_output_dim"),
                                     TN_ROW_WIDTH("out_dim", "text_config.hidden_size"), TN_ROW_END};
static const tn_alias mllama_names[] = {{"proj", "multi_modal_projector"}, {NULL, NULL}};
static const tn_feed mllama_feeds[] = {
    {"features",
     "last_hidden_state of the vision model: all rows of all tiles, the class row of each tile first and kept; "
     "columns are those of the final state, then of the layers {vision_config.intermediate_layers_indices} "
     "interleaved (column c of layer i at c n + i of n layers)"},
    {NULL, NULL}};
static const tn_module mllama_modules[] = {TN_ROW_WHOLE("multi_modal_projector", "input"), TN_ROW_NO_MODULE};
const tn_family tn_family_mllama = {"mllama",       "linear",     mllama_marks,  mllama_keys,
                                    {mllama_names}, mllama_feeds, mllama_modules};

/* ---- fuyu ---- */

static const tn_mark fuyu_marks[] = {TN_ROW_MARK("fuyu"), TN_ROW_NO_MARK};
static const tn_key fuyu_keys[] = {TN_ROW_END};
static const tn_alias fuyu_names[] = {{"proj", "vision_embed_tokens"}, {NULL, NULL}};
static const tn_feed fuyu_feeds[] = {
    {"features", "pixels of each patch, (row, column, channel) with the channel fastest; there is no encoder; raster "
                 "order"},
    {NULL, NULL}};
static const tn_module fuyu_modules[] = {TN_ROW_WHOLE("vision_embed_tokens", "input"), TN_ROW_NO_MODULE};
const tn_family tn_family_fuyu = {"fuyu", "linear", fuyu_marks, fuyu_keys, {fuyu_names}, fuyu_feeds, fuyu_modules};
