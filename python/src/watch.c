/* SPDX-License-Identifier: MIT */
/* The type tenon._C.Watch: what was read to decide something, and whether it would be read so again.
 *
 * Python decides, and reads through a Watch, which notes each read. `holds` reads all of it again and compares, in one
 * go: each step of the interpreter is dear once products have pushed its code and data out of the caches. So the rules
 * stay in Python, in one place, and a rule that reads something more is followed by itself.
 *
 * A watch lies among the attributes of the object it belongs to, its root, and so must not own that object: reads of
 * the root's attributes are noted without it, and `holds` is given the root anew. So is the tensor that the root was
 * called with, of which only the kind matters. */
#include "tensor.h"

#include <stddef.h>
#include <string.h>

typedef enum reading { ATTRIBUTE, ITEM, EMPTY, TYPE, TENSOR } reading;

typedef struct note {
    reading reading;
    PyObject *owner; /* whose attribute, item, ... it is; NULL: the root's */
    PyObject *key;   /* of an attribute or item, else NULL */
    PyObject *value; /* what was found; NULL: nothing */
} note;

typedef struct watch {
    PyObject_HEAD PyTypeObject *root_type;
    const PyObject *root; /* compared only, never used: it is not owned */
    note *notes;
    Py_ssize_t count, room;
    PyTypeObject *input_type;
    tnpy_tensor input;
    bool blind; /* something was read that cannot be compared later */
} watch;

/* ---- what can be read ---- */

enum { NUM_SAMPLES = 8 };

/* Everything that tells that a tensor's values are still those that were seen; inference tensors have no such thing.
 * Two are alike if their bytes are.
 *
 * PyTorch counts no writes through `.data`, NumPy, collectives, ... Some of the values tell of those that change all or
 * most, as a copy of averaged weights does. */
typedef struct state {
    int64_t version; /* not negative */
    uint32_t samples[NUM_SAMPLES];
    int64_t negated; /* from here on: where they are and how they are read */
    tnpy_tensor tensor;
} state;

static bool has_elements(const tnpy_tensor *tensor)
{
    for (int d = 0; d < tensor->ndim; d++) {
        if (tensor->shape[d] == 0) return false;
    }
    return tensor->data != NULL;
}

/* Values along the diagonal, of as many rows and columns as may be. */
static void take_samples(uint32_t *samples, const tnpy_tensor *tensor)
{
    const size_t size = tensor->dtype.bits / 8U * tensor->dtype.lanes;
    memset(samples, 0, NUM_SAMPLES * sizeof *samples);
    if (!has_elements(tensor) || tensor->device.device_type != kDLCPU || size > sizeof *samples) return;
    for (int i = 0; i < NUM_SAMPLES; i++) {
        int64_t index = 0;
        for (int d = 0; d < tensor->ndim; d++)
            index += (tensor->shape[d] - 1) * i / (NUM_SAMPLES - 1) * tensor->strides[d];
        memcpy(&samples[i], (const char *)tensor->data + index * (int64_t)size, size);
    }
}

/* False, without an exception for an inference tensor. */
static bool read_state(state *s, PyObject *tensor)
{
    bool negated;
    if (!tnpy_tensor_read(&s->tensor, tensor) || !tnpy_tensor_is_negated(&negated, tensor)) return false;
    s->negated = negated;
    take_samples(s->samples, &s->tensor);
    return tnpy_tensor_version(&s->version, tensor) && s->version >= 0;
}

static PyObject *tensor_state(PyObject *module, PyObject *tensor)
{
    (void)module;
    state s;
    if (!read_state(&s, tensor)) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    const size_t values = offsetof(state, negated);
    PyObject *first = PyBytes_FromStringAndSize((const char *)&s, (Py_ssize_t)values);
    PyObject *second = PyBytes_FromStringAndSize((const char *)&s + values, (Py_ssize_t)(sizeof s - values));
    PyObject *pair = first != NULL && second != NULL ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return pair;
}

/* An instance attribute: a borrowed reference, or NULL where there is none. */
static PyObject *read_attribute(PyObject *owner, PyObject *key)
{
    PyObject *attributes = PyObject_GenericGetDict(owner, NULL);
    PyObject *value = attributes != NULL ? PyDict_GetItemWithError(attributes, key) : NULL;
    Py_XDECREF(attributes); /* the owner keeps it */
    return value;
}

