/* SPDX-License-Identifier: MIT */
/* DLTensor, checked once at the border. */
#include "core/tensor.h"

#include "core/error.h"
#include "core/size.h"
#include <string.h>

/* Lowest and highest element offset that the shape and strides reach; false when they leave int64. */
static bool span(const tn_tensor *t, int64_t *low, int64_t *high)
{
    *low = *high = 0;
    for (int i = 0; i < t->ndim; i++) {
        int64_t reach;
        if (t->shape[i] == 0) {
            *low = *high = 0;
            return true;
        }
        if (!tn_mul_i64(t->shape[i] - 1, t->stride[i], &reach)) return false;
        if (!tn_add_i64(reach < 0 ? *low : *high, reach, reach < 0 ? low : high)) return false;
    }
    return true;
}

static bool is_empty(const tn_tensor *t)
{
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] == 0) return true;
    }
    return false;
}

/* Shape, strides and data; the dtype has been looked at. */
static tenon_status fill_view(const DLTensor *tensor, const char *name, int ndim, size_t element, tn_tensor *view,
                              tenon_error *error)
{
    const bool pinned = tensor->device.device_type == kDLCUDAHost || tensor->device.device_type == kDLROCMHost;
    if (tensor->device.device_type != kDLCPU && !pinned) {
        return tn_fail(error, TENON_UNSUPPORTED,
                       "%s is on DLPack device %d:%d; this build computes on the CPU (device 1)", name,
                       (int)tensor->device.device_type, tensor->device.device_id);
    }
    if (tensor->ndim != ndim) {
        return tn_fail(error, TENON_MISMATCH, "%s has %d dimensions %s; expected %d", name, tensor->ndim,
                       tensor->ndim > 0 && tensor->shape != NULL ? tn_shape_to_text(tensor->ndim, tensor->shape).text
                                                                 : "[]",
                       ndim);
    }
    view->ndim = ndim;
    if (ndim > 0 && tensor->shape == NULL) return tn_fail(error, TENON_INVALID, "%s has no shape", name);
    size_t bytes;
    if (!tn_shape_bytes(ndim, tensor->shape, element, &bytes)) {
        return tn_fail(error, TENON_INVALID, "%s has shape %s: negative, or too many elements for 64 bits", name,
                       tn_shape_to_text(ndim, tensor->shape).text);
    }
    int64_t dense = 1; /* of the axes behind; 0 once one of them is empty, as no stride matters then */
    for (int i = ndim - 1; i >= 0; i--) {
        view->shape[i] = tensor->shape[i];
        const bool matters = tensor->shape[i] > 1 && bytes > 0;
        view->stride[i] = tensor->strides != NULL && matters ? tensor->strides[i] : dense;
        dense *= bytes > 0 ? tensor->shape[i] : 0;
    }
    int64_t low, high, reach;
    if (!span(view, &low, &high) || __builtin_sub_overflow(high, low, &reach) || reach == INT64_MAX ||
        !tn_mul_i64(reach + 1, (int64_t)element, &reach)) {
        return tn_fail(error, TENON_INVALID, "%s has strides that reach past 64 bits", name);
    }
    if (tensor->data == NULL && !is_empty(view)) {
        return tn_fail(error, TENON_INVALID, "%s has shape %s but no data", name,
                       tn_shape_to_text(ndim, tensor->shape).text);
    }
    view->data = tensor->data != NULL ? (char *)tensor->data + tensor->byte_offset : NULL;
    if ((uintptr_t)view->data % element != 0) {
        return tn_fail(error, TENON_INVALID, "%s starts at an address that is no multiple of its element size %zu",
                       name, element);
    }
    return TENON_OK;
}

/* Whether a table that computes in `compute` reads and writes this dtype. */
static bool find_dtype(DLDataType dtype, tn_dtype compute, tn_dtype *found)
{
    *found = TN_F64;
    if (compute == TN_F64 && dtype.code == kDLFloat && dtype.bits == 64 && dtype.lanes == 1) return true;
    return tn_dtype_from_dlpack(dtype, found);
}

static tenon_status view_tensor(const DLTensor *tensor, const char *name, int ndim, tn_dtype compute, tn_tensor *view,
                                tenon_error *error)
{
    if (tensor == NULL) return tn_fail(error, TENON_INVALID, "%s is NULL", name);
    tn_tensor found;
    if (!find_dtype(tensor->dtype, compute, &found.dtype)) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s is %s; expected float32, bfloat16 or float16", name,
                       tn_dlpack_to_text(tensor->dtype).text);
    }
    TN_TRY(fill_view(tensor, name, ndim, tn_dtype_size(found.dtype), &found, error));
    *view = found;
    return TENON_OK;
}

