/* SPDX-License-Identifier: MIT */
/* The type tenon._C.Adapter: a handle, a lock for its parameters, and what it borrows. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Who holds the lock when this process is forked goes on in the other process alone: here it counts as free. What it
 * was doing is left undone, as the library publishes parameters and packs when they are whole. The owner is noted under
 * the GIL, before anybody can wait. */
void tnpy_adapter_lock(tnpy_adapter *self)
{
    bool taken = PyThread_acquire_lock(self->lock, NOWAIT_LOCK);
    PyThread_type_lock fresh = !taken && self->owner != getpid() ? PyThread_allocate_lock() : NULL;
    if (fresh != NULL) {
        self->lock = fresh; /* nobody can give the old one back, so that it cannot be freed */
        taken = PyThread_acquire_lock(fresh, NOWAIT_LOCK);
    }
    if (!taken) {
        Py_BEGIN_ALLOW_THREADS;
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS;
    }
    self->owner = getpid();
}

void tnpy_adapter_unlock(tnpy_adapter *self)
{
    PyThread_release_lock(self->lock);
}

static bool get_parameter(const tnpy_adapter *self, int64_t index, tenon_parameter *parameter)
{
    tenon_parameter_init(parameter);
    return tenon_adapter_parameter(self->handle, index, parameter, NULL) == TENON_OK;
}

void tnpy_adapter_note_dtype(tnpy_adapter *self)
{
    tenon_parameter parameter;
    tenon_dtype dtype = 0;
    for (int64_t i = 0; i < self->num_parameters && get_parameter(self, i, &parameter); i++) {
        if (parameter.dtype == 0) continue;
        dtype = dtype == 0 || dtype == parameter.dtype ? parameter.dtype : TENON_F32;
    }
    self->dtype = dtype;
}

void tnpy_adapter_drop_owners(tnpy_adapter *self)
{
    for (int64_t i = 0; i < self->num_parameters; i++)
        Py_CLEAR(self->owners[i]);
}

bool tnpy_adapter_prepare(tnpy_adapter *self, const tenon_prepare_options *options)
{
    tenon_error error;
    tenon_status status;
    tnpy_adapter_lock(self);
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_prepare(self->handle, options, &error);
    Py_END_ALLOW_THREADS;
    tnpy_adapter_unlock(self);
    if (status != TENON_OK) tnpy_raise(status, &error);
    return status == TENON_OK;
}

PyObject *tnpy_adapter_wrap(PyTypeObject *type, tenon_adapter *handle)
{
    tnpy_adapter *self = (tnpy_adapter *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        tenon_adapter_free(handle);
        return NULL;
    }
    self->handle = handle;
    self->num_parameters = tenon_adapter_num_parameters(handle);
    self->owners = calloc((size_t)self->num_parameters + 1, sizeof *self->owners);
    self->lock = PyThread_allocate_lock();
    if (self->owners == NULL || self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    tnpy_adapter_note_dtype(self);
    return (PyObject *)self;
}

static PyObject *adapter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int64_t in_dim, out_dim;
    tenon_config *config;
    tenon_adapter *handle;
    tenon_error error;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "_C.Adapter takes (config_json, in_dim, out_dim)");
        return NULL;
    }
    if (PyTuple_Size(args) != 3 || !tnpy_read_int(PyTuple_GetItem(args, 1), "in_dim", &in_dim) ||
        !tnpy_read_int(PyTuple_GetItem(args, 2), "out_dim", &out_dim)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "_C.Adapter takes (config_json, in_dim, out_dim)");
        return NULL;
    }
    if (!tnpy_read_config(PyTuple_GetItem(args, 0), &config)) return NULL;
    const tenon_status status = tenon_adapter_new(config, in_dim, out_dim, NULL, &handle, &error);
    tenon_config_free(config);
    return status == TENON_OK ? tnpy_adapter_wrap(type, handle) : tnpy_raise(status, &error);
}

static void adapter_dealloc(PyObject *object)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyTypeObject *type = Py_TYPE(object);
    tenon_adapter_free(self->handle);
    if (self->owners != NULL) tnpy_adapter_drop_owners(self);
    free(self->owners);
    tnpy_workspace_drop(self->spare);
    tnpy_pool_close(self->gradients);
    if (self->lock != NULL) PyThread_free_lock(self->lock);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* ---- questions ---- */

static PyObject *get_config(PyObject *self, void *unused)
{
    (void)unused;
    return tnpy_config_to_python(tenon_adapter_config(((tnpy_adapter *)self)->handle));
}

static PyObject *optional_text(const char *text)
{
    return text != NULL ? PyUnicode_FromString(text) : Py_NewRef(Py_None);
}

static PyObject *get_family(PyObject *self, void *unused)
{
    (void)unused;
    return optional_text(tenon_adapter_family(((tnpy_adapter *)self)->handle));
}

static PyObject *get_feeding(PyObject *self, void *unused)
{
    (void)unused;
    return optional_text(tenon_adapter_feeding(((tnpy_adapter *)self)->handle));
}

