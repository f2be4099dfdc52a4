/* SPDX-License-Identifier: MIT */
/* Tensor files being written: what is declared, then the header, then elements at their places in any order. The
 * formats only place the parts and make the header. */
#include "formats/format.h"

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/size.h"
#include "core/utf8.h"
#include <stdlib.h>
#include <string.h>

static const tn_write_format formats[] = {
    {".safetensors", INT64_MAX, TN_MAX_FILE_DIMS, SIZE_MAX, true, true, NULL, tn_safetensors_layout},
    {".npy", 1, TN_MAX_FILE_DIMS, SIZE_MAX, false, true, NULL, tn_npy_layout},
    {".gguf", INT64_MAX, 4, 63, true, false, tn_gguf_has_type, tn_gguf_layout}, /* the limits of ggml */
};
enum { num_formats = sizeof formats / sizeof formats[0] };

static tenon_status fail_memory(const tenon_writer *writer, tenon_error *error)
{
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(writer->path).text);
}

static const tn_write_format *find_format(const char *path)
{
    const size_t length = strlen(path);
    for (int i = 0; i < num_formats; i++) {
        const size_t tail = strlen(formats[i].suffix);
        if (length > tail && strcmp(path + length - tail, formats[i].suffix) == 0) return &formats[i];
    }
    return NULL;
}

static tenon_status make_writer(const char *path, tenon_writer **writer, tenon_error *error)
{
    tenon_writer *made = calloc(1, sizeof *made);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory for a file to write");
    made->path = strdup(path);
    made->names = json_object();
    if (made->path == NULL || made->names == NULL) {
        tenon_writer_free(made);
        return tn_fail(error, TENON_NO_MEMORY, "out of memory for a file to write");
    }
    *writer = made;
    return TENON_OK;
}

static tenon_status open_writer(tenon_writer *writer, tenon_error *error)
{
    /* What is there is looked at before the name is, so that /dev/full is called a device. */
    if (writer->format != NULL || tn_path_exists(writer->path)) {
        TN_TRY(tn_output_open(writer->path, &writer->output, error));
    }
    if (writer->format == NULL) {
        return tn_fail(error, TENON_INVALID, "%s: the name of an output ends in .npy, .safetensors or .gguf",
                       tn_quote(writer->path).text);
    }
    return TENON_OK;
}

/* Hands the writer to the caller, or frees it where opening failed. */
static tenon_status deliver(tenon_status status, tenon_writer *made, tenon_writer **writer)
{
    if (status == TENON_OK) {
        *writer = made;
    } else {
        tenon_writer_free(made);
    }
    return status;
}

tenon_status tenon_writer_new(const char *path, tenon_writer **writer, tenon_error *error)
{
    if (path == NULL || writer == NULL) return tn_fail(error, TENON_INVALID, "a writer needs a path and a place");
    tenon_writer *made = NULL;
    TN_TRY(make_writer(path, &made, error));
    made->format = find_format(path);
    return deliver(open_writer(made, error), made, writer);
}

static tenon_status open_stream(tenon_writer *writer, int descriptor, const char *format, tenon_error *error)
{
    for (int i = 0; i < num_formats; i++) {
        if (format != NULL && formats[i].streams && strcmp(formats[i].suffix + 1, format) == 0)
            writer->format = &formats[i];
    }
    if (writer->format == NULL) {
        return tn_fail(error, TENON_INVALID, "%s: '%s' is no format to write; expected npy or safetensors",
                       tn_quote(writer->path).text, tn_quote(format != NULL ? format : "").text);
    }
    return tn_output_open_stream(descriptor, writer->path, &writer->output, error);
}

tenon_status tenon_writer_new_stream(int descriptor, const char *name, const char *format, tenon_writer **writer,
                                     tenon_error *error)
{
    if (name == NULL || writer == NULL) return tn_fail(error, TENON_INVALID, "a stream needs a name and a place");
    tenon_writer *made = NULL;
    TN_TRY(make_writer(name, &made, error));
    return deliver(open_stream(made, descriptor, format, error), made, writer);
}

void tenon_writer_free(tenon_writer *writer)
{
    if (writer == NULL) return;
    tn_output_free(writer->output);
    for (int64_t i = 0; i < writer->num_parts; i++)
        free(writer->parts[i].shape);
    free(writer->parts);
    json_decref(writer->names);
    json_decref(writer->metadata);
    free(writer->path);
    free(writer);
}

/* ---- declaring ---- */

