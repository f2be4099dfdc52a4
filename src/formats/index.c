/* SPDX-License-Identifier: MIT */
/* Reads a sharded checkpoint (Hugging Face's model.safetensors.index.json):
 *
 *   {"metadata": {"total_size": 123}, "weight_map": {"tensor name": "model-00001-of-00002.safetensors", ...}}
 *
 * The shards are the safetensors files of the index's own folder, or of a folder in it ("sub/x.safetensors"). A shard's
 * tensors that the map does not name are left out; one that the map puts into another shard is refused, because then
 * two programs could see two models. A shard that is not there is noted (absent.c). */
#include "formats/format.h"

#include "core/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct index_reader {
    tenon_file *file;
    const tn_input *input;
    json_t *map;       /* tensor -> shard */
    char *stray;       /* the first tensor that was found in another shard than the map's; NULL: none was */
    const char *where; /* the shard it was found in */
} index_reader;

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

static tenon_status fail_memory(const index_reader *r, tenon_error *error)
{
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(tn_input_path(r->input)).text);
}

static tenon_status take_entries(index_reader *r, const tenon_file *part, const char *shard, tenon_error *error)
{
    for (int64_t i = 0; i < part->num_entries; i++) {
        const char *mapped = json_string_value(json_object_get(r->map, part->entries[i].name));
        if (mapped == NULL) continue;
        if (strcmp(mapped, shard) == 0) {
            TN_TRY(take_entry(r->file, &part->entries[i], error));
        } else if (r->stray == NULL) { /* what it means is told once all shards are known */
            r->stray = strdup(part->entries[i].name);
            r->where = shard;
            if (r->stray == NULL) return fail_memory(r, error);
        }
    }
    return TENON_OK;
}

static tenon_status note_not_found(const index_reader *r, const char *shard, tenon_error *error)
{
    char reason[256] = "was not found beside the index; download it";
    char *end = tn_path_follow(tn_input_path(r->input));
    if (end != NULL) {
        snprintf(reason, sizeof reason,
                 "was not found beside the index, nor beside %s, where that link leads; download it",
                 tn_quote(end).text);
    }
    free(end);
    return tn_file_add_absent(r->file, shard, reason, error);
}

/* A pointer that was downloaded in place of the shard counts as absent; a page or an archive is refused by name. */
static tenon_status read_header(index_reader *r, const tn_input *input, const char *shard, tenon_error *error)
{
    tn_head head;
    TN_TRY(tn_read_head(input, &head, error));
    const tn_kind *kind = tn_identify(&head);
    if (kind->is_pointer) return tn_file_add_absent(r->file, shard, kind->sentence, error);
    if (kind->open == NULL) return tn_refuse(kind, tn_input_path(input), &head, error);
    if (kind->open != tn_safetensors_open) {
        return tn_fail(error, TENON_BAD_FILE, "%s: is %s; a shard of an index is a safetensors file",
                       tn_quote(tn_input_path(input)).text, kind->name);
    }
    tenon_file part = {.path = r->file->path};
    tenon_status status = tn_safetensors_open(&part, input, error);
    if (status == TENON_OK) status = take_entries(r, &part, shard, error);
    for (int64_t i = 0; i < part.num_entries; i++)
        free(part.entries[i].shape);
    free(part.entries);
    json_decref(part.metadata);
    return status;
}

static tenon_status read_shard(index_reader *r, const char *shard, tenon_error *error)
{
    tn_input *input = NULL;
    const tenon_status status = tn_input_open_beside(tn_input_path(r->input), shard, &input, error);
    if (status == TENON_NOT_FOUND) return note_not_found(r, shard, error);
    if (status != TENON_OK) return status;
    TN_TRY(tn_file_own_input(r->file, input, error));
    return read_header(r, input, shard, error);
}

/* Each shard once, in the order in which the map first names them. `absent`: shard -> its number in file->absent, from
 * 1 on, or 0 where it is there. */
