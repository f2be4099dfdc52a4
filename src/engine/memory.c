/* SPDX-License-Identifier: MIT */
#include "engine/call.h"

#include "core/size.h"

void *tn_arena_rows(tn_arena *arena, int64_t rows, int64_t width, size_t element)
{
    size_t bytes;
    if (!tn_shape_bytes(2, (int64_t[]){rows, width}, element, &bytes)) {
        arena->overflow = true;
        bytes = 0;
    }
    return tn_arena_take(arena, bytes);
}

tenon_status tn_memory_open(tn_memory *memory, const tenon_allocator *allocator, const tenon_workspace *workspace,
                            size_t bytes, tn_arena *arena, tenon_error *error)
{
    *memory = (tn_memory){.allocator = allocator, .opened = bytes};
    if (workspace != NULL && workspace->data != NULL && workspace->size >= bytes) {
        memory->workspace = workspace;
        *arena = (tn_arena){.base = tn_aligned(workspace->data)};
        return TENON_OK;
    }
    /* A workspace that is too small even for this gets its sentence where all that is needed is known. */
    memory->workspace = workspace;
    TN_TRY(tn_alloc(allocator, bytes, "the workspace of a call", &memory->data[0], error));
    memory->size[0] = bytes;
    *arena = (tn_arena){.base = tn_aligned(memory->data[0])};
    return TENON_OK;
}

/* Bytes of the caller's workspace behind the first piece. */
static size_t left(const tn_memory *memory)
{
    const tenon_workspace *given = memory->workspace;
    return given->data != NULL && given->size > memory->opened ? given->size - memory->opened : 0;
}

bool tn_memory_fits(const tn_memory *memory, size_t bytes)
{
    return memory->workspace == NULL || (memory->data[0] == NULL && bytes <= left(memory));
}

tenon_status tn_memory_take(tn_memory *memory, size_t bytes, size_t wanted, tn_arena *arena, tenon_error *error)
{
    if (!tn_memory_fits(memory, bytes)) {
        return tn_fail(error, TENON_INVALID, "the workspace has %zu bytes; this call needs %zu",
                       memory->workspace->data != NULL ? memory->workspace->size : 0, wanted + memory->opened);
    }
    if (memory->workspace != NULL) {
        *arena = (tn_arena){.base = tn_aligned((char *)memory->workspace->data + memory->opened)};
        return TENON_OK;
    }
    TN_TRY(tn_alloc(memory->allocator, bytes, "the workspace of a call", &memory->data[1], error));
    memory->size[1] = bytes;
    *arena = (tn_arena){.base = tn_aligned(memory->data[1])};
    return TENON_OK;
}

void tn_memory_close(tn_memory *memory)
{
    for (int i = 0; i < 2; i++)
        tn_free(memory->allocator, memory->data[i], memory->size[i]);
    *memory = (tn_memory){.allocator = memory->allocator};
}
