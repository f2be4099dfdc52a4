/* SPDX-License-Identifier: MIT */
/* Memory of other libraries' arrays, without a copy, and with the values that those libraries see in it. */
#include "borrow.h"
#include "dlpack.h"
#include "tensor.h"

#include <string.h>

void tnpy_give_back(tnpy_borrowed *borrowed)
{
    Py_CLEAR(borrowed->keeper);
}

bool tnpy_fail_read_only(const char *name)
{
    PyErr_Format(PyExc_ValueError, "%s is read-only; it must be writable", name);
    return false;
}

const char tnpy_masked_sentence[] =
    "%s is masked (%s), and the mask would not be read; pass a plain array in which missing values are filled in";

bool tnpy_fail_masked(const char *name, const char *kind)
{
    PyErr_Format(PyExc_ValueError, tnpy_masked_sentence, name, kind);
    return false;
}

/* ---- masked arrays ---- */

/* Whether `object` is of a class of a module that somebody has imported already. */
static bool is_of_class(PyObject *object, const char *module, const char *class)
{
    PyObject *found = PyDict_GetItemString(PyImport_GetModuleDict(), module);
    PyObject *type = found != NULL ? PyObject_GetAttrString(found, class) : NULL;
    const bool is = type != NULL && PyObject_IsInstance(object, type) == 1;
    Py_XDECREF(type);
    PyErr_Clear();
    return is;
}

static bool refuse_masked(PyObject *object, const char *name)
{
    if (is_of_class(object, "numpy.ma", "MaskedArray")) return tnpy_fail_masked(name, "numpy.ma.MaskedArray");
    if (is_of_class(object, "torch.masked", "MaskedTensor")) return tnpy_fail_masked(name, "torch.masked.MaskedTensor");
    return true;
}

/* A memoryview of a masked array shows the values alone. */
static bool refuse_masked_view(PyObject *view, const char *name)
{
    PyObject *owner = PyObject_GetAttrString(view, "obj");
    const bool plain = owner != NULL && refuse_masked(owner, name);
    Py_XDECREF(owner);
    return plain;
}

/* ---- DLPack ---- */

/* What a capsule holds; NULL with an exception. */
static const DLTensor *open_capsule(PyObject *capsule, const char *name, bool write)
{
    if (PyCapsule_IsValid(capsule, TNPY_LEGACY_NAME)) {
        return &((const DLManagedTensor *)PyCapsule_GetPointer(capsule, TNPY_LEGACY_NAME))->dl_tensor;
    }
    if (!PyCapsule_IsValid(capsule, TNPY_VERSIONED_NAME)) {
        PyErr_Format(PyExc_TypeError, "%s: __dlpack__ gave no DLPack capsule", name);
        return NULL;
    }
    const tnpy_versioned *managed = PyCapsule_GetPointer(capsule, TNPY_VERSIONED_NAME);
    if (managed->version.major != TNPY_DLPACK_MAJOR) {
        PyErr_Format(PyExc_ValueError, "%s is exported as DLPack %u; expected version %d", name, managed->version.major,
                     TNPY_DLPACK_MAJOR);
        return NULL;
    }
    if (write && (managed->flags & TNPY_READ_ONLY) != 0) {
        tnpy_fail_read_only(name);
        return NULL;
    }
    return &managed->dl_tensor;
}

static bool check_capsule(const DLTensor *tensor, const char *name)
{
    if (tensor->ndim < 0 || (tensor->ndim > 0 && tensor->shape == NULL)) {
        PyErr_Format(PyExc_ValueError, "%s is exported with %d dimensions and without a shape", name, tensor->ndim);
        return false;
    }
    if (tensor->ndim > TNPY_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "%s has %d dimensions; expected at most %d", name, tensor->ndim, TNPY_MAX_DIMS);
        return false;
    }
    for (int i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] >= 0) continue;
        PyErr_Format(PyExc_ValueError, "%s is exported with %lld elements along axis %d", name,
                     (long long)tensor->shape[i], i);
        return false;
    }
    return true;
}

