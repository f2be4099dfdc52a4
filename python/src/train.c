/* SPDX-License-Identifier: MIT */
/* Gradients. */
#include "memory.h"

/* What a backward writes, with what it borrows. */
typedef struct targets {
    tenon_gradients gradients;
    tnpy_borrowed x;
    tnpy_borrowed *parameters; /* [num_parameters] */
    const DLTensor **tensors;  /* [num_parameters] */
    int64_t count;             /* of `parameters` that hold something */
    tnpy_named inputs;         /* gradients of further inputs, written */
    tnpy_named outputs;        /* of further outputs, read */
} targets;

static void drop_targets(targets *t)
{
    for (int64_t i = 0; i < t->count; i++)
        tnpy_give_back(&t->parameters[i]);
    tnpy_give_back(&t->x);
    tnpy_named_give_back(&t->inputs);
    tnpy_named_give_back(&t->outputs);
    PyMem_Free(t->parameters);
    PyMem_Free(t->tensors);
}

/* `list`: an array, a tensor, a raw tuple or None for each parameter. */
static bool read_parameters(targets *t, const tnpy_adapter *self, PyObject *list)
{
    PyObject *items = PySequence_Check(list) ? PySequence_Tuple(list) : NULL;
    if (items == NULL || PyTuple_Size(items) != self->num_parameters) {
        Py_XDECREF(items);
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "gradients must be a sequence of %lld arrays or Nones, one for each parameter",
                     (long long)self->num_parameters);
        return false;
    }
    const size_t count = (size_t)self->num_parameters + 1;
    t->parameters = PyMem_Malloc(count * sizeof *t->parameters);
    t->tensors = PyMem_Malloc(count * sizeof *t->tensors);
    bool read = t->parameters != NULL && t->tensors != NULL;
    if (!read) PyErr_NoMemory();
    for (int64_t i = 0; i < self->num_parameters && read; i++, t->count++) {
        DLTensor *tensor;
        t->parameters[i].keeper = NULL;
        tnpy_borrow_optional(&t->parameters[i], PyTuple_GetItem(items, (Py_ssize_t)i), "a gradient",
                             TNPY_UNSEEN | TNPY_WRITE, &tensor);
        t->tensors[i] = tensor;
        read = !PyErr_Occurred();
    }
    Py_DECREF(items);
    t->gradients.parameters = t->tensors;
    return read;
}

static bool read_named(targets *t, PyObject *inputs, PyObject *outputs)
{
    if (!tnpy_named_read(&t->inputs, inputs, "input_gradients", TNPY_UNSEEN | TNPY_WRITE) ||
        !tnpy_named_read(&t->outputs, outputs, "output_gradients", TNPY_UNSEEN)) {
        return false;
    }
    t->gradients.inputs = t->inputs.items;
    t->gradients.num_inputs = t->inputs.count;
    t->gradients.outputs = t->outputs.items;
    t->gradients.num_outputs = t->outputs.count;
    return true;
}

/* named[2]: gradients of further inputs and of further outputs, by name. */
static bool read_targets(targets *t, const tnpy_adapter *self, PyObject *dx, PyObject *parameters,
                         PyObject *const *named)
{
    *t = (targets){.count = 0};
    tenon_gradients_init(&t->gradients);
    tnpy_borrow_optional(&t->x, dx, "dx", TNPY_UNSEEN | TNPY_WRITE, &t->gradients.x);
    bool read = !PyErr_Occurred();
    if (read && parameters != Py_None) read = read_parameters(t, self, parameters);
    if (read) read = read_named(t, named[0], named[1]);
    if (!read) drop_targets(t);
    return read;
}

static tenon_status run(tnpy_adapter *self, const DLTensor *dy, const DLTensor *x, const tenon_gradients *gradients,
                        const tenon_call *call, tenon_error *error)
{
    tnpy_workspace mine = tnpy_workspace_take(self);
    tenon_status status;
    size_t size = 0;
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_backward_workspace_size(self->handle, tnpy_num_tokens(x), gradients, call, &size, error);
    if (status == TENON_OK) status = tnpy_workspace_grow(&mine, size, error);
    if (status == TENON_OK) {
        const tenon_workspace workspace = {mine.data, mine.size};
        status = tenon_adapter_backward(self->handle, dy, x, gradients, call, size > 0 ? &workspace : NULL, error);
    }
    Py_END_ALLOW_THREADS;
    tnpy_workspace_keep(self, mine);
    return status;
}

static PyObject *run_on(tnpy_adapter *self, PyObject *dy_object, PyObject *x_object, const targets *t,
                        const tnpy_settings *s)
{
    tnpy_borrowed dy, x;
    tenon_error error;
    PyObject *result = NULL;
    if (!tnpy_borrow(&dy, dy_object, "dy", TNPY_UNSEEN)) return NULL;
    if (tnpy_borrow_features(&x, x_object, TNPY_UNSEEN)) {
        const tenon_status status = run(self, &dy.tensor, &x.tensor, &t->gradients, &s->call, &error);
        result = status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise(status, &error);
        tnpy_give_back(&x);
    }
    tnpy_give_back(&dy);
    return result;
}

