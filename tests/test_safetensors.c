/* SPDX-License-Identifier: MIT */
/* safetensors and indexes of shards: what is read, what is refused and with which words, what is written. */
#include "scratch.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const DLDataType f32 = {kDLFloat, 32, 1}, f16 = {kDLFloat, 16, 1}, bf16 = {kDLBfloat, 16, 1},
                        u8 = {kDLUInt, 8, 1}, i64 = {kDLInt, 64, 1}, boolean = {6, 8, 1};

/* ---- reading ---- */

static const char one[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}";
static const float six[6] = {1, -2, 3.5f, 0, 1e-30f, 6};

static void reads_a_tensor(void **state)
{
    (void)state;
    tenon_file *file = open_file(scratch_safetensors("one.safetensors", one, six, sizeof six), NULL);
    assert_string_equal(tenon_file_kind(file), "safetensors");
    assert_int_equal(tenon_file_num_tensors(file), 1);
    assert_null(tenon_file_metadata(file, "format"));
    expect_tensor(file, "a", f32, 2, (int64_t[]){2, 3}, six, sizeof six);
    tenon_file_close(file);
    tenon_file_close(NULL);
}

static void reads_slices(void **state)
{
    (void)state;
    tenon_file *file = open_file(scratch_safetensors("one.safetensors", one, six, sizeof six), NULL);
    tenon_error error;
    float row[4] = {9, 9, 9, 9};
    assert_int_equal(tenon_file_read(file, 0, 1, 1, row, 12, &error), TENON_OK);
    assert_memory_equal(row, six + 3, 12);
    assert_true(row[3] == 9);
    assert_int_equal(tenon_file_read(file, 0, 2, 0, NULL, 0, &error), TENON_OK);
    assert_int_equal(tenon_file_read(file, 0, 1, 2, row, sizeof row, &error), TENON_INVALID);
    expect_message(&error, "2 slices wanted from number 1", "'a' has 2", NULL);
    assert_int_equal(tenon_file_read(file, 0, -1, 1, row, sizeof row, NULL), TENON_INVALID);
    assert_int_equal(tenon_file_read(file, 0, 0, INT64_MAX, row, sizeof row, NULL), TENON_INVALID);
    assert_int_equal(tenon_file_read(file, 0, INT64_MAX, 1, row, sizeof row, NULL), TENON_INVALID);
    assert_int_equal(tenon_file_read(file, 1, 0, 1, row, sizeof row, NULL), TENON_INVALID);
    assert_int_equal(tenon_file_read(file, 0, 0, 2, row, sizeof row, &error), TENON_INVALID);
    expect_message(&error, "24 bytes, the buffer holds 16", NULL);
    int64_t index = 7;
    assert_int_equal(tenon_file_find_tensor(file, "b", &index, &error), TENON_NOT_FOUND);
    expect_message(&error, "no tensor 'b'", NULL);
    assert_int_equal(index, 7);
    tenon_file_close(file);
}

