/* SPDX-License-Identifier: MIT */
/* GGUF: what is read, and hostile headers: counts, lengths, types, nesting, alignment, places, duplicates. */
#include "scratch.h"
#include <stdio.h>
#include <stdlib.h>

static const DLDataType f32 = {kDLFloat, 32, 1};

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, TYPE_F32 = 0, TYPE_Q8_0 = 8 };

/* ---- a file under construction ---- */

typedef struct maker {
    unsigned char bytes[1 << 16];
    size_t size;
} maker;

static void put(maker *m, const void *data, size_t size)
{
    memcpy(m->bytes + m->size, data, size);
    m->size += size;
}

static void put_number(maker *m, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        m->bytes[m->size++] = (unsigned char)(value >> 8 * i);
}

static void put_string(maker *m, const char *text)
{
    put_number(m, strlen(text), 8);
    put(m, text, strlen(text));
}

static maker *start(uint32_t version, uint64_t tensors, uint64_t keys)
{
    static maker m;
    memset(&m, 0, sizeof m);
    put(&m, "GGUF", 4);
    put_number(&m, version, 4);
    put_number(&m, tensors, 8);
    put_number(&m, keys, 8);
    return &m;
}

static void put_key(maker *m, const char *key, uint32_t type)
{
    put_string(m, key);
    put_number(m, type, 4);
}

/* The dimensions in ggml's order; a negative one ends them. */
static void put_tensor(maker *m, const char *name, uint32_t type, uint64_t offset, int ndim, const uint64_t *dims)
{
    put_string(m, name);
    put_number(m, (uint64_t)ndim, 4);
    for (int i = 0; i < ndim; i++)
        put_number(m, dims[i], 8);
    put_number(m, type, 4);
    put_number(m, offset, 8);
}

static void put_padding(maker *m, size_t alignment)
{
    while (m->size % alignment != 0)
        m->bytes[m->size++] = 0;
}

static const char *finish(const maker *m)
{
    return scratch_write("x.gguf", m->bytes, m->size);
}

/* A file of one F32 tensor `w` of these dimensions at this offset, with 64 bytes of data. */
static const char *one_tensor(uint32_t type, uint64_t offset, int ndim, const uint64_t *dims)
{
    maker *m = start(3, 1, 0);
    put_tensor(m, "w", type, offset, ndim, dims);
    put_padding(m, 32);
    m->size += 64;
    return finish(m);
}

#define DIMS(...) (sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), ((uint64_t[]){__VA_ARGS__})

/* ---- reading ---- */

static void reads_both_versions(void **state)
{
    (void)state;
    const float six[6] = {1, -2, 3.5f, 0, 1e-30f, 6};
    for (uint32_t version = 1; version <= 4; version++) {
        maker *m = start(version, 2, 1);
        put_key(m, "clip.projector_type", STRING);
        put_string(m, "mlp");
        put_tensor(m, "mm.0.weight", TYPE_F32, 0, DIMS(3, 2)); /* two rows of three */
        put_tensor(m, "mm.0.bias", TYPE_F32, 32, DIMS(2));
        put_padding(m, 32);
        put(m, six, sizeof six);
        put_padding(m, 32);
        put(m, six + 4, 8);
        if (version == 1 || version == 4) {
            expect_refused(finish(m), TENON_UNSUPPORTED, "is GGUF version", "tenon reads 2 and 3", NULL);
            continue;
        }
        tenon_file *file = open_file(finish(m), NULL);
        assert_string_equal(tenon_file_kind(file), "GGUF");
        assert_string_equal(tenon_file_metadata(file, "clip.projector_type"), "mlp");
        expect_tensor(file, "mm.0.weight", f32, 2, (int64_t[]){2, 3}, six, sizeof six);
        expect_tensor(file, "mm.0.bias", f32, 1, (int64_t[]){2}, six + 4, 8);
        tenon_file_close(file);
    }
}

