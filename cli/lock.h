/* SPDX-License-Identifier: MIT */
/* One process at a time in an output folder. The lock is the system's (flock), so it ends with the process however that
 * ends; the file in the folder only carries it and says whose it is. */
#ifndef TN_CLI_LOCK_H
#define TN_CLI_LOCK_H

#include "tenon/tenon.h"

#include <stddef.h>

typedef struct tn_lock tn_lock;

/* Its file in the folder. */
#define TN_LOCK_NAME ".tenon.lock"

/* Takes the lock of a folder that exists, or says who has it. Where the file system has no locks there is none to wait
 * for. On success the caller owns *lock. */
bool tn_lock_take(const char *folder, tn_lock **lock, tenon_error *error);

/* Removes what killed runs left in `folder` of the outputs `names` (patterns of tenon_name_matches): hidden files
 * ".NAME.PID-N.tmp" of a process that is no more. That of a live process stays. Nothing is removed without a real lock,
 * nor where the last holder was killed on another machine, whose processes cannot be asked about; then a note says what
 * is there. */
void tn_lock_sweep(const tn_lock *lock, const char *folder, const char *const *names, size_t count);

/* Gives the lock back and removes its file. NULL is allowed. */
void tn_lock_release(tn_lock *lock);

#endif
