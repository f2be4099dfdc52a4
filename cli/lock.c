/* SPDX-License-Identifier: MIT */
#include "lock.h"

#include "paths.h"
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOST_SIZE = 65 };

struct tn_lock {
    char *path;
    int file;
    bool is_held;                /* false: the file system has no locks */
    char killed_host[HOST_SIZE]; /* where the holder before was killed; "": none was */
};

static void read_host_name(char host[HOST_SIZE])
{
    memset(host, 0, HOST_SIZE);
    if (gethostname(host, HOST_SIZE - 1) != 0 || !host[0]) strcpy(host, "?");
}

/* Who wrote the file; false: nothing that could be anybody. */
static bool read_owner(int file, long *process, char host[HOST_SIZE])
{
    char text[128] = "";
    return pread(file, text, sizeof text - 1, 0) > 0 && sscanf(text, "%ld %64[A-Za-z0-9._?-]", process, host) == 2 &&
           *process > 0;
}

/* Whoever comes next, after a kill, asks only whether it was on its own machine. */
static void write_owner(int file)
{
    char host[HOST_SIZE], text[128];
    read_host_name(host);
    int length = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host);
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
    char host[HOST_SIZE], owner[128] = "";
    long process;
    *again = false;
    lock->file = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (lock->file < 0) return tn_error(error, "%s: cannot make the lock file: %s", lock->path, strerror(errno));
    if (flock(lock->file, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return true;
        if (read_owner(lock->file, &process, host))
            snprintf(owner, sizeof owner, " (process %ld on %s)", process, host);
        return tn_error(error, "%s: another tenon%s is writing there; wait until it ends, or use another folder",
                        folder, owner);
    }
    if (is_current(lock)) {
        lock->is_held = true;
        if (read_owner(lock->file, &process, host)) strcpy(lock->killed_host, host);
        return true;
    }
    close(lock->file);
    lock->file = -1;
    *again = true;
    return true;
}

bool tn_lock_take(const char *folder, tn_lock **lock, tenon_error *error)
{
    tn_lock *made = malloc(sizeof *made);
    if (!made) return tn_error(error, "out of memory");
    *made = (tn_lock){.path = tn_paths_join(folder, TN_LOCK_NAME), .file = -1};
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

/* ---- what killed runs leave ---- */

enum { MOST_OF_NAME = 100 }; /* bytes of NAME that the library takes into ".NAME.PID-N.tmp" */

/* Takes such a name apart; 0: it is another file. */
static long process_of(const char *file, char name[MOST_OF_NAME + 1])
{
    const char *tail = file + strlen(file);
    long process = 0, number = 0;
    int end = 0;
    for (int dots = 0; tail > file && dots < 2;) /* ".PID-N.tmp" */
        if (*--tail == '.') dots++;
    const size_t length = (size_t)(tail - file);
    if (file[0] != '.' || length < 2 || length > MOST_OF_NAME + 1) return 0;
    if (sscanf(tail, ".%ld-%ld.tmp%n", &process, &number, &end) != 2 || end == 0 || tail[end]) return 0;
    if (process <= 0 || number < 0 || (pid_t)process != process) return 0;
    memcpy(name, file + 1, length - 1);
    name[length - 1] = 0;
    return process;
}

/* This process has no output open yet, so a file with its number is of one that had the number before. */
static bool is_dead(long process)
{
    return process == (long)getpid() || (kill((pid_t)process, 0) != 0 && errno == ESRCH);
}

static bool is_left_over(const char *file, const char *const *names, size_t count)
{
    char name[MOST_OF_NAME + 1], pattern[MOST_OF_NAME + 1];
    const long process = process_of(file, name);
    bool is_ours = false;
    for (size_t i = 0; process > 0 && !is_ours && i < count; i++) {
        snprintf(pattern, sizeof pattern, "%s", names[i]);
        is_ours = tenon_name_matches(pattern, name);
    }
    return is_ours && is_dead(process);
}

void tn_lock_sweep(const tn_lock *lock, const char *folder, const char *const *names, size_t count)
{
    char host[HOST_SIZE], *path;
    size_t kept = 0;
    struct dirent *entry;
    DIR *listing = lock && lock->is_held ? opendir(folder) : NULL;
    if (!listing) return;
    read_host_name(host);
    const bool is_elsewhere = lock->killed_host[0] && strcmp(lock->killed_host, host) != 0;
    while ((entry = readdir(listing))) {
        if (!is_left_over(entry->d_name, names, count) || !(path = tn_paths_join(folder, entry->d_name))) continue;
        if (is_elsewhere)
            kept++;
        else
            unlink(path);
        free(path);
    }
    closedir(listing);
    if (kept > 0)
        tn_note(
            "%s: %zu temporary file%s (.NAME.PID-N.tmp) of a run that was killed on %s; delete %s once it has ended",
            folder, kept, kept == 1 ? "" : "s", lock->killed_host, kept == 1 ? "it" : "them");
}

void tn_lock_release(tn_lock *lock)
{
    if (!lock) return;
    unlink(lock->path);
    close(lock->file);
    free(lock->path);
    free(lock);
}
