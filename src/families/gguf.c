/* SPDX-License-Identifier: MIT */
/* The projector types of llama.cpp (clip.projector_type): names of tensors and keys as its converter writes them and as
 * its mtmd reads them. llama.cpp computes GELU in its tanh form wherever a model asks for GELU, so that is what these
 * files ask for. */
#include "families/gguf.h"

#include "families/rows.h"
#include <string.h>

/* tn_gguf_config puts the type there, wherever the file has it. */
#define MARKS(type)                                                                                                    \
    {                                                                                                                  \
        {TN_GGUF_MODEL, "", "clip.projector_type", type},                                                              \
        {                                                                                                              \
            NULL, NULL, NULL, NULL                                                                                     \
        }                                                                                                              \
    }

#define TANH_GELU TN_ROW_CONSTANT("activation", "\"gelu_tanh\"")
#define EPS(fallback) TN_ROW_EPS("clip.vision.attention.layer_norm_epsilon", fallback)
#define CLASS_ROWS                                                                                                     \
    {                                                                                                                  \
        .option = "prefix_tokens", .key = "class_rows", .kind = TN_KEY_INT, .fallback = "0", .least = 0, .most = 1     \
    }
#define ENCODER_WIDTH                                                                                                  \
    {                                                                                                                  \
        .option = "in_dim", .key = "clip.vision.embedding_length", .kind = TN_KEY_INT, .least = 1, .most = 1 << 24,    \
        .times = "clip.vision.feature_layer"                                                                           \
    }
#define SCALE_FACTOR(option) TN_ROW_SIDE(option, "clip.vision.projector.scale_factor", "2")
#define MERGE_SIZE TN_ROW_SIDE("spatial_merge_size", "clip.vision.spatial_merge_size", "2")

/* No class of transformers reads such a file. */
static const tn_module no_modules[] = {{NULL, NULL, NULL, NULL}};

/* ---- mlp: LLaVA 1.5, ShareGPT4V, Granite Vision and their kin ---- */

static const tn_mark mlp_marks[] = MARKS("mlp");
static const tn_key mlp_keys[] = {TANH_GELU, CLASS_ROWS, ENCODER_WIDTH, TN_ROW_END};
static const tn_alias mlp_names[] = {{"linear_1", "mm.0"}, {"linear_2", "mm.2"}, {NULL, NULL}};
static const tn_feed mlp_feeds[] = {
    {"features",
     "what the file's vision encoder makes after its last layer (v.blk.*), without a final norm unless the file has "
     "v.post_ln; with clip.vision.feature_layer, these layers side by side; all rows, the class row first where there "
     "is one; the connector drops {prefix_tokens} of them from the front; raster order"},
    {NULL, NULL}};
const tn_family tn_family_gguf_mlp = {"gguf_mlp", "llava", mlp_marks, mlp_keys, {mlp_names}, mlp_feeds, no_modules};

/* ---- qwen2vl_merger, qwen2.5vl_merger: the norm is what the file calls the encoder's last ---- */

static const tn_alias qwen_names[] = {{"ln_q", "v.post_ln"}, {"mlp.0", "mm.0"}, {"mlp.2", "mm.2"}, {NULL, NULL}};
static const tn_feed qwen_feeds[] = {
    {"features",
     "what the file's vision encoder makes after its last layer (v.blk.*), before v.post_ln, which belongs to "
     "the connector; blocks of {spatial_merge_size} x {spatial_merge_size} patches"},
    {NULL, NULL}};
static const tn_mark qwen2vl_marks[] = MARKS("qwen2vl_merger");
static const tn_key qwen2vl_keys[] = {TANH_GELU,     EPS("1e-6"), MERGE_SIZE, TN_ROW_CONSTANT("norm", "\"layernorm\""),
                                      ENCODER_WIDTH, TN_ROW_END};
const tn_family tn_family_gguf_qwen2vl = {"gguf_qwen2vl", "qwen2_vl", qwen2vl_marks, qwen2vl_keys,
                                          {qwen_names},   qwen_feeds, no_modules};

