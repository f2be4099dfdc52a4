/* SPDX-License-Identifier: MIT */
#include "tensor.h"
#include "dlpack.h"

#include <string.h>

enum { VERSION, IS_INFERENCE, IS_NEG, IS_CPU, DATA_PTR, DTYPE, SHAPE, STRIDE, NUM_NAMES };
static const char *const names[NUM_NAMES] = {"_version", "is_inference", "is_neg", "is_cpu",
                                             "data_ptr", "dtype",        "shape",  "stride"};

static const struct {
    const char *name;
    DLDataType dtype;
} dtypes[] = {{"float32", {kDLFloat, 32, 1}}, {"bfloat16", {kDLBfloat, 16, 1}},   {"float16", {kDLFloat, 16, 1}},
              {"uint8", {kDLUInt, 8, 1}},     {"bool", {TNPY_DLPACK_BOOL, 8, 1}}, {"int8", {kDLInt, 8, 1}},
              {"int16", {kDLInt, 16, 1}},     {"int32", {kDLInt, 32, 1}},         {"int64", {kDLInt, 64, 1}},
              {"float64", {kDLFloat, 64, 1}}};
enum { NUM_DTYPES = sizeof dtypes / sizeof dtypes[0] };

typedef struct lookup {
    PyTypeObject *tensor; /* NULL: not yet */
    PyTypeObject *parameter;
    PyObject *names[NUM_NAMES];
    PyObject *dtypes[NUM_DTYPES];
    const tnpy_exchange *exchange; /* NULL: there is none, which is so before PyTorch 2.10 */
} lookup;

/* What is asked of PyTorch, from the first tensor on. */
static lookup torch;

static void drop(lookup *l)
{
    for (int i = 0; i < NUM_NAMES; i++)
        Py_XDECREF(l->names[i]);
    for (int i = 0; i < NUM_DTYPES; i++)
        Py_XDECREF(l->dtypes[i]);
    Py_XDECREF((PyObject *)l->tensor);
    Py_XDECREF((PyObject *)l->parameter);
}

static PyTypeObject *find_type(PyObject *module, const char *name)
{
    PyObject *found = PyObject_GetAttrString(module, name);
    if (found != NULL && PyType_Check(found)) return (PyTypeObject *)found;
    Py_XDECREF(found);
    return NULL;
}

/* Its table is PyTorch's own and stays. */
static const tnpy_exchange *find_exchange(const PyTypeObject *tensor)
{
    PyObject *capsule = PyObject_GetAttrString((PyObject *)tensor, TNPY_EXCHANGE_ATTRIBUTE);
    const bool valid = capsule != NULL && PyCapsule_IsValid(capsule, TNPY_EXCHANGE_NAME);
    const tnpy_exchange *found = valid ? PyCapsule_GetPointer(capsule, TNPY_EXCHANGE_NAME) : NULL;
    Py_XDECREF(capsule);
    PyErr_Clear();
    const bool known = found != NULL && found->version.major == TNPY_DLPACK_MAJOR;
    return known && found->dltensor_from_py_object_no_sync != NULL ? found : NULL;
}

static bool look_up(lookup *l, PyObject *module)
{
    bool found = (l->tensor = find_type(module, "Tensor")) != NULL;
    PyObject *nn = found ? PyObject_GetAttrString(module, "nn") : NULL;
    found = nn != NULL && (l->parameter = find_type(nn, "Parameter")) != NULL;
    Py_XDECREF(nn);
    for (int i = 0; i < NUM_NAMES && found; i++)
        found = (l->names[i] = PyUnicode_InternFromString(names[i])) != NULL;
    for (int i = 0; i < NUM_DTYPES && found; i++)
        found = (l->dtypes[i] = PyObject_GetAttrString(module, dtypes[i].name)) != NULL;
    if (found) l->exchange = find_exchange(l->tensor);
    return found;
}

bool tnpy_is_tensor(PyObject *object)
{
    if (torch.tensor == NULL) {
        PyObject *module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
        lookup found = {.tensor = NULL};
        if (module == NULL || !look_up(&found, module)) { /* not there, half imported, or something of that name */
            PyErr_Clear();
            drop(&found);
            return false;
        }
        torch = found;
    }
    return Py_TYPE(object) == torch.tensor || Py_TYPE(object) == torch.parameter;
}

bool tnpy_is_tensor_subclass(PyObject *object)
{
    return !tnpy_is_tensor(object) && torch.tensor != NULL && PyType_IsSubtype(Py_TYPE(object), torch.tensor);
}

