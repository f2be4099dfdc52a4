/* SPDX-License-Identifier: MIT */
/* What a file is, and the type AtomicFile: a file that appears whole or not at all. */
#include "module.h"

PyObject *tnpy_identify(PyObject *module, PyObject *path_object)
{
    (void)module;
    PyObject *keeper;
    const char *path, *kind;
    tenon_error error;
    tenon_status status;
    if (!tnpy_read_path(path_object, &keeper, &path)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_file_identify(path, &kind, &error);
    Py_END_ALLOW_THREADS;
    PyObject *result = status == TENON_OK ? PyUnicode_FromString(kind) : tnpy_raise_for_path(status, &error, path);
    Py_DECREF(keeper);
    return result;
}

PyObject *tnpy_file_beside(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *path_object, *name_object, *path_keeper, *name_keeper, *result = NULL;
    const char *path, *name;
    char found[4096];
    tenon_error error;
    if (!PyArg_ParseTuple(args, "OO:file_beside", &path_object, &name_object) ||
        !tnpy_read_path(path_object, &path_keeper, &path)) {
        return NULL;
    }
    if (tnpy_read_path(name_object, &name_keeper, &name)) {
        const tenon_status status = tenon_file_beside(path, name, found, sizeof found, &error);
        result = status == TENON_OK ? PyUnicode_DecodeFSDefault(found) : tnpy_raise_for_path(status, &error, name);
        Py_DECREF(name_keeper);
    }
    Py_DECREF(path_keeper);
    return result;
}

/* [(tensor, shard), ...] */
static PyObject *list_index(const tenon_index *index)
{
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; i < tenon_index_num_tensors(index) && list != NULL; i++) {
        const char *name, *shard;
        PyObject *pair = NULL;
        if (tenon_index_tensor(index, i, &name, &shard, NULL) == TENON_OK) pair = Py_BuildValue("(ss)", name, shard);
        if (pair == NULL || PyList_Append(list, pair) < 0) Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

PyObject *tnpy_read_index(PyObject *module, PyObject *path_object)
{
    (void)module;
    PyObject *keeper;
    const char *path;
    tenon_index *index;
    tenon_error error;
    tenon_status status;
    if (!tnpy_read_path(path_object, &keeper, &path)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_index_open(path, &index, &error);
    Py_END_ALLOW_THREADS;
    PyObject *result = status == TENON_OK ? list_index(index) : tnpy_raise_for_path(status, &error, path);
    if (status == TENON_OK) tenon_index_close(index);
    Py_DECREF(keeper);
    return result;
}

typedef struct atomic_file {
    PyObject_HEAD tenon_atomic_file *handle;
} atomic_file;

static PyObject *atomic_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *path_object, *keeper;
    const char *path;
    tenon_error error;
    tenon_status status;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "AtomicFile takes (path)");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O:AtomicFile", &path_object) || !tnpy_read_path(path_object, &keeper, &path)) {
        return NULL;
    }
    atomic_file *self = (atomic_file *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self != NULL) {
        Py_BEGIN_ALLOW_THREADS;
        status = tenon_atomic_file_new(path, &self->handle, &error);
        Py_END_ALLOW_THREADS;
        if (status != TENON_OK) {
            Py_CLEAR(self);
            tnpy_raise_for_path(status, &error, path);
        }
    }
    Py_DECREF(keeper);
    return (PyObject *)self;
}

static void atomic_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    tenon_atomic_file_free(((atomic_file *)object)->handle);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* The handle leaves the object while it is used: a second thread finds none. */
static tenon_atomic_file *take(atomic_file *self)
{
    tenon_atomic_file *handle = self->handle;
    self->handle = NULL;
    if (handle == NULL) PyErr_SetString(PyExc_ValueError, "the file is committed, discarded or in use");
    return handle;
}

static PyObject *atomic_write(PyObject *object, PyObject *data)
{
    atomic_file *self = (atomic_file *)object;
    PyObject *view = PyMemoryView_FromObject(data), *bytes = NULL;
    char *start;
    Py_ssize_t size;
    tenon_error error;
    tenon_status status;
    if (view != NULL) bytes = PyBytes_FromObject(view);
    Py_XDECREF(view);
    if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &start, &size) < 0) return NULL;
    tenon_atomic_file *handle = take(self);
    if (handle == NULL) {
        Py_DECREF(bytes);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_atomic_file_write(handle, start, (size_t)size, &error);
    Py_END_ALLOW_THREADS;
    self->handle = handle;
    Py_DECREF(bytes);
    return status == TENON_OK ? PyLong_FromSsize_t(size) : tnpy_raise(status, &error);
}

static PyObject *atomic_commit(PyObject *object, PyObject *unused)
{
    (void)unused;
    tenon_atomic_file *handle = take((atomic_file *)object);
    tenon_error error;
    tenon_status status;
    if (handle == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_atomic_file_commit(handle, &error);
    tenon_atomic_file_free(handle);
    Py_END_ALLOW_THREADS;
    return status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise(status, &error);
}

static PyObject *atomic_discard(PyObject *object, PyObject *unused)
{
    (void)unused;
    atomic_file *self = (atomic_file *)object;
    tenon_atomic_file_free(self->handle);
    self->handle = NULL;
    return Py_NewRef(Py_None);
}

bool tnpy_files_setup(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"write", atomic_write, METH_O, "write(data): appends bytes, and returns how many."},
        {"commit", atomic_commit, METH_NOARGS, "Syncs, and gives the file its name."},
        {"discard", atomic_discard, METH_NOARGS, "Forgets what was written and was not committed."},
        {NULL, NULL, 0, NULL},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, "AtomicFile(path): a file that appears under its name, whole, when it is committed."},
        {Py_tp_new, atomic_new},
        {Py_tp_dealloc, atomic_dealloc},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    PyType_Spec spec = {"tenon._C.AtomicFile", sizeof(atomic_file), 0, Py_TPFLAGS_DEFAULT, slots};
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL) return false;
    const bool added = PyModule_AddObjectRef(module, "AtomicFile", type) == 0;
    Py_DECREF(type);
    return added;
}
