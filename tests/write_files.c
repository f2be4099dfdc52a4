/* SPDX-License-Identifier: MIT */
/* Writes files of every dtype and layout into a folder, for scripts/check_written_files.py to read back with the
 * reference implementations. Element i of an array has the value that the script computes. */
#include "tenon/tenon.h"

#include "core/dtype.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) != TENON_OK) {                                                                                      \
            fprintf(stderr, "%s\n", error.message);                                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static tenon_error error;

static const struct {
    const char *name;
    DLDataType dtype;
} types[] = {
    {"bool", {6, 8, 1}},          {"u8", {kDLUInt, 8, 1}},   {"i8", {kDLInt, 8, 1}},    {"f16", {kDLFloat, 16, 1}},
    {"bf16", {kDLBfloat, 16, 1}}, {"u16", {kDLUInt, 16, 1}}, {"i16", {kDLInt, 16, 1}},  {"f32", {kDLFloat, 32, 1}},
    {"u32", {kDLUInt, 32, 1}},    {"i32", {kDLInt, 32, 1}},  {"u64", {kDLUInt, 64, 1}}, {"i64", {kDLInt, 64, 1}},
};
enum { num_types = sizeof types / sizeof types[0] };

static const struct {
    const char *name;
    int ndim;
    int64_t shape[3];
    int64_t count;
} shapes[] = {{"matrix", 2, {3, 5}, 15}, {"vector", 1, {7}, 7}, {"scalar", 0, {0}, 1}, {"empty", 3, {2, 0, 4}, 0}};
enum { num_shapes = sizeof shapes / sizeof shapes[0] };

/* Elements of the script's `pattern`. */
static void fill(DLDataType dtype, int64_t count, unsigned char *data)
{
    const size_t size = dtype.bits / 8;
    for (int64_t i = 0; i < count; i++, data += size) {
        const int64_t integer = 7 * i - (dtype.code == kDLInt ? 5 : 0);
        tn_dtype known;
        if (tn_dtype_from_dlpack(dtype, &known)) {
            tn_store(data, known, 0, (double)(i - 2) * 0.75);
        } else if (dtype.code == kDLInt || dtype.code == kDLUInt) {
            memcpy(data, &integer, size);
        } else {
            *data = i % 2 == 1;
        }
    }
}

static void write_npy(const char *folder, int type, int shape)
{
    char path[1024];
    unsigned char data[256];
    tenon_writer *writer = NULL;
    snprintf(path, sizeof path, "%s/%s-%s.npy", folder, types[type].name, shapes[shape].name);
    fill(types[type].dtype, shapes[shape].count, data);
    TRY(tenon_writer_new(path, &writer, &error));
    TRY(tenon_writer_add(writer, NULL, types[type].dtype, shapes[shape].ndim, shapes[shape].shape, NULL, &error));
    TRY(tenon_writer_write(writer, 0, data, (size_t)shapes[shape].count * types[type].dtype.bits / 8, &error));
    TRY(tenon_writer_commit(writer, &error));
    tenon_writer_free(writer);
}

/* All of them in one file, declared from small types to large, written byte by byte from the last to the first. */
static void write_safetensors(const char *folder)
{
    char path[1024], name[64];
    tenon_writer *writer = NULL;
    snprintf(path, sizeof path, "%s/all.safetensors", folder);
    TRY(tenon_writer_new(path, &writer, &error));
    TRY(tenon_writer_set_metadata(writer, "format", "pt", &error));
    TRY(tenon_writer_set_metadata(writer, "note", "caf\xc3\xa9 \"q\"\n\t\\", &error));
    for (int i = 0; i < num_types * num_shapes; i++) {
        const int type = i / num_shapes, shape = i % num_shapes;
        snprintf(name, sizeof name, "%s-%s", types[type].name, shapes[shape].name);
        TRY(tenon_writer_add(writer, name, types[type].dtype, shapes[shape].ndim, shapes[shape].shape, NULL, &error));
    }
    for (int i = num_types * num_shapes - 1; i >= 0; i--) {
        unsigned char data[256];
        const int type = i / num_shapes, shape = i % num_shapes;
        fill(types[type].dtype, shapes[shape].count, data);
        const size_t bytes = (size_t)shapes[shape].count * types[type].dtype.bits / 8;
        for (size_t j = 0; j < bytes; j++)
            TRY(tenon_writer_write(writer, i, data + j, 1, &error));
    }
    TRY(tenon_writer_commit(writer, &error));
    tenon_writer_free(writer);
}

/* The types that GGUF has, and Q8_0: 8 rows of two blocks, of which some are zeros and some are tiny. */
static void write_gguf(const char *folder)
{
    enum { rows = 8, row = 64 };
    static float values[rows * row];
    char path[1024], name[64];
    tenon_writer *writer = NULL;
    int64_t index;
    snprintf(path, sizeof path, "%s/all.gguf", folder);
    for (int i = 0; i < rows * row; i++)
        values[i] = i / 32 % 5 == 4 ? 0 : (float)(i * 7919 % 1009 - 504) * (i / 32 % 5 == 3 ? 1e-6f : 0.0137f);
    TRY(tenon_writer_new(path, &writer, &error));
    TRY(tenon_writer_set_metadata(writer, "general.architecture", "clip", &error));
    TRY(tenon_writer_set_metadata(writer, "note", "caf\xc3\xa9 \"q\"\n\t\\", &error));
    TRY(tenon_writer_add_as(writer, "q8_0", "Q8_0", 2, (int64_t[]){rows, row}, &index, &error));
    for (int i = 0; i < num_types * num_shapes; i++) {
        const int type = i / num_shapes, shape = i % num_shapes;
        if (types[type].dtype.code == kDLUInt || types[type].dtype.code == 6) continue;
        snprintf(name, sizeof name, "%s-%s", types[type].name, shapes[shape].name);
        TRY(tenon_writer_add(writer, name, types[type].dtype, shapes[shape].ndim, shapes[shape].shape, &index, &error));
    }
    TRY(tenon_writer_write(writer, 0, values, 3 * 128, &error)); /* in pieces */
    for (int i = num_types * num_shapes - 1; i >= 0; i--) {
        unsigned char data[256];
        const int type = i / num_shapes, shape = i % num_shapes;
        if (types[type].dtype.code == kDLUInt || types[type].dtype.code == 6) continue;
        fill(types[type].dtype, shapes[shape].count, data);
        TRY(tenon_writer_write(writer, index--, data, (size_t)shapes[shape].count * types[type].dtype.bits / 8,
                               &error));
    }
    TRY(tenon_writer_write(writer, 0, values + 96, sizeof values - 3 * 128, &error));
    TRY(tenon_writer_commit(writer, &error));
    tenon_writer_free(writer);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    write_safetensors(argv[1]);
    write_gguf(argv[1]);
    for (int i = 0; i < num_types * num_shapes; i++)
        write_npy(argv[1], i / num_shapes, i % num_shapes);
    return 0;
}