/* Takes over `capsule`. It is not consumed: dropping it frees what it holds. */
static bool take_capsule(tnpy_borrowed *borrowed, PyObject *capsule, const char *name, bool write)
{
    const DLTensor *tensor = open_capsule(capsule, name, write);
    if (tensor == NULL || !check_capsule(tensor, name)) {
        Py_DECREF(capsule);
        return false;
    }
    borrowed->tensor = *tensor;
    borrowed->keeper = capsule;
    return true;
}

/* The capsule of an object with __dlpack__, versioned where it can be; NULL with an exception. */
static PyObject *ask_for_capsule(PyObject *method)
{
    static PyObject *nothing, *version;
    if (version == NULL) {
        nothing = PyTuple_New(0);
        version = Py_BuildValue("{s(ii)}", "max_version", TNPY_DLPACK_MAJOR, 0);
        if (nothing == NULL || version == NULL) return NULL;
    }
    PyObject *capsule = PyObject_Call(method, nothing, version);
    if (capsule != NULL || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
    PyErr_Clear(); /* older than DLPack 1.0 */
    return PyObject_CallObject(method, NULL);
}

/* ---- buffer protocol ---- */

/* Through NumPy, as the stable ABI has no buffers before Python 3.11. */
static bool borrow_buffer(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write)
{
    bool has;
    PyObject *view = PyMemoryView_FromObject(object);
    if (view == NULL) {
        PyErr_Clear();
        PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
        if (type != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s is of type %U; expected an array with __dlpack__ or __array_interface__, or a buffer",
                         name, type);
        }
        Py_XDECREF(type);
        return false;
    }
    const bool plain = refuse_masked_view(view, name);
    PyObject *numpy = plain ? PyImport_ImportModule("numpy") : NULL;
    PyObject *array = numpy != NULL ? PyObject_CallMethod(numpy, "asarray", "O", view) : NULL;
    Py_XDECREF(numpy);
    Py_DECREF(view);
    const bool read = array != NULL && tnpy_borrow_interface(borrowed, array, name, write, &has);
    Py_XDECREF(array);
    return read;
}

/* ---- any array ---- */

/* Instead of the exception that is set: its first line (PyTorch adds where in C++ it came from), and about what. */
static bool fail_unreadable(const char *name)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *text = PyObject_Str(value != NULL ? value : type), *line = NULL;
    if (text != NULL) {
        const Py_ssize_t length = PyUnicode_GetLength(text), end = PyUnicode_FindChar(text, '\n', 0, length, 1);
        line = PyUnicode_Substring(text, 0, end >= 0 ? end : length);
    }
    if (line != NULL) PyErr_Format(PyExc_ValueError, "%s cannot be read: %U", name, line);
    Py_XDECREF(line);
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return false;
}

/* After __dlpack__ refused: what NumPy's own interface says, else the refusal. */
static bool borrow_refused(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write)
{
    PyObject *type, *value, *trace;
    bool has;
    PyErr_Fetch(&type, &value, &trace);
    if (tnpy_borrow_interface(borrowed, object, name, write, &has) || has) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(trace);
        return borrowed->keeper != NULL;
    }
    PyErr_Restore(type, value, trace);
    return fail_unreadable(name);
}

/* JAX's arrays do not change, but their capsules do not say so. */
static bool is_of_jax(PyObject *object)
{
    PyObject *module = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__module__");
    const char *name = module != NULL && PyUnicode_Check(module) ? PyUnicode_AsUTF8AndSize(module, NULL) : NULL;
    const bool is = name != NULL && strncmp(name, "jax", 3) == 0;
    Py_XDECREF(module);
    PyErr_Clear();
    return is;
}

static bool borrow_array(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write)
{
    if (write && is_of_jax(object)) return tnpy_fail_read_only(name);
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    if (method != NULL) {
        PyObject *capsule = ask_for_capsule(method);
        Py_DECREF(method);
        if (capsule != NULL) return take_capsule(borrowed, capsule, name, write);
        return borrow_refused(borrowed, object, name, write);
    }
    bool has;
    PyErr_Clear();
    if (tnpy_borrow_interface(borrowed, object, name, write, &has)) return true;
    return !has && borrow_buffer(borrowed, object, name, write);
}

/* ---- tensors of PyTorch ---- */

