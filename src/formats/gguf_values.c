/* SPDX-License-Identifier: MIT */
/* The keys and values of a GGUF header. Each becomes a text in the file's metadata: what a program asks for (a width,
 * an epsilon, a name) is short; the vocabulary of a language model, which is not, is passed over without being kept. */
#include "formats/gguf.h"

#include "core/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    type_string = 8,
    type_array = 9,
    num_types = 13,
    longest_array = 512, /* elements that are shown one by one */
    longest_text = 1 << 20,
    deepest = 4 /* arrays of arrays of ...; ggml reads none at all */
};

/* Bytes of a value, at least; what the message about a value of that type calls it. */
static const struct {
    const char *name, *several;
    int bytes;
} types[num_types] = {{"u8", "u8", 1},          {"i8", "i8", 1},         {"u16", "u16", 2}, {"i16", "i16", 2},
                      {"u32", "u32", 4},        {"i32", "i32", 4},       {"f32", "f32", 4}, {"bool", "bools", 1},
                      {"string", "strings", 8}, {"array", "arrays", 12}, {"u64", "u64", 8}, {"i64", "i64", 8},
                      {"f64", "f64", 8}};

enum { u8, i8, u16, i16, u32, i32, f32, boolean, u64 = 10, i64, f64 };

typedef struct value_reader {
    tn_gguf *g;
    const char *key; /* printable */
} value_reader;

static tenon_status fail_value(const value_reader *r, const char *what, uint64_t found, tenon_error *error)
{
    return tn_fail(error, TENON_BAD_FILE, "%s: GGUF metadata '%s', before byte %llu: %s: %llu",
                   tn_quote(tn_input_path(r->g->input)).text, r->key, (unsigned long long)r->g->at, what,
                   (unsigned long long)found);
}

static tenon_status take_type(const value_reader *r, uint32_t *type, tenon_error *error)
{
    TN_TRY(tn_gguf_take_u32(r->g, type, "the type of a value", error));
    if (*type < num_types) return TENON_OK;
    return fail_value(r, "GGUF has no type of values of this number", *type, error);
}

/* ---- numbers ---- */

/* The shortest decimal that is this number again, with a point or an exponent, as JSON has it in any locale. */
static void add_real(tn_text *text, double value, bool is_f32)
{
    char digits[40];
    const int most = is_f32 ? 9 : 17;
    for (int n = 1; n <= most; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, value);
        if (is_f32 ? strtof(digits, NULL) == (float)value : strtod(digits, NULL) == value) break;
    }
    const size_t plain = strspn(digits, "-0123456789");
    const bool is_whole = digits[plain] == 0;
    if (!is_whole && strchr("einf", digits[plain]) == NULL) digits[plain] = '.';
    tn_text_add(text, "%s%s", digits, is_whole ? ".0" : "");
}

/* The number as JSON writes it; `bits` are its bytes, little-endian. */
static tenon_status add_number(const value_reader *r, tn_text *text, uint32_t type, uint64_t bits, tenon_error *error)
{
    float single;
    double wide;
    const uint32_t low = (uint32_t)bits;
    memcpy(&single, &low, sizeof single);
    memcpy(&wide, &bits, sizeof wide);
    switch (type) {
    case boolean:
        if (bits > 1) return fail_value(r, "a bool is 0 or 1, found", bits, error);
        tn_text_add(text, bits != 0 ? "true" : "false");
        return TENON_OK;
    case f32:
        add_real(text, (double)single, true);
        return TENON_OK;
    case f64:
        add_real(text, wide, false);
        return TENON_OK;
    case i8:
    case i16:
    case i32:
    case i64: {
        const int unused = 64 - 8 * types[type].bytes;
        tn_text_add(text, "%lld", (long long)((int64_t)(bits << unused) >> unused));
        return TENON_OK;
    }
    default:
        tn_text_add(text, "%llu", (unsigned long long)bits);
        return TENON_OK;
    }
}

static tenon_status take_number(const value_reader *r, tn_text *text, uint32_t type, tenon_error *error)
{
    unsigned char bytes[8] = {0};
    TN_TRY(tn_gguf_take(r->g, bytes, (size_t)types[type].bytes, "a value", error));
    uint64_t bits = 0;
    for (int i = 7; i >= 0; i--)
        bits = bits << 8 | bytes[i];
    return add_number(r, text, type, bits, error);
}

