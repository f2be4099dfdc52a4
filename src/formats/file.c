/* SPDX-License-Identifier: MIT */
/* Tensor files, open for reading: the entries that formats make, finding them, reading slices. open.c opens. */
#include "formats/format.h"

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/size.h"
#include "core/versioned.h"
#include <stdlib.h>
#include <string.h>

void tenon_file_tensor_init(tenon_file_tensor *tensor)
{
    *tensor = (tenon_file_tensor){.size = sizeof *tensor};
}

void tenon_file_close(tenon_file *file)
{
    if (file == NULL) return;
    for (int64_t i = 0; i < file->num_inputs; i++)
        tn_input_close(file->inputs[i]);
    for (int64_t i = 0; i < file->num_entries; i++)
        free(file->entries[i].shape);
    for (int64_t i = 0; i < file->num_absent; i++) {
        free(file->absent[i].name);
        free(file->absent[i].reason);
    }
    json_decref(file->metadata);
    free(file->absent);
    free(file->inputs);
    free(file->entries);
    free(file->by_name);
    free(file->path);
    free(file);
}

/* ---- what formats build a file with ---- */

tenon_status tn_file_own_input(tenon_file *file, tn_input *input, tenon_error *error)
{
    tn_input **grown = realloc(file->inputs, ((size_t)file->num_inputs + 1) * sizeof *grown);
    if (grown == NULL) {
        tn_input_close(input);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(file->path).text);
    }
    file->inputs = grown;
    file->inputs[file->num_inputs++] = input;
    return TENON_OK;
}

static tenon_status grow_entries(tenon_file *file, tenon_error *error)
{
    if (file->num_entries < file->capacity) return TENON_OK;
    const int64_t capacity = file->capacity > 0 ? 2 * file->capacity : 16;
    tn_entry *grown = realloc(file->entries, (size_t)capacity * sizeof *grown);
    if (grown == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %lld tensors", tn_quote(file->path).text,
                       (long long)capacity);
    }
    file->entries = grown;
    file->capacity = capacity;
    return TENON_OK;
}

tenon_status tn_file_add_entry(tenon_file *file, const char *name, const char *stored, size_t stored_length, int ndim,
                               tn_entry **entry, tenon_error *error)
{
    TN_TRY(grow_entries(file, error));
    /* One block: the shape, then the two names. */
    const size_t shape_bytes = ((size_t)ndim + 1) * sizeof(int64_t), name_bytes = strlen(name) + 1;
    char *block = calloc(1, shape_bytes + name_bytes + stored_length + 1);
    if (block == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(file->path).text);
    tn_entry *added = &file->entries[file->num_entries++];
    *added = (tn_entry){.shape = (int64_t *)(void *)block, .ndim = ndim, .name = block + shape_bytes};
    added->stored = added->name + name_bytes;
    memcpy(added->name, name, name_bytes);
    memcpy(added->stored, stored, stored_length);
    *entry = added;
    return TENON_OK;
}

/* qsort has no context, so what is sorted carries it. */
typedef struct named {
    const char *name;
    int64_t index;
} named;

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

tenon_status tn_file_sort_names(tenon_file *file, tenon_error *error)
{
    const size_t count = (size_t)file->num_entries;
    named *sorted = malloc((count + 1) * sizeof *sorted);
    int64_t *by_name = malloc((count + 1) * sizeof *by_name);
    if (sorted == NULL || by_name == NULL) {
        free(sorted);
        free(by_name);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %zu names", tn_quote(file->path).text, count);
    }
    for (size_t i = 0; i < count; i++)
        sorted[i] = (named){file->entries[i].name, (int64_t)i};
    qsort(sorted, count, sizeof *sorted, compare_named);
    tenon_status status = TENON_OK;
    for (size_t i = 0; i < count; i++) {
        by_name[i] = sorted[i].index;
        if (i > 0 && strcmp(sorted[i].name, sorted[i - 1].name) == 0) {
            status = tn_fail(error, TENON_BAD_FILE, "%s: duplicate tensor '%s'", tn_quote(file->path).text,
                             tn_quote(sorted[i].name).text);
        }
    }
    free(sorted);
    free(file->by_name);
    file->by_name = by_name;
    return status;
}

