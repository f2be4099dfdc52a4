/* SPDX-License-Identifier: MIT */
/* Memory of arrays, and homes to which it returns. No function here needs the GIL. */
#ifndef TENON_PYTHON_MEMORY_H
#define TENON_PYTHON_MEMORY_H

#include "module.h"

struct tnpy_memory {
    atomic_int references;
    int64_t shape[TNPY_MAX_DIMS];
    tnpy_home *home;   /* where it goes when nobody has it any more, or NULL */
    tnpy_memory *next; /* at home */
    size_t size;       /* with this header */
};

/* A block of undefined values with one reference, from the home if it has one of that size; NULL: out of memory. */
tnpy_memory *tnpy_memory_new(tnpy_home *home, size_t bytes);

/* What a block of that many bytes of elements takes of a home. */
size_t tnpy_memory_size(size_t bytes);

/* The elements, aligned to 64 bytes. */
void *tnpy_memory_data(tnpy_memory *memory);

void tnpy_memory_keep(tnpy_memory *memory);
void tnpy_memory_drop(tnpy_memory *memory);

/* A home that keeps at most that many bytes; NULL: out of memory. */
tnpy_home *tnpy_home_new(size_t most);

/* Frees what is there, and from now on what returns. NULL does nothing. */
void tnpy_home_close(tnpy_home *home);

#endif
