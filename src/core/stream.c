/* SPDX-License-Identifier: MIT */
/* Inputs that come through a descriptor: standard input, a pipe, a socket. Headers and slices are read at offsets,
 * which a pipe has not, so what it delivers goes into a file without a name first. */
#include "core/file.h"

#include "core/error.h"
#include "core/file_private.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { block_size = 1 << 18 };

void tn_wait_for(int descriptor, short events)
{
    struct pollfd one = {.fd = descriptor, .events = events};
    (void)poll(&one, 1, -1);
}

/* A file in the folder for temporary files that has no name any more. */
static tenon_status create_nameless(const tn_input *input, int *file, tenon_error *error)
{
    const char *folder = getenv("TMPDIR");
    if (folder == NULL || folder[0] == 0) folder = "/tmp";
    char *path = tn_path_join(folder, "tenon-XXXXXX");
    if (path == NULL) return tn_fail_memory(error, input->path);
    *file = mkstemp(path);
    const int number = errno;
    if (*file >= 0) {
        unlink(path);
        (void)fcntl(*file, F_SETFD, FD_CLOEXEC);
    }
    free(path);
    if (*file < 0) return tn_fail_errno(error, folder, "cannot make a temporary file there (TMPDIR)", number);
    return TENON_OK;
}

/* As read, which waits for data where the descriptor itself would not. */
static ssize_t read_some(int descriptor, void *data, size_t size)
{
    for (;;) {
        const ssize_t got = read(descriptor, data, size);
        if (got >= 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) return got;
        if (errno != EINTR) tn_wait_for(descriptor, POLLIN);
    }
}

/* errno of the write that failed, or 0. */
static int write_all(int file, const char *data, size_t size)
{
    while (size > 0) {
        const ssize_t put = write(file, data, size);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return put < 0 ? errno : ENOSPC;
        data += put;
        size -= (size_t)put;
    }
    return 0;
}

static tenon_status copy_all(const tn_input *input, int descriptor, char *block, tenon_error *error)
{
    for (;;) {
        const ssize_t got = read_some(descriptor, block, block_size);
        if (got < 0) return tn_fail_errno(error, input->path, "cannot read it", errno);
        if (got == 0) return TENON_OK;
        const int number = write_all(input->file, block, (size_t)got);
        if (number != 0) {
            return tn_fail_errno(error, input->path, "cannot copy it to a temporary file (in TMPDIR)", number);
        }
    }
}

static tenon_status spool(tn_input *input, int descriptor, tenon_error *error)
{
    TN_TRY(create_nameless(input, &input->file, error));
    char *block = malloc(block_size);
    if (block == NULL) return tn_fail_memory(error, input->path);
    const tenon_status status = copy_all(input, descriptor, block, error);
    free(block);
    return status;
}

static tenon_status open_stream(tn_input *input, int descriptor, tenon_error *error)
{
    if (input->path == NULL) return tn_fail_memory(error, "a stream");
    if (fstat(descriptor, &input->opened) != 0) return tn_fail_errno(error, input->path, "cannot examine it", errno);
    if (S_ISDIR(input->opened.st_mode) || isatty(descriptor)) {
        return tn_fail(error, TENON_INVALID, "%s: is %s; expected a pipe or a file with a tensor in it",
                       tn_quote(input->path).text, isatty(descriptor) ? "a terminal" : "a folder");
    }
    /* A file from its beginning on is read where it is. */
    if (S_ISREG(input->opened.st_mode) && lseek(descriptor, 0, SEEK_CUR) == 0) {
        input->file = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        return input->file >= 0 ? TENON_OK : tn_fail_errno(error, input->path, "cannot open it", errno);
    }
    TN_TRY(spool(input, descriptor, error));
    if (fstat(input->file, &input->opened) != 0) return tn_fail_errno(error, input->path, "cannot examine it", errno);
    return TENON_OK;
}

tenon_status tn_input_open_stream(int descriptor, const char *name, tn_input **input, tenon_error *error)
{
    tn_input *made = malloc(sizeof *made);
    if (made == NULL) return tn_fail_memory(error, name);
    *made = (tn_input){.file = -1, .path = strdup(name), .is_stream = true};
    const tenon_status status = open_stream(made, descriptor, error);
    if (status != TENON_OK) {
        tn_input_close(made);
        return status;
    }
    *input = made;
    return TENON_OK;
}
