/* SPDX-License-Identifier: MIT */
#include "paths.h"

#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool tn_paths_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool tn_paths_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool tn_paths_has_suffix(const char *path, const char *suffix)
{
    size_t length = strlen(path);
    size_t tail = strlen(suffix);
    return length > tail && !strcmp(path + length - tail, suffix);
}

char *tn_paths_join(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);
    bool slash = folder[0] && folder[strlen(folder) - 1] == '/';
    if (path) snprintf(path, size, "%s%s%s", folder, slash ? "" : "/", name);
    return path;
}

char *tn_paths_with_suffix(const char *name, const char *suffix)
{
    const char *dot = strrchr(name, '.');
    size_t stem = dot ? (size_t)(dot - name) : strlen(name);
    size_t size = stem + strlen(suffix) + 1;
    char *path = malloc(size);
    if (path) snprintf(path, size, "%.*s%s", (int)stem, name, suffix);
    return path;
}

const char *tn_paths_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder part of a path, resolved; NULL when it does not exist. The caller frees it. */
static char *resolved_folder(const char *path)
{
    char *folder = strdup(path);
    if (!folder) return NULL;
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder ? 1 : 0] = 0;
    char *resolved = realpath(slash ? folder : ".", NULL);
    free(folder);
    return resolved;
}

bool tn_paths_same(const char *a, const char *b)
{
    struct stat of_a, of_b;
    int found_a = stat(a, &of_a);
    int found_b = stat(b, &of_b);
    if (found_a == 0 && found_b == 0) return of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
    if (found_a == 0 || found_b == 0) return false;
    char *folder_a = resolved_folder(a);
    char *folder_b = resolved_folder(b);
    bool same = folder_a && folder_b && !strcmp(folder_a, folder_b) && !strcmp(tn_paths_base(a), tn_paths_base(b));
    free(folder_a);
    free(folder_b);
    return same;
}

bool tn_paths_in_model(const char *path, const char *model)
{
    if (tn_paths_same(path, model)) return true;
    bool is_folder = tn_paths_is_folder(model);
    if ((!is_folder && !tn_paths_has_suffix(model, ".json")) || !tn_paths_exists(path)) return false;
    char *folder = is_folder ? strdup(model) : resolved_folder(model);
    DIR *listing = folder ? opendir(folder) : NULL;
    bool found = false;
    struct dirent *entry;
    while (listing && !found && (entry = readdir(listing))) {
        char *file = tn_paths_join(folder, entry->d_name);
        found = file && tn_paths_same(path, file);
        free(file);
    }
    if (listing) closedir(listing);
    free(folder);
    return found;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_shard(const char *folder, const char *name)
{
    if (name[0] == '.') return false;
    if (!tn_paths_has_suffix(name, ".npy") && !tn_paths_has_suffix(name, ".safetensors")) return false;
    char *path = tn_paths_join(folder, name);
    bool file = path && !tn_paths_is_folder(path);
    free(path);
    return file;
}

static bool append(char ***names, size_t *count, const char *name)
{
    if ((*count & (*count - 1)) == 0) {
        char **larger = realloc(*names, (*count ? 2 * *count : 1) * sizeof **names);
        if (!larger) return false;
        *names = larger;
    }
    (*names)[*count] = strdup(name);
    return (*names)[*count] && ++*count;
}

bool tn_paths_list_shards(const char *folder, char ***names, size_t *count, tenon_error *error)
{
    DIR *listing = opendir(folder);
    if (!listing) return tn_error(error, "%s: cannot list the folder: %s", folder, strerror(errno));
    char **list = NULL;
    size_t found = 0;
    bool good = true;
    struct dirent *entry;
    while (good && (errno = 0, entry = readdir(listing)))
        if (is_shard(folder, entry->d_name)) good = append(&list, &found, entry->d_name);
    if (!good) tn_error(error, "%s: out of memory while listing the folder", folder);
    if (good && errno) good = tn_error(error, "%s: cannot list the folder: %s", folder, strerror(errno));
    closedir(listing);
    if (good && !found)
        good =
            tn_error(error, "%s: no .npy or .safetensors file in it; give the folder that holds the features", folder);
    if (!good) {
        tn_paths_free_list(list, found);
        return false;
    }
    qsort(list, found, sizeof *list, by_bytes);
    *names = list;
    *count = found;
    return true;
}

void tn_paths_free_list(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

void tn_paths_stamp(const char *path, char stamp[TN_STAMP_SIZE])
{
    struct stat info;
    stamp[0] = 0;
    if (stat(path, &info) != 0) return;
    /* The change time cannot be set by hand, so a file that was edited and dated back shows as well. */
    snprintf(stamp, TN_STAMP_SIZE, "%lld:%lld.%09ld:%lld.%09ld:%llu", (long long)info.st_size,
             (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec, (long long)info.st_ctim.tv_sec, info.st_ctim.tv_nsec,
             (unsigned long long)info.st_ino);
}
