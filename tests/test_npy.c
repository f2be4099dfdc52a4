/* SPDX-License-Identifier: MIT */
/* npy: the three versions, every element type, the header's grammar, hostile headers, and the writer. */
#include "scratch.h"
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static const DLDataType f32 = {kDLFloat, 32, 1}, f16 = {kDLFloat, 16, 1}, bf16 = {kDLBfloat, 16, 1},
                        u8 = {kDLUInt, 8, 1}, u16 = {kDLUInt, 16, 1}, i64 = {kDLInt, 64, 1}, boolean = {6, 8, 1};

enum { max_dims = 6 };

static const char plain[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }     \n";
static const float six[6] = {1, -2, 3.5f, 0, 1e-30f, 6};

/* B107: versions 1, 2 and 3. */
static void b107_reads_each_version(void **state)
{
    (void)state;
    for (int version = 1; version <= 3; version++) {
        tenon_file *file = open_file(scratch_npy("x.npy", version, plain, six, sizeof six), NULL);
        assert_string_equal(tenon_file_kind(file), "npy");
        assert_int_equal(tenon_file_num_tensors(file), 1);
        assert_null(tenon_file_metadata(file, "a"));
        expect_tensor(file, "", f32, 2, (int64_t[]){2, 3}, six, sizeof six);
        tenon_file_close(file);
    }
    expect_refused(scratch_npy("x.npy", 4, plain, six, sizeof six), TENON_UNSUPPORTED, "version 4.0", NULL);
    expect_refused(scratch_npy("x.npy", 0, plain, six, sizeof six), TENON_UNSUPPORTED, "version 0.0", NULL);
}

/* B107: a header of 60000 bytes. */
static void b107_long_header(void **state)
{
    (void)state;
    static char header[60001];
    memset(header, ' ', sizeof header - 1);
    memcpy(header, plain, strlen(plain) - 1);
    for (int version = 1; version <= 2; version++) {
        tenon_file *file = open_file(scratch_npy("long.npy", version, header, six, sizeof six), NULL);
        expect_tensor(file, "", f32, 2, (int64_t[]){2, 3}, six, sizeof six);
        tenon_file_close(file);
    }
}

/* B107: column-major where it is the same bytes. */
static void b107_fortran_order(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        int ndim;
        int64_t dims[3];
    } same[] = {{"(6,)", 1, {6}}, {"(1, 6, 1)", 3, {1, 6, 1}}, {"()", 0, {0}}, {"(5, 0, 7)", 3, {5, 0, 7}}};
    for (int i = 0; i < 4; i++) {
        char header[128];
        const size_t size = i < 2 ? sizeof six : i == 2 ? 4 : 0;
        snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': True, 'shape': %s}", same[i].shape);
        tenon_file *file = open_file(scratch_npy("f.npy", 1, header, six, size), NULL);
        expect_tensor(file, "", f32, same[i].ndim, same[i].dims, six, size);
        tenon_file_close(file);
    }
}

/* An array of 4-byte integers that count in row-major order, as it is stored column by column. */
static tenon_file *open_columns(int ndim, const int64_t *shape, int64_t count)
{
    char header[256];
    int length = snprintf(header, sizeof header, "{'descr': '>i4', 'fortran_order': True, 'shape': (");
    for (int i = 0; i < ndim; i++)
        length += snprintf(header + length, sizeof header - (size_t)length, "%lld,", (long long)shape[i]);
    snprintf(header + length, sizeof header - (size_t)length, ")}\n");
    unsigned char *stored = malloc((size_t)count * 4);
    int64_t index[max_dims] = {0};
    for (int64_t at = 0; at < count; at++) { /* the first index is the fastest */
        int64_t value = 0;
        for (int i = 0; i < ndim; i++)
            value = value * shape[i] + index[i];
        for (int i = 0; i < 4; i++)
            stored[at * 4 + i] = (unsigned char)(value >> 8 * (3 - i));
        for (int i = 0; i < ndim && ++index[i] == shape[i]; i++)
            index[i] = 0;
    }
    tenon_file *file = open_file(scratch_npy("columns.npy", 1, header, stored, (size_t)count * 4), NULL);
    free(stored);
    return file;
}

