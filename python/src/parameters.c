/* SPDX-License-Identifier: MIT */
/* Parameters of an adapter: drawn, loaded, borrowed, copied out. */
#include "module.h"

#include <string.h>

/* (name, dtype or None, shape, whether it has storage) */
static PyObject *describe(const tenon_parameter *parameter)
{
    PyObject *shape = PyTuple_New(parameter->ndim);
    for (int i = 0; i < parameter->ndim && shape != NULL; i++)
        PyTuple_SetItem(shape, i, PyLong_FromLongLong(parameter->shape[i]));
    if (shape == NULL) return NULL;
    return Py_BuildValue("(szNO)", parameter->name, tenon_dtype_name(parameter->dtype), shape,
                         parameter->data != NULL ? Py_True : Py_False);
}

static PyObject *parameters(PyObject *object, PyObject *unused)
{
    (void)unused;
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *list = PyList_New(0);
    tnpy_adapter_lock(self);
    for (int64_t i = 0; i < self->num_parameters && list != NULL; i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        PyObject *row = NULL;
        if (tenon_adapter_parameter(self->handle, i, &parameter, NULL) == TENON_OK) row = describe(&parameter);
        if (row == NULL || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    tnpy_adapter_unlock(self);
    return list;
}

/* The number of a parameter that is given by number or name. */
static bool read_parameter(const tnpy_adapter *self, PyObject *object, tenon_parameter *parameter, int64_t *index)
{
    tenon_error error;
    tenon_status status = TENON_OK;
    if (PyUnicode_Check(object)) {
        const char *name = tnpy_read_string(object, "name");
        if (name == NULL) return false;
        status = tenon_adapter_find_parameter(self->handle, name, index, &error);
    } else if (!tnpy_read_int(object, "the parameter's number", index)) {
        return false;
    }
    tenon_parameter_init(parameter);
    if (status == TENON_OK) status = tenon_adapter_parameter(self->handle, *index, parameter, &error);
    if (status != TENON_OK) tnpy_raise(status, &error);
    return status == TENON_OK;
}

static PyObject *copy_parameter(PyObject *object, PyObject *which)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    tenon_parameter parameter;
    int64_t index;
    PyObject *made = NULL;
    tnpy_adapter_lock(self);
    if (read_parameter(self, which, &parameter, &index)) {
        if (parameter.data == NULL) {
            PyErr_Format(PyExc_ValueError, "parameter '%s' has no storage; reset, load or set the parameters first",
                         parameter.name);
        } else {
            made = tnpy_array_new(tenon_dtype_to_dlpack(parameter.dtype), parameter.ndim, parameter.shape, NULL);
        }
    }
    if (made != NULL) {
        size_t bytes = tenon_dtype_size(parameter.dtype);
        for (int i = 0; i < parameter.ndim; i++)
            bytes *= (size_t)parameter.shape[i];
        Py_BEGIN_ALLOW_THREADS;
        memcpy(((tnpy_array *)made)->tensor.data, parameter.data, bytes);
        Py_END_ALLOW_THREADS;
    }
    tnpy_adapter_unlock(self);
    return made;
}

/* Under the lock. `owner` (NULL: there is none) stays alive with the parameter, beside what is borrowed. */
static bool set_one(tnpy_adapter *self, PyObject *which, PyObject *array, PyObject *owner)
{
    tenon_parameter parameter;
    int64_t index;
    tnpy_borrowed borrowed;
    tenon_error error;
    if (!read_parameter(self, which, &parameter, &index) ||
        !tnpy_borrow(&borrowed, array, parameter.name, TNPY_UNSEEN | TNPY_HOLD)) {
        return false;
    }
    PyObject *keeper = owner != NULL ? PyTuple_Pack(2, borrowed.keeper, owner) : Py_NewRef(borrowed.keeper);
    tenon_status status = TENON_OK;
    if (keeper != NULL) {
        status = tenon_adapter_set_parameter(self->handle, parameter.name, &borrowed.tensor, &error);
    }
    tnpy_give_back(&borrowed);
    if (status != TENON_OK) tnpy_raise(status, &error);
    if (keeper == NULL || status != TENON_OK) {
        Py_XDECREF(keeper);
        return false;
    }
    PyObject *old = self->owners[index];
    self->owners[index] = keeper;
    Py_XDECREF(old);
    return true;
}

static PyObject *set_parameter(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    if (nargs != 2 && nargs != 3) {
        PyErr_Format(PyExc_TypeError, "set_parameter takes (name, array, owner=None); got %zd arguments", nargs);
        return NULL;
    }
    tnpy_adapter_lock(self);
    const bool set = set_one(self, args[0], args[1], nargs == 3 && args[2] != Py_None ? args[2] : NULL);
    tnpy_adapter_note_dtype(self);
    tnpy_adapter_unlock(self);
    return set ? Py_NewRef(Py_None) : NULL;
}

static PyObject *set_parameters(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *arrays = nargs == 1 || nargs == 2 ? PySequence_Tuple(args[0]) : NULL;
    if (arrays == NULL || PyTuple_Size(arrays) != self->num_parameters) {
        Py_XDECREF(arrays);
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "set_parameters takes (arrays, owner=None) with all %lld parameters in order",
                         (long long)self->num_parameters);
        }
        return NULL;
    }
    bool set = true;
    tnpy_adapter_lock(self);
    for (int64_t i = 0; i < self->num_parameters && set; i++) {
        PyObject *number = PyLong_FromLongLong(i);
        set = number != NULL && set_one(self, number, PyTuple_GetItem(arrays, (Py_ssize_t)i),
                                        nargs == 2 && args[1] != Py_None ? args[1] : NULL);
        Py_XDECREF(number);
    }
    tnpy_adapter_note_dtype(self);
    tnpy_adapter_unlock(self);
    Py_DECREF(arrays);
    return set ? Py_NewRef(Py_None) : NULL;
}

