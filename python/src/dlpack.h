/* SPDX-License-Identifier: MIT */
/* What is newer in DLPack than the headers that systems have: 1.0's versioned struct, 1.3's table of C functions; and
 * the names of capsules. */
#ifndef TENON_PYTHON_DLPACK_H
#define TENON_PYTHON_DLPACK_H

#include <dlpack/dlpack.h>

typedef struct tnpy_versioned {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    void *manager_ctx;
    void (*deleter)(struct tnpy_versioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} tnpy_versioned;

/* What a type of tensors has in its attribute. Only the last is used. */
typedef struct tnpy_exchange {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    struct tnpy_exchange *older;
    int (*managed_tensor_allocator)(DLTensor *, tnpy_versioned **, void *,
                                    void (*)(void *, const char *, const char *));
    int (*managed_tensor_from_py_object_no_sync)(void *, tnpy_versioned **);
    int (*managed_tensor_to_py_object_no_sync)(tnpy_versioned *, void **);
    int (*dltensor_from_py_object_no_sync)(void *, DLTensor *); /* NULL: it has none. Returns -1 with an exception. */
} tnpy_exchange;

#define TNPY_EXCHANGE_ATTRIBUTE "__dlpack_c_exchange_api__"
#define TNPY_EXCHANGE_NAME "dlpack_exchange_api"

enum { TNPY_READ_ONLY = 1 }; /* bit of `flags` */
enum { TNPY_DLPACK_MAJOR = 1, TNPY_DLPACK_BOOL = 6 };

#define TNPY_LEGACY_NAME "dltensor"
#define TNPY_VERSIONED_NAME "dltensor_versioned"

#endif
