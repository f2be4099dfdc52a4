/* SPDX-License-Identifier: MIT */
/* Reads NumPy's npy (numpy.lib.format, "Format Version 1.0 / 2.0 / 3.0"):
 *
 *   bytes 0..5   "\x93NUMPY"
 *   bytes 6, 7   version: major, minor
 *   then         the header's length, little-endian: 2 bytes in version 1, 4 bytes in 2 and 3
 *   then         the header, a Python dict literal of exactly three keys, padded with spaces and a newline:
 *                {'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }
 *   then         the elements, row-major, or column-major where fortran_order says so
 *
 * The literal is parsed by hand, strictly, and never past its end. */
#include "formats/format.h"

#include "core/error.h"
#include "core/size.h"
#include <stdlib.h>
#include <string.h>

/* Headers that NumPy writes take some hundred bytes, and it refuses to read more than 10000 itself unless told to. */
enum { max_header = 1 << 20, magic_size = 8 };

typedef struct parser {
    const char *path;
    const char *text;
    size_t length, at;
    uint64_t base; /* the text's place in the file */
    const char *descr;
    size_t descr_length;
    bool fortran;
    int ndim;
    int64_t shape[TN_MAX_FILE_DIMS];
} parser;

/* ---- the literal ---- */

static tenon_status fail_at(const parser *p, const char *expected, tenon_error *error)
{
    const bool ended = p->at >= p->length;
    return tn_fail(error, TENON_BAD_FILE, "%s: the header at byte %llu: expected %s, found %s%s%s",
                   tn_quote(p->path).text, (unsigned long long)(p->base + p->at), expected, ended ? "its end" : "'",
                   ended ? "" : tn_quote_bytes(p->text + p->at, 1).text, ended ? "" : "'");
}

static char peek(const parser *p)
{
    return p->at < p->length ? p->text[p->at] : 0;
}

static void skip_space(parser *p)
{
    while (p->at < p->length && strchr(" \t\r\n", p->text[p->at]) != NULL && p->text[p->at] != 0)
        p->at++;
}

/* Takes `c` and the space before it. */
static bool take(parser *p, char c)
{
    skip_space(p);
    if (peek(p) != c || p->at >= p->length) return false;
    p->at++;
    return true;
}

static bool take_word(parser *p, const char *word)
{
    skip_space(p);
    const size_t length = strlen(word);
    if (p->length - p->at < length || memcmp(p->text + p->at, word, length) != 0) return false;
    p->at += length;
    return true;
}

static tenon_status take_string(parser *p, const char **start, size_t *length, tenon_error *error)
{
    skip_space(p);
    const char quote = peek(p);
    if (quote != '\'' && quote != '"') return fail_at(p, "a quoted string", error);
    const size_t first = ++p->at;
    while (p->at < p->length && p->text[p->at] != quote) {
        if (p->text[p->at] == '\\' || (unsigned char)p->text[p->at] < 0x20) {
            return fail_at(p, "a plain character or the closing quote", error);
        }
        p->at++;
    }
    if (p->at >= p->length) return fail_at(p, "the closing quote", error);
    *start = p->text + first;
    *length = p->at++ - first;
    return TENON_OK;
}

static tenon_status take_dimension(parser *p, tenon_error *error)
{
    skip_space(p);
    if (peek(p) < '0' || peek(p) > '9') return fail_at(p, "a dimension (a number, not negative) or ')'", error);
    int64_t value = 0;
    const size_t first = p->at;
    while (peek(p) >= '0' && peek(p) <= '9') {
        if (!tn_mul_i64(value, 10, &value) || !tn_add_i64(value, peek(p) - '0', &value)) {
            p->at = first;
            return fail_at(p, "a dimension of at most 63 bits", error);
        }
        p->at++;
    }
    if (peek(p) == 'L') p->at++; /* Python 2 wrote long integers so */
    if (p->ndim == TN_MAX_FILE_DIMS) return fail_at(p, "at most 64 dimensions", error);
    p->shape[p->ndim++] = value;
    return TENON_OK;
}

/* (), (3,), (3, 5), (3, 5,); but (3) is a number in Python. */
static tenon_status take_shape(parser *p, tenon_error *error)
{
    if (!take(p, '(')) return fail_at(p, "the tuple of the shape", error);
    bool comma = true;
    while (!take(p, ')')) {
        if (!comma) return fail_at(p, "',' or ')'", error);
        TN_TRY(take_dimension(p, error));
        comma = take(p, ',');
    }
    if (p->ndim == 1 && !comma) return fail_at(p, "',' before ')' in a shape of one dimension", error);
    return TENON_OK;
}

static tenon_status take_bool(parser *p, bool *value, tenon_error *error)
{
    if (take_word(p, "True")) {
        *value = true;
    } else if (take_word(p, "False")) {
        *value = false;
    } else {
        return fail_at(p, "True or False", error);
    }
    return TENON_OK;
}

