/* SPDX-License-Identifier: MIT */
/* The header of an mmproj file as the config.json that the tables of families are read with. */
#include "families/gguf.h"

#include "core/error.h"
#include "core/items.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define TYPE_KEY "clip.projector_type"
#define VISION_TYPE_KEY "clip.vision.projector_type"

typedef struct gguf {
    const tenon_file *file;
    tn_quoted source;
    json_t *root;
} gguf;

static bool has_tensor(const gguf *g, const char *name)
{
    int64_t index;
    return tenon_file_find_tensor(g->file, name, &index, NULL) == TENON_OK;
}

/* ---- what is no projector that is known ---- */

/* The projector types that the tables have. */
static void add_types(tn_text *text)
{
    tn_items items = {.text = text, .most = 100};
    for (size_t f = 0; f < tn_num_families(); f++) {
        if (tn_is_gguf(tn_families[f])) tn_items_add(&items, "%s", tn_families[f]->marks->value);
    }
    tn_items_end(&items);
}

static bool is_known(const char *type)
{
    for (size_t f = 0; f < tn_num_families(); f++) {
        if (tn_is_gguf(tn_families[f]) && strcmp(tn_families[f]->marks->value, type) == 0) return true;
    }
    return false;
}

static tenon_status fail_no_projector(const gguf *g, tenon_error *error)
{
    const char *architecture = tenon_file_metadata(g->file, "general.architecture");
    if (architecture != NULL && strcmp(architecture, "clip") != 0) {
        return tn_fail(error, TENON_NOT_FOUND,
                       "%s: is a GGUF file of architecture '%s', not the mmproj file that holds a vision connector; "
                       "name the mmproj file of the model",
                       g->source.text, tn_quote(architecture).text);
    }
    return tn_fail(error, TENON_NOT_FOUND,
                   "%s: is a GGUF file without '" TYPE_KEY "' and without the tensors of a projector (mm.*); describe "
                   "the connector with `config`",
                   g->source.text);
}

static tenon_status check_type(const gguf *g, const char *type, tenon_error *error)
{
    char list[800] = "";
    tn_text text = {list, sizeof list, 0};
    if (is_known(type)) return TENON_OK;
    add_types(&text);
    return tn_fail(error, TENON_NOT_FOUND,
                   "%s: its projector type '%s' is none that this version knows (%s); describe the connector with "
                   "`config`",
                   g->source.text, tn_quote(type).text, list);
}

/* ---- the config ---- */

/* Sets a dotted key in nested objects. A key that runs into another one's value is left out: no table asks for it. */
static bool set_nested(json_t *at, const char *key, json_t *value)
{
    for (size_t length; key[length = strcspn(key, ".")] == '.'; key += length + 1) {
        char part[64];
        tn_text text = {part, sizeof part, 0};
        if (length >= sizeof part || !json_is_object(at)) {
            json_decref(value);
            return true;
        }
        tn_text_add(&text, "%.*s", (int)length, key);
        if (json_object_get(at, part) == NULL && json_object_set_new(at, part, json_object()) != 0) {
            json_decref(value);
            return false;
        }
        at = json_object_get(at, part);
    }
    if (!json_is_object(at)) {
        json_decref(value);
        return true;
    }
    return json_object_set_new(at, key, value) == 0;
}

static json_t *value_of(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    return value != NULL ? value : json_string(text);
}

static tenon_status fill(const gguf *g, const char *type, tenon_error *error)
{
    bool good = set_nested(g->root, "model_type", json_string(TN_GGUF_MODEL));
    const char *key;
    for (int64_t i = 0; good && (key = tenon_file_metadata_key(g->file, i)) != NULL; i++) {
        if (strncmp(key, "clip.", 5) == 0) good = set_nested(g->root, key, value_of(tenon_file_metadata(g->file, key)));
    }
    if (good) good = set_nested(g->root, TYPE_KEY, json_string(type));
    if (good) good = set_nested(g->root, "class_rows", json_integer(has_tensor(g, "v.class_embd")));
    return good ? TENON_OK : tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", g->source.text);
}

/* Files of before the key hold LLaVA's two layers. */
static tenon_status find_type(const gguf *g, const char **type, tenon_error *error)
{
    *type = tenon_file_metadata(g->file, VISION_TYPE_KEY);
    if (*type == NULL) *type = tenon_file_metadata(g->file, TYPE_KEY);
    if (*type == NULL && has_tensor(g, "mm.0.weight") && has_tensor(g, "mm.2.weight")) *type = "mlp";
    return *type == NULL ? fail_no_projector(g, error) : check_type(g, *type, error);
}

tenon_status tn_gguf_config(const tenon_file *file, const char *source, char **json, tenon_error *error)
{
    gguf g = {.file = file, .source = tn_quote(source)};
    const char *type;
    TN_TRY(find_type(&g, &type, error));
    g.root = json_object();
    tenon_status status =
        g.root != NULL ? fill(&g, type, error) : tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", g.source.text);
    if (status == TENON_OK && (*json = json_dumps(g.root, 0)) == NULL) {
        status = tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", g.source.text);
    }
    json_decref(g.root);
    return status;
}
