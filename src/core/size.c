/* SPDX-License-Identifier: MIT */
/* Sizes of dense tensors. */
#include "core/size.h"

bool tn_shape_bytes(int ndim, const int64_t *shape, size_t element, size_t *bytes)
{
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0) return false;
        empty = empty || shape[i] == 0;
    }
    size_t total = empty ? 0 : element;
    for (int i = 0; i < ndim && !empty; i++) {
        if (!tn_mul_size(total, (size_t)shape[i], &total) || total > INT64_MAX) return false;
    }
    *bytes = total;
    return true;
}
