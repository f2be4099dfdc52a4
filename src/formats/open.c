/* SPDX-License-Identifier: MIT */
/* Opening a file of tensors: identify.c tells its kind, and the format's opener makes the entries. */
#include "formats/format.h"

#include "core/error.h"
#include "core/versioned.h"
#include <stdlib.h>
#include <string.h>

void tenon_file_options_init(tenon_file_options *options)
{
    *options = (tenon_file_options){.size = sizeof *options};
}

static tenon_status open_input(tenon_file *file, const char *path, tenon_error *error)
{
    tn_input *input = NULL;
    TN_TRY(tn_input_open(path, &input, error));
    TN_TRY(tn_file_own_input(file, input, error));
    tn_head head;
    TN_TRY(tn_read_head(input, &head, error));
    const tn_kind *kind = tn_identify(&head);
    if (kind->open == NULL) return tn_refuse(kind, path, &head, error);
    TN_TRY(kind->open(file, input, error));
    return tn_file_sort_names(file, error);
}

static tenon_status open_path(tenon_file *file, tenon_error *error)
{
    if (file->path == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory for the name of a file");
    if (!tn_is_folder(file->path)) return open_input(file, file->path, error);
    char *path = NULL;
    TN_TRY(tn_index_resolve_folder(file->path, &path, error));
    const tenon_status status = open_input(file, path, error);
    free(path);
    return status;
}

tenon_status tenon_file_open(const char *path, const tenon_file_options *options, tenon_file **file, tenon_error *error)
{
    if (path == NULL || file == NULL) return tn_fail(error, TENON_INVALID, "a file needs a path and a place");
    tenon_file_options settings;
    tenon_file_options_init(&settings);
    TN_TRY(tn_struct_read(&settings, sizeof settings, options, TN_FIRST_SIZE(tenon_file_options, npy_bfloat16),
                          "tenon_file_options", error));
    tenon_file *made = calloc(1, sizeof *made);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(path).text);
    made->path = strdup(path);
    made->npy_bfloat16 = settings.npy_bfloat16;
    const tenon_status status = open_path(made, error);
    if (status != TENON_OK) {
        tenon_file_close(made);
        return status;
    }
    *file = made;
    return TENON_OK;
}
