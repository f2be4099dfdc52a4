/* SPDX-License-Identifier: MIT */
/* Files made by the reference implementations (scripts/make_format_fixtures.py) are read as they meant them. */
#include "core/dtype.h"
#include "scratch.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define DATA TESTS_DIR "/data/formats/"

enum { max_bytes = 4096 };

/* The script's formula: element i of an array of this dtype, as its bytes. */
static void make_element(DLDataType dtype, int i, void *bytes)
{
    const double real = (i - 2) * 0.75;
    const int64_t integer = 7 * i - (dtype.code == kDLInt ? 5 : 0);
    tn_dtype known;
    if (tn_dtype_from_dlpack(dtype, &known)) {
        tn_store(bytes, known, 0, real);
    } else if (dtype.code == kDLInt || dtype.code == kDLUInt) {
        memcpy(bytes, &integer, dtype.bits / 8); /* little-endian machines */
    } else {
        *(unsigned char *)bytes = i % 2 == 1;
    }
}

/* Tensor `index` is elements first, first + 1, ... of the formula. */
static void expect_pattern(const tenon_file *file, int64_t index, DLDataType dtype, int first, const char *what)
{
    tenon_file_tensor tensor;
    tenon_error error;
    tenon_file_tensor_init(&tensor);
    assert_int_equal(tenon_file_get_tensor(file, index, &tensor, &error), TENON_OK);
    if (tensor.dtype.code != dtype.code || tensor.dtype.bits != dtype.bits) fail_msg("%s: dtype", what);
    int64_t count = 1;
    for (int i = 0; i < tensor.ndim; i++)
        count *= tensor.shape[i];
    unsigned char data[max_bytes], expected[8] = {0};
    const int64_t slices = tensor.ndim > 0 ? tensor.shape[0] : 1;
    if (tenon_file_read(file, index, 0, slices, data, sizeof data, &error) != TENON_OK) fail_msg("%s", error.message);
    for (int i = 0; i < count; i++) {
        make_element(dtype, first + i, expected);
        if (memcmp(data + i * (dtype.bits / 8), expected, dtype.bits / 8) != 0) fail_msg("%s: element %d", what, i);
    }
}

static const struct {
    const char *name, *npy;
    DLDataType dtype;
} types[] = {
    {"F32", "f4", {kDLFloat, 32, 1}}, {"F16", "f2", {kDLFloat, 16, 1}}, {"BF16", NULL, {kDLBfloat, 16, 1}},
    {"F64", "f8", {kDLFloat, 32, 1}}, {"I64", "i8", {kDLInt, 64, 1}},   {"I32", "i4", {kDLInt, 32, 1}},
    {"I16", "i2", {kDLInt, 16, 1}},   {"I8", "i1", {kDLInt, 8, 1}},     {"U64", "u8", {kDLUInt, 64, 1}},
    {"U32", "u4", {kDLUInt, 32, 1}},  {"U16", "u2", {kDLUInt, 16, 1}},  {"U8", "u1", {kDLUInt, 8, 1}},
    {"BOOL", "b1", {6, 8, 1}},
};
enum { num_types = sizeof types / sizeof types[0] };

static void safetensors_of_every_dtype(void **state)
{
    (void)state;
    tenon_file *file = open_file(DATA "dtypes.safetensors", NULL);
    assert_string_equal(tenon_file_metadata(file, "format"), "pt");
    assert_string_equal(tenon_file_metadata(file, "note"), "caf\xc3\xa9 \"q\"\n");
    for (int i = 0; i < num_types; i++) {
        char name[32];
        int64_t index = -1;
        assert_int_equal(tenon_file_find_tensor(file, types[i].name, &index, NULL), TENON_OK);
        expect_pattern(file, index, types[i].dtype, 0, types[i].name);
        snprintf(name, sizeof name, "%s.scalar", types[i].name);
        if (tenon_file_find_tensor(file, name, &index, NULL) == TENON_OK) {
            expect_pattern(file, index, types[i].dtype, 3, name);
        }
        snprintf(name, sizeof name, "%s.empty", types[i].name);
        if (tenon_file_find_tensor(file, name, &index, NULL) == TENON_OK) {
            expect_pattern(file, index, types[i].dtype, 0, name);
        }
    }
    tenon_file_close(file);
}