static PyObject *backward(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    enum { overwrite = 10, named = 13, most = 15 };
    static const int order[] = {TNPY_POOL_WINDOW,  TNPY_GRID, TNPY_PATCH_MASK, TNPY_FRAME_MASK, TNPY_THREADS,
                                TNPY_SAVED_BEFORE, -1,        TNPY_GRIDS,      TNPY_INPUTS};
    PyObject *gradients[2] = {nargs > named ? args[named] : NULL, nargs > named + 1 ? args[named + 1] : NULL};
    tnpy_adapter *self = (tnpy_adapter *)object;
    targets t;
    tnpy_settings s;
    if (!tnpy_check_count(
            nargs, 4, most,
            "backward(dy, x, dx, gradients, pool_window, grid, patch_mask, frame_mask, threads, saved, overwrite, "
            "grids, inputs, input_gradients, output_gradients)") ||
        !tnpy_settings_from_arguments(&s, args + 4, nargs - 4, order, 9)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (read_targets(&t, self, args[2], args[3], gradients)) {
        t.gradients.overwrite = nargs > overwrite && PyObject_IsTrue(args[overwrite]) == 1;
        result = run_on(self, args[0], args[1], &t, &s);
        drop_targets(&t);
    }
    tnpy_settings_give_back(&s);
    return result;
}

static PyObject *saved_size(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    static const int order[] = {TNPY_POOL_WINDOW, TNPY_GRID, TNPY_GRIDS, TNPY_INPUTS};
    int64_t batch, tokens;
    size_t bytes;
    tnpy_settings s;
    tenon_error error;
    if (!tnpy_check_count(nargs, 2, 6, "saved_size(batch, num_input_tokens, pool_window, grid, grids, inputs)") ||
        !tnpy_read_int(args[0], "batch", &batch) || !tnpy_read_int(args[1], "num_input_tokens", &tokens) ||
        !tnpy_settings_from_arguments(&s, args + 2, nargs - 2, order, 4)) {
        return NULL;
    }
    const tenon_status status =
        tenon_adapter_saved_size(((tnpy_adapter *)object)->handle, batch, tokens, &s.call, &bytes, &error);
    tnpy_settings_give_back(&s);
    return status == TENON_OK ? PyLong_FromSize_t(bytes) : tnpy_raise(status, &error);
}

/* A pool for one gradient of each parameter; NULL: out of memory. */
static tnpy_pool *new_pool(const tnpy_adapter *self)
{
    size_t most = 0;
    for (int64_t i = 0; i < self->num_parameters; i++) {
        tenon_parameter p;
        size_t size;
        tenon_parameter_init(&p);
        if (tenon_adapter_parameter(self->handle, i, &p, NULL) != TENON_OK ||
            !tnpy_array_bytes(tenon_dtype_to_dlpack(TENON_F32), p.ndim, p.shape, &size) ||
            __builtin_add_overflow(most, tnpy_memory_size(size), &most)) {
            return NULL;
        }
    }
    return tnpy_pool_new(most);
}

static PyObject *lend_gradient(PyObject *object, PyObject *which)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    int64_t index;
    tenon_parameter parameter;
    tenon_error error;
    if (!tnpy_read_int(which, "a parameter's index", &index)) return NULL;
    tenon_parameter_init(&parameter);
    tnpy_adapter_lock(self);
    const tenon_status status = tenon_adapter_parameter(self->handle, index, &parameter, &error);
    if (self->gradients == NULL) self->gradients = new_pool(self);
    tnpy_adapter_unlock(self);
    if (status != TENON_OK) return tnpy_raise(status, &error);
    return tnpy_array_new(tenon_dtype_to_dlpack(TENON_F32), parameter.ndim, parameter.shape, self->gradients);
}

PyMethodDef tnpy_train_methods[] = {
    {"lend_gradient", lend_gradient, METH_O,
     "lend_gradient(index): an f32 array of that parameter's shape. When it is dropped, its memory goes into a pool "
     "of\n"
     "the adapter, which holds as much as one gradient of each parameter, and is handed out again."},
    {"backward", TNPY_FAST(backward), METH_FASTCALL,
     "backward(dy, x, dx, gradients, pool_window=None, grid=None, patch_mask=None, frame_mask=None, threads=0,\n"
     "saved=None, overwrite=False, grids=None, inputs=None, input_gradients=None, output_gradients=None)\n\n"
     "Gradients of sum(y * dy), of an adapter prepared with `train`. Tensors are as forward takes them. dx is\n"
     "overwritten; None: not wanted. gradients is None (all frozen) or has a dense f32 array for each parameter in\n"
     "declaration order, which is added to (with `overwrite`: overwritten), or None for a frozen one. saved is what a\n"
     "forward of the same x and settings filled; None: recomputed, with the same bits. input_gradients maps names of\n"
     "further inputs to arrays, which are overwritten; output_gradients those of further outputs, which are read (one\n"
     "that is not there is zero). The GIL is given back meanwhile."},
    {"saved_size", TNPY_FAST(saved_size), METH_FASTCALL,
     "saved_size(batch, num_input_tokens, pool_window=None, grid=None, grids=None, inputs=None): bytes of `saved`."},
    {NULL, NULL, 0, NULL},
};