tenon_status tn_tensor_view(const DLTensor *tensor, const char *name, int ndim, tn_tensor *view, tenon_error *error)
{
    return view_tensor(tensor, name, ndim, TN_F32, view, error);
}

void tn_tensor_add_images(tn_tensor *view)
{
    for (int i = view->ndim; i > 0; i--) {
        view->shape[i] = view->shape[i - 1];
        view->stride[i] = view->stride[i - 1];
    }
    view->ndim++;
    view->shape[0] = 1;
    view->stride[0] = 0; /* never used: there is no second image */
}

tenon_status tn_check_shape(const tn_tensor *tensor, const char *name, const int64_t *expected, tenon_error *error)
{
    if (memcmp(tensor->shape, expected, (size_t)tensor->ndim * sizeof expected[0]) == 0) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH, "%s has shape %s; expected %s", name,
                   tn_shape_to_text(tensor->ndim, tensor->shape).text, tn_shape_to_text(tensor->ndim, expected).text);
}

tenon_status tn_images_view(const DLTensor *tensor, const char *name, int ndim, bool one_image, tn_dtype compute,
                            const int64_t *expected, tn_tensor *view, tenon_error *error)
{
    const int skip = one_image ? 1 : 0;
    if (one_image && tensor != NULL && tensor->ndim != ndim - skip) {
        return tn_fail(error, TENON_MISMATCH,
                       "%s has %d dimensions; expected %d, because x is one image without an axis of images", name,
                       tensor->ndim, ndim - skip);
    }
    TN_TRY(view_tensor(tensor, name, ndim - skip, compute, view, error));
    if (expected != NULL) TN_TRY(tn_check_shape(view, name, expected + skip, error));
    if (one_image) tn_tensor_add_images(view);
    return TENON_OK;
}

tenon_status tn_mask_view(const DLTensor *tensor, const char *name, int ndim, tn_tensor *view, tenon_error *error)
{
    if (tensor == NULL) return tn_fail(error, TENON_INVALID, "%s is NULL", name);
    const uint8_t code_bool = 6; /* DLPack 0.8 and later names it kDLBool */
    const uint8_t code = tensor->dtype.code;
    if ((code != kDLInt && code != kDLUInt && code != code_bool) || tensor->dtype.bits != 8 ||
        tensor->dtype.lanes != 1) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s is %s; expected bool, int8 or uint8", name,
                       tn_dlpack_to_text(tensor->dtype).text);
    }
    tn_tensor found = {.dtype = TN_F32};
    TN_TRY(fill_view(tensor, name, ndim, 1, &found, error));
    *view = found;
    return TENON_OK;
}

bool tn_tensor_is_dense(const tn_tensor *tensor)
{
    int64_t dense = 1;
    if (is_empty(tensor)) return true;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != dense) return false;
        dense *= tensor->shape[i];
    }
    return true;
}

static uint64_t magnitude(int64_t stride)
{
    return stride < 0 ? 0 - (uint64_t)stride : (uint64_t)stride;
}

bool tn_tensor_is_injective(const tn_tensor *tensor)
{
    uint64_t reach = 0; /* of the axes with smaller strides; fits, since tn_tensor_view has checked the span */
    bool used[TN_MAX_DIMS] = {false};
    for (int n = 0; n < tensor->ndim && !is_empty(tensor); n++) {
        int smallest = -1;
        for (int i = 0; i < tensor->ndim; i++) {
            if (used[i]) continue;
            if (smallest < 0 || magnitude(tensor->stride[i]) < magnitude(tensor->stride[smallest])) smallest = i;
        }
        used[smallest] = true;
        if (tensor->shape[smallest] <= 1) continue;
        if (magnitude(tensor->stride[smallest]) <= reach) return false;
        reach += (uint64_t)(tensor->shape[smallest] - 1) * magnitude(tensor->stride[smallest]);
    }
    return true;
}

bool tn_tensor_overlap(const tn_tensor *a, size_t a_element, const tn_tensor *b, size_t b_element)
{
    if (is_empty(a) || is_empty(b)) return false;
    int64_t a_low, a_high, b_low, b_high;
    span(a, &a_low, &a_high);
    span(b, &b_low, &b_high);
    const char *a_first = (const char *)a->data + a_low * (int64_t)a_element;
    const char *a_end = (const char *)a->data + (a_high + 1) * (int64_t)a_element;
    const char *b_first = (const char *)b->data + b_low * (int64_t)b_element;
    const char *b_end = (const char *)b->data + (b_high + 1) * (int64_t)b_element;
    return (uintptr_t)a_first < (uintptr_t)b_end && (uintptr_t)b_first < (uintptr_t)a_end;
}
