/* SPDX-License-Identifier: MIT */
/* Reads safetensors (https://github.com/huggingface/safetensors, "Format"):
 *
 *   bytes 0..7      n, the length of the header, little-endian
 *   bytes 8..8+n    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *                          "__metadata__": {"key": "text", ...}}, padded with spaces
 *   bytes 8+n..     the data; offsets count from here, and the tensors cover it exactly
 *
 * Every number is checked against the file before it is used, and against the other numbers that imply it. */
#include "formats/format.h"

#include "core/error.h"
#include "core/size.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { length_bytes = 8 };

typedef struct reader {
    tenon_file *file;
    const tn_input *input;
    uint64_t data_start; /* in the file */
    uint64_t data_size;
} reader;

typedef struct extent {
    uint64_t begin, end; /* from the start of the data */
    int64_t entry;
} extent;

/* ---- one tensor ---- */

static const char *json_kind(const json_t *value)
{
    if (value == NULL) return "missing";
    static const char *const kinds[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",        [JSON_NULL] = "null",
    };
    return kinds[json_typeof(value)];
}

static tenon_status read_shape(const reader *r, const json_t *shape, tn_entry *entry, tenon_error *error)
{
    for (int i = 0; i < entry->ndim; i++) {
        const json_t *value = json_array_get(shape, (size_t)i);
        if (!json_is_integer(value)) {
            return tn_fail_tensor(r->input, entry->name, error, "dimension %d of its shape is %s, not an integer", i,
                                  json_kind(value));
        }
        entry->shape[i] = json_integer_value(value);
        if (entry->shape[i] < 0) {
            return tn_fail_tensor(r->input, entry->name, error, "dimension %d of its shape is negative: %lld", i,
                                  (long long)entry->shape[i]);
        }
    }
    return TENON_OK;
}

static tenon_status read_offsets(const reader *r, const char *name, const json_t *offsets, extent *place,
                                 tenon_error *error)
{
    if (!json_is_array(offsets)) {
        return tn_fail_tensor(r->input, name, error, "data_offsets is %s, not an array", json_kind(offsets));
    }
    if (json_array_size(offsets) != 2) {
        return tn_fail_tensor(r->input, name, error, "data_offsets has %zu numbers, not 2", json_array_size(offsets));
    }
    json_int_t value[2];
    for (size_t i = 0; i < 2; i++) {
        const json_t *number = json_array_get(offsets, i);
        if (!json_is_integer(number)) {
            return tn_fail_tensor(r->input, name, error, "data_offsets[%zu] is %s, not an integer", i,
                                  json_kind(number));
        }
        value[i] = json_integer_value(number);
        if (value[i] < 0) {
            return tn_fail_tensor(r->input, name, error, "data_offsets[%zu] is negative: %lld", i, (long long)value[i]);
        }
    }
    if (value[0] > value[1]) {
        return tn_fail_tensor(r->input, name, error, "data_offsets [%lld, %lld] end before they begin",
                              (long long)value[0], (long long)value[1]);
    }
    if ((uint64_t)value[1] > r->data_size) {
        return tn_fail_tensor(r->input, name, error,
                              "data_offsets [%lld, %lld] reach past the %llu bytes of data; the file is truncated",
                              (long long)value[0], (long long)value[1], (unsigned long long)r->data_size);
    }
    place->begin = (uint64_t)value[0];
    place->end = (uint64_t)value[1];
    return TENON_OK;
}

