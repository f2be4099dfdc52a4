/* SPDX-License-Identifier: MIT */
#include "json.h"
#include "plan.h"
#include "report.h"
#include "shards.h"

#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names that the shards have in the folder of an output, sorted; freed with tn_paths_free_list. NULL: no memory. */
static char **output_names(const tn_run_plan *p, int role)
{
    char **names = calloc(p->num_shards, sizeof *names);
    bool good = names != NULL;
    for (size_t i = 0; good && i < p->num_shards; i++) {
        names[i] = role == TN_TOKENS ? strdup(p->shards[i]) : tn_paths_with_suffix(p->shards[i], ".npy");
        good = names[i] != NULL;
    }
    if (good) {
        qsort(names, p->num_shards, sizeof *names, by_bytes);
        return names;
    }
    if (names) tn_paths_free_list(names, p->num_shards);
    return NULL;
}

/* Temporary files of the outputs, and in the folder of the tokens of the manifest and its parts. */
static void sweep(const tn_run_plan *p, int role, char **names)
{
    static const char *const own[] = {TN_MANIFEST_NAME, TN_MANIFEST_PART_NAME("*")};
    tn_lock_sweep(p->lock, p->folders[role], (const char *const *)names, p->num_shards);
    if (role == TN_TOKENS) tn_lock_sweep(p->lock, p->folders[role], own, 2);
}

static bool list_skipped(const tn_run_plan *p, json_t *lists, tenon_error *error)
{
    json_t *skipped = tn_shards_skipped(p->folders[TN_FEATURES], error);
    if (!skipped) return false;
    return json_object_set_new(lists, "skipped_files", skipped) == 0 || tn_error(error, "out of memory");
}

/* Keeps, of the sorted `names` in an output's folder, those that are no `expected` [num_shards]. */
static size_t keep_unexpected(const tn_run_plan *p, char **names, size_t count, char **expected)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (bsearch(&names[i], expected, p->num_shards, sizeof *expected, by_bytes))
            free(names[i]);
        else
            names[kept++] = names[i];
    }
    return kept;
}

static bool list_orphans(const tn_run_plan *p, int role, char **expected, json_t *lists, tenon_error *error)
{
    char **names = NULL;
    size_t count = 0;
    /* In a folder that no run has filled yet, the files are other people's. */
    if (p->had_manifest && !tn_paths_list(p->folders[role], false, &names, &count, error)) return false;
    count = keep_unexpected(p, names, count, expected);
    json_object_set_new(lists, role == TN_TOKENS ? "tokens_without_features" : "attention_without_features",
                        tn_shards_names(names, count));
    tn_paths_free_list(names, count);
    return true;
}

bool tn_plan_look_around(const tn_run_plan *p, json_t *lists, tenon_error *error)
{
    if (!list_skipped(p, lists, error)) return false;
    for (int role = TN_TOKENS; role < TN_ROLES; role++) {
        if (!p->folders[role]) continue;
        char **names = output_names(p, role);
        if (!names) return tn_error(error, "out of memory");
        sweep(p, role, names);
        bool good = list_orphans(p, role, names, lists, error);
        tn_paths_free_list(names, p->num_shards);
        if (!good) return false;
    }
    return true;
}

void tn_plan_print_notes(const tn_run_plan *p, const json_t *lists)
{
    char names[512];
    tn_shards_note_skipped(p->folders[TN_FEATURES], json_object_get(lists, "skipped_files"));
    size_t count = tn_shards_text(json_object_get(lists, "tokens_without_features"), names, sizeof names);
    if (count > 0)
        tn_note("%s: %zu file%s of tokens without features in %s: %s", p->folders[TN_TOKENS], count,
                count == 1 ? "" : "s", p->folders[TN_FEATURES], names);
    count = tn_shards_text(json_object_get(lists, "attention_without_features"), names, sizeof names);
    if (count > 0)
        tn_note("%s: %zu file%s of attention without features in %s: %s", p->folders[TN_ATTENTION], count,
                count == 1 ? "" : "s", p->folders[TN_FEATURES], names);
}
