/* SPDX-License-Identifier: MIT */
#include "buffer.h"

#include "report.h"

static const size_t page = 4096;

/* The library's own memory comes in large pages: the disk takes a chunk page by page, and a thousand small ones cost
 * more than the transfer. */
bool tn_buffer_grow(tn_buffer *buffer, size_t size, tenon_error *error)
{
    if (size <= buffer->size && buffer->data) return true;
    tn_buffer_free(buffer);
    tenon_allocator system;
    tenon_allocator_init(&system);
    void *data = system.alloc(system.context, size ? size : 1, page);
    if (!data) return tn_error(error, "out of memory: cannot get %zu bytes for a chunk of images", size);
    *buffer = (tn_buffer){data, size};
    return true;
}

void tn_buffer_free(tn_buffer *buffer)
{
    tenon_allocator system;
    tenon_allocator_init(&system);
    system.free(system.context, buffer->data, buffer->size);
    *buffer = (tn_buffer){.data = NULL};
}
