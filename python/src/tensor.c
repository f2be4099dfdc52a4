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
              {"uint8", {kDLUInt, 8, 1}},     {"bool", {TNPY_DLPACK_BOOL, 8, 1}}, {"int8", {kDLInt, 8, 1}}};
enum { NUM_DTYPES = sizeof dtypes / sizeof dtypes[0] };

/* What is asked of PyTorch, looked up when the first tensor comes. */
static struct {
    PyTypeObject *type; /* NULL: not yet */
    PyObject *names[NUM_NAMES];
    PyObject *dtypes[NUM_DTYPES];
    const tnpy_exchange *exchange; /* NULL: there is none, which is so before PyTorch 2.10 */
} torch;

static bool look_up(PyObject *module)
{
    for (int i = 0; i < NUM_NAMES; i++) {
        torch.names[i] = PyUnicode_InternFromString(names[i]);
        if (torch.names[i] == NULL) return false;
    }
    for (int i = 0; i < NUM_DTYPES; i++) {
        torch.dtypes[i] = PyObject_GetAttrString(module, dtypes[i].name);
        if (torch.dtypes[i] == NULL) return false;
    }
    PyObject *type = PyObject_GetAttrString(module, "Tensor");
    if (type == NULL) return false;
    PyObject *capsule = PyObject_GetAttrString(type, TNPY_EXCHANGE_ATTRIBUTE);
    if (capsule != NULL && PyCapsule_IsValid(capsule, TNPY_EXCHANGE_NAME)) {
        const tnpy_exchange *found = PyCapsule_GetPointer(capsule, TNPY_EXCHANGE_NAME);
        if (found->version.major == TNPY_DLPACK_MAJOR && found->dltensor_from_py_object_no_sync != NULL)
            torch.exchange = found;
    }
    Py_XDECREF(capsule); /* its table is PyTorch's own and stays */
    PyErr_Clear();
    torch.type = (PyTypeObject *)type;
    return true;
}

bool tnpy_is_tensor(PyObject *object)
{
    if (torch.type == NULL) {
        PyObject *module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
        if (module == NULL || !look_up(module)) {
            PyErr_Clear(); /* not there, or half imported */
            return false;
        }
    }
    return PyObject_TypeCheck(object, torch.type);
}

static bool expect_tensor(PyObject *object)
{
    if (tnpy_is_tensor(object)) return true;
    PyErr_Format(PyExc_TypeError, "expected a tensor of PyTorch; got %R", object);
    return false;
}

/* ---- from its table ---- */

static bool read_table(tnpy_tensor *tensor, PyObject *object)
{
    DLTensor found;
    if (torch.exchange->dltensor_from_py_object_no_sync(object, &found) != 0) return false;
    if (found.ndim > TNPY_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "a tensor has %d dimensions; expected at most %d", found.ndim, TNPY_MAX_DIMS);
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
static bool read_axes(int64_t *axes, int64_t *ndim, PyObject *tuple)
{
    const Py_ssize_t count = tuple != NULL ? PyTuple_Size(tuple) : -1;
    if (count > TNPY_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "a tensor has %zd dimensions; expected at most %d", count, TNPY_MAX_DIMS);
    }
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++)
        axes[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
    Py_XDECREF(tuple);
    *ndim = count;
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
    if (found != NULL) PyErr_Format(PyExc_ValueError, "no kernel reads a tensor of %R", found);
    Py_XDECREF(found);
    return false;
}

static bool read_attributes(tnpy_tensor *tensor, PyObject *object)
{
    PyObject *is_cpu = PyObject_GetAttr(object, torch.names[IS_CPU]);
    const bool known = is_cpu == Py_True;
    Py_XDECREF(is_cpu);
    if (!known) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a tensor lies on a device; expected the CPU's memory");
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
    PyObject *found = expect_tensor(object) ? call(object, name) : NULL;
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
