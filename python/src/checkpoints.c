/* SPDX-License-Identifier: MIT */
/* Adapters and files: open, load, save, and the connector among tensors that Python read. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

/* Options of a load, and what keeps the strings alive. */
typedef struct load_settings {
    tenon_load_options options;
    PyObject *pairs;
    tenon_rename *rename;
} load_settings;

static void drop_settings(load_settings *s)
{
    Py_XDECREF(s->pairs);
    free(s->rename);
}

/* None or NULL: NULL. */
static bool read_optional_string(PyObject *object, const char *name, const char **text)
{
    *text = NULL;
    if (object == NULL || object == Py_None) return true;
    *text = tnpy_read_string(object, name);
    return *text != NULL;
}

/* A sequence of (old, new). */
static bool read_rename(load_settings *s, PyObject *object)
{
    if (object == NULL || object == Py_None) return true;
    s->pairs = PySequence_Tuple(object);
    if (s->pairs == NULL) return false;
    const Py_ssize_t count = PyTuple_Size(s->pairs);
    s->rename = calloc((size_t)count + 1, sizeof *s->rename); /* never of size 0 */
    if (s->rename == NULL) return PyErr_NoMemory() != NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyTuple_GetItem(s->pairs, i);
        if (!PyTuple_Check(pair) || PyTuple_Size(pair) != 2) {
            PyErr_Format(PyExc_TypeError, "rename has %R; expected a pair of names", pair);
            return false;
        }
        s->rename[i].from = tnpy_read_string(PyTuple_GetItem(pair, 0), "rename");
        s->rename[i].to = s->rename[i].from != NULL ? tnpy_read_string(PyTuple_GetItem(pair, 1), "rename") : NULL;
        if (s->rename[i].to == NULL) return false;
    }
    s->options.rename = s->rename;
    s->options.num_rename = count;
    return true;
}

static bool read_settings(load_settings *s, PyObject *json, PyObject *prefix, PyObject *rename)
{
    *s = (load_settings){.pairs = NULL};
    tenon_load_options_init(&s->options);
    if (read_optional_string(json, "config", &s->options.config_json) &&
        read_optional_string(prefix, "prefix", &s->options.prefix) && read_rename(s, rename)) {
        return true;
    }
    drop_settings(s);
    return false;
}

static PyObject *report(const tenon_load_options *options)
{
    return Py_BuildValue("(sLL)", options->used_prefix, (long long)options->num_used, (long long)options->num_unused);
}

/* ---- files ---- */

static PyObject *adapter_open(PyObject *type, PyObject *args)
{
    PyObject *path_object, *json = NULL, *prefix = NULL, *rename = NULL, *family = NULL, *activation = NULL, *keeper;
    const char *path;
    load_settings s;
    tenon_adapter *handle;
    tenon_error error;
    tenon_status status;
    if (!PyArg_ParseTuple(args, "O|OOOOO:open", &path_object, &json, &prefix, &rename, &family, &activation) ||
        !read_settings(&s, json, prefix, rename)) {
        return NULL;
    }
    if (!read_optional_string(family, "family", &s.options.family) ||
        !read_optional_string(activation, "activation", &s.options.activation) ||
        !tnpy_read_path(path_object, &keeper, &path)) {
        drop_settings(&s);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_open(path, &s.options, &handle, &error);
    Py_END_ALLOW_THREADS;
    PyObject *made = status == TENON_OK ? tnpy_adapter_wrap((PyTypeObject *)type, handle)
                                        : tnpy_raise_for_path(status, &error, path);
    Py_DECREF(keeper);
    drop_settings(&s);
    return made;
}

static PyObject *load(PyObject *object, PyObject *args)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *path_object, *prefix = NULL, *rename = NULL, *keeper;
    const char *path;
    load_settings s;
    tenon_error error;
    tenon_status status;
    if (!PyArg_ParseTuple(args, "O|OO:load", &path_object, &prefix, &rename) ||
        !read_settings(&s, NULL, prefix, rename)) {
        return NULL;
    }
    if (!tnpy_read_path(path_object, &keeper, &path)) {
        drop_settings(&s);
        return NULL;
    }
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_load(self->handle, path, &s.options, &error);
    Py_END_ALLOW_THREADS;
    if (status == TENON_OK) tnpy_adapter_drop_owners(self);
    tnpy_adapter_note_dtype(self);
    tnpy_adapter_unlock(self);
    PyObject *result = status == TENON_OK ? report(&s.options) : tnpy_raise_for_path(status, &error, path);
    Py_DECREF(keeper);
    drop_settings(&s);
    return result;
}

