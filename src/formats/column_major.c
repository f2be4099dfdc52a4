/* SPDX-License-Identifier: MIT */
/* Slices of arrays that are stored column by column (NumPy's fortran_order): the first axis is the fastest, so that a
 * slice along it is spread over the whole array, an element in each column.
 *
 *     element (i0, i1, ..., in) lies at i0 + s0 (i1 + s1 (i2 + ...))
 *
 * The file is read forwards, each byte at most once, through a window of fixed size: where few elements lie between the
 * wanted ones, the window spans many columns, else each column's part is read by itself. */
#include "formats/format.h"

#include "core/error.h"
#include <string.h>

enum {
    window_bytes = 16384,
    gap_bytes = 4096 /* what lies between two columns' parts is read along up to here */
};

/* A place (i1, ..., in) of the axes after the first. */
typedef struct column {
    int64_t index[TN_MAX_FILE_DIMS];
    int64_t stride[TN_MAX_FILE_DIMS]; /* of the axis in a row-major slice, in elements */
    size_t place;                     /* of the column in such a slice */
} column;

typedef struct window {
    char data[window_bytes];
    uint64_t begin, end; /* elements of the file that `data` holds */
} window;

static void set_strides(column *c, const tn_entry *entry)
{
    int64_t stride = 1;
    for (int i = entry->ndim - 1; i > 0; i--) {
        c->stride[i] = stride;
        stride *= entry->shape[i]; /* no axis is 0 where the order matters, and the product is the slice's size */
    }
}

/* The second axis is the next fastest. */
static void next_column(column *c, const tn_entry *entry)
{
    for (int i = 1; i < entry->ndim; i++) {
        c->place += (size_t)c->stride[i];
        if (++c->index[i] < entry->shape[i]) return;
        c->place -= (size_t)(c->stride[i] * entry->shape[i]);
        c->index[i] = 0;
    }
}

/* Elements from `from` on, of one column's part (`left` elements) or, where the gaps are small, up to `last`. */
static tenon_status fill(window *w, const tn_entry *entry, uint64_t from, uint64_t left, uint64_t last, bool is_dense,
                         tenon_error *error)
{
    const size_t wider = tn_stored_size(entry->encoding) > entry->encoding->dtype.bits / 8
                             ? tn_stored_size(entry->encoding)
                             : entry->encoding->dtype.bits / 8;
    const uint64_t most = window_bytes / wider, wanted = is_dense ? last - from : left;
    w->begin = from;
    w->end = from + (wanted < most ? wanted : most);
    return tn_read_elements(entry, from, (size_t)(w->end - from), w->data, error);
}

/* Elements [0, count) of `from`, `stride` elements apart in `to`. */
static void scatter(char *to, size_t stride, const char *from, size_t count, size_t size)
{
    switch (size) { /* copies of a size that the compiler knows */
    case 1:
        for (size_t i = 0; i < count; i++)
            to[i * stride] = from[i];
        return;
    case 2:
        for (size_t i = 0; i < count; i++)
            memcpy(to + i * stride * 2, from + i * 2, 2);
        return;
    case 4:
        for (size_t i = 0; i < count; i++)
            memcpy(to + i * stride * 4, from + i * 4, 4);
        return;
    default:
        for (size_t i = 0; i < count; i++)
            memcpy(to + i * stride * size, from + i * size, size);
    }
}

tenon_status tn_read_column_major(const tn_entry *entry, int64_t first, int64_t count, size_t slice, void *data,
                                  tenon_error *error)
{
    const uint64_t height = (uint64_t)entry->shape[0], part = (uint64_t)count;
    const uint64_t last = (slice - 1) * height + (uint64_t)first + part;
    const bool is_dense = (height - part) * tn_stored_size(entry->encoding) <= gap_bytes;
    const size_t size = entry->encoding->dtype.bits / 8;
    window w = {.begin = 0, .end = 0};
    column c = {.place = 0};
    set_strides(&c, entry);
    for (size_t t = 0; t < slice; t++, next_column(&c, entry)) {
        const uint64_t start = t * height + (uint64_t)first;
        for (uint64_t done = 0; done < part;) {
            const uint64_t at = start + done;
            if (at >= w.end) TN_TRY(fill(&w, entry, at, part - done, last, is_dense, error));
            const uint64_t now = w.end - at < part - done ? w.end - at : part - done;
            scatter((char *)data + (done * slice + c.place) * size, slice, w.data + (at - w.begin) * size, (size_t)now,
                    size);
            done += now;
        }
    }
    return TENON_OK;
}
