/* SPDX-License-Identifier: MIT */
/* Running an adapter: from Python's arguments to tenon_adapter_forward and back. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

/* One forward pass with the GIL given back. */
static tenon_status run_once(tnpy_adapter *self, DLTensor *y, const DLTensor *x, const tenon_call *call,
                             tenon_error *error)
{
    tnpy_workspace mine = tnpy_workspace_take(self);
    tenon_status status;
    size_t size = 0;
    Py_BEGIN_ALLOW_THREADS;
    status = tenon_adapter_workspace_size(self->handle, tnpy_num_tokens(x), call, &size, error);
    if (status == TENON_OK) status = tnpy_workspace_grow(&mine, size, error);
    if (status == TENON_OK) {
        const tenon_workspace workspace = {mine.data, mine.size};
        status = tenon_adapter_forward(self->handle, x, y, call, size > 0 ? &workspace : NULL, error);
    }
    Py_END_ALLOW_THREADS;
    tnpy_workspace_keep(self, mine);
    return status;
}

/* The same; prepares what is not prepared. */
static bool run_prepared(tnpy_adapter *self, DLTensor *y, const DLTensor *x, const tenon_call *call)
{
    tenon_error error;
    tenon_status status = run_once(self, y, x, call, &error);
    while (status == TENON_NOT_PREPARED) { /* again where another thread sets parameters in between */
        tenon_prepare_options options;
        tenon_prepare_options_init(&options);
        options.threads = call->threads;
        if (!tnpy_adapter_prepare(self, &options)) return false;
        status = run_once(self, y, x, call, &error);
    }
    if (status != TENON_OK) tnpy_raise_for_out(status, &error);
    return status == TENON_OK;
}

/* ---- adapter(x, ...) ---- */

/* The first are the settings, in their order. */
enum { OUT = TNPY_NUM_SETTINGS, DTYPE, NUM_KEYWORDS };
static const char *const keyword_names[NUM_KEYWORDS] = {
    [OUT] = "out",
    [DTYPE] = "dtype",
    [TNPY_GRID] = "grid",
    [TNPY_POOL_WINDOW] = "pool_window",
    [TNPY_PATCH_MASK] = "patch_mask",
    [TNPY_FRAME_MASK] = "frame_mask",
    [TNPY_THREADS] = "threads",
    [TNPY_GRIDS] = "grids",
    [TNPY_INPUTS] = "inputs",
};
static PyObject *keywords[NUM_KEYWORDS]; /* interned */

bool tnpy_call_setup(void)
{
    for (int i = 0; i < NUM_KEYWORDS; i++) {
        if (keyword_names[i] == NULL) continue;
        keywords[i] = PyUnicode_InternFromString(keyword_names[i]);
        if (keywords[i] == NULL) return false;
    }
    return true;
}

/* The number of a keyword; -1 with an exception. */
static int find_keyword(PyObject *key)
{
    for (int i = 0; i < NUM_KEYWORDS; i++) {
        if (key == keywords[i]) return i;
    }
    for (int i = 0; i < NUM_KEYWORDS; i++) {
        if (keyword_names[i] != NULL && PyUnicode_CompareWithASCIIString(key, keyword_names[i]) == 0) return i;
    }
    PyErr_Format(
        PyExc_TypeError,
        "an adapter takes no argument '%U'; it takes x, out, dtype, grid, pool_window, patch_mask, frame_mask, "
        "threads, grids, inputs",
        key);
    return -1;
}

/* Borrowed references; what is not given stays NULL. */
static bool read_arguments(PyObject *args, PyObject *kwargs, PyObject **x, PyObject **given)
{
    if (PyTuple_Size(args) != 1) {
        PyErr_Format(PyExc_TypeError, "an adapter takes one positional argument, x (got %zd)", PyTuple_Size(args));
        return false;
    }
    *x = PyTuple_GetItem(args, 0);
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (kwargs != NULL && PyDict_Next(kwargs, &position, &key, &value)) {
        const int index = find_keyword(key);
        if (index < 0) return false;
        if (value != Py_None) given[index] = value;
    }
    return true;
}

