/* SPDX-License-Identifier: MIT */
/* Tokens in arrays of the caller's kind. */
#include "module.h"

#include <string.h>

/* What is asked of NumPy, looked up once. */
static struct {
    PyObject *ndarray;
    PyObject *empty;
    PyObject *f32;
    PyObject *f16;
    PyObject *bf16; /* of ml_dtypes; NULL until somebody needs it */
} numpy;

bool tnpy_results_setup(PyObject *module)
{
    (void)module;
    PyObject *found = PyImport_ImportModule("numpy");
    if (found == NULL) return false;
    numpy.ndarray = PyObject_GetAttrString(found, "ndarray");
    numpy.empty = PyObject_GetAttrString(found, "empty");
    numpy.f32 = PyObject_CallMethod(found, "dtype", "s", "float32");
    numpy.f16 = PyObject_CallMethod(found, "dtype", "s", "float16");
    Py_DECREF(found);
    return numpy.ndarray != NULL && numpy.empty != NULL && numpy.f32 != NULL && numpy.f16 != NULL;
}

bool tnpy_is_ndarray(PyObject *object)
{
    return (PyObject *)Py_TYPE(object) == numpy.ndarray;
}

static PyObject *numpy_bf16(void)
{
    if (numpy.bf16 != NULL) return numpy.bf16;
    PyObject *ml_dtypes = PyImport_ImportModule("ml_dtypes");
    PyObject *type = ml_dtypes != NULL ? PyObject_GetAttrString(ml_dtypes, "bfloat16") : NULL;
    PyObject *numpy_module = type != NULL ? PyImport_ImportModule("numpy") : NULL;
    if (numpy_module != NULL) numpy.bf16 = PyObject_CallMethod(numpy_module, "dtype", "O", type);
    Py_XDECREF(ml_dtypes);
    Py_XDECREF(type);
    Py_XDECREF(numpy_module);
    if (numpy.bf16 == NULL) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "NumPy has no bfloat16; pass dtype='f32', or install the package ml_dtypes");
    }
    return numpy.bf16;
}

/* The function that makes an array of x's kind out of one with __dlpack__; NULL without an exception for NumPy's and
 * for buffers. A new reference. */
static PyObject *find_from_dlpack(PyObject *x)
{
    if (PyTuple_Check(x) || PyObject_IsInstance(x, numpy.ndarray) == 1) return NULL;
    PyObject *home = NULL;
    if (PyObject_HasAttrString(x, "__array_namespace__")) {
        home = PyObject_CallMethod(x, "__array_namespace__", NULL);
    } else if (PyObject_HasAttrString(x, "__dlpack__")) {
        PyObject *torch = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
        PyObject *tensor = torch != NULL ? PyObject_GetAttrString(torch, "Tensor") : NULL;
        if (tensor != NULL && PyObject_IsInstance(x, tensor) == 1) home = Py_NewRef(torch);
        Py_XDECREF(tensor);
    }
    PyObject *function = home != NULL ? PyObject_GetAttrString(home, "from_dlpack") : NULL;
    Py_XDECREF(home);
    if (function == NULL) PyErr_Clear();
    return function;
}

static PyObject *numpy_tokens(DLDataType features, tenon_dtype dtype, bool asked, int ndim, const int64_t *shape)
{
    PyObject *type = dtype == TENON_F16 ? numpy.f16 : numpy.f32;
    if (dtype == TENON_BF16 && (asked || features.code == kDLBfloat)) type = numpy_bf16();
    PyObject *axes = type != NULL ? PyTuple_New(ndim) : NULL;
    if (axes == NULL) return NULL;
    for (int i = 0; i < ndim; i++)
        PyTuple_SetItem(axes, i, PyLong_FromLongLong(shape[i]));
    PyObject *made = PyObject_CallFunctionObjArgs(numpy.empty, axes, type, NULL);
    Py_DECREF(axes);
    return made;
}

bool tnpy_result_new(PyObject **result, tnpy_borrowed *tokens, PyObject *x, const tnpy_borrowed *features,
                     tenon_dtype dtype, bool asked, int ndim, const int64_t *shape)
{
    PyObject *function = !tnpy_is_ndarray(x) ? find_from_dlpack(x) : NULL;
    PyObject *made = function != NULL ? tnpy_array_new(tenon_dtype_to_dlpack(dtype), ndim, shape, NULL)
                                      : numpy_tokens(features->tensor.dtype, dtype, asked, ndim, shape);
    Py_XDECREF(function);
    if (made == NULL || !tnpy_borrow(tokens, made, "the tokens", TNPY_WRITE)) {
        Py_XDECREF(made);
        return false;
    }
    *result = made;
    return true;
}

PyObject *tnpy_result_finish(PyObject *result, PyObject *x)
{
    if (Py_TYPE(result) != tnpy_array_type) return result;
    PyObject *function = find_from_dlpack(x);
    PyObject *made = function != NULL ? PyObject_CallFunctionObjArgs(function, result, NULL) : NULL;
    if (function == NULL) PyErr_SetString(PyExc_ValueError, "the library of x has no from_dlpack any more");
    Py_XDECREF(function);
    Py_DECREF(result);
    return made;
}