/* B41 */
static void widens_and_narrows(void **state)
{
    (void)state;
    const char header[] = "{\"d\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[0,24]},"
                          "\"e4\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[24,28]},"
                          "\"e5\":{\"dtype\":\"F8_E5M2\",\"shape\":[4],\"data_offsets\":[28,32]},"
                          "\"b\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[32,34]},"
                          "\"t\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[34,37]}}";
    unsigned char data[37] = {0};
    const double doubles[3] = {1.0 + 0x1p-30, 1e300, -0.0};
    memcpy(data, doubles, 24);
    memcpy(data + 24, "\x38\x7e\x7f\x01\x3c\x7b\x7c\xc0\x80\x3f\x00\x02\xff", 13);
    tenon_file *file = open_file(scratch_safetensors("wide.safetensors", header, data, sizeof data), NULL);
    expect_tensor(file, "d", f32, 1, (int64_t[]){3}, (float[]){1, INFINITY, -0.0f}, 12);
    expect_tensor(file, "e4", f32, 1, (int64_t[]){4}, (uint32_t[]){0x3f800000, 0x43e00000, 0x7fc00000, 0x3b000000}, 16);
    expect_tensor(file, "e5", f32, 1, (int64_t[]){4}, (float[]){1, 57344, INFINITY, -2}, 16);
    expect_tensor(file, "b", bf16, 0, NULL, (uint16_t[]){0x3f80}, 2);
    expect_tensor(file, "t", boolean, 1, (int64_t[]){3}, "\0\1\1", 3);
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    assert_int_equal(tenon_file_get_tensor(file, 1, &tensor, NULL), TENON_OK);
    assert_string_equal(tensor.stored, "F8_E4M3");
    tenon_file_close(file);
    tenon_file_options options;
    tenon_file_options_init(&options);
    options.keep_f64 = true;
    file = open_file(scratch_safetensors("wide.safetensors", header, data, sizeof data), &options);
    expect_tensor(file, "d", (DLDataType){kDLFloat, 64, 1}, 1, (int64_t[]){3}, doubles, 24);
    expect_tensor(file, "e5", f32, 1, (int64_t[]){4}, (float[]){1, 57344, INFINITY, -2}, 16);
    expect_tensor(file, "b", bf16, 0, NULL, (uint16_t[]){0x3f80}, 2);
    tenon_file_close(file);
}

static void lists_what_it_does_not_read(void **state)
{
    (void)state;
    const char header[] = "{\"q\":{\"dtype\":\"F4\\n\",\"shape\":[3,9],\"data_offsets\":[0,3]},"
                          "\"c\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[3,11]}}";
    tenon_file *file = open_file(scratch_safetensors("odd.safetensors", header, "12345678901", 11), NULL);
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    assert_int_equal(tenon_file_get_tensor(file, 0, &tensor, NULL), TENON_OK);
    assert_int_equal(tensor.dtype.code, kDLOpaqueHandle);
    assert_string_equal(tensor.stored, "F4\n");
    tenon_error error;
    char room[64];
    assert_int_equal(tenon_file_read(file, 0, 0, 1, room, sizeof room, &error), TENON_UNSUPPORTED);
    expect_message(&error, "'q' is stored as F4\\x0a", NULL);
    assert_int_equal(tenon_file_read(file, 1, 0, 1, room, sizeof room, &error), TENON_UNSUPPORTED);
    tenon_file_close(file);
    expect_refused(scratch_safetensors("odd.safetensors",
                                       "{\"c\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,7]}}", "1234567",
                                       7),
                   TENON_BAD_FILE, "'c'", "= 8 bytes", NULL);
}

static void reads_metadata(void **state)
{
    (void)state;
    const char header[] = "{\"__metadata__\":{\"format\":\"pt\",\"\":\"x\"}}      ";
    tenon_file *file = open_file(scratch_safetensors("meta.safetensors", header, NULL, 0), NULL);
    assert_int_equal(tenon_file_num_tensors(file), 0);
    assert_string_equal(tenon_file_metadata(file, "format"), "pt");
    assert_string_equal(tenon_file_metadata(file, ""), "x");
    assert_null(tenon_file_metadata(file, "other"));
    assert_null(tenon_file_metadata(file, NULL));
    tenon_file_close(file);
    expect_refused(scratch_safetensors("m.safetensors", "{\"__metadata__\":{\"v\":1}}", NULL, 0), TENON_BAD_FILE,
                   "metadata 'v' is an integer, not a string", NULL);
    expect_refused(scratch_safetensors("m.safetensors", "{\"__metadata__\":[]}", NULL, 0), TENON_BAD_FILE,
                   "__metadata__ is an array", NULL);
}

static void notices_a_change(void **state)
{
    (void)state;
    const char *path = scratch_safetensors("changing.safetensors", one, six, sizeof six);
    tenon_file *file = open_file(path, NULL);
    float data[6] = {0};
    assert_int_equal(truncate(path, 80), 0);
    tenon_error error;
    assert_int_equal(tenon_file_read(file, 0, 0, 2, data, sizeof data, &error), TENON_BAD_FILE);
    expect_message(&error, "changing.safetensors", "while it was being read", NULL);
    tenon_file_close(file);
}