/* ---- arrays ---- */

/* Passes over `count` elements; those of strings and arrays one by one. */
static tenon_status skip_elements(const value_reader *r, uint32_t type, uint64_t count, int depth, tenon_error *error)
{
    if (type != type_string && type != type_array) {
        return tn_gguf_skip(r->g, count * (uint64_t)types[type].bytes, "an array", error);
    }
    if (depth == deepest) return fail_value(r, "arrays lie inside one another deeper than", deepest, error);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t inner;
        uint32_t inner_type = u8;
        if (type == type_array) TN_TRY(take_type(r, &inner_type, error));
        TN_TRY(tn_gguf_take_count(r->g, &inner, (uint64_t)types[inner_type].bytes, "the length of an element", error));
        TN_TRY(skip_elements(r, inner_type, inner, depth + 1, error));
    }
    return TENON_OK;
}

static tenon_status take_array(const value_reader *r, tn_text *text, tenon_error *error)
{
    uint32_t type;
    uint64_t count;
    TN_TRY(take_type(r, &type, error));
    TN_TRY(tn_gguf_take_count(r->g, &count, (uint64_t)types[type].bytes, "the length of an array", error));
    if (type == type_string || type == type_array || count > longest_array) {
        tn_text_add(text, "[%llu %s]", (unsigned long long)count, types[type].several);
        return skip_elements(r, type, count, 0, error);
    }
    tn_text_add(text, "[");
    for (uint64_t i = 0; i < count; i++) {
        if (i > 0) tn_text_add(text, ", ");
        TN_TRY(take_number(r, text, type, error));
    }
    tn_text_add(text, "]");
    return TENON_OK;
}

/* ---- the whole ---- */

static tenon_status keep(tenon_file *file, const char *key, const char *text, tenon_error *error)
{
    if (json_object_set_new(file->metadata, key, json_string(text)) == 0) return TENON_OK;
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for its metadata", tn_quote(file->path).text);
}

static tenon_status read_string(tenon_file *file, const value_reader *r, const char *key, tenon_error *error)
{
    uint64_t length;
    TN_TRY(tn_gguf_take_count(r->g, &length, 1, "the length of a string", error));
    if (length > longest_text) {
        char shown[64];
        snprintf(shown, sizeof shown, "[a string of %llu bytes]", (unsigned long long)length);
        TN_TRY(tn_gguf_skip(r->g, length, "a string", error));
        return keep(file, key, shown, error);
    }
    char *text = NULL;
    TN_TRY(tn_gguf_take_text(r->g, &text, (size_t)length, "a string of the metadata", error));
    const tenon_status status = keep(file, key, text, error);
    free(text);
    return status;
}

static tenon_status read_value(tenon_file *file, const value_reader *r, const char *key, tenon_error *error)
{
    char room[longest_array * 28 + 64];
    tn_text text = {room, sizeof room, 0};
    uint32_t type;
    room[0] = 0;
    if (key[0] == 0) return fail_value(r, "a key is empty; its length is", 0, error);
    if (json_object_get(file->metadata, key) != NULL) {
        return tn_fail(error, TENON_BAD_FILE, "%s: duplicate GGUF metadata '%s', before byte %llu",
                       tn_quote(tn_input_path(r->g->input)).text, r->key, (unsigned long long)r->g->at);
    }
    TN_TRY(take_type(r, &type, error));
    if (strcmp(key, TN_GGUF_ALIGNMENT_KEY) == 0 && type != u32) {
        return fail_value(r, "it is a u32, which has type number 4, found type number", type, error);
    }
    if (type == type_string) return read_string(file, r, key, error);
    TN_TRY(type == type_array ? take_array(r, &text, error) : take_number(r, &text, type, error));
    return keep(file, key, room, error);
}

tenon_status tn_gguf_read_values(tenon_file *file, tn_gguf *g, uint64_t count, tenon_error *error)
{
    file->metadata = json_object();
    if (file->metadata == NULL) return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(file->path).text);
    for (uint64_t i = 0; i < count; i++) {
        char *key = NULL;
        TN_TRY(tn_gguf_take_name(g, &key, "a key of the metadata", error));
        const tn_quoted shown = tn_quote(key);
        const tenon_status status = read_value(file, &(value_reader){g, shown.text}, key, error);
        free(key);
        if (status != TENON_OK) return status;
    }
    return TENON_OK;
}
