/* SPDX-License-Identifier: MIT */
#include "finite.h"

#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* A number is not finite when all bits of its exponent are ones. Then, and only then, does adding a one to the last of
 * them carry into the sign, which was cleared before. The loops have no branch, so that the compiler makes vectors of
 * them. */

static bool all_finite_32(const uint32_t *bits, size_t count)
{
    uint32_t carries = 0;
    for (size_t i = 0; i < count; i++)
        carries |= (bits[i] & 0x7fffffffu) + 0x00800000u;
    return carries >> 31 == 0;
}

static bool all_finite_16(const uint16_t *bits, size_t count, uint16_t exponent_one)
{
    uint16_t carries = 0;
    for (size_t i = 0; i < count; i++)
        carries |= (uint16_t)((bits[i] & 0x7fffu) + exponent_one);
    return carries >> 15 == 0;
}

bool tn_all_finite(const void *data, DLDataType dtype, size_t bytes)
{
    if (dtype.bits == 32) return all_finite_32(data, bytes / sizeof(uint32_t));
    return all_finite_16(data, bytes / sizeof(uint16_t), dtype.code == kDLBfloat ? 0x0080u : 0x0400u);
}

/* A number that is not finite. */
static double value_at(const void *data, DLDataType dtype, size_t index)
{
    if (dtype.bits == 32) return ((const float *)data)[index];
    const uint16_t bits = ((const uint16_t *)data)[index];
    const uint16_t fraction = dtype.code == kDLBfloat ? 0x007fu : 0x03ffu;
    if (bits & fraction) return NAN;
    return bits >> 15 ? -INFINITY : INFINITY;
}

static size_t bytes_of(DLDataType dtype)
{
    return dtype.bits / 8u;
}

static void count_one(tn_nonfinite *found, const tn_value_rows *rows, int64_t row, int64_t column, double value)
{
    tn_nonfinite one = {1, rows->file, rows->first + row / rows->tokens, row % rows->tokens, column, value};
    tn_nonfinite_add(found, &one);
}

void tn_nonfinite_find(tn_nonfinite *found, const tn_value_rows *rows, const unsigned char *is_read)
{
    const size_t element = bytes_of(rows->dtype), width = (size_t)rows->width;
    for (int64_t row = 0; row < rows->images * rows->tokens; row++) {
        const char *data = (const char *)rows->data + (size_t)row * width * element;
        if ((is_read && !is_read[row]) || tn_all_finite(data, rows->dtype, width * element)) continue;
        for (size_t column = 0; column < width; column++) {
            if (tn_all_finite(data + column * element, rows->dtype, element)) continue;
            count_one(found, rows, row, (int64_t)column, value_at(data, rows->dtype, column));
        }
    }
}

void tn_nonfinite_find_overflow(tn_nonfinite *found, const tn_value_rows *rows, const float *wide)
{
    const size_t width = (size_t)rows->width;
    for (int64_t row = 0; row < rows->images * rows->tokens; row++) {
        for (size_t column = 0; column < width; column++) {
            const size_t index = (size_t)row * width + column;
            if (!isfinite(wide[index])) continue;
            if (tn_all_finite((const uint16_t *)rows->data + index, rows->dtype, sizeof(uint16_t))) continue;
            count_one(found, rows, row, (int64_t)column, value_at(rows->data, rows->dtype, index));
        }
    }
}

static bool is_before(const tn_nonfinite *a, const tn_nonfinite *b)
{
    if (a->file != b->file) return a->file < b->file;
    if (a->image != b->image) return a->image < b->image;
    return a->token != b->token ? a->token < b->token : a->column < b->column;
}

void tn_nonfinite_add(tn_nonfinite *found, const tn_nonfinite *more)
{
    if (more->count == 0) return;
    const int64_t count = found->count + more->count;
    if (found->count == 0 || is_before(more, found)) *found = *more;
    found->count = count;
}

const char *tn_nonfinite_text(const tn_nonfinite *found)
{
    enum { BUFFERS = 4, SIZE = 128 };
    static _Thread_local char buffers[BUFFERS][SIZE];
    static _Thread_local unsigned next;
    char *text = buffers[next++ % BUFFERS];
    snprintf(text, SIZE, "image %" PRId64 ", token %" PRId64 ", column %" PRId64 " is %s", found->image, found->token,
             found->column,
             isnan(found->value) ? "nan"
             : found->value > 0  ? "inf"
                                 : "-inf");
    return text;
}

json_t *tn_nonfinite_to_json(const tn_nonfinite *found, const char *file)
{
    json_t *object = json_pack("{s:I}", "count", (json_int_t)found->count);
    if (!object || found->count == 0) return object;
    json_t *first = json_object();
    if (file) json_object_set_new(first, "file", tn_json_text(file));
    json_object_set_new(first, "image", json_integer(found->image));
    json_object_set_new(first, "token", json_integer(found->token));
    json_object_set_new(first, "column", json_integer(found->column));
    json_object_set_new(first, "value", tn_json_real(found->value));
    json_object_set_new(object, "first", first);
    return object;
}

tn_nonfinite tn_nonfinite_from_json(const json_t *object)
{
    const json_t *first = json_object_get(object, "first");
    tn_nonfinite found = {.count = json_integer_value(json_object_get(object, "count"))};
    if (found.count <= 0 || !first) return (tn_nonfinite){.count = 0};
    found.image = json_integer_value(json_object_get(first, "image"));
    found.token = json_integer_value(json_object_get(first, "token"));
    found.column = json_integer_value(json_object_get(first, "column"));
    found.value = tn_json_read_real(json_object_get(first, "value"), NAN);
    return found;
}
