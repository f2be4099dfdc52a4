/* SPDX-License-Identifier: MIT */
/* Opening a file of tensors: its kind is told by its first bytes, and the format's opener makes the entries. */
#include "formats/format.h"

#include "core/error.h"
#include "core/versioned.h"
#include <stdlib.h>
#include <string.h>

/* Bytes of the start of a file by which its kind is told. */
enum { head_size = 16 };

void tenon_file_options_init(tenon_file_options *options)
{
    *options = (tenon_file_options){.size = sizeof *options};
}

static bool is_npy(const unsigned char *head, size_t size)
{
    return size >= 6 && memcmp(head, "\x93NUMPY", 6) == 0;
}

/* A text that opens a JSON object. A safetensors file starts with a number of eight bytes, the last of them zero unless
 * the header is larger than any disk. */
static bool is_json(const unsigned char *head, size_t size)
{
    bool opened = false;
    for (size_t i = 0; i < size; i++) {
        const bool space = head[i] == ' ' || head[i] == '\n' || head[i] == '\r' || head[i] == '\t';
        if (head[i] < 0x20 && !space) return false;
        if (!opened && !space && head[i] != '{') return false;
        opened = opened || head[i] == '{';
    }
    return opened;
}

static bool is_anything(const unsigned char *head, size_t size)
{
    (void)head;
    (void)size;
    return true;
}

/* The first that matches. safetensors has no magic number, so it comes last and its checks say what is wrong. */
static const struct {
    const char *kind;
    bool (*matches)(const unsigned char *head, size_t size);
    tenon_status (*open)(tenon_file *file, const tn_input *input, tenon_error *error);
} formats[] = {
    {"npy", is_npy, tn_npy_open},
    {"safetensors index", is_json, tn_index_open},
    {"safetensors", is_anything, tn_safetensors_open},
};
enum { num_formats = sizeof formats / sizeof formats[0] };

/* Formats that people hand us and that we do not read: better named than called a broken safetensors file. */
static tenon_status refuse_foreign(const char *path, const unsigned char *head, size_t size, tenon_error *error)
{
    static const struct {
        const char *magic;
        size_t size;
        const char *what;
    } foreign[] = {
        {"PK\x03\x04", 4, "a zip archive (a PyTorch checkpoint or npz); save its tensors as safetensors or npy"},
        {"\x80\x02", 2, "a Python pickle; save its tensors as safetensors"},
        {"GGUF", 4, "a GGUF file, which this version does not read"},
        {"\x89HDF\r\n\x1a\n", 8, "an HDF5 file; save its tensors as safetensors or npy"},
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        /* A pickle's two bytes could also start a safetensors header of that length; then byte 8 is the brace. */
        const bool header = size > 8 && head[8] == '{';
        if (size >= foreign[i].size && memcmp(head, foreign[i].magic, foreign[i].size) == 0 && !header) {
            return tn_fail(error, TENON_UNSUPPORTED, "%s: is %s", tn_quote(path).text, foreign[i].what);
        }
    }
    return TENON_OK;
}

/* ---- opening ---- */

static tenon_status open_input(tenon_file *file, const char *path, tenon_error *error)
{
    tn_input *input = NULL;
    TN_TRY(tn_input_open(path, &input, error));
    TN_TRY(tn_file_own_input(file, input, error));
    unsigned char head[head_size];
    const uint64_t length = tn_input_size(input);
    const size_t size = length < head_size ? (size_t)length : head_size;
    if (size == 0) return tn_fail(error, TENON_BAD_FILE, "%s: is empty", tn_quote(path).text);
    TN_TRY(tn_input_read(input, 0, head, size, error));
    TN_TRY(refuse_foreign(path, head, size, error));
    int i = 0;
    while (!formats[i].matches(head, size))
        i++;
    file->kind = formats[i].kind;
    TN_TRY(formats[i].open(file, input, error));
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