/* C17, B107: any rank, whole and in slices; windows that span columns and such that do not. */
static void reads_columns(void **state)
{
    (void)state;
    static const struct {
        int ndim;
        int64_t shape[max_dims];
    } cases[] = {
        {2, {2, 3}},    {2, {3, 2}},    {3, {2, 3, 5}},    {3, {7, 1, 4}}, {4, {3, 2, 1, 5}}, {6, {2, 3, 2, 1, 2, 3}},
        {2, {5000, 3}}, {2, {3, 5000}}, {3, {2000, 5, 4}}, {2, {1100, 9}}, {3, {1, 30, 40}},  {3, {40, 30, 20}}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        const int64_t height = cases[n].shape[0];
        int64_t slice = 1;
        for (int i = 1; i < cases[n].ndim; i++)
            slice *= cases[n].shape[i];
        tenon_file *file = open_columns(cases[n].ndim, cases[n].shape, height * slice);
        int32_t *data = malloc((size_t)(height * slice + 1) * 4);
        for (int64_t first = 0; first < height; first += height / 4 + 1) {
            for (int64_t count = 1; first + count <= height; count = count < 3 ? count + 1 : count * 7) {
                memset(data, 0xee, (size_t)(height * slice + 1) * 4);
                assert_int_equal(tenon_file_read(file, 0, first, count, data, (size_t)(count * slice) * 4, NULL),
                                 TENON_OK);
                for (int64_t i = 0; i < count * slice; i++)
                    assert_int_equal(data[i], first * slice + i);
                assert_int_equal(data[count * slice], (int32_t)0xeeeeeeee);
            }
        }
        assert_int_equal(tenon_file_read(file, 0, 0, height, data, (size_t)(height * slice) * 4, NULL), TENON_OK);
        for (int64_t i = 0; i < height * slice; i++)
            assert_int_equal(data[i], i);
        free(data);
        tenon_file_close(file);
    }
}

static void reads_columns_of_each_width(void **state)
{
    (void)state;
    static const struct {
        const char *descr;
        DLDataType dtype;
        size_t size;
        const char *stored, *read; /* 2 x 3, of one significant byte each */
    } cases[] = {{"|u1", {kDLUInt, 8, 1}, 1, "adbecf", "abcdef"},
                 {"|b1", {6, 8, 1}, 1, "\0\7\1\0\0\1", "\0\1\0\1\0\1"},
                 {"<u2", {kDLUInt, 16, 1}, 2, "a1d1b1e1c1f1", "a1b1c1d1e1f1"},
                 {">u2", {kDLUInt, 16, 1}, 2, "1a1d1b1e1c1f", "a1b1c1d1e1f1"},
                 {"<u8",
                  {kDLUInt, 64, 1},
                  8,
                  "a1234567d1234567b1234567e1234567c1234567f1234567",
                  "a1234567b1234567c1234567d1234567e1234567f1234567"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char header[128];
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': True, 'shape': (2, 3)}", cases[i].descr);
        tenon_file *file = open_file(scratch_npy("w.npy", 1, header, cases[i].stored, 6 * cases[i].size), NULL);
        expect_tensor(file, "", cases[i].dtype, 2, (int64_t[]){2, 3}, cases[i].read, 6 * cases[i].size);
        tenon_file_close(file);
    }
    const double doubles[6] = {1, 4, 2, 5, 3, 1e300}; /* narrowed on the way */
    tenon_file *file = open_file(
        scratch_npy("w.npy", 1, "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3)}", doubles, sizeof doubles),
        NULL);
    expect_tensor(file, "", f32, 2, (int64_t[]){2, 3}, (float[]){1, 2, 3, 4, 5, INFINITY}, 24);
    tenon_file_close(file);
}

static void expect_array(const char *descr, const void *stored, size_t stored_size, bool npy_bfloat16, DLDataType dtype,
                         int64_t count, const void *data, size_t size)
{
    char header[160];
    snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (%lld,), }\n", descr,
             (long long)count);
    tenon_file_options options;
    tenon_file_options_init(&options);
    options.npy_bfloat16 = npy_bfloat16;
    tenon_file *file = open_file(scratch_npy("t.npy", 1, header, stored, stored_size), &options);
    expect_tensor(file, "", dtype, 1, &count, data, size);
    tenon_file_close(file);
}

