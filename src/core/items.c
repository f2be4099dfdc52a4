/* SPDX-License-Identifier: MIT */
#include "core/items.h"

#include <stdio.h>

void tn_items_add(tn_items *items, const char *format, ...)
{
    enum { usual = 8, room = 48 }; /* room for what tn_items_end adds */
    const int64_t most = items->most > 0 ? items->most : usual;
    char item[1024];
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(item, sizeof item, format, args);
    va_end(args);
    const bool fits = length >= 0 && items->text->length + (size_t)length + room < items->text->capacity;
    /* Nothing is shown after the first that was left out. */
    if (items->shown == items->count && items->shown < most && (fits || items->shown == 0)) {
        tn_text_add(items->text, "%s%s", items->shown > 0 ? ", " : "", item);
        items->shown++;
    }
    items->count++;
}

void tn_items_end(tn_items *items)
{
    const int64_t left_out = items->count - items->shown;
    if (left_out > 0) tn_text_add(items->text, " and %lld more", (long long)left_out);
    items->count = items->shown = 0;
}
