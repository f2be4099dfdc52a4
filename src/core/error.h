/* SPDX-License-Identifier: MIT */
/* Status and sentence of a failed call. Who first knows the reason writes the sentence; everyone above forwards. */
#ifndef TN_CORE_ERROR_H
#define TN_CORE_ERROR_H

#include "tenon/tenon.h"
#include <stdarg.h>

/* Writes the sentence (cut to fit), in which a field of a config, call or struct of options is written `field` or
 * `field=value`: the command puts its own option there. Returns `status`, so that a caller can "return tn_fail(...)".
 */
tenon_status tn_fail(tenon_error *error, tenon_status status, const char *format, ...) TENON_PRINTF(3, 4);
tenon_status tn_fail_v(tenon_error *error, tenon_status status, const char *format, va_list args);

/* Returns from the caller when `call` fails. */
#define TN_TRY(call)                                                                                                   \
    do {                                                                                                               \
        const tenon_status tn_try_status = (call);                                                                     \
        if (tn_try_status != TENON_OK) return tn_try_status;                                                           \
    } while (0)

/* A name from outside, made safe to print and cut to fit, see tenon_quote. */
typedef struct tn_quoted {
    char text[256];
} tn_quoted;
tn_quoted tn_quote(const char *text);
tn_quoted tn_quote_bytes(const void *bytes, size_t size);

/* "[81, 1152]"; cut after eight dimensions. */
typedef struct tn_shape_text {
    char text[192];
} tn_shape_text;
tn_shape_text tn_shape_to_text(int ndim, const int64_t *shape);

/* Text that grows into a fixed buffer and is cut at its end; data[length] is always 0. */
typedef struct tn_text {
    char *data;
    size_t capacity;
    size_t length;
} tn_text;
void tn_text_add(tn_text *text, const char *format, ...) TENON_PRINTF(2, 3);

/* Copies `text`, NUL included, into `to` (NULL: not wanted) of `capacity` bytes and its length into *length (NULL is
 * allowed), and frees it. `what` names it: "the config". TENON_NO_MEMORY: text is NULL. TENON_INVALID: it does not fit.
 */
tenon_status tn_deliver_text(char *text, const char *what, char *to, size_t capacity, size_t *length,
                             tenon_error *error);

#endif
