/* SPDX-License-Identifier: MIT */
/* tenon compare: do two files of tokens, or of parameters, or two folders of them, hold the same numbers? The verdict
 * follows the worst row, because an average hides it: 575 good tokens of 576 still make a mean cosine of 0.998. */
#include "compare.h"

#include "commands.h"
#include "names.h"
#include "paths.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_TROUBLE = 2 };

static const tn_argument arguments[] = {
    {"A", false, "@file-",
     "an .npy or .safetensors file, an index of shards, the folder of a checkpoint, or a folder of such files; - for "
     "standard input"},
    {"B", false, "@file-", "the reference, of the same kind: differences are relative to it"},
    {.name = NULL}};

static const tn_option options[] = {
    {"tol", 0, TN_REAL, "X", NULL, 0, offsetof(tn_compare_settings, tolerance),
     "largest relative difference ||a - b|| / ||b|| allowed for a row; integers must be equal; default 1e-5",
     "--tol 1e-3"},
    {"tensor", 0, TN_STRING, "NAME", NULL, 0, offsetof(tn_compare_settings, tensor),
     "compare this tensor only; default all tensors, by name", "--tensor proj1.weight"},
    {"equal-nan", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_compare_settings, equal_nan),
     "NaN at the same place in both counts as equal; by default NaN equals nothing", "--equal-nan"},
    {"npy-bf16", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_compare_settings, npy_bfloat16),
     "read uint16 npy arrays as bfloat16", "--npy-bf16"},
    TN_OPTION_JSON(tn_compare_settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon compare tokens.npy reference.npy --tol 1e-3", "tokens against those of another program"},
    {"tenon compare before.safetensors after.safetensors --tol 0", "which parameters did training change?"},
    {"tenon compare tokens/ reference/", "folders of shards, by name"},
    {.line = NULL}};

/* ---- folders ---- */

/* The shards of a folder; none where the path is a file or the folder of a checkpoint. */
typedef struct shards {
    char **names;
    size_t count;
    bool *taken; /* [count] */
} shards;

static bool holds(const char *folder, const char *name)
{
    char *path = tn_paths_join(folder, name);
    bool found = path && tn_paths_exists(path);
    free(path);
    return found;
}

/* A folder that holds a model is opened as one file: the index decides there. False: out of memory. */
static bool find_shards(const char *path, shards *found)
{
    if (tn_is_stream(path) || !tn_paths_is_folder(path) || holds(path, "model.safetensors.index.json") ||
        holds(path, "model.safetensors"))
        return true;
    tenon_error ignored; /* what the library says of a folder without shards is better */
    if (!tn_paths_list_shards(path, &found->names, &found->count, &ignored)) return true;
    found->taken = calloc(found->count, sizeof *found->taken);
    return found->taken;
}

static void free_shards(shards *s)
{
    if (s->names) tn_paths_free_list(s->names, s->count);
    free(s->taken);
}

static int by_name(const void *key, const void *name)
{
    return strcmp(key, *(char *const *)name);
}

static int64_t find_shard(const shards *in, const char *name)
{
    char **found = name ? bsearch(name, in->names, in->count, sizeof *in->names, by_name) : NULL;
    return found ? found - in->names : -1;
}

/* The shard of that name, else of that name with the other suffix, unless this folder holds that one too; -1: none. */
static int64_t find_partner(const shards *from, const shards *in, const char *name)
{
    int64_t found = find_shard(in, name);
    if (found >= 0) return found;
    char *other = tn_paths_with_suffix(name, tn_paths_has_suffix(name, ".npy") ? ".safetensors" : ".npy");
    if (find_shard(from, other) < 0) found = find_shard(in, other);
    free(other);
    return found;
}

static bool compare_pair(const tn_compare_settings *given, const char *const path[2], const char *shard,
                         tn_compare_report *report, tn_trouble *trouble, tenon_error *error)
{
    tn_file_pair files = {.path = {path[0], path[1]}, .shard = shard};
    bool good = tn_compare_files(given, &files, trouble, error);
    if (good) tn_compare_report_add(report, &files);
    tn_compare_close(&files);
    return good;
}

static bool compare_shards(const tn_compare_settings *given, const char *const path[2], shards list[2],
                           tn_compare_report *report, tn_trouble *trouble, tenon_error *error)
{
    bool good = true;
    for (size_t i = 0; good && i < list[0].count; i++) {
        int64_t partner =
            list[0].count == 1 && list[1].count == 1 ? 0 : find_partner(&list[0], &list[1], list[0].names[i]);
        if (partner < 0) continue;
        list[0].taken[i] = list[1].taken[partner] = true;
        char *shard[2] = {tn_paths_join(path[0], list[0].names[i]), tn_paths_join(path[1], list[1].names[partner])};
        good = (shard[0] && shard[1]) || tn_error(error, "out of memory");
        if (good &&
            !compare_pair(given, (const char *const[]){shard[0], shard[1]}, list[0].names[i], report, trouble, error))
            tn_trouble_add(trouble, "%s", error->message);
        free(shard[0]);
        free(shard[1]);
    }
    return good;
}

