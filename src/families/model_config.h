/* SPDX-License-Identifier: MIT */
/* A public model's config.json: reading it (model_file.c), which family it is of (recognise.c), and what it says
 * about the connector (model_config.c). */
#ifndef TN_FAMILIES_MODEL_CONFIG_H
#define TN_FAMILIES_MODEL_CONFIG_H

#include "core/error.h"
#include "families/family.h"
#include <jansson.h>

typedef struct tn_model_config {
    const tn_family *family;
    const char *scope; /* where the family's keys are, see tn_mark */
    json_t *root;      /* owned */
    tn_quoted source;  /* the file, for messages */
} tn_model_config;

/* The text of the config.json beside the file (of an index: beside the index), and its path; the caller frees both with
 * free(). They stay NULL where there is none. */
tenon_status tn_model_file_read(const tenon_file *file, char **source, char **text, tenon_error *error);

/* Parses the text of a config.json and finds its family, or takes the one that is named (NULL: none is). NULL text: an
 * empty object. `source` is what messages call it. End it with tn_model_config_close. */
tenon_status tn_model_config_parse(tn_model_config *model, const char *source, const char *text, size_t length,
                                   const char *family, tenon_error *error);
void tn_model_config_close(tn_model_config *model);

/* True when the JSON text is a model's config rather than one of tenon's: it has "model_type" or "architectures". */
bool tn_is_model_config(const char *text, size_t length);

/* The value of a dotted key; NULL: missing or null. */
const json_t *tn_model_value(const tn_model_config *model, const char *key);

/* The connector's config as JSON, without widths; the caller frees it with free(). TENON_INVALID: a value that its key
 * cannot have. */
tenon_status tn_model_config_json(const tn_model_config *model, char **json, tenon_error *error);

/* Compares a width that the tensors told, "in_dim" or "out_dim", with what config.json says. `tensor` and its shape
 * are the one to show. TENON_MISMATCH: it says something else. */
tenon_status tn_model_check_width(const tn_model_config *model, const char *option, int64_t width, const char *tensor,
                                  int ndim, const int64_t *shape, tenon_error *error);

/* The width that config.json says for "in_dim" or "out_dim"; 0: it says none. */
tenon_status tn_model_width(const tn_model_config *model, const char *option, int64_t *width, tenon_error *error);

/* "projector_hidden_act "gelu", vision_feature_layer -2": the values that the connector's options came from. */
void tn_model_add_values(tn_text *text, const tn_model_config *model);

/* What each input must be, a line for each: "features: the rows of ..."; the caller frees it with free(). `json` is the
 * connector's config. NULL: no memory. */
char *tn_model_feeding(const tn_model_config *model, const char *json);

#endif