static bool is_same(const note *n, PyObject *root)
{
    PyObject *owner = n->owner != NULL ? n->owner : root;
    state s;
    switch (n->reading) {
    case ATTRIBUTE:
        return read_attribute(owner, n->key) == n->value;
    case ITEM:
        return PyDict_GetItemWithError(owner, n->key) == n->value;
    case EMPTY:
        return PyObject_Size(owner) == 0;
    case TYPE:
        return (PyObject *)Py_TYPE(owner) == n->value;
    case TENSOR:
        return read_state(&s, owner) && memcmp(&s, PyBytes_AsString(n->value), sizeof s) == 0;
    }
    return false;
}

/* ---- notes ---- */

/* Takes over `value`, which may be NULL. */
static bool take_note(watch *w, reading how, PyObject *owner, PyObject *key, PyObject *value)
{
    if (w->count == w->room) {
        const Py_ssize_t room = w->room > 0 ? 2 * w->room : 32;
        note *notes = PyMem_Realloc(w->notes, (size_t)room * sizeof *notes);
        if (notes == NULL) {
            Py_XDECREF(value);
            PyErr_NoMemory();
            return false;
        }
        w->notes = notes;
        w->room = room;
    }
    w->notes[w->count++] = (note){how, owner != w->root ? Py_NewRef(owner) : NULL, Py_XNewRef(key), value};
    return true;
}

/* The result of a read of `value`, which is borrowed or NULL. */
static PyObject *answer(watch *w, reading how, PyObject *owner, PyObject *key, PyObject *value)
{
    if (value == NULL && PyErr_Occurred()) return NULL;
    if (!take_note(w, how, owner, key, Py_XNewRef(value))) return NULL;
    return Py_NewRef(value != NULL ? value : Py_None);
}

static PyObject *attribute(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    watch *w = (watch *)self;
    if (!tnpy_check_count(nargs, 2, 2, "attribute(owner, name)")) return NULL;
    PyObject *value = read_attribute(args[0], args[1]);
    if (value != NULL) return answer(w, ATTRIBUTE, args[0], args[1], value);
    PyErr_Clear();
    w->blind = true; /* of its class, or made when it is asked for */
    return PyObject_GetAttr(args[0], args[1]);
}

static PyObject *has_own(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (!tnpy_check_count(nargs, 2, 2, "has_own(owner, name)")) return NULL;
    PyObject *value = read_attribute(args[0], args[1]);
    if (value == NULL && PyErr_Occurred()) return NULL;
    if (!take_note((watch *)self, ATTRIBUTE, args[0], args[1], Py_XNewRef(value))) return NULL;
    return PyBool_FromLong(value != NULL);
}

static PyObject *item(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (!tnpy_check_count(nargs, 2, 2, "item(mapping, key)")) return NULL;
    if (!PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "item(mapping, key) reads dictionaries");
        return NULL;
    }
    return answer((watch *)self, ITEM, args[0], args[1], PyDict_GetItemWithError(args[0], args[1]));
}

static PyObject *is_empty(PyObject *self, PyObject *owner)
{
    const Py_ssize_t size = PyObject_Size(owner);
    if (size < 0) return NULL;
    if (size > 0) ((watch *)self)->blind = true;
    if (!take_note((watch *)self, EMPTY, owner, NULL, NULL)) return NULL;
    return PyBool_FromLong(size == 0);
}

static PyObject *type_of(PyObject *self, PyObject *owner)
{
    return answer((watch *)self, TYPE, owner, NULL, (PyObject *)Py_TYPE(owner));
}

static PyObject *tensor(PyObject *self, PyObject *owner)
{
    watch *w = (watch *)self;
    state s;
    if (!read_state(&s, owner)) { /* of no memory of its own, or such that changes cannot be seen */
        PyErr_Clear();
        w->blind = true;
        return Py_NewRef(owner);
    }
    PyObject *seen = PyBytes_FromStringAndSize((const char *)&s, sizeof s);
    return seen != NULL && take_note(w, TENSOR, owner, NULL, seen) ? Py_NewRef(owner) : NULL;
}

/* A tensor with elements in memory. An exception counts as "no" and stays set. */
static bool read_input(tnpy_tensor *tensor, PyObject *x)
{
    return tnpy_tensor_read(tensor, x) && has_elements(tensor);
}

