/* SPDX-License-Identifier: MIT */
/* Reads a sharded checkpoint (Hugging Face's model.safetensors.index.json):
 *
 *   {"metadata": {"total_size": 123}, "weight_map": {"tensor name": "model-00001-of-00002.safetensors", ...}}
 *
 * The shards are the safetensors files of the index's own folder, or of a folder in it ("sub/x.safetensors"). A shard's
 * tensors that the map does not name are left out; one that the map puts into another shard is refused, because then
 * two programs could see two models. */
#include "formats/format.h"

#include "core/error.h"
#include <stdlib.h>
#include <string.h>

typedef struct index_reader {
    tenon_file *file;
    const tn_input *input;
    json_t *map; /* tensor -> shard */
} index_reader;

/* ---- the map ---- */

static tenon_status check_map(const index_reader *r, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(r->input));
    if (!json_is_object(r->map)) {
        return tn_fail(error, TENON_BAD_FILE, "%s: has no object \"weight_map\", so it is no index of shards",
                       path.text);
    }
    const char *name;
    json_t *shard;
    json_object_foreach(r->map, name, shard)
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

/* ---- shards ---- */

/* Moves a shard's entry into the file: names and shape change owners. */
static tenon_status take_entry(tenon_file *file, tn_entry *entry, tenon_error *error)
{
    tn_entry *added = NULL;
    TN_TRY(tn_file_add_entry(file, entry->name, entry->stored, strlen(entry->stored), entry->ndim, &added, error));
    int64_t *const shape = added->shape;
    char *const name = added->name, *const stored = added->stored;
    memcpy(shape, entry->shape, (size_t)entry->ndim * sizeof *shape);
    *added = *entry;
    added->shape = shape;
    added->name = name;
    added->stored = stored;
    return TENON_OK;
}

static tenon_status take_entries(const index_reader *r, const tenon_file *part, const char *shard, tenon_error *error)
{
    for (int64_t i = 0; i < part->num_entries; i++) {
        const char *mapped = json_string_value(json_object_get(r->map, part->entries[i].name));
        if (mapped == NULL) continue;
        if (strcmp(mapped, shard) != 0) {
            return tn_fail(error, TENON_BAD_FILE,
                           "%s: maps tensor '%s' to the shard '%s', but '%s' holds a duplicate of it",
                           tn_quote(tn_input_path(r->input)).text, tn_quote(part->entries[i].name).text,
                           tn_quote(mapped).text, tn_quote(shard).text);
        }
        TN_TRY(take_entry(r->file, &part->entries[i], error));
    }
    return TENON_OK;
}

static tenon_status read_shard(const index_reader *r, const char *shard, tenon_error *error)
{
    tn_input *input = NULL;
    TN_TRY(tn_input_open_beside(tn_input_path(r->input), shard, &input, error));
    TN_TRY(tn_file_own_input(r->file, input, error));
    tenon_file part = {.path = r->file->path};
    tenon_status status = tn_safetensors_open(&part, input, error);
    if (status == TENON_OK) status = take_entries(r, &part, shard, error);
    for (int64_t i = 0; i < part.num_entries; i++)
        free(part.entries[i].shape);
    free(part.entries);
    json_decref(part.metadata);
    return status;
}

/* Each shard once, in the order in which the map first names them. */
static tenon_status read_shards(const index_reader *r, json_t *seen, tenon_error *error)
{
    const char *name;
    json_t *shard;
    json_object_foreach(r->map, name, shard)
    {
        const char *file = json_string_value(shard);
        if (json_object_get(seen, file) != NULL) continue;
        if (json_object_set_new(seen, file, json_true()) != 0) {
            return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(tn_input_path(r->input)).text);
        }
        TN_TRY(read_shard(r, file, error));
    }
    return TENON_OK;
}

static tenon_status check_all_found(const index_reader *r, tenon_error *error)
{
    if ((size_t)r->file->num_entries == json_object_size(r->map)) return TENON_OK;
    TN_TRY(tn_file_sort_names(r->file, error));
    const char *name;
    json_t *shard;
    json_object_foreach(r->map, name, shard)
    {
        if (tn_file_find(r->file, name) >= 0) continue;
        return tn_fail(error, TENON_BAD_FILE, "%s: maps tensor '%s' to the shard '%s', which does not hold it",
                       tn_quote(tn_input_path(r->input)).text, tn_quote(name).text,
                       tn_quote(json_string_value(shard)).text);
    }
    return TENON_OK;
}

static tenon_status read_index(const index_reader *r, tenon_error *error)
{
    TN_TRY(check_map(r, error));
    json_t *seen = json_object();
    if (seen == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(tn_input_path(r->input)).text);
    }
    const tenon_status status = read_shards(r, seen, error);
    json_decref(seen);
    return status != TENON_OK ? status : check_all_found(r, error);
}

tenon_status tn_index_open(tenon_file *file, const tn_input *input, tenon_error *error)
{
    file->kind = "safetensors index";
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
    TN_TRY(tn_read_header(input, 0, (size_t)size, &text, error));
    json_t *json = NULL;
    tenon_status status = tn_json_parse(tn_input_path(input), "the index", text, (size_t)size, 0, &json, error);
    free(text);
    if (status != TENON_OK) return status;
    const index_reader r = {file, input, json_object_get(json, "weight_map")};
    status = read_index(&r, error);
    json_t *metadata = json_object_get(json, "metadata");
    if (status == TENON_OK && json_is_object(metadata)) file->metadata = json_incref(metadata);
    json_decref(json);
    return status;
}

/* ---- folders ---- */

/* *path = folder/name where there is such a file, else NULL. */
static tenon_status find_exact(const char *folder, const char *name, char **path, tenon_error *error)
{
    char *joined = tn_path_join(folder, name);
    if (joined == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(folder).text);
    if (!tn_path_exists(joined)) {
        free(joined);
        joined = NULL;
    }
    *path = joined;
    return TENON_OK;
}

/* *path = the only file of the folder with that suffix, else NULL; *count: how many there are. */
static tenon_status find_only(const char *folder, const char *suffix, int64_t *count, char **path, tenon_error *error)
{
    char *name = NULL;
    TN_TRY(tn_folder_find(folder, suffix, count, &name, error));
    const tenon_status status = *count == 1 ? find_exact(folder, name, path, error) : TENON_OK;
    free(name);
    return status;
}

/* An index goes before a single file; of either kind, the usual name goes before the only one. */
tenon_status tn_index_resolve_folder(const char *folder, char **path, tenon_error *error)
{
    static const char *const usual[] = {"model.safetensors.index.json", "model.safetensors"};
    static const char *const suffix[] = {".safetensors.index.json", ".safetensors"};
    int64_t count = 0;
    char *found = NULL;
    for (int kind = 0; kind < 2 && found == NULL && count == 0; kind++) {
        TN_TRY(find_exact(folder, usual[kind], &found, error));
        if (found == NULL) TN_TRY(find_only(folder, suffix[kind], &count, &found, error));
    }
    if (found == NULL && count > 0) {
        return tn_fail(error, TENON_INVALID,
                       "%s: the folder holds %lld safetensors files but neither %s nor %s; name the file "
                       "to read",
                       tn_quote(folder).text, (long long)count, usual[0], usual[1]);
    }
    if (found == NULL) {
        return tn_fail(error, TENON_NOT_FOUND, "%s: the folder holds no %s, no %s and no other .safetensors file",
                       tn_quote(folder).text, usual[0], usual[1]);
    }
    *path = found;
    return TENON_OK;
}
