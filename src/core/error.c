/* SPDX-License-Identifier: MIT */
/* Status names and sentences; quote.c quotes what comes from files. */
#include "core/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *tenon_status_name(tenon_status status)
{
    static const char *const names[] = {
        [TENON_OK] = "ok",
        [TENON_INVALID] = "invalid",
        [TENON_NOT_FOUND] = "not found",
        [TENON_EXISTS] = "exists",
        [TENON_UNSUPPORTED] = "unsupported",
        [TENON_BAD_FILE] = "bad file",
        [TENON_IO] = "io",
        [TENON_NO_MEMORY] = "no memory",
        [TENON_NOT_PREPARED] = "not prepared",
        [TENON_MISMATCH] = "mismatch",
    };
    const size_t count = sizeof names / sizeof names[0];
    return (size_t)status < count ? names[status] : "unknown status";
}

/* The length of text[0..length), which was cut anywhere, without the character that the cut went through. */
static size_t whole_characters(const char *text, size_t length)
{
    size_t start = length; /* of the last character */
    while (start > 0 && length - start < 3 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0 || ((unsigned char)text[start - 1] & 0xc0) != 0xc0) return length;
    const unsigned char first = (unsigned char)text[--start];
    const size_t needed = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    return length - start < needed ? start : length;
}

tenon_status tn_fail_v(tenon_error *error, tenon_status status, const char *format, va_list args)
{
    if (error == NULL) return status;
    char *message = error->message;
    if (vsnprintf(message, sizeof error->message, format, args) >= (int)sizeof error->message) {
        message[whole_characters(message, sizeof error->message - 1)] = 0;
    }
    return status;
}

tenon_status tn_fail(tenon_error *error, tenon_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    tn_fail_v(error, status, format, args);
    va_end(args);
    return status;
}

void tn_text_add(tn_text *text, const char *format, ...)
{
    if (text->length + 1 >= text->capacity) return;
    va_list args;
    va_start(args, format);
    const int written = vsnprintf(text->data + text->length, text->capacity - text->length, format, args);
    va_end(args);
    if (written > 0) text->length += (size_t)written;
    if (text->length < text->capacity) return;
    text->length = whole_characters(text->data, text->capacity - 1);
    text->data[text->length] = '\0';
    text->capacity = text->length + 1; /* nothing is added after the cut */
}

tenon_status tn_deliver_text(char *text, const char *what, char *to, size_t capacity, size_t *length,
                             tenon_error *error)
{
    if (text == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: %s cannot be written", what);
    const size_t size = strlen(text);
    const bool fits = to == NULL || size < capacity;
    if (fits && to != NULL) memcpy(to, text, size + 1);
    if (fits && length != NULL) *length = size;
    free(text);
    return fits ? TENON_OK
                : tn_fail(error, TENON_INVALID, "%s needs %zu bytes; the buffer has %zu", what, size + 1, capacity);
}

tn_shape_text tn_shape_to_text(int ndim, const int64_t *shape)
{
    tn_shape_text shown;
    tn_text text = {shown.text, sizeof shown.text, 0};
    tn_text_add(&text, "[");
    for (int i = 0; i < ndim && i < 8; i++) {
        tn_text_add(&text, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    }
    tn_text_add(&text, "%s]", ndim > 8 ? ", ..." : "");
    return shown;
}
