/* SPDX-License-Identifier: MIT */
/* tenon._C.Array: dense memory that other libraries take through __dlpack__. */
#include "dlpack.h"
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

PyTypeObject *tnpy_array_type;

bool tnpy_array_bytes(DLDataType dtype, int ndim, const int64_t *shape, size_t *bytes)
{
    size_t total = dtype.bits / 8;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(total, (size_t)shape[i], &total)) return false;
    }
    *bytes = total;
    return true;
}

PyObject *tnpy_array_new(DLDataType dtype, int ndim, const int64_t *shape, tnpy_pool *pool)
{
    size_t bytes;
    if (!tnpy_array_bytes(dtype, ndim, shape, &bytes) || bytes > PY_SSIZE_T_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "an array of this shape is larger than memory can be");
        return NULL;
    }
    tnpy_memory *memory = tnpy_memory_new(pool, bytes);
    allocfunc allocate = (allocfunc)PyType_GetSlot(tnpy_array_type, Py_tp_alloc);
    tnpy_array *array = memory != NULL ? (tnpy_array *)allocate(tnpy_array_type, 0) : NULL;
    if (array == NULL) {
        tnpy_memory_drop(memory);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    if (ndim > 0) memcpy(memory->shape, shape, (size_t)ndim * sizeof shape[0]);
    array->memory = memory;
    array->tensor = (DLTensor){
        .data = tnpy_memory_data(memory), .device = {kDLCPU, 0}, .ndim = ndim, .dtype = dtype, .shape = memory->shape};
    return (PyObject *)array;
}

tnpy_dtype_text tnpy_dtype_to_text(DLDataType dtype)
{
    static const char *const kinds[] = {[kDLInt] = "int",       [kDLUInt] = "uint",       [kDLFloat] = "float",
                                        [kDLBfloat] = "bfloat", [kDLComplex] = "complex", [TNPY_DLPACK_BOOL] = "bool"};
    const char *kind = dtype.code < sizeof kinds / sizeof kinds[0] ? kinds[dtype.code] : NULL;
    tnpy_dtype_text made;
    if (kind == NULL || dtype.lanes != 1) {
        snprintf(made.text, sizeof made.text, "DLPack's dtype (%d, %d, %d)", dtype.code, dtype.bits, dtype.lanes);
    } else if (dtype.code == TNPY_DLPACK_BOOL) {
        snprintf(made.text, sizeof made.text, "%s", kind);
    } else {
        snprintf(made.text, sizeof made.text, "%s%d", kind, dtype.bits);
    }
    return made;
}

/* f32, bf16 or f16; 0 for what the library does not read. */
static tenon_dtype dtype_of(DLDataType dtype)
{
    static const tenon_dtype all[] = {TENON_F32, TENON_BF16, TENON_F16};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const DLDataType known = tenon_dtype_to_dlpack(all[i]);
        if (known.code == dtype.code && known.bits == dtype.bits && known.lanes == dtype.lanes) return all[i];
    }
    return 0;
}

/* Copies elements of `size` bytes in row-major order, axis by axis. */
static char *copy_axes(char *to, const char *from, const DLTensor *tensor, int axis, size_t size)
{
    if (axis == tensor->ndim) {
        memcpy(to, from, size);
        return to + size;
    }
    for (int64_t i = 0; i < tensor->shape[axis]; i++)
        to = copy_axes(to, from + i * tensor->strides[axis] * (int64_t)size, tensor, axis + 1, size);
    return to;
}

static bool is_dense(const DLTensor *tensor)
{
    int64_t dense = 1;
    for (int i = tensor->ndim - 1; i >= 0 && tensor->strides != NULL; i--) {
        if (tensor->shape[i] > 1 && tensor->strides[i] != dense) return false;
        dense *= tensor->shape[i];
    }
    return true;
}

