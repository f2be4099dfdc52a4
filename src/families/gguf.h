/* SPDX-License-Identifier: MIT */
/* The projectors of llama.cpp's mmproj files, which are families too: a GGUF header's keys take the place of
 * config.json. */
#ifndef TN_FAMILIES_GGUF_H
#define TN_FAMILIES_GGUF_H

#include "families/family.h"

/* What stands in "model_type" for a GGUF file. */
#define TN_GGUF_MODEL "gguf"

/* The config of an mmproj file as JSON: "model_type", the keys that begin with "clip." as nested objects, "class_rows",
 * the class rows that its vision encoder delivers before the patches. `source` is what messages call it. The caller
 * frees it with free(). TENON_NOT_FOUND: the file holds no projector, or one of a type that is not known. */
tenon_status tn_gguf_config(const tenon_file *file, const char *source, char **json, tenon_error *error);

/* True for a projector of mmproj files. */
bool tn_is_gguf(const tn_family *family);

/* The activation that a family's models were trained with where llama.cpp computes another one; else NULL. */
const char *tn_gguf_trained(const char *family);

#endif