static void refuses_other_files(void **state)
{
    (void)state;
    maker *m = start(0x03000000, 0, 0);
    expect_refused(finish(m), TENON_UNSUPPORTED, "big-endian GGUF", NULL);
    m = start(3, 0, 2);
    put_key(m, "split.no", U16);
    put_number(m, 1, 2);
    put_key(m, "split.count", U16);
    put_number(m, 3, 2);
    expect_refused(finish(m), TENON_UNSUPPORTED, "part 2 of 3 of a split GGUF file", "llama-gguf-split --merge", NULL);
}

/* Elements of a vector in blocks, from any place. */
static void reads_parts_of_blocks(void **state)
{
    (void)state;
    enum { blocks = 300, count = 32 * blocks };
    static float expected[count], got[count];
    maker *m = start(3, 1, 0);
    put_tensor(m, "v", TYPE_Q8_0, 0, DIMS(count));
    put_padding(m, 32);
    for (int b = 0; b < blocks; b++) {
        put_number(m, 0x3800, 2); /* 0.5 */
        for (int i = 0; i < 32; i++) {
            put_number(m, (uint64_t)(b * 7 + i), 1);
            expected[b * 32 + i] = 0.5f * (float)(int8_t)(b * 7 + i);
        }
    }
    tenon_file *file = open_file(finish(m), NULL);
    for (int first = 0; first < count; first += 1 + first / 3) {
        for (int n = 1; first + n <= count; n = 5 * n + 1) {
            memset(got, 0xee, sizeof got);
            assert_int_equal(tenon_file_read(file, 0, first, n, got, (size_t)n * 4, NULL), TENON_OK);
            assert_memory_equal(got, expected + first, (size_t)n * 4);
            if (n < count) assert_memory_equal(got + n, "\xee\xee\xee\xee", 4);
        }
    }
    tenon_file_close(file);
}

/* Types without a decoder are listed and named when they are asked for. */
static void names_what_it_does_not_read(void **state)
{
    (void)state;
    static const struct {
        uint32_t number;
        const char *name;
        size_t bytes; /* of 256 elements */
    } types[] = {{9, "Q8_1", 288},    {15, "Q8_K", 292},   {16, "IQ2_XXS", 66}, {17, "IQ2_XS", 74},
                 {18, "IQ3_XXS", 98}, {19, "IQ1_S", 50},   {20, "IQ4_NL", 144}, {21, "IQ3_S", 110},
                 {22, "IQ2_S", 82},   {23, "IQ4_XS", 136}, {29, "IQ1_M", 56},   {34, "TQ1_0", 54},
                 {35, "TQ2_0", 66},   {39, "MXFP4", 136},  {40, "NVFP4", 144},  {41, "Q1_0", 36}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        maker *m = start(3, 1, 0);
        put_tensor(m, "w", types[i].number, 0, DIMS(256));
        put_padding(m, 32);
        m->size += types[i].bytes;
        tenon_file *file = open_file(finish(m), NULL);
        tenon_error error;
        float data[256];
        assert_int_equal(tenon_file_read(file, 0, 0, 1, data, sizeof data, &error), TENON_UNSUPPORTED);
        expect_message(&error, "'w' is stored as", types[i].name, "tenon does not read", NULL);
        tenon_file_close(file);
        m->size--;
        expect_refused(finish(m), TENON_BAD_FILE, "truncated", NULL);
    }
    static const uint32_t unknown[] = {4, 5, 31, 33, 38, 42, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        expect_refused(one_tensor(unknown[i], 0, DIMS(4)), TENON_BAD_FILE, "'w'", "type number", NULL);
}

/* ---- hostile headers ---- */

/* Cut anywhere, a file is refused and says where. */
static void refuses_truncation(void **state)
{
    (void)state;
    maker *m = start(3, 1, 3);
    put_key(m, "a", STRING);
    put_string(m, "text");
    put_key(m, "b", ARRAY);
    put_number(m, STRING, 4);
    put_number(m, 1, 8);
    put_string(m, "x");
    put_key(m, "c", U32);
    put_number(m, 5, 4);
    put_tensor(m, "w", TYPE_F32, 0, DIMS(2));
    put_padding(m, 32);
    m->size += 8;
    tenon_file_close(open_file(finish(m), NULL));
    for (size_t size = m->size; size-- > 4;) {
        m->size = size;
        expect_refused(finish(m), TENON_BAD_FILE, "truncated", NULL);
    }
}

/* B95: lengths and counts are compared with the bytes left. */
static void b95_lengths(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_C(1) << 63, UINT64_C(1) << 62, UINT64_C(1) << 32, 65536,
                                       1000};
    for (int i = 0; i < 6; i++) {
        maker *m = start(3, 0, 1);
        put_number(m, lengths[i], 8); /* of a key */
        m->size += 64;
        expect_refused(finish(m), TENON_BAD_FILE, "a key of the metadata", NULL);
        m = start(3, 0, 1);
        put_key(m, "k", STRING);
        put_number(m, lengths[i], 8);
        m->size += 64;
        expect_refused(finish(m), TENON_BAD_FILE, "the length of a string", "follow", NULL);
        for (uint32_t type = U8; type <= F64; type++) {
            m = start(3, 0, 1);
            put_key(m, "k", ARRAY);
            put_number(m, type, 4);
            put_number(m, lengths[i], 8);
            m->size += 64;
            expect_refused(finish(m), TENON_BAD_FILE, "the length of an array", "follow", NULL);
        }
        m = start(3, 1, 0);
        put_number(m, lengths[i], 8); /* of a tensor's name */
        m->size += 64;
        expect_refused(finish(m), TENON_BAD_FILE, "a tensor's name", NULL);
        expect_refused(finish(start(3, lengths[i], 0)), TENON_BAD_FILE, "the number of tensors", NULL);
        expect_refused(finish(start(3, 0, lengths[i])), TENON_BAD_FILE, "the number of keys", NULL);
    }
}

