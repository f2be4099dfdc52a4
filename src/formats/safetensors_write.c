/* SPDX-License-Identifier: MIT */
/* Lays out a safetensors file (safetensors.c shows the format). The header is padded so that the data begins at a
 * multiple of 8, and larger elements come first, so that every tensor is aligned to its elements: 8-, 4-, 2-, then
 * 1-byte types, in the order of declaration within each. The header lists the tensors in the order of declaration. */
#include "formats/format.h"

#include "core/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tenon_status place_parts(tenon_writer *writer, tenon_error *error)
{
    uint64_t end = 0;
    for (size_t element = 8; element > 0; element /= 2) {
        for (int64_t i = 0; i < writer->num_parts; i++) {
            tn_part *part = &writer->parts[i];
            if (tn_stored_size(part->encoding) != element) continue;
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

/* The header is written by hand, because Jansson's json_dumps leaves out keys for which it finds no memory, and says
 * nothing. */
static void add_text(tn_header_text *text, const char *more)
{
    tn_header_add(text, more, strlen(more));
}

static void add_integer(tn_header_text *text, uint64_t value)
{
    char digits[24];
    tn_header_add(text, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)value));
}

/* UTF-8 that was checked when it was declared; only quotes, backslashes and control characters need escapes. */
static void add_string(tn_header_text *text, const char *string)
{
    add_text(text, "\"");
    while (*string != 0) {
        const char *end = string;
        while ((unsigned char)*end >= 0x20 && *end != '"' && *end != '\\')
            end++;
        tn_header_add(text, string, (size_t)(end - string));
        if (*end == 0) break;
        char escape[8];
        snprintf(escape, sizeof escape, (unsigned char)*end < 0x20 ? "\\u%04x" : "\\%c", (unsigned char)*end);
        add_text(text, escape);
        string = end + 1;
    }
    add_text(text, "\"");
}

static void add_metadata(tn_header_text *text, json_t *metadata)
{
    const char *key, *before = "\"__metadata__\":{";
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        add_text(text, before);
        add_string(text, key);
        add_text(text, ":");
        add_string(text, json_string_value(value));
        before = ",";
    }
    add_text(text, "}");
}

static void add_part(tn_header_text *text, const tn_part *part)
{
    add_string(text, part->name);
    add_text(text, ":{\"dtype\":\"");
    add_text(text, part->encoding->safetensors);
    add_text(text, "\",\"shape\":[");
    for (int i = 0; i < part->ndim; i++) {
        if (i > 0) add_text(text, ",");
        add_integer(text, (uint64_t)part->shape[i]);
    }
    add_text(text, "],\"data_offsets\":[");
    add_integer(text, part->offset);
    add_text(text, ",");
    add_integer(text, part->offset + part->bytes);
    add_text(text, "]}");
}

/* The length, still zero, then the JSON, padded so that the data is aligned. */
static void write_header(const tenon_writer *writer, tn_header_text *text)
{
    const bool metadata = json_object_size(writer->metadata) > 0;
    tn_header_add(text, "\0\0\0\0\0\0\0\0", 8);
    add_text(text, "{");
    if (metadata) add_metadata(text, writer->metadata);
    for (int64_t i = 0; i < writer->num_parts; i++) {
        if (i > 0 || metadata) add_text(text, ",");
        add_part(text, &writer->parts[i]);
    }
    add_text(text, "}");
    const size_t align = writer->is_direct ? TN_DIRECT_ALIGN : 8;
    while (text->length % align != 0 && !text->failed)
        add_text(text, " ");
}

tenon_status tn_safetensors_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error)
{
    TN_TRY(place_parts(writer, error));
    tn_header_text text = {0};
    write_header(writer, &text);
    if (text.failed) {
        free(text.data);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for the header", tn_quote(writer->path).text);
    }
    const uint64_t json = text.length - 8;
    if (json > TN_MAX_HEADER) {
        free(text.data);
        return tn_fail(error, TENON_INVALID, "%s: the header would take %llu bytes; readers take at most %d",
                       tn_quote(writer->path).text, (unsigned long long)json, TN_MAX_HEADER);
    }
    for (int i = 0; i < 8; i++)
        text.data[i] = (char)(unsigned char)(json >> 8 * i);
    *header = text.data;
    *length = text.length;
    return TENON_OK;
}
