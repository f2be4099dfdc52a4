/* SPDX-License-Identifier: MIT */
/* Memory of arrays, with reference counts of its own: other libraries may drop it on any thread, and after the
 * interpreter has ended.
 *
 * A memory pool keeps blocks that were dropped and hands them out again: the gradients of a training step are as large
 * as the weights, and the system fills new memory with zeros. A thread does not wait for a pool that another thread
 * uses, or was using when this process was forked: it takes memory from the system and gives it back there. */
#include "memory.h"

#include <stdlib.h>

enum { alignment = 64 };

struct tnpy_pool {
    atomic_int references; /* the owner's, and one of each block that is in use */
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

/* ---- memory pools ---- */

tnpy_pool *tnpy_pool_new(size_t most)
{
    tnpy_pool *pool = malloc(sizeof *pool);
    if (pool == NULL) return NULL;
    atomic_init(&pool->references, 1);
    atomic_init(&pool->closed, false);
    atomic_flag_clear(&pool->busy);
    pool->most = most;
    pool->kept = 0;
    pool->first = NULL;
    return pool;
}

static bool enter(tnpy_pool *pool)
{
    return !atomic_flag_test_and_set(&pool->busy);
}

static void leave(tnpy_pool *pool)
{
    atomic_flag_clear(&pool->busy);
}

static void empty(tnpy_pool *pool)
{
    while (pool->first != NULL) {
        tnpy_memory *next = pool->first->next;
        free_block(pool->first);
        pool->first = next;
    }
    pool->kept = 0;
}

static void drop_pool(tnpy_pool *pool)
{
    if (atomic_fetch_sub(&pool->references, 1) != 1) return;
    empty(pool);
    free(pool);
}

/* After it was closed. */
static void clear_out(tnpy_pool *pool)
{
    if (!enter(pool)) return; /* the thread that uses it does this */
    empty(pool);
    leave(pool);
}

void tnpy_pool_close(tnpy_pool *pool)
{
    if (pool == NULL) return;
    atomic_store(&pool->closed, true);
    clear_out(pool);
    drop_pool(pool);
}

/* A block of that size from the pool, or NULL. */
static tnpy_memory *take(tnpy_pool *pool, size_t size)
{
    tnpy_memory *found = NULL;
    if (!enter(pool)) return NULL;
    tnpy_memory **at = &pool->first;
    while (*at != NULL && (*at)->size != size)
        at = &(*at)->next;
    if (*at != NULL) {
        found = *at;
        *at = found->next;
        pool->kept -= size;
    }
    leave(pool);
    return found;
}

/* False: the pool did not take the block. */
static bool put(tnpy_pool *pool, tnpy_memory *memory)
{
    if (atomic_load(&pool->closed) || !enter(pool)) return false;
    const bool fits = memory->size <= pool->most && pool->kept <= pool->most - memory->size;
    if (fits) {
        memory->next = pool->first;
        pool->first = memory;
        pool->kept += memory->size;
    }
    leave(pool);
    if (atomic_load(&pool->closed)) clear_out(pool);
    return fits;
}

/* ---- blocks ---- */

tnpy_memory *tnpy_memory_new(tnpy_pool *pool, size_t bytes)
{
    if (bytes > PTRDIFF_MAX - header_bytes()) return NULL;
    tnpy_memory *memory = pool != NULL ? take(pool, tnpy_memory_size(bytes)) : NULL;
    if (memory == NULL) memory = new_block(bytes);
    if (memory == NULL) return NULL;
    atomic_init(&memory->references, 1);
    memory->pool = pool;
    if (pool != NULL) atomic_fetch_add(&pool->references, 1);
    return memory;
}

void tnpy_memory_keep(tnpy_memory *memory)
{
    atomic_fetch_add(&memory->references, 1);
}

void tnpy_memory_drop(tnpy_memory *memory)
{
    if (memory == NULL || atomic_fetch_sub(&memory->references, 1) != 1) return;
    tnpy_pool *pool = memory->pool;
    if (pool == NULL || !put(pool, memory)) free_block(memory);
    if (pool != NULL) drop_pool(pool);
}
