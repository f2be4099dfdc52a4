/* SPDX-License-Identifier: MIT */
#include "json.h"

#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

static const struct {
    const char *name;
    double value;
} odd_numbers[] = {{"nan", NAN}, {"inf", INFINITY}, {"-inf", -INFINITY}};

json_t *tn_json_real(double value)
{
    if (isnan(value)) return json_string(odd_numbers[0].name);
    if (isinf(value)) return json_string(odd_numbers[value > 0 ? 1 : 2].name);
    return json_real(value);
}

double tn_json_read_real(const json_t *value, double missing)
{
    if (json_is_number(value)) return json_number_value(value);
    for (size_t i = 0; json_is_string(value) && i < sizeof odd_numbers / sizeof *odd_numbers; i++)
        if (!strcmp(json_string_value(value), odd_numbers[i].name)) return odd_numbers[i].value;
    return missing;
}

/* ---- texts ---- */

/* Bytes of the UTF-8 character at `text`, 0 when there is none. Jansson is asked, because it is what refuses. */
static size_t character_length(const char *text)
{
    for (size_t length = 1; length <= 4 && text[length - 1]; length++) {
        json_t *character = json_stringn(text, length);
        json_decref(character);
        if (character) return length;
    }
    return 0;
}

/* `text`, which is not UTF-8, as UTF-8. */
static char *escaped(const char *text)
{
    char *made = malloc(4 * strlen(text) + 1);
    size_t used = 0;
    while (made && *text) {
        size_t length = character_length(text);
        if (length == 0)
            used += (size_t)sprintf(made + used, "\\x%02x", (unsigned char)*text);
        else if (*text == '\\')
            made[used++] = '\\';
        memcpy(made + used, text, length);
        used += length;
        text += length ? length : 1;
    }
    if (made) made[used] = 0;
    return made;
}

char *tn_json_key(const char *text)
{
    json_t *valid = json_string(text);
    json_decref(valid);
    return valid ? strdup(text) : escaped(text);
}

json_t *tn_json_text(const char *text)
{
    if (!text) return json_null();
    json_t *valid = json_string(text);
    if (valid) return valid;
    char *key = escaped(text);
    json_t *made = key ? json_string(key) : NULL;
    free(key);
    return made;
}

/* ---- the rest ---- */

json_t *tn_json_pair(int64_t height, int64_t width)
{
    return json_pack("[I, I]", (json_int_t)height, (json_int_t)width);
}

json_t *tn_json_joined(json_t *object, json_t *more)
{
    const bool good = object && more && json_object_update(object, more) == 0;
    json_decref(more);
    if (good) return object;
    json_decref(object);
    return NULL;
}

/* Adds one difference to the list. */
static void add_difference(const char *name, const json_t *then, const json_t *now, tn_json_words words, char *list,
                           size_t size)
{
    const size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION(15); /* 0.9, not 0.90000000000000002 */
    char *before = then ? json_dumps(then, flags) : strdup("not there");
    char *after = now ? json_dumps(now, flags) : strdup("not there");
    const size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%.200s %s %.400s %s %.400s%s", used ? ", " : "", name, words.first,
             before ? before : "?", words.second, after ? after : "?", words.last);
    free(before);
    free(after);
}

bool tn_json_same(const json_t *then, const json_t *now, tn_json_words words, char *list, size_t size)
{
    enum { SHOWN = 8 };
    int count = 0;
    const char *name;
    json_t *value;
    list[0] = 0;
    json_object_foreach((json_t *)(uintptr_t)now, name, value)
    {
        const json_t *before = json_object_get(then, name);
        if (before && json_equal(before, value)) continue;
        if (count++ < SHOWN) add_difference(name, before, value, words, list, size);
    }
    json_object_foreach((json_t *)(uintptr_t)then, name, value) if (!json_object_get(now, name) && count++ < SHOWN)
        add_difference(name, value, NULL, words, list, size);
    const size_t used = strlen(list);
    if (count > SHOWN) snprintf(list + used, size - used, ", and %d more", count - SHOWN);
    return count == 0;
}

char *tn_config_text(const tenon_config *config)
{
    size_t length = 0;
    if (tenon_config_to_json(config, NULL, 0, &length, NULL) != TENON_OK) return NULL;
    char *text = malloc(length + 1);
    if (text && tenon_config_to_json(config, text, length + 1, &length, NULL) == TENON_OK) return text;
    free(text);
    return NULL;
}

json_t *tn_json_config(const tenon_config *config)
{
    char *text = tn_config_text(config);
    json_t *object = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return object;
}

int tn_print_json(json_t *object)
{
    return tn_print_json_to(stdout, object);
}

int tn_print_json_to(FILE *stream, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    if (!text) return tn_failed("out of memory while writing the JSON result");
    fprintf(stream, "%s\n", text);
    free(text);
    return TN_EXIT_OK;
}