static bool expect_tensor(PyObject *object)
{
    if (tnpy_is_tensor(object)) return true;
    PyErr_Format(PyExc_TypeError, "expected a torch.Tensor or Parameter; got %R", (PyObject *)Py_TYPE(object));
    return false;
}

/* ---- from its table ---- */

static bool read_table(tnpy_tensor *tensor, PyObject *object)
{
    DLTensor found;
    if (torch.exchange->dltensor_from_py_object_no_sync(object, &found) != 0 ||
        (found.ndim > 0 && found.strides == NULL)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "PyTorch does not give the memory of the tensor");
        return false;
    }
    if (found.ndim > TNPY_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "the tensor has %d dimensions; expected at most %d", found.ndim, TNPY_MAX_DIMS);
        return false;
    }
    tensor->data = (char *)found.data + found.byte_offset;
    tensor->device = found.device;
    tensor->dtype = found.dtype;
    tensor->ndim = found.ndim;
    for (int i = 0; i < found.ndim; i++) {
        tensor->shape[i] = found.shape[i];
        tensor->strides[i] = found.strides[i];
    }
    return true;
}

/* ---- from its attributes ---- */

static PyObject *call(PyObject *object, int name)
{
    return PyObject_CallMethodObjArgs(object, torch.names[name], NULL);
}

/* Steals `tuple`, which may be NULL with an exception; so does the next. */
static bool read_axes(int64_t *axes, int32_t *ndim, PyObject *tuple)
{
    const Py_ssize_t count = tuple != NULL ? PyTuple_Size(tuple) : -1;
    if (count > TNPY_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "the tensor has %zd dimensions; expected at most %d", count, TNPY_MAX_DIMS);
    }
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++)
        axes[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
    Py_XDECREF(tuple);
    *ndim = (int32_t)count;
    return !PyErr_Occurred();
}

static bool read_dtype(DLDataType *dtype, PyObject *found)
{
    for (int i = 0; i < NUM_DTYPES && found != NULL; i++) {
        if (found != torch.dtypes[i]) continue;
        *dtype = dtypes[i].dtype;
        Py_DECREF(found);
        return true;
    }
    if (found != NULL) PyErr_Format(PyExc_ValueError, "the tensor is of %S, which tenon does not read", found);
    Py_XDECREF(found);
    return false;
}

static bool read_attributes(tnpy_tensor *tensor, PyObject *object)
{
    PyObject *is_cpu = PyObject_GetAttr(object, torch.names[IS_CPU]);
    const bool known = is_cpu == Py_True;
    Py_XDECREF(is_cpu);
    if (!known) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "the tensor is on another device; expected the CPU");
        return false;
    }
    PyObject *address = call(object, DATA_PTR);
    if (address == NULL) return false;
    tensor->data = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    tensor->device = (DLDevice){kDLCPU, 0};
    return !PyErr_Occurred() && read_dtype(&tensor->dtype, PyObject_GetAttr(object, torch.names[DTYPE])) &&
           read_axes(tensor->shape, &tensor->ndim, PyObject_GetAttr(object, torch.names[SHAPE])) &&
           read_axes(tensor->strides, &tensor->ndim, call(object, STRIDE));
}

/* ---- both ---- */

bool tnpy_tensor_read(tnpy_tensor *tensor, PyObject *object)
{
    memset(tensor, 0, sizeof *tensor);
    return expect_tensor(object) &&
           (torch.exchange != NULL ? read_table(tensor, object) : read_attributes(tensor, object));
}

static bool ask(bool *yes, PyObject *object, int name)
{
    PyObject *found = call(object, name);
    *yes = found == Py_True;
    Py_XDECREF(found);
    return found != NULL;
}

bool tnpy_tensor_is_negated(bool *negated, PyObject *object)
{
    return ask(negated, object, IS_NEG);
}

bool tnpy_tensor_version(int64_t *version, PyObject *object)
{
    bool is_inference; /* asked, as one that was made so by `.data =` answers with the version it had */
    *version = -1;
    if (!ask(&is_inference, object, IS_INFERENCE)) return false;
    if (is_inference) return true;
    PyObject *count = PyObject_GetAttr(object, torch.names[VERSION]);
    if (count == NULL) return false;
    *version = PyLong_AsLongLong(count);
    Py_DECREF(count);
    return !PyErr_Occurred();
}