static tenon_status read_shards(index_reader *r, json_t *absent, tenon_error *error)
{
    const char *name;
    json_t *shard;
    json_object_foreach(r->map, name, shard)
    {
        const char *file = json_string_value(shard);
        if (json_object_get(absent, file) != NULL) continue;
        const int64_t before = r->file->num_absent;
        TN_TRY(read_shard(r, file, error));
        const int64_t number = r->file->num_absent > before ? r->file->num_absent : 0;
        if (json_object_set_new(absent, file, json_integer(number)) != 0) return fail_memory(r, error);
    }
    return TENON_OK;
}

/* Entries of the tensors of the shards that are not there. */
static tenon_status add_absent_entries(const index_reader *r, json_t *absent, tenon_error *error)
{
    const char *name;
    json_t *shard;
    if (r->file->num_absent == 0) return TENON_OK;
    json_object_foreach(r->map, name, shard)
    {
        const int64_t number = json_integer_value(json_object_get(absent, json_string_value(shard)));
        if (number == 0) continue;
        tn_entry *entry = NULL;
        TN_TRY(tn_file_add_entry(r->file, name, "", 0, 0, &entry, error));
        entry->encoding = &tn_encoding_unknown;
        entry->absent = number;
        r->file->absent[number - 1].num_tensors++;
    }
    return TENON_OK;
}

/* A tensor in another shard than the map's: alone there, or a second time. */
static tenon_status fail_stray(const index_reader *r, tenon_error *error)
{
    TN_TRY(tn_file_sort_names(r->file, error));
    const char *mapped = json_string_value(json_object_get(r->map, r->stray));
    const int64_t found = tn_file_find(r->file, r->stray);
    const bool is_twice = found >= 0 && r->file->entries[found].absent == 0;
    return tn_fail(error, TENON_BAD_FILE, "%s: maps tensor '%s' to the shard '%s', but %s '%s'%s",
                   tn_quote(tn_input_path(r->input)).text, tn_quote(r->stray).text, tn_quote(mapped).text,
                   is_twice ? "a duplicate of it is in" : "it is in", tn_quote(r->where).text,
                   is_twice ? "" : "; the index and the shards do not belong together");
}

/* In a folder the choice between an index and a model.safetensors is the reader's, and other programs choose the other.
 */
static tenon_status check_alone(const index_reader *r, tenon_error *error)
{
    const char *name;
    json_t *shard;
    if (!r->file->is_folder) return TENON_OK;
    json_object_foreach(r->map, name, shard)
    {
        if (strcmp(json_string_value(shard), TN_USUAL_FILE) == 0) return TENON_OK;
    }
    char *other = tn_path_beside(tn_input_path(r->input), TN_USUAL_FILE);
    if (other == NULL) return fail_memory(r, error);
    const bool is_there = tn_path_exists(other);
    const tn_quoted path = tn_quote(tn_input_path(r->input)), shown = tn_quote(other);
    free(other);
    if (!is_there) return TENON_OK;
    return tn_fail(error, TENON_INVALID,
                   "%s: does not name %s, which lies beside it: these are two models; name the one to read, or remove "
                   "the other",
                   path.text, shown.text);
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

static tenon_status read_index(index_reader *r, tenon_error *error)
{
    TN_TRY(check_alone(r, error));
    json_t *absent = json_object();
    if (absent == NULL) return fail_memory(r, error);
    tenon_status status = read_shards(r, absent, error);
    if (status == TENON_OK) status = add_absent_entries(r, absent, error);
    json_decref(absent);
    if (status == TENON_OK && r->stray != NULL) status = fail_stray(r, error);
    free(r->stray);
    return status != TENON_OK ? status : check_all_found(r, error);
}

tenon_status tn_index_open(tenon_file *file, const tn_input *input, tenon_error *error)
{
    file->kind = "safetensors index";
    json_t *json = NULL;
    TN_TRY(tn_index_read(input, &json, error));
    index_reader r = {.file = file, .input = input, .map = json_object_get(json, "weight_map")};
    const tenon_status status = read_index(&r, error);
    json_t *metadata = json_object_get(json, "metadata");
    if (status == TENON_OK && json_is_object(metadata)) file->metadata = json_incref(metadata);
    json_decref(json);
    return status;
}
