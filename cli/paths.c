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

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool tn_paths_is_shard_name(const char *name)
{
    return name[0] != '.' && (tn_paths_has_suffix(name, ".npy") || tn_paths_has_suffix(name, ".safetensors"));
}

static bool is_shard(const char *folder, const char *name)
{
    if (!tn_paths_is_shard_name(name)) return false;
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

bool tn_paths_list(const char *folder, bool others, char ***names, size_t *count, tenon_error *error)
{
    DIR *listing = opendir(folder);
    if (!listing) return tn_error(error, "%s: cannot list the folder: %s", folder, strerror(errno));
    bool good = true;
    struct dirent *entry;
    *names = NULL;
    *count = 0;
    while (good && (errno = 0, entry = readdir(listing))) {
        const char *name = entry->d_name;
        if (is_shard(folder, name) == others || name[0] == '.') continue;
        char *path = others ? tn_paths_join(folder, name) : NULL;
        char *slashed = path && tn_paths_is_folder(path) ? tn_paths_join(name, "") : NULL;
        good = (path || !others) && append(names, count, slashed ? slashed : name);
        free(path);
        free(slashed);
    }
    if (!good) tn_error(error, "%s: out of memory while listing the folder", folder);
    if (good && errno) good = tn_error(error, "%s: cannot list the folder: %s", folder, strerror(errno));
    closedir(listing);
    if (good && *count) qsort(*names, *count, sizeof **names, by_bytes);
    if (!good) tn_paths_free_list(*names, *count);
    return good;
}

/* Says what is there instead. */
static bool fail_without_shards(const char *folder, tenon_error *error)
{
    char **names, text[512];
    size_t count;
    if (!tn_paths_list(folder, true, &names, &count, error)) return false;
    tn_list_text(text, sizeof text, names, count);
    tn_paths_free_list(names, count);
    return tn_error(error, "%s: no .npy or .safetensors file in it%s%s; give the folder that holds the features",
                    folder, count ? ", but " : "", text);
}

bool tn_paths_list_shards(const char *folder, char ***names, size_t *count, tenon_error *error)
{
    if (!tn_paths_list(folder, false, names, count, error)) return false;
    return *count > 0 || fail_without_shards(folder, error);
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
