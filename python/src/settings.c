/* SPDX-License-Identifier: MIT */
/* The settings of a call, and the memory that calls work in. */
#include "module.h"

void tnpy_settings_give_back(tnpy_settings *s)
{
    tnpy_give_back(&s->patch_mask);
    tnpy_give_back(&s->frame_mask);
    tnpy_give_back(&s->attention);
    tnpy_give_back(&s->saved);
    tnpy_give_back(&s->grids);
    tnpy_named_give_back(&s->inputs);
}

bool tnpy_read_threads(PyObject *object, int *threads)
{
    int64_t value;
    if (!tnpy_read_optional_int(object, "threads", 0, &value)) return false;
    if (value < 0 || value > 4096) {
        PyErr_Format(PyExc_ValueError, "threads is %lld; expected 0 (automatic) to 4096", (long long)value);
        return false;
    }
    *threads = (int)value;
    return true;
}

/* Of a call that writes it, or of one that reads it: no call does both. */
static bool read_saved(tnpy_settings *s, PyObject *const *given)
{
    DLTensor *bytes;
    const bool write = given[TNPY_SAVED] != NULL;
    tnpy_borrow_optional(&s->saved, given[write ? TNPY_SAVED : TNPY_SAVED_BEFORE], "saved",
                         TNPY_UNSEEN | (write ? TNPY_WRITE : 0), &bytes);
    if (bytes == NULL) return !PyErr_Occurred();
    const bool dense = bytes->ndim == 1 && (bytes->strides == NULL || bytes->shape[0] <= 1 || bytes->strides[0] == 1);
    if (!dense || bytes->dtype.bits != 8 || bytes->dtype.lanes != 1 || bytes->device.device_type != kDLCPU) {
        PyErr_SetString(PyExc_ValueError, "saved must be a dense array of bytes with one axis in the CPU's memory");
        return false;
    }
    s->call.saved = (char *)bytes->data + bytes->byte_offset;
    s->call.saved_size = (size_t)bytes->shape[0];
    return true;
}

static bool read_arrays(tnpy_settings *s, PyObject *const *given)
{
    const int how = TNPY_UNSEEN | TNPY_WRITE;
    if (!tnpy_borrow_mask(&s->patch_mask, given[TNPY_PATCH_MASK], "patch_mask", &s->call.patch_mask) ||
        !tnpy_borrow_mask(&s->frame_mask, given[TNPY_FRAME_MASK], "frame_mask", &s->call.frame_mask)) {
        return false;
    }
    tnpy_borrow_optional(&s->attention, given[TNPY_ATTENTION], "attention", how, &s->call.attention);
    return !PyErr_Occurred();
}

/* Grids of a packed batch, and tensors by name. */
static bool read_tensors(tnpy_settings *s, PyObject *const *given)
{
    PyObject *grids = given[TNPY_GRIDS];
    if (grids != NULL && grids != Py_None) {
        if (!tnpy_borrow_integers(&s->grids, grids, "grids", TNPY_UNSEEN)) return false;
        s->call.grids = &s->grids.tensor;
    }
    if (!tnpy_named_read(&s->inputs, given[TNPY_INPUTS], "inputs", TNPY_UNSEEN)) return false;
    s->call.inputs = s->inputs.items;
    s->call.num_inputs = s->inputs.count;
    return true;
}

bool tnpy_settings_read(tnpy_settings *s, PyObject *const *given)
{
    tenon_call_init(&s->call);
    s->patch_mask.keeper = s->frame_mask.keeper = s->attention.keeper = s->saved.keeper = s->grids.keeper = NULL;
    s->inputs = (tnpy_named){.count = 0};
    const bool read =
        tnpy_read_optional_int(given[TNPY_POOL_WINDOW], "pool_window", TENON_UNSET, &s->call.pool_window) &&
        tnpy_read_grid(given[TNPY_GRID], &s->call) && tnpy_read_threads(given[TNPY_THREADS], &s->call.threads) &&
        read_saved(s, given) && read_arrays(s, given) && read_tensors(s, given);
    if (!read) tnpy_settings_give_back(s);
    return read;
}

bool tnpy_settings_from_arguments(tnpy_settings *s, PyObject *const *args, Py_ssize_t nargs, const int *order,
                                  Py_ssize_t count)
{
    PyObject *given[TNPY_NUM_SETTINGS] = {NULL};
    for (Py_ssize_t i = 0; i < count && i < nargs; i++) {
        if (order[i] >= 0) given[order[i]] = args[i];
    }
    return tnpy_settings_read(s, given);
}

bool tnpy_borrow_features(tnpy_borrowed *features, PyObject *x, int how)
{
    if (!tnpy_borrow(features, x, "x", how)) return false;
    const int ndim = features->tensor.ndim;
    if (ndim == 3 || ndim == 2) return true;
    PyErr_Format(PyExc_ValueError,
                 "x has %d dimension%s; expected 3: (batch, tokens, in_dim), or 2 for one image: (tokens, in_dim)",
                 ndim, ndim == 1 ? "" : "s");
    tnpy_give_back(features);
    return false;
}

int64_t tnpy_num_tokens(const DLTensor *x)
{
    return x->shape[x->ndim - 2];
}

/* ---- workspace: one waits in the adapter for the next call; calls at the same time have theirs ---- */

tnpy_workspace tnpy_workspace_take(tnpy_adapter *self)
{
    const tnpy_workspace taken = self->spare;
    self->spare = (tnpy_workspace){NULL, 0};
    return taken;
}

void tnpy_workspace_drop(tnpy_workspace workspace)
{
    tenon_allocator system;
    tenon_allocator_init(&system);
    if (workspace.data != NULL) system.free(system.context, workspace.data, workspace.size);
}

void tnpy_workspace_keep(tnpy_adapter *self, tnpy_workspace workspace)
{
    const bool larger = workspace.size > self->spare.size;
    tnpy_workspace_drop(larger ? self->spare : workspace);
    if (larger) self->spare = workspace;
}

tenon_status tnpy_workspace_grow(tnpy_workspace *workspace, size_t size, tenon_error *error)
{
    enum { line = 64 };
    tenon_allocator system;
    if (workspace->size >= size) return TENON_OK;
    tnpy_workspace_drop(*workspace);
    tenon_allocator_init(&system);
    workspace->data = system.alloc(system.context, size, line);
    workspace->size = workspace->data != NULL ? size : 0;
    if (workspace->data != NULL) return TENON_OK;
    snprintf(error->message, sizeof error->message, "out of memory: %zu bytes to work in", size);
    return TENON_NO_MEMORY;
}
