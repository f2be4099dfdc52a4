/* SPDX-License-Identifier: MIT */
/* Writes a GGUF file anew with some of its tensors replaced. The header keeps its length: of a tensor's entry only the
 * number of its type and its offset change, which have a fixed size. The data keeps its order. Where no type changes no
 * offset does, and the files differ in the replaced tensors alone. */
#include "formats/gguf.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/size.h"
#include <stdlib.h>
#include <string.h>

enum { chunk = 1 << 16 };

typedef struct tensor {
    const tn_entry *entry;
    const tn_replacement *replacement; /* NULL: it stays */
    uint64_t offset, bytes;            /* in the new file's data */
} tensor;

typedef struct rewrite {
    const tenon_file *file;
    const tn_input *input;
    tensor *tensors; /* in the order of their data */
    size_t count;
    tn_output *output;
    uint64_t end; /* of the new data, with its padding */
} rewrite;

uint64_t tn_gguf_bytes(const tn_entry *entry, const tn_encoding *encoding)
{
    uint64_t elements = 1;
    for (int i = 0; i < entry->ndim; i++)
        elements *= (uint64_t)entry->shape[i];
    return elements / (encoding->block > 0 ? encoding->block : 1) * tn_stored_size(encoding);
}

/* ---- the new places ---- */

static int compare_places(const void *a, const void *b)
{
    const tn_entry *x = ((const tensor *)a)->entry, *y = ((const tensor *)b)->entry;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    const uint64_t left = tn_gguf_bytes(x, x->encoding), right = tn_gguf_bytes(y, y->encoding);
    return (left > right) - (left < right); /* one without elements comes before the one that begins there */
}

static tenon_status check_rows(const rewrite *r, const tn_entry *entry, const tn_encoding *encoding, tenon_error *error)
{
    const int64_t row = entry->ndim > 0 ? entry->shape[entry->ndim - 1] : 1;
    if (encoding->block == 0 || row % (int64_t)encoding->block == 0) return TENON_OK;
    return tn_fail(error, TENON_INVALID,
                   "%s: tensor '%s' %s has rows of %lld elements, which blocks of %zu do not divide; write it as F16",
                   tn_quote(r->file->path).text, tn_quote(entry->name).text,
                   tn_shape_to_text(entry->ndim, entry->shape).text, (long long)row, encoding->block);
}

static tenon_status place(rewrite *r, const tn_replacement *replacements, int64_t count, tenon_error *error)
{
    for (size_t i = 0; i < r->count; i++)
        r->tensors[i].entry = &r->file->entries[i];
    for (int64_t i = 0; i < count; i++) {
        TN_TRY(check_rows(r, &r->file->entries[replacements[i].tensor], replacements[i].encoding, error));
        r->tensors[replacements[i].tensor].replacement = &replacements[i];
    }
    qsort(r->tensors, r->count, sizeof *r->tensors, compare_places);
    for (size_t i = 0; i < r->count; i++) {
        tensor *t = &r->tensors[i];
        t->offset = r->end;
        t->bytes = tn_gguf_bytes(t->entry, t->replacement != NULL ? t->replacement->encoding : t->entry->encoding);
        r->end = tn_align_up(r->end + t->bytes, (size_t)r->file->alignment);
    }
    return TENON_OK;
}

/* ---- writing ---- */

static tenon_status copy(const rewrite *r, uint64_t from, uint64_t to, uint64_t bytes, tenon_error *error)
{
    char buffer[chunk];
    while (bytes > 0) {
        const size_t now = bytes < chunk ? (size_t)bytes : chunk;
        TN_TRY(tn_input_read(r->input, from, buffer, now, error));
        TN_TRY(tn_output_write(r->output, to, buffer, now, error));
        from += now;
        to += now;
        bytes -= now;
    }
    return TENON_OK;
}