/* ---- hostile headers ---- */

/* B84: a header past the cap, and past the file. */
static void b84_header_cap(void **state)
{
    (void)state;
    const unsigned char start[20] = {0x40, 0x9d, 0xdf, 0x07};
    expect_refused(scratch_write("b84.safetensors", start, sizeof start), TENON_BAD_FILE, "132095296", "12 follow",
                   NULL);
    /* A file that is long enough (and sparse) meets the cap. */
    const char *path = scratch_write("b84.safetensors", start, sizeof start);
    assert_int_equal(truncate(path, 132095304), 0);
    expect_refused(path, TENON_BAD_FILE, "132095296 bytes long", "at most 100000000", NULL);
}

/* B85: lengths that do not fit the file; test_format_memory.c sees that nothing of the kind is allocated. */
static void b85_header_length(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        const char *text;
    } cases[] = {{UINT64_C(1) << 63, "9223372036854775808"},
                 {UINT64_MAX, "18446744073709551615"},
                 {UINT64_MAX - 7, "18446744073709551608"},
                 {9, "9 bytes, but 8 follow"},
                 {0, "0 bytes; the least"},
                 {1, "1 bytes; the least"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char bytes[16] = {0};
        for (int j = 0; j < 8; j++)
            bytes[j] = (unsigned char)(cases[i].length >> 8 * j);
        expect_refused(scratch_write("b85.safetensors", bytes, sizeof bytes), TENON_BAD_FILE, cases[i].text, NULL);
    }
    expect_refused(scratch_write("short.safetensors", "\2\0\0\0\0\0\0", 7), TENON_BAD_FILE, "7 bytes long", NULL);
    expect_refused(scratch_write("short.safetensors", "", 0), TENON_BAD_FILE, "empty", NULL);
    expect_refused(scratch_safetensors("text.safetensors", " {}", NULL, 0), TENON_BAD_FILE, "byte 8", "'{'", NULL);
    expect_refused(scratch_safetensors("text.safetensors", "{} x", NULL, 0), TENON_BAD_FILE, "not valid JSON", NULL);
    expect_refused(scratch_safetensors("text.safetensors", "{\"a", NULL, 0), TENON_BAD_FILE, "byte", NULL);
}

