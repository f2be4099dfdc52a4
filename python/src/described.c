/* SPDX-License-Identifier: MIT */
/* Arrays that are described in Python: raw tuples, and NumPy's __array_interface__. Of a description only the address
 * has to be trusted. */
#include "borrow.h"
#include "dlpack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what raw tuples and __array_interface__ are made of ---- */

static bool read_integers(PyObject *tuple, int64_t *values, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (tnpy_read_int(PyTuple_GetItem(tuple, i), "", &values[i])) continue;
        PyErr_Clear();
        return false;
    }
    return true;
}

static bool has_negative(const int64_t *values, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (values[i] < 0) return true;
    }
    return false;
}

static bool read_shape(tnpy_borrowed *borrowed, PyObject *shape, const char *name)
{
    const Py_ssize_t count = PyTuple_Check(shape) ? PyTuple_Size(shape) : -1;
    if (count < 0 || count > TNPY_MAX_DIMS || !read_integers(shape, borrowed->shape, count) ||
        has_negative(borrowed->shape, count)) {
        return tnpy_fail_value(PyExc_ValueError, name, ": the shape", shape,
                               "a tuple of at most 8 integers, none negative");
    }
    borrowed->tensor.shape = borrowed->shape;
    borrowed->tensor.ndim = (int)count;
    return true;
}

/* After the shape. None and NULL: dense rows. */
static bool read_strides(tnpy_borrowed *borrowed, PyObject *strides, const char *name)
{
    const int ndim = borrowed->tensor.ndim;
    if (strides == NULL || strides == Py_None) return true;
    if (!PyTuple_Check(strides) || PyTuple_Size(strides) != ndim || !read_integers(strides, borrowed->strides, ndim)) {
        char expected[64];
        snprintf(expected, sizeof expected, "a tuple of %d integers, one for each axis", ndim);
        return tnpy_fail_value(PyExc_ValueError, name, ": the tuple of strides", strides, expected);
    }
    borrowed->tensor.strides = borrowed->strides;
    return true;
}

static bool read_address(tnpy_borrowed *borrowed, PyObject *address, const char *name)
{
    borrowed->tensor.data = PyLong_AsVoidPtr(address);
    if (!PyErr_Occurred()) return true;
    PyErr_Clear();
    return tnpy_fail_value(PyExc_ValueError, name, ": the address", address, "an integer of 64 bits");
}

/* ---- raw tuples ---- */

bool tnpy_borrow_tuple(tnpy_borrowed *borrowed, PyObject *tuple, const char *name)
{
    if (PyTuple_Size(tuple) != 4) {
        return tnpy_fail_value(PyExc_TypeError, name, "", tuple, "an array or (address, dtype, shape, strides)");
    }
    int64_t dtype;
    if (!tnpy_read_int(PyTuple_GetItem(tuple, 1), "the dtype of a raw tuple", &dtype)) return false;
    borrowed->tensor = (DLTensor){.device = {kDLCPU, 0}, .dtype = tenon_dtype_to_dlpack((tenon_dtype)dtype)};
    if (!read_address(borrowed, PyTuple_GetItem(tuple, 0), name) ||
        !read_shape(borrowed, PyTuple_GetItem(tuple, 2), name) ||
        !read_strides(borrowed, PyTuple_GetItem(tuple, 3), name)) {
        return false;
    }
    borrowed->keeper = Py_NewRef(tuple);
    return true;
}

/* ---- __array_interface__ ---- */

/* Whether the object's own dtype is ml_dtypes.bfloat16, which NumPy describes as two bytes of void. Else it sets an
 * exception. */
static bool is_bf16(PyObject *object, const char *typestr, long bytes, const char *name)
{
    PyObject *type = PyObject_GetAttrString(object, "dtype"), *text = type != NULL ? PyObject_Str(type) : NULL;
    PyErr_Clear();
    const bool bf16 = bytes == 2 && text != NULL && PyUnicode_CompareWithASCIIString(text, "bfloat16") == 0;
    if (!bf16 && text != NULL) {
        PyErr_Format(PyExc_ValueError, "%s is %S; expected float32, bfloat16 or float16", name, text);
    } else if (!bf16) {
        PyErr_Format(PyExc_ValueError, "%s is of typestr '%s'; expected float32, bfloat16 or float16", name, typestr);
    }
    Py_XDECREF(type);
    Py_XDECREF(text);
    return bf16;
}

