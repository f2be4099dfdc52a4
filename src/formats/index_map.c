/* SPDX-License-Identifier: MIT */
/* The JSON of an index of shards, and which shard it maps each tensor to; no shard is opened here. */
#include "formats/format.h"

#include "core/error.h"
#include <stdlib.h>
#include <string.h>

static tenon_status check_map(const tn_input *input, json_t *map, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(input));
    if (!json_is_object(map)) {
        return tn_fail(error, TENON_BAD_FILE, "%s: has no object \"weight_map\", so it is no index of shards",
                       path.text);
    }
    const char *name;
    json_t *shard;
    json_object_foreach(map, name, shard)
    {
        if (!json_is_string(shard)) {
            return tn_fail(error, TENON_BAD_FILE, "%s: the shard of tensor '%s' is not a string", path.text,
                           tn_quote(name).text);
        }
        const char *fault = tn_name_fault(json_string_value(shard));
        if (fault != NULL) {
            return tn_fail(error, TENON_BAD_FILE,
                           "%s: tensor '%s' is mapped to the shard '%s', whose name %s; only plain names inside the "
                           "folder are opened",
                           path.text, tn_quote(name).text, tn_quote(json_string_value(shard)).text, fault);
        }
    }
    return TENON_OK;
}

tenon_status tn_index_read(const tn_input *input, json_t **json, tenon_error *error)
{
    const uint64_t size = tn_input_size(input);
    if (tn_input_is_stream(input)) {
        return tn_fail(error, TENON_INVALID,
                       "%s: is an index of shards, which names files that lie beside it; name its file or its folder "
                       "instead",
                       tn_quote(tn_input_path(input)).text);
    }
    if (size > TN_MAX_HEADER) {
        return tn_fail(error, TENON_BAD_FILE, "%s: the index is %llu bytes long; at most %d are read",
                       tn_quote(tn_input_path(input)).text, (unsigned long long)size, TN_MAX_HEADER);
    }
    char *text = NULL;
    json_t *read = NULL;
    TN_TRY(tn_read_header(input, 0, (size_t)size, &text, error));
    tenon_status status = tn_json_parse(tn_input_path(input), "the index", text, (size_t)size, 0, &read, error);
    free(text);
    if (status != TENON_OK) return status;
    status = check_map(input, json_object_get(read, "weight_map"), error);
    if (status != TENON_OK) {
        json_decref(read);
        return status;
    }
    *json = read;
    return TENON_OK;
}

/* ---- for programs that read the shards themselves ---- */

struct tenon_index {
    json_t *json;
    int64_t count;
    const char **tensors, **shards; /* [count], the JSON's */
};

static tenon_status list_tensors(tenon_index *index, const char *path, tenon_error *error)
{
    json_t *map = json_object_get(index->json, "weight_map");
    const size_t count = json_object_size(map);
    index->tensors = calloc(count + 1, sizeof *index->tensors); /* never of size 0 */
    index->shards = calloc(count + 1, sizeof *index->shards);
    if (index->tensors == NULL || index->shards == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %zu names", tn_quote(path).text, count);
    }
    const char *name;
    json_t *shard;
    json_object_foreach(map, name, shard)
    {
        index->tensors[index->count] = name;
        index->shards[index->count++] = json_string_value(shard);
    }
    return TENON_OK;
}

tenon_status tenon_index_open(const char *path, tenon_index **index, tenon_error *error)
{
    if (path == NULL || index == NULL) return tn_fail(error, TENON_INVALID, "an index needs a path and a place");
    tn_input *input = NULL;
    TN_TRY(tn_input_open(path, &input, error));
    tenon_index *made = calloc(1, sizeof *made);
    tenon_status status = made != NULL ? tn_index_read(input, &made->json, error)
                                       : tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(path).text);
    tn_input_close(input);
    if (status == TENON_OK) status = list_tensors(made, path, error);
    if (status != TENON_OK) {
        tenon_index_close(made);
        return status;
    }
    *index = made;
    return TENON_OK;
}

void tenon_index_close(tenon_index *index)
{
    if (index == NULL) return;
    json_decref(index->json);
    free(index->tensors);
    free(index->shards);
    free(index);
}

int64_t tenon_index_num_tensors(const tenon_index *index)
{
    return index->count;
}

tenon_status tenon_index_tensor(const tenon_index *index, int64_t number, const char **name, const char **shard,
                                tenon_error *error)
{
    if (number < 0 || number >= index->count) {
        return tn_fail(error, TENON_INVALID, "tensor number %lld of an index that has %lld", (long long)number,
                       (long long)index->count);
    }
    *name = index->tensors[number];
    *shard = index->shards[number];
    return TENON_OK;
}