/* B86, C16: each fault of one tensor has its own sentence. */
static void b86_tensor_faults(void **state)
{
    (void)state;
    static const struct {
        const char *info, *message;
    } cases[] = {
        {"{\"dtype\":\"F32\",\"shape\":[1000,1000],\"data_offsets\":[0,4]}",
         "shape [1000, 1000] of F32 = 4000000 bytes, but data_offsets [0, 4]"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}", "[4, 0] end before they begin"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}", "data_offsets[0] is negative: -4"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0.0,4.0]}", "data_offsets[0] is a fraction"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}", "data_offsets[1] is a string"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}", "data_offsets has 3 numbers, not 2"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}", "data_offsets is an object"},
        {"{\"dtype\":\"F32\",\"shape\":[1]}", "data_offsets is missing"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}", "past the 4 bytes of data"},
        {"{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}", "past what 64 bits"},
        {"{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}", "past what 64 bits"},
        {"{\"dtype\":\"ODD\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}", "past what 64 bits"},
        {"{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}", "shape [3] of F4 = 12 bits, which fill no whole"},
        {"{\"dtype\":\"F6_E2M3\",\"shape\":[3,3],\"data_offsets\":[0,4]}", "[3, 3] of F6_E2M3 = 54 bits"},
        {"{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[0,4]}", "[6] of F4 = 3 bytes, but data_offsets [0, 4]"},
        {"{\"dtype\":\"F6_E3M2\",\"shape\":[4],\"data_offsets\":[0,4]}", "[4] of F6_E3M2 = 3 bytes"},
        {"{\"dtype\":\"F8_E8M0\",\"shape\":[5],\"data_offsets\":[0,4]}", "[5] of F8_E8M0 = 5 bytes"},
        {"{\"dtype\":\"F4\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}", "past what 64 bits"},
        {"{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}", "dimension 0 of its shape is negative: -1"},
        {"{\"dtype\":\"F32\",\"shape\":[1,1.5],\"data_offsets\":[0,4]}", "dimension 1 of its shape is a fraction"},
        {"{\"dtype\":\"F32\",\"shape\":[1,null],\"data_offsets\":[0,4]}", "dimension 1 of its shape is null"},
        {"{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}", "shape is an integer"},
        {"{\"dtype\":\"F32\",\"data_offsets\":[0,4]}", "shape is missing"},
        {"{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,4]}", "dtype is an integer"},
        {"{\"shape\":[1],\"data_offsets\":[0,4]}", "dtype is missing"},
        {"[1]", "its entry is an array"},
        {"true", "its entry is true"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char header[512];
        snprintf(header, sizeof header, "{\"the\\ttensor\":%s}", cases[i].info);
        expect_refused(scratch_safetensors("b86.safetensors", header, "abcd", 4), TENON_BAD_FILE,
                       "tensor 'the\\x09tensor'", cases[i].message, NULL);
    }
    expect_refused(scratch_safetensors("b86.safetensors",
                                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,"
                                       "18446744073709551617]}}",
                                       "abcd", 4),
                   TENON_BAD_FILE, "too big integer", NULL);
}

static void refuses_many_dimensions(void **state)
{
    (void)state;
    char header[1024];
    tenon_file *file;
    for (int ndim = 64; ndim <= 65; ndim++) {
        size_t at = (size_t)snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1");
        for (int i = 1; i < ndim; i++)
            at += (size_t)snprintf(header + at, sizeof header - at, ",1");
        snprintf(header + at, sizeof header - at, "],\"data_offsets\":[0,1]}}");
        const char *path = scratch_safetensors("dims.safetensors", header, "x", 1);
        if (ndim == 65) {
            expect_refused(path, TENON_BAD_FILE, "has 65 dimensions", NULL);
        } else {
            file = open_file(path, NULL);
            tenon_file_close(file);
        }
    }
}

