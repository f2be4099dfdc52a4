/* SPDX-License-Identifier: MIT */
/* The parts of `tenon inspect`: inspect.c describes the connector of a file, inspect_graph.c draws its graph; for files
 * that describe none, inspect_guess.c finds what looks like one, and inspect_survey.c says what else is there. */
#ifndef TN_CLI_INSPECT_H
#define TN_CLI_INSPECT_H

#include "options.h"
#include "tenon/tenon.h"

#include <jansson.h>

/* ---- inspect_graph.c ---- */

/* The graph as tenon_adapter_graph_json tells it; NULL: out of memory. */
json_t *tn_graph_json(const tenon_adapter *adapter);

/* Prints the spaces and the values, with the layers that make them and their parameters. */
void tn_graph_text(const json_t *graph, const tenon_adapter *adapter);

/* Prints a graph for the program `dot`: a frame for each space, in it its values. */
void tn_graph_dot(const json_t *graph, const tenon_adapter *adapter);

/* ---- inspect_guess.c ---- */

enum { TN_GUESS_MODULES = 8, TN_GUESS_TYPES = 8, TN_GUESSES = 8 };

/* A tensor of the file, by name. */
typedef struct tn_named_tensor {
    const char *name;
    int64_t index;
} tn_named_tensor;

/* All of them, sorted by name; freed with free(). NULL: out of memory. */
tn_named_tensor *tn_sort_tensors(const tenon_file *file);

/* Tensors under one prefix that may be a connector. */
typedef struct tn_guess {
    const tn_named_tensor *tensors; /* [count], of the sorted list */
    int64_t count;
    size_t prefix;  /* bytes of their names */
    bool is_called; /* the prefix has a word such as "projector" */
    /* The types whose parameters they are, by names or by order and shapes. */
    const char *types[TN_GUESS_TYPES];
    int num_types; /* 0: none of this version */
    int64_t in_dim, out_dim;
    int64_t hidden_dim; /* 0: the types have no such option */
    int64_t heads;      /* pool_heads that divides in_dim; 0: the types have no such option */
    /* The modules that the first type has under other names: from "linear_1" to "proj1". */
    struct tn_module_name {
        char from[96];
        char to[64];
    } renamed[TN_GUESS_MODULES];
    int num_renamed;
} tn_guess;

/* Finds the best of them, best first; *more: how many there are beyond. */
int tn_guess_connectors(const tenon_file *file, const tn_named_tensor *tensors, tn_guess guesses[TN_GUESSES],
                        int64_t *more);

/* The config in JSON; freed with free(). NULL: out of memory. */
char *tn_guess_config(const tn_guess *guess);

/* ---- inspect_gguf.c: nothing where the file is no GGUF one ---- */

/* The activation that the file asks for, beside the one that the model was trained with. */
void tn_activation_text(const tenon_adapter *adapter);

/* The keys of the header. */
void tn_metadata_text(const tenon_file *file);

/* {"metadata": {"clip.projector_type": "mlp", ...}, "trained_activation": "gelu"}; `adapter` NULL: there is none. */
json_t *tn_gguf_json(const tenon_file *file, const tenon_adapter *adapter);

/* ---- inspect_survey.c ---- */

/* Prints a line for each tensor, in the order of the file. */
void tn_list_tensors(const tenon_file *file);

/* Prints what is in a file that describes no connector; with `all` every tensor. */
void tn_survey_text(const tn_command *command, const char *path, const tenon_file *file, bool all);
json_t *tn_survey_json(const tn_command *command, const char *path, const tenon_file *file);

/* {"model-00002-of-00003.safetensors": 97, ...}: the shards that an index names and that are not there -> their
 * tensors; empty where all are there. */
json_t *tn_absent_shards(const tenon_file *file);

/* A line for each of them. */
void tn_print_absent_shards(const tenon_file *file);

/* ---- inspect_family.c: the public model that a connector is of; nothing where it is of none ---- */

/* The family, and a line for each input: what the encoder must deliver. */
void tn_family_text(const tenon_adapter *adapter);

/* The tensor and the file that each parameter is in. */
void tn_family_sources_text(const tenon_file *file, const tenon_adapter *adapter);

/* {"family": "llava", "inputs": {"features": "..."}, "sources": {"linear_1.weight": {"tensor": ..., "file": ...}}} */
json_t *tn_family_json(const tenon_file *file, const tenon_adapter *adapter);

#endif
