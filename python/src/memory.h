/* SPDX-License-Identifier: MIT */
/* Memory of arrays, and memory pools. No function here needs the GIL. */
#ifndef TENON_PYTHON_MEMORY_H
#define TENON_PYTHON_MEMORY_H

#include "module.h"

struct tnpy_memory {
    atomic_int references;
    int64_t shape[TNPY_MAX_DIMS];
    tnpy_pool *pool;   /* that takes it when nobody uses it any more, or NULL */
    tnpy_memory *next; /* in the pool */
    size_t size;       /* with this header */
};

/* A block of undefined values with one reference, from the pool if it has one of that size; NULL: out of memory. */
tnpy_memory *tnpy_memory_new(tnpy_pool *pool, size_t bytes);

/* Bytes that a block with elements of that many bytes takes in a pool. */
size_t tnpy_memory_size(size_t bytes);

/* The elements, aligned to 64 bytes. */
void *tnpy_memory_data(tnpy_memory *memory);

void tnpy_memory_keep(tnpy_memory *memory);
void tnpy_memory_drop(tnpy_memory *memory);

/* A pool that keeps at most that many bytes; NULL: out of memory. */
tnpy_pool *tnpy_pool_new(size_t most);

/* Frees what is there, and from now on what returns. NULL does nothing. */
void tnpy_pool_close(tnpy_pool *pool);

#endif