/* B107: big-endian; B41: 2-byte floats. */
static void reads_each_type(void **state)
{
    (void)state;
    expect_array("<f4", "\0\0\x80\x3f", 4, false, f32, 1, (float[]){1}, 4);
    expect_array(">f4", "\x3f\x80\0\0", 4, false, f32, 1, (float[]){1}, 4);
    expect_array(">f8", "\x3f\xf0\0\0\0\0\0\0", 8, false, f32, 1, (float[]){1}, 4);
    expect_array("<f8", (double[]){1e300, 0.1}, 16, false, f32, 2, (float[]){INFINITY, 0.1f}, 8);
    expect_array("<f2", "\x00\x3c", 2, false, f16, 1, (uint16_t[]){0x3c00}, 2);
    expect_array(">f2", "\x3c\x00", 2, false, f16, 1, (uint16_t[]){0x3c00}, 2);
    expect_array("<u2", "\x80\x3f", 2, false, u16, 1, (uint16_t[]){0x3f80}, 2);
    expect_array("<u2", "\x80\x3f", 2, true, bf16, 1, (uint16_t[]){0x3f80}, 2);
    expect_array(">u2", "\x3f\x80", 2, true, bf16, 1, (uint16_t[]){0x3f80}, 2);
    expect_array("<V2", "\x80\x3f", 2, true, bf16, 1, (uint16_t[]){0x3f80}, 2);
    expect_array("|V2", "\x80\x3f", 2, true, bf16, 1, (uint16_t[]){0x3f80}, 2);
    expect_array(">i8", "\xff\xff\xff\xff\xff\xff\xff\xfe", 8, false, i64, 1, (int64_t[]){-2}, 8);
    expect_array("|u1", "\x07\xff", 2, false, u8, 2, "\x07\xff", 2);
    expect_array("|b1", "\0\1\2", 3, false, boolean, 3, "\0\1\1", 3);
    static const char *const others[] = {"<c8",  "<c16", "|O",       "<U5", "<M8[ns]", "<V2", "<",    "",        "<f16",
                                         "<f4 ", "F4",   "<float32", "int", "l",       "O",   "<<f4", "float32x"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char header[160];
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }", others[i]);
        expect_refused(scratch_npy("t.npy", 1, header, six, 8), TENON_UNSUPPORTED, "type '", others[i], NULL);
    }
    expect_refused(
        scratch_npy("t.npy", 1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", six, 4),
        TENON_UNSUPPORTED, "structured", NULL);
}

/* C18: as numpy.dtype reads them: without a byte order it is the machine's, and names have none. */
static void c18_other_spellings(void **state)
{
    (void)state;
    static const char *const spellings[] = {"f4", "|f4", "=f4", "f", "<f", "|f", "float32", "single"};
    const float one = 1;
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++)
        expect_array(spellings[i], &one, 4, false, f32, 1, &one, 4);
    expect_array("float16", (uint16_t[]){0x3c00}, 2, false, f16, 1, (uint16_t[]){0x3c00}, 2);
    expect_array(">e", "\x3c\x00", 2, false, f16, 1, (uint16_t[]){0x3c00}, 2);
    expect_array("float64", (double[]){0.1}, 8, false, f32, 1, (float[]){0.1f}, 4);
    expect_array(">d", "\x3f\xf0\0\0\0\0\0\0", 8, false, f32, 1, (float[]){1}, 4);
    expect_array("int64", (int64_t[]){-2}, 8, false, i64, 1, (int64_t[]){-2}, 8);
    expect_array("uint8", "\7", 1, false, u8, 1, "\7", 1);
    expect_array("<B", "\7", 1, false, u8, 1, "\7", 1);
    expect_array("?", "\1", 1, false, boolean, 1, "\1", 1);
    expect_array("bool", "\1", 1, false, boolean, 1, "\1", 1);
    expect_array("uint16", "\x80\x3f", 2, true, bf16, 1, (uint16_t[]){0x3f80}, 2);
    expect_array("V2", "\x80\x3f", 2, true, bf16, 1, (uint16_t[]){0x3f80}, 2);
}

/* C18 */
static void c18_objects(void **state)
{
    (void)state;
    static const char *const spellings[] = {"|O", "O", "object"};
    for (int i = 0; i < 3; i++) {
        char header[160];
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }", spellings[i]);
        expect_refused(scratch_npy("o.npy", 1, header, "\x80\4N.", 4), TENON_UNSUPPORTED,
                       "holds pickled Python objects", "save a plain array of numbers", NULL);
    }
}

static void asks_about_two_bytes_of_void(void **state)
{
    (void)state;
    expect_refused(scratch_npy("v.npy", 1, "{'descr': '<V2', 'fortran_order': False, 'shape': (1,), }", six, 2),
                   TENON_UNSUPPORTED, "npy_bfloat16", NULL);
}

