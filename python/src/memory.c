/* SPDX-License-Identifier: MIT */
/* Memory of arrays. It is counted on its own, without Python, so that others may drop it on any thread and after the
 * interpreter is gone.
 *
 * A home takes back what was lent and lends it again: the gradients of a training step are as large as the weights, and
 * memory that the system has just given is filled with zeros first. Nobody waits for a home that another thread uses,
 * or used when this process was forked: then memory comes from the system, and goes there. */
#include "memory.h"

#include <stdlib.h>

enum { alignment = 64 };

struct tnpy_home {
    atomic_int references; /* the owner's and one of each block that is out */
    atomic_bool closed;
    atomic_flag busy;
    size_t most, kept; /* bytes */
    tnpy_memory *first;
};

static size_t header_bytes(void)
{
    return (sizeof(tnpy_memory) + alignment - 1) / alignment * alignment;
}

static tnpy_memory *new_block(size_t bytes)
{
    tenon_allocator system;
    tenon_allocator_init(&system);
    const size_t size = tnpy_memory_size(bytes);
    tnpy_memory *memory = system.alloc(system.context, size, alignment);
    if (memory != NULL) memory->size = size;
    return memory;
}

static void free_block(tnpy_memory *memory)
{
    tenon_allocator system;
    tenon_allocator_init(&system);
    system.free(system.context, memory, memory->size);
}

size_t tnpy_memory_size(size_t bytes)
{
    return header_bytes() + bytes;
}

void *tnpy_memory_data(tnpy_memory *memory)
{
    return (char *)memory + header_bytes();
}

/* ---- homes ---- */

tnpy_home *tnpy_home_new(size_t most)
{
    tnpy_home *home = malloc(sizeof *home);
    if (home == NULL) return NULL;
    atomic_init(&home->references, 1);
    atomic_init(&home->closed, false);
    atomic_flag_clear(&home->busy);
    home->most = most;
    home->kept = 0;
    home->first = NULL;
    return home;
}

static bool enter(tnpy_home *home)
{
    return !atomic_flag_test_and_set(&home->busy);
}

static void leave(tnpy_home *home)
{
    atomic_flag_clear(&home->busy);
}

static void empty(tnpy_home *home)
{
    while (home->first != NULL) {
        tnpy_memory *next = home->first->next;
        free_block(home->first);
        home->first = next;
    }
    home->kept = 0;
}

static void drop_home(tnpy_home *home)
{
    if (atomic_fetch_sub(&home->references, 1) != 1) return;
    empty(home);
    free(home);
}

/* Once it is closed. */
static void clear_out(tnpy_home *home)
{
    if (!enter(home)) return; /* who is in does it */
    empty(home);
    leave(home);
}

void tnpy_home_close(tnpy_home *home)
{
    if (home == NULL) return;
    atomic_store(&home->closed, true);
    clear_out(home);
    drop_home(home);
}

/* A block of that size that is at home, or NULL. */
static tnpy_memory *take(tnpy_home *home, size_t size)
{
    tnpy_memory *found = NULL;
    if (!enter(home)) return NULL;
    tnpy_memory **at = &home->first;
    while (*at != NULL && (*at)->size != size)
        at = &(*at)->next;
    if (*at != NULL) {
        found = *at;
        *at = found->next;
        home->kept -= size;
    }
    leave(home);
    return found;
}

/* False: the block is still the caller's. */
static bool put(tnpy_home *home, tnpy_memory *memory)
{
    if (atomic_load(&home->closed) || !enter(home)) return false;
    const bool fits = memory->size <= home->most && home->kept <= home->most - memory->size;
    if (fits) {
        memory->next = home->first;
        home->first = memory;
        home->kept += memory->size;
    }
    leave(home);
    if (atomic_load(&home->closed)) clear_out(home);
    return fits;
}

/* ---- blocks ---- */

tnpy_memory *tnpy_memory_new(tnpy_home *home, size_t bytes)
{
    if (bytes > PTRDIFF_MAX - header_bytes()) return NULL;
    tnpy_memory *memory = home != NULL ? take(home, tnpy_memory_size(bytes)) : NULL;
    if (memory == NULL) memory = new_block(bytes);
    if (memory == NULL) return NULL;
    atomic_init(&memory->references, 1);
    memory->home = home;
    if (home != NULL) atomic_fetch_add(&home->references, 1);
    return memory;
}

void tnpy_memory_keep(tnpy_memory *memory)
{
    atomic_fetch_add(&memory->references, 1);
}

void tnpy_memory_drop(tnpy_memory *memory)
{
    if (memory == NULL || atomic_fetch_sub(&memory->references, 1) != 1) return;
    tnpy_home *home = memory->home;
    if (home == NULL || !put(home, memory)) free_block(memory);
    if (home != NULL) drop_home(home);
}
