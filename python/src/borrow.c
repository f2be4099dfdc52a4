/* SPDX-License-Identifier: MIT */
/* Memory of other people's arrays, without a copy. */
#include "dlpack.h"
#include "tensor.h"

#include <string.h>

void tnpy_give_back(tnpy_borrowed *borrowed)
{
    Py_CLEAR(borrowed->keeper);
}

static bool fail_read_only(const char *name)
{
    PyErr_Format(PyExc_ValueError, "%s is read-only; it must be writable", name);
    return false;
}

/* ---- raw tuples ---- */

static bool read_axes(PyObject *tuple, const char *name, const char *what, int64_t *values, int *count)
{
    const Py_ssize_t length = PyTuple_Check(tuple) ? PyTuple_Size(tuple) : TNPY_MAX_DIMS + 1;
    if (length > TNPY_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "%s: the %s are %R; expected a tuple of at most %d integers", name, what, tuple,
                     TNPY_MAX_DIMS);
        return false;
    }
    for (Py_ssize_t i = 0; i < length; i++) {
        values[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (values[i] == -1 && PyErr_Occurred()) return false;
    }
    *count = (int)length;
    return true;
}

/* (address, dtype, shape, strides): dtype is a tenon_dtype; strides in elements, or None for dense rows. */
static bool borrow_tuple(tnpy_borrowed *borrowed, PyObject *tuple, const char *name)
{
    if (PyTuple_Size(tuple) != 4) {
        PyErr_Format(PyExc_TypeError, "%s is %R; expected an array or (address, dtype, shape, strides)", name, tuple);
        return false;
    }
    DLTensor *tensor = &borrowed->tensor;
    *tensor = (DLTensor){.device = {kDLCPU, 0}, .shape = borrowed->shape};
    tensor->data = PyLong_AsVoidPtr(PyTuple_GetItem(tuple, 0));
    if (tensor->data == NULL && PyErr_Occurred()) return false;
    const long dtype = PyLong_AsLong(PyTuple_GetItem(tuple, 1));
    if (dtype == -1 && PyErr_Occurred()) return false;
    tensor->dtype = tenon_dtype_to_dlpack((tenon_dtype)dtype);
    if (!read_axes(PyTuple_GetItem(tuple, 2), name, "shape", borrowed->shape, &tensor->ndim)) return false;
    PyObject *strides = PyTuple_GetItem(tuple, 3);
    int count = tensor->ndim;
    if (strides != Py_None) {
        if (!read_axes(strides, name, "strides", borrowed->strides, &count)) return false;
        tensor->strides = borrowed->strides;
    }
    if (count != tensor->ndim) {
        PyErr_Format(PyExc_ValueError, "%s has %d axes and %d strides", name, tensor->ndim, count);
        return false;
    }
    borrowed->keeper = Py_NewRef(tuple);
    return true;
}

/* ---- DLPack ---- */