/* Rows of an output: of an image, or of a packed batch. */
static tenon_status find_rows(const tnpy_adapter *self, int64_t output, const DLTensor *x, const tenon_call *call,
                              int64_t *rows, tenon_error *error)
{
    if (output == 0 && call->grids == NULL && call->num_inputs == 0) {
        return tenon_adapter_output_num_tokens(self->handle, call, tnpy_num_tokens(x), rows, error);
    }
    const int64_t images = call->grids != NULL && call->grids->ndim > 0 ? call->grids->shape[0] : 1;
    int64_t *offsets = calloc((size_t)images + 1, sizeof *offsets);
    if (offsets == NULL) {
        snprintf(error->message, sizeof error->message, "out of memory: %lld offsets", (long long)images);
        return TENON_NO_MEMORY;
    }
    const tenon_status status =
        tenon_adapter_output_offsets(self->handle, output, call, images, tnpy_num_tokens(x), offsets, error);
    if (status == TENON_OK) *rows = offsets[images];
    free(offsets);
    return status;
}

/* The shape of an output, with the axes of x; returns how many there are, 0 with an exception. */
static int find_shape(const tnpy_adapter *self, int64_t output, const DLTensor *x, const tenon_call *call,
                      int64_t *shape)
{
    tenon_error error;
    const char *name;
    int64_t rows, width;
    tenon_status status = tenon_adapter_output(self->handle, output, &name, &width, &error);
    if (status == TENON_OK) status = find_rows(self, output, x, call, &rows, &error);
    if (status != TENON_OK) {
        tnpy_raise(status, &error);
        return 0;
    }
    shape[0] = x->shape[0];
    shape[x->ndim - 2] = rows;
    shape[x->ndim - 1] = width;
    return x->ndim;
}

static bool find_dtype(const tnpy_adapter *self, PyObject *asked, tenon_dtype *dtype)
{
    if (asked != NULL) return tnpy_read_dtype(asked, dtype);
    *dtype = self->dtype != 0 ? self->dtype : TENON_F32;
    return true;
}

/* The arrays of a call's outputs, the tokens first. Not to be moved. */
typedef struct outputs {
    int64_t count;
    PyObject **objects;        /* [count] new arrays; NULL: the caller's */
    tnpy_borrowed *borrowed;   /* [count] */
    tenon_named_tensor *named; /* [count] */
    PyObject *object;          /* the arrays of one output, for which nothing is allocated */
    tnpy_borrowed memory;
    tenon_named_tensor tensor;
} outputs;

static void drop_outputs(outputs *o)
{
    for (int64_t i = 0; i < o->count; i++) {
        if (o->borrowed != NULL) tnpy_give_back(&o->borrowed[i]);
        if (o->objects != NULL) Py_XDECREF(o->objects[i]);
    }
    if (o->count == 1) return;
    PyMem_Free(o->objects);
    PyMem_Free(o->borrowed);
    PyMem_Free(o->named);
}

static bool new_outputs(outputs *o, const tnpy_adapter *self)
{
    tenon_error error;
    int64_t width;
    const size_t count = (size_t)tenon_adapter_num_outputs(self->handle);
    *o = (outputs){.count = (int64_t)count};
    o->objects = count > 1 ? PyMem_Calloc(count, sizeof *o->objects) : &o->object;
    o->borrowed = count > 1 ? PyMem_Calloc(count, sizeof *o->borrowed) : &o->memory;
    o->named = count > 1 ? PyMem_Calloc(count, sizeof *o->named) : &o->tensor;
    bool made = o->objects != NULL && o->borrowed != NULL && o->named != NULL;
    if (!made) PyErr_NoMemory();
    for (int64_t i = 0; i < o->count && made; i++) {
        made = tenon_adapter_output(self->handle, i, &o->named[i].name, &width, &error) == TENON_OK;
        o->named[i].tensor = &o->borrowed[i].tensor;
    }
    if (!made) drop_outputs(o);
    return made;
}