static void read_floats(const tenon_file *file, const char *name, float *data, int64_t count)
{
    int64_t index = -1;
    tenon_error error;
    assert_int_equal(tenon_file_find_tensor(file, name, &index, NULL), TENON_OK);
    if (tenon_file_read(file, index, 0, count, data, (size_t)count * sizeof *data, &error) != TENON_OK) {
        fail_msg("%s", error.message);
    }
}

/* B41: all 256 codes of both 8-bit floats against PyTorch's conversion. */
static void eight_bit_floats_are_pytorchs(void **state)
{
    (void)state;
    tenon_file *file = open_file(DATA "dtypes.safetensors", NULL);
    static const char *const names[] = {"F8_E4M3", "F8_E5M2"};
    for (int t = 0; t < 2; t++) {
        char name[32];
        float got[256], expected[256];
        snprintf(name, sizeof name, "%s.f32", names[t]);
        read_floats(file, names[t], got, 256);
        read_floats(file, name, expected, 256);
        for (int i = 0; i < 256; i++) {
            const bool same = tn_f32_to_bits(got[i]) == tn_f32_to_bits(expected[i]);
            if (!same && !(isnan(got[i]) && isnan(expected[i]))) fail_msg("%s code %d", names[t], i);
        }
    }
    tenon_file_close(file);
}

static void other_safetensors(void **state)
{
    (void)state;
    tenon_file *file = open_file(DATA "empty.safetensors", NULL);
    assert_int_equal(tenon_file_num_tensors(file), 0);
    tenon_file_close(file);
    file = open_file(DATA "unaligned.safetensors", NULL);
    expect_pattern(file, 0, (DLDataType){kDLUInt, 8, 1}, 0, "u");
    expect_pattern(file, 1, (DLDataType){kDLFloat, 32, 1}, 0, "f");
    tenon_file_close(file);
    file = open_file(DATA "sharded", NULL);
    assert_string_equal(tenon_file_kind(file), "safetensors index");
    int64_t a = -1, b = -1;
    assert_int_equal(tenon_file_find_tensor(file, "a", &a, NULL), TENON_OK);
    assert_int_equal(tenon_file_find_tensor(file, "b", &b, NULL), TENON_OK);
    expect_pattern(file, a, (DLDataType){kDLFloat, 32, 1}, 0, "a");
    expect_pattern(file, b, (DLDataType){kDLInt, 64, 1}, 0, "b");
    tenon_file_close(file);
}

static void expect_npy(const char *name, const char *type, DLDataType dtype, int first)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s%s.npy", DATA, name, type);
    tenon_file *file = open_file(path, NULL);
    expect_pattern(file, 0, dtype, first, path);
    tenon_file_close(file);
}

static void npy_of_every_dtype(void **state)
{
    (void)state;
    for (int i = 0; i < num_types; i++) {
        if (types[i].npy == NULL) continue;
        if (types[i].npy[1] == '1') {
            expect_npy("byte-", types[i].npy, types[i].dtype, 0);
        } else {
            expect_npy("little-", types[i].npy, types[i].dtype, 0);
            expect_npy("big-", types[i].npy, types[i].dtype, 0);
        }
    }
}

/* B107 */
static void other_npy(void **state)
{
    (void)state;
    const DLDataType f32 = {kDLFloat, 32, 1};
    expect_npy("version1", "", f32, 0);
    expect_npy("version2", "", f32, 0);
    expect_npy("version3", "", f32, 0);
    expect_npy("scalar", "", f32, 2);
    expect_npy("empty", "", f32, 0);
    expect_npy("fortran-vector", "", f32, 0);
    expect_npy("fortran", "", f32, 0);
    expect_refused(DATA "structured.npy", TENON_UNSUPPORTED, "structured", NULL);
    expect_refused(DATA "complex.npy", TENON_UNSUPPORTED, "'<c8'", NULL);
}

