/* SPDX-License-Identifier: MIT */
/* The parts of the GGUF reader: gguf_cursor.c takes bytes from the header, gguf_values.c its keys and values, gguf.c
 * its tensors; gguf_blocks.c has the element types. */
#ifndef TN_FORMATS_GGUF_H
#define TN_FORMATS_GGUF_H

#include "formats/format.h"

/* What writers use where no key says another; the limit of ggml; the longest key and name that the format allows. */
enum { TN_GGUF_ALIGNMENT = 32, TN_GGUF_MAX_DIMS = 4, TN_GGUF_MAX_NAME = 65535 };

#define TN_GGUF_ALIGNMENT_KEY "general.alignment"

/* The header, read through a window: nothing is allocated, however long the header is. */
typedef struct tn_gguf {
    const tn_input *input;
    uint64_t at;    /* the next byte of the file */
    uint64_t begin; /* of the window in the file */
    size_t held;    /* bytes of it */
    unsigned char window[8192];
} tn_gguf;

static inline uint64_t tn_gguf_left(const tn_gguf *g)
{
    return tn_input_size(g->input) - g->at;
}

/* The next `size` bytes. TENON_BAD_FILE: the file ends before `what`, which the sentence names. */
tenon_status tn_gguf_take(tn_gguf *g, void *data, size_t size, const char *what, tenon_error *error);
tenon_status tn_gguf_skip(tn_gguf *g, uint64_t size, const char *what, tenon_error *error);

/* Little-endian numbers. */
tenon_status tn_gguf_take_u32(tn_gguf *g, uint32_t *value, const char *what, tenon_error *error);
tenon_status tn_gguf_take_u64(tn_gguf *g, uint64_t *value, const char *what, tenon_error *error);

/* A count of things that take at least `size` bytes each, which the rest of the file must have. */
tenon_status tn_gguf_take_count(tn_gguf *g, uint64_t *count, uint64_t size, const char *what, tenon_error *error);

/* A key or a tensor's name: UTF-8 without NUL, which the caller frees with free(). */
tenon_status tn_gguf_take_name(tn_gguf *g, char **name, const char *what, tenon_error *error);

/* `length` bytes of text, the same. */
tenon_status tn_gguf_take_text(tn_gguf *g, char **text, size_t length, const char *what, tenon_error *error);

/* `count` keys and values become the file's metadata: strings as they are, numbers and bools as JSON writes them, short
 * arrays of these as JSON arrays, of longer arrays and strings only what they are: "[32000 strings]". */
tenon_status tn_gguf_read_values(tenon_file *file, tn_gguf *g, uint64_t count, tenon_error *error);

/* The encoding of a type's number, and its name; NULL: there is no such type. */
const tn_encoding *tn_encoding_of_gguf(uint32_t number, const char **name);

/* The number of an encoding's type; false: GGUF has no such type. */
bool tn_gguf_number(const tn_encoding *encoding, uint32_t *number);

/* Bytes that an entry's data takes in a file when it is of this encoding; the shape has been checked. */
uint64_t tn_gguf_bytes(const tn_entry *entry, const tn_encoding *encoding);

#endif