static bool take_capsule(tnpy_borrowed *borrowed, PyObject *capsule, const char *name, bool write)
{
    bool taken = false;
    if (PyCapsule_IsValid(capsule, TNPY_VERSIONED_NAME)) {
        const tnpy_versioned *managed = PyCapsule_GetPointer(capsule, TNPY_VERSIONED_NAME);
        if (managed->version.major != TNPY_DLPACK_MAJOR) {
            PyErr_Format(PyExc_ValueError, "%s speaks DLPack %u; expected version %d", name, managed->version.major,
                         TNPY_DLPACK_MAJOR);
        } else if (write && (managed->flags & TNPY_READ_ONLY) != 0) {
            fail_read_only(name);
        } else {
            borrowed->tensor = managed->dl_tensor;
            taken = true;
        }
    } else if (PyCapsule_IsValid(capsule, TNPY_LEGACY_NAME)) {
        borrowed->tensor = ((const DLManagedTensor *)PyCapsule_GetPointer(capsule, TNPY_LEGACY_NAME))->dl_tensor;
        taken = true;
    } else {
        PyErr_Format(PyExc_TypeError, "%s: __dlpack__ gave no DLPack capsule", name);
    }
    if (taken) {
        borrowed->keeper = capsule; /* not consumed: dropping it frees what it holds */
    } else {
        Py_DECREF(capsule);
    }
    return taken;
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

/* ---- __array_interface__ ---- */

static bool read_typestr(DLDataType *dtype, size_t *size, PyObject *object, const char *typestr, const char *name)
{
    static const struct {
        char kind;
        uint8_t code;
    } kinds[] = {{'f', kDLFloat}, {'i', kDLInt}, {'u', kDLUInt}, {'b', TNPY_DLPACK_BOOL}, {'c', kDLComplex}};
    const long bytes = strlen(typestr) > 2 ? strtol(typestr + 2, NULL, 10) : 0;
    *size = (size_t)bytes;
    if (bytes > 1 && bytes <= 31 && typestr[0] == '>') {
        PyErr_Format(PyExc_ValueError,
                     "%s is %s, in the byte order of other machines; expected native float32, "
                     "bfloat16 or float16",
                     name, typestr);
        return false;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && bytes > 0 && bytes <= 31; i++) {
        if (kinds[i].kind != typestr[1]) continue;
        *dtype = (DLDataType){kinds[i].code, (uint8_t)(8 * bytes), 1};
        return true;
    }
    PyObject *type = PyObject_GetAttrString(object, "dtype"), *text = type != NULL ? PyObject_Str(type) : NULL;
    PyErr_Clear();
    const bool bf16 = text != NULL && PyUnicode_CompareWithASCIIString(text, "bfloat16") == 0;
    if (bf16) {
        *dtype = (DLDataType){kDLBfloat, 16, 1};
    } else {
        PyErr_Format(PyExc_ValueError, "%s is %S; expected float32, bfloat16 or float16", name,
                     text != NULL ? text : Py_None);
    }
    Py_XDECREF(type);
    Py_XDECREF(text);
    return bf16;
}

static bool read_strides(tnpy_borrowed *borrowed, PyObject *strides, size_t size, const char *name)
{
    int count;
    if (strides == NULL || strides == Py_None) return true;
    if (!read_axes(strides, name, "strides", borrowed->strides, &count)) return false;
    for (int i = 0; i < count; i++) {
        if (borrowed->strides[i] % (int64_t)size != 0 && borrowed->shape[i] > 1) {
            PyErr_Format(PyExc_ValueError, "%s has a stride of %lld bytes, no multiple of its element size %zu", name,
                         (long long)borrowed->strides[i], size);
            return false;
        }
        borrowed->strides[i] /= (int64_t)size;
    }
    borrowed->tensor.strides = borrowed->strides;
    return true;
}

/* `interface` is the dictionary of NumPy's array interface, version 3. */
static bool read_interface(tnpy_borrowed *borrowed, PyObject *object, PyObject *interface, const char *name, bool write)
{
    PyObject *shape = PyDict_GetItemString(interface, "shape"), *data = PyDict_GetItemString(interface, "data");
    PyObject *typestr = PyDict_GetItemString(interface, "typestr");
    if (shape == NULL || typestr == NULL || data == NULL || !PyTuple_Check(data) || PyTuple_Size(data) != 2) {
        PyErr_Format(PyExc_TypeError, "%s has an __array_interface__ without shape, typestr or data", name);
        return false;
    }
    const char *type = tnpy_read_string(typestr, "typestr");
    DLTensor *tensor = &borrowed->tensor;
    *tensor = (DLTensor){.device = {kDLCPU, 0}, .shape = borrowed->shape};
    size_t size;
    if (type == NULL || !read_typestr(&tensor->dtype, &size, object, type, name)) return false;
    if (!read_axes(shape, name, "shape", borrowed->shape, &tensor->ndim)) return false;
    if (!read_strides(borrowed, PyDict_GetItemString(interface, "strides"), size, name)) return false;
    if (write && PyObject_IsTrue(PyTuple_GetItem(data, 1)) != 0) return fail_read_only(name);
    tensor->data = PyLong_AsVoidPtr(PyTuple_GetItem(data, 0));
    return tensor->data != NULL || !PyErr_Occurred();
}

/* Tries __array_interface__; *has tells whether there is one. */
static bool borrow_interface(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write, bool *has)
{
    PyObject *interface = PyObject_GetAttrString(object, "__array_interface__");
    *has = interface != NULL && PyDict_Check(interface);
    if (!*has) PyErr_Clear();
    const bool read = *has && read_interface(borrowed, object, interface, name, write);
    Py_XDECREF(interface);
    if (read) borrowed->keeper = Py_NewRef(object);
    return read;
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
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *array = numpy != NULL ? PyObject_CallMethod(numpy, "asarray", "O", view) : NULL;
    Py_XDECREF(numpy);
    Py_DECREF(view);
    const bool read = array != NULL && borrow_interface(borrowed, array, name, write, &has);
    Py_XDECREF(array);
    return read;
}

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
    if (borrow_interface(borrowed, object, name, write, &has) || has) {
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

bool tnpy_borrow(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write)
{
    borrowed->keeper = NULL;
    if (PyTuple_Check(object)) return borrow_tuple(borrowed, object, name);
    if (write && is_of_jax(object)) return fail_read_only(name);
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    if (method != NULL) {
        PyObject *capsule = ask_for_capsule(method);
        Py_DECREF(method);
        if (capsule != NULL) return take_capsule(borrowed, capsule, name, write);
        return borrow_refused(borrowed, object, name, write);
    }
    bool has;
    PyErr_Clear();
    if (borrow_interface(borrowed, object, name, write, &has)) return true;
    return !has && borrow_buffer(borrowed, object, name, write);
}

/* ---- tensors of PyTorch, as they are ---- */

/* A new reference: the tensor, or a copy of what is negated on paper. */
static PyObject *resolve(PyObject *tensor, const char *name, bool write)
{
    bool negated;
    if (!tnpy_tensor_is_negated(&negated, tensor)) return NULL;
    if (!negated) return Py_NewRef(tensor);
    if (!write) return PyObject_CallMethod(tensor, "resolve_neg", NULL);
    PyErr_Format(PyExc_ValueError, "%s has the negative bit set; it must be writable", name);
    return NULL;
}

bool tnpy_borrow_tensor(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write)
{
    if (!tnpy_is_tensor(object)) return tnpy_borrow(borrowed, object, name, write);
    tnpy_tensor found;
    borrowed->keeper = resolve(object, name, write);
    if (borrowed->keeper == NULL) return false;
    if (!tnpy_tensor_read(&found, borrowed->keeper)) {
        tnpy_give_back(borrowed);
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
    return true;
}

bool tnpy_borrow_optional(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write, DLTensor **tensor)
{
    *tensor = NULL;
    borrowed->keeper = NULL;
    if (object == NULL || object == Py_None) return false;
    if (!tnpy_borrow_tensor(borrowed, object, name, write)) return false;
    *tensor = &borrowed->tensor;
    return true;
}
