/* SPDX-License-Identifier: MIT */
/* Masks as the library reads them: a byte each, nonzero for what is there. */
#include "dlpack.h"
#include "module.h"

const char tnpy_mask_sentence[] =
    "%s is %s; expected bool or integers, nonzero for what is valid. Convert an additive mask (0 keeps, -inf drops) "
    "with mask == 0, and one of ones (keep) and zeros (drop) with mask != 0";

static bool is_integer(DLDataType dtype)
{
    const bool known = dtype.code == kDLInt || dtype.code == kDLUInt || dtype.code == TNPY_DLPACK_BOOL;
    return known && dtype.lanes == 1 && dtype.bits > 0 && dtype.bits <= 64 && dtype.bits % 8 == 0;
}

static bool is_nonzero(const char *element, size_t size)
{
    char any = 0;
    for (size_t i = 0; i < size; i++)
        any |= element[i];
    return any != 0;
}

/* Row-major bytes of elements of `size` bytes, axis by axis. */
static uint8_t *narrow_axes(uint8_t *to, const char *from, const DLTensor *mask, const int64_t *strides, int axis,
                            size_t size)
{
    if (axis == mask->ndim) {
        *to = is_nonzero(from, size);
        return to + 1;
    }
    for (int64_t i = 0; i < mask->shape[axis]; i++)
        to = narrow_axes(to, from + i * strides[axis] * (int64_t)size, mask, strides, axis + 1, size);
    return to;
}

/* An array of bytes in place of wider integers; NULL with an exception. */
static PyObject *narrow(const DLTensor *mask)
{
    int64_t strides[TNPY_MAX_DIMS], dense = 1;
    PyObject *made = tnpy_array_new((DLDataType){kDLUInt, 8, 1}, mask->ndim, mask->shape, NULL);
    if (made == NULL) return NULL;
    for (int i = mask->ndim - 1; i >= 0; i--) {
        strides[i] = mask->strides != NULL ? mask->strides[i] : dense;
        dense *= mask->shape[i];
    }
    uint8_t *to = ((tnpy_array *)made)->tensor.data;
    const char *from = (const char *)mask->data + mask->byte_offset;
    Py_BEGIN_ALLOW_THREADS;
    if (dense > 0) narrow_axes(to, from, mask, strides, 0, mask->dtype.bits / 8U);
    Py_END_ALLOW_THREADS;
    return made;
}

bool tnpy_borrow_mask(tnpy_borrowed *borrowed, PyObject *object, const char *name, const DLTensor **tensor)
{
    DLTensor *found;
    *tensor = NULL;
    if (!tnpy_borrow_optional(borrowed, object, name, TNPY_UNSEEN, &found)) return !PyErr_Occurred();
    *tensor = found;
    if (!is_integer(found->dtype)) {
        PyErr_Format(PyExc_ValueError, tnpy_mask_sentence, name, tnpy_dtype_to_text(found->dtype).text);
        return false;
    }
    const bool here = found->device.device_type == kDLCPU || found->device.device_type == kDLCUDAHost;
    if (found->dtype.bits == 8 || !here) return true; /* the library says what it is */
    PyObject *bytes = narrow(found);
    tnpy_give_back(borrowed);
    if (bytes == NULL) return false;
    borrowed->tensor = ((tnpy_array *)bytes)->tensor;
    borrowed->keeper = bytes;
    return true;
}