int64_t tn_file_find(const tenon_file *file, const char *name)
{
    int64_t low = 0, high = file->num_entries;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2, index = file->by_name[middle];
        const int order = strcmp(name, file->entries[index].name);
        if (order == 0) return index;
        if (order < 0) high = middle;
        if (order > 0) low = middle + 1;
    }
    return -1;
}

/* ---- asking ---- */

const char *tenon_file_kind(const tenon_file *file)
{
    return file->kind;
}

int64_t tenon_file_num_tensors(const tenon_file *file)
{
    return file->num_entries;
}

static tenon_status check_index(const tenon_file *file, int64_t index, tenon_error *error)
{
    if (index >= 0 && index < file->num_entries) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "%s: tensor number %lld of a file that has %lld", tn_quote(file->path).text,
                   (long long)index, (long long)file->num_entries);
}

tenon_status tenon_file_get_tensor(const tenon_file *file, int64_t index, tenon_file_tensor *tensor, tenon_error *error)
{
    TN_TRY(check_index(file, index, error));
    const tn_entry *entry = &file->entries[index];
    const tenon_file_tensor found = {.name = entry->name,
                                     .stored = entry->stored,
                                     .dtype = entry->encoding->dtype,
                                     .ndim = entry->ndim,
                                     .shape = entry->shape,
                                     .absent_shard = entry->absent > 0 ? file->absent[entry->absent - 1].name : NULL,
                                     .path = entry->input != NULL ? tn_input_path(entry->input) : NULL};
    return tn_struct_write(tensor, &found, sizeof found, TN_FIRST_SIZE(tenon_file_tensor, shape), "tenon_file_tensor",
                           error);
}

tenon_status tenon_file_find_tensor(const tenon_file *file, const char *name, int64_t *index, tenon_error *error)
{
    const int64_t found = name != NULL ? tn_file_find(file, name) : -1;
    if (found < 0) {
        return tn_fail(error, TENON_NOT_FOUND, "%s: has no tensor '%s' among its %lld", tn_quote(file->path).text,
                       tn_quote(name != NULL ? name : "").text, (long long)file->num_entries);
    }
    TN_TRY(tn_file_check_present(file, &file->entries[found], error));
    *index = found;
    return TENON_OK;
}

const char *tenon_file_metadata(const tenon_file *file, const char *key)
{
    return key != NULL ? json_string_value(json_object_get(file->metadata, key)) : NULL;
}

const char *tenon_file_metadata_key(const tenon_file *file, int64_t number)
{
    void *at = json_object_iter(file->metadata);
    for (int64_t i = 0; i < number && at != NULL; i++)
        at = json_object_iter_next(file->metadata, at);
    return number >= 0 && at != NULL ? json_object_iter_key(at) : NULL;
}

/* ---- reading ---- */

/* Elements [first, first + count) that are delivered in another form than they are stored in. */
static tenon_status read_converted(const tn_entry *entry, uint64_t first, size_t count, char *data, tenon_error *error)
{
    enum { chunk_bytes = 16384 };
    double aligned[chunk_bytes / sizeof(double)];
    const size_t stored = tn_stored_size(entry->encoding), delivered = entry->encoding->dtype.bits / 8;
    const size_t most = chunk_bytes / stored;
    while (count > 0) {
        const size_t now = count < most ? count : most;
        TN_TRY(tn_input_read(entry->input, entry->offset + first * stored, aligned, now * stored, error));
        if (entry->swapped) tn_swap_bytes(aligned, stored, now);
        tn_environment environment; /* narrowing rounds to nearest, whatever the caller's mode is */
        tn_environment_enter(&environment);
        entry->encoding->convert(data, aligned, now);
        tn_environment_leave(&environment);
        data += now * delivered;
        first += now;
        count -= now;
    }
    return TENON_OK;
}

