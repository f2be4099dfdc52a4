/* SPDX-License-Identifier: MIT */
/* Connectors declared in Python: tenon._C.Builder shows a builder function the library's builder while it is called. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

typedef struct python_builder {
    PyObject_HEAD tenon_builder *handle; /* NULL once the builder function has returned */
} python_builder;

static PyTypeObject *builder_type;

static tenon_builder *handle_of(PyObject *self)
{
    tenon_builder *handle = ((python_builder *)self)->handle;
    if (handle == NULL) {
        PyErr_SetString(PyExc_ValueError, "a builder can be used only while the builder function runs");
    }
    return handle;
}

static PyObject *builder_linear(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "out_dim", "bias", NULL};
    tenon_builder *builder = handle_of(self);
    const char *name;
    long long out_dim;
    int bias = 1;
    if (builder == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "sL|p:linear", names, &name, &out_dim, &bias)) {
        return NULL;
    }
    return PyLong_FromLong(tenon_linear(builder, name, out_dim, bias ? TENON_BIAS : TENON_NO_BIAS));
}

static PyObject *builder_activation(PyObject *self, PyObject *name)
{
    tenon_builder *builder = handle_of(self);
    const char *text = builder != NULL ? tnpy_read_string(name, "activation") : NULL;
    return text != NULL ? PyLong_FromLong(tenon_activation(builder, text)) : NULL;
}

static PyObject *builder_window_mean(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"window", "ragged", NULL};
    tenon_builder *builder = handle_of(self);
    long long window;
    const char *ragged = "partial";
    if (builder == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "L|s:window_mean", names, &window, &ragged)) {
        return NULL;
    }
    return PyLong_FromLong(tenon_window_mean(builder, window, ragged));
}

static PyObject *builder_window_attention(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "heads", "window", "ragged", "bias", NULL};
    tenon_builder *builder = handle_of(self);
    const char *name, *ragged = "reject";
    long long heads, window;
    int bias = 1;
    if (builder == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "sLL|sp:window_attention", names, &name, &heads,
                                                        &window, &ragged, &bias)) {
        return NULL;
    }
    return PyLong_FromLong(
        tenon_window_attention(builder, name, heads, window, ragged, bias ? TENON_BIAS : TENON_NO_BIAS));
}

static PyObject *builder_option_int(PyObject *self, PyObject *args)
{
    tenon_builder *builder = handle_of(self);
    const char *name;
    long long fallback;
    if (builder == NULL || !PyArg_ParseTuple(args, "sL:option_int", &name, &fallback)) return NULL;
    return PyLong_FromLongLong(tenon_option_int(builder, name, fallback));
}

static PyObject *builder_option_real(PyObject *self, PyObject *args)
{
    tenon_builder *builder = handle_of(self);
    const char *name;
    double fallback;
    if (builder == NULL || !PyArg_ParseTuple(args, "sd:option_real", &name, &fallback)) return NULL;
    return PyFloat_FromDouble(tenon_option_real(builder, name, fallback));
}

static PyObject *builder_option_string(PyObject *self, PyObject *args)
{
    tenon_builder *builder = handle_of(self);
    const char *name, *fallback;
    if (builder == NULL || !PyArg_ParseTuple(args, "sz:option_string", &name, &fallback)) return NULL;
    const char *value = tenon_option_string(builder, name, fallback);
    return value != NULL ? PyUnicode_FromString(value) : Py_NewRef(Py_None);
}

static PyObject *builder_option_bool(PyObject *self, PyObject *args)
{
    tenon_builder *builder = handle_of(self);
    const char *name;
    int fallback;
    if (builder == NULL || !PyArg_ParseTuple(args, "sp:option_bool", &name, &fallback)) return NULL;
    return PyBool_FromLong(tenon_option_bool(builder, name, fallback));
}

static PyObject *builder_option_ints(PyObject *self, PyObject *args)
{
    tenon_builder *builder = handle_of(self);
    const char *name;
    PyObject *fallback;
    if (builder == NULL || !PyArg_ParseTuple(args, "sO:option_ints", &name, &fallback)) return NULL;
    PyObject *given = PySequence_Tuple(fallback);
    const Py_ssize_t count = given != NULL ? PyTuple_Size(given) : 0;
    int64_t *numbers = calloc((size_t)count + 1, sizeof *numbers), found;
    if (numbers == NULL) PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count && numbers != NULL && !PyErr_Occurred(); i++)
        tnpy_read_int(PyTuple_GetItem(given, i), name, &numbers[i]);
    const int64_t *list = NULL;
    if (!PyErr_Occurred()) list = tenon_option_ints(builder, name, &found, count, numbers);
    PyObject *made = list != NULL ? tnpy_ints_to_python(list, found) : NULL;
    free(numbers);
    Py_XDECREF(given);
    return made;
}

