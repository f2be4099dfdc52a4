/* SPDX-License-Identifier: MIT */
/* The config.json beside a file of tensors. */
#include "families/model_config.h"

#include "formats/format.h"
#include <stdlib.h>
#include <string.h>

tenon_status tn_model_file_read(const tenon_file *file, char **source, char **text, tenon_error *error)
{
    enum { most = 1 << 24 };
    tn_input *input = NULL;
    const tenon_status found = tn_input_open_beside(tn_input_path(file->inputs[0]), TN_MODEL_CONFIG, &input, error);
    if (found == TENON_NOT_FOUND) return TENON_OK;
    TN_TRY(found);
    const uint64_t size = tn_input_size(input);
    tenon_status status = TENON_OK;
    if (size > most) {
        status = tn_fail(error, TENON_BAD_FILE, "%s has %llu bytes; a model's config has at most %d",
                         tn_quote(tn_input_path(input)).text, (unsigned long long)size, most);
    }
    if (status == TENON_OK) status = tn_read_header(input, 0, (size_t)size, text, error);
    if (status == TENON_OK && memchr(*text, 0, (size_t)size) != NULL) {
        status = tn_fail(error, TENON_BAD_FILE, "%s holds a byte 0; a model's config is JSON",
                         tn_quote(tn_input_path(input)).text);
    }
    *source = strdup(tn_input_path(input));
    tn_input_close(input);
    if (status == TENON_OK && *source == NULL) status = tn_fail(error, TENON_NO_MEMORY, "out of memory for a path");
    return status;
}
