/* SPDX-License-Identifier: MIT */
/* Locks that a fork cannot leave locked, and the number of the process that they are taken in. */
#ifndef TN_CORE_MUTEX_H
#define TN_CORE_MUTEX_H

#include "tenon/tenon.h"

/* The generation of this process: 1 where the library was loaded, another number in each child that was forked from
 * there, children of children included. Never 0. */
unsigned tn_process(void);

/* Whether this process was forked, without exec, from the one that loaded the library. */
bool tn_is_forked_child(void);

/* A lock for a few instructions: whoever holds it does not compute, allocate or call anybody. A child has none of the
 * threads that its parent had beside the one that forked, so a lock that was taken in another process counts as free.
 * What a lock guards must therefore be whole between any two stores. */
typedef struct tn_mutex tn_mutex;
tenon_status tn_mutex_new(tn_mutex **lock, tenon_error *error);
void tn_mutex_free(tn_mutex *lock);
void tn_mutex_acquire(tn_mutex *lock);
void tn_mutex_release(tn_mutex *lock);

/* The process-wide lock of the registry. */
void tn_global_mutex_acquire(void);
void tn_global_mutex_release(void);

/* Sleeps while others work: briefly on the first turn, up to a millisecond on later ones. */
void tn_nap(int turn);

#endif