static tenon_status check_open(const tenon_writer *writer, bool started, const char *what, tenon_error *error)
{
    if (writer->committed) {
        return tn_fail(error, TENON_INVALID, "%s: %s after the commit", tn_quote(writer->path).text, what);
    }
    if (started && writer->started) {
        return tn_fail(error, TENON_INVALID, "%s: %s after the first write", tn_quote(writer->path).text, what);
    }
    return TENON_OK;
}

static tenon_status grow_parts(tenon_writer *writer, tenon_error *error)
{
    if (writer->num_parts < writer->capacity) return TENON_OK;
    const int64_t capacity = writer->capacity > 0 ? 2 * writer->capacity : 16;
    tn_part *grown = realloc(writer->parts, (size_t)capacity * sizeof *grown);
    if (grown == NULL) return fail_memory(writer, error);
    writer->parts = grown;
    writer->capacity = capacity;
    return TENON_OK;
}

/* Whole rows of blocks; *bytes as they are stored. */
static tenon_status measure_part(const tenon_writer *writer, const char *name, const int64_t *shape, tn_part *part,
                                 tenon_error *error)
{
    const size_t block = part->encoding->block;
    const int64_t row = part->ndim > 0 ? shape[part->ndim - 1] : 1;
    if (block > 0 && (row < 0 || row % (int64_t)block != 0)) {
        return tn_fail(
            error, TENON_INVALID,
            "%s: tensor '%s' %s has rows of %lld elements, which blocks of %zu do not divide; write it as F16",
            tn_quote(writer->path).text, tn_quote(name).text, tn_shape_to_text(part->ndim, shape).text, (long long)row,
            block);
    }
    const size_t element = block > 0 ? sizeof(float) : tn_stored_size(part->encoding);
    if (!tn_shape_bytes(part->ndim, shape, element, &part->bytes)) {
        return tn_fail(error, TENON_INVALID, "%s: tensor '%s': shape %s is negative or past what 64 bits can count",
                       tn_quote(writer->path).text, tn_quote(name).text, tn_shape_to_text(part->ndim, shape).text);
    }
    if (block > 0) part->bytes = part->bytes / (block * sizeof(float)) * tn_stored_size(part->encoding);
    return TENON_OK;
}

static tenon_status check_name(const tenon_writer *writer, const char *name, tenon_error *error)
{
    const tn_quoted path = tn_quote(writer->path), shown = tn_quote(name);
    /* Asked before Jansson is, which does not tell bad text from a lack of memory. */
    if (strcmp(name, "__metadata__") == 0 || !tn_is_utf8(name)) {
        return tn_fail(error, TENON_INVALID, "%s: '%s' cannot name a tensor; names are UTF-8 and not __metadata__",
                       path.text, shown.text);
    }
    if (strlen(name) > writer->format->max_name) {
        return tn_fail(error, TENON_INVALID, "%s: the name of tensor '%s' is %zu bytes long; readers take at most %zu",
                       path.text, shown.text, strlen(name), writer->format->max_name);
    }
    if (json_object_get(writer->names, name) != NULL) {
        return tn_fail(error, TENON_EXISTS, "%s: tensor '%s' is declared twice", path.text, shown.text);
    }
    return TENON_OK;
}

/* `encoding` NULL: of this type, which a message calls `type`, nothing is written. */
static tenon_status check_part(const tenon_writer *writer, const char *name, const tn_encoding *encoding,
                               const char *type, const int64_t *shape, tn_part *part, tenon_error *error)
{
    const tn_quoted path = tn_quote(writer->path), shown = tn_quote(name);
    const tn_write_format *format = writer->format;
    if (writer->num_parts >= format->max_parts) {
        return tn_fail(error, TENON_INVALID, "%s: an npy file holds one tensor; use .safetensors for several",
                       path.text);
    }
    if (part->ndim < 0 || part->ndim > format->max_dims || (part->ndim > 0 && shape == NULL)) {
        return tn_fail(error, TENON_INVALID, "%s: tensor '%s' has %d dimensions; 0 to %d are written", path.text,
                       shown.text, part->ndim, format->max_dims);
    }
    const bool has_type =
        encoding != NULL && (format->has_type != NULL ? format->has_type(encoding) : encoding->block == 0);
    if (!has_type) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: tensor '%s' is of dtype %s, which tenon does not write%s",
                       path.text, shown.text, tn_quote(type).text, encoding != NULL ? " there" : "");
    }
    part->encoding = encoding;
    TN_TRY(measure_part(writer, name, shape, part, error));
    return check_name(writer, name, error);
}

