/* SPDX-License-Identifier: MIT */
/* Inputs and paths. Nothing is mapped: a file that shrinks under a mapping kills the process, a pread only comes back
 * short. The descriptor is what is watched, not the name: a file that was replaced by rename stays readable and whole
 * through the descriptor, one that was rewritten in place does not. */
#include "core/file.h"

#include "core/error.h"
#include "core/file_private.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

tenon_status tn_fail_errno(tenon_error *error, const char *path, const char *what, int number)
{
    char reason[128];
    if (strerror_r(number, reason, sizeof reason) != 0) snprintf(reason, sizeof reason, "error %d", number);
    tenon_status status = TENON_IO;
    if (number == ENOENT || number == ENOTDIR) status = TENON_NOT_FOUND;
    if (number == ENOMEM) status = TENON_NO_MEMORY;
    return tn_fail(error, status, "%s: %s: %s", tn_quote(path).text, what, reason);
}

tenon_status tn_fail_memory(tenon_error *error, const char *path)
{
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(path).text);
}

const char *tn_file_type(const struct stat *status)
{
    if (S_ISDIR(status->st_mode)) return "a folder";
    if (S_ISFIFO(status->st_mode)) return "a pipe";
    if (S_ISSOCK(status->st_mode)) return "a socket";
    return S_ISREG(status->st_mode) ? "a regular file" : "a device";
}

/* Opens `real`, which input->path is another name of, and remembers it. */
static tenon_status open_regular(tn_input *input, const char *real, tenon_error *error)
{
    /* Looked at before it is opened, because opening a device may do something; and again after, because the name may
     * have been given to another file in between. O_NONBLOCK: a pipe that took the name must not make us wait. */
    struct stat found;
    if (stat(real, &found) != 0) return tn_fail_errno(error, input->path, "cannot open it", errno);
    if (S_ISREG(found.st_mode)) {
        input->file = open(real, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (input->file < 0) return tn_fail_errno(error, input->path, "cannot open it", errno);
        if (fstat(input->file, &found) != 0) return tn_fail_errno(error, input->path, "cannot examine it", errno);
    }
    if (!S_ISREG(found.st_mode)) {
        return tn_fail(error, TENON_INVALID, "%s: is %s; tenon reads regular files only", tn_quote(input->path).text,
                       tn_file_type(&found));
    }
    input->opened = found;
    return TENON_OK;
}

static tenon_status open_input(const char *path, const char *real, tn_input **input, tenon_error *error)
{
    tn_input *made = malloc(sizeof *made);
    char *copy = strdup(path);
    if (made == NULL || copy == NULL) {
        free(made);
        free(copy);
        return tn_fail_memory(error, path);
    }
    *made = (tn_input){.file = -1, .path = copy};
    const tenon_status status = open_regular(made, real, error);
    if (status != TENON_OK) {
        tn_input_close(made);
        return status;
    }
    *input = made;
    return TENON_OK;
}

tenon_status tn_input_open(const char *path, tn_input **input, tenon_error *error)
{
    return open_input(path, path, input, error);
}

void tn_input_close(tn_input *input)
{
    if (input == NULL) return;
    if (input->file >= 0) close(input->file);
    free(input->path);
    free(input);
}

uint64_t tn_input_size(const tn_input *input)
{
    return (uint64_t)input->opened.st_size;
}

const char *tn_input_path(const tn_input *input)
{
    return input->path;
}

bool tn_input_is_stream(const tn_input *input)
{
    return input->is_stream;
}

static tenon_status check_unchanged(const tn_input *input, tenon_error *error)
{
    const struct stat *before = &input->opened;
    struct stat now;
    if (fstat(input->file, &now) != 0) return tn_fail_errno(error, input->path, "cannot examine it", errno);
    if (now.st_size != before->st_size) {
        return tn_fail(error, TENON_BAD_FILE, "%s: its size went from %lld to %lld bytes while it was being read",
                       tn_quote(input->path).text, (long long)before->st_size, (long long)now.st_size);
    }
    if (now.st_dev != before->st_dev || now.st_ino != before->st_ino || now.st_mtim.tv_sec != before->st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != before->st_mtim.tv_nsec) {
        return tn_fail(error, TENON_BAD_FILE, "%s: was changed while it was being read", tn_quote(input->path).text);
    }
    return TENON_OK;
}

tenon_status tn_input_read(const tn_input *input, uint64_t offset, void *data, size_t size, tenon_error *error)
{
    const uint64_t end = tn_input_size(input);
    if (offset > end || size > end - offset) {
        return tn_fail(error, TENON_BAD_FILE, "%s: %zu bytes wanted at byte %llu, but the file ends at byte %llu",
                       tn_quote(input->path).text, size, (unsigned long long)offset, (unsigned long long)end);
    }
    for (size_t done = 0; done < size;) {
        const ssize_t got = pread(input->file, (char *)data + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return tn_fail_errno(error, input->path, "cannot read it", errno);
        if (got == 0) {
            return tn_fail(error, TENON_BAD_FILE, "%s: ended at byte %llu of %llu while it was being read",
                           tn_quote(input->path).text, (unsigned long long)(offset + done), (unsigned long long)end);
        }
        done += (size_t)got;
    }
    return check_unchanged(input, error);
}

bool tn_is_folder(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode);
}

bool tn_path_exists(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0;
}

char *tn_path_join(const char *folder, const char *name)
{
    const size_t size = strlen(folder) + 1 + strlen(name) + 1;
    char *joined = malloc(size);
    const size_t length = strlen(folder);
    const bool bare = length > 0 && folder[length - 1] == '/';
    if (joined != NULL) snprintf(joined, size, "%s%s%s", folder, bare ? "" : "/", name);
    return joined;
}

char *tn_path_beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return tn_path_join(".", name);
    char *folder = strndup(path, (size_t)(slash - path) + 1);
    char *joined = folder != NULL ? tn_path_join(folder, name) : NULL;
    free(folder);
    return joined;
}

