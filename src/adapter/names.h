/* SPDX-License-Identifier: MIT */
/* The names of a checkpoint's tensors as they are matched: renamed as the caller asks, and without what DDP,
 * torch.compile, FSDP and activation checkpointing put between the names of modules. */
#ifndef TN_ADAPTER_NAMES_H
#define TN_ADAPTER_NAMES_H

#include "core/error.h"
#include "families/family.h"

typedef struct tn_name {
    const char *text;
    int64_t tensor;
} tn_name;

typedef struct tn_names {
    const char *source;               /* the checkpoint, for messages; printable */
    const tenon_file *file;           /* which the tensors are of; NULL: they come from elsewhere */
    const tenon_file_tensor *tensors; /* [count], the caller's */
    int64_t count;
    bool has_renames;
    const tn_family *family;        /* in whose scheme the names are; NULL: in the connector's own */
    char **renamed;                 /* [count] the tensor's own name where no rename concerns it */
    char **plain;                   /* [count] without wrappers; `renamed` itself where it has none */
    tn_name *by_renamed, *by_plain; /* [count] the same, sorted */
} tn_names;

/* `source` and `tensors` must outlive *names. TENON_NOT_FOUND: a rename that no tensor has use for; TENON_INVALID: one
 * that is wrong in itself or gives a tensor the name of another. */
tenon_status tn_names_make(tn_names *names, const char *source, const tenon_file_tensor *tensors, int64_t count,
                           const tenon_rename *rename, int64_t num_rename, tenon_error *error);
void tn_names_free(tn_names *names);

/* The tensor of that name: as it was renamed, or else without wrappers. -1: none; -2: several that differ in wrappers
 * alone. */
int64_t tn_names_find(const tn_names *names, const char *prefix, const char *name);

/* True when a tensor's name, renamed and without wrappers, begins with `text`. */
bool tn_names_begin(const tn_names *names, const char *text);

/* A name without wrappers; `plain` holds as many bytes as `name` takes. Returns its length. */
size_t tn_name_unwrap(char *plain, const char *name);

#endif
