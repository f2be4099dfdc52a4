/* SPDX-License-Identifier: MIT */
/* The file in a folder that a checkpoint starts at. What transformers would open is opened; where that cannot be told,
 * the candidates are named. */
#include "formats/format.h"

#include "core/error.h"
#include <stdlib.h>
#include <string.h>

#define USUAL_INDEX TN_USUAL_FILE ".index.json"

static tenon_status fail_memory(const char *folder, tenon_error *error)
{
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(folder).text);
}

/* *path = folder/name where there is such a file, else NULL. */
static tenon_status find_exact(const char *folder, const char *name, char **path, tenon_error *error)
{
    char *joined = tn_path_join(folder, name);
    if (joined == NULL) return fail_memory(folder, error);
    if (!tn_path_exists(joined)) {
        free(joined);
        joined = NULL;
    }
    *path = joined;
    return TENON_OK;
}

/* "'a', 'b' and 5 more". */
static void add_names(tn_text *text, const tn_folder_list *names)
{
    enum { shown_at_most = 6 };
    for (size_t i = 0; i < names->count && i < shown_at_most; i++)
        tn_text_add(text, "%s'%s'", i > 0 ? ", " : "", tn_quote(names->name[i]).text);
    if (names->count > shown_at_most) tn_text_add(text, " and %zu more", names->count - shown_at_most);
}

static tenon_status fail_several(const char *folder, const char *what, const tn_folder_list *names, tenon_error *error)
{
    char list[1024];
    tn_text text = {list, sizeof list, 0};
    add_names(&text, names);
    const bool are_shards = strstr(names->name[0], "-of-") != NULL && strstr(names->name[0], ".index.json") == NULL;
    return tn_fail(error, TENON_INVALID, "%s: the folder holds %zu %s: %s; %s", tn_quote(folder).text, names->count,
                   what, list,
                   are_shards ? "download their index too, or name the one to read" : "name the one to read");
}

/* *path = the file of the usual name, or the only one with that suffix, or NULL where there is none. */
static tenon_status find_kind(const char *folder, const char *usual, const char *suffix, const char *what, char **path,
                              tenon_error *error)
{
    tn_folder_list names;
    TN_TRY(find_exact(folder, usual, path, error));
    if (*path != NULL) return TENON_OK;
    TN_TRY(tn_folder_list_read(folder, suffix, &names, error));
    tenon_status status = TENON_OK;
    if (names.count == 1) status = find_exact(folder, names.name[0], path, error);
    if (names.count > 1) status = fail_several(folder, what, &names, error);
    tn_folder_list_free(&names);
    return status;
}

/* ---- a repository of a Hugging Face cache: blobs/, refs/, snapshots/ ---- */