static void refuses_other_values(void **state)
{
    (void)state;
    static const uint32_t types[] = {13, 100, UINT32_MAX};
    for (int i = 0; i < 3; i++) {
        maker *m = start(3, 0, 1);
        put_key(m, "k\n", types[i]);
        m->size += 16;
        expect_refused(finish(m), TENON_BAD_FILE, "'k\\x0a'", "no type of values", NULL);
        m = start(3, 0, 1);
        put_key(m, "k", ARRAY);
        put_number(m, types[i], 4);
        m->size += 16;
        expect_refused(finish(m), TENON_BAD_FILE, "'k'", "no type of values", NULL);
    }
    maker *m = start(3, 0, 1);
    put_key(m, "k", BOOL);
    put_number(m, 2, 1);
    expect_refused(finish(m), TENON_BAD_FILE, "'k'", "a bool is 0 or 1, found: 2", NULL);
    m = start(3, 0, 1);
    put_key(m, "", BOOL);
    put_number(m, 1, 1);
    expect_refused(finish(m), TENON_BAD_FILE, "a key is empty", NULL);
    m = start(3, 0, 1);
    put_key(m, "k", STRING);
    put_string(m, "\xff\xfe");
    expect_refused(finish(m), TENON_BAD_FILE, "is not UTF-8", NULL);
    m = start(3, 0, 1);
    put_number(m, 3, 8);
    put(m, "a\0b", 3);
    put_number(m, BOOL, 4);
    put_number(m, 1, 1);
    expect_refused(finish(m), TENON_BAD_FILE, "a key of the metadata", "zero byte", NULL);
}

/* Arrays in arrays are passed over, a few levels deep. */
static void bounds_nesting(void **state)
{
    (void)state;
    for (int depth = 1; depth <= 200; depth += depth < 8 ? 1 : 96) {
        maker *m = start(3, 0, 1);
        put_key(m, "k", ARRAY);
        for (int i = 1; i < depth; i++) {
            put_number(m, ARRAY, 4);
            put_number(m, 1, 8);
        }
        put_number(m, U8, 4);
        put_number(m, 2, 8);
        put_number(m, 0, 2);
        if (depth <= 5) {
            tenon_file *file = open_file(finish(m), NULL);
            assert_string_equal(tenon_file_metadata(file, "k"), depth == 1 ? "[0, 0]" : "[1 arrays]");
            tenon_file_close(file);
        } else {
            expect_refused(finish(m), TENON_BAD_FILE, "'k'", "inside one another", NULL);
        }
    }
}

