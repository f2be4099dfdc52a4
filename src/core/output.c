/* SPDX-License-Identifier: MIT */
/* Outputs. The data goes to a temporary file in the target's folder, so that the rename stays within one file system
 * and is atomic; a reader sees the old file or the new one, whole. Only a process that is killed leaves its temporary
 * file behind, and never a target half written. */
#include "core/file.h"

#include "core/error.h"
#include "core/file_private.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { max_links = 40, max_names = 1000 };

struct tenon_atomic_file {
    int file;
    char *path;      /* as the caller named it */
    char *target;    /* where its symbolic links end */
    char *temporary; /* NULL: there is none (any more) */
    uint64_t end;    /* of what has been written */
    bool is_stream;
    bool wants_direct;
    bool is_direct; /* O_DIRECT is on */
};

/* *target: a malloc'd path, the text of the symbolic link *target. */
static tenon_status follow_link(char **target, off_t size, const char *path, tenon_error *error)
{
    const size_t capacity = (size_t)size + 2; /* room to see that the link grew */
    char *text = malloc(capacity);
    if (text == NULL) return tn_fail_memory(error, path);
    const ssize_t length = readlink(*target, text, capacity);
    if (length < 0 || (size_t)length >= capacity - 1) {
        const int number = length < 0 ? errno : ENAMETOOLONG;
        free(text);
        return tn_fail_errno(error, path, "cannot follow the symbolic link", number);
    }
    text[length] = 0;
    char *next = text[0] == '/' ? strdup(text) : tn_path_beside(*target, text);
    free(text);
    if (next == NULL) return tn_fail_memory(error, path);
    free(*target);
    *target = next;
    return TENON_OK;
}

/* Follows symbolic links by hand, because the file at their end need not exist yet. *exists: `old` describes it. */
static tenon_status resolve_target(tn_output *output, struct stat *old, bool *exists, tenon_error *error)
{
    for (int links = 0; links <= max_links; links++) {
        if (lstat(output->target, old) != 0) {
            if (errno != ENOENT) return tn_fail_errno(error, output->path, "cannot write there", errno);
            *exists = false;
            return TENON_OK;
        }
        if (!S_ISLNK(old->st_mode)) {
            *exists = true;
            if (S_ISREG(old->st_mode)) return TENON_OK;
            return tn_fail(error, TENON_INVALID, "%s: is %s; tenon replaces regular files only",
                           tn_quote(output->path).text, tn_file_type(old));
        }
        /* Special file systems report 0 for the length of their links. */
        const off_t size = old->st_size > 0 ? old->st_size : 4096;
        TN_TRY(follow_link(&output->target, size, output->path, error));
    }
    return tn_fail_errno(error, output->path, "cannot follow the symbolic links", ELOOP);
}

/* A hidden name that says whose and for what it is: ".features.npy.1234-0.tmp". */
static tenon_status create_temporary(tn_output *output, mode_t mode, tenon_error *error)
{
    const char *slash = strrchr(output->target, '/');
    const char *base = slash != NULL ? slash + 1 : output->target;
    for (int i = 0; i < max_names; i++) {
        char name[160];
        snprintf(name, sizeof name, ".%.100s.%ld-%d.tmp", base, (long)getpid(), i);
        char *path = tn_path_beside(output->target, name);
        if (path == NULL) return tn_fail_memory(error, output->path);
        output->file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
        if (output->file >= 0) {
            output->temporary = path;
            return TENON_OK;
        }
        const int number = errno;
        free(path);
        if (number != EEXIST && number != EINTR) {
            return tn_fail_errno(error, output->path, "cannot create a file in its folder", number);
        }
    }
    return tn_fail_errno(error, output->path, "cannot create a temporary file beside it", EEXIST);
}

/* Owner, group, mode and attributes of the file that is replaced, as far as the user may give them: only root can give
 * files away, and some file systems have no modes. fchmod comes after fchown, which may take bits, and gives back what
 * the umask took; an access control list comes last, because its mask is in the mode. */