/* The type and the offset of a tensor, over what was copied. */
static tenon_status write_entry(const rewrite *r, const tensor *t, tenon_error *error)
{
    uint32_t type = 0;
    unsigned char bytes[12];
    if (!tn_gguf_number(t->replacement != NULL ? t->replacement->encoding : t->entry->encoding, &type)) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: tensor '%s' would be of a type that GGUF does not have",
                       tn_quote(r->file->path).text, tn_quote(t->entry->name).text);
    }
    for (int i = 0; i < 4; i++)
        bytes[i] = (unsigned char)(type >> 8 * i);
    for (int i = 0; i < 8; i++)
        bytes[4 + i] = (unsigned char)(t->offset >> 8 * i);
    return tn_output_write(r->output, t->entry->header_at, bytes, sizeof bytes, error);
}

static tenon_status write_new(const rewrite *r, const tensor *t, uint64_t at, tenon_error *error)
{
    enum { most = 64 };
    unsigned char stored[most * 64];
    const tn_encoding *encoding = t->replacement->encoding;
    const char *data = t->replacement->data;
    if (encoding->block == 0) return tn_output_write(r->output, at, data, (size_t)t->bytes, error);
    const size_t size = tn_stored_size(encoding);
    for (uint64_t left = t->bytes / size; left > 0;) {
        const size_t now = left < most ? (size_t)left : most;
        tn_environment environment;
        tn_environment_enter(&environment);
        tn_encode_q8_0(stored, data, now * encoding->block);
        tn_environment_leave(&environment);
        TN_TRY(tn_output_write(r->output, at, stored, now * size, error));
        data += now * encoding->block * sizeof(float);
        at += now * size;
        left -= now;
    }
    return TENON_OK;
}

static tenon_status write_padding(const rewrite *r, uint64_t end, tenon_error *error)
{
    static const char zeros[4096];
    for (uint64_t at = tn_output_end(r->output); at < end;) {
        const size_t now = end - at < sizeof zeros ? (size_t)(end - at) : sizeof zeros;
        TN_TRY(tn_output_write(r->output, at, zeros, now, error));
        at += now;
    }
    return TENON_OK;
}

/* Some offsets change: the header, with the new types and offsets, then all data in its order. */
static tenon_status write_anew(const rewrite *r, tenon_error *error)
{
    const uint64_t start = r->file->data_start, size = tn_input_size(r->input);
    TN_TRY(copy(r, 0, 0, size < start ? size : start, error));
    for (size_t i = 0; i < r->count; i++) {
        const tensor *t = &r->tensors[i];
        TN_TRY(write_entry(r, t, error));
        TN_TRY(t->replacement != NULL ? write_new(r, t, start + t->offset, error)
                                      : copy(r, t->entry->offset, start + t->offset, t->bytes, error));
    }
    return write_padding(r, start + r->end, error);
}

/* No offset changes: a copy, padding and all, in which the replaced tensors are overwritten. */
static tenon_status write_over(const rewrite *r, tenon_error *error)
{
    TN_TRY(copy(r, 0, 0, tn_input_size(r->input), error));
    for (size_t i = 0; i < r->count; i++) {
        const tensor *t = &r->tensors[i];
        if (t->replacement == NULL) continue;
        TN_TRY(write_entry(r, t, error)); /* two types may take the same bytes */
        TN_TRY(write_new(r, t, t->entry->offset, error));
    }
    return TENON_OK;
}

static tenon_status write_all(const rewrite *r, tenon_error *error)
{
    bool is_same = true;
    for (size_t i = 0; i < r->count; i++) {
        const tensor *t = &r->tensors[i];
        is_same = is_same && t->bytes == tn_gguf_bytes(t->entry, t->entry->encoding) &&
                  t->offset + r->file->data_start == t->entry->offset;
    }
    TN_TRY(is_same ? write_over(r, error) : write_anew(r, error));
    return tn_output_commit(r->output, error);
}

tenon_status tn_gguf_replace(const tenon_file *file, const tn_replacement *replacements, int64_t count,
                             const char *path, tenon_error *error)
{
    rewrite r = {.file = file, .input = file->inputs[0], .count = (size_t)file->num_entries};
    r.tensors = calloc(r.count + 1, sizeof *r.tensors);
    if (r.tensors == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(file->path).text);
    tenon_status status = place(&r, replacements, count, error);
    if (status == TENON_OK) status = tn_output_open(path, &r.output, error);
    if (status == TENON_OK) status = write_all(&r, error);
    tn_output_free(r.output);
    free(r.tensors);
    return status;
}
