/* Allocation: one place that asks for memory and one sentence when there is none. */
#include "core/memory.h"

#include "core/error.h"
#include "core/size.h"
#include <stdlib.h>

static void *system_alloc(void *context, size_t size, size_t align)
{
    (void)context;
    if (size > SIZE_MAX - align) return NULL;
    return aligned_alloc(align, tn_align_up(size, align)); /* C11 wants a multiple */
}

static void system_free(void *context, void *data, size_t size)
{
    (void)context;
    (void)size;
    free(data);
}

const tenon_allocator tn_system_allocator = {sizeof(tenon_allocator), system_alloc, system_free, NULL};

void tenon_allocator_init(tenon_allocator *allocator)
{
    *allocator = tn_system_allocator;
}

tenon_status tn_alloc(const tenon_allocator *allocator, size_t size, const char *what, void **data, tenon_error *error)
{
    void *memory = allocator->alloc(allocator->context, size > 0 ? size : 1, TN_ALIGN);
    if (memory == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: %s needs %zu bytes", what, size);
    }
    *data = memory;
    return TENON_OK;
}

void tn_free(const tenon_allocator *allocator, void *data, size_t size)
{
    if (data != NULL) allocator->free(allocator->context, data, size > 0 ? size : 1);
}
