/* SPDX-License-Identifier: MIT */
/* Checks of the tensors a caller hands in, and a plain view of them. */
#ifndef TN_CORE_TENSOR_H
#define TN_CORE_TENSOR_H

#include "core/dtype.h"
#include "tenon/tenon.h"

enum { TN_MAX_DIMS = 4 };

/* A checked CPU tensor: data points at element 0, strides are in elements and always filled. */
typedef struct tn_tensor {
    void *data;
    tn_dtype dtype;
    int ndim;
    int64_t shape[TN_MAX_DIMS];
    int64_t stride[TN_MAX_DIMS];
} tn_tensor;

/* A view of `tensor`, which must be on the CPU, of a dtype tenon computes with, and of `ndim` dimensions; `name` is
 * what sentences call it. Sizes and reachable offsets are checked against int64; an empty tensor may have no data. */
tenon_status tn_tensor_view(const DLTensor *tensor, const char *name, int ndim, tn_tensor *view, tenon_error *error);

/* The same for a tensor whose first axis is the images, and of the shape `expected` [ndim] (NULL: any). With
 * `one_image` it comes without that axis, and the view gets one of length 1. A table that computes in float64
 * (`compute` TN_F64: the one of the tests) takes float64 too. */
tenon_status tn_images_view(const DLTensor *tensor, const char *name, int ndim, bool one_image, tn_dtype compute,
                            const int64_t *expected, tn_tensor *view, tenon_error *error);

tenon_status tn_check_shape(const tn_tensor *tensor, const char *name, const int64_t *expected, tenon_error *error);

/* Gives a view of one image the axis of images: shape (1, ...). */
void tn_tensor_add_images(tn_tensor *view);

/* As tn_tensor_view for a mask: bool, int8 or uint8, read as bytes; view->dtype is not set. */
tenon_status tn_mask_view(const DLTensor *tensor, const char *name, int ndim, tn_tensor *view, tenon_error *error);

/* True when element order is dense row-major. */
bool tn_tensor_is_dense(const tn_tensor *tensor);

/* True when no two elements share an address. */
bool tn_tensor_is_injective(const tn_tensor *tensor);

/* True when the byte ranges that the two tensors span meet. */
bool tn_tensor_overlap(const tn_tensor *a, size_t a_element, const tn_tensor *b, size_t b_element);

#endif
