/* SPDX-License-Identifier: MIT */
/* Lays out an npy file, version 1.0 (npy.c shows the format). As NumPy does, the header is padded with spaces and ends
 * in a newline so that the data begins at a multiple of 64. NumPy has no bfloat16: it goes out as uint16. */
#include "formats/format.h"

#include "core/error.h"
#include "core/size.h"
#include <stdlib.h>
#include <string.h>

/* Text of the header before it is padded: 64 dimensions of 19 digits and their commas, and the keys. */
enum { max_text = TN_MAX_FILE_DIMS * 21 + 128, start_size = 10 };

static void write_text(const tn_part *part, tn_text *text)
{
    const char *type = part->encoding->npy != NULL ? part->encoding->npy : "u2";
    const char order = tn_stored_size(part->encoding) == 1 ? '|' : tn_host_is_big_endian() ? '>' : '<';
    tn_text_add(text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (", order, type);
    for (int i = 0; i < part->ndim; i++)
        tn_text_add(text, "%s%lld", i > 0 ? ", " : "", (long long)part->shape[i]);
    tn_text_add(text, "%s), }", part->ndim == 1 ? "," : "");
}

tenon_status tn_npy_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error)
{
    char buffer[max_text];
    tn_text text = {buffer, sizeof buffer, 0};
    write_text(&writer->parts[0], &text);
    const size_t align = writer->is_direct ? TN_DIRECT_ALIGN : 64;
    const size_t total = tn_align_up(start_size + text.length + 1, align), announced = total - start_size;
    char *made = malloc(total);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(writer->path).text);
    memcpy(made, "\x93NUMPY\x01\x00", 8);
    made[8] = (char)(unsigned char)(announced & 0xff);
    made[9] = (char)(unsigned char)(announced >> 8);
    memcpy(made + start_size, buffer, text.length);
    memset(made + start_size + text.length, ' ', announced - text.length - 1);
    made[total - 1] = '\n';
    writer->parts[0].offset = 0;
    *header = made;
    *length = total;
    return TENON_OK;
}
