/* SPDX-License-Identifier: MIT */
/* Statuses as exceptions. */
#include "module.h"

#include <sys/stat.h>

static PyObject *exception_of(tenon_status status)
{
    switch (status) {
    case TENON_NOT_FOUND:
        return PyExc_KeyError;
    case TENON_IO:
        return PyExc_OSError;
    case TENON_NO_MEMORY:
        return PyExc_MemoryError;
    default:
        return PyExc_ValueError;
    }
}

PyObject *tnpy_raise(tenon_status status, const tenon_error *error)
{
    PyErr_SetString(exception_of(status), error->message);
    return NULL;
}

PyObject *tnpy_raise_for_out(tenon_status status, const tenon_error *error)
{
    PyObject *text = PyUnicode_FromFormat(" %s", error->message), *y = PyUnicode_FromString(" y ");
    PyObject *out = PyUnicode_FromString(" out "), *named = NULL, *sentence = NULL;
    if (text != NULL && y != NULL && out != NULL) named = PyUnicode_Replace(text, y, out, -1);
    if (named != NULL) sentence = PyUnicode_Substring(named, 1, PyUnicode_GetLength(named));
    if (sentence != NULL) PyErr_SetObject(exception_of(status), sentence);
    Py_XDECREF(sentence);
    Py_XDECREF(named);
    Py_XDECREF(out);
    Py_XDECREF(y);
    Py_XDECREF(text);
    return NULL;
}

PyObject *tnpy_raise_for_path(tenon_status status, const tenon_error *error, const char *path)
{
    struct stat found;
    if (status != TENON_NOT_FOUND || stat(path, &found) == 0) return tnpy_raise(status, error);
    PyErr_SetString(PyExc_FileNotFoundError, error->message);
    return NULL;
}
