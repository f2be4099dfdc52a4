/* SPDX-License-Identifier: MIT */
/* Lays out a GGUF file, version 3 (gguf.c shows the format): keys and tensors in the order of declaration, the data of
 * each from a multiple of 32 on, the last one padded too, as ggml reads it. */
#include "formats/gguf.h"

#include "core/error.h"
#include "core/size.h"
#include <stdlib.h>
#include <string.h>

/* Numbers of GGUF's types of values. */
enum { type_u32 = 4, type_i32 = 5, type_f32 = 6, type_bool = 7, type_string = 8, type_array = 9, type_i64 = 11 };

bool tn_gguf_has_type(const tn_encoding *encoding)
{
    uint32_t number;
    return tn_gguf_number(encoding, &number);
}

static void add_number(tn_header_text *text, uint64_t value, int bytes)
{
    unsigned char little[8];
    for (int i = 0; i < bytes; i++)
        little[i] = (unsigned char)(value >> 8 * i);
    tn_header_add(text, little, (size_t)bytes);
}

static void add_string(tn_header_text *text, const char *string)
{
    const size_t length = strlen(string);
    add_number(text, length, 8);
    tn_header_add(text, string, length);
}

/* The type that a value is written as: counts as u32, which llama.cpp asks for. */
static uint32_t type_of(const json_t *value)
{
    const json_int_t integer = json_integer_value(value);
    switch (json_typeof(value)) {
    case JSON_STRING:
        return type_string;
    case JSON_ARRAY:
        return type_array;
    case JSON_REAL:
        return type_f32;
    case JSON_INTEGER:
        if (integer >= 0 && integer <= UINT32_MAX) return type_u32;
        return integer >= INT32_MIN && integer < 0 ? type_i32 : type_i64;
    default:
        return type_bool;
    }
}

static void add_value(tn_header_text *text, const json_t *value, uint32_t type)
{
    const float real = (float)json_number_value(value);
    uint32_t bits;
    memcpy(&bits, &real, sizeof bits);
    if (type == type_string) add_string(text, json_string_value(value));
    if (type == type_bool) add_number(text, json_is_true(value), 1);
    if (type == type_f32) add_number(text, bits, 4);
    if (type == type_u32 || type == type_i32) add_number(text, (uint64_t)json_integer_value(value), 4);
    if (type == type_i64) add_number(text, (uint64_t)json_integer_value(value), 8);
}

/* All elements are of the first one's type; integers are i32, as other writers have them. */
static void add_array(tn_header_text *text, const json_t *array)
{
    size_t i;
    json_t *value;
    uint32_t type = json_array_size(array) > 0 ? type_of(json_array_get(array, 0)) : type_i32;
    if (type == type_u32) type = type_i32;
    add_number(text, type, 4);
    add_number(text, json_array_size(array), 8);
    json_array_foreach(array, i, value)
    {
        add_value(text, value, type);
    }
}

static void add_metadata(tn_header_text *text, json_t *metadata)
{
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        const uint32_t type = type_of(value);
        add_string(text, key);
        add_number(text, type, 4);
        if (type == type_array) {
            add_array(text, value);
        } else {
            add_value(text, value, type);
        }
    }
}

/* A scalar is a vector of 1: not every reader takes a tensor without dimensions. */
static void add_part(tn_header_text *text, const tn_part *part)
{
    uint32_t number = 0;
    (void)tn_gguf_number(part->encoding, &number); /* the writer asked tn_gguf_has_type */
    add_string(text, part->name);
    add_number(text, part->ndim > 0 ? (uint64_t)part->ndim : 1, 4);
    if (part->ndim == 0) add_number(text, 1, 8);
    for (int i = part->ndim - 1; i >= 0; i--)
        add_number(text, (uint64_t)part->shape[i], 8);
    add_number(text, number, 4);
    add_number(text, part->offset, 8);
}

static tenon_status place_parts(tenon_writer *writer, tenon_error *error)
{
    uint64_t end = 0;
    for (int64_t i = 0; i < writer->num_parts; i++) {
        tn_part *part = &writer->parts[i];
        if (part->bytes > INT64_MAX / 2 - end) {
            return tn_fail(error, TENON_INVALID, "%s: the tensors are too large for one file",
                           tn_quote(writer->path).text);
        }
        part->offset = end;
        end = tn_align_up(end + part->bytes, TN_GGUF_ALIGNMENT);
    }
    writer->end = end;
    return TENON_OK;
}

tenon_status tn_gguf_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error)
{
    tn_header_text text = {0};
    TN_TRY(place_parts(writer, error));
    tn_header_add(&text, "GGUF", 4);
    add_number(&text, 3, 4);
    add_number(&text, (uint64_t)writer->num_parts, 8);
    add_number(&text, json_object_size(writer->metadata), 8);
    add_metadata(&text, writer->metadata);
    for (int64_t i = 0; i < writer->num_parts; i++)
        add_part(&text, &writer->parts[i]);
    while (text.length % TN_GGUF_ALIGNMENT != 0 && !text.failed)
        tn_header_add(&text, "", 1);
    if (text.failed) {
        free(text.data);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for the header", tn_quote(writer->path).text);
    }
    writer->end += text.length;
    *header = text.data;
    *length = text.length;
    return TENON_OK;
}
