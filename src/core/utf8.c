/* SPDX-License-Identifier: MIT */
#include "core/utf8.h"

#include <string.h>

size_t tn_utf8_length(const unsigned char *text, size_t size)
{
    static const struct {
        unsigned char first, last, low, high; /* of the first byte; of the second */
        unsigned char length;
    } forms[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
                 {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                 {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    if (size == 0) return 0;
    if (text[0] < 0x80) return 1;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (text[0] < forms[i].first || text[0] > forms[i].last) continue;
        if (size < forms[i].length || text[1] < forms[i].low || text[1] > forms[i].high) return 0;
        for (size_t j = 2; j < forms[i].length; j++) {
            if ((text[j] & 0xc0) != 0x80) return 0;
        }
        return forms[i].length;
    }
    return 0;
}

bool tn_is_utf8(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    for (size_t left = strlen(text), length; left > 0; left -= length, at += length) {
        length = tn_utf8_length(at, left);
        if (length == 0) return false;
    }
    return true;
}
