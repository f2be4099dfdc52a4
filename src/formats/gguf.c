/* SPDX-License-Identifier: MIT */
/* Reads GGUF (ggml's docs/gguf.md), versions 2 and 3, little-endian:
 *
 *   "GGUF", u32 version, u64 number of tensors, u64 number of keys
 *   keys      string key, u32 type, value; a string is its u64 length and its bytes
 *   tensors   string name, u32 number of dimensions, u64 each of them, u32 type, u64 offset
 *   data      from the next multiple of general.alignment (32) on; offsets count from here and are multiples of it
 *
 * Dimensions are in ggml's order, the fastest first: (C, D) is a matrix of D rows of C, and has the shape [D, C] here.
 * Every number is checked against the file before it is used; nothing is allocated because a header announces it. */
#include "formats/gguf.h"

#include "core/error.h"
#include "core/size.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a key and of a tensor, at least. */
enum { least_key = 8 + 4 + 1, least_tensor = 8 + 4 + 4 + 8, max_alignment = 65536 };

typedef struct reader {
    tenon_file *file;
    tn_gguf g;
    uint64_t alignment;
    uint64_t data_start; /* in the file, once the header is read */
} reader;

/* ---- the beginning ---- */

static tenon_status check_version(const reader *r, uint32_t version, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(r->g.input));
    if (version == 2 || version == 3) return TENON_OK;
    if (version != 0 && (version & 0xffff) == 0) {
        return tn_fail(error, TENON_UNSUPPORTED,
                       "%s: is a big-endian GGUF file; tenon reads little-endian ones; convert it where it was made "
                       "(gguf-convert-endian of the PyPI package gguf)",
                       path.text);
    }
    return tn_fail(error, TENON_UNSUPPORTED, "%s: is GGUF version %lu; tenon reads 2 and 3", path.text,
                   (unsigned long)version);
}

/* The metadata's text of a key as a number; `fallback` where there is no such key. */
static tenon_status take_number(const reader *r, const char *key, uint64_t fallback, uint64_t *value,
                                tenon_error *error)
{
    const char *text = json_string_value(json_object_get(r->file->metadata, key));
    char *end = NULL;
    *value = fallback;
    if (text == NULL) return TENON_OK;
    *value = text[0] >= '0' && text[0] <= '9' && strlen(text) < 19 ? strtoull(text, &end, 10) : 0;
    if (end != NULL && *end == 0) return TENON_OK;
    return tn_fail(error, TENON_BAD_FILE, "%s: metadata '%s' is '%s'; expected a whole number that is not negative",
                   tn_quote(tn_input_path(r->g.input)).text, key, tn_quote(text).text);
}

static tenon_status check_metadata(reader *r, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(r->g.input));
    uint64_t count, number;
    TN_TRY(take_number(r, "split.count", 0, &count, error));
    TN_TRY(take_number(r, "split.no", 0, &number, error));
    if (count > 1) {
        return tn_fail(error, TENON_UNSUPPORTED,
                       "%s: is part %llu of %llu of a split GGUF file; join them first (llama-gguf-split --merge)",
                       path.text, (unsigned long long)number + 1, (unsigned long long)count);
    }
    TN_TRY(take_number(r, TN_GGUF_ALIGNMENT_KEY, TN_GGUF_ALIGNMENT, &r->alignment, error));
    const uint64_t a = r->alignment;
    if (a != 0 && (a & (a - 1)) == 0 && a <= max_alignment) return TENON_OK;
    return tn_fail(error, TENON_BAD_FILE,
                   "%s: metadata 'general.alignment' is %llu; expected a power of two of at most %d", path.text,
                   (unsigned long long)a, max_alignment);
}

/* ---- one tensor ---- */

