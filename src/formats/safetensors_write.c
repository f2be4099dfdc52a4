/* Lays out a safetensors file (safetensors.c shows the format). The header is padded so that the data begins at a
 * multiple of 8, and larger elements come first, so that every tensor is aligned to its elements: 8-, 4-, 2-, then
 * 1-byte types, in the order of declaration within each. The header lists the tensors in the order of declaration. */
#include "formats/format.h"

#include "core/error.h"
#include "core/size.h"
#include <stdlib.h>
#include <string.h>

static tenon_status place_parts(tenon_writer *writer, tenon_error *error)
{
    uint64_t end = 0;
    for (size_t element = 8; element > 0; element /= 2) {
        for (int64_t i = 0; i < writer->num_parts; i++) {
            tn_part *part = &writer->parts[i];
            if (part->encoding->stored_size != element) continue;
            part->offset = end;
            end += part->bytes;
            if (end > INT64_MAX / 2) {
                return tn_fail(error, TENON_INVALID, "%s: the tensors are too large for one file",
                               tn_quote(writer->path).text);
            }
        }
    }
    return TENON_OK;
}

static json_t *describe_part(const tn_part *part)
{
    json_t *shape = json_array();
    for (int i = 0; i < part->ndim && shape != NULL; i++) {
        if (json_array_append_new(shape, json_integer(part->shape[i])) != 0) {
            json_decref(shape);
            shape = NULL;
        }
    }
    if (shape == NULL) return NULL;
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", part->encoding->safetensors, "shape", shape, "data_offsets",
                     (json_int_t)part->offset, (json_int_t)(part->offset + part->bytes));
}

/* NULL: no memory. */
static char *make_json(const tenon_writer *writer)
{
    json_t *header = json_object();
    bool made = header != NULL;
    if (made && writer->metadata != NULL) made = json_object_set(header, "__metadata__", writer->metadata) == 0;
    for (int64_t i = 0; i < writer->num_parts && made; i++)
        made = json_object_set_new(header, writer->parts[i].name, describe_part(&writer->parts[i])) == 0;
    char *text = made ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

tenon_status tn_safetensors_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error)
{
    TN_TRY(place_parts(writer, error));
    char *json = make_json(writer);
    const size_t used = json != NULL ? strlen(json) : 0, padded = tn_align_up(used, 8);
    char *made = json != NULL ? malloc(8 + padded) : NULL;
    if (made == NULL) {
        free(json);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for the header", tn_quote(writer->path).text);
    }
    for (int i = 0; i < 8; i++)
        made[i] = (char)(unsigned char)((uint64_t)padded >> 8 * i);
    memcpy(made + 8, json, used);
    memset(made + 8 + used, ' ', padded - used);
    free(json);
    if (padded > TN_MAX_HEADER) {
        free(made);
        return tn_fail(error, TENON_INVALID, "%s: the header would take %zu bytes; readers take at most %d",
                       tn_quote(writer->path).text, padded, TN_MAX_HEADER);
    }
    *header = made;
    *length = 8 + padded;
    return TENON_OK;
}
