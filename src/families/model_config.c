/* SPDX-License-Identifier: MIT */
/* What a config.json says about the connector. Its values are as hostile as a file's header: each is checked for its
 * type and range before it is used. */
#include "families/model_config.h"

#include "core/items.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

/* The value as JSON, safe to print and cut. */
static tn_quoted show(const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const tn_quoted shown = tn_quote(text != NULL ? text : "?");
    free(text);
    return shown;
}

/* "thinker_config." or "": what stands before a key in a message. */
static const char *scope_dot(const tn_model_config *model)
{
    return model->scope[0] != '\0' ? "." : "";
}

static tenon_status fail_value(const tn_model_config *model, const char *key, const json_t *value, const char *expected,
                               tenon_error *error)
{
    return tn_fail(error, TENON_INVALID, "%s: %s%s%s is %s; expected %s", model->source.text, model->scope,
                   scope_dot(model), key, show(value).text, expected);
}

static tenon_status fail_range(const tn_model_config *model, const char *key, const json_t *value, const char *what,
                               double least, double most, tenon_error *error)
{
    char expected[128];
    tn_text text = {expected, sizeof expected, 0};
    tn_text_add(&text, "%s from %.15g to %.15g", what, least, most);
    return fail_value(model, key, value, expected, error);
}

static tenon_status read_int(const tn_model_config *model, const char *key, const json_t *value, double least,
                             double most, int64_t *number, tenon_error *error)
{
    *number = json_integer_value(value);
    if (json_is_integer(value) && (double)*number >= least && (double)*number <= most) return TENON_OK;
    return fail_range(model, key, value, "an integer", least, most, error);
}

/* The value of a key, which may be missing: *number is 0 then. */
static tenon_status find_int(const tn_model_config *model, const char *key, double least, double most, int64_t *number,
                             tenon_error *error)
{
    const json_t *value = tn_model_value(model, key);
    *number = 0;
    return value == NULL ? TENON_OK : read_int(model, key, value, least, most, number, error);
}

static tenon_status read_layers(const tn_model_config *model, const tn_key *s, const json_t *value, tenon_error *error)
{
    size_t i;
    json_t *layer;
    int64_t number;
    if (!json_is_array(value)) return read_int(model, s->key, value, s->least, s->most, &number, error);
    if (json_array_size(value) == 0) return fail_value(model, s->key, value, "at least one layer", error);
    json_array_foreach(value, i, layer)
    {
        TN_TRY(read_int(model, s->key, layer, s->least, s->most, &number, error));
    }
    return TENON_OK;
}

/* [[a, b], [c, d]] -> [a, b, c, d] */
static tenon_status read_pairs(const tn_model_config *model, const tn_key *s, const json_t *value, json_t **option,
                               tenon_error *error)
{
    size_t i, k;
    json_t *pair, *entry, *list = json_array();
    int64_t number;
    tenon_status status = TENON_OK;
    if (!json_is_array(value)) status = fail_value(model, s->key, value, "a list of pairs of integers", error);
    json_array_foreach(value, i, pair)
    {
        if (status == TENON_OK && json_array_size(pair) != 2) {
            status = fail_value(model, s->key, value, "a list of pairs of integers", error);
        }
        json_array_foreach(pair, k, entry)
        {
            if (status == TENON_OK) status = read_int(model, s->key, entry, s->least, s->most, &number, error);
            if (status == TENON_OK) json_array_append_new(list, json_integer(number));
        }
    }
    if (status == TENON_OK) {
        *option = list;
    } else {
        json_decref(list);
    }
    return status;
}

static tenon_status read_choice(const tn_model_config *model, const tn_key *s, const json_t *value, json_t **option,
                                tenon_error *error)
{
    char known[512] = "";
    tn_text text = {known, sizeof known, 0};
    for (const tn_choice *c = s->choices; c->theirs != NULL; c++) {
        if (json_is_string(value) &&
            (strcmp(c->theirs, "*") == 0 || strcmp(json_string_value(value), c->theirs) == 0)) {
            *option = json_loads(c->ours, JSON_DECODE_ANY, NULL);
            return TENON_OK;
        }
        tn_text_add(&text, "%s'%s'", c == s->choices ? "one of " : ", ", c->theirs);
    }
    return fail_value(model, s->key, value, known, error);
}

static tenon_status read_inverse(const tn_model_config *model, const tn_key *s, const json_t *value, json_t **option,
                                 tenon_error *error)
{
    const double ratio = json_number_value(value), inverse = ratio > 0 ? 1 / ratio : 0;
    if (inverse < s->least || inverse > s->most || inverse != floor(inverse)) {
        return fail_value(model, s->key, value, "1 / n of a small integer n, such as 0.5", error);
    }
    *option = json_integer((json_int_t)inverse);
    return TENON_OK;
}

static int64_t integer_root(int64_t n)
{
    int64_t root = 0;
    while ((root + 1) * (root + 1) <= n)
        root++;
    return root;
}

