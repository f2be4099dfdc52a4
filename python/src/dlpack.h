/* DLPack 1.0's versioned exchange struct, for headers that are older than it; and the names of capsules. */
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

enum { TNPY_READ_ONLY = 1 }; /* bit of `flags` */
enum { TNPY_DLPACK_MAJOR = 1, TNPY_DLPACK_BOOL = 6 };

#define TNPY_LEGACY_NAME "dltensor"
#define TNPY_VERSIONED_NAME "dltensor_versioned"

#endif