/* tenon.Adapter is no operation of autograd's. */
static bool refuse_gradient(PyObject *tensor, const char *name)
{
    PyObject *asked = PyObject_GetAttrString(tensor, "requires_grad");
    if (asked == Py_True) {
        PyErr_Format(
            PyExc_ValueError,
            "%s requires a gradient, which tenon.Adapter does not compute; pass %s.detach(), or use tenon.torch", name,
            name);
    }
    Py_XDECREF(asked);
    return asked == Py_False;
}

/* A new reference to a tensor whose memory holds the values: that of a negative view holds them with the other sign.
 * NULL with an exception. */
static PyObject *resolve(PyObject *tensor, const char *name, bool write)
{
    bool negated;
    if (!tnpy_tensor_is_negated(&negated, tensor)) return NULL;
    if (!negated) return Py_NewRef(tensor);
    if (!write) return PyObject_CallMethod(tensor, "resolve_neg", NULL);
    PyErr_Format(PyExc_ValueError, "%s has PyTorch's negative bit set and cannot be written; pass an ordinary tensor",
                 name);
    return NULL;
}

/* Some zeros of PyTorch's have no memory until somebody copies them. Keeps an exception that is set. */
static bool is_zero_without_memory(PyObject *tensor)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *zero = PyObject_CallMethod(tensor, "_is_zerotensor", NULL);
    const bool is = zero == Py_True;
    Py_XDECREF(zero);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
    return is;
}

/* Reads *tensor, or a copy that takes its place. */
static bool read_tensor(tnpy_tensor *found, PyObject **tensor, bool write)
{
    const bool read = tnpy_tensor_read(found, *tensor);
    if (write || (read && found->data != NULL) || !is_zero_without_memory(*tensor)) return read;
    PyErr_Clear();
    PyObject *copy = PyObject_CallMethod(*tensor, "clone", NULL);
    if (copy == NULL) return false;
    Py_DECREF(*tensor);
    *tensor = copy;
    return tnpy_tensor_read(found, copy);
}

static bool borrow_tensor(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how)
{
    tnpy_tensor found;
    const bool write = (how & TNPY_WRITE) != 0;
    if ((how & TNPY_UNSEEN) == 0 && !refuse_gradient(object, name)) return false;
    PyObject *tensor = resolve(object, name, write);
    if (tensor != NULL && (how & TNPY_HOLD) != 0) {
        PyObject *alias = PyObject_CallMethod(tensor, "detach", NULL); /* to which nobody can give other memory */
        Py_DECREF(tensor);
        tensor = alias;
    }
    if (tensor == NULL) return false;
    if (!read_tensor(&found, &tensor, write)) {
        Py_DECREF(tensor);
        return fail_unreadable(name);
    }
    memcpy(borrowed->shape, found.shape, sizeof found.shape);
    memcpy(borrowed->strides, found.strides, sizeof found.strides);
    borrowed->tensor = (DLTensor){.data = found.data,
                                  .device = found.device,
                                  .ndim = found.ndim,
                                  .dtype = found.dtype,
                                  .shape = borrowed->shape,
                                  .strides = borrowed->strides};
    borrowed->keeper = tensor;
    return true;
}

/* A class of tensors of its own may lie about its memory: it is asked to export itself. */
static bool borrow_subclass(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write)
{
    PyObject *tensor = resolve(object, name, write);
    const bool read = tensor != NULL && borrow_array(borrowed, tensor, name, write);
    Py_XDECREF(tensor);
    return read;
}

bool tnpy_borrow(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how)
{
    const bool write = (how & TNPY_WRITE) != 0;
    borrowed->keeper = NULL;
    if (PyTuple_Check(object)) return tnpy_borrow_tuple(borrowed, object, name);
    if (tnpy_is_tensor(object)) return borrow_tensor(borrowed, object, name, how);
    if (tnpy_is_ndarray(object)) return borrow_array(borrowed, object, name, write);
    if (!refuse_masked(object, name)) return false;
    if (tnpy_is_tensor_subclass(object)) return borrow_subclass(borrowed, object, name, write);
    return borrow_array(borrowed, object, name, write);
}

bool tnpy_borrow_optional(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how, DLTensor **tensor)
{
    *tensor = NULL;
    borrowed->keeper = NULL;
    if (object == NULL || object == Py_None) return false;
    if (!tnpy_borrow(borrowed, object, name, how)) return false;
    *tensor = &borrowed->tensor;
    return true;
}