static tenon_status read_window(const tn_model_config *model, const tn_key *s, const json_t *value, json_t **option,
                                tenon_error *error)
{
    int64_t size, patch, count;
    TN_TRY(read_int(model, s->key, value, 1, 1 << 20, &size, error));
    TN_TRY(find_int(model, s->patch, 1, 1 << 20, &patch, error));
    TN_TRY(find_int(model, s->count, 1, 1 << 20, &count, error));
    if (patch == 0) return TENON_OK; /* the class' defaults then */
    const int64_t side = size / patch, tokens = integer_root(count > 0 ? count : 256);
    if (side < tokens) {
        return tn_fail(error, TENON_INVALID,
                       "%s: %s %lld, %s %lld and %s %lld contradict each other: %lld x %lld patches make no %lld x "
                       "%lld tokens",
                       model->source.text, s->key, (long long)size, s->patch, (long long)patch, s->count,
                       (long long)count, (long long)side, (long long)side, (long long)tokens, (long long)tokens);
    }
    *option = json_integer(side / tokens);
    return TENON_OK;
}

/* *option: what the value makes of the option; stays NULL where it makes nothing. */
static tenon_status read_value(const tn_model_config *model, const tn_key *s, const json_t *value, json_t **option,
                               tenon_error *error)
{
    int64_t number;
    switch (s->kind) {
    case TN_KEY_INT:
        TN_TRY(read_int(model, s->key, value, s->least, s->most, &number, error));
        *option = json_integer(number);
        return TENON_OK;
    case TN_KEY_REAL:
        if (!json_is_number(value) || !(json_number_value(value) >= s->least && json_number_value(value) <= s->most)) {
            return fail_range(model, s->key, value, "a number", s->least, s->most, error);
        }
        *option = json_real(json_number_value(value));
        return TENON_OK;
    case TN_KEY_BOOL:
        if (!json_is_boolean(value)) return fail_value(model, s->key, value, "true or false", error);
        *option = json_boolean(json_is_true(value));
        return TENON_OK;
    case TN_KEY_CHOICE:
        return read_choice(model, s, value, option, error);
    case TN_KEY_LENGTH:
        if (!json_is_array(value) || (double)json_array_size(value) > s->most) {
            return fail_range(model, s->key, value, "a list whose length is", s->least, s->most, error);
        }
        *option = json_integer((json_int_t)json_array_size(value));
        return TENON_OK;
    case TN_KEY_LAYERS:
        return read_layers(model, s, value, error);
    case TN_KEY_PAIRS:
        return read_pairs(model, s, value, option, error);
    case TN_KEY_INVERSE:
        return read_inverse(model, s, value, option, error);
    case TN_KEY_WINDOW:
        return read_window(model, s, value, option, error);
    }
    return TENON_OK;
}

/* ---- the connector's config ---- */

static bool is_width(const tn_key *s)
{
    return s->option != NULL && (strcmp(s->option, "in_dim") == 0 || strcmp(s->option, "out_dim") == 0);
}

/* *option: the value of the setting, to be given back; NULL: there is none. */
static tenon_status read_setting(const tn_model_config *model, const tn_key *s, json_t **option, tenon_error *error)
{
    const json_t *value = s->key != NULL ? tn_model_value(model, s->key) : NULL;
    *option = NULL;
    if (value != NULL) TN_TRY(read_value(model, s, value, option, error));
    if (*option == NULL && s->fallback != NULL) *option = json_loads(s->fallback, JSON_DECODE_ANY, NULL);
    return TENON_OK;
}

static tenon_status fill(const tn_model_config *model, json_t *object, tenon_error *error)
{
    json_object_set_new(object, "type", json_string(model->family->connector));
    for (const tn_key *s = model->family->keys; s->option != NULL || s->key != NULL; s++) {
        json_t *option;
        TN_TRY(read_setting(model, s, &option, error));
        if (option == NULL) continue;
        if (s->option == NULL || is_width(s) || json_object_get(object, s->option) != NULL) { /* the first counts */
            json_decref(option);
        } else {
            json_object_set_new(object, s->option, option);
        }
    }
    return TENON_OK;
}

tenon_status tn_model_config_json(const tn_model_config *model, char **json, tenon_error *error)
{
    json_t *object = json_object();
    tenon_status status = fill(model, object, error);
    char *text = status == TENON_OK ? json_dumps(object, 0) : NULL;
    json_decref(object);
    if (status == TENON_OK && text == NULL) {
        status = tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", model->source.text);
    }
    if (status == TENON_OK) *json = text;
    return status;
}

/* ---- widths ---- */

/* The class' default of a key that config.json lacks. */
static const char *find_fallback(const tn_model_config *model, const char *key)
{
    for (const tn_key *s = model->family->keys; s->option != NULL || s->key != NULL; s++) {
        if (s->key != NULL && strcmp(s->key, key) == 0 && s->fallback != NULL) return s->fallback;
    }
    return NULL;
}

