/* SPDX-License-Identifier: MIT */
/* Statuses as exceptions. */
#include "module.h"

#include <string.h>
#include <sys/stat.h>

static PyObject *not_found;

/* The training code that tenon.torch serves catches a ValueError where a config names an unknown type, and a KeyError
 * where a registry is asked for it. A KeyError prints its sentence in quotes, which this class does not. */
bool tnpy_errors_setup(PyObject *module)
{
    PyObject *bases = PyTuple_Pack(2, PyExc_KeyError, PyExc_ValueError);
    PyObject *plain = PyObject_GetAttrString(PyExc_Exception, "__str__");
    PyObject *members = plain != NULL ? Py_BuildValue("{s:O}", "__str__", plain) : NULL;
    if (bases != NULL && members != NULL) {
        not_found =
            PyErr_NewExceptionWithDoc("tenon.NotFoundError",
                                      "A name that is not there: a type, a parameter, a tensor of a file. It is a "
                                      "KeyError and a ValueError.",
                                      bases, members);
    }
    Py_XDECREF(members);
    Py_XDECREF(plain);
    Py_XDECREF(bases);
    return not_found != NULL && PyModule_AddObjectRef(module, "NotFoundError", not_found) == 0;
}

static PyObject *exception_of(tenon_status status)
{
    switch (status) {
    case TENON_NOT_FOUND:
        return not_found;
    case TENON_IO:
        return PyExc_OSError;
    case TENON_NO_MEMORY:
        return PyExc_MemoryError;
    default:
        return PyExc_ValueError;
    }
}

/* A message as text. A path or a name of the caller's may be no UTF-8. The backquotes that mark names of fields are for
 * programs that call them otherwise; here they are what they say. */
static PyObject *decode(const char *message)
{
    char plain[TENON_ERROR_SIZE];
    size_t length = 0;
    for (const char *c = message; *c != '\0'; c++)
        if (*c != '`') plain[length++] = *c;
    return PyUnicode_DecodeUTF8(plain, (Py_ssize_t)length, "backslashreplace");
}

static void raise_sentence(PyObject *exception, const char *message)
{
    PyObject *text = decode(message);
    if (text != NULL) PyErr_SetObject(exception, text);
    Py_XDECREF(text);
}

PyObject *tnpy_raise(tenon_status status, const tenon_error *error)
{
    raise_sentence(exception_of(status), error->message);
    return NULL;
}

PyObject *tnpy_raise_for_out(tenon_status status, const tenon_error *error)
{
    PyObject *plain = decode(error->message), *text = plain != NULL ? PyUnicode_FromFormat(" %U", plain) : NULL;
    PyObject *y = PyUnicode_FromString(" y "), *out = PyUnicode_FromString(" out "), *named = NULL, *sentence = NULL;
    if (text != NULL && y != NULL && out != NULL) named = PyUnicode_Replace(text, y, out, -1);
    if (named != NULL) sentence = PyUnicode_Substring(named, 1, PyUnicode_GetLength(named));
    if (sentence != NULL) PyErr_SetObject(exception_of(status), sentence);
    Py_XDECREF(sentence);
    Py_XDECREF(named);
    Py_XDECREF(out);
    Py_XDECREF(y);
    Py_XDECREF(text);
    Py_XDECREF(plain);
    return NULL;
}

PyObject *tnpy_raise_for_path(tenon_status status, const tenon_error *error, const char *path)
{
    struct stat found;
    if (status != TENON_NOT_FOUND || stat(path, &found) == 0) return tnpy_raise(status, error);
    raise_sentence(PyExc_FileNotFoundError, error->message);
    return NULL;
}