static bool starts_with(const char *text, const char *start, size_t length)
{
    return strncmp(text, start, length) == 0;
}

/* The length of <root> where `folder` is <root>/snapshots/<revision> or a folder in it, else 0. A folder inside may be
 * called snapshots too, so the innermost <root> that has blobs/ counts. */
static size_t cache_root(const char *folder)
{
    static const char snapshots[] = "/snapshots/";
    char blobs[4096]; /* longer paths cannot be opened */
    for (size_t i = strlen(folder); i > 0; i--) {
        if (strncmp(folder + i, snapshots, sizeof snapshots - 1) != 0) continue;
        const int length = snprintf(blobs, sizeof blobs, "%.*s/blobs", (int)i, folder);
        if (length > 0 && (size_t)length < sizeof blobs && tn_is_folder(blobs)) return i;
    }
    return 0;
}

/* Both paths are canonical. Inside is: folder/..., or <root>/blobs/... of the Hugging Face cache that has the folder.
 */
static bool lies_inside(const char *folder, const char *path)
{
    const size_t length = strlen(folder);
    if (strcmp(folder, "/") == 0) return true;
    if (starts_with(path, folder, length) && path[length] == '/') return true;
    static const char blobs[] = "/blobs/";
    const size_t root = cache_root(folder);
    return root > 0 && starts_with(path, folder, root) && starts_with(path + root, blobs, sizeof blobs - 1);
}

static tenon_status open_beside(const char *path, const char *name, tn_input **input, tenon_error *error)
{
    char *folder = tn_path_beside(path, ""), *joined = tn_path_beside(path, name);
    char *real_folder = NULL, *real = NULL;
    tenon_status status = TENON_OK;
    if (folder == NULL || joined == NULL) {
        status = tn_fail_memory(error, path);
    } else if ((real_folder = realpath(folder, NULL)) == NULL) {
        status = tn_fail_errno(error, folder, "cannot find the folder", errno);
    } else if ((real = realpath(joined, NULL)) == NULL) {
        status = tn_fail_errno(error, joined, "cannot open it", errno);
    } else if (!lies_inside(real_folder, real)) {
        status = tn_fail(error, TENON_BAD_FILE, "%s: names the file '%s', which leads out of the folder to %s",
                         tn_quote(path).text, tn_quote(name).text, tn_quote(real).text);
    } else {
        status = open_input(joined, real, input, error);
    }
    free(real);
    free(real_folder);
    free(joined);
    free(folder);
    return status;
}

tenon_status tn_input_open_beside(const char *path, const char *name, tn_input **input, tenon_error *error)
{
    const tenon_status status = open_beside(path, name, input, error);
    if (status != TENON_NOT_FOUND) return status;
    char *end = tn_path_follow(path);
    const tenon_status other = end != NULL ? open_beside(end, name, input, error) : status;
    free(end);
    return other;
}

char *tn_path_follow(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0 && S_ISLNK(found.st_mode) ? realpath(path, NULL) : NULL;
}

static bool ends_in(const char *name, const char *suffix)
{
    const size_t length = strlen(name), tail = strlen(suffix);
    return length >= tail && strcmp(name + length - tail, suffix) == 0;
}

void tn_folder_list_free(tn_folder_list *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->name[i]);
    free(names->name);
    *names = (tn_folder_list){NULL, 0};
}

static tenon_status add_name(tn_folder_list *names, const char *name, const char *path, tenon_error *error)
{
    char **grown = realloc(names->name, (names->count + 1) * sizeof *grown);
    if (grown != NULL) names->name = grown;
    char *copy = grown != NULL ? strdup(name) : NULL;
    if (copy == NULL) return tn_fail_memory(error, path);
    names->name[names->count++] = copy;
    return TENON_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

tenon_status tn_folder_list_read(const char *path, const char *suffix, tn_folder_list *names, tenon_error *error)
{
    tn_folder_list found = {NULL, 0};
    DIR *folder = opendir(path);
    if (folder == NULL) return tn_fail_errno(error, path, "cannot list it", errno);
    tenon_status status = TENON_OK;
    while (status == TENON_OK) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (entry == NULL) {
            if (errno != 0) status = tn_fail_errno(error, path, "cannot list it", errno);
            break;
        }
        if (entry->d_name[0] == '.' || !ends_in(entry->d_name, suffix)) continue;
        status = add_name(&found, entry->d_name, path, error);
    }
    closedir(folder);
    if (status != TENON_OK) {
        tn_folder_list_free(&found);
        return status;
    }
    if (found.count > 0) qsort(found.name, found.count, sizeof *found.name, compare_names);
    *names = found;
    return TENON_OK;
}