static tenon_status take_descr(parser *p, tenon_error *error)
{
    skip_space(p);
    if (peek(p) == '[') {
        return tn_fail(error, TENON_UNSUPPORTED,
                       "%s: holds a structured array (its descr is a list); save its fields one by one",
                       tn_quote(p->path).text);
    }
    return take_string(p, &p->descr, &p->descr_length, error);
}

static bool is_word(const char *start, size_t length, const char *word)
{
    return strlen(word) == length && memcmp(start, word, length) == 0;
}

/* One key and its value; `seen` has a bit for each of the three. */
static tenon_status take_item(parser *p, unsigned *seen, tenon_error *error)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    const char *key = NULL;
    size_t length = 0;
    skip_space(p);
    const size_t at = p->at;
    TN_TRY(take_string(p, &key, &length, error));
    unsigned i = 0;
    while (i < 3 && !is_word(key, length, keys[i]))
        i++;
    if (i == 3 || (*seen & 1u << i) != 0) {
        return tn_fail(error, TENON_BAD_FILE, "%s: the header at byte %llu: %s key '%s'", tn_quote(p->path).text,
                       (unsigned long long)(p->base + at), i == 3 ? "unknown" : "duplicate",
                       tn_quote_bytes(key, length).text);
    }
    *seen |= 1u << i;
    if (!take(p, ':')) return fail_at(p, "':'", error);
    if (i == 0) return take_descr(p, error);
    return i == 1 ? take_bool(p, &p->fortran, error) : take_shape(p, error);
}

static tenon_status parse_literal(parser *p, tenon_error *error)
{
    unsigned seen = 0;
    if (!take(p, '{')) return fail_at(p, "'{'", error);
    bool comma = true;
    while (!take(p, '}')) {
        if (!comma) return fail_at(p, "',' or '}'", error);
        TN_TRY(take_item(p, &seen, error));
        comma = take(p, ',');
    }
    if (seen != 7) {
        return tn_fail(error, TENON_BAD_FILE, "%s: the header lacks%s%s%s", tn_quote(p->path).text,
                       seen & 1 ? "" : " 'descr'", seen & 2 ? "" : " 'fortran_order'", seen & 4 ? "" : " 'shape'");
    }
    skip_space(p);
    if (p->at < p->length) return fail_at(p, "nothing but spaces after '}'", error);
    return TENON_OK;
}

/* ---- the array ---- */

/* What numpy.dtype takes for our types beside "f4" and its kin: letters, which may have a byte order before them, and
 * names, which may not. Types whose size depends on the machine ("l", "int") are left out. */
static const struct {
    const char *letter, *name, *type;
} other_names[] = {
    {"e", "float16", "f2"}, {"e", "half", "f2"},   {"f", "float32", "f4"}, {"f", "single", "f4"},
    {"d", "float64", "f8"}, {"d", "double", "f8"}, {"d", "float", "f8"},   {"?", "bool", "b1"},
    {"b", "int8", "i1"},    {"B", "uint8", "u1"},  {"h", "int16", "i2"},   {"H", "uint16", "u2"},
    {"i", "int32", "i4"},   {"I", "uint32", "u4"}, {"q", "int64", "i8"},   {"Q", "uint64", "u8"},
};

/* The type without its byte order, in the spelling of the table of encodings. */
static void spell_type(const char **type, size_t *length, bool has_order)
{
    for (size_t i = 0; i < sizeof other_names / sizeof other_names[0]; i++) {
        if (!is_word(*type, *length, other_names[i].letter) &&
            (has_order || !is_word(*type, *length, other_names[i].name)))
            continue;
        *type = other_names[i].type;
        *length = strlen(*type);
        return;
    }
}

static tenon_status fail_type(const parser *p, const char *type, size_t length, tenon_error *error)
{
    const tn_quoted path = tn_quote(p->path), descr = tn_quote_bytes(p->descr, p->descr_length);
    if (is_word(type, length, "O") || is_word(type, length, "object")) {
        return tn_fail(error, TENON_UNSUPPORTED,
                       "%s: holds pickled Python objects (type '%s'), which can run any code when they are loaded, so "
                       "tenon does not; save a plain array of numbers where it was made",
                       path.text, descr.text);
    }
    return tn_fail(error, TENON_UNSUPPORTED, "%s: holds elements of type '%s'; %s", path.text, descr.text,
                   is_word(type, length, "V2") ? "if that is bfloat16, read it with `npy_bfloat16`"
                                               : "tenon reads f2, f4, f8, i1 to i8, u1 to u8 and b1");
}