/* B45 */
static void b45_names_carry_no_meaning(void **state)
{
    (void)state;
    tenon_file *file = open_file(scratch_npy("lora.safetensors", 1, plain, six, sizeof six), NULL);
    assert_string_equal(tenon_file_kind(file), "npy");
    tenon_file_close(file);
    file = open_file(scratch_safetensors("really.npy", "{}", NULL, 0), NULL);
    assert_string_equal(tenon_file_kind(file), "safetensors");
    tenon_file_close(file);
}

static void reads_slices_of_converted_types(void **state)
{
    (void)state;
    enum { rows = 5000, columns = 3 };
    static double data[rows * columns];
    static float expected[rows * columns], read[rows * columns + 1];
    for (int i = 0; i < rows * columns; i++) {
        data[i] = i * 0.37 - 1000;
        expected[i] = (float)data[i];
    }
    tenon_file *file = open_file(
        scratch_npy("d.npy", 1, "{'descr':'<f8','fortran_order':False,'shape':(5000,3)}", data, sizeof data), NULL);
    tenon_error error;
    read[(rows - 7) * columns] = 77;
    assert_int_equal(tenon_file_read(file, 0, 7, rows - 7, read, sizeof read, &error), TENON_OK);
    assert_memory_equal(read, expected + 7 * columns, (rows - 7) * columns * sizeof(float));
    assert_true(read[(rows - 7) * columns] == 77);
    tenon_file_close(file);
}

/* The same file gives the same numbers whatever rounding mode the program is in. */
static void narrows_to_nearest_in_any_mode(void **state)
{
    (void)state;
    const double stored[] = {1.0 + 0x1p-30, -1.0 - 0x1p-30};
    const float expected[] = {1.0f, -1.0f};
    fesetround(FE_UPWARD);
    expect_array("<f8", stored, sizeof stored, false, f32, 2, expected, sizeof expected);
    const int mode = fegetround();
    fesetround(FE_TONEAREST);
    assert_int_equal(mode, FE_UPWARD);
}

static void f64_is_kept_when_asked(void **state)
{
    (void)state;
    const char header[] = "{'descr': '>f8', 'fortran_order': False, 'shape': (2,), }\n";
    const unsigned char stored[] = {0x3f, 0xf0, 0, 0, 0, 0, 0, 1, 0xc0, 0, 0, 0, 0, 0, 0, 0};
    tenon_file_options options;
    tenon_file_options_init(&options);
    options.keep_f64 = true;
    tenon_file *file = open_file(scratch_npy("d.npy", 1, header, stored, sizeof stored), &options);
    expect_tensor(file, "", (DLDataType){kDLFloat, 64, 1}, 1, (int64_t[]){2}, (double[]){1 + 0x1p-52, -2}, 16);
    tenon_file_close(file);
}

static void accepts_what_python_writes(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n",
        "{\"shape\":(2,3,),\"fortran_order\":False,\"descr\":\"<f4\"}",
        "\t{ 'shape' : ( 2L , 3L ) , 'descr' : '<f4' ,\r\n 'fortran_order' : False } \n\n",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        tenon_file *file = open_file(scratch_npy("p.npy", 1, headers[i], six, sizeof six), NULL);
        expect_tensor(file, "", f32, 2, (int64_t[]){2, 3}, six, sizeof six);
        tenon_file_close(file);
    }
}

static void refuses_bad_literals(void **state)
{
    (void)state;
    static const struct {
        const char *header, *message;
    } cases[] = {
        {"", "byte 10: expected '{', found its end"},
        {"[]", "expected '{', found '['"},
        {"{}", "lacks 'descr' 'fortran_order' 'shape'"},
        {"{'descr': '<f4', 'shape': (2, 3)}", "lacks 'fortran_order'"},
        {"{'descr': '<f4', 'descr': '<f4'", "duplicate key 'descr'"},
        {"{'descr': '<f4', 'x\xff': 1", "unknown key 'x\\xff'"},
        {"{'descr' '<f4'", "expected ':'"},
        {"{'descr': <f4", "expected a quoted string, found '<'"},
        {"{'descr': '<f4", "expected the closing quote, found its end"},
        {"{'descr': '<f\\x344", "expected a plain character"},
        {"{'descr': '<f4' 'shape'", "expected ',' or '}'"},
        {"{'fortran_order': 0", "expected True or False"},
        {"{'shape': [2, 3]", "expected the tuple"},
        {"{'shape': (2 3)", "expected ',' or ')'"},
        {"{'shape': (-2, 3)", "not negative"},
        {"{'shape': (2.0, 3)", "expected ',' or ')'"},
        {"{'shape': (,)", "expected a dimension"},
        {"{'shape': (6)", "',' before ')'"},
        {"{'shape': (6", "its end"},
        {"{'shape': (9223372036854775808,)", "at most 63 bits"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", "nothing but spaces"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)", "',' or '}'"},
        {"{,}", "expected a quoted string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_refused(scratch_npy("bad.npy", 1, cases[i].header, six, sizeof six), TENON_BAD_FILE, cases[i].message,
                       NULL);
    }
    char many[512] = "{'shape': (1";
    for (int i = 0; i < 64; i++)
        strcat(many, ",1");
    expect_refused(scratch_npy("bad.npy", 1, many, six, sizeof six), TENON_BAD_FILE, "at most 64 dimensions", NULL);
}