/* The commit that refs/main of the repository names; "" where there is none. */
static tenon_status read_main(const char *folder, char commit[128], tenon_error *error)
{
    char *path = tn_path_join(folder, "refs/main");
    tn_input *input = NULL;
    commit[0] = 0;
    if (path == NULL) return fail_memory(folder, error);
    tenon_status status = tn_path_exists(path) ? tn_input_open(path, &input, error) : TENON_OK;
    free(path);
    if (input == NULL) return status;
    const uint64_t size = tn_input_size(input);
    if (size < 128) status = tn_input_read(input, 0, commit, (size_t)size, error);
    tn_input_close(input);
    if (size < 128) commit[size] = 0;
    commit[strspn(commit, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_")] = 0;
    return status;
}

static tenon_status choose_snapshot(const char *folder, const char *snapshots, char **path, tenon_error *error)
{
    tn_folder_list names;
    char commit[128];
    TN_TRY(read_main(folder, commit, error));
    if (commit[0] != 0) TN_TRY(find_exact(snapshots, commit, path, error));
    if (*path != NULL) return TENON_OK;
    TN_TRY(tn_folder_list_read(snapshots, "", &names, error));
    tenon_status status = TENON_OK;
    if (names.count == 1) status = find_exact(snapshots, names.name[0], path, error);
    if (names.count > 1) status = fail_several(snapshots, "snapshots, and refs/main names none of them", &names, error);
    tn_folder_list_free(&names);
    return status;
}

/* *path = the snapshot that `folder` means, NULL where it is no such repository. */
static tenon_status find_snapshot(const char *folder, char **path, tenon_error *error)
{
    char *snapshots = tn_path_join(folder, "snapshots");
    if (snapshots == NULL) return fail_memory(folder, error);
    const tenon_status status = tn_is_folder(snapshots) ? choose_snapshot(folder, snapshots, path, error) : TENON_OK;
    free(snapshots);
    return status;
}

/* ---- folders ---- */

/* An index goes before a single file. */
static tenon_status find_checkpoint(const char *folder, char **path, tenon_error *error)
{
    *path = NULL;
    TN_TRY(find_kind(folder, USUAL_INDEX, ".safetensors.index.json", "indexes but no " USUAL_INDEX, path, error));
    if (*path != NULL) return TENON_OK;
    return find_kind(folder, TN_USUAL_FILE, ".safetensors",
                     "safetensors files but neither " USUAL_INDEX " nor " TN_USUAL_FILE, path, error);
}

/* "", or a word on files of PyTorch's own, which the folder has instead. */
static tenon_status find_others(const char *folder, tn_quoted *hint, tenon_error *error)
{
    static const char *const suffixes[] = {".bin", ".pt", ".pth", ".ckpt"};
    hint->text[0] = 0;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0] && hint->text[0] == 0; i++) {
        tn_folder_list names;
        TN_TRY(tn_folder_list_read(folder, suffixes[i], &names, error));
        if (names.count > 0) *hint = tn_quote(names.name[0]);
        tn_folder_list_free(&names);
    }
    return TENON_OK;
}

const char *tn_explain_neighbours(const char *path)
{
    static const struct {
        const char *name, *sentence;
    } rows[] = {
        {"adapter_config.json",
         "a LoRA adapter (adapter_config.json) holds differences, not a model's connector; merge "
         "it into its base model with PEFT's merge_and_unload() and open the folder that is "
         "saved then"},
        {"model_index.json", "a diffusers pipeline (model_index.json) is several models in folders of their own; name "
                             "the folder of the one that has a connector"},
    };
    const bool is_folder = tn_is_folder(path);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *other = is_folder ? tn_path_join(path, rows[i].name) : tn_path_beside(path, rows[i].name);
        const bool is_there = other != NULL && tn_path_exists(other);
        free(other);
        if (is_there) return rows[i].sentence;
    }
    return NULL;
}

static tenon_status fail_nothing(const char *folder, tenon_error *error)
{
    tn_quoted other;
    const char *what = tn_explain_neighbours(folder);
    if (what != NULL) return tn_fail(error, TENON_NOT_FOUND, "%s: %s", tn_quote(folder).text, what);
    TN_TRY(find_others(folder, &other, error));
    const bool has = other.text[0] != 0;
    return tn_fail(error, TENON_NOT_FOUND, "%s: the folder holds no %s, no %s and no other .safetensors file%s%s%s",
                   tn_quote(folder).text, USUAL_INDEX, TN_USUAL_FILE,
                   has ? "; tenon.convert, of the Python package, "
                         "reads its '"
                       : "",
                   other.text, has ? "'" : "");
}

tenon_status tn_resolve_folder(const char *folder, char **path, tenon_error *error)
{
    char *found = NULL, *snapshot = NULL;
    TN_TRY(find_checkpoint(folder, &found, error));
    if (found == NULL) TN_TRY(find_snapshot(folder, &snapshot, error));
    tenon_status status = snapshot != NULL ? find_checkpoint(snapshot, &found, error) : TENON_OK;
    if (status == TENON_OK && found == NULL) status = fail_nothing(snapshot != NULL ? snapshot : folder, error);
    free(snapshot);
    if (status == TENON_OK) *path = found;
    return status;
}
