/* SPDX-License-Identifier: MIT */
/* Python values to C. */
#include "module.h"

#include <string.h>

bool tnpy_read_int(PyObject *object, const char *name, int64_t *value)
{
    if (PyBool_Check(object) || !PyIndex_Check(object)) {
        PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
        if (type != NULL) PyErr_Format(PyExc_TypeError, "%s is of type %U; expected an integer", name, type);
        Py_XDECREF(type);
        return false;
    }
    PyObject *index = PyNumber_Index(object);
    if (index == NULL) return false;
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (overflow != 0) PyErr_Format(PyExc_ValueError, "%s is %S; it must fit 64 bits", name, index);
    Py_DECREF(index);
    return overflow == 0 && !PyErr_Occurred();
}

bool tnpy_read_optional_int(PyObject *object, const char *name, int64_t fallback, int64_t *value)
{
    if (object != NULL && object != Py_None) return tnpy_read_int(object, name, value);
    *value = fallback;
    return true;
}

bool tnpy_read_grid(PyObject *object, tenon_call *call)
{
    if (object == NULL || object == Py_None) return true;
    PyObject *pair = PySequence_Check(object) && !PyUnicode_Check(object) ? PySequence_Tuple(object) : NULL;
    if (pair == NULL || PyTuple_Size(pair) != 2) {
        Py_XDECREF(pair);
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "grid is %R; expected a pair (rows, columns)", object);
        return false;
    }
    const bool read = tnpy_read_int(PyTuple_GetItem(pair, 0), "grid rows", &call->grid_height) &&
                      tnpy_read_int(PyTuple_GetItem(pair, 1), "grid columns", &call->grid_width);
    Py_DECREF(pair);
    return read;
}

bool tnpy_read_path(PyObject *object, PyObject **keeper, const char **path)
{
    PyObject *bytes;
    if (!PyUnicode_FSConverter(object, &bytes)) return false;
    *path = PyBytes_AsString(bytes);
    *keeper = bytes;
    return *path != NULL;
}

const char *tnpy_read_string(PyObject *object, const char *name)
{
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s is %R; expected a string", name, object);
        return NULL;
    }
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(object, &length);
    if (text != NULL && strlen(text) != (size_t)length) {
        PyErr_Format(PyExc_ValueError, "%s has a zero character in it", name);
        return NULL;
    }
    return text;
}

/* "bfloat16" of "bfloat16", of "torch.bfloat16" and of numpy's dtypes and scalar types. A new reference. */
static PyObject *name_of_dtype(PyObject *object)
{
    if (PyUnicode_Check(object)) return Py_NewRef(object);
    PyObject *name = PyObject_GetAttrString(object, "name");
    if (name == NULL) {
        PyErr_Clear();
        name = PyObject_GetAttrString(object, "__name__");
    }
    if (name == NULL) {
        PyErr_Clear();
        name = PyObject_Str(object);
    }
    return name;
}

bool tnpy_read_dtype(PyObject *object, tenon_dtype *dtype)
{
    static const struct {
        const char *name;
        tenon_dtype dtype;
    } names[] = {{"f32", TENON_F32},       {"float32", TENON_F32}, {"bf16", TENON_BF16},
                 {"bfloat16", TENON_BF16}, {"f16", TENON_F16},     {"float16", TENON_F16}};
    PyObject *text = name_of_dtype(object);
    const char *name = text != NULL && PyUnicode_Check(text) ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    const char *dot = name != NULL ? strrchr(name, '.') : NULL;
    if (dot != NULL) name = dot + 1;
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && name != NULL && !found; i++) {
        found = strcmp(name, names[i].name) == 0;
        if (found) *dtype = names[i].dtype;
    }
    Py_XDECREF(text);
    if (!found) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "dtype is %R; expected f32, bf16 or f16", object);
    }
    return found;
}
