/* SPDX-License-Identifier: MIT */
/* Tensors by name, {name: array}: further inputs and outputs of a call, and their gradients. */
#include "module.h"

#include <stdlib.h>

void tnpy_named_give_back(tnpy_named *named)
{
    for (int64_t i = 0; i < named->count; i++)
        tnpy_give_back(&named->borrowed[i]);
    PyMem_Free(named->borrowed);
    PyMem_Free(named->items);
    Py_XDECREF(named->keeper);
    *named = (tnpy_named){.count = 0};
}

/* A new reference: lists become arrays, of int64 where they hold integers. */
static PyObject *array_of(PyObject *object)
{
    if (!PyList_Check(object)) return Py_NewRef(object);
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *made = numpy != NULL ? PyObject_CallMethod(numpy, "array", "O", object) : NULL;
    Py_XDECREF(numpy);
    return made;
}

bool tnpy_borrow_integers(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how)
{
    PyObject *array = array_of(object);
    const bool done = array != NULL && tnpy_borrow(borrowed, array, name, how);
    Py_XDECREF(array); /* what was borrowed keeps it */
    return done;
}

static bool read_item(tnpy_named *named, PyObject *pair, int how)
{
    PyObject *value = PyTuple_GetItem(pair, 1);
    const char *name = tnpy_read_string(PyTuple_GetItem(pair, 0), "the name of a tensor");
    if (name == NULL) return false;
    tnpy_borrowed *borrowed = &named->borrowed[named->count];
    borrowed->keeper = NULL;
    if (!tnpy_borrow_integers(borrowed, value, name, how)) return false;
    named->items[named->count++] = (tenon_named_tensor){name, &borrowed->tensor};
    return true;
}

bool tnpy_named_read(tnpy_named *named, PyObject *mapping, const char *what, int how)
{
    *named = (tnpy_named){.count = 0};
    if (mapping == NULL || mapping == Py_None) return true;
    PyObject *pairs = PyMapping_Check(mapping) ? PyMapping_Items(mapping) : NULL;
    if (pairs == NULL) {
        PyErr_Clear();
        return tnpy_fail_value(PyExc_TypeError, what, "", mapping, "a mapping of names to arrays");
    }
    named->keeper = pairs;
    const size_t count = (size_t)PyList_Size(pairs) + 1;
    named->items = PyMem_Malloc(count * sizeof *named->items);
    named->borrowed = PyMem_Malloc(count * sizeof *named->borrowed);
    bool read = named->items != NULL && named->borrowed != NULL;
    if (!read) PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < PyList_Size(pairs) && read; i++)
        read = read_item(named, PyList_GetItem(pairs, i), how);
    if (!read) tnpy_named_give_back(named);
    return read;
}