/* "<f4" and the like. */
static bool read_typestr(tnpy_borrowed *borrowed, PyObject *object, const char *typestr, const char *name)
{
    static const struct {
        char kind;
        uint8_t code;
    } kinds[] = {{'f', kDLFloat}, {'i', kDLInt}, {'u', kDLUInt}, {'b', TNPY_DLPACK_BOOL}, {'c', kDLComplex}};
    enum { most_bytes = 31 }; /* whose bits DLPack can count */
    const long bytes = strlen(typestr) > 2 ? strtol(typestr + 2, NULL, 10) : 0;
    if (bytes > 1 && bytes <= most_bytes && typestr[0] == '>') {
        PyErr_Format(PyExc_ValueError,
                     "%s is %s, in the byte order of other machines; expected native float32, bfloat16 or float16",
                     name, typestr);
        return false;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && bytes > 0 && bytes <= most_bytes; i++) {
        if (kinds[i].kind != typestr[1]) continue;
        borrowed->tensor.dtype = (DLDataType){kinds[i].code, (uint8_t)(8 * bytes), 1};
        return true;
    }
    borrowed->tensor.dtype = (DLDataType){kDLBfloat, 16, 1};
    return is_bf16(object, typestr, bytes, name);
}

/* Strides of __array_interface__ are in bytes. */
static bool to_elements(tnpy_borrowed *borrowed, const char *name)
{
    const int64_t size = borrowed->tensor.dtype.bits / 8;
    for (int i = 0; i < borrowed->tensor.ndim && borrowed->tensor.strides != NULL; i++) {
        if (borrowed->strides[i] % size != 0 && borrowed->shape[i] > 1) {
            PyErr_Format(PyExc_ValueError, "%s has a stride of %lld bytes, no multiple of its element size %lld", name,
                         (long long)borrowed->strides[i], (long long)size);
            return false;
        }
        borrowed->strides[i] /= size;
    }
    return true;
}

/* `interface` is the dictionary of NumPy's array interface, version 3. */
static bool read_interface(tnpy_borrowed *borrowed, PyObject *object, PyObject *interface, const char *name, bool write)
{
    PyObject *shape = PyDict_GetItemString(interface, "shape"), *data = PyDict_GetItemString(interface, "data");
    PyObject *typestr = PyDict_GetItemString(interface, "typestr"), *mask = PyDict_GetItemString(interface, "mask");
    if (shape == NULL || typestr == NULL || data == NULL || !PyTuple_Check(data) || PyTuple_Size(data) != 2) {
        PyErr_Format(PyExc_TypeError, "%s has an __array_interface__ without shape, typestr or an address in data",
                     name);
        return false;
    }
    if (mask != NULL && mask != Py_None) return tnpy_fail_masked(name, "its __array_interface__ has a mask");
    const char *type = tnpy_read_string(typestr, "typestr");
    borrowed->tensor = (DLTensor){.device = {kDLCPU, 0}};
    if (type == NULL || !read_typestr(borrowed, object, type, name) || !read_shape(borrowed, shape, name) ||
        !read_strides(borrowed, PyDict_GetItemString(interface, "strides"), name) || !to_elements(borrowed, name)) {
        return false;
    }
    if (write && PyObject_IsTrue(PyTuple_GetItem(data, 1)) != 0) return tnpy_fail_read_only(name);
    return read_address(borrowed, PyTuple_GetItem(data, 0), name);
}

bool tnpy_borrow_interface(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write, bool *has)
{
    PyObject *interface = PyObject_GetAttrString(object, "__array_interface__");
    *has = interface != NULL && PyDict_Check(interface);
    if (!*has) PyErr_Clear();
    const bool read = *has && read_interface(borrowed, object, interface, name, write);
    Py_XDECREF(interface);
    if (read) borrowed->keeper = Py_NewRef(object);
    return read;
}