static bool can_copy(const DLTensor *source, const char *name)
{
    if (source->device.device_type != kDLCPU && source->device.device_type != kDLCUDAHost) {
        PyErr_Format(PyExc_ValueError, "%s is on DLPack device %d; expected the CPU (device 1)", name,
                     (int)source->device.device_type);
    } else if (dtype_of(source->dtype) == 0) {
        PyErr_Format(PyExc_ValueError, "%s is %s; expected float32, bfloat16 or float16", name,
                     tnpy_dtype_to_text(source->dtype).text);
    } else {
        return true;
    }
    return false;
}

static PyObject *copy_tensor(const DLTensor *source, const char *name)
{
    size_t bytes;
    if (!can_copy(source, name)) return NULL;
    PyObject *made = tnpy_array_new(source->dtype, source->ndim, source->shape, NULL);
    if (made == NULL || !tnpy_array_bytes(source->dtype, source->ndim, source->shape, &bytes)) return made;
    char *to = ((tnpy_array *)made)->tensor.data;
    const char *from = (const char *)source->data + source->byte_offset;
    if (bytes > 0 && source->data == NULL) {
        PyErr_Format(PyExc_ValueError, "%s has no data", name);
        Py_DECREF(made);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    if (bytes > 0 && is_dense(source)) {
        memcpy(to, from, bytes);
    } else if (bytes > 0) {
        copy_axes(to, from, source, 0, source->dtype.bits / 8);
    }
    Py_END_ALLOW_THREADS;
    return made;
}

PyObject *tnpy_array_copy(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    tnpy_borrowed source;
    if (!tnpy_check_count(nargs, 1, 2, "copy(array, name='the array')")) return NULL;
    const char *name = nargs > 1 ? tnpy_read_string(args[1], "name") : "the array";
    if (name == NULL || !tnpy_borrow(&source, args[0], name, TNPY_UNSEEN)) return NULL;
    PyObject *made = copy_tensor(&source.tensor, name);
    tnpy_give_back(&source);
    return made;
}

static void array_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    tnpy_memory_drop(((tnpy_array *)self)->memory);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* ---- export ---- */

static void delete_legacy(DLManagedTensor *managed)
{
    tnpy_memory_drop(managed->manager_ctx);
    free(managed);
}

static void delete_versioned(tnpy_versioned *managed)
{
    tnpy_memory_drop(managed->manager_ctx);
    free(managed);
}

/* Capsules that nobody consumed; consumers rename them. */
static void drop_legacy(PyObject *capsule)
{
    if (!PyCapsule_IsValid(capsule, TNPY_LEGACY_NAME)) return;
    delete_legacy(PyCapsule_GetPointer(capsule, TNPY_LEGACY_NAME));
}

static void drop_versioned(PyObject *capsule)
{
    if (!PyCapsule_IsValid(capsule, TNPY_VERSIONED_NAME)) return;
    delete_versioned(PyCapsule_GetPointer(capsule, TNPY_VERSIONED_NAME));
}

static PyObject *export_legacy(tnpy_array *array)
{
    DLManagedTensor *managed = malloc(sizeof *managed);
    if (managed == NULL) return PyErr_NoMemory();
    *managed = (DLManagedTensor){array->tensor, array->memory, delete_legacy};
    tnpy_memory_keep(array->memory);
    PyObject *capsule = PyCapsule_New(managed, TNPY_LEGACY_NAME, drop_legacy);
    if (capsule == NULL) delete_legacy(managed);
    return capsule;
}

static PyObject *export_versioned(tnpy_array *array)
{
    tnpy_versioned *managed = malloc(sizeof *managed);
    if (managed == NULL) return PyErr_NoMemory();
    *managed = (tnpy_versioned){.version = {TNPY_DLPACK_MAJOR, 0},
                                .manager_ctx = array->memory,
                                .deleter = delete_versioned,
                                .dl_tensor = array->tensor};
    tnpy_memory_keep(array->memory);
    PyObject *capsule = PyCapsule_New(managed, TNPY_VERSIONED_NAME, drop_versioned);
    if (capsule == NULL) delete_versioned(managed);
    return capsule;
}

/* Whether (major, minor) admits a versioned capsule. */
static bool admits_version(PyObject *max_version)
{
    if (max_version == NULL || !PyTuple_Check(max_version) || PyTuple_Size(max_version) < 1) return false;
    return PyLong_AsLong(PyTuple_GetItem(max_version, 0)) >= TNPY_DLPACK_MAJOR;
}

static PyObject *array_dlpack(PyObject *self, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_Size(args) > 0) {
        PyErr_SetString(PyExc_TypeError, "__dlpack__ takes keyword arguments only");
        return NULL;
    }
    tnpy_array *array = (tnpy_array *)self;
    PyObject *max_version = kwargs != NULL ? PyDict_GetItemString(kwargs, "max_version") : NULL;
    if (admits_version(max_version)) return export_versioned(array);
    return PyErr_Occurred() ? NULL : export_legacy(array);
}

