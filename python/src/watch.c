/* The type tenon._C.Watch: what was read to decide something, and whether it would be read so again.
 *
 * Python decides, and reads through a Watch, which notes each read. `holds` reads all of it again and compares, in one
 * go: each step of the interpreter is dear once products have pushed its code and data out of the caches. So the rules
 * stay in Python, in one place, and a rule that reads something more is followed by itself.
 *
 * A watch lies among the attributes of the object it belongs to, its root, and so must not own that object: reads of
 * the root's attributes are noted without it, and `holds` is given the root anew. */
#include "module.h"

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
    bool blind; /* something was read that cannot be compared later */
} watch;

/* ---- what can be read ---- */

/* Everything that tells that a tensor's values are still those that were seen. Methods are called. An inference tensor
 * has no version, so nothing can tell it of one. */
static const struct {
    const char *name;
    bool method;
} fact_names[] = {{"_version", false}, {"data_ptr", true}, {"dtype", false},
                  {"shape", false},    {"stride", true},   {"is_neg", true}};
enum { NUM_FACTS = sizeof fact_names / sizeof fact_names[0] };
static PyObject *facts[NUM_FACTS]; /* interned */
static PyObject *is_inference;     /* the name of the method */

/* A new reference. */
static PyObject *read_fact(PyObject *tensor, int i)
{
    return fact_names[i].method ? PyObject_CallMethodObjArgs(tensor, facts[i], NULL)
                                : PyObject_GetAttr(tensor, facts[i]);
}

/* Whether it is an inference tensor; -1 with an exception. */
static int has_no_version(PyObject *tensor)
{
    PyObject *found = PyObject_CallMethodObjArgs(tensor, is_inference, NULL);
    const int yes = found != NULL ? PyObject_IsTrue(found) : -1;
    Py_XDECREF(found);
    return yes;
}

/* A tuple of the facts, or None for an inference tensor. A new reference. */
static PyObject *tensor_state(PyObject *tensor)
{
    const int unknown = has_no_version(tensor);
    if (unknown != 0) return unknown > 0 ? Py_NewRef(Py_None) : NULL;
    PyObject *state = PyTuple_New(NUM_FACTS);
    for (int i = 0; i < NUM_FACTS && state != NULL; i++) {
        PyObject *value = read_fact(tensor, i);
        if (value == NULL) {
            Py_CLEAR(state);
        } else {
            PyTuple_SetItem(state, i, value);
        }
    }
    return state;
}

/* Whether the tensor's state is this tuple. An exception counts as "no" and stays set. */
static bool is_in_state(PyObject *tensor, PyObject *state)
{
    if (has_no_version(tensor) != 0) return false;
    for (int i = 0; i < NUM_FACTS; i++) {
        PyObject *value = read_fact(tensor, i);
        if (value == NULL) return false;
        const int same = PyObject_RichCompareBool(value, PyTuple_GetItem(state, i), Py_EQ);
        Py_DECREF(value);
        if (same != 1) return false;
    }
    return true;
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
        return is_in_state(owner, n->value);
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
    PyObject *state = tensor_state(owner);
    if (state == NULL || state == Py_None) { /* of no memory of its own, or such that changes cannot be seen */
        ((watch *)self)->blind = true;
        PyErr_Clear();
        Py_XDECREF(state);
    } else if (!take_note((watch *)self, TENSOR, owner, NULL, state)) {
        return NULL;
    }
    return Py_NewRef(owner);
}

static PyObject *holds(PyObject *self, PyObject *root)
{
    const watch *w = (const watch *)self;
    bool same = !w->blind && Py_TYPE(root) == w->root_type && root == w->root;
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
    PyObject *root;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "_C.Watch takes (root)");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O:Watch", &root)) return NULL;
    watch *w = (watch *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (w == NULL) return NULL;
    w->root = root;
    w->root_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(root));
    return (PyObject *)w;
}

static int watch_traverse(PyObject *self, visitproc visit, void *arg)
{
    const watch *w = (const watch *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(w->root_type);
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

static PyObject *module_tensor_state(PyObject *module, PyObject *owner)
{
    (void)module;
    return tensor_state(owner);
}

bool tnpy_watch_setup(PyObject *module)
{
    static PyMethodDef functions[] = {
        {"tensor_state", module_tensor_state, METH_O,
         "tensor_state(tensor) of PyTorch: (version, data_ptr, dtype, shape, stride, is_neg).\n"
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
        {"holds", holds, METH_O, "holds(root): would all reads find the same objects, the tensors unchanged?"},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Watch(root): notes what is read through its methods. It owns all of that, but not root."},
        {Py_tp_new, watch_new},
        {Py_tp_dealloc, watch_dealloc},
        {Py_tp_traverse, watch_traverse},
        {Py_tp_clear, watch_clear},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {"tenon._C.Watch", sizeof(watch), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
    for (int i = 0; i < NUM_FACTS; i++) {
        facts[i] = PyUnicode_InternFromString(fact_names[i].name);
        if (facts[i] == NULL) return false;
    }
    is_inference = PyUnicode_InternFromString("is_inference");
    PyObject *type = is_inference != NULL ? PyType_FromSpec(&spec) : NULL;
    const bool added = type != NULL && PyModule_AddObjectRef(module, "Watch", type) == 0;
    Py_XDECREF(type);
    return added && PyModule_AddFunctions(module, functions) == 0;
}