static tenon_status add_part(tenon_writer *writer, const char *name, const tn_part *checked, const int64_t *shape,
                             int64_t *index, tenon_error *error)
{
    tn_part part = *checked;
    TN_TRY(grow_parts(writer, error));
    const size_t shape_bytes = ((size_t)part.ndim + 1) * sizeof *shape, name_bytes = strlen(name) + 1;
    char *block = calloc(1, shape_bytes + name_bytes);
    if (block == NULL) return fail_memory(writer, error);
    if (json_object_set_new(writer->names, name, json_integer(writer->num_parts)) != 0) {
        free(block);
        return fail_memory(writer, error);
    }
    part.shape = (int64_t *)(void *)block;
    part.name = block + shape_bytes;
    if (part.ndim > 0) memcpy(part.shape, shape, (size_t)part.ndim * sizeof *shape);
    memcpy(part.name, name, name_bytes);
    if (index != NULL) *index = writer->num_parts;
    writer->parts[writer->num_parts++] = part;
    return TENON_OK;
}

tenon_status tenon_writer_add(tenon_writer *writer, const char *name, DLDataType dtype, int ndim, const int64_t *shape,
                              int64_t *index, tenon_error *error)
{
    tn_part part = {.ndim = ndim};
    if (name == NULL || writer->format->max_parts == 1) name = "";
    TN_TRY(check_open(writer, true, "a tensor is declared", error));
    TN_TRY(check_part(writer, name, tn_encoding_to_write(dtype), tn_dlpack_to_text(dtype).text, shape, &part, error));
    return add_part(writer, name, &part, shape, index, error);
}

tenon_status tenon_writer_add_as(tenon_writer *writer, const char *name, const char *stored, int ndim,
                                 const int64_t *shape, int64_t *index, tenon_error *error)
{
    tn_part part = {.ndim = ndim};
    if (name == NULL || writer->format->max_parts == 1) name = "";
    TN_TRY(check_open(writer, true, "a tensor is declared", error));
    TN_TRY(check_part(writer, name, stored != NULL ? tn_encoding_to_write_as(stored) : NULL,
                      stored != NULL ? stored : "", shape, &part, error));
    return add_part(writer, name, &part, shape, index, error);
}

tenon_status tenon_writer_set_metadata(tenon_writer *writer, const char *key, const char *value, tenon_error *error)
{
    TN_TRY(check_open(writer, true, "metadata is set", error));
    if (!writer->format->has_metadata) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: an npy file has no metadata", tn_quote(writer->path).text);
    }
    if (key == NULL || value == NULL || !tn_is_utf8(key) || !tn_is_utf8(value)) {
        return tn_fail(error, TENON_INVALID, "%s: metadata '%s': key and value are UTF-8 strings",
                       tn_quote(writer->path).text, tn_quote(key != NULL ? key : "").text);
    }
    return tn_writer_set_value(writer, key, json_string(value), error);
}

tenon_status tn_writer_set_value(tenon_writer *writer, const char *key, json_t *value, tenon_error *error)
{
    if (writer->metadata == NULL) writer->metadata = json_object();
    if (writer->metadata == NULL) json_decref(value);
    if (writer->metadata == NULL || json_object_set_new(writer->metadata, key, value) != 0) {
        return fail_memory(writer, error);
    }
    return TENON_OK;
}

tenon_status tenon_writer_set_direct(tenon_writer *writer, tenon_error *error)
{
    TN_TRY(check_open(writer, true, "direct writing is asked for", error));
    writer->is_direct = true;
    tn_output_set_direct(writer->output);
    return TENON_OK;
}

/* ---- writing ---- */

/* Lays out and writes the header, once; from then on every part has its place in the file. */
static tenon_status start(tenon_writer *writer, tenon_error *error)
{
    if (writer->started) return TENON_OK;
    char *header = NULL;
    size_t length = 0;
    TN_TRY(writer->format->layout(writer, &header, &length, error));
    const tenon_status status = tn_output_write(writer->output, 0, header, length, error);
    free(header);
    if (status != TENON_OK) return status;
    for (int64_t i = 0; i < writer->num_parts; i++)
        writer->parts[i].offset += length;
    writer->started = true;
    return TENON_OK;
}