/* How many layers a width is multiplied by. */
static int64_t count_layers(const tn_model_config *model, const char *key)
{
    if (key == NULL) return 1;
    const json_t *value = tn_model_value(model, key);
    const char *fallback = find_fallback(model, key);
    json_t *usual = value == NULL && fallback != NULL ? json_loads(fallback, JSON_DECODE_ANY, NULL) : NULL;
    if (usual != NULL) value = usual;
    const int64_t count = json_is_array(value) ? (int64_t)json_array_size(value) : 1;
    json_decref(usual);
    return count;
}

/* What config.json says: *value, and the width that it makes with the layers; 0: nothing. */
static tenon_status read_width(const tn_model_config *model, const tn_key *s, int64_t *value, int64_t *width,
                               tenon_error *error)
{
    TN_TRY(find_int(model, s->key, s->least, s->most, value, error));
    if (__builtin_mul_overflow(*value, count_layers(model, s->times), width)) *width = INT64_MAX;
    return TENON_OK;
}

static tenon_status compare_width(const tn_model_config *model, const tn_key *s, int64_t width, const char *tensor,
                                  int ndim, const int64_t *shape, tenon_error *error)
{
    const int64_t times = count_layers(model, s->times);
    int64_t value, told;
    TN_TRY(read_width(model, s, &value, &told, error));
    if (value == 0 || told == width) return TENON_OK;
    char layers[160] = "";
    tn_text text = {layers, sizeof layers, 0};
    if (times != 1) tn_text_add(&text, " times the %lld layers of %s", (long long)times, s->times);
    return tn_fail(error, TENON_MISMATCH,
                   "%s: %s%s%s is %lld%s, but tensor '%s' of shape %s %s a width of %lld; config and tensors do not "
                   "belong together",
                   model->source.text, model->scope, scope_dot(model), s->key, (long long)value, layers,
                   tn_quote(tensor).text, tn_shape_to_text(ndim, shape).text,
                   strcmp(s->option, "in_dim") == 0 ? "takes" : "makes", (long long)width);
}

/* The next row of a width's option behind `s`, or the first where that is NULL; NULL: there is none. */
static const tn_key *next_width(const tn_model_config *model, const tn_key *s, const char *option)
{
    for (s = s == NULL ? model->family->keys : s + 1; s->option != NULL || s->key != NULL; s++) {
        if (s->option != NULL && strcmp(s->option, option) == 0) return s;
    }
    return NULL;
}

tenon_status tn_model_check_width(const tn_model_config *model, const char *option, int64_t width, const char *tensor,
                                  int ndim, const int64_t *shape, tenon_error *error)
{
    for (const tn_key *s = NULL; (s = next_width(model, s, option)) != NULL;)
        TN_TRY(compare_width(model, s, width, tensor, ndim, shape, error));
    return TENON_OK;
}

tenon_status tn_model_width(const tn_model_config *model, const char *option, int64_t *width, tenon_error *error)
{
    *width = 0;
    for (const tn_key *s = NULL; *width == 0 && (s = next_width(model, s, option)) != NULL;) {
        int64_t value;
        TN_TRY(read_width(model, s, &value, width, error));
    }
    return TENON_OK;
}

/* ---- descriptions ---- */

void tn_model_add_values(tn_text *text, const tn_model_config *model)
{
    tn_items items = {.text = text, .most = 12};
    for (const tn_key *s = model->family->keys; s->option != NULL || s->key != NULL; s++) {
        const json_t *value = s->key != NULL ? tn_model_value(model, s->key) : NULL;
        if (value == NULL) continue;
        tn_items_add(&items, "%s%s%s %s", model->scope, scope_dot(model), s->key, show(value).text);
    }
    tn_items_end(&items);
}

/* Adds the sentence with its keys filled in. */
static void add_rows(tn_text *text, const tn_model_config *model, const json_t *config, const char *rows)
{
    while (*rows != '\0') {
        const size_t plain = strcspn(rows, "{"), length = rows[plain] == '{' ? strcspn(rows + plain, "}") : 0;
        tn_text_add(text, "%.*s", (int)plain, rows);
        rows += plain;
        if (length == 0) continue;
        char key[96];
        tn_text name = {key, sizeof key, 0};
        tn_text_add(&name, "%.*s", (int)length - 1, rows + 1);
        const json_t *value = tn_model_value(model, key);
        if (value == NULL) value = json_object_get(config, key);
        const char *fallback = find_fallback(model, key);
        tn_text_add(text, "%s", value != NULL ? show(value).text : fallback != NULL ? fallback : "?");
        rows += length + 1;
    }
}

char *tn_model_feeding(const tn_model_config *model, const char *json)
{
    enum { capacity = 4096 };
    char *made = malloc(capacity);
    if (made == NULL) return NULL;
    made[0] = '\0';
    tn_text text = {made, capacity, 0};
    json_t *config = json_loads(json, 0, NULL);
    for (const tn_feed *feed = model->family->feeds; feed->input != NULL; feed++) {
        tn_text_add(&text, "%s%s: ", feed == model->family->feeds ? "" : "\n", feed->input);
        add_rows(&text, model, config, feed->rows);
    }
    json_decref(config);
    return made;
}
