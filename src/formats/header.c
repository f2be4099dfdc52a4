/* SPDX-License-Identifier: MIT */
/* What headers share: reading one into memory, parsing its JSON, writing one. */
#include "formats/format.h"

#include "core/error.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Jansson draws the seed of its hash tables when the first one is made, and other threads spin until that is done. In a
 * child that was forked meanwhile it never is; so it is done before there are threads. */
__attribute__((constructor)) static void seed_hash_tables(void)
{
    json_object_seed(0);
}

tenon_status tn_fail_tensor(const tn_input *input, const char *name, tenon_error *error, const char *format, ...)
{
    char sentence[768];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return tn_fail(error, TENON_BAD_FILE, "%s: tensor '%s': %s", tn_quote(tn_input_path(input)).text,
                   tn_quote(name).text, sentence);
}

tenon_status tn_read_header(const tn_input *input, uint64_t offset, size_t size, char **text, tenon_error *error)
{
    char *made = malloc(size + 1);
    if (made == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for a header of %zu bytes",
                       tn_quote(tn_input_path(input)).text, size);
    }
    const tenon_status status = tn_input_read(input, offset, made, size, error);
    if (status != TENON_OK) {
        free(made);
        return status;
    }
    made[size] = 0;
    *text = made;
    return TENON_OK;
}

static tenon_status fail_parse(const char *path, const char *what, uint64_t base, const json_error_t *found,
                               tenon_error *error)
{
    const tn_quoted shown = tn_quote(path), reason = tn_quote(found->text);
    const unsigned long long byte = base + (found->position > 0 ? (unsigned)found->position : 0);
    const enum json_error_code code = json_error_code(found);
    /* Jansson gives no text where an allocation of its own fails. */
    if (code == json_error_out_of_memory || found->text[0] == 0) {
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for %s", shown.text, what);
    }
    if (code == json_error_duplicate_key) {
        return tn_fail(error, TENON_BAD_FILE, "%s: %s has a duplicate key at byte %llu (%s)", shown.text, what, byte,
                       reason.text);
    }
    return tn_fail(error, TENON_BAD_FILE, "%s: %s is not valid JSON at byte %llu: %s", shown.text, what, byte,
                   reason.text);
}

tenon_status tn_json_parse(const char *path, const char *what, const char *text, size_t length, uint64_t base,
                           json_t **json, tenon_error *error)
{
    json_error_t found;
    json_t *parsed = json_loadb(text, length, JSON_REJECT_DUPLICATES, &found);
    if (parsed == NULL) return fail_parse(path, what, base, &found, error);
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return tn_fail(error, TENON_BAD_FILE, "%s: %s is no JSON object", tn_quote(path).text, what);
    }
    *json = parsed;
    return TENON_OK;
}

void tn_header_add(tn_header_text *text, const void *bytes, size_t count)
{
    if (text->failed) return;
    if (count > text->capacity - text->length) {
        const size_t capacity = 2 * (text->capacity + count);
        char *grown = realloc(text->data, capacity);
        text->failed = grown == NULL;
        if (text->failed) return;
        text->data = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->length, bytes, count);
    text->length += count;
}
