/* SPDX-License-Identifier: MIT */
/* The extension module tenon._C: Python objects at one end, tenon.h at the other.
 *
 * Stable ABI of Python 3.10. The GIL is given back around everything that computes, reads or writes files, or waits for
 * a lock. */
#ifndef TENON_PYTHON_MODULE_H
#define TENON_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <tenon/tenon.h>

/* errors.c */

bool tnpy_errors_setup(PyObject *module);

/* Raises what the status means with the library's sentence; returns NULL. */
PyObject *tnpy_raise(tenon_status status, const tenon_error *error);

/* The same for a call whose tokens, y for the library, are the argument `out`. */
PyObject *tnpy_raise_for_out(tenon_status status, const tenon_error *error);

/* The same for a call that was given a path: what is not there is FileNotFoundError when it is the file. */
PyObject *tnpy_raise_for_path(tenon_status status, const tenon_error *error, const char *path);

/* arguments.c: Python values to C. They return false, with an exception, for what they cannot read. */

/* "NAME PART is VALUE; expected EXPECTED", with a value on one line. Returns false. */
bool tnpy_fail_value(PyObject *exception, const char *name, const char *part, PyObject *object, const char *expected);

bool tnpy_read_int(PyObject *object, const char *name, int64_t *value);

/* The same; None and NULL give `fallback`. */
bool tnpy_read_optional_int(PyObject *object, const char *name, int64_t fallback, int64_t *value);

/* (rows, columns) into a call; None and NULL: a square. */
bool tnpy_read_grid(PyObject *object, tenon_call *call);

/* A list of integers; NULL with an exception. */
PyObject *tnpy_ints_to_python(const int64_t *values, int64_t count);

/* A path-like object as bytes; the caller drops *keeper. */
bool tnpy_read_path(PyObject *object, PyObject **keeper, const char **path);

/* A string that lives as long as the object. */
const char *tnpy_read_string(PyObject *object, const char *name);

/* "f32", "bfloat16", numpy.float32, torch.bfloat16, ... */
bool tnpy_read_dtype(PyObject *object, tenon_dtype *dtype);

/* borrow.c: memory of other people's arrays. */

enum { TNPY_MAX_DIMS = 8 };

typedef struct tnpy_borrowed {
    DLTensor tensor;
    PyObject *keeper; /* keeps the memory alive; NULL: nothing is borrowed */
    int64_t shape[TNPY_MAX_DIMS];
    int64_t strides[TNPY_MAX_DIMS];
} tnpy_borrowed;

/* How an array is borrowed. */
enum {
    TNPY_WRITE = 1,  /* it will be written, so it must be writable */
    TNPY_UNSEEN = 2, /* also a tensor that requires a gradient: autograd need not see this */
    TNPY_HOLD = 4,   /* for longer than a call: its owner may give the tensor other memory meanwhile */
};

/* Fills `borrowed` with the memory of `object`, without a copy: whatever has __dlpack__, __array_interface__ or the
 * buffer protocol, a tensor of PyTorch, or a raw tuple (address, dtype, shape, strides). Where the memory does not hold
 * the values as the object's library means them, it is that of a copy, or refused: PyTorch's negative bit, masked
 * arrays. The memory stays until tnpy_give_back. Not to be moved: `tensor` may point into it. */
bool tnpy_borrow(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how);
void tnpy_give_back(tnpy_borrowed *borrowed);

/* The same for what may be None or NULL: then it returns false without an exception, and *tensor is NULL. */
bool tnpy_borrow_optional(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how, DLTensor **tensor);

/* What is said about masked arrays, a format of (name, class). */
extern const char tnpy_masked_sentence[];

/* masks.c */

/* A mask, as bytes: other integers are copied. Floating-point masks are refused. */
bool tnpy_borrow_mask(tnpy_borrowed *borrowed, PyObject *object, const char *name, const DLTensor **tensor);

/* What is said about those, a format of (name, dtype). */
extern const char tnpy_mask_sentence[];

/* array.c: memory of ours (memory.h), which others take through __dlpack__. */

typedef struct tnpy_memory tnpy_memory;
typedef struct tnpy_pool tnpy_pool;

