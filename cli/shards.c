/* SPDX-License-Identifier: MIT */
#include "shards.h"

#include "json.h"
#include "paths.h"
#include "ranks.h"
#include "report.h"

#include <stdlib.h>

enum { MOST_SAID = 100 };

bool tn_shards_set_bad(json_t *bad, const char *shard, const char *reason, tenon_error *error)
{
    char *key = tn_json_key(shard);
    const bool good = key && json_object_set_new(bad, key, tn_json_text(reason)) == 0;
    free(key);
    if (!good) return tn_error(error, "out of memory");
    if (json_object_size(bad) > MOST_SAID) return true;
    if (tn_ranks_count() > 1)
        tn_failed("rank %d: %s", tn_ranks_index(), reason);
    else
        tn_failed("%s", reason);
    return true;
}

bool tn_shards_fail(const json_t *bad, const char *folder, size_t count, const char *state, const char *advice,
                    tenon_error *error)
{
    char names[512];
    const size_t number = tn_shards_text(bad, names, sizeof names);
    return tn_error(error, "%s: %zu of %zu shards %s: %s; correct or remove them%s", folder, number, count, state,
                    names, advice);
}

json_t *tn_shards_names(char *const *names, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, tn_json_text(names[i]));
    return array;
}

json_t *tn_shards_skipped(const char *folder, tenon_error *error)
{
    char **names;
    size_t count;
    if (!tn_paths_list(folder, true, &names, &count, error)) return NULL;
    json_t *array = tn_shards_names(names, count);
    tn_paths_free_list(names, count);
    if (!array) tn_error(error, "out of memory");
    return array;
}

void tn_shards_note_skipped(const char *folder, const json_t *skipped)
{
    char names[512];
    const size_t count = tn_shards_text(skipped, names, sizeof names);
    if (count > 0)
        tn_note("%s: %zu entr%s skipped, which %s no .npy or .safetensors file%s: %s", folder, count,
                count == 1 ? "y" : "ies", count == 1 ? "is" : "are", count == 1 ? "" : "s", names);
}

size_t tn_shards_text(const json_t *of, char *text, size_t size)
{
    const size_t count = json_object_size(of) + json_array_size(of);
    char **names = calloc(count + 1, sizeof *names);
    const char *key;
    json_t *value;
    size_t i, used = 0;
    json_object_foreach((json_t *)(uintptr_t)of, key, value) if (names) names[used++] = (char *)(uintptr_t)key;
    json_array_foreach(of, i, value) if (names) names[used++] = (char *)(uintptr_t)json_string_value(value);
    tn_list_text(text, size, names, used);
    free(names);
    return count;
}