static PyObject *save(PyObject *object, PyObject *args)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *path_object, *prefix = NULL, *keeper;
    const char *path;
    int allow_nonfinite = 0;
    tenon_save_options options;
    tenon_error error;
    tenon_status status;
    tenon_save_options_init(&options);
    if (!PyArg_ParseTuple(args, "O|Op:save", &path_object, &prefix, &allow_nonfinite) ||
        !read_optional_string(prefix, "prefix", &options.prefix) || !tnpy_read_path(path_object, &keeper, &path)) {
        return NULL;
    }
    options.allow_nonfinite = allow_nonfinite;
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_save(self->handle, path, &options, &error);
    Py_END_ALLOW_THREADS;
    tnpy_adapter_unlock(self);
    PyObject *result = status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise_for_path(status, &error, path);
    Py_DECREF(keeper);
    return result;
}

static PyObject *check_finite(PyObject *object, PyObject *unused)
{
    (void)unused;
    tnpy_adapter *self = (tnpy_adapter *)object;
    tenon_error error;
    tenon_status status;
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_check_finite(self->handle, &error);
    Py_END_ALLOW_THREADS;
    tnpy_adapter_unlock(self);
    return status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise(status, &error);
}

/* ---- tensors that Python read ---- */

/* Descriptions of tensors as the library wants them. */
typedef struct descriptions {
    PyObject *given; /* a tuple, which keeps the strings alive */
    int64_t count;
    tenon_file_tensor *tensors;
    const tenon_file_tensor **list;
    int64_t **shapes;
    int64_t *indices;
} descriptions;

static void drop_descriptions(descriptions *d)
{
    for (int64_t i = 0; d->shapes != NULL && i < d->count; i++)
        free(d->shapes[i]);
    free(d->shapes);
    free(d->list);
    free(d->tensors);
    free(d->indices);
    Py_XDECREF(d->given);
}

static bool read_shape(descriptions *d, int64_t index, PyObject *shape)
{
    tenon_file_tensor *tensor = &d->tensors[index];
    if (!PyTuple_Check(shape) || PyTuple_Size(shape) > 1024) {
        PyErr_Format(PyExc_TypeError, "the shape of tensor '%s' is no tuple of at most 1024 integers", tensor->name);
        return false;
    }
    tensor->ndim = (int)PyTuple_Size(shape);
    d->shapes[index] = calloc((size_t)tensor->ndim + 1, sizeof *d->shapes[index]); /* never of size 0 */
    tensor->shape = d->shapes[index];
    if (tensor->shape == NULL) return PyErr_NoMemory() != NULL;
    for (int i = 0; i < tensor->ndim; i++) {
        if (!tnpy_read_int(PyTuple_GetItem(shape, i), "a side of a tensor", &d->shapes[index][i])) return false;
    }
    return true;
}

/* (name, stored, DLPack's code, bits, shape, absent shard or None) */
static bool read_description(descriptions *d, int64_t index)
{
    tenon_file_tensor *tensor = &d->tensors[index];
    PyObject *row = PyTuple_GetItem(d->given, (Py_ssize_t)index);
    int64_t code, bits;
    if (!PyTuple_Check(row) || PyTuple_Size(row) != 6) {
        PyErr_Format(PyExc_TypeError, "tensor %lld is %R; expected (name, stored, code, bits, shape, absent)",
                     (long long)index, row);
        return false;
    }
    tenon_file_tensor_init(tensor);
    d->list[index] = tensor;
    tensor->name = tnpy_read_string(PyTuple_GetItem(row, 0), "a tensor's name");
    if (tensor->name == NULL) return false;
    tensor->stored = tnpy_read_string(PyTuple_GetItem(row, 1), "a tensor's type");
    if (tensor->stored == NULL ||
        !read_optional_string(PyTuple_GetItem(row, 5), "a shard's name", &tensor->absent_shard) ||
        !tnpy_read_int(PyTuple_GetItem(row, 2), "a tensor's code", &code) ||
        !tnpy_read_int(PyTuple_GetItem(row, 3), "a tensor's bits", &bits)) {
        return false;
    }
    tensor->dtype = (DLDataType){(uint8_t)code, (uint8_t)bits, 1};
    return read_shape(d, index, PyTuple_GetItem(row, 4));
}