typedef struct tnpy_array {
    PyObject_HEAD tnpy_memory *memory;
    DLTensor tensor; /* dense; shape and data are in `memory` */
} tnpy_array;

extern PyTypeObject *tnpy_array_type;

/* A new array of undefined values. Its memory returns to `pool`, unless that is NULL. */
PyObject *tnpy_array_new(DLDataType dtype, int ndim, const int64_t *shape, tnpy_pool *pool);

/* Bytes of a dense array; false when they do not fit. */
bool tnpy_array_bytes(DLDataType dtype, int ndim, const int64_t *shape, size_t *bytes);

/* "float64" and the like. */
typedef struct tnpy_dtype_text {
    char text[32];
} tnpy_dtype_text;
tnpy_dtype_text tnpy_dtype_to_text(DLDataType dtype);

/* copy(array, name): a dense copy of an array in float32, bfloat16 or float16. */
PyObject *tnpy_array_copy(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

bool tnpy_array_setup(PyObject *module);

/* results.c: arrays of the caller's kind. */

/* A numpy.ndarray itself: subclasses may mean something else by their memory. */
bool tnpy_is_ndarray(PyObject *object);

/* New tokens of x's kind. *result is what to return once they are there, after tnpy_result_finish. */
bool tnpy_result_new(PyObject **result, tnpy_borrowed *tokens, PyObject *x, const tnpy_borrowed *features,
                     tenon_dtype dtype, bool asked, int ndim, const int64_t *shape);

/* Hands `result` over to x's kind. Steals `result`; NULL with an exception. */
PyObject *tnpy_result_finish(PyObject *result, PyObject *x);

bool tnpy_results_setup(PyObject *module);

/* counting.c: module functions that need no adapter. */

/* A config of its JSON; the caller frees it. */
bool tnpy_read_config(PyObject *object, tenon_config **config);

/* The JSON of a config. */
PyObject *tnpy_config_to_python(const tenon_config *config);

extern PyMethodDef tnpy_counting_methods[];

/* pages.c: use_large_pages(address, bytes). */
PyObject *tnpy_use_large_pages(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

/* watch.c: the type Watch. */
bool tnpy_watch_setup(PyObject *module);

/* builder.c: connectors declared in Python. */

/* register_adapter(name, function) */
PyObject *tnpy_register_adapter(PyObject *module, PyObject *args);

bool tnpy_builder_setup(PyObject *module);

/* files.c */

/* identify(path): what a file is. */
PyObject *tnpy_identify(PyObject *module, PyObject *path);

/* file_beside(path, name): a file that `path` mentions, inside its folder. */
PyObject *tnpy_file_beside(PyObject *module, PyObject *args);

/* read_index(path): [(tensor, shard), ...] */
PyObject *tnpy_read_index(PyObject *module, PyObject *path);

/* The type AtomicFile. */
bool tnpy_files_setup(PyObject *module);

/* adapter.c, parameters.c, checkpoints.c, call.c: the type Adapter. */

/* Memory that waits for the next call. */
typedef struct tnpy_workspace {
    void *data;
    size_t size;
} tnpy_workspace;

typedef struct tnpy_adapter {
    PyObject_HEAD tenon_adapter *handle;
    PyThread_type_lock lock; /* held while parameters are changed or read */
    pid_t owner;             /* the process that took the lock last */
    PyObject **owners;       /* [num_parameters] what keeps borrowed parameters alive, or NULL */
    int64_t num_parameters;
    tenon_dtype dtype; /* of tokens when nobody asks for one; 0: no parameter has one */
    tnpy_workspace spare;
    tnpy_pool *gradients; /* memory of gradients that were dropped; NULL before the first */
} tnpy_adapter;

/* Takes the adapter's lock, giving the GIL back while it waits. */
void tnpy_adapter_lock(tnpy_adapter *self);
void tnpy_adapter_unlock(tnpy_adapter *self);

/* After parameters changed: the default dtype of tokens. */
void tnpy_adapter_note_dtype(tnpy_adapter *self);

/* After the library took storage of its own for every parameter: drops what was borrowed. */
void tnpy_adapter_drop_owners(tnpy_adapter *self);

/* tenon_adapter_prepare under the lock. */
bool tnpy_adapter_prepare(tnpy_adapter *self, const tenon_prepare_options *options);

/* A Python object for a handle, which it takes over whatever happens. */
PyObject *tnpy_adapter_wrap(PyTypeObject *type, tenon_adapter *handle);

extern PyMethodDef tnpy_parameter_methods[];
extern PyMethodDef tnpy_checkpoint_methods[];
extern PyMethodDef tnpy_call_methods[];
extern PyMethodDef tnpy_train_methods[];

/* named.c: tensors by name. */

/* What a mapping of names to arrays holds. Not to be moved: `items` point into it. */
typedef struct tnpy_named {
    tenon_named_tensor *items;
    tnpy_borrowed *borrowed;
    int64_t count;    /* of both */
    PyObject *keeper; /* of the names */
} tnpy_named;

/* Reads {name: array}; None and NULL: none. `what` is the argument's name. After a failure nothing is borrowed. */
bool tnpy_named_read(tnpy_named *named, PyObject *mapping, const char *what, int how);
void tnpy_named_give_back(tnpy_named *named);

/* Borrows an array, or a list of integers or of lists of these. */
bool tnpy_borrow_integers(tnpy_borrowed *borrowed, PyObject *object, const char *name, int how);

/* settings.c: what a call may be told, and memory to work in. */

enum {
    TNPY_POOL_WINDOW,
    TNPY_GRID,
    TNPY_PATCH_MASK,
    TNPY_FRAME_MASK,
    TNPY_ATTENTION,
    TNPY_THREADS,
    TNPY_SAVED,        /* an array of bytes, to be written */
    TNPY_SAVED_BEFORE, /* or read */
    TNPY_GRIDS,
    TNPY_INPUTS,
    TNPY_NUM_SETTINGS
};

/* The settings of one call, with what they borrow. Not to be moved: `call` points into it. */
typedef struct tnpy_settings {
    tenon_call call;
    tnpy_borrowed patch_mask;
    tnpy_borrowed frame_mask;
    tnpy_borrowed attention;
    tnpy_borrowed saved;
    tnpy_borrowed grids;
    tnpy_named inputs;
} tnpy_settings;

/* Reads given[TNPY_NUM_SETTINGS], each an object, None or NULL. After a failure nothing is borrowed. */
bool tnpy_settings_read(tnpy_settings *s, PyObject *const *given);

/* The same of arguments, args[i] being the setting order[i]; -1: it is none. */
bool tnpy_settings_from_arguments(tnpy_settings *s, PyObject *const *args, Py_ssize_t nargs, const int *order,
                                  Py_ssize_t count);
void tnpy_settings_give_back(tnpy_settings *s);

/* Borrows the features of a call: (batch, tokens, in_dim), or one image (tokens, in_dim). */
bool tnpy_borrow_features(tnpy_borrowed *features, PyObject *x, int how);

/* Of features: tokens of an image. */
int64_t tnpy_num_tokens(const DLTensor *x);

bool tnpy_read_threads(PyObject *object, int *threads);

/* Under the GIL. */
tnpy_workspace tnpy_workspace_take(tnpy_adapter *self);
void tnpy_workspace_keep(tnpy_adapter *self, tnpy_workspace workspace);
void tnpy_workspace_drop(tnpy_workspace workspace);

/* Without it. */
tenon_status tnpy_workspace_grow(tnpy_workspace *workspace, size_t size, tenon_error *error);

/* Whether a function got least to most arguments; else TypeError with its signature. */
bool tnpy_check_count(Py_ssize_t count, Py_ssize_t least, Py_ssize_t most, const char *signature);

/* adapter(x, *, out, dtype, grid, pool_window, patch_mask, frame_mask, threads, grids, inputs) */
PyObject *tnpy_adapter_call(PyObject *self, PyObject *args, PyObject *kwargs);

bool tnpy_call_setup(void);
bool tnpy_adapter_setup(PyObject *module);

/* A function of METH_FASTCALL as PyMethodDef wants it. */
#define TNPY_FAST(function) ((PyCFunction)(void (*)(void))(function))

#endif