static const tn_mark qwen25vl_marks[] = MARKS("qwen2.5vl_merger");
static const tn_key qwen25vl_keys[] = {TANH_GELU,     EPS("1e-6"), MERGE_SIZE, TN_ROW_CONSTANT("norm", "\"rmsnorm\""),
                                       ENCODER_WIDTH, TN_ROW_END};
const tn_family tn_family_gguf_qwen25vl = {"gguf_qwen2.5vl", "qwen2_vl", qwen25vl_marks, qwen25vl_keys,
                                           {qwen_names},     qwen_feeds, no_modules};

/* ---- internvl, idefics3, llama4: a pixel shuffle first ---- */

static const tn_feed raster_feeds[] = {
    {"features", "what the file's vision encoder makes, after v.post_ln where the file has it; all rows, the class row "
                 "first where there is one; the connector drops {prefix_tokens} of them from the front; raster order"},
    {NULL, NULL}};
static const tn_mark internvl_marks[] = MARKS("internvl");
static const tn_key internvl_keys[] = {
    TANH_GELU,     CLASS_ROWS, SCALE_FACTOR("downsample"), TN_ROW_CONSTANT("ps_version", "\"v2\""),
    ENCODER_WIDTH, TN_ROW_END};
static const tn_alias internvl_names[] = {
    {"layer_norm", "mm.model.mlp.0"}, {"linear_1", "mm.model.mlp.1"}, {"linear_2", "mm.model.mlp.3"}, {NULL, NULL}};
const tn_family tn_family_gguf_internvl = {"gguf_internvl",  "internvl",   internvl_marks, internvl_keys,
                                           {internvl_names}, raster_feeds, no_modules};

static const tn_mark idefics3_marks[] = MARKS("idefics3");
static const tn_key idefics3_keys[] = {CLASS_ROWS, SCALE_FACTOR("scale_factor"), ENCODER_WIDTH, TN_ROW_END};
static const tn_alias idefics3_names[] = {{"proj", "mm.model.fc"}, {NULL, NULL}};
const tn_family tn_family_gguf_idefics3 = {"gguf_idefics3",  "idefics3",   idefics3_marks, idefics3_keys,
                                           {idefics3_names}, raster_feeds, no_modules};

static const tn_mark llama4_marks[] = MARKS("llama4");
static const tn_key llama4_keys[] = {TANH_GELU, SCALE_FACTOR("downsample"), ENCODER_WIDTH, TN_ROW_END};
static const tn_alias llama4_names[] = {
    {"mlp.fc1", "mm.model.mlp.1"}, {"mlp.fc2", "mm.model.mlp.2"}, {"linear_1", "mm.model.fc"}, {NULL, NULL}};
static const tn_feed llama4_feeds[] = {
    {"features",
     "what the file's vision encoder makes, after v.post_ln, without the class row, which is the last; raster order"},
    {NULL, NULL}};
const tn_family tn_family_gguf_llama4 = {"gguf_llama4",  "llama4",     llama4_marks, llama4_keys,
                                         {llama4_names}, llama4_feeds, no_modules};

/* ---- what they were trained with ---- */

static const struct {
    const char *family, *activation;
} trained[] = {{"gguf_mlp", "gelu"},
               {"gguf_qwen2vl", "gelu"},
               {"gguf_qwen2.5vl", "gelu"},
               {"gguf_internvl", "gelu"},
               {"gguf_llama4", "gelu"}};

bool tn_is_gguf(const tn_family *family)
{
    return strcmp(family->marks->model_type, TN_GGUF_MODEL) == 0;
}

const char *tn_gguf_trained(const char *family)
{
    for (size_t i = 0; i < sizeof trained / sizeof trained[0]; i++) {
        if (family != NULL && strcmp(trained[i].family, family) == 0) return trained[i].activation;
    }
    return NULL;
}

const char *tenon_family_trained_activation(const char *family)
{
    return tn_gguf_trained(family);
}
