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

/* `text` with each `from` replaced. Steals `text`, which may be NULL with an exception. */
static PyObject *replaced(PyObject *text, const char *from, const char *to)
{
    PyObject *old = PyUnicode_FromString(from), *new = PyUnicode_FromString(to), *made = NULL;
    if (text != NULL && old != NULL && new != NULL) made = PyUnicode_Replace(text, old, new, -1);
    Py_XDECREF(new);
    Py_XDECREF(old);
    Py_XDECREF(text);
    return made;
}

/* The library's sentence with Python's names: its functions are methods here, and the backquotes that mark names of
 * fields for programs that call them otherwise are left out. A path or a name in it need not be UTF-8. NULL with an
 * exception. */
static PyObject *read_sentence(const char *message)
{
    char plain[TENON_ERROR_SIZE];
    size_t length = 0;
    for (const char *c = message; *c != '\0'; c++)
        if (*c != '`') plain[length++] = *c;
    return replaced(PyUnicode_DecodeUTF8(plain, (Py_ssize_t)length, "backslashreplace"), "tenon_adapter_", "Adapter.");
}

/* Steals `sentence`, which may be NULL with an exception. */
static PyObject *raise_sentence(PyObject *exception, PyObject *sentence)
{
    if (sentence != NULL) PyErr_SetObject(exception, sentence);
    Py_XDECREF(sentence);
    return NULL;
}

PyObject *tnpy_raise(tenon_status status, const tenon_error *error)
{
    return raise_sentence(exception_of(status), read_sentence(error->message));
}

PyObject *tnpy_raise_for_out(tenon_status status, const tenon_error *error)
{
    PyObject *sentence = read_sentence(error->message);
    PyObject *spaced = sentence != NULL ? PyUnicode_FromFormat(" %U", sentence) : NULL;
    Py_XDECREF(sentence);
    spaced = replaced(spaced, " y ", " out ");
    if (spaced == NULL) return NULL;
    sentence = PyUnicode_Substring(spaced, 1, PyUnicode_GetLength(spaced));
    Py_DECREF(spaced);
    return raise_sentence(exception_of(status), sentence);
}

PyObject *tnpy_raise_for_path(tenon_status status, const tenon_error *error, const char *path)
{
    struct stat found;
    if (status != TENON_NOT_FOUND || stat(path, &found) == 0) return tnpy_raise(status, error);
    return raise_sentence(PyExc_FileNotFoundError, read_sentence(error->message));
}
