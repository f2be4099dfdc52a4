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

static void keep_f64(tenon_file *file)
{
    for (int64_t i = 0; i < file->num_entries; i++) {
        const char *name = file->entries[i].encoding->safetensors;
        if (name != NULL && strcmp(name, tn_encoding_f64.safetensors) == 0)
            file->entries[i].encoding = &tn_encoding_f64;
    }
}

/* The file owns the input, whatever comes of it. */
static tenon_status open_input(tenon_file *file, tn_input *input, tenon_error *error)
{
    tn_head head;
    TN_TRY(tn_file_own_input(file, input, error));
    TN_TRY(tn_read_head(input, &head, error));
    const tn_kind *kind = tn_identify(&head);
    if (kind->open == NULL) return tn_refuse(kind, tn_input_path(input), &head, error);
    TN_TRY(kind->open(file, input, error));
    if (file->keep_f64) keep_f64(file);
    return tn_file_sort_names(file, error);
}

static tenon_status open_path(tenon_file *file, const char *path, tenon_error *error)
{
    tn_input *input = NULL;
    TN_TRY(tn_input_open(path, &input, error));
    return open_input(file, input, error);
}

static tenon_status open_file_or_folder(tenon_file *file, tenon_error *error)
{
    file->is_folder = tn_is_folder(file->path);
    if (!file->is_folder) return open_path(file, file->path, error);
    char *path = NULL;
    TN_TRY(tn_resolve_folder(file->path, &path, error));
    const tenon_status status = open_path(file, path, error);
    free(path);
    return status;
}

static tenon_status open_stream(tenon_file *file, int descriptor, tenon_error *error)
{
    tn_input *input = NULL;
    TN_TRY(tn_input_open_stream(descriptor, file->path, &input, error));
    return open_input(file, input, error);
}

static tenon_status make_file(const char *path, const tenon_file_options *options, tenon_file **file,
                              tenon_error *error)
{
    tenon_file_options settings;
    tenon_file_options_init(&settings);
    TN_TRY(tn_struct_read(&settings, sizeof settings, options, TN_FIRST_SIZE(tenon_file_options, npy_bfloat16),
                          "tenon_file_options", error));
    tenon_file *made = calloc(1, sizeof *made);
    char *copy = strdup(path);
    if (made == NULL || copy == NULL) {
        free(made);
        free(copy);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(path).text);
    }
    made->path = copy;
    made->npy_bfloat16 = settings.npy_bfloat16;
    made->keep_f64 = settings.keep_f64;
    *file = made;
    return TENON_OK;
}

/* Hands the file to the caller, or frees it where opening failed. */
static tenon_status deliver(tenon_status status, tenon_file *made, tenon_file **file)
{
    if (status == TENON_OK) {
        *file = made;
    } else {
        tenon_file_close(made);
    }
    return status;
}

tenon_status tenon_file_open(const char *path, const tenon_file_options *options, tenon_file **file, tenon_error *error)
{
    if (path == NULL || file == NULL) return tn_fail(error, TENON_INVALID, "a file needs a path and a place");
    tenon_file *made = NULL;
    TN_TRY(make_file(path, options, &made, error));
    return deliver(open_file_or_folder(made, error), made, file);
}

tenon_status tenon_file_open_stream(int descriptor, const char *name, const tenon_file_options *options,
                                    tenon_file **file, tenon_error *error)
{
    if (name == NULL || file == NULL) return tn_fail(error, TENON_INVALID, "a stream needs a name and a place");
    tenon_file *made = NULL;
    TN_TRY(make_file(name, options, &made, error));
    return deliver(open_stream(made, descriptor, error), made, file);
}