static PyObject *reset_parameters(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    tenon_dtype dtype;
    tenon_error error;
    tenon_status status;
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "reset_parameters takes (dtype, seed); got %zd arguments", nargs);
        return NULL;
    }
    if (!tnpy_read_dtype(args[0], &dtype)) return NULL;
    PyObject *index = PyNumber_Index(args[1]);
    if (index == NULL) return NULL;
    const uint64_t seed = PyLong_AsUnsignedLongLongMask(index);
    Py_DECREF(index);
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_reset_parameters(self->handle, dtype, seed, &error);
    Py_END_ALLOW_THREADS;
    if (status == TENON_OK) tnpy_adapter_drop_owners(self);
    tnpy_adapter_note_dtype(self);
    tnpy_adapter_unlock(self);
    return status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise(status, &error);
}

static PyObject *load(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *keeper;
    const char *path;
    tenon_load_options options;
    tenon_error error;
    tenon_status status;
    tenon_load_options_init(&options);
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "load takes (path, prefix); got %zd arguments", nargs);
        return NULL;
    }
    if (args[1] != Py_None && (options.prefix = tnpy_read_string(args[1], "prefix")) == NULL) return NULL;
    if (!tnpy_read_path(args[0], &keeper, &path)) return NULL;
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_load(self->handle, path, &options, &error);
    Py_END_ALLOW_THREADS;
    if (status == TENON_OK) tnpy_adapter_drop_owners(self);
    tnpy_adapter_note_dtype(self);
    tnpy_adapter_unlock(self);
    PyObject *report = status == TENON_OK ? Py_BuildValue("(sLL)", options.used_prefix, (long long)options.num_used,
                                                          (long long)options.num_unused)
                                          : tnpy_raise_for_path(status, &error, path);
    Py_DECREF(keeper);
    return report;
}

static PyObject *save(PyObject *object, PyObject *path_object)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *keeper;
    const char *path;
    tenon_error error;
    tenon_status status;
    if (!tnpy_read_path(path_object, &keeper, &path)) return NULL;
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_save(self->handle, path, &error);
    Py_END_ALLOW_THREADS;
    tnpy_adapter_unlock(self);
    PyObject *result = status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise_for_path(status, &error, path);
    Py_DECREF(keeper);
    return result;
}

static PyObject *release_parameters(PyObject *object, PyObject *unused)
{
    (void)unused;
    tnpy_adapter *self = (tnpy_adapter *)object;
    tnpy_adapter_lock(self);
    tenon_adapter_release_parameters(self->handle);
    tnpy_adapter_drop_owners(self);
    tnpy_adapter_unlock(self);
    return Py_NewRef(Py_None);
}

PyMethodDef tnpy_parameter_methods[] = {
    {"parameters", parameters, METH_NOARGS,
     "[(name, dtype or None, shape, has_storage), ...] in declaration order, which is that of a file."},
    {"parameter", copy_parameter, METH_O, "parameter(name or number): a copy, as an Array."},
    {"set_parameter", TNPY_FAST(set_parameter), METH_FASTCALL,
     "set_parameter(name or number, array, owner=None)\n\n"
     "Borrows the memory of a dense array, or of a raw tuple (address, dtype, shape, strides), which `owner` must "
     "then\n"
     "keep alive; the adapter holds on to `owner` (to the array where there is none) until the parameter is replaced.\n"
     "Unpublishes what prepare made. After a change of the memory in place, call prepare again."},
    {"set_parameters", TNPY_FAST(set_parameters), METH_FASTCALL,
     "set_parameters(arrays, owner=None): all parameters, in declaration order, as set_parameter takes them."},
    {"reset_parameters", TNPY_FAST(reset_parameters), METH_FASTCALL,
     "reset_parameters(dtype, seed): PyTorch's initial values, bit for bit, in storage of the adapter's own."},
    {"load", TNPY_FAST(load), METH_FASTCALL,
     "load(path, prefix): every parameter from a file; (used prefix, tensors used, tensors not used)."},
    {"save", save, METH_O, "save(path): a self-describing safetensors file."},
    {"release_parameters", release_parameters, METH_NOARGS, "Drops the parameters; what prepare made stays in use."},
    {NULL, NULL, 0, NULL},
};