/* B87 */
static void b87_duplicates(void **state)
{
    (void)state;
    expect_refused(scratch_safetensors("b87.safetensors",
                                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                       "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                                       "xy", 2),
                   TENON_BAD_FILE, "duplicate key", "\"a\"", NULL);
    expect_refused(scratch_safetensors("b87.safetensors",
                                       "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],"
                                       "\"data_offsets\":[0,1]}}",
                                       "x", 1),
                   TENON_BAD_FILE, "duplicate key", "\"dtype\"", NULL);
}

/* B88 */
static void b88_empty_tensors(void **state)
{
    (void)state;
    const char header[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                          "\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},"
                          "\"f\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[0,0]},"
                          "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]}}";
    const float data[3] = {1, 2, 3};
    tenon_file *file = open_file(scratch_safetensors("b88.safetensors", header, data, sizeof data), NULL);
    expect_tensor(file, "w", f32, 1, (int64_t[]){2}, data, 8);
    expect_tensor(file, "e", f32, 1, (int64_t[]){0}, NULL, 0);
    expect_tensor(file, "f", f32, 2, (int64_t[]){2, 0}, NULL, 0);
    expect_tensor(file, "s", f32, 0, NULL, data + 2, 4);
    tenon_file_close(file);
    expect_refused(scratch_safetensors("b88.safetensors",
                                       "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,0]}}", NULL, 0),
                   TENON_BAD_FILE, "shape [1] of F32 = 4 bytes", "hold 0", NULL);
    const char huge[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[4,9223372036854775807,0],\"data_offsets\":[0,0]}}";
    file = open_file(scratch_safetensors("b88.safetensors", huge, NULL, 0), NULL);
    assert_int_equal(tenon_file_read(file, 0, 0, 4, NULL, 0, NULL), TENON_OK);
    tenon_file_close(file);
}

static void refuses_holes_and_overlaps(void **state)
{
    (void)state;
    expect_refused(scratch_safetensors("cover.safetensors",
                                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                                       "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]}}",
                                       "12345", 5),
                   TENON_BAD_FILE, "'b'", "byte 2, inside tensor 'a', which ends at 3", NULL);
    expect_refused(scratch_safetensors("cover.safetensors",
                                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]}}", "12345", 5),
                   TENON_BAD_FILE, "'a'", "bytes 0 to 2 belong to no tensor", NULL);
    expect_refused(scratch_safetensors("cover.safetensors",
                                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", "12345", 5),
                   TENON_BAD_FILE, "2 bytes follow the last tensor", NULL);
}

/* B90: data at byte 69. */
static void b90_unaligned(void **state)
{
    (void)state;
    char header[256];
    const int used = snprintf(header, sizeof header,
                              "{\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                              "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
                              "\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[11,13]},"
                              "\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[13,21]}}");
    memset(header + used, ' ', 8);
    header[used + (5 - used % 8 + 8) % 8] = 0; /* so that the data begins at an odd byte */
    assert_int_equal((8 + strlen(header)) % 8, 5);
    unsigned char data[21] = "xyz";
    memcpy(data + 3, (float[]){1.5f, -2}, 8);
    memcpy(data + 11, "\x80\x3f", 2);
    memcpy(data + 13, (double[]){0.25}, 8);
    tenon_file *file = open_file(scratch_safetensors("b90.safetensors", header, data, sizeof data), NULL);
    expect_tensor(file, "u", u8, 1, (int64_t[]){3}, "xyz", 3);
    expect_tensor(file, "a", f32, 1, (int64_t[]){2}, (float[]){1.5f, -2}, 8);
    expect_tensor(file, "b", bf16, 1, (int64_t[]){1}, (uint16_t[]){0x3f80}, 2);
    expect_tensor(file, "d", f32, 1, (int64_t[]){1}, (float[]){0.25f}, 4);
    tenon_file_close(file);
    const char minimal[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}       ";
    assert_int_equal(strlen(minimal), 61);
    file = open_file(scratch_safetensors("b90.safetensors", minimal, six, 4), NULL);
    expect_tensor(file, "a", f32, 1, (int64_t[]){1}, six, 4);
    tenon_file_close(file);
}

static void odd_names(void **state)
{
    (void)state;
    expect_refused(scratch_safetensors("nul.safetensors",
                                       "{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", NULL,
                                       0),
                   TENON_BAD_FILE, "NUL", NULL);
    expect_refused(scratch_safetensors("utf8.safetensors",
                                       "{\"a\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", NULL, 0),
                   TENON_BAD_FILE, "not valid JSON", NULL);
    tenon_file *file =
        open_file(scratch_safetensors("e.safetensors",
                                      "{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\xc3\xa9\":"
                                      "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"extra\":[]}}",
                                      NULL, 0),
                  NULL);
    expect_tensor(file, "", u8, 1, (int64_t[]){0}, NULL, 0);
    expect_tensor(file, "\xc3\xa9", u8, 1, (int64_t[]){0}, NULL, 0);
    tenon_file_close(file);
    char deep[8192] = "{\"a\":", *at = deep + 5;
    memset(at, '[', 5000);
    at[5000] = 0;
    expect_refused(scratch_safetensors("deep.safetensors", deep, NULL, 0), TENON_BAD_FILE, "header", NULL);
}

/* ---- writing ---- */

static tenon_writer *new_writer(const char *path)
{
    tenon_error error;
    tenon_writer *writer = NULL;
    if (tenon_writer_new(path, &writer, &error) != TENON_OK) fail_msg("%s", error.message);
    return writer;
}

static void writes_in_any_order(void **state)
{
    (void)state;
    const char *path = scratch_path("written.safetensors");
    tenon_writer *w = new_writer(path);
    int64_t a = -1, b = -1, c = -1, d = -1, e = -1;
    assert_int_equal(tenon_writer_set_metadata(w, "format", "pt", NULL), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "bytes", u8, 1, (int64_t[]){3}, &a, NULL), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "half", f16, 1, (int64_t[]){1}, &b, NULL), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "w\"\xc3\xa9", f32, 2, (int64_t[]){2, 3}, &c, NULL), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "scalar", i64, 0, NULL, &d, NULL), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "none", bf16, 2, (int64_t[]){4, 0}, &e, NULL), TENON_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(tenon_writer_write(w, c, six, 8, NULL), TENON_OK);
    assert_int_equal(tenon_writer_write(w, a, "xyz", 3, NULL), TENON_OK);
    assert_int_equal(tenon_writer_write(w, d, (int64_t[]){-5}, 8, NULL), TENON_OK);
    assert_int_equal(tenon_writer_write(w, c, six + 2, 16, NULL), TENON_OK);
    tenon_error error;
    assert_int_equal(tenon_writer_commit(w, &error), TENON_INVALID);
    expect_message(&error, "'half'", "0 of 2 bytes", NULL);
    assert_int_equal(tenon_writer_write(w, b, "\x00\x3c", 2, NULL), TENON_OK);
    assert_int_equal(tenon_writer_commit(w, &error), TENON_OK);
    assert_int_equal(tenon_writer_commit(w, NULL), TENON_INVALID);
    tenon_writer_free(w);

    tenon_file *file = open_file(path, NULL);
    assert_string_equal(tenon_file_metadata(file, "format"), "pt");
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    assert_int_equal(tenon_file_get_tensor(file, 0, &tensor, NULL), TENON_OK);
    assert_string_equal(tensor.name, "bytes"); /* in the order of declaration */
    expect_tensor(file, "bytes", u8, 1, (int64_t[]){3}, "xyz", 3);
    expect_tensor(file, "half", f16, 1, (int64_t[]){1}, "\x00\x3c", 2);
    expect_tensor(file, "w\"\xc3\xa9", f32, 2, (int64_t[]){2, 3}, six, 24);
    expect_tensor(file, "scalar", i64, 0, NULL, (int64_t[]){-5}, 8);
    expect_tensor(file, "none", bf16, 2, (int64_t[]){4, 0}, NULL, 0);
    tenon_file_close(file);
    FILE *in = fopen(path, "rb");
    unsigned char length[8];
    assert_int_equal(fread(length, 1, 8, in), 8);
    fclose(in);
    assert_int_equal(length[0] % 8, 0); /* B90 */
}