static tenon_status keep_access(const tn_output *output, const struct stat *old, tenon_error *error)
{
    const int file = output->file;
    if (fchown(file, old->st_uid, old->st_gid) != 0) (void)!fchown(file, (uid_t)-1, old->st_gid);
    (void)fchmod(file, old->st_mode & 0777);
    return tn_keep_attributes(file, output->target, error);
}

static tenon_status open_output(tn_output *output, tenon_error *error)
{
    struct stat old;
    bool exists = false;
    if (output->path == NULL || output->target == NULL) return tn_fail_memory(error, "output file");
    const size_t length = strlen(output->path);
    if (length == 0 || output->path[length - 1] == '/') {
        return tn_fail(error, TENON_INVALID, "'%s' is not the name of a file", tn_quote(output->path).text);
    }
    TN_TRY(resolve_target(output, &old, &exists, error));
    /* The old file's mode from the start: its content is never more readable than it was. */
    TN_TRY(create_temporary(output, exists ? old.st_mode & 0777 : 0666, error));
    return exists ? keep_access(output, &old, error) : TENON_OK;
}

tenon_status tn_output_open(const char *path, tn_output **output, tenon_error *error)
{
    tn_output *made = malloc(sizeof *made);
    if (made == NULL) return tn_fail_memory(error, path);
    *made = (tn_output){.file = -1, .path = strdup(path), .target = strdup(path)};
    const tenon_status status = open_output(made, error);
    if (status != TENON_OK) {
        tn_output_free(made);
        return status;
    }
    *output = made;
    return TENON_OK;
}

tenon_status tn_output_open_stream(int descriptor, const char *name, tn_output **output, tenon_error *error)
{
    tn_output *made = malloc(sizeof *made);
    if (made == NULL) return tn_fail_memory(error, name);
    *made = (tn_output){.path = strdup(name), .is_stream = true, .file = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)};
    const int number = made->file < 0 ? errno : 0;
    if (made->path == NULL || number != 0) {
        tn_output_free(made);
        return number != 0 ? tn_fail_errno(error, name, "cannot write to it", number) : tn_fail_memory(error, name);
    }
    *output = made;
    return TENON_OK;
}

bool tn_output_is_stream(const tn_output *output)
{
    return output->is_stream;
}

uint64_t tn_output_end(const tn_output *output)
{
    return output->end;
}

/* On a pipe O_DIRECT means something else. */
void tn_output_set_direct(tn_output *output)
{
    output->wants_direct = !output->is_stream;
}

/* Turns O_DIRECT on or off; false where it cannot be had. */
static bool turn_direct(tn_output *output, bool on)
{
#ifdef O_DIRECT
    if (output->is_direct == on) return true;
    const int flags = fcntl(output->file, F_GETFL);
    if (flags < 0 || fcntl(output->file, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) != 0) return false;
    output->is_direct = on;
    return true;
#else
    return output->is_direct == on;
#endif
}

/* Bytes from here on that may go past the cache: whole blocks, aligned in the file and in memory. */
static size_t direct_bytes(const tn_output *output, uint64_t offset, const char *data, size_t size)
{
    const bool aligned = offset % TN_DIRECT_ALIGN == 0 && (uintptr_t)data % TN_DIRECT_ALIGN == 0;
    return output->wants_direct && aligned ? size - size % TN_DIRECT_ALIGN : 0;
}

/* As write, which waits where the descriptor itself would not. */
static ssize_t send_some(const tn_output *output, const char *data, size_t size)
{
    const ssize_t put = write(output->file, data, size);
    if (put >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) return put;
    tn_wait_for(output->file, POLLOUT);
    errno = EINTR; /* once more */
    return -1;
}

/* As pwrite, with O_DIRECT where that goes. What the file system then refuses is written once more without. */
static ssize_t put_some(tn_output *output, uint64_t offset, const char *data, size_t size)
{
    if (output->is_stream) return send_some(output, data, size);
    const size_t direct = direct_bytes(output, offset, data, size);
    if (direct > 0 && turn_direct(output, true)) {
        const ssize_t put = pwrite(output->file, data, direct, (off_t)offset);
        if (put >= 0 || errno != EINVAL) return put;
    }
    if (direct > 0) output->wants_direct = false;
    return turn_direct(output, false) ? pwrite(output->file, data, size, (off_t)offset) : -1;
}

