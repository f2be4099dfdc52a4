/* SPDX-License-Identifier: MIT */
/* Which family a config.json is of. */
#include "families/model_config.h"

#include "core/items.h"
#include "formats/format.h"
#include <stdlib.h>
#include <string.h>

/* The value at a dotted key; NULL: missing or null. */
static const json_t *find(const json_t *at, const char *key)
{
    while (at != NULL && *key != '\0') {
        char part[64];
        tn_text text = {part, sizeof part, 0};
        const size_t length = strcspn(key, ".");
        tn_text_add(&text, "%.*s", (int)length, key);
        at = json_object_get(at, part);
        key += length + (key[length] == '.');
    }
    return json_is_null(at) ? NULL : at;
}

const json_t *tn_model_value(const tn_model_config *model, const char *key)
{
    return find(find(model->root, model->scope), key);
}

/* ---- marks ---- */

static bool has_string(const json_t *value, const char *text)
{
    size_t i;
    json_t *item;
    if (json_is_string(value)) return strcmp(json_string_value(value), text) == 0;
    json_array_foreach(value, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), text) == 0) return true;
    }
    return false;
}

static bool matches(const tn_mark *mark, const json_t *root)
{
    const json_t *type = find(root, "model_type");
    if (type == NULL || !has_string(type, mark->model_type)) return false;
    return mark->key == NULL || has_string(find(root, mark->key), mark->value);
}

static const tn_mark *find_mark(const tn_family *family, const json_t *root)
{
    for (const tn_mark *mark = family->marks; mark->model_type != NULL; mark++) {
        if (matches(mark, root)) return mark;
    }
    return NULL;
}

/* ---- what is no family ---- */

/* The name of a family, or a model_type of one, that is nearest. */
static const char *find_nearest(const char *type)
{
    enum { most = 256 };
    const char *known[most];
    size_t count = 0;
    for (size_t f = 0; f < tn_num_families(); f++) {
        for (const tn_mark *mark = tn_families[f]->marks; mark->model_type != NULL && count < most; mark++)
            known[count++] = mark->model_type;
    }
    return tenon_nearest_name(type, known, count);
}

/* Has the config a key about images? */
static bool is_multimodal(json_t *root)
{
    static const char *const words[] = {"vision", "visual", "image", "img", "vit_", "mm_", "thinker"};
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            if (strstr(key, words[i]) != NULL && !json_is_null(value)) return true;
        }
    }
    return false;
}

static void add_families(tn_text *text)
{
    tn_items items = {.text = text, .most = 100};
    for (size_t f = 0; f < tn_num_families(); f++)
        tn_items_add(&items, "%s", tn_families[f]->name);
    tn_items_end(&items);
}

static tenon_status fail_unknown(const tn_model_config *model, tenon_error *error)
{
    char list[1500] = "";
    tn_text text = {list, sizeof list, 0};
    const json_t *type = find(model->root, "model_type");
    add_families(&text);
    if (!json_is_string(type)) {
        return tn_fail(error, TENON_NOT_FOUND,
                       "%s: 'model_type' is %s, so the model's family is not known; give it with `family` (%s), or "
                       "describe the connector with `config`",
                       model->source.text, type == NULL ? "missing" : "not a string", list);
    }
    const tn_quoted shown = tn_quote(json_string_value(type));
    if (!is_multimodal(model->root)) {
        return tn_fail(error, TENON_NOT_FOUND,
                       "%s: model_type '%s' without a vision encoder (no 'vision_config'): a model for text alone has "
                       "no connector",
                       model->source.text, shown.text);
    }
    const char *nearest = find_nearest(json_string_value(type));
    return tn_fail(error, TENON_NOT_FOUND,
                   "%s: model_type '%s' is of no family that is known%s%s%s; name one that has the same connector with "
                   "`family` (%s), or describe the connector with `config`",
                   model->source.text, shown.text, nearest != NULL ? " (nearest: '" : "",
                   nearest != NULL ? nearest : "", nearest != NULL ? "')" : "", list);
}

/* Python writes NaN and Infinity, which JSON does not have; here they become 0: no key of a connector has them. `text`
 * is the caller's to change. */
static void blank_constants(char *text)
{
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    bool inside = false;
    for (char *c = text; *c != '\0'; c++) {
        if (inside && *c == '\\' && c[1] != '\0') {
            c++;
            continue;
        }
        if (*c == '"') inside = !inside;
        for (size_t w = 0; w < sizeof words / sizeof words[0] && !inside; w++) {
            const size_t length = strlen(words[w]);
            if (strncmp(c, words[w], length) != 0) continue;
            memset(c, ' ', length);
            *c = '0';
            break;
        }
    }
}

static tenon_status take_family(tn_model_config *model, const char *name, tenon_error *error)
{
    char list[1500] = "";
    tn_text text = {list, sizeof list, 0};
    model->family = tn_family_find(name);
    if (model->family == NULL) {
        add_families(&text);
        return tn_fail(error, TENON_NOT_FOUND, "`family` '%s' is unknown; the families are %s", tn_quote(name).text,
                       list);
    }
    const tn_mark *mark = find_mark(model->family, model->root);
    model->scope = mark != NULL ? mark->scope : "";
    return TENON_OK;
}

static tenon_status recognise(tn_model_config *model, tenon_error *error)
{
    for (size_t f = 0; f < tn_num_families(); f++) {
        const tn_mark *mark = find_mark(tn_families[f], model->root);
        if (mark == NULL) continue;
        model->family = tn_families[f];
        model->scope = mark->scope;
        return TENON_OK;
    }
    return fail_unknown(model, error);
}

tenon_status tn_model_config_parse(tn_model_config *model, const char *source, const char *text, size_t length,
                                   const char *family, tenon_error *error)
{
    *model = (tn_model_config){.scope = "", .source = tn_quote(source)};
    if (text == NULL) {
        text = "{}";
        length = 2;
    }
    char *copy = strndup(text, length);
    if (copy == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", model->source.text);
    blank_constants(copy);
    const tenon_status parsed = tn_json_parse(source, "the model's config", copy, strlen(copy), 0, &model->root, error);
    free(copy);
    if (parsed != TENON_OK) return parsed;
    const tenon_status status = family != NULL ? take_family(model, family, error) : recognise(model, error);
    if (status != TENON_OK) tn_model_config_close(model);
    return status;
}

void tn_model_config_close(tn_model_config *model)
{
    json_decref(model->root);
    model->root = NULL;
    model->family = NULL;
}

bool tn_is_model_config(const char *text, size_t length)
{
    json_t *root = json_loadb(text, length, 0, NULL);
    const bool is = json_object_get(root, "model_type") != NULL || json_object_get(root, "architectures") != NULL;
    json_decref(root);
    return is;
}
