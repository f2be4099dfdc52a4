/* SPDX-License-Identifier: MIT */
/* Fuzz target: the input is a file of any kind, opened and read whole. libFuzzer drives it (-DTENON_FUZZ=ON, clang), or
 * replay.c, which every build has. The file is named as an index of shards would be, in a folder with two shards, so
 * that an input that is an index finds something to open. */
#include "fuzz_file.h"

#include "tenon/tenon.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64], path[128];

static void write_file(const char *name, const void *data, size_t size)
{
    FILE *out = fopen(name, "wb");
    if (out == NULL || fwrite(data, 1, size, out) != size || fclose(out) != 0) abort();
}

static void write_shard(const char *name, const char *header, const char *data)
{
    char shard[128], all[512] = "";
    snprintf(shard, sizeof shard, "%s/%s", folder, name);
    const size_t length = strlen(header), size = strlen(data);
    all[0] = (char)length;
    memcpy(all + 8, header, length);
    memcpy(all + 8 + length, data, size);
    write_file(shard, all, 8 + length + size);
}

static void remove_folder(void)
{
    char shard[128];
    snprintf(shard, sizeof shard, "%s/1.safetensors", folder);
    remove(shard);
    snprintf(shard, sizeof shard, "%s/2.safetensors", folder);
    remove(shard);
    remove(path);
    remove(folder);
}

static void make_folder(void)
{
    if (folder[0] != 0) return;
    snprintf(folder, sizeof folder, "%s/tenon-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (mkdtemp(folder) == NULL) abort();
    atexit(remove_folder);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    write_shard("1.safetensors", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "abcd");
    write_shard("2.safetensors", "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", "xy");
}

/* A slice in the middle, then the whole; a buffer of exactly the bytes needed lets the sanitizers see one too many. */
static void read_tensor(const tenon_file *file, int64_t index, size_t file_size)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(file, index, &tensor, NULL) != TENON_OK) abort();
    int64_t found = -1;
    if (tensor.absent_shard != NULL) { /* only its name is known */
        if (tenon_file_find_tensor(file, tensor.name, &found, NULL) != TENON_NOT_FOUND || tensor.ndim != 0) abort();
        if (tenon_file_read(file, index, 0, 1, NULL, 0, NULL) != TENON_NOT_FOUND) abort();
        return;
    }
    if (tenon_file_find_tensor(file, tensor.name, &found, NULL) != TENON_OK || found != index) abort();
    const int64_t slices = tensor.ndim > 0 ? tensor.shape[0] : 1;
    size_t bytes = tensor.dtype.bits / 8;
    for (int i = 0; i < tensor.ndim && bytes > 0; i++) {
        if (tensor.shape[i] < 0) abort();
        bytes = tensor.shape[i] == 0 || bytes > 16 * file_size ? 0 : bytes * (size_t)tensor.shape[i];
    }
    for (int i = 0; i < tensor.ndim; i++) {
        if (tensor.shape[i] == 0) bytes = 0;
    }
    char *data = malloc(bytes > 0 ? bytes : 1);
    if (data == NULL) abort();
    tenon_status status = tenon_file_read(file, index, slices / 2, slices > 0, data, bytes, NULL);
    status = tenon_file_read(file, index, 0, slices, data, bytes, NULL);
    /* What was opened is sound, so it is readable unless its dtype is not. */
    if (status != TENON_OK && tensor.dtype.code != kDLOpaqueHandle) abort();
    free(data);
}

static void open_and_read(bool npy_bfloat16, size_t size)
{
    tenon_file_options options;
    tenon_file_options_init(&options);
    options.npy_bfloat16 = npy_bfloat16;
    tenon_file *file = NULL;
    tenon_error error = {""};
    const tenon_status status = tenon_file_open(path, &options, &file, &error);
    if (status != TENON_OK) {
        if (file != NULL || error.message[0] == 0) abort();
        return;
    }
    if (tenon_file_kind(file) == NULL) abort();
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++)
        read_tensor(file, i, size + 64);
    tenon_file_metadata(file, "format");
    tenon_file_close(file);
}

/* The same file as a checkpoint: shapes and names are compared with a connector's. */
static void open_as_adapter(void)
{
    tenon_load_options options;
    tenon_load_options_init(&options);
    options.config_json = "{\"type\":\"linear\",\"in_dim\":2,\"out_dim\":1}";
    tenon_adapter *adapter = NULL;
    tenon_error error = {""};
    if (tenon_adapter_open(path, &options, &adapter, &error) != TENON_OK && error.message[0] == 0) abort();
    tenon_adapter_free(adapter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    make_folder();
    write_file(path, data, size);
    open_and_read(false, size);
    open_and_read(true, size);
    open_as_adapter();
    return 0;
}