/* Elements that become blocks: f32, a multiple of 32 of them. */
static tenon_status write_blocks(const tenon_writer *writer, tn_part *part, const char *data, size_t blocks,
                                 tenon_error *error)
{
    enum { most = 64 };
    unsigned char stored[most * 64];
    const size_t size = tn_stored_size(part->encoding), elements = part->encoding->block;
    while (blocks > 0) {
        const size_t now = blocks < most ? blocks : most;
        tn_environment environment;
        tn_environment_enter(&environment);
        tn_encode_q8_0(stored, data, now * elements);
        tn_environment_leave(&environment);
        TN_TRY(tn_output_write(writer->output, part->offset + part->written, stored, now * size, error));
        part->written += now * size;
        data += now * elements * sizeof(float);
        blocks -= now;
    }
    return TENON_OK;
}

/* What has been given of a part, and what may still be, in bytes as the caller gives them. */
static size_t bytes_left(const tn_part *part)
{
    const size_t left = part->bytes - part->written, block = part->encoding->block;
    return block > 0 ? left / tn_stored_size(part->encoding) * block * sizeof(float) : left;
}

static tenon_status check_write(const tenon_writer *writer, int64_t index, const void *data, size_t bytes,
                                tenon_error *error)
{
    if (index < 0 || index >= writer->num_parts) {
        return tn_fail(error, TENON_INVALID, "%s: tensor number %lld of %lld", tn_quote(writer->path).text,
                       (long long)index, (long long)writer->num_parts);
    }
    const tn_part *part = &writer->parts[index];
    const size_t left = bytes_left(part), block = part->encoding->block;
    if (bytes > left || (data == NULL && bytes > 0)) {
        return tn_fail(error, TENON_INVALID, "%s: tensor '%s' takes %zu bytes more, but %zu are given",
                       tn_quote(writer->path).text, tn_quote(part->name).text, left, bytes);
    }
    if (block > 0 && bytes % (block * sizeof(float)) != 0) {
        return tn_fail(error, TENON_INVALID,
                       "%s: tensor '%s' is stored in blocks of %zu elements, but %zu bytes of f32 are given",
                       tn_quote(writer->path).text, tn_quote(part->name).text, block, bytes);
    }
    return TENON_OK;
}

tenon_status tenon_writer_write(tenon_writer *writer, int64_t index, const void *data, size_t bytes, tenon_error *error)
{
    TN_TRY(check_open(writer, false, "a write", error));
    TN_TRY(check_write(writer, index, data, bytes, error));
    TN_TRY(start(writer, error));
    tn_part *part = &writer->parts[index];
    if (tn_output_is_stream(writer->output) && bytes > 0 &&
        part->offset + part->written != tn_output_end(writer->output)) {
        return tn_fail(error, TENON_INVALID,
                       "%s: a stream is written in the file's order, and tensor '%s' does not come next; larger "
                       "elements come first, then the order of declaration counts",
                       tn_quote(writer->path).text, tn_quote(part->name).text);
    }
    const size_t block = part->encoding->block;
    if (block > 0) return write_blocks(writer, part, data, bytes / (block * sizeof(float)), error);
    TN_TRY(tn_output_write(writer->output, part->offset + part->written, data, bytes, error));
    part->written += bytes;
    return TENON_OK;
}

/* The bytes after the last part. */
static tenon_status write_padding(const tenon_writer *writer, tenon_error *error)
{
    static const char zeros[64];
    uint64_t at = tn_output_end(writer->output);
    while (at < writer->end) {
        const uint64_t left = writer->end - at, now = left < sizeof zeros ? left : sizeof zeros;
        TN_TRY(tn_output_write(writer->output, at, zeros, (size_t)now, error));
        at += now;
    }
    return TENON_OK;
}

tenon_status tenon_writer_commit(tenon_writer *writer, tenon_error *error)
{
    TN_TRY(check_open(writer, false, "a second commit", error));
    if (writer->num_parts == 0 && writer->format->max_parts == 1) {
        return tn_fail(error, TENON_INVALID, "%s: no tensor was declared", tn_quote(writer->path).text);
    }
    for (int64_t i = 0; i < writer->num_parts; i++) {
        const tn_part *part = &writer->parts[i];
        if (part->written == part->bytes) continue;
        return tn_fail(error, TENON_INVALID, "%s: tensor '%s' %s: %zu of %zu bytes were written",
                       tn_quote(writer->path).text, tn_quote(part->name).text,
                       tn_shape_to_text(part->ndim, part->shape).text, part->written, part->bytes);
    }
    TN_TRY(start(writer, error));
    TN_TRY(write_padding(writer, error));
    TN_TRY(tn_output_commit(writer->output, error));
    writer->committed = true;
    return TENON_OK;
}
