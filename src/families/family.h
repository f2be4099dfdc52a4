/* SPDX-License-Identifier: MIT */
/* Families: how public models name and configure their connectors. Tables of data; what is computed is the connector's.
 *
 * A family is one row: by which entries of config.json it is recognised, which of its keys become options of the
 * connector, under which names the parameters are stored, and what the encoder must deliver. A new family of a known
 * connector is such a row in one of the files here and its name in family.c. */
#ifndef TN_FAMILIES_FAMILY_H
#define TN_FAMILIES_FAMILY_H

#include "tenon/tenon.h"

/* config.json has this "model_type". With `key` (dotted) it must also have `value` there, as a string or among the
 * strings of a list. The family's keys are looked up in the object at `scope` (dotted; "": the whole file). */
typedef struct tn_mark {
    const char *model_type, *scope, *key, *value;
} tn_mark;

/* What a value of config.json may be, and what becomes of it. */
typedef enum tn_key_kind {
    TN_KEY_INT,
    TN_KEY_REAL,
    TN_KEY_BOOL,
    TN_KEY_CHOICE,  /* a string of `choices` */
    TN_KEY_LENGTH,  /* a list; the option is its length */
    TN_KEY_LAYERS,  /* an integer or a list of integers: numbers of layers; there is no option */
    TN_KEY_PAIRS,   /* a list of pairs of integers; the option is the list of their numbers */
    TN_KEY_INVERSE, /* 1 / n of an integer n, which is the option: 0.5 -> 2 */
    TN_KEY_WINDOW   /* rows of the patch grid over rows of the token grid, see tn_key */
} tn_key_kind;

/* Their value ("*": any string) and ours, which is JSON. */
typedef struct tn_choice {
    const char *theirs, *ours;
} tn_choice;

/* A key of config.json (dotted, in the family's scope; NULL: a constant) and the option that it sets. "in_dim" and
 * "out_dim" set nothing, because the tensors tell the widths; they are compared with them. NULL: only checked. */
typedef struct tn_key {
    const char *option, *key;
    tn_key_kind kind;
    const char
        *fallback;      /* JSON: what the model's class takes where the key is missing or null; NULL: no option then */
    double least, most; /* of a number, or of a list's length */
    const tn_choice *choices;
    const char *times; /* "in_dim": a key that may hold a list, whose length multiplies the width */
    const char *patch; /* TN_KEY_WINDOW: floor(value of `key` / value of `patch`) patches a side */
    const char *count; /* and floor(sqrt(value of `count`)) tokens a side */
} tn_key;

/* A parameter, or all that begin with `ours` ("": all), and its name in a checkpoint. */
typedef struct tn_alias {
    const char *ours, *theirs;
} tn_alias;

/* What an input must be. "{key}" stands for a value of config.json, or of the connector's config. */
typedef struct tn_feed {
    const char *input, *rows;
} tn_feed;

/* A module of the model's class in transformers that computes a part of the connector: the end of its path ("{i}"
 * stands for each number), the arguments of its forward, and the first and the last layer of the graph that it
 * computes, by the names of their parameters, with the layers without parameters around them. "": from the features
 * without prefix rows on; to the end. */
typedef struct tn_module {
    const char *path, *arguments, *first, *last;
} tn_module;

enum { TN_MAX_SCHEMES = 4, TN_MAX_NAMES = 32 };

typedef struct tn_family {
    const char *name;
    const char *connector; /* the type */
    const tn_mark *marks;  /* ends with model_type NULL, as the other lists with their first field */
    const tn_key *keys;
    const tn_alias *names[TN_MAX_SCHEMES]; /* Hugging Face's names first, then those of others; each at most
                                             TN_MAX_NAMES long. The scheme that has most parameters is taken */
    const tn_feed *feeds;
    const tn_module *modules;
} tn_family;

/* The table, sorted so that of several families whose marks match the first is meant. */
extern const tn_family *const tn_families[];
size_t tn_num_families(void);

/* NULL: there is none of that name. */
const tn_family *tn_family_find(const char *name);

/* Of several settings: names of activations, true everywhere. */
extern const tn_choice tn_activation_choices[];

/* The rows, each in the file of its lineage. */
extern const tn_family tn_family_pixtral, tn_family_llava_original, tn_family_llava, tn_family_video_llava,
    tn_family_vip_llava, tn_family_fast_vlm, tn_family_janus, tn_family_deepseek_vl, tn_family_paligemma,
    tn_family_mllama, tn_family_fuyu, tn_family_qwen2_vl, tn_family_qwen2_5_vl, tn_family_qwen3_vl,
    tn_family_qwen3_omni, tn_family_qwen3_5, tn_family_gemma3, tn_family_internvl, tn_family_internvl_chat,
    tn_family_idefics2, tn_family_idefics3, tn_family_mistral3, tn_family_lighton_ocr, tn_family_aya_vision,
    tn_family_llama4, tn_family_molmo2, tn_family_llava_next, tn_family_llava_onevision, tn_family_gguf_mlp,
    tn_family_gguf_qwen2vl, tn_family_gguf_qwen25vl, tn_family_gguf_internvl, tn_family_gguf_idefics3,
    tn_family_gguf_llama4;

#endif
