#include "buffer.h"

#include "report.h"

#include <stdlib.h>
#include <sys/mman.h>

static const size_t page = 4096, huge_page = (size_t)2 << 20;

bool tn_buffer_grow(tn_buffer *buffer, size_t size, tenon_error *error)
{
    if (size <= buffer->size && buffer->data) return true;
    tn_buffer_free(buffer);
    if (posix_memalign(&buffer->data, size < huge_page ? page : huge_page, size ? size : 1) != 0) {
        buffer->data = NULL;
        return tn_error(error, "out of memory: cannot get %zu bytes for a chunk of images", size);
    }
#ifdef MADV_HUGEPAGE
    /* The disk takes them page by page: a thousand small ones cost more than the transfer. Without, it is only slower.
     */
    if (size >= huge_page) (void)madvise(buffer->data, size, MADV_HUGEPAGE);
#endif
    buffer->size = size;
    return true;
}

void tn_buffer_free(tn_buffer *buffer)
{
    free(buffer->data);
    *buffer = (tn_buffer){.data = NULL};
}