/* 8 (end - begin) = shape[0] * ... * bits, where the bits of an element are known. */
static tenon_status check_size(const reader *r, const tn_entry *entry, const extent *place, tenon_error *error)
{
    const tn_shape_text shape = tn_shape_to_text(entry->ndim, entry->shape);
    size_t bits;
    const size_t element = entry->encoding->stored_bits;
    if (!tn_shape_bytes(entry->ndim, entry->shape, element > 0 ? element : 8, &bits)) {
        return tn_fail_tensor(r->input, entry->name, error, "shape %s of %s is past what 64 bits can count", shape.text,
                              tn_quote(entry->stored).text);
    }
    if (element > 0 && bits % 8 != 0) {
        return tn_fail_tensor(r->input, entry->name, error,
                              "shape %s of %s = %zu bits, which fill no whole number of bytes", shape.text,
                              tn_quote(entry->stored).text, bits);
    }
    const size_t bytes = bits / 8;
    if (element > 0 && bytes != place->end - place->begin) {
        return tn_fail_tensor(
            r->input, entry->name, error,
            "shape %s of %s = %zu bytes, but data_offsets [%llu, %llu] (file bytes %llu to %llu) hold "
            "%llu",
            shape.text, tn_quote(entry->stored).text, bytes, (unsigned long long)place->begin,
            (unsigned long long)place->end, (unsigned long long)(r->data_start + place->begin),
            (unsigned long long)(r->data_start + place->end), (unsigned long long)(place->end - place->begin));
    }
    return TENON_OK;
}

static tenon_status read_tensor(const reader *r, const char *name, const json_t *info, extent *place,
                                tenon_error *error)
{
    if (!json_is_object(info))
        return tn_fail_tensor(r->input, name, error, "its entry is %s, not an object", json_kind(info));
    const json_t *dtype = json_object_get(info, "dtype"), *shape = json_object_get(info, "shape");
    if (!json_is_string(dtype))
        return tn_fail_tensor(r->input, name, error, "dtype is %s, not a string", json_kind(dtype));
    if (!json_is_array(shape))
        return tn_fail_tensor(r->input, name, error, "shape is %s, not an array", json_kind(shape));
    if (json_array_size(shape) > TN_MAX_FILE_DIMS) {
        return tn_fail_tensor(r->input, name, error, "has %zu dimensions; at most %d are read", json_array_size(shape),
                              TN_MAX_FILE_DIMS);
    }
    TN_TRY(read_offsets(r, name, json_object_get(info, "data_offsets"), place, error));
    const char *stored = json_string_value(dtype);
    const size_t length = json_string_length(dtype);
    tn_entry *entry = NULL;
    place->entry = r->file->num_entries;
    TN_TRY(tn_file_add_entry(r->file, name, stored, length, (int)json_array_size(shape), &entry, error));
    const tn_encoding *known = tn_encoding_of_safetensors(stored, length);
    entry->encoding = known != NULL ? known : &tn_encoding_unknown;
    entry->swapped = tn_host_is_big_endian();
    entry->input = r->input;
    entry->offset = r->data_start + place->begin;
    TN_TRY(read_shape(r, shape, entry, error));
    return check_size(r, entry, place, error);
}

/* ---- the whole ---- */

static int compare_extents(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* No byte belongs to two tensors or to none: a hole could hide data, an overlap could alias it. */
static tenon_status check_coverage(const reader *r, extent *places, size_t count, tenon_error *error)
{
    qsort(places, count, sizeof *places, compare_extents);
    uint64_t covered = 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = r->file->entries[places[i].entry].name;
        if (places[i].begin < covered) {
            return tn_fail_tensor(
                r->input, name, error, "its data begins at byte %llu, inside tensor '%s', which ends at %llu",
                (unsigned long long)places[i].begin, tn_quote(r->file->entries[places[i - 1].entry].name).text,
                (unsigned long long)covered);
        }
        if (places[i].begin > covered) {
            return tn_fail_tensor(
                r->input, name, error, "its data begins at byte %llu; bytes %llu to %llu belong to no tensor",
                (unsigned long long)places[i].begin, (unsigned long long)covered, (unsigned long long)places[i].begin);
        }
        covered = places[i].end;
    }
    if (covered == r->data_size) return TENON_OK;
    return tn_fail(error, TENON_BAD_FILE, "%s: %llu bytes follow the last tensor, which ends at byte %llu of the file",
                   tn_quote(tn_input_path(r->input)).text, (unsigned long long)(r->data_size - covered),
                   (unsigned long long)(r->data_start + covered));
}