static void writer_refuses(void **state)
{
    (void)state;
    tenon_error error;
    tenon_writer *w = new_writer(scratch_path("refuse.safetensors"));
    assert_int_equal(tenon_writer_add(w, "a", u8, 1, (int64_t[]){3}, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "a", u8, 1, (int64_t[]){3}, NULL, &error), TENON_EXISTS);
    expect_message(&error, "'a'", NULL);
    assert_int_equal(tenon_writer_add(w, "__metadata__", u8, 1, (int64_t[]){3}, NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_add(w, "\xff", u8, 1, (int64_t[]){3}, NULL, &error), TENON_INVALID);
    expect_message(&error, "\\xff", NULL);
    static const char *const bad[] = {
        "\x80",         "\xc1\xbf", "\xc3",     "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf1\x80\x80", "\xe1\x80", "\xe1\x80z"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(tenon_writer_add(w, bad[i], u8, 1, (int64_t[]){3}, NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_set_metadata(w, "\xf0\x9f\x98\x80\xed\x9f\xbf\xe2\x82\xac\xdf\xbf", "\x7f", NULL),
                     TENON_OK);
    assert_int_equal(tenon_writer_add(w, "b", u8, 1, (int64_t[]){-3}, NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_add(w, "b", f32, 2, (int64_t[]){INT64_MAX, 4}, NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_add(w, "b", u8, 65, (int64_t[65]){0}, NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_add(w, "b", (DLDataType){kDLFloat, 64, 1}, 0, NULL, NULL, &error), TENON_UNSUPPORTED);
    expect_message(&error, "float64", NULL);
    assert_int_equal(tenon_writer_add(w, "b", (DLDataType){kDLFloat, 32, 4}, 0, NULL, NULL, NULL), TENON_UNSUPPORTED);
    assert_int_equal(tenon_writer_set_metadata(w, "k", "\xff", &error), TENON_INVALID);
    assert_int_equal(tenon_writer_write(w, 1, "x", 1, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_write(w, 0, "wxyz", 4, &error), TENON_INVALID);
    expect_message(&error, "'a' takes 3 bytes more, but 4", NULL);
    assert_int_equal(tenon_writer_write(w, 0, "x", 1, &error), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "b", u8, 0, NULL, NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_set_metadata(w, "k", "v", &error), TENON_INVALID);
    expect_message(&error, "after the first write", NULL);
    const int before = scratch_count();
    tenon_writer_free(w);
    assert_int_equal(scratch_count(), before - 1); /* the temporary file is gone */
    tenon_writer_free(NULL);
    assert_int_equal(tenon_writer_new(scratch_path("x.bin"), &w, &error), TENON_INVALID);
    expect_message(&error, ".npy, .safetensors or .gguf", NULL);
    assert_int_equal(tenon_writer_new("/dev/full", &w, &error), TENON_INVALID);
    expect_message(&error, "/dev/full", "a device", NULL);
}

/* B84: what the reader would refuse is not written. */
static void b84_writer_keeps_to_the_cap(void **state)
{
    (void)state;
    enum { size = 100000000 };
    char *value = malloc(size + 1);
    assert_non_null(value);
    memset(value, 'x', size);
    value[size] = 0;
    tenon_error error;
    const int before = scratch_count();
    tenon_writer *w = new_writer(scratch_path("cap.safetensors"));
    assert_int_equal(tenon_writer_set_metadata(w, "k", value, &error), TENON_OK);
    free(value);
    assert_int_equal(tenon_writer_commit(w, &error), TENON_INVALID);
    expect_message(&error, "100000032 bytes", "at most 100000000", NULL);
    tenon_writer_free(w);
    assert_int_equal(scratch_count(), before);
}

static void writes_nothing_at_all(void **state)
{
    (void)state;
    tenon_writer *w = new_writer(scratch_path("empty.safetensors"));
    assert_int_equal(tenon_writer_commit(w, NULL), TENON_OK);
    tenon_writer_free(w);
    tenon_file *file = open_file(scratch_path("empty.safetensors"), NULL);
    assert_int_equal(tenon_file_num_tensors(file), 0);
    tenon_file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_tensor),
        cmocka_unit_test(reads_slices),
        cmocka_unit_test(widens_and_narrows),
        cmocka_unit_test(lists_what_it_does_not_read),
        cmocka_unit_test(reads_metadata),
        cmocka_unit_test(notices_a_change),
        cmocka_unit_test(b84_header_cap),
        cmocka_unit_test(b85_header_length),
        cmocka_unit_test(b86_tensor_faults),
        cmocka_unit_test(refuses_many_dimensions),
        cmocka_unit_test(b87_duplicates),
        cmocka_unit_test(b88_empty_tensors),
        cmocka_unit_test(refuses_holes_and_overlaps),
        cmocka_unit_test(b90_unaligned),
        cmocka_unit_test(odd_names),
        cmocka_unit_test(writes_in_any_order),
        cmocka_unit_test(writer_refuses),
        cmocka_unit_test(b84_writer_keeps_to_the_cap),
        cmocka_unit_test(writes_nothing_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
