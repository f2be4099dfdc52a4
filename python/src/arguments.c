/* SPDX-License-Identifier: MIT */
/* Python values to C. */
#include "module.h"

#include <string.h>

/* The repr of an object on one line and not longer than a sentence can bear; NULL with an exception. */
static PyObject *short_repr(PyObject *object)
{
    enum { most = 80 };
    PyObject *whole = PyObject_Repr(object), *words = NULL, *line = NULL, *text = NULL;
    PyObject *space = PyUnicode_FromString(" ");
    if (whole != NULL) words = PyUnicode_Split(whole, NULL, -1);
    if (words != NULL && space != NULL) line = PyUnicode_Join(space, words);
    if (line != NULL && PyUnicode_GetLength(line) > most) {
        PyObject *start = PyUnicode_Substring(line, 0, most);
        if (start != NULL) text = PyUnicode_FromFormat("%U...", start);
        Py_XDECREF(start);
    } else if (line != NULL) {
        text = Py_NewRef(line);
    }
    Py_XDECREF(line);
    Py_XDECREF(words);
    Py_XDECREF(space);
    Py_XDECREF(whole);
    return text;
}

bool tnpy_fail_value(PyObject *exception, const char *name, const char *part, PyObject *object, const char *expected)
{
    PyObject *text = short_repr(object);
    if (text != NULL) PyErr_Format(exception, "%s%s is %U; expected %s", name, part, text, expected);
    Py_XDECREF(text);
    return false;
}

bool tnpy_read_int(PyObject *object, const char *name, int64_t *value)
{
    PyObject *index = !PyBool_Check(object) && PyIndex_Check(object) ? PyNumber_Index(object) : NULL;
    if (index == NULL) {
        PyErr_Clear();
        PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
        if (type != NULL) PyErr_Format(PyExc_TypeError, "%s is of type %U; expected an integer", name, type);
        Py_XDECREF(type);
        return false;
    }
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
        return tnpy_fail_value(PyExc_TypeError, "grid", "", object, "a pair (rows, columns)");
    }
    const bool read = tnpy_read_int(PyTuple_GetItem(pair, 0), "grid rows", &call->grid_height) &&
                      tnpy_read_int(PyTuple_GetItem(pair, 1), "grid columns", &call->grid_width);
    Py_DECREF(pair);
    return read;
}

PyObject *tnpy_ints_to_python(const int64_t *values, int64_t count)
{
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; i < count && list != NULL; i++) {
        PyObject *value = PyLong_FromLongLong(values[i]);
        if (value == NULL || PyList_Append(list, value) < 0) Py_CLEAR(list);
        Py_XDECREF(value);
    }
    return list;
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
        tnpy_fail_value(PyExc_TypeError, name, "", object, "a string");
        return NULL;
    }
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(object, &length);
    if (text != NULL && strlen(text) != (size_t)length) {
        PyErr_Format(PyExc_ValueError, "%s contains a zero character", name);
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
        tnpy_fail_value(PyExc_ValueError, "dtype", "", object, "f32, bf16 or f16");
    }
    return found;
}
