/* SPDX-License-Identifier: MIT */
/* The projector types of llama.cpp (clip.projector_type): names of tensors and keys as its converter writes them and as
 * its mtmd reads them. llama.cpp computes GELU in its tanh form wherever a model asks for GELU, so that is what these
 * files ask for. */
#include "families/gguf.h"

#include <string.h>

/* tn_gguf_config puts the type there, wherever the file has it. */
#define MARKS(type)                                                                                                    \
    {                                                                                                                  \
        {TN_GGUF_MODEL, "", "clip.projector_type", type},                                                              \
        {                                                                                                              \
            NULL, NULL, NULL, NULL                                                                                     \
        }                                                                                                              \
    }

#define TANH_GELU                                                                                                      \
    {                                                                                                                  \
        .option = "activation", .fallback = "\"gelu_tanh\""                                                            \
    }
#define CLASS_ROWS                                                                                                     \
    {                                                                                                                  \
        .option = "prefix_tokens", .key = "class_rows", .kind = TN_KEY_INT, .fallback = "0", .least = 0, .most = 1     \
    }
#define ENCODER_WIDTH                                                                                                  \
    {                                                                                                                  \
        .option = "in_dim", .key = "clip.vision.embedding_length", .kind = TN_KEY_INT, .least = 1, .most = 1 << 24,    \
        .times = "clip.vision.feature_layer"                                                                           \
    }

/* No class of transformers reads such a file. */
static const tn_module no_modules[] = {{NULL, NULL, NULL, NULL}};

/* ---- mlp: LLaVA 1.5, ShareGPT4V, Granite Vision and their kin ---- */

static const tn_mark mlp_marks[] = MARKS("mlp");
static const tn_key mlp_keys[] = {TANH_GELU, CLASS_ROWS, ENCODER_WIDTH, {.option = NULL}};
static const tn_alias mlp_names[] = {{"linear_1", "mm.0"}, {"linear_2", "mm.2"}, {NULL, NULL}};
static const tn_feed mlp_feeds[] = {
    {"features",
     "what the file's vision encoder makes after its last layer (v.blk.*), without a final norm unless the file has "
     "v.post_ln; with clip.vision.feature_layer, these layers side by side; all rows, the class row first where there "
     "is one; the connector drops {prefix_tokens} of them from the front; raster order"},
    {NULL, NULL}};
const tn_family tn_family_gguf_mlp = {"gguf_mlp", "llava", mlp_marks, mlp_keys, {mlp_names}, mlp_feeds, no_modules};

/* ---- what they were trained with ---- */

static const struct {
    const char *family, *activation;
} trained[] = {{"gguf_mlp", "gelu"}};

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