/* B106 */
static void b106_hostile_sizes(void **state)
{
    (void)state;
    expect_refused(scratch_write("h.npy", "\x93NUMPY\2\0\xf0\xff\xff\xff", 12), TENON_BAD_FILE, "4294967280",
                   "0 follow", NULL);
    char bytes[80] = "\x93NUMPY\1\0\xff\xff";
    expect_refused(scratch_write("h.npy", bytes, sizeof bytes), TENON_BAD_FILE, "65535", "70 follow", NULL);
    for (size_t size = 6; size < 12; size++)
        expect_refused(scratch_write("h.npy", "\x93NUMPY\2\0\1\0\0\0", size), TENON_BAD_FILE, "truncated", NULL);
    expect_refused(scratch_npy("h.npy", 1,
                               "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }",
                               six, 4),
                   TENON_BAD_FILE, "[1099511627776, 1099511627776] of <f4, which is past what 64 bits", NULL);
    expect_refused(
        scratch_npy("h.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }", bytes, 52),
        TENON_BAD_FILE,
        "h.npy: header says shape [3, 5] of <f4 = 60 bytes but 52 bytes of data follow; the file is truncated", NULL);
    expect_refused(scratch_npy("h.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", bytes, 52),
                   TENON_BAD_FILE, "= 48 bytes but 52", "too long", NULL);
    static char long_header[(1 << 20) + 2];
    memset(long_header, ' ', sizeof long_header - 1);
    expect_refused(scratch_npy("h.npy", 2, long_header, NULL, 0), TENON_BAD_FILE, "1048577 bytes long", NULL);
}

/* ---- writing ---- */

