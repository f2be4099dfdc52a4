/* SPDX-License-Identifier: MIT */
/* Allocation: one place that asks for memory and one sentence when there is none. */
#include "core/memory.h"

#include "core/error.h"
#include <stdlib.h>
#include <sys/mman.h>

/* Large pages where the system has them: weights are read once a block of rows, and looking up 16,000 small pages costs
 * products 1 to 2 %. */
static void *system_alloc(void *context, size_t size, size_t align)
{
    (void)context;
    static const size_t large_page = (size_t)2 << 20;
    const bool large = size >= large_page;
    void *data;
    if (posix_memalign(&data, large ? large_page : align, size) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    if (large) (void)madvise(data, size, MADV_HUGEPAGE);
#endif
    return data;
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