static tenon_status take_shape(reader *r, const char *name, int *ndim, int64_t shape[TN_GGUF_MAX_DIMS],
                               tenon_error *error)
{
    uint32_t count;
    TN_TRY(tn_gguf_take_u32(&r->g, &count, "a tensor's number of dimensions", error));
    if (count > TN_GGUF_MAX_DIMS) {
        return tn_fail_tensor(r->g.input, name, error, "has %lu dimensions; GGUF allows %d", (unsigned long)count,
                              TN_GGUF_MAX_DIMS);
    }
    *ndim = (int)count;
    for (int i = *ndim - 1; i >= 0; i--) {
        uint64_t size;
        TN_TRY(tn_gguf_take_u64(&r->g, &size, "a tensor's dimension", error));
        if (size > INT64_MAX) {
            return tn_fail_tensor(r->g.input, name, error, "its dimension %d is %llu, past 63 bits", i,
                                  (unsigned long long)size);
        }
        shape[i] = (int64_t)size;
    }
    return TENON_OK;
}

/* Rows are whole blocks. */
static tenon_status measure(const reader *r, const tn_entry *entry, uint64_t *bytes, tenon_error *error)
{
    const int64_t row = entry->ndim > 0 ? entry->shape[entry->ndim - 1] : 1;
    const int64_t block = entry->encoding->block > 0 ? (int64_t)entry->encoding->block : 1;
    const tn_shape_text shape = tn_shape_to_text(entry->ndim, entry->shape);
    size_t elements, size;
    if (row % block != 0) {
        return tn_fail_tensor(r->g.input, entry->name, error,
                              "its shape is %s, with rows of %lld elements, which blocks of %lld (%s) do not divide",
                              shape.text, (long long)row, (long long)block, entry->stored);
    }
    if (!tn_shape_bytes(entry->ndim, entry->shape, 1, &elements) ||
        !tn_mul_size(elements / (size_t)block, tn_stored_size(entry->encoding), &size) ||
        !tn_shape_bytes(entry->ndim, entry->shape, sizeof(float), &elements)) {
        return tn_fail_tensor(r->g.input, entry->name, error, "its shape %s of %s is past what 64 bits can count",
                              shape.text, entry->stored);
    }
    *bytes = size;
    return TENON_OK;
}

typedef struct extent {
    uint64_t begin, size; /* from the start of the data */
    int64_t entry;
} extent;

/* The entry's offset counts from the start of the data, which only the end of the header tells. */
static tenon_status add_tensor(reader *r, const char *name, tenon_error *error)
{
    int ndim = 0;
    uint64_t offset = 0;
    int64_t shape[TN_GGUF_MAX_DIMS];
    uint32_t type = 0;
    const char *stored = NULL;
    tn_entry *entry = NULL;
    TN_TRY(take_shape(r, name, &ndim, shape, error));
    const uint64_t header_at = r->g.at;
    TN_TRY(tn_gguf_take_u32(&r->g, &type, "a tensor's type", error));
    TN_TRY(tn_gguf_take_u64(&r->g, &offset, "a tensor's offset", error));
    const tn_encoding *encoding = tn_encoding_of_gguf(type, &stored);
    if (encoding == NULL) {
        return tn_fail_tensor(r->g.input, name, error, "is of type number %lu, which this version does not know",
                              (unsigned long)type);
    }
    TN_TRY(tn_file_add_entry(r->file, name, stored, strlen(stored), ndim, &entry, error));
    memcpy(entry->shape, shape, (size_t)ndim * sizeof *shape);
    entry->encoding = encoding;
    entry->swapped = encoding->block == 0 && tn_host_is_big_endian();
    entry->input = r->g.input;
    entry->offset = offset;
    entry->header_at = header_at;
    return TENON_OK;
}

static tenon_status read_tensor(reader *r, tenon_error *error)
{
    char *name = NULL;
    TN_TRY(tn_gguf_take_name(&r->g, &name, "a tensor's name", error));
    const tenon_status status = add_tensor(r, name, error);
    free(name);
    return status;
}

/* ---- all of them ---- */

static int compare_extents(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size);
}

static uint64_t align(const reader *r, uint64_t at)
{
    return (at + r->alignment - 1) & ~(r->alignment - 1);
}

/* The tensors lie one behind the other, each from the next multiple of the alignment on, as ggml demands it too: no
 * byte belongs to two, and none is hidden between them. `size`: of the data. */
