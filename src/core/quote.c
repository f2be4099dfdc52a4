/* SPDX-License-Identifier: MIT */
/* Text from outside (tensor names, metadata, paths) made safe to print: no character of it can drive a terminal, forge
 * a line or look like an escape sequence of ours. Printable UTF-8 stays readable. */
#include "core/error.h"

#include "core/utf8.h"
#include <stdio.h>
#include <string.h>

static const char cut[] = "...";

/* One character as it is shown. */
typedef struct shown {
    size_t taken; /* bytes of the text */
    size_t length;
    char text[12];
} shown;

/* The code point of the character at `in` and its bytes; -1 and 1 where it is not UTF-8. */
static long decode(const unsigned char *in, size_t left, size_t *taken)
{
    const size_t bytes = tn_utf8_length(in, left);
    *taken = bytes > 0 ? bytes : 1;
    if (bytes < 2) return bytes == 1 ? in[0] : -1;
    long code = in[0] & (0x7f >> bytes);
    for (size_t i = 1; i < bytes; i++)
        code = code << 6 | (in[i] & 0x3f);
    return code;
}

/* Controls, invisible characters, and those that turn the direction of the line. The backslash begins our escapes, and
 * backquotes enclose names of fields in our sentences. */
static bool is_printable(long code)
{
    static const long ranges[][2] = {
        {0x00, 0x1f},     {0x5c, 0x5c},     {0x60, 0x60},     {0x7f, 0x9f},       {0xad, 0xad},       {0x61c, 0x61c},
        {0x180e, 0x180e}, {0x200b, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f},   {0xfdd0, 0xfdef},   {0xfeff, 0xfeff},
        {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0xe000, 0xf8ff}, {0xe0000, 0xe0fff}, {0xf0000, 0x10ffff}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (code >= ranges[i][0] && code <= ranges[i][1]) return false;
    }
    return true;
}

static shown show(const unsigned char *in, size_t left)
{
    shown s;
    const long code = decode(in, left, &s.taken);
    if (code >= 0 && is_printable(code)) {
        s.length = s.taken;
        memcpy(s.text, in, s.taken);
    } else if (code < 0x80) {
        s.length = (size_t)snprintf(s.text, sizeof s.text, "\\x%02x", in[0]);
    } else {
        s.length =
            (size_t)snprintf(s.text, sizeof s.text, code < 0x10000 ? "\\u%04lx" : "\\U%08lx", (unsigned long)code);
    }
    return s;
}

/* Shows the characters that begin in [0, size) until `most` bytes are written; returns the bytes of the text. */
static size_t show_some(char *to, size_t *length, size_t most, const unsigned char *in, size_t size)
{
    size_t at = 0;
    while (at < size) {
        const shown s = show(in + at, size - at);
        if (*length + s.length > most) break;
        memcpy(to + *length, s.text, s.length);
        *length += s.length;
        at += s.taken;
    }
    return at;
}

size_t tenon_quote(char *to, size_t capacity, const char *text, size_t size)
{
    const unsigned char *in = (const unsigned char *)text;
    size_t whole = 0, length = 0, at = 0;
    for (size_t i = 0; i < size; i += show(in + i, size - i).taken)
        whole += show(in + i, size - i).length;
    if (capacity < 32) {
        if (capacity > 0) to[0] = '\0'; /* less than the header asks for */
        return 0;
    }
    if (whole < capacity) {
        show_some(to, &length, capacity - 1, in, size);
    } else {
        /* The ends of long names and paths say more than their middle. */
        const size_t room = capacity - sizeof cut;
        at = show_some(to, &length, room / 2, in, size);
        memcpy(to + length, cut, sizeof cut - 1);
        size_t left = whole - length;
        length += sizeof cut - 1;
        while (left > room - room / 2) {
            const shown s = show(in + at, size - at);
            at += s.taken;
            left -= s.length;
        }
        show_some(to, &length, capacity - 1, in + at, size - at);
    }
    to[length] = '\0';
    return length;
}

tn_quoted tn_quote_bytes(const void *bytes, size_t size)
{
    tn_quoted quoted;
    tenon_quote(quoted.text, sizeof quoted.text, bytes, size);
    return quoted;
}

tn_quoted tn_quote(const char *text)
{
    return tn_quote_bytes(text, strlen(text));
}