/* "<f4": byte order, then type; without an order, or with '=' or '|', it is the machine's. */
static tenon_status find_encoding(const parser *p, bool npy_bfloat16, const tn_encoding **encoding, bool *swapped,
                                  tenon_error *error)
{
    const bool has_order = p->descr_length > 0 && strchr("<>=|", p->descr[0]) != NULL;
    const char order = has_order ? p->descr[0] : '=';
    const char *type = p->descr + has_order;
    size_t length = p->descr_length - has_order;
    spell_type(&type, &length, has_order);
    const tn_encoding *found = tn_encoding_of_npy(type, length);
    if (npy_bfloat16 && (is_word(type, length, "u2") || is_word(type, length, "V2"))) found = &tn_encoding_npy_bfloat16;
    if (found == NULL) return fail_type(p, type, length, error);
    *encoding = found;
    *swapped = tn_stored_size(found) > 1 &&
               ((order == '<' && tn_host_is_big_endian()) || (order == '>' && !tn_host_is_big_endian()));
    return TENON_OK;
}

/* Column-major and row-major are the same bytes when at most one dimension is larger than 1, or one is 0. */
static bool order_matters(const parser *p)
{
    int larger = 0;
    for (int i = 0; i < p->ndim; i++) {
        if (p->shape[i] == 0) return false;
        larger += p->shape[i] > 1;
    }
    return larger > 1;
}

static tenon_status check_data(const parser *p, const tn_encoding *encoding, uint64_t rest, size_t *bytes,
                               tenon_error *error)
{
    const tn_quoted path = tn_quote(p->path), descr = tn_quote_bytes(p->descr, p->descr_length);
    const tn_shape_text shape = tn_shape_to_text(p->ndim, p->shape);
    if (!tn_shape_bytes(p->ndim, p->shape, tn_stored_size(encoding), bytes)) {
        return tn_fail(error, TENON_BAD_FILE, "%s: header says shape %s of %s, which is past what 64 bits can count",
                       path.text, shape.text, descr.text);
    }
    if (*bytes != rest) {
        return tn_fail(error, TENON_BAD_FILE,
                       "%s: header says shape %s of %s = %zu bytes but %llu bytes of data follow; %s", path.text,
                       shape.text, descr.text, *bytes, (unsigned long long)rest,
                       rest < *bytes ? "the file is truncated" : "the file is too long");
    }
    return TENON_OK;
}

static tenon_status add_array(tenon_file *file, const tn_input *input, const parser *p, tenon_error *error)
{
    const tn_encoding *encoding = NULL;
    bool swapped = false;
    size_t bytes = 0;
    const uint64_t start = p->base + p->length;
    TN_TRY(find_encoding(p, file->npy_bfloat16, &encoding, &swapped, error));
    TN_TRY(check_data(p, encoding, tn_input_size(input) - start, &bytes, error));
    tn_entry *entry = NULL;
    TN_TRY(tn_file_add_entry(file, "", p->descr, p->descr_length, p->ndim, &entry, error));
    memcpy(entry->shape, p->shape, (size_t)p->ndim * sizeof *entry->shape);
    entry->encoding = encoding;
    entry->swapped = swapped;
    entry->is_column_major = p->fortran && order_matters(p);
    entry->input = input;
    entry->offset = start;
    return TENON_OK;
}

/* Where the header begins and how long it is. */
static tenon_status read_length(const tn_input *input, uint64_t *base, size_t *length, tenon_error *error)
{
    const tn_quoted path = tn_quote(tn_input_path(input));
    unsigned char start[magic_size + 4] = {0};
    const uint64_t size = tn_input_size(input);
    TN_TRY(tn_input_read(input, 0, start, size < sizeof start ? (size_t)size : sizeof start, error));
    const int major = start[6], minor = start[7];
    if (size >= magic_size && (major < 1 || major > 3 || minor != 0)) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: is npy version %d.%d; tenon reads 1.0, 2.0 and 3.0", path.text,
                       major, minor);
    }
    const uint64_t begin = magic_size + (major == 1 ? 2u : 4u);
    if (size < begin) {
        return tn_fail(error, TENON_BAD_FILE,
                       "%s: is %llu bytes long, less than the start of an npy file; it is "
                       "truncated",
                       path.text, (unsigned long long)size);
    }
    uint32_t announced = start[8] | (uint32_t)start[9] << 8;
    if (major > 1) announced |= (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
    if (announced > size - begin) {
        return tn_fail(error, TENON_BAD_FILE,
                       "%s: byte 8 announces a header of %lu bytes, but %llu follow; the file is truncated", path.text,
                       (unsigned long)announced, (unsigned long long)(size - begin));
    }
    if (announced > max_header) {
        return tn_fail(error, TENON_BAD_FILE, "%s: the header is %lu bytes long; at most %d are read", path.text,
                       (unsigned long)announced, max_header);
    }
    *base = begin;
    *length = announced;
    return TENON_OK;
}

tenon_status tn_npy_open(tenon_file *file, const tn_input *input, tenon_error *error)
{
    file->kind = "npy";
    parser p = {.path = tn_input_path(input)};
    TN_TRY(read_length(input, &p.base, &p.length, error));
    char *text = NULL;
    TN_TRY(tn_read_header(input, p.base, p.length, &text, error));
    p.text = text;
    tenon_status status = parse_literal(&p, error);
    if (status == TENON_OK) status = add_array(file, input, &p, error);
    free(text);
    return status;
}
