/* SPDX-License-Identifier: MIT */
#include "lock.h"

#include "paths.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct tn_lock {
    char *path;
    int file;
};

/* Who wrote the file: "process 123 on host", or nothing that could be anybody's. */
static void read_owner(int file, char *owner, size_t size)
{
    char text[128] = "", host[65] = "";
    long process = 0;
    if (pread(file, text, sizeof text - 1, 0) > 0 && sscanf(text, "%ld %64[A-Za-z0-9._-]", &process, host) == 2 &&
        process > 0)
        snprintf(owner, size, " (process %ld on %s)", process, host);
    else
        owner[0] = 0;
}

static void write_owner(int file)
{
    char host[65] = "", text[128];
    gethostname(host, sizeof host - 1);
    int length = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host[0] ? host : "?");
    /* Nothing but a kinder message depends on it. */
    if (ftruncate(file, 0) == 0 && pwrite(file, text, (size_t)length, 0) < 0) errno = 0;
}

/* Does the name still lead to the open file? Whoever had the lock before may have removed it. */
static bool is_current(const tn_lock *lock)
{
    struct stat named, opened;
    return fstat(lock->file, &opened) == 0 && stat(lock->path, &named) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

/* One try; *again: the file went away under us. */
static bool try_lock(tn_lock *lock, const char *folder, bool *again, tenon_error *error)
{
    char owner[128];
    *again = false;
    lock->file = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (lock->file < 0) return tn_error(error, "%s: cannot make the lock file: %s", lock->path, strerror(errno));
    if (flock(lock->file, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return true;
        read_owner(lock->file, owner, sizeof owner);
        return tn_error(error, "%s: another tenon%s is writing there; wait until it ends, or use another folder",
                        folder, owner);
    }
    if (is_current(lock)) return true;
    close(lock->file);
    lock->file = -1;
    *again = true;
    return true;
}

bool tn_lock_take(const char *folder, tn_lock **lock, tenon_error *error)
{
    tn_lock *made = malloc(sizeof *made);
    if (!made) return tn_error(error, "out of memory");
    *made = (tn_lock){tn_paths_join(folder, TN_LOCK_NAME), -1};
    bool again = true;
    bool good = made->path || tn_error(error, "out of memory");
    while (good && again)
        good = try_lock(made, folder, &again, error);
    if (!good) {
        if (made->file >= 0) close(made->file);
        free(made->path);
        free(made);
        return false;
    }
    write_owner(made->file);
    *lock = made;
    return true;
}

void tn_lock_release(tn_lock *lock)
{
    if (!lock) return;
    unlink(lock->path);
    close(lock->file);
    free(lock->path);
    free(lock);
}
