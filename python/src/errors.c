/* SPDX-License-Identifier: MIT */
/* Statuses as exceptions. */
#include "module.h"

#include <string.h>
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

/* A path or a name of the caller's may be no UTF-8. */
static void raise_sentence(PyObject *exception, const char *message)
{
    PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "backslashreplace");
    if (text != NULL) PyErr_SetObject(exception, text);
    Py_XDECREF(text);
}

PyObject *tnpy_raise(tenon_status status, const tenon_error *error)
{
    raise_sentence(exception_of(status), error->message);
    return NULL;
}

PyObject *tnpy_raise_for_path(tenon_status status, const tenon_error *error, const char *path)
{
    struct stat found;
    if (status != TENON_NOT_FOUND || stat(path, &found) == 0) return tnpy_raise(status, error);
    raise_sentence(PyExc_FileNotFoundError, error->message);
    return NULL;
}