static tenon_status check_places(const reader *r, extent *places, size_t count, uint64_t size, tenon_error *error)
{
    qsort(places, count, sizeof *places, compare_extents);
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        tn_entry *entry = &r->file->entries[places[i].entry];
        const uint64_t begin = places[i].begin, next = align(r, end);
        if (begin < end) {
            return tn_fail_tensor(r->g.input, entry->name, error,
                                  "its offset is %llu, inside tensor '%s', which ends at %llu",
                                  (unsigned long long)begin, tn_quote(r->file->entries[places[i - 1].entry].name).text,
                                  (unsigned long long)end);
        }
        if (begin != next) {
            return tn_fail_tensor(r->g.input, entry->name, error,
                                  "its offset is %llu; expected %llu, the next multiple of the alignment %llu",
                                  (unsigned long long)begin, (unsigned long long)next,
                                  (unsigned long long)r->alignment);
        }
        if (begin > size || places[i].size > size - begin) {
            return tn_fail_tensor(
                r->g.input, entry->name, error,
                "shape %s of %s is %llu bytes at offset %llu, past the %llu bytes of data; the file is "
                "truncated",
                tn_shape_to_text(entry->ndim, entry->shape).text, entry->stored, (unsigned long long)places[i].size,
                (unsigned long long)begin, (unsigned long long)size);
        }
        entry->offset = r->data_start + begin;
        end = begin + places[i].size;
    }
    if (size <= align(r, end)) return TENON_OK;
    return tn_fail(error, TENON_BAD_FILE, "%s: %llu bytes follow the last tensor, which ends at byte %llu of the file",
                   tn_quote(tn_input_path(r->g.input)).text, (unsigned long long)(size - end),
                   (unsigned long long)(r->data_start + end));
}

static tenon_status place_tensors(const reader *r, extent *places, tenon_error *error)
{
    const uint64_t file_size = tn_input_size(r->g.input);
    for (int64_t i = 0; i < r->file->num_entries; i++) {
        places[i] = (extent){.begin = r->file->entries[i].offset, .entry = i};
        TN_TRY(measure(r, &r->file->entries[i], &places[i].size, error));
    }
    /* A file without data may end before the padding. */
    const uint64_t size = file_size > r->data_start ? file_size - r->data_start : 0;
    return check_places(r, places, (size_t)r->file->num_entries, size, error);
}

static tenon_status read_tensors(reader *r, uint64_t count, tenon_error *error)
{
    for (uint64_t i = 0; i < count; i++)
        TN_TRY(read_tensor(r, error));
    r->data_start = align(r, r->g.at);
    r->file->data_start = r->data_start;
    r->file->alignment = r->alignment;
    extent *places = malloc(((size_t)count + 1) * sizeof *places);
    if (places == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %llu tensors",
                       tn_quote(tn_input_path(r->g.input)).text, (unsigned long long)count);
    }
    const tenon_status status = place_tensors(r, places, error);
    free(places);
    return status;
}

static tenon_status read_file(reader *r, tenon_error *error)
{
    uint32_t version;
    uint64_t tensors, keys;
    TN_TRY(tn_gguf_skip(&r->g, 4, "the magic number of GGUF", error));
    TN_TRY(tn_gguf_take_u32(&r->g, &version, "the version of a GGUF file", error));
    TN_TRY(check_version(r, version, error));
    TN_TRY(tn_gguf_take_count(&r->g, &tensors, least_tensor, "the number of tensors", error));
    TN_TRY(tn_gguf_take_count(&r->g, &keys, least_key, "the number of keys", error));
    TN_TRY(tn_gguf_read_values(r->file, &r->g, keys, error));
    TN_TRY(check_metadata(r, error));
    return read_tensors(r, tensors, error);
}

tenon_status tn_gguf_open(tenon_file *file, const tn_input *input, tenon_error *error)
{
    file->kind = "GGUF";
    reader r = {.file = file, .g = {.input = input}};
    return read_file(&r, error);
}