/* GGUF's types without blocks, and its metadata, as the package gguf writes them. */
static void gguf_of_every_type(void **state)
{
    (void)state;
    static const char *const values[][2] = {{"general.architecture", "clip"},
                                            {"general.name", "caf\xc3\xa9 \"q\"\n"},
                                            {"value.uint8", "200"},
                                            {"value.int8", "-100"},
                                            {"value.uint16", "60000"},
                                            {"value.int16", "-30000"},
                                            {"value.uint32", "4000000000"},
                                            {"value.int32", "-2000000000"},
                                            {"value.uint64", "18446744073709551615"},
                                            {"value.int64", "-9223372036854775808"},
                                            {"value.float32", "1e-05"},
                                            {"value.float64", "0.1"},
                                            {"value.bool", "true"},
                                            {"array.floats", "[0.5, 0.25, 1.0]"},
                                            {"array.bools", "[true, false]"},
                                            {"array.integers", "[-1, 2, 3]"},
                                            {"array.strings", "[3 strings]"}};
    const int64_t count = sizeof values / sizeof values[0];
    tenon_file *file = open_file(DATA "types.gguf", NULL);
    assert_string_equal(tenon_file_kind(file), "GGUF");
    for (int64_t i = 0; i < count; i++) {
        assert_string_equal(tenon_file_metadata_key(file, i), values[i][0]);
        assert_string_equal(tenon_file_metadata(file, values[i][0]), values[i][1]);
    }
    assert_null(tenon_file_metadata_key(file, count));
    assert_null(tenon_file_metadata_key(file, -1));
    for (int i = 0; i < num_types; i++) {
        int64_t index;
        if (tenon_file_find_tensor(file, types[i].name, &index, NULL) != TENON_OK) continue;
        expect_pattern(file, index, types[i].dtype, 0, types[i].name);
    }
    tenon_file_close(file);
}

/* Every bit of every quantised value against the package gguf, whole and in slices. */
static void gguf_blocks_are_the_references(void **state)
{
    (void)state;
    enum { rows = 3, row = 256 };
    static const char *const names[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
    tenon_file *file = open_file(DATA "types.gguf", NULL), *reference = open_file(DATA "types-gguf.safetensors", NULL);
    for (size_t t = 0; t < sizeof names / sizeof names[0]; t++) {
        static float expected[rows * row], got[rows * row];
        int64_t index = -1, at = -1;
        tenon_error error;
        assert_int_equal(tenon_file_find_tensor(reference, names[t], &at, NULL), TENON_OK);
        assert_int_equal(tenon_file_read(reference, at, 0, rows, expected, sizeof expected, &error), TENON_OK);
        assert_int_equal(tenon_file_find_tensor(file, names[t], &index, NULL), TENON_OK);
        for (int first = 0; first < rows; first++) {
            for (int count = 1; first + count <= rows; count++) {
                const size_t bytes = (size_t)count * row * sizeof *got;
                if (tenon_file_read(file, index, first, count, got, bytes, &error) != TENON_OK)
                    fail_msg("%s", error.message);
                if (memcmp(got, expected + first * row, bytes) != 0) fail_msg("%s from row %d", names[t], first);
            }
        }
    }
    tenon_file_close(file);
    tenon_file_close(reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_of_every_dtype),
        cmocka_unit_test(eight_bit_floats_are_pytorchs),
        cmocka_unit_test(other_safetensors),
        cmocka_unit_test(npy_of_every_dtype),
        cmocka_unit_test(other_npy),
        cmocka_unit_test(gguf_of_every_type),
        cmocka_unit_test(gguf_blocks_are_the_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
