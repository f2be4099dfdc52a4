/* SPDX-License-Identifier: MIT */
/* Tensors of PyTorch, without its headers. */
#ifndef TENON_PYTHON_TENSOR_H
#define TENON_PYTHON_TENSOR_H

#include "module.h"

/* Where a tensor's values lie. What is not used is zero, so two of them are alike if their bytes are. */
typedef struct tnpy_tensor {
    void *data; /* of the first element */
    DLDevice device;
    DLDataType dtype;
    int32_t ndim;
    int32_t unused; /* no padding is left */
    int64_t shape[TNPY_MAX_DIMS];
    int64_t strides[TNPY_MAX_DIMS]; /* in elements */
} tnpy_tensor;

/* A torch.Tensor or Parameter itself: classes of these may lie about their memory. Nothing is one where nobody imported
 * PyTorch. */
bool tnpy_is_tensor(PyObject *object);

/* An object of a class derived from these. */
bool tnpy_is_tensor_subclass(PyObject *object);

/* Reads a tensor, whether gradients are asked of it or not. The functions here return false, with an exception, for
 * other objects, and for what a tensor does not have: some have no memory of their own, some lie on a device, some are
 * of a dtype that no kernel reads. */
bool tnpy_tensor_read(tnpy_tensor *tensor, PyObject *object);

/* Whether its values are those in memory with the other sign; also of a subclass. */
bool tnpy_tensor_is_negated(bool *negated, PyObject *object);

/* How often it was written to; -1: an inference tensor, which does not count that. */
bool tnpy_tensor_version(int64_t *version, PyObject *object);

#endif