/* Another x of the same class, device, dtype and width. */
static bool is_like_input(const watch *w, PyObject *x)
{
    tnpy_tensor tensor;
    const tnpy_tensor *seen = &w->input;
    const size_t last = seen->ndim > 0 ? (size_t)seen->ndim - 1 : 0;
    return Py_TYPE(x) == w->input_type && read_input(&tensor, x) && tensor.ndim == seen->ndim &&
           tensor.shape[last] == seen->shape[last] && tensor.device.device_type == seen->device.device_type &&
           memcmp(&tensor.dtype, &seen->dtype, sizeof tensor.dtype) == 0;
}

/* Nearly all of what is read next comes out of cold caches, and all of it at once takes not much longer than one. */
static void fetch_notes(const watch *w)
{
    for (Py_ssize_t i = 0; i < w->count; i++) {
        __builtin_prefetch(w->notes[i].owner);
        __builtin_prefetch(w->notes[i].value);
    }
}

static PyObject *holds(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const watch *w = (const watch *)self;
    if (!tnpy_check_count(nargs, 2, 2, "holds(root, x)")) return NULL;
    PyObject *root = args[0];
    bool same = !w->blind && Py_TYPE(root) == w->root_type && root == w->root && is_like_input(w, args[1]);
    if (same) fetch_notes(w);
    for (Py_ssize_t i = 0; i < w->count && same; i++)
        same = is_same(&w->notes[i], root);
    if (PyErr_Occurred()) { /* what cannot be read is not the same */
        PyErr_Clear();
        same = false;
    }
    return PyBool_FromLong(same);
}

/* ---- the type ---- */

static PyObject *watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *root, *x;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "_C.Watch takes (root, x)");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO:Watch", &root, &x)) return NULL;
    watch *w = (watch *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (w == NULL) return NULL;
    w->root = root;
    w->root_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(root));
    w->input_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(x));
    w->blind = !read_input(&w->input, x);
    PyErr_Clear();
    return (PyObject *)w;
}

static int watch_traverse(PyObject *self, visitproc visit, void *arg)
{
    const watch *w = (const watch *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(w->root_type);
    Py_VISIT(w->input_type);
    for (Py_ssize_t i = 0; i < w->count; i++) {
        Py_VISIT(w->notes[i].owner);
        Py_VISIT(w->notes[i].value);
    }
    return 0;
}

static int watch_clear(PyObject *self)
{
    watch *w = (watch *)self;
    w->blind = true;
    while (w->count > 0) {
        const note last = w->notes[--w->count];
        Py_XDECREF(last.owner);
        Py_XDECREF(last.key);
        Py_XDECREF(last.value);
    }
    Py_CLEAR(w->root_type);
    Py_CLEAR(w->input_type);
    return 0;
}

static void watch_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    watch_clear(self);
    PyMem_Free(((watch *)self)->notes);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

bool tnpy_watch_setup(PyObject *module)
{
    static PyMethodDef functions[] = {
        {"tensor_state", tensor_state, METH_O,
         "tensor_state(tensor) of PyTorch: bytes that tell its values (version and some of them), and bytes that tell\n"
         "where they are (sign, address, device, dtype, shape, strides).\n"
         "None for an inference tensor, whose changes cannot be seen."},
        {NULL, NULL, 0, NULL},
    };
    static PyMethodDef methods[] = {
        {"attribute", TNPY_FAST(attribute), METH_FASTCALL, "attribute(owner, name): getattr."},
        {"has_own", TNPY_FAST(has_own), METH_FASTCALL, "has_own(owner, name): name in owner.__dict__."},
        {"item", TNPY_FAST(item), METH_FASTCALL, "item(mapping, key): mapping.get(key)."},
        {"is_empty", is_empty, METH_O, "is_empty(mapping): len(mapping) == 0."},
        {"type_of", type_of, METH_O, "type_of(object): type(object)."},
        {"tensor", tensor, METH_O, "tensor(tensor): itself, for who reads its memory."},
        {"holds", TNPY_FAST(holds), METH_FASTCALL,
         "holds(root, x): would all reads find the same objects, the tensors unchanged, and an x of the same kind?"},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Watch(root, x): of a call of root with the tensor x. Notes what is read through its methods.\n"
                    "It owns all of that, but not root."},
        {Py_tp_new, watch_new},
        {Py_tp_dealloc, watch_dealloc},
        {Py_tp_traverse, watch_traverse},
        {Py_tp_clear, watch_clear},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {"tenon._C.Watch", sizeof(watch), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
    PyObject *type = PyType_FromSpec(&spec);
    const bool added = type != NULL && PyModule_AddObjectRef(module, "Watch", type) == 0;
    Py_XDECREF(type);
    return added && PyModule_AddFunctions(module, functions) == 0;
}