static tenon_status read_metadata(const reader *r, json_t *metadata, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(r->input));
    if (!json_is_object(metadata)) {
        return tn_fail(error, TENON_BAD_FILE, "%s: __metadata__ is %s, not an object", path.text, json_kind(metadata));
    }
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (json_is_string(value)) continue;
        return tn_fail(error, TENON_BAD_FILE, "%s: metadata '%s' is %s, not a string", path.text, tn_quote(key).text,
                       json_kind(value));
    }
    r->file->metadata = json_incref(metadata);
    return TENON_OK;
}

static tenon_status read_tensors(const reader *r, json_t *header, extent *places, tenon_error *error)
{
    size_t count = 0;
    const char *name;
    json_t *info;
    json_object_foreach(header, name, info)
    {
        if (strcmp(name, "__metadata__") == 0) {
            TN_TRY(read_metadata(r, info, error));
        } else {
            TN_TRY(read_tensor(r, name, info, &places[count++], error));
        }
    }
    return check_coverage(r, places, count, error);
}

static tenon_status check_length(const tn_input *input, uint64_t length, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(input));
    const uint64_t rest = tn_input_size(input) - length_bytes;
    if (length > rest) {
        return tn_fail(error, TENON_BAD_FILE,
                       "%s: its first 8 bytes announce a header of %llu bytes, but %llu follow; the file is truncated "
                       "or is neither safetensors nor npy",
                       path.text, (unsigned long long)length, (unsigned long long)rest);
    }
    if (length > TN_MAX_HEADER) {
        return tn_fail(error, TENON_BAD_FILE, "%s: the header is %llu bytes long; at most %d are read", path.text,
                       (unsigned long long)length, TN_MAX_HEADER);
    }
    if (length < 2) {
        return tn_fail(error, TENON_BAD_FILE, "%s: its first 8 bytes announce a header of %llu bytes; the least is 2",
                       path.text, (unsigned long long)length);
    }
    return TENON_OK;
}

static tenon_status read_length(const tn_input *input, uint64_t *length, tenon_error *error)
{
    unsigned char bytes[length_bytes];
    if (tn_input_size(input) < length_bytes) {
        return tn_fail(error, TENON_BAD_FILE, "%s: is %llu bytes long; a safetensors file has at least 10",
                       tn_quote(tn_input_path(input)).text, (unsigned long long)tn_input_size(input));
    }
    TN_TRY(tn_input_read(input, 0, bytes, sizeof bytes, error));
    *length = 0;
    for (int i = length_bytes - 1; i >= 0; i--)
        *length = *length << 8 | bytes[i];
    return check_length(input, *length, error);
}

tenon_status tn_safetensors_open(tenon_file *file, const tn_input *input, tenon_error *error)
{
    file->kind = "safetensors";
    uint64_t length = 0;
    TN_TRY(read_length(input, &length, error));
    char *text = NULL;
    TN_TRY(tn_read_header(input, length_bytes, (size_t)length, &text, error));
    json_t *header = NULL;
    tenon_status status = TENON_OK;
    if (text[0] != '{') {
        status = tn_fail(error, TENON_BAD_FILE, "%s: byte 8 is '%s', but a safetensors header begins with '{'",
                         tn_quote(tn_input_path(input)).text, tn_quote_bytes(text, 1).text);
    } else {
        status = tn_json_parse(tn_input_path(input), "the header", text, (size_t)length, length_bytes, &header, error);
    }
    free(text);
    if (status != TENON_OK) return status;
    const reader r = {file, input, length_bytes + length, tn_input_size(input) - length_bytes - length};
    extent *places = malloc((json_object_size(header) + 1) * sizeof *places);
    status = places != NULL ? read_tensors(&r, header, places, error)
                            : tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %zu tensors",
                                      tn_quote(tn_input_path(input)).text, json_object_size(header));
    free(places);
    json_decref(header);
    return status;
}
