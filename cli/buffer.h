/* SPDX-License-Identifier: MIT */
/* Memory that is kept from one chunk of images to the next. */
#ifndef TN_CLI_BUFFER_H
#define TN_CLI_BUFFER_H

#include "tenon/tenon.h"

typedef struct tn_buffer {
    void *data; /* aligned so that it can be written past the file cache; NULL: none yet */
    size_t size;
} tn_buffer;

/* Makes room for `size` bytes at least; what was in it is lost. All zero is an empty buffer. */
bool tn_buffer_grow(tn_buffer *buffer, size_t size, tenon_error *error);
void tn_buffer_free(tn_buffer *buffer);

#endif