static PyObject *get_in_dim(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(tenon_adapter_in_dim(((tnpy_adapter *)self)->handle));
}

static PyObject *get_out_dim(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(tenon_adapter_out_dim(((tnpy_adapter *)self)->handle));
}

static PyObject *get_cpu(PyObject *self, void *unused)
{
    (void)unused;
    const char *cpu = tenon_adapter_cpu(((tnpy_adapter *)self)->handle);
    return cpu != NULL ? PyUnicode_FromString(cpu) : Py_NewRef(Py_None);
}

static PyObject *get_dtype(PyObject *self, void *unused)
{
    (void)unused;
    const tenon_dtype dtype = ((tnpy_adapter *)self)->dtype;
    return dtype != 0 ? PyUnicode_FromString(tenon_dtype_name(dtype)) : Py_NewRef(Py_None);
}

static PyObject *get_layers(PyObject *object, void *unused)
{
    (void)unused;
    const tnpy_adapter *self = (const tnpy_adapter *)object;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; i < tenon_adapter_num_layers(self->handle) && list != NULL; i++) {
        tenon_layer_info info;
        tenon_layer_info_init(&info);
        PyObject *row = NULL;
        if (tenon_adapter_layer(self->handle, i, &info, NULL) == TENON_OK) {
            row = Py_BuildValue("(sssLL)", info.type, info.name, info.reach, (long long)info.in_dim,
                                (long long)info.out_dim);
        }
        if (row == NULL || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *get_graph(PyObject *object, void *unused)
{
    (void)unused;
    const tenon_adapter *handle = ((tnpy_adapter *)object)->handle;
    size_t length = 0;
    tenon_error error;
    tenon_status status = tenon_adapter_graph_json(handle, NULL, 0, &length, &error);
    char *text = status == TENON_OK ? malloc(length + 1) : NULL;
    if (status == TENON_OK && text == NULL) return PyErr_NoMemory();
    if (text != NULL) status = tenon_adapter_graph_json(handle, text, length + 1, &length, &error);
    PyObject *json =
        status == TENON_OK ? PyUnicode_FromStringAndSize(text, (Py_ssize_t)length) : tnpy_raise(status, &error);
    free(text);
    return json;
}

/* Reads (num_input_tokens, pool_window, grid). */
static bool read_geometry(PyObject *const *args, Py_ssize_t nargs, int64_t *tokens, tenon_call *call)
{
    tenon_call_init(call);
    if (nargs != 3) {
        PyErr_Format(PyExc_TypeError, "expected (num_input_tokens, pool_window, grid); got %zd arguments", nargs);
        return false;
    }
    return tnpy_read_int(args[0], "num_input_tokens", tokens) &&
           tnpy_read_optional_int(args[1], "pool_window", TENON_UNSET, &call->pool_window) &&
           tnpy_read_grid(args[2], call);
}

static PyObject *output_num_tokens(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t tokens, count;
    tenon_call call;
    tenon_error error;
    if (!read_geometry(args, nargs, &tokens, &call)) return NULL;
    const tenon_status status =
        tenon_adapter_output_num_tokens(((tnpy_adapter *)self)->handle, &call, tokens, &count, &error);
    return status == TENON_OK ? PyLong_FromLongLong(count) : tnpy_raise(status, &error);
}

static PyObject *flops(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t tokens;
    double count;
    tenon_call call;
    tenon_error error;
    if (!read_geometry(args, nargs, &tokens, &call)) return NULL;
    const tenon_status status = tenon_adapter_flops(((tnpy_adapter *)self)->handle, tokens, &call, &count, &error);
    return status == TENON_OK ? PyFloat_FromDouble(count) : tnpy_raise(status, &error);
}

static PyObject *workspace_size(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t tokens;
    size_t bytes;
    tenon_call call;
    tenon_error error;
    if (!read_geometry(args, nargs, &tokens, &call)) return NULL;
    const tenon_status status =
        tenon_adapter_workspace_size(((tnpy_adapter *)self)->handle, tokens, &call, &bytes, &error);
    return status == TENON_OK ? PyLong_FromSize_t(bytes) : tnpy_raise(status, &error);
}

/* The number of an output of that name; -1 with an exception. */
static int64_t find_output(const tnpy_adapter *self, PyObject *object)
{
    const char *wanted = tnpy_read_string(object, "output"), *name;
    int64_t width;
    for (int64_t i = 0; wanted != NULL && tenon_adapter_output(self->handle, i, &name, &width, NULL) == TENON_OK; i++) {
        if (strcmp(name, wanted) == 0) return i;
    }
    if (wanted != NULL) PyErr_Format(PyExc_ValueError, "the adapter has no output %R", object);
    return -1;
}

static PyObject *output_offsets(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    static const int order[] = {TNPY_POOL_WINDOW, TNPY_GRID, TNPY_GRIDS, TNPY_INPUTS};
    const tnpy_adapter *self = (const tnpy_adapter *)object;
    int64_t images, tokens;
    tnpy_settings s;
    tenon_error error;
    if (!tnpy_check_count(nargs, 3, 7,
                          "output_offsets(output, images, num_input_tokens, pool_window, grid, grids, "
                          "inputs)")) {
        return NULL;
    }
    const int64_t index = find_output(self, args[0]);
    if (index < 0 || !tnpy_read_int(args[1], "images", &images) ||
        !tnpy_read_int(args[2], "num_input_tokens", &tokens) ||
        !tnpy_settings_from_arguments(&s, args + 3, nargs - 3, order, 4)) {
        return NULL;
    }
    int64_t *offsets = images >= 0 && images < PTRDIFF_MAX / 16 ? calloc((size_t)images + 1, sizeof *offsets) : NULL;
    PyObject *result = NULL;
    if (offsets == NULL) {
        PyErr_Format(PyExc_ValueError, "images is %lld; expected a number of images", (long long)images);
    } else {
        const tenon_status status =
            tenon_adapter_output_offsets(self->handle, index, &s.call, images, tokens, offsets, &error);
        result = status == TENON_OK ? tnpy_ints_to_python(offsets, images + 1) : tnpy_raise(status, &error);
    }
    free(offsets);
    tnpy_settings_give_back(&s);
    return result;
}

static PyObject *get_outputs(PyObject *object, void *unused)
{
    (void)unused;
    const tnpy_adapter *self = (const tnpy_adapter *)object;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; i < tenon_adapter_num_outputs(self->handle) && list != NULL; i++) {
        const char *name = "";
        int64_t width = 0;
        PyObject *row = NULL;
        if (tenon_adapter_output(self->handle, i, &name, &width, NULL) == TENON_OK) {
            row = Py_BuildValue("(sL)", name, (long long)width);
        }
        if (row == NULL || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyMethodDef question_methods[] = {
    {"output_offsets", TNPY_FAST(output_offsets), METH_FASTCALL,
     "output_offsets(output, images, num_input_tokens, pool_window=None, grid=None, grids=None, inputs=None): where\n"
     "each image's rows begin in the output of that name, and how many rows there are."},
    {"output_num_tokens", TNPY_FAST(output_num_tokens), METH_FASTCALL,
     "output_num_tokens(num_input_tokens, pool_window, grid): tokens of one image."},
    {"flops", TNPY_FAST(flops), METH_FASTCALL, "flops(num_input_tokens, pool_window, grid): of one image, folded."},
    {"workspace_size", TNPY_FAST(workspace_size), METH_FASTCALL,
     "workspace_size(num_input_tokens, pool_window, grid): bytes that a call works in."},
    {NULL, NULL, 0, NULL},
};

/* The methods of all files in one table. */
static PyMethodDef *join_methods(void)
{
    static PyMethodDef all[32];
    PyMethodDef *const tables[] = {question_methods, tnpy_parameter_methods, tnpy_checkpoint_methods, tnpy_call_methods,
                                   tnpy_train_methods};
    size_t count = 0;
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        for (const PyMethodDef *m = tables[t]; m->ml_name != NULL && count + 1 < sizeof all / sizeof all[0]; m++)
            all[count++] = *m;
    }
    return all;
}

bool tnpy_adapter_setup(PyObject *module)
{
    static PyGetSetDef members[] = {
        {"config_json", get_config, NULL, "The config as JSON, with what the builder read.", NULL},
        {"family", get_family, NULL, "The family of the public model that it was opened from, or None.", NULL},
        {"feeding", get_feeding, NULL, "What that model's encoder must deliver, a line for each input, or None.", NULL},
        {"in_dim", get_in_dim, NULL, "Width of a patch.", NULL},
        {"out_dim", get_out_dim, NULL, "Width of a token.", NULL},
        {"cpu", get_cpu, NULL, "The CPU level it is prepared for; None when it is not prepared.", NULL},
        {"dtype", get_dtype, NULL, "The parameters' dtype, f32 where they differ; None before they have one.", NULL},
        {"outputs", get_outputs, NULL, "(name, width) of each output, the tokens first.", NULL},
        {"layers", get_layers, NULL, "(type, name, reach, in_dim, out_dim) of each layer.", NULL},
        {"graph_json", get_graph, NULL, "Inputs, outputs, spaces, values, layers and parameters as JSON.", NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, "Adapter(config_json, in_dim, out_dim): describes the connector; it has no parameters yet."},
        {Py_tp_new, adapter_new},
        {Py_tp_dealloc, adapter_dealloc},
        {Py_tp_call, tnpy_adapter_call},
        {Py_tp_methods, join_methods()},
        {Py_tp_getset, members},
        {0, NULL},
    };
    PyType_Spec spec = {"tenon._C.Adapter", sizeof(tnpy_adapter), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL) return false;
    const bool added = PyModule_AddObjectRef(module, "Adapter", type) == 0;
    Py_DECREF(type);
    return added;
}