static PyObject *builder_in_dim(PyObject *self, void *unused)
{
    (void)unused;
    tenon_builder *builder = handle_of(self);
    return builder != NULL ? PyLong_FromLongLong(tenon_builder_in_dim(builder)) : NULL;
}

static PyObject *builder_out_dim(PyObject *self, void *unused)
{
    (void)unused;
    tenon_builder *builder = handle_of(self);
    return builder != NULL ? PyLong_FromLongLong(tenon_builder_out_dim(builder)) : NULL;
}

static void builder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* The exception that the builder function raised becomes the builder's sentence. */
static void forward_exception(tenon_builder *builder)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    const char *sentence = text != NULL ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    tenon_builder_fail(builder, "%s", sentence != NULL ? sentence : "the builder function raised an exception");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

/* Called by the library on any thread, with the GIL or without. */
static void call_function(tenon_builder *builder)
{
    const PyGILState_STATE state = PyGILState_Ensure();
    PyObject *made = ((allocfunc)PyType_GetSlot(builder_type, Py_tp_alloc))(builder_type, 0), *result = NULL;
    if (made != NULL) {
        ((python_builder *)made)->handle = builder;
        result = PyObject_CallFunctionObjArgs((PyObject *)tenon_builder_context(builder), made, NULL);
        ((python_builder *)made)->handle = NULL;
    }
    if (result == NULL) forward_exception(builder);
    Py_XDECREF(result);
    Py_XDECREF(made);
    PyGILState_Release(state);
}

PyObject *tnpy_register_adapter(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    PyObject *function;
    tenon_error error;
    if (!PyArg_ParseTuple(args, "sO:register_adapter", &name, &function)) return NULL;
    if (!PyCallable_Check(function)) {
        tnpy_fail_value(PyExc_TypeError, "the builder of ", name, function, "a function of one argument");
        return NULL;
    }
    const tenon_status status = tenon_register_adapter(name, call_function, function, &error);
    if (status != TENON_OK) return tnpy_raise(status, &error);
    Py_INCREF(function); /* for the rest of the process, as the registry's rows */
    return Py_NewRef(Py_None);
}

bool tnpy_builder_setup(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"linear", (PyCFunction)(void (*)(void))builder_linear, METH_VARARGS | METH_KEYWORDS,
         "linear(name, out_dim, bias=True)"},
        {"activation", builder_activation, METH_O, "activation(name)"},
        {"window_mean", (PyCFunction)(void (*)(void))builder_window_mean, METH_VARARGS | METH_KEYWORDS,
         "window_mean(window, ragged='partial')"},
        {"window_attention", (PyCFunction)(void (*)(void))builder_window_attention, METH_VARARGS | METH_KEYWORDS,
         "window_attention(name, heads, window, ragged='reject', bias=True)"},
        {"option_int", builder_option_int, METH_VARARGS, "option_int(name, fallback)"},
        {"option_real", builder_option_real, METH_VARARGS, "option_real(name, fallback)"},
        {"option_string", builder_option_string, METH_VARARGS, "option_string(name, fallback)"},
        {"option_bool", builder_option_bool, METH_VARARGS, "option_bool(name, fallback)"},
        {"option_ints", builder_option_ints, METH_VARARGS, "option_ints(name, fallback): a list"},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef members[] = {
        {"in_dim", builder_in_dim, NULL, "Width of a patch; 0 while tokens are only counted.", NULL},
        {"out_dim", builder_out_dim, NULL, "Width of a token; 0 while tokens are only counted.", NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Lists the layers of one connector; each method appends one and returns the number of its value."},
        {Py_tp_dealloc, builder_dealloc},
        {Py_tp_methods, methods},
        {Py_tp_getset, members},
        {0, NULL},
    };
    static PyType_Spec spec = {"tenon._C.Builder", sizeof(python_builder), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    builder_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return builder_type != NULL && PyModule_AddObjectRef(module, "Builder", (PyObject *)builder_type) == 0;
}