static bool run_outputs(tnpy_adapter *self, const outputs *o, const tnpy_borrowed *features, tnpy_settings *s)
{
    s->call.outputs = o->named + 1;
    s->call.num_outputs = o->count - 1;
    return run_prepared(self, o->named[0].tensor, &features->tensor, &s->call);
}

/* The tokens, or with several outputs a dict of all. */
static PyObject *finish_outputs(outputs *o, PyObject *x)
{
    PyObject *all = o->count > 1 ? PyDict_New() : NULL;
    for (int64_t i = 0; i < o->count && (o->count == 1 || all != NULL); i++) {
        PyObject *made = tnpy_result_finish(o->objects[i], x);
        o->objects[i] = NULL;
        if (o->count == 1) return made;
        if (made == NULL || PyDict_SetItemString(all, o->named[i].name, made) < 0) Py_CLEAR(all);
        Py_XDECREF(made);
    }
    return all;
}

/* New arrays, computed. */
static PyObject *call_new(tnpy_adapter *self, PyObject *x, const tnpy_borrowed *features, tnpy_settings *s,
                          PyObject *asked)
{
    tenon_dtype dtype;
    outputs o;
    if (!find_dtype(self, asked, &dtype) || !new_outputs(&o, self)) return NULL;
    bool made = true;
    for (int64_t i = 0; i < o.count && made; i++) {
        int64_t shape[3];
        const int ndim = find_shape(self, i, &features->tensor, &s->call, shape);
        made =
            ndim > 0 && tnpy_result_new(&o.objects[i], &o.borrowed[i], x, features, dtype, asked != NULL, ndim, shape);
    }
    const bool ran = made && run_outputs(self, &o, features, s);
    for (int64_t i = 0; i < o.count; i++)
        tnpy_give_back(&o.borrowed[i]);
    PyObject *result = ran ? finish_outputs(&o, x) : NULL;
    drop_outputs(&o);
    return result;
}

/* The array of an output in `out`, which is that of the tokens or a mapping of all. */
static bool borrow_out(outputs *o, int64_t i, PyObject *out)
{
    if (o->count == 1) return tnpy_borrow(&o->borrowed[i], out, "out", TNPY_WRITE);
    const char *name = o->named[i].name;
    PyObject *array = PyMapping_Check(out) ? PyMapping_GetItemString(out, name) : NULL;
    if (array == NULL) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "out has no array '%s'; expected a mapping with one for each output", name);
        return false;
    }
    const bool borrowed = tnpy_borrow(&o->borrowed[i], array, name, TNPY_WRITE);
    Py_DECREF(array);
    return borrowed;
}

/* Into the caller's arrays. */
static PyObject *call_into(tnpy_adapter *self, PyObject *out, const tnpy_borrowed *features, tnpy_settings *s)
{
    outputs o;
    if (!new_outputs(&o, self)) return NULL;
    bool ran = true;
    for (int64_t i = 0; i < o.count && ran; i++)
        ran = borrow_out(&o, i, out);
    ran = ran && run_outputs(self, &o, features, s);
    drop_outputs(&o);
    return ran ? Py_NewRef(out) : NULL;
}

PyObject *tnpy_adapter_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    PyObject *x, *given[NUM_KEYWORDS] = {NULL}, *result = NULL;
    tnpy_borrowed features;
    tnpy_settings s;
    if (!read_arguments(args, kwargs, &x, given)) return NULL;
    if (given[OUT] != NULL && given[DTYPE] != NULL) {
        PyErr_SetString(PyExc_TypeError, "give out or dtype, not both: out has a dtype");
        return NULL;
    }
    if (!tnpy_settings_read(&s, given)) return NULL;
    if (tnpy_borrow_features(&features, x, 0)) {
        result = given[OUT] != NULL ? call_into(self, given[OUT], &features, &s)
                                    : call_new(self, x, &features, &s, given[DTYPE]);
        tnpy_give_back(&features);
    }
    tnpy_settings_give_back(&s);
    return result;
}