/* "a.npy, b.npy and 3 more" of those that have no partner. */
static void report_alone(const char *const path[2], const shards list[2], tn_trouble *trouble)
{
    enum { SHOWN = 4 };
    for (int s = 0; s < 2; s++) {
        char names[SHOWN * 256] = "";
        int64_t alone = 0;
        for (size_t i = 0; i < list[s].count; i++) {
            size_t used = strlen(names);
            if (list[s].taken[i] || alone++ >= SHOWN) continue;
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", tn_name_text(list[s].names[i]));
        }
        size_t used = strlen(names);
        if (alone > SHOWN) snprintf(names + used, sizeof names - used, " and %" PRId64 " more", alone - SHOWN);
        if (alone)
            tn_trouble_add(trouble, "%s lacks %" PRId64 " shard%s of %s: %s", tn_name_text(path[1 - s]), alone,
                           alone == 1 ? "" : "s", tn_name_text(path[s]), names);
    }
}

/* ---- the command ---- */

static bool has_npy(const shards *list)
{
    bool found = false;
    for (size_t i = 0; i < list->count && !found; i++)
        found = tn_paths_has_suffix(list->names[i], ".npy");
    return found;
}

static bool compare_all(const tn_compare_settings *given, const char *const path[2], shards list[2],
                        tn_compare_report *report, tn_trouble *trouble, tenon_error *error)
{
    if (!report || !find_shards(path[0], &list[0]) || !find_shards(path[1], &list[1]))
        return tn_error(error, "out of memory");
    for (int s = 0; s < 2; s++)
        if (list[s].count && !list[1 - s].count)
            return tn_error(error, "%s is a folder of %zu shards, but %s is not one", tn_name_text(path[s]),
                            list[s].count, tn_name_text(path[1 - s]));
    if (!list[0].count) return compare_pair(given, path, NULL, report, trouble, error);
    if (given->npy_bfloat16 && !has_npy(&list[0]) && !has_npy(&list[1])) return tn_compare_fail_no_npy(path, error);
    if (!compare_shards(given, path, list, report, trouble, error)) return false;
    report_alone(path, list, trouble);
    return true;
}

static int run(const tn_command *command, int argc, char **argv)
{
    tn_compare_settings given = {.tolerance = 1e-5};
    const char *words[TN_MAX_ARGUMENTS];
    tenon_error error;
    shards list[2] = {{NULL, 0, NULL}, {NULL, 0, NULL}};
    tn_trouble trouble = {"", 0};
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0 && tn_is_stream(words[0]) && tn_is_stream(words[1]))
        code = tn_usage(command, "one of A and B can be '-'; give a file for the other");
    for (int s = 0; code < 0 && s < 2; s++)
        if (tn_stream_is_closed(words[s], STDIN_FILENO)) code = tn_usage(command, "standard input is closed");
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code >= 0) return code;
    tn_compare_report *report = tn_compare_report_new(&given, words[0], words[1]);
    if (compare_all(&given, words, list, report, &trouble, &error)) {
        tn_trouble_end(&trouble);
        code = tn_compare_report_end(report, &trouble);
    } else {
        tn_failed_error(&error);
        code = EXIT_TROUBLE;
    }
    tn_compare_report_free(report);
    for (int s = 0; s < 2; s++)
        free_shards(&list[s]);
    return code;
}

const tn_command tn_command_compare = {
    "compare",
    "compare two files or folders of tokens or parameters",
    "Compares the tensors of two files, which may differ in format and dtype, or of two folders of shards with the "
    "same "
    "names: the largest absolute difference, the relative difference ||a - b|| / ||b||, the cosine difference 1 - cos "
    "and the ratio of the norms ||a|| / ||b||, over everything and for the worst row. A row lies along the last axis: "
    "a "
    "token, or the weights of one output. Numbers are compared in the precision of the files, integers exactly. The "
    "verdict follows the relative difference of the worst row. What only one side holds is named, and the rest is "
    "compared.",
    arguments,
    options,
    examples,
    "0: the same within the tolerance. 1: different. 2: trouble: invalid command line, a file cannot be read, or names "
    "or shapes do not match.",
    run,
    false};
