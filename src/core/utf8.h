/* SPDX-License-Identifier: MIT */
/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates. */
#ifndef TN_CORE_UTF8_H
#define TN_CORE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character that begins at `text`, of which `size` bytes may be read: 1 for ASCII, 0 when there is no
 * whole character. */
size_t tn_utf8_length(const unsigned char *text, size_t size);

/* A NUL-terminated string. */
bool tn_is_utf8(const char *text);

#endif