/* ---- methods ---- */

bool tnpy_check_count(Py_ssize_t count, Py_ssize_t least, Py_ssize_t most, const char *signature)
{
    if (count >= least && count <= most) return true;
    PyErr_Format(PyExc_TypeError, "expected %s; got %zd arguments", signature, count);
    return false;
}

static PyObject *run_forward(tnpy_adapter *self, PyObject *y_object, PyObject *x_object, tnpy_settings *s,
                             const tnpy_named *outputs)
{
    tnpy_borrowed x, y;
    tenon_error error;
    PyObject *result = NULL;
    s->call.outputs = outputs->items;
    s->call.num_outputs = outputs->count;
    if (!tnpy_borrow(&y, y_object, "y", TNPY_UNSEEN | TNPY_WRITE)) return NULL;
    if (tnpy_borrow_features(&x, x_object, TNPY_UNSEEN)) {
        const tenon_status status = run_once(self, &y.tensor, &x.tensor, &s->call, &error);
        result = status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise(status, &error);
        tnpy_give_back(&x);
    }
    tnpy_give_back(&y);
    return result;
}

static PyObject *forward(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tnpy_settings s;
    tnpy_named outputs;
    static const int order[] = {TNPY_POOL_WINDOW, TNPY_GRID,  TNPY_PATCH_MASK, TNPY_FRAME_MASK, TNPY_ATTENTION,
                                TNPY_THREADS,     TNPY_SAVED, TNPY_GRIDS,      TNPY_INPUTS};
    if (!tnpy_check_count(nargs, 2, 12,
                          "forward(y, x, pool_window, grid, patch_mask, frame_mask, attention, threads, saved, grids, "
                          "inputs, outputs)") ||
        !tnpy_settings_from_arguments(&s, args + 2, nargs - 2, order, 9)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (tnpy_named_read(&outputs, nargs > 11 ? args[11] : NULL, "outputs", TNPY_UNSEEN | TNPY_WRITE)) {
        result = run_forward((tnpy_adapter *)object, args[0], args[1], &s, &outputs);
        tnpy_named_give_back(&outputs);
    }
    tnpy_settings_give_back(&s);
    return result;
}

/* The last two axes of pooling weights. */
static bool find_heads_and_slots(const tnpy_adapter *self, const tenon_call *call, int64_t *heads, int64_t *slots)
{
    const tenon_config *config = tenon_adapter_config(self->handle);
    int64_t window = call->pool_window;
    tenon_error error;
    tenon_status status = tenon_config_get_int(config, "pool_heads", heads, &error);
    if (status == TENON_OK && window == TENON_UNSET) {
        status = tenon_config_get_int(config, "pool_window", &window, &error);
    }
    if (status != TENON_OK) {
        tnpy_raise(status, &error);
    } else if (__builtin_mul_overflow(window, window, slots)) {
        PyErr_Format(PyExc_ValueError, "pool_window is %lld; its windows have too many patches", (long long)window);
    }
    return !PyErr_Occurred();
}

/* Weights of pooling, and tokens that nobody wants. */
static PyObject *run_attention(tnpy_adapter *self, PyObject *x, const tnpy_borrowed *features, tnpy_settings *s)
{
    int64_t shape[4];
    PyObject *result, *tokens;
    const int ndim = find_shape(self, 0, &features->tensor, &s->call, shape);
    if (ndim == 0) return NULL;
    tokens = tnpy_array_new(tenon_dtype_to_dlpack(TENON_BF16), ndim, shape, NULL);
    if (tokens == NULL) return NULL;
    if (!find_heads_and_slots(self, &s->call, &shape[ndim - 1], &shape[ndim]) ||
        !tnpy_result_new(&result, &s->attention, x, features, TENON_F32, true, ndim + 1, shape)) {
        Py_DECREF(tokens);
        return NULL;
    }
    s->call.attention = &s->attention.tensor;
    const bool ran = run_prepared(self, &((tnpy_array *)tokens)->tensor, &features->tensor, &s->call);
    Py_DECREF(tokens);
    if (ran) return tnpy_result_finish(result, x);
    Py_DECREF(result);
    return NULL;
}

static PyObject *attention(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tnpy_adapter *self = (tnpy_adapter *)object;
    static const int order[] = {TNPY_POOL_WINDOW, TNPY_GRID, TNPY_PATCH_MASK, TNPY_FRAME_MASK, TNPY_THREADS};
    tnpy_borrowed features;
    tnpy_settings s;
    if (!tnpy_check_count(nargs, 1, 6, "pooling_weights(x, pool_window, grid, patch_mask, frame_mask, threads)") ||
        !tnpy_settings_from_arguments(&s, args + 1, nargs - 1, order, 5)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (tnpy_borrow_features(&features, args[0], 0)) {
        result = run_attention(self, args[0], &features, &s);
        tnpy_give_back(&features);
    }
    tnpy_settings_give_back(&s);
    return result;
}

static PyObject *prepare(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    if (!tnpy_check_count(nargs, 0, 3, "prepare(cpu=None, threads=0, train=False)")) return NULL;
    if (nargs > 0 && args[0] != Py_None && (options.cpu = tnpy_read_string(args[0], "cpu")) == NULL) return NULL;
    if (nargs > 1 && !tnpy_read_threads(args[1], &options.threads)) return NULL;
    const int train = nargs > 2 ? PyObject_IsTrue(args[2]) : 0;
    if (train < 0) return NULL;
    options.train = train;
    return tnpy_adapter_prepare((tnpy_adapter *)object, &options) ? Py_NewRef(Py_None) : NULL;
}

PyMethodDef tnpy_call_methods[] = {
    {"prepare", TNPY_FAST(prepare), METH_FASTCALL,
     "prepare(cpu=None, threads=0, train=False): packs the parameters, with `train` for backward too. Calls of the\n"
     "adapter, but not forward and backward, do it themselves where it was not done."},
    {"forward", TNPY_FAST(forward), METH_FASTCALL,
     "forward(y, x, pool_window=None, grid=None, patch_mask=None, frame_mask=None, attention=None, threads=0,\n"
     "saved=None, grids=None, inputs=None, outputs=None)\n\n"
     "Runs a prepared adapter, and raises ValueError if it is not prepared. Each tensor is an array or a tensor of\n"
     "PyTorch; x and y may be raw tuples (address, dtype, shape, strides): the address of the first element, F32, "
     "BF16\n"
     "or F16, and strides in elements or None. y (batch, out_tokens, out_dim) and attention (batch, out_tokens, "
     "heads,\n"
     "window^2; f32) are written, and so is saved, saved_size bytes, for backward. Where x is one image (tokens,\n"
     "in_dim), y and attention have no axis of the batch either. With grids (images, 2 or 3) x and y are packed: "
     "(rows,\n"
     "width). inputs and outputs are mappings of names to arrays: further inputs and integer tensors of the call, and\n"
     "further outputs, which are written. Tensors that require gradients are read and written\n"
     "too, and autograd does not know of it. The GIL is given back meanwhile."},
    {"pooling_weights", TNPY_FAST(attention), METH_FASTCALL,
     "pooling_weights(x, pool_window=None, grid=None, patch_mask=None, frame_mask=None, threads=0)"},
    {NULL, NULL, 0, NULL},
};
