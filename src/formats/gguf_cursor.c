/* SPDX-License-Identifier: MIT */
/* Takes numbers and texts from a GGUF header. Every length is compared with what is left of the file first. */
#include "formats/gguf.h"

#include "core/error.h"
#include "core/utf8.h"
#include <stdlib.h>
#include <string.h>

static tenon_status check_left(const tn_gguf *g, uint64_t size, const char *what, tenon_error *error)
{
    if (size <= tn_gguf_left(g)) return TENON_OK;
    return tn_fail(error, TENON_BAD_FILE,
                   "%s: GGUF header at byte %llu: %s takes %llu bytes, but %llu follow; the file is truncated",
                   tn_quote(tn_input_path(g->input)).text, (unsigned long long)g->at, what, (unsigned long long)size,
                   (unsigned long long)tn_gguf_left(g));
}

/* The byte at `at` is in the window. */
static tenon_status fill(tn_gguf *g, tenon_error *error)
{
    if (g->at >= g->begin && g->at - g->begin < g->held) return TENON_OK;
    const uint64_t left = tn_gguf_left(g);
    const size_t size = left < sizeof g->window ? (size_t)left : sizeof g->window;
    g->held = 0;
    TN_TRY(tn_input_read(g->input, g->at, g->window, size, error));
    g->begin = g->at;
    g->held = size;
    return TENON_OK;
}

tenon_status tn_gguf_take(tn_gguf *g, void *data, size_t size, const char *what, tenon_error *error)
{
    TN_TRY(check_left(g, size, what, error));
    unsigned char *to = data;
    while (size > 0) {
        TN_TRY(fill(g, error));
        const size_t from = (size_t)(g->at - g->begin), rest = g->held - from, now = size < rest ? size : rest;
        memcpy(to, g->window + from, now);
        to += now;
        g->at += now;
        size -= now;
    }
    return TENON_OK;
}

tenon_status tn_gguf_skip(tn_gguf *g, uint64_t size, const char *what, tenon_error *error)
{
    TN_TRY(check_left(g, size, what, error));
    g->at += size;
    return TENON_OK;
}

tenon_status tn_gguf_take_u32(tn_gguf *g, uint32_t *value, const char *what, tenon_error *error)
{
    unsigned char bytes[4];
    TN_TRY(tn_gguf_take(g, bytes, sizeof bytes, what, error));
    *value = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    return TENON_OK;
}

tenon_status tn_gguf_take_u64(tn_gguf *g, uint64_t *value, const char *what, tenon_error *error)
{
    unsigned char bytes[8];
    TN_TRY(tn_gguf_take(g, bytes, sizeof bytes, what, error));
    *value = 0;
    for (int i = 7; i >= 0; i--)
        *value = *value << 8 | bytes[i];
    return TENON_OK;
}

tenon_status tn_gguf_take_count(tn_gguf *g, uint64_t *count, uint64_t size, const char *what, tenon_error *error)
{
    const uint64_t at = g->at;
    TN_TRY(tn_gguf_take_u64(g, count, what, error));
    if (*count <= tn_gguf_left(g) / size) return TENON_OK;
    return tn_fail(error, TENON_BAD_FILE,
                   "%s: GGUF header at byte %llu: %s is %llu, of which each takes at least %llu bytes, but %llu bytes "
                   "follow; the file is truncated",
                   tn_quote(tn_input_path(g->input)).text, (unsigned long long)at, what, (unsigned long long)*count,
                   (unsigned long long)size, (unsigned long long)tn_gguf_left(g));
}

tenon_status tn_gguf_take_text(tn_gguf *g, char **text, size_t length, const char *what, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(g->input));
    const unsigned long long at = g->at;
    TN_TRY(check_left(g, length, what, error));
    char *made = malloc(length + 1);
    if (made == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %s of %zu bytes", path.text, what, length);
    }
    tenon_status status = tn_gguf_take(g, made, length, what, error);
    made[length] = 0;
    if (status == TENON_OK && (memchr(made, 0, length) != NULL || !tn_is_utf8(made))) {
        status =
            tn_fail(error, TENON_BAD_FILE, "%s: GGUF header at byte %llu: %s is not UTF-8 or holds a zero byte: '%s'",
                    path.text, at, what, tn_quote_bytes(made, length).text);
    }
    if (status != TENON_OK) {
        free(made);
        return status;
    }
    *text = made;
    return TENON_OK;
}

tenon_status tn_gguf_take_name(tn_gguf *g, char **name, const char *what, tenon_error *error)
{
    const uint64_t at = g->at;
    uint64_t length;
    TN_TRY(tn_gguf_take_u64(g, &length, what, error));
    if (length > TN_GGUF_MAX_NAME) {
        return tn_fail(error, TENON_BAD_FILE, "%s: GGUF header at byte %llu: %s is %llu bytes long; %d are allowed",
                       tn_quote(tn_input_path(g->input)).text, (unsigned long long)at, what, (unsigned long long)length,
                       TN_GGUF_MAX_NAME);
    }
    return tn_gguf_take_text(g, name, (size_t)length, what, error);
}