/* Long arrays and texts are not kept. */
static void passes_over_long_values(void **state)
{
    (void)state;
    maker *m = start(3, 0, 4);
    put_key(m, "tokens", ARRAY);
    put_number(m, STRING, 4);
    put_number(m, 2000, 8);
    for (int i = 0; i < 2000; i++)
        put_string(m, "\xff"); /* bytes of a vocabulary, no text */
    put_key(m, "scores", ARRAY);
    put_number(m, F32, 4);
    put_number(m, 600, 8);
    m->size += 2400;
    put_key(m, "none", ARRAY);
    put_number(m, I64, 4);
    put_number(m, 0, 8);
    put_key(m, "last", I16);
    put_number(m, 0xffff, 2);
    tenon_file *file = open_file(finish(m), NULL);
    assert_string_equal(tenon_file_metadata(file, "tokens"), "[2000 strings]");
    assert_string_equal(tenon_file_metadata(file, "scores"), "[600 f32]");
    assert_string_equal(tenon_file_metadata(file, "none"), "[]");
    assert_string_equal(tenon_file_metadata(file, "last"), "-1");
    tenon_file_close(file);
}

/* B96: 0 dimensions are a scalar; more than 4 are refused. */
static void b96_dimensions(void **state)
{
    (void)state;
    tenon_file *file = open_file(one_tensor(TYPE_F32, 0, 4, (uint64_t[]){2, 2, 2, 2}), NULL);
    expect_tensor(file, "w", f32, 4, (int64_t[]){2, 2, 2, 2}, (float[16]){0}, 64);
    tenon_file_close(file);
    maker *m = start(3, 1, 0);
    put_tensor(m, "w", TYPE_F32, 0, 0, NULL);
    put_padding(m, 32);
    put(m, (float[]){1.5f}, 4);
    file = open_file(finish(m), NULL);
    expect_tensor(file, "w", f32, 0, NULL, (float[]){1.5f}, 4);
    tenon_file_close(file);
    static const uint32_t counts[] = {5, 9, 1000, INT32_MAX, UINT32_MAX};
    for (int i = 0; i < 5; i++) {
        m = start(3, 1, 0);
        put_string(m, "w");
        put_number(m, counts[i], 4);
        m->size += 256;
        expect_refused(finish(m), TENON_BAD_FILE, "'w'", "dimensions; GGUF allows 4", NULL);
    }
}

