/* SPDX-License-Identifier: MIT */
#include "fields.h"

#include <stdio.h>
#include <string.h>

/* Where an option is not called as its field is. */
static const struct {
    const char *field;
    const char *option;
} renamed[] = {{"hidden_dim", "hidden"}, {"pool_window", "window"}, {"pool_heads", "heads"},
               {"grid_height", "grid"},  {"grid_width", "grid"},    {"npy_bfloat16", "npy-bf16"}};

/* "min_lr" and "min-lr" are the same name. */
static bool is_same(const char *field, const char *option)
{
    for (; *field && *option; field++, option++)
        if (*field != *option && !(*field == '_' && *option == '-')) return false;
    return *field == *option;
}

const char *tn_field_option(const tn_command *command, const char *field)
{
    for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++)
        if (is_same(renamed[i].field, field)) field = renamed[i].option;
    for (const tn_option *option = command->options; option->name; option++)
        if (is_same(field, option->name)) return option->name;
    return NULL;
}

/* The field `name` or `name=value` at `text`, a backquote: its name, its value (NULL: none) and its length with both
 * backquotes; 0: there is none. */
typedef struct field {
    char name[64];
    char value[64];
    bool has_value;
    size_t length;
} field;

static bool find_field(const char *text, field *found)
{
    size_t length = strcspn(text + 1, "`");
    size_t name = strcspn(text + 1, "=`");
    size_t value = name < length ? length - name - 1 : 0;
    if (!text[1 + length] || name >= sizeof found->name || value >= sizeof found->value) return false;
    *found = (field){.has_value = name < length, .length = length + 2};
    memcpy(found->name, text + 1, name);
    memcpy(found->value, text + 2 + name, value);
    return true;
}

void tn_fields_to_options(char *to, size_t capacity, const char *message, const tn_command *command)
{
    size_t used = 0;
    field found;
    while (*message && used + 1 < capacity) {
        const char *option =
            *message == '`' && command && find_field(message, &found) ? tn_field_option(command, found.name) : NULL;
        if (!option) {
            to[used++] = *message++;
            continue;
        }
        used += (size_t)snprintf(to + used, capacity - used, "--%s%s%s", option, found.has_value ? " " : "",
                                 found.has_value ? found.value : "");
        message += found.length;
    }
    to[used < capacity ? used : capacity - 1] = 0;
}

void tn_fields_of_json(tenon_error *error)
{
    field found;
    for (char *at = strchr(error->message, '`'); at && find_field(at, &found); at = strchr(at + found.length, '`'))
        if (strcmp(found.name, "prefix") != 0 && strcmp(found.name, "config") != 0 &&
            strcmp(found.name, "rename") != 0 && strcmp(found.name, "family") != 0)
            at[0] = at[found.length - 1] = '\'';
}
