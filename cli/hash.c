/* SPDX-License-Identifier: MIT */
#include "hash.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#ifdef TENON_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

struct tn_hasher {
    XXH3_state_t *state;
};

tn_hasher *tn_hasher_new(int ndim, const int64_t *shape)
{
    tn_hasher *hasher = malloc(sizeof *hasher);
    if (!hasher) return NULL;
    hasher->state = XXH3_createState();
    if (!hasher->state || XXH3_128bits_reset(hasher->state) != XXH_OK) {
        XXH3_freeState(hasher->state);
        free(hasher);
        return NULL;
    }
    /* The shape as text: the same on every machine. */
    const char *text = tn_shape_text(ndim, shape);
    tn_hasher_add(hasher, text, strlen(text));
    return hasher;
}

void tn_hasher_add(tn_hasher *hasher, const void *data, size_t bytes)
{
    if (hasher && bytes) XXH3_128bits_update(hasher->state, data, bytes);
}

void tn_hasher_finish(tn_hasher *hasher, char hash[TN_HASH_SIZE])
{
    hash[0] = 0;
    if (!hasher) return;
    XXH128_hash_t value = XXH3_128bits_digest(hasher->state);
    snprintf(hash, TN_HASH_SIZE, "%016" PRIx64 "%016" PRIx64, (uint64_t)value.high64, (uint64_t)value.low64);
    XXH3_freeState(hasher->state);
    free(hasher);
}

bool tn_hash_weights(const tenon_adapter *adapter, char hash[TN_HASH_SIZE], tenon_error *error)
{
    tn_hasher *hasher = tn_hasher_new(0, NULL);
    bool good = hasher || tn_error(error, "out of memory while hashing the weights");
    for (int64_t i = 0; good && i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        char head[512];
        tenon_parameter_init(&parameter);
        good = tenon_adapter_parameter(adapter, i, &parameter, error) == TENON_OK;
        if (!good) break;
        int64_t elements = parameter.shape[0] * (parameter.ndim == 2 ? parameter.shape[1] : 1);
        snprintf(head, sizeof head, "%s %s %s\n", parameter.name, tenon_dtype_name(parameter.dtype),
                 tn_shape_text(parameter.ndim, parameter.shape));
        tn_hasher_add(hasher, head, strlen(head));
        tn_hasher_add(hasher, parameter.data, (size_t)elements * tenon_dtype_size(parameter.dtype));
    }
    tn_hasher_finish(hasher, hash);
    return good;
}

/* Bytes of one slice along the first axis; 0 when the tensor is empty. */
static size_t slice_bytes(const tenon_file_tensor *tensor)
{
    size_t bytes = tensor->dtype.bits / 8;
    for (int i = 1; i < tensor->ndim; i++)
        bytes *= (size_t)tensor->shape[i];
    return bytes;
}

bool tn_hash_tensor(const tenon_file *file, int64_t index, char hash[TN_HASH_SIZE], tenon_error *error)
{
    const size_t piece = (size_t)4 << 20;
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(file, index, &tensor, error) != TENON_OK) return false;
    int64_t slices = tensor.ndim ? tensor.shape[0] : 1;
    size_t bytes = slice_bytes(&tensor);
    int64_t step = bytes && bytes < piece ? (int64_t)(piece / bytes) : 1;
    void *data = malloc(bytes * (size_t)step + 1);
    tn_hasher *hasher = tn_hasher_new(tensor.ndim, tensor.shape);
    bool good = (data && hasher) || tn_error(error, "out of memory while hashing a tensor");
    for (int64_t first = 0; good && bytes && first < slices; first += step) {
        int64_t count = slices - first < step ? slices - first : step;
        good = tenon_file_read(file, index, first, count, data, bytes * (size_t)count, error) == TENON_OK;
        if (good) tn_hasher_add(hasher, data, bytes * (size_t)count);
    }
    tn_hasher_finish(hasher, hash);
    free(data);
    return good;
}

bool tn_hash_sample(tn_hasher *hasher, const char *path, tenon_error *error)
{
    enum { PIECE = 4096 };
    char data[PIECE], text[32];
    struct stat info;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    bool good = file >= 0 && fstat(file, &info) == 0;
    const off_t size = good ? info.st_size : 0, last = size > PIECE ? size - PIECE : 0;
    const off_t places[] = {0, last / 2, last};
    tn_hasher_add(hasher, text, (size_t)snprintf(text, sizeof text, "%lld\n", (long long)size));
    for (size_t i = 0; good && i < sizeof places / sizeof *places; i++) {
        const ssize_t length = pread(file, data, PIECE, places[i]);
        good = length >= 0;
        if (good) tn_hasher_add(hasher, data, (size_t)length);
    }
    if (!good) tn_error(error, "%s: cannot read it: %s", path, strerror(errno));
    if (file >= 0) close(file);
    return good;
}