/* The same of elements that are stored in blocks, of which the first and the last may be wanted in part. */
static tenon_status read_blocks(const tn_entry *entry, uint64_t first, size_t count, char *data, tenon_error *error)
{
    enum { most_elements = 4096, most_bytes = 2 * most_elements }; /* no block takes more than 2 bytes an element */
    unsigned char stored[most_bytes];
    float values[most_elements];
    const size_t block = entry->encoding->block, size = tn_stored_size(entry->encoding);
    while (count > 0) {
        const size_t skipped = (size_t)(first % block), most = most_elements / block;
        const size_t wanted = (skipped + count - 1) / block + 1, blocks = wanted < most ? wanted : most;
        const size_t rest = blocks * block - skipped, now = count < rest ? count : rest;
        TN_TRY(tn_input_read(entry->input, entry->offset + first / block * size, stored, blocks * size, error));
        tn_environment environment; /* products are rounded to nearest, whatever the caller's mode is */
        tn_environment_enter(&environment);
        entry->encoding->convert(values, stored, blocks * block);
        tn_environment_leave(&environment);
        memcpy(data, values + skipped, now * sizeof *values);
        data += now * sizeof *values;
        first += now;
        count -= now;
    }
    return TENON_OK;
}

tenon_status tn_read_elements(const tn_entry *entry, uint64_t first, size_t count, void *data, tenon_error *error)
{
    if (entry->encoding->block > 0) return read_blocks(entry, first, count, data, error);
    if (entry->encoding->convert != NULL) return read_converted(entry, first, count, data, error);
    const size_t stored = tn_stored_size(entry->encoding);
    TN_TRY(tn_input_read(entry->input, entry->offset + first * stored, data, count * stored, error));
    if (entry->swapped) tn_swap_bytes(data, stored, count);
    return TENON_OK;
}

/* Elements of one slice along the first axis, and bytes of `count` of them as delivered. */
static bool measure_slices(const tn_entry *entry, int64_t count, size_t *slice, size_t *bytes)
{
    const int tail = entry->ndim > 0 ? entry->ndim - 1 : 0;
    if (count == 0) {
        *slice = *bytes = 0;
        return true;
    }
    return tn_shape_bytes(tail, entry->shape + (entry->ndim > 0), 1, slice) &&
           tn_mul_size(*slice, (size_t)count, bytes) && tn_mul_size(*bytes, entry->encoding->dtype.bits / 8, bytes);
}

tenon_status tenon_file_read(const tenon_file *file, int64_t index, int64_t first, int64_t count, void *data,
                             size_t capacity, tenon_error *error)
{
    TN_TRY(check_index(file, index, error));
    const tn_entry *entry = &file->entries[index];
    const tn_quoted path = tn_quote(file->path), name = tn_quote(entry->name);
    TN_TRY(tn_file_check_present(file, entry, error));
    if (entry->encoding->dtype.code == kDLOpaqueHandle) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: tensor '%s' is stored as %s, which tenon does not read",
                       path.text, name.text, tn_quote(entry->stored).text);
    }
    const int64_t slices = entry->ndim > 0 ? entry->shape[0] : 1;
    if (first < 0 || count < 0 || count > slices || first > slices - count) {
        return tn_fail(error, TENON_INVALID, "%s: %lld slices wanted from number %lld on, but tensor '%s' has %lld",
                       path.text, (long long)count, (long long)first, name.text, (long long)slices);
    }
    size_t slice, bytes;
    if (!measure_slices(entry, count, &slice, &bytes)) {
        return tn_fail(error, TENON_INVALID, "%s: tensor '%s' %s is too large for memory", path.text, name.text,
                       tn_shape_to_text(entry->ndim, entry->shape).text);
    }
    if (bytes > capacity || (data == NULL && bytes > 0)) {
        return tn_fail(error, TENON_INVALID, "%s: %lld slices of tensor '%s' are %zu bytes, the buffer holds %zu",
                       path.text, (long long)count, name.text, bytes, data != NULL ? capacity : 0);
    }
    if (bytes == 0) return TENON_OK;
    if (entry->is_column_major) return tn_read_column_major(entry, first, count, slice, data, error);
    return tn_read_elements(entry, (uint64_t)first * slice, slice * (size_t)count, data, error);
}