static PyObject *array_device(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue("(ii)", (int)kDLCPU, 0);
}

static PyObject *array_shape(PyObject *self, void *unused)
{
    (void)unused;
    const DLTensor *tensor = &((tnpy_array *)self)->tensor;
    PyObject *shape = PyTuple_New(tensor->ndim);
    for (int i = 0; i < tensor->ndim && shape != NULL; i++)
        PyTuple_SetItem(shape, i, PyLong_FromLongLong(tensor->shape[i]));
    return shape;
}

static PyObject *array_dtype(PyObject *self, void *unused)
{
    (void)unused;
    const DLDataType dtype = ((tnpy_array *)self)->tensor.dtype;
    const tenon_dtype known = dtype_of(dtype);
    return PyUnicode_FromString(known != 0 ? tenon_dtype_name(known) : tnpy_dtype_to_text(dtype).text);
}

/* bf16 shows itself as two bytes of void, as NumPy has no name for it. */
static PyObject *array_interface(PyObject *self, void *unused)
{
    (void)unused;
    const DLTensor *tensor = &((tnpy_array *)self)->tensor;
    static const char kinds[] = {
        [kDLInt] = 'i', [kDLUInt] = 'u', [kDLFloat] = 'f', [kDLBfloat] = 'V', [TNPY_DLPACK_BOOL] = 'b'};
    const char kind = tensor->dtype.code < sizeof kinds ? kinds[tensor->dtype.code] : 0;
    if (kind == 0) {
        PyErr_SetString(PyExc_AttributeError, "an array of this dtype has no __array_interface__");
        return NULL;
    }
    const char typestr[] = {tensor->dtype.bits > 8 ? '<' : '|', kind, (char)('0' + tensor->dtype.bits / 8), 0};
    PyObject *shape = array_shape(self, NULL), *address = PyLong_FromVoidPtr(tensor->data);
    if (shape == NULL || address == NULL) {
        Py_XDECREF(shape);
        Py_XDECREF(address);
        return NULL;
    }
    return Py_BuildValue("{s:N,s:s,s:(NO),s:i}", "shape", shape, "typestr", typestr, "data", address, Py_False,
                         "version", 3);
}

bool tnpy_array_setup(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"__dlpack__", (PyCFunction)(void (*)(void))array_dlpack, METH_VARARGS | METH_KEYWORDS, "Exports the memory."},
        {"__dlpack_device__", array_device, METH_NOARGS, "(1, 0): the CPU."},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef members[] = {
        {"shape", array_shape, NULL, "A tuple.", NULL},
        {"dtype", array_dtype, NULL, "'f32', 'bf16' or 'f16', or the name of another dtype.", NULL},
        {"__array_interface__", array_interface, NULL, "NumPy's, version 3.", NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Dense memory in the form in which NumPy, PyTorch and JAX take it: numpy.asarray, from_dlpack."},
        {Py_tp_dealloc, array_dealloc},
        {Py_tp_methods, methods},
        {Py_tp_getset, members},
        {0, NULL},
    };
    static PyType_Spec spec = {"tenon._C.Array", sizeof(tnpy_array), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    tnpy_array_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return tnpy_array_type != NULL && PyModule_AddObjectRef(module, "Array", (PyObject *)tnpy_array_type) == 0;
}