static void write_array(const char *path, DLDataType dtype, int ndim, const int64_t *shape, const void *data,
                        size_t size)
{
    tenon_error error;
    tenon_writer *w = NULL;
    if (tenon_writer_new(path, &w, &error) != TENON_OK) fail_msg("%s", error.message);
    assert_int_equal(tenon_writer_add(w, "ignored", dtype, ndim, shape, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_write(w, 0, data, size, &error), TENON_OK);
    assert_int_equal(tenon_writer_commit(w, &error), TENON_OK);
    tenon_writer_free(w);
}

static void writes_what_it_reads(void **state)
{
    (void)state;
    const char *path = scratch_path("w.npy");
    static const struct {
        int ndim;
        int64_t shape[3];
        size_t size;
    } cases[] = {{2, {2, 3}, 24}, {1, {6}, 24}, {0, {0}, 4}, {3, {2, 0, 3}, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_array(path, f32, cases[i].ndim, cases[i].shape, six, cases[i].size);
        tenon_file *file = open_file(path, NULL);
        expect_tensor(file, "", f32, cases[i].ndim, cases[i].shape, six, cases[i].size);
        tenon_file_close(file);
    }
    char head[128];
    FILE *in = fopen(path, "rb");
    assert_int_equal(fread(head, 1, 128, in), 128);
    assert_int_equal(fread(head, 1, 1, in), 0);
    fclose(in);
    assert_int_equal(head[127], '\n'); /* the data begins at a multiple of 64 */
    write_array(path, boolean, 1, (int64_t[]){2}, "\0\1", 2);
    tenon_file *file = open_file(path, NULL);
    expect_tensor(file, "", boolean, 1, (int64_t[]){2}, "\0\1", 2);
    tenon_file_close(file);
    write_array(path, bf16, 1, (int64_t[]){1}, (uint16_t[]){0x3f80}, 2);
    file = open_file(path, NULL);
    expect_tensor(file, "", u16, 1, (int64_t[]){1}, (uint16_t[]){0x3f80}, 2);
    tenon_file_close(file);
}

/* Whole blocks, a piece that ends within one, and the rest, which then begins within one: all must arrive, whichever
 * way each went. */
static void writes_directly(void **state)
{
    (void)state;
    enum { block = 4096, size = 5 * block + 1000, first = 2 * block, second = 999 };
    static const char *const names[] = {"direct.npy", "direct.safetensors"};
    unsigned char *data = NULL;
    assert_int_equal(posix_memalign((void **)&data, block, size), 0);
    for (int i = 0; i < size; i++)
        data[i] = (unsigned char)(i % 251);
    for (int i = 0; i < 2; i++) {
        tenon_error error;
        tenon_writer *w = NULL;
        assert_int_equal(tenon_writer_new(scratch_path(names[i]), &w, &error), TENON_OK);
        assert_int_equal(tenon_writer_set_direct(w, &error), TENON_OK);
        assert_int_equal(tenon_writer_add(w, "x", u8, 1, (int64_t[]){size}, NULL, &error), TENON_OK);
        assert_int_equal(tenon_writer_write(w, 0, data, first, &error), TENON_OK);
        assert_int_equal(tenon_writer_set_direct(w, &error), TENON_INVALID);
        expect_message(&error, "after the first write", NULL);
        assert_int_equal(tenon_writer_write(w, 0, data + first, second, &error), TENON_OK);
        assert_int_equal(tenon_writer_write(w, 0, data + first + second, size - first - second, &error), TENON_OK);
        assert_int_equal(tenon_writer_commit(w, &error), TENON_OK);
        tenon_writer_free(w);
        struct stat status;
        assert_int_equal(stat(scratch_path(names[i]), &status), 0);
        assert_int_equal(status.st_size, block + size); /* the data begins at a multiple of a block */
        tenon_file *file = open_file(scratch_path(names[i]), NULL);
        expect_tensor(file, i == 0 ? "" : "x", u8, 1, (int64_t[]){size}, data, size);
        tenon_file_close(file);
    }
    free(data);
}

static void writes_many_dimensions(void **state)
{
    (void)state;
    int64_t shape[64];
    for (int i = 0; i < 63; i++)
        shape[i] = INT64_MAX;
    shape[63] = 0;
    const char *path = scratch_path("dims.npy");
    write_array(path, u8, 64, shape, NULL, 0);
    tenon_file *file = open_file(path, NULL);
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    assert_int_equal(tenon_file_get_tensor(file, 0, &tensor, NULL), TENON_OK);
    assert_int_equal(tensor.ndim, 64);
    assert_memory_equal(tensor.shape, shape, sizeof shape);
    tenon_file_close(file);
}

static void npy_writer_refuses(void **state)
{
    (void)state;
    tenon_error error;
    tenon_writer *w = NULL;
    assert_int_equal(tenon_writer_new(scratch_path("r.npy"), &w, &error), TENON_OK);
    assert_int_equal(tenon_writer_commit(w, &error), TENON_INVALID);
    expect_message(&error, "no tensor", NULL);
    assert_int_equal(tenon_writer_set_metadata(w, "a", "b", &error), TENON_UNSUPPORTED);
    assert_int_equal(tenon_writer_add(w, NULL, u8, 1, (int64_t[]){3}, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_add(w, "b", u8, 1, (int64_t[]){3}, NULL, &error), TENON_INVALID);
    expect_message(&error, "one tensor", NULL);
    tenon_writer_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(b107_reads_each_version),
        cmocka_unit_test(b107_long_header),
        cmocka_unit_test(b107_fortran_order),
        cmocka_unit_test(reads_columns),
        cmocka_unit_test(reads_columns_of_each_width),
        cmocka_unit_test(reads_each_type),
        cmocka_unit_test(c18_other_spellings),
        cmocka_unit_test(c18_objects),
        cmocka_unit_test(asks_about_two_bytes_of_void),
        cmocka_unit_test(b45_names_carry_no_meaning),
        cmocka_unit_test(reads_slices_of_converted_types),
        cmocka_unit_test(narrows_to_nearest_in_any_mode),
        cmocka_unit_test(f64_is_kept_when_asked),
        cmocka_unit_test(accepts_what_python_writes),
        cmocka_unit_test(refuses_bad_literals),
        cmocka_unit_test(b106_hostile_sizes),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(writes_directly),
        cmocka_unit_test(writes_many_dimensions),
        cmocka_unit_test(npy_writer_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