/* B97: an alignment is a power of two (1 too) of at most 65536, and a u32. */
static void b97_alignment(void **state)
{
    (void)state;
    static const struct {
        uint32_t value;
        bool is_good;
    } cases[] = {{0, false},        {3, false},          {33, false},     {UINT32_C(1) << 31, false},
                 {1u << 30, false}, {UINT32_MAX, false}, {131072, false}, {1, true},
                 {8, true},         {32, true},          {64, true},      {65536, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        maker *m = start(3, 1, 1);
        put_key(m, "general.alignment", U32);
        put_number(m, cases[i].value, 4);
        put_tensor(m, "w", TYPE_F32, 0, DIMS(1));
        if (!cases[i].is_good) {
            m->size += 64;
            expect_refused(finish(m), TENON_BAD_FILE, "'general.alignment'", "expected a power of two", NULL);
            continue;
        }
        const size_t room = (m->size + cases[i].value - 1) / cases[i].value * cases[i].value + 4;
        unsigned char *all = calloc(1, room);
        memcpy(all, m->bytes, m->size);
        memcpy(all + room - 4, (float[]){2.5f}, 4);
        tenon_file *file = open_file(scratch_write("x.gguf", all, room), NULL);
        expect_tensor(file, "w", f32, 1, (int64_t[]){1}, (float[]){2.5f}, 4);
        tenon_file_close(file);
        free(all);
    }
    maker *m = start(3, 0, 1);
    put_key(m, "general.alignment", I32);
    put_number(m, 32, 4);
    expect_refused(finish(m), TENON_BAD_FILE, "'general.alignment'", "it is a u32", NULL);
    m = start(3, 0, 1);
    put_key(m, "general.alignment", STRING);
    put_string(m, "32");
    expect_refused(finish(m), TENON_BAD_FILE, "'general.alignment'", "it is a u32", NULL);
}

/* B98: tensors without elements are read; a parameter that has none is refused. */
static void b98_empty_tensors(void **state)
{
    (void)state;
    maker *m = start(3, 3, 0);
    put_tensor(m, "e", TYPE_F32, 0, DIMS(4, 0));
    put_tensor(m, "f", TYPE_F32, 0, DIMS(0));
    put_tensor(m, "w", TYPE_F32, 0, DIMS(1));
    put_padding(m, 32);
    put(m, (float[]){3}, 4);
    tenon_file *file = open_file(finish(m), NULL);
    expect_tensor(file, "e", f32, 2, (int64_t[]){0, 4}, NULL, 0);
    expect_tensor(file, "f", f32, 1, (int64_t[]){0}, NULL, 0);
    expect_tensor(file, "w", f32, 1, (int64_t[]){1}, (float[]){3}, 4);
    tenon_file_close(file);
    m = start(3, 2, 0);
    put_tensor(m, "proj.weight", TYPE_F32, 0, DIMS(4, 0));
    put_tensor(m, "proj.bias", TYPE_F32, 0, DIMS(0));
    tenon_load_options options;
    tenon_load_options_init(&options);
    options.config_json = "{\"type\":\"linear\",\"in_dim\":4,\"out_dim\":2}";
    tenon_adapter *adapter = NULL;
    tenon_error error;
    assert_int_equal(tenon_adapter_open(finish(m), &options, &adapter, &error), TENON_MISMATCH);
    expect_message(&error, "proj.weight", "[0, 4]", NULL);
}

/* B99: products that wrap. */
static void b99_products(void **state)
{
    (void)state;
    expect_refused(one_tensor(TYPE_F32, 0, DIMS(UINT64_C(1) << 62, 4)), TENON_BAD_FILE, "'w'", "past what 64", NULL);
    expect_refused(one_tensor(TYPE_F32, 0, DIMS(UINT64_C(1) << 32, UINT64_C(1) << 32)), TENON_BAD_FILE, "'w'",
                   "past what 64", NULL);
    expect_refused(one_tensor(TYPE_F32, 0, DIMS(UINT64_C(1) << 63, 1)), TENON_BAD_FILE, "'w'", "past 63 bits", NULL);
    expect_refused(one_tensor(TYPE_F32, 0, DIMS(1, UINT64_MAX)), TENON_BAD_FILE, "'w'", "dimension 0", NULL);
    expect_refused(one_tensor(TYPE_Q8_0, 0, DIMS(UINT64_C(1) << 62)), TENON_BAD_FILE, "'w'", "past what 64", NULL);
    expect_refused(one_tensor(TYPE_F32, 0, DIMS(1000, 1000)), TENON_BAD_FILE, "'w'", "4000000 bytes",
                   "past the 64 bytes of data", NULL);
}

/* B42: rows that blocks do not divide. */
static void b42_rows_are_whole_blocks(void **state)
{
    (void)state;
    expect_refused(one_tensor(TYPE_Q8_0, 0, DIMS(48, 2)), TENON_BAD_FILE, "'w'", "rows of 48 elements",
                   "blocks of 32 (Q8_0)", NULL);
    expect_refused(one_tensor(TYPE_Q8_0, 0, DIMS(4304, 1)), TENON_BAD_FILE, "rows of 4304", NULL);
    expect_refused(one_tensor(12, 0, DIMS(1152, 1)), TENON_BAD_FILE, "rows of 1152", "blocks of 256 (Q4_K)", NULL);
    expect_refused(one_tensor(TYPE_Q8_0, 0, 0, NULL), TENON_BAD_FILE, "rows of 1 elements", NULL);
}

/* B101: places outside the file, inside one another, between others. */
static void b101_places(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset;
        const char *message;
    } cases[] = {{UINT64_C(1) << 63, "expected 32"},
                 {UINT64_MAX - 31, "expected 32"},
                 {63, "expected 32"},
                 {33, "expected 32"},
                 {64, "expected 32"},
                 {16, "inside tensor 'a'"},
                 {0, "inside tensor"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        maker *m = start(3, 2, 0);
        put_tensor(m, "a", TYPE_F32, 0, DIMS(5));
        put_tensor(m, "b", TYPE_F32, cases[i].offset, DIMS(5));
        put_padding(m, 32);
        m->size += 64;
        expect_refused(finish(m), TENON_BAD_FILE, "tensor '", cases[i].message, NULL);
    }
    expect_refused(one_tensor(TYPE_F32, 32, DIMS(2)), TENON_BAD_FILE, "'w'", "its offset is 32; expected 0", NULL);
    expect_refused(one_tensor(TYPE_F32, 0, DIMS(2)), TENON_BAD_FILE, "bytes follow the last tensor", NULL);
    maker *m = start(3, 2, 0);
    put_tensor(m, "b", TYPE_F32, 32, DIMS(1)); /* in any order */
    put_tensor(m, "a", TYPE_F32, 0, DIMS(1));
    put_padding(m, 32);
    m->size += 32;
    put(m, (float[]){7}, 4);
    m->size += 28;
    tenon_file *file = open_file(finish(m), NULL);
    expect_tensor(file, "b", f32, 1, (int64_t[]){1}, (float[]){7}, 4);
    tenon_file_close(file);
}

/* B102: a name or a key twice. */
static void b102_duplicates(void **state)
{
    (void)state;
    maker *m = start(3, 2, 0);
    put_tensor(m, "mm.0.weight", TYPE_F32, 0, DIMS(1));
    put_tensor(m, "mm.0.weight", TYPE_F32, 32, DIMS(1));
    put_padding(m, 32);
    m->size += 64;
    expect_refused(finish(m), TENON_BAD_FILE, "duplicate tensor 'mm.0.weight'", NULL);
    m = start(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(m, "clip.use_gelu", BOOL);
        put_number(m, (uint64_t)i, 1);
    }
    expect_refused(finish(m), TENON_BAD_FILE, "duplicate GGUF metadata 'clip.use_gelu'", NULL);
}

/* ---- writing ---- */

static tenon_writer *new_writer(void)
{
    tenon_writer *writer = NULL;
    tenon_error error;
    if (tenon_writer_new(scratch_path("w.gguf"), &writer, &error) != TENON_OK) fail_msg("%s", error.message);
    return writer;
}

static void writes_what_it_reads(void **state)
{
    (void)state;
    static float values[2 * 96];
    for (int i = 0; i < 2 * 96; i++)
        values[i] = (float)(i % 32 - 16) / 16 * 127; /* whole multiples of the scale */
    tenon_writer *writer = new_writer();
    assert_int_equal(tenon_writer_set_metadata(writer, "a", "b", NULL), TENON_OK);
    assert_int_equal(tenon_writer_add_as(writer, "q", "Q8_0", 2, (int64_t[]){2, 96}, NULL, NULL), TENON_OK);
    assert_int_equal(tenon_writer_add_as(writer, "f", "F32", 1, (int64_t[]){3}, NULL, NULL), TENON_OK);
    assert_int_equal(tenon_writer_write(writer, 1, values, 12, NULL), TENON_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(tenon_writer_write(writer, 0, values + 64 * i, 256, NULL), TENON_OK);
    assert_int_equal(tenon_writer_commit(writer, NULL), TENON_OK);
    tenon_writer_free(writer);
    tenon_file *file = open_file(scratch_path("w.gguf"), NULL);
    assert_string_equal(tenon_file_metadata(file, "a"), "b");
    float got[2 * 96];
    assert_int_equal(tenon_file_read(file, 0, 0, 2, got, sizeof got, NULL), TENON_OK);
    for (int i = 0; i < 2 * 96; i++)
        assert_true(got[i] - values[i] <= 0.5f && values[i] - got[i] <= 0.5f);
    expect_tensor(file, "f", f32, 1, (int64_t[]){3}, values, 12);
    tenon_file_close(file);
}

static void refuses_to_write(void **state)
{
    (void)state;
    tenon_writer *writer = new_writer();
    tenon_error error;
    assert_int_equal(tenon_writer_add_as(writer, "q", "Q8_0", 2, (int64_t[]){2, 48}, NULL, &error), TENON_INVALID);
    expect_message(&error, "'q' [2, 48]", "rows of 48", "blocks of 32", "F16", NULL);
    assert_int_equal(tenon_writer_add_as(writer, "q", "Q8_0", 0, NULL, NULL, &error), TENON_INVALID);
    static const char *const types[] = {"Q4_K", "U8", "BOOL", "F8_E4M3", "MXFP4", "", NULL};
    for (int i = 0; i < 7; i++) {
        assert_int_equal(tenon_writer_add_as(writer, "q", types[i], 1, (int64_t[]){256}, NULL, &error),
                         TENON_UNSUPPORTED);
        expect_message(&error, "'q'", "does not write", NULL);
    }
    assert_int_equal(tenon_writer_add(writer, "x", f32, 5, (int64_t[]){1, 1, 1, 1, 1}, NULL, &error), TENON_INVALID);
    expect_message(&error, "5 dimensions; 0 to 4", NULL);
    char name[65] = {0};
    memset(name, 'n', 64);
    assert_int_equal(tenon_writer_add(writer, name, f32, 0, NULL, NULL, &error), TENON_INVALID);
    expect_message(&error, "64 bytes long; readers take at most 63", NULL);
    assert_int_equal(tenon_writer_add(writer, name + 1, f32, 0, NULL, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_add_as(writer, "q", "Q8_0", 1, (int64_t[]){64}, NULL, &error), TENON_OK);
    float values[64] = {0};
    assert_int_equal(tenon_writer_write(writer, 1, values, 64, &error), TENON_INVALID);
    expect_message(&error, "blocks of 32 elements, but 64 bytes", NULL);
    assert_int_equal(tenon_writer_write(writer, 1, values, 257, &error), TENON_INVALID);
    expect_message(&error, "takes 256 bytes more, but 257", NULL);
    tenon_writer_free(writer);
    assert_int_equal(tenon_writer_new_stream(1, "standard output", "gguf", &writer, &error), TENON_INVALID);
    tenon_writer *plain = NULL;
    assert_int_equal(tenon_writer_new(scratch_path("w.safetensors"), &plain, &error), TENON_OK);
    assert_int_equal(tenon_writer_add_as(plain, "q", "Q8_0", 1, (int64_t[]){64}, NULL, &error), TENON_UNSUPPORTED);
    tenon_writer_free(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_versions),
        cmocka_unit_test(refuses_other_files),
        cmocka_unit_test(reads_parts_of_blocks),
        cmocka_unit_test(names_what_it_does_not_read),
        cmocka_unit_test(refuses_truncation),
        cmocka_unit_test(b95_lengths),
        cmocka_unit_test(refuses_other_values),
        cmocka_unit_test(bounds_nesting),
        cmocka_unit_test(passes_over_long_values),
        cmocka_unit_test(b96_dimensions),
        cmocka_unit_test(b97_alignment),
        cmocka_unit_test(b98_empty_tensors),
        cmocka_unit_test(b99_products),
        cmocka_unit_test(b42_rows_are_whole_blocks),
        cmocka_unit_test(b101_places),
        cmocka_unit_test(b102_duplicates),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(refuses_to_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
