/* SPDX-License-Identifier: MIT */
/* Names for contents: XXH3, 128 bits. */
#ifndef TN_CLI_HASH_H
#define TN_CLI_HASH_H

#include "tenon/tenon.h"

enum { TN_HASH_SIZE = 33 }; /* hexadecimal and NUL */
typedef struct tn_hasher tn_hasher;

/* A hash of a tensor: of its shape, then of its elements as they are fed. NULL: no memory. */
tn_hasher *tn_hasher_new(int ndim, const int64_t *shape);
void tn_hasher_add(tn_hasher *hasher, const void *data, size_t bytes);

/* Writes the hash and frees; NULL hashes to "". */
void tn_hasher_finish(tn_hasher *hasher, char hash[TN_HASH_SIZE]);

/* The hash of an adapter's parameters: names, dtypes, shapes, data. */
bool tn_hash_weights(const tenon_adapter *adapter, char hash[TN_HASH_SIZE], tenon_error *error);

/* Feeds the size of a file, and its first, middle and last 4 KiB: tells files of other contents apart, as long as they
 * differ there, without reading them. */
bool tn_hash_sample(tn_hasher *hasher, const char *path, tenon_error *error);

/* The hash of one tensor of an open file, read piece by piece. */
bool tn_hash_tensor(const tenon_file *file, int64_t index, char hash[TN_HASH_SIZE], tenon_error *error);

#endif