static bool read_descriptions(descriptions *d, PyObject *given)
{
    *d = (descriptions){.given = PySequence_Tuple(given)};
    if (d->given == NULL) return false;
    d->count = PyTuple_Size(d->given);
    const size_t places = (size_t)d->count + 1; /* never 0 */
    d->tensors = calloc(places, sizeof *d->tensors);
    d->list = calloc(places, sizeof *d->list);
    d->shapes = calloc(places, sizeof *d->shapes);
    d->indices = calloc(places, sizeof *d->indices);
    if (d->tensors == NULL || d->list == NULL || d->shapes == NULL || d->indices == NULL) {
        return PyErr_NoMemory() != NULL;
    }
    for (int64_t i = 0; i < d->count; i++) {
        if (!read_description(d, i)) return false;
    }
    return true;
}

/* (adapter, numbers of tensors, report) */
static PyObject *build_match(PyTypeObject *type, tenon_adapter *handle, const descriptions *d,
                             const tenon_load_options *options)
{
    const Py_ssize_t count = (Py_ssize_t)tenon_adapter_num_parameters(handle);
    PyObject *adapter = tnpy_adapter_wrap(type, handle), *numbers = PyTuple_New(count), *found = report(options);
    for (Py_ssize_t i = 0; i < count && numbers != NULL; i++)
        PyTuple_SetItem(numbers, i, PyLong_FromLongLong(d->indices[i]));
    PyObject *result =
        adapter != NULL && numbers != NULL && found != NULL ? PyTuple_Pack(3, adapter, numbers, found) : NULL;
    Py_XDECREF(adapter);
    Py_XDECREF(numbers);
    Py_XDECREF(found);
    return result;
}

static PyObject *match(PyObject *type, PyObject *args)
{
    PyObject *path_object, *tensors, *json, *prefix, *rename, *family = NULL, *keeper, *result = NULL;
    const char *path;
    load_settings s;
    descriptions d = {.given = NULL};
    tenon_adapter *handle;
    tenon_error error;
    tenon_status status;
    if (!PyArg_ParseTuple(args, "OOOOO|O:match", &path_object, &tensors, &json, &prefix, &rename, &family) ||
        !tnpy_read_path(path_object, &keeper, &path)) {
        return NULL;
    }
    if (!read_settings(&s, json, prefix, rename)) {
        Py_DECREF(keeper);
        return NULL;
    }
    if (read_optional_string(family, "family", &s.options.family) && read_descriptions(&d, tensors)) {
        Py_BEGIN_ALLOW_THREADS;
        status = tenon_adapter_match(path, d.list, d.count, &s.options, &handle, d.indices, d.count, &error);
        Py_END_ALLOW_THREADS;
        result =
            status == TENON_OK ? build_match((PyTypeObject *)type, handle, &d, &s.options) : tnpy_raise(status, &error);
    }
    drop_descriptions(&d);
    drop_settings(&s);
    Py_DECREF(keeper);
    return result;
}

PyMethodDef tnpy_checkpoint_methods[] = {
    {"open", adapter_open, METH_VARARGS | METH_CLASS,
     "open(path, config_json=None, prefix=None, rename=None, family=None, activation=None): the adapter that a file "
     "describes, loaded."},
    {"match", match, METH_VARARGS | METH_CLASS,
     "match(path, tensors, config_json, prefix, rename, family=None): the adapter among [(name, stored, DLPack's code, "
     "bits, "
     "shape,\nabsent shard or None), ...] without parameters, the number of each parameter's tensor, and what load "
     "returns."},
    {"load", load, METH_VARARGS,
     "load(path, prefix=None, rename=None): every parameter from a file; (used prefix, tensors used, not used)."},
    {"save", save, METH_VARARGS, "save(path, prefix=None, allow_nonfinite=False): a self-describing safetensors file."},
    {"check_finite", check_finite, METH_NOARGS, "Raises ValueError when parameters are infinite or NaN."},
    {NULL, NULL, 0, NULL},
};