tenon_status tn_output_write(tn_output *output, uint64_t offset, const void *data, size_t size, tenon_error *error)
{
    if (output->file < 0) return tn_fail(error, TENON_INVALID, "%s: is closed", tn_quote(output->path).text);
    if (offset > INT64_MAX || size > INT64_MAX - offset) {
        return tn_fail_errno(error, output->path, "cannot write it", EFBIG);
    }
    if (output->is_stream && offset != output->end) {
        return tn_fail(error, TENON_INVALID, "%s: a stream is written in order: byte %llu comes next, not byte %llu",
                       tn_quote(output->path).text, (unsigned long long)output->end, (unsigned long long)offset);
    }
    for (size_t done = 0; done < size;) {
        const ssize_t put = put_some(output, offset + done, (const char *)data + done, size - done);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return tn_fail_errno(error, output->path, "cannot write it", put < 0 ? errno : ENOSPC);
        done += (size_t)put;
        if (offset + done > output->end) output->end = offset + done;
    }
    return TENON_OK;
}

/* Closes and removes the temporary file, if there still is one. */
static void discard(tn_output *output)
{
    if (output->file >= 0) close(output->file);
    if (output->temporary != NULL) unlink(output->temporary);
    free(output->temporary);
    output->temporary = NULL;
    output->file = -1;
}

/* errno of the sync that failed, or 0. Some network and user-space file systems cannot sync, and say so in one of these
 * ways; there is nothing better to be had from them. */
static int sync_file(int file)
{
    if (fsync(file) == 0 || errno == EINVAL || errno == ENOSYS || errno == ENOTSUP || errno == EOPNOTSUPP) return 0;
    return errno;
}

/* The rename lasts through a power cut only once the folder is on the disk. Folders that may not be read are left to
 * the system. */
static tenon_status sync_folder(const tn_output *output, tenon_error *error)
{
    char *folder = tn_path_beside(output->target, "");
    if (folder == NULL) return tn_fail_memory(error, output->path);
    const int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (file < 0) return TENON_OK;
    const int number = sync_file(file);
    close(file);
    return number != 0 ? tn_fail_errno(error, output->path, "cannot sync its folder", number) : TENON_OK;
}

static int sync_and_rename(tn_output *output)
{
    if (output->is_stream) {
        const int closed = close(output->file);
        output->file = -1;
        return closed != 0 && errno != EINTR ? errno : 0;
    }
    const int number = sync_file(output->file);
    if (number != 0) return number;
    const int closed = close(output->file);
    output->file = -1;
    if (closed != 0 && errno != EINTR) return errno;
    if (rename(output->temporary, output->target) != 0) return errno;
    free(output->temporary);
    output->temporary = NULL;
    return 0;
}

tenon_status tn_output_commit(tn_output *output, tenon_error *error)
{
    if (output->file < 0) return tn_fail(error, TENON_INVALID, "%s: is closed", tn_quote(output->path).text);
    const int number = sync_and_rename(output);
    if (number != 0) {
        discard(output);
        return tn_fail_errno(error, output->path, "cannot put it in place", number);
    }
    return output->is_stream ? TENON_OK : sync_folder(output, error);
}

void tn_output_free(tn_output *output)
{
    if (output == NULL) return;
    discard(output);
    free(output->target);
    free(output->path);
    free(output);
}

/* ---- the same for any bytes ---- */

tenon_status tenon_atomic_file_new(const char *path, tenon_atomic_file **file, tenon_error *error)
{
    if (path == NULL || file == NULL) return tn_fail(error, TENON_INVALID, "a file to write needs a path and a place");
    return tn_output_open(path, file, error);
}

tenon_status tenon_atomic_file_write(tenon_atomic_file *file, const void *data, size_t bytes, tenon_error *error)
{
    return tn_output_write(file, file->end, data, bytes, error);
}

tenon_status tenon_atomic_file_commit(tenon_atomic_file *file, tenon_error *error)
{
    return tn_output_commit(file, error);
}

void tenon_atomic_file_free(tenon_atomic_file *file)
{
    tn_output_free(file);
}
