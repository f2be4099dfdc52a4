/* SPDX-License-Identifier: MIT */
/* Two files of `tenon compare`: which tensors belong together, and their numbers, a block at a time. */
#include "compare.h"

#include "report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- trouble ---- */

enum { SHOWN = 4 }; /* reasons, and names in one of them */

void tn_trouble_add(tn_trouble *trouble, const char *format, ...)
{
    if (trouble->count++ >= SHOWN) return;
    size_t used = strlen(trouble->text);
    used += (size_t)snprintf(trouble->text + used, sizeof trouble->text - used, "%s", used ? "; " : "");
    if (used >= sizeof trouble->text) return;
    va_list list;
    va_start(list, format);
    vsnprintf(trouble->text + used, sizeof trouble->text - used, format, list);
    va_end(list);
}

void tn_trouble_end(tn_trouble *trouble)
{
    size_t used = strlen(trouble->text);
    if (trouble->count > SHOWN)
        snprintf(trouble->text + used, sizeof trouble->text - used, "; and %" PRId64 " more", trouble->count - SHOWN);
}

/* ---- which tensors ---- */

/* "a, b and 3 more": the names of tensors of side `from` that the other lacks; returns how many there are. */
static int64_t list_missing(const tn_file_pair *f, int from, char *text, size_t size)
{
    int64_t missing = 0, index;
    const tenon_file *file = f->file[from];
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(file, i, &tensor, NULL) != TENON_OK ||
            tenon_file_find_tensor(f->file[1 - from], tensor.name, &index, NULL) == TENON_OK)
            continue;
        size_t used = strlen(text);
        if (missing++ < SHOWN) snprintf(text + used, size - used, "%s%s", used ? ", " : "", tn_name_text(tensor.name));
    }
    size_t used = strlen(text);
    if (missing > SHOWN) snprintf(text + used, size - used, " and %" PRId64 " more", missing - SHOWN);
    return missing;
}

static void report_missing(const tn_file_pair *f, tn_trouble *trouble)
{
    for (int from = 0; from < 2; from++) {
        char names[SHOWN * 256] = "";
        int64_t missing = list_missing(f, from, names, sizeof names);
        if (missing)
            tn_trouble_add(trouble, "%s lacks %" PRId64 " tensor%s of %s: %s", tn_name_text(f->path[1 - from]), missing,
                           missing == 1 ? "" : "s", tn_name_text(f->path[from]), names);
    }
}

/* Takes the pair in when its shapes agree and both sides are numbers. */
static bool take_pair(tn_file_pair *f, const int64_t index[2], tn_trouble *trouble, tenon_error *error)
{
    tn_tensor_pair *p = &f->pairs[f->num_pairs];
    memcpy(p->index, index, sizeof p->index);
    for (int s = 0; s < 2; s++) {
        tenon_file_tensor_init(&p->tensors[s]);
        if (tenon_file_get_tensor(f->file[s], index[s], &p->tensors[s], error) != TENON_OK) return false;
    }
    const tenon_file_tensor *a = &p->tensors[0], *b = &p->tensors[1];
    bool same = a->ndim == b->ndim && a->ndim <= TN_COMPARE_MAX_AXES;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->shape[i] == b->shape[i];
    for (int s = 0; s < 2; s++) {
        if (!p->tensors[s].absent_shard) continue;
        tn_trouble_add(trouble, "%s: %s is in the shard %s, which was not downloaded", tn_name_text(f->path[s]),
                       tn_name_text(p->tensors[s].name), tn_name_text(p->tensors[s].absent_shard));
        return true;
    }
    int unread = !tn_is_number(a->dtype) ? 0 : !tn_is_number(b->dtype) ? 1 : -1;
    if (!same)
        tn_trouble_add(trouble, "%s and %s: shapes differ%s%s: %s and %s", tn_name_text(f->path[0]),
                       tn_name_text(f->path[1]), a->name[0] ? " for " : "", tn_name_text(a->name),
                       tn_shape_text(a->ndim, a->shape), tn_shape_text(b->ndim, b->shape));
    else if (unread >= 0)
        tn_trouble_add(trouble, "%s: cannot compare%s%s: numbers of type %s are not read",
                       tn_name_text(f->path[unread]), a->name[0] ? " " : "", tn_name_text(a->name),
                       tn_name_text(p->tensors[unread].stored));
    else
        f->num_pairs++;
    return true;
}

static bool is_npy(const tenon_file *file)
{
    return !strcmp(tenon_file_kind(file), "npy");
}

/* --tensor: by name, and in npy the only one. */
static bool pair_named(tn_file_pair *f, const char *name, tn_trouble *trouble, tenon_error *error)
{
    int64_t index[2] = {0, 0};
    bool npy[2];
    for (int s = 0; s < 2; s++) {
        npy[s] = is_npy(f->file[s]);
        if (!npy[s] && tenon_file_find_tensor(f->file[s], name, &index[s], error) != TENON_OK) return false;
    }
    if (npy[0] && npy[1])
        return tn_error(error, "--tensor does not apply: %s is npy and has one tensor without a name",
                        tn_name_text(f->path[0]));
    return take_pair(f, index, trouble, error);
}

static bool pair_all(tn_file_pair *f, tn_trouble *trouble, tenon_error *error)
{
    report_missing(f, trouble);
    for (int64_t i = 0; i < tenon_file_num_tensors(f->file[0]); i++) {
        tenon_file_tensor tensor;
        int64_t index[2] = {i, 0};
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(f->file[0], i, &tensor, error) != TENON_OK) return false;
        if (tenon_file_find_tensor(f->file[1], tensor.name, &index[1], NULL) == TENON_OK &&
            !take_pair(f, index, trouble, error))
            return false;
    }
    return true;
}

static bool pair_tensors(tn_file_pair *f, const char *name, tn_trouble *trouble, tenon_error *error)
{
    int64_t count = tenon_file_num_tensors(f->file[0]);
    f->pairs = calloc((size_t)count + 1, sizeof *f->pairs);
    if (!f->pairs) return tn_error(error, "out of memory: %s has %" PRId64 " tensors", f->path[0], count);
    if (name) return pair_named(f, name, trouble, error);
    /* Files of one tensor each need no equal names. */
    if (count == 1 && tenon_file_num_tensors(f->file[1]) == 1)
        return take_pair(f, (const int64_t[]){0, 0}, trouble, error);
    return pair_all(f, trouble, error);
}

/* ---- their numbers ---- */

static const size_t block_bytes = (size_t)4 << 20;

/* The same slices of both tensors, read into `data`. */
static bool compare_block(const tn_file_pair *f, tn_tensor_pair *p, int64_t first, int64_t count, size_t slice,
                          void *const data[2], tenon_error *error)
{
    size_t elements = slice * (size_t)count;
    for (int s = 0; s < 2; s++)
        if (tenon_file_read(f->file[s], p->index[s], first, count, data[s], elements * (p->tensors[s].dtype.bits / 8u),
                            error) != TENON_OK)
            return false;
    return tn_comparison_add(&p->result, data[0], p->tensors[0].dtype, data[1], p->tensors[1].dtype, elements);
}

static bool compare_pair(const tn_file_pair *f, tn_tensor_pair *p, tenon_error *error)
{
    const tenon_file_tensor *tensor = &p->tensors[0];
    int64_t slices = tensor->ndim ? tensor->shape[0] : 1;
    size_t slice = 1;
    for (int i = 1; i < tensor->ndim; i++)
        slice *= (size_t)tensor->shape[i];
    tn_comparison_init(&p->result, tensor->ndim ? tensor->shape[tensor->ndim - 1] : 1);
    if (slices == 0 || slice == 0) return true;
    size_t widest = p->tensors[0].dtype.bits > p->tensors[1].dtype.bits ? p->tensors[0].dtype.bits / 8u
                                                                        : p->tensors[1].dtype.bits / 8u;
    int64_t step = slice * widest < block_bytes ? (int64_t)(block_bytes / (slice * widest)) : 1;
    if (step > slices) step = slices;
    void *data[2] = {malloc(slice * widest * (size_t)step), malloc(slice * widest * (size_t)step)};
    bool good =
        (data[0] && data[1]) || tn_error(error, "out of memory: %s", tn_shape_text(tensor->ndim, tensor->shape));
    for (int64_t first = 0; good && first < slices; first += step)
        good = compare_block(f, p, first, slices - first < step ? slices - first : step, slice, data, error);
    free(data[0]);
    free(data[1]);
    return good;
}

bool tn_compare_fail_no_npy(const char *const path[2], tenon_error *error)
{
    return tn_error(error, "--npy-bf16 does not apply: neither %s nor %s is npy", tn_name_text(path[0]),
                    tn_name_text(path[1]));
}

/* The name becomes what sentences call it. */
static bool open_file(const char **path, const tenon_file_options *options, tenon_file **file, tenon_error *error)
{
    if (!tn_is_stream(*path)) return tenon_file_open(*path, options, file, error) == TENON_OK;
    *path = "standard input";
    return tenon_file_open_stream(STDIN_FILENO, *path, options, file, error) == TENON_OK;
}

bool tn_compare_files(const tn_compare_settings *given, tn_file_pair *files, tn_trouble *trouble, tenon_error *error)
{
    tenon_file_options options;
    tenon_file_options_init(&options);
    options.npy_bfloat16 = given->npy_bfloat16;
    options.keep_f64 = true;
    for (int s = 0; s < 2; s++)
        if (!open_file(&files->path[s], &options, &files->file[s], error)) return false;
    if (given->npy_bfloat16 && !files->shard && !is_npy(files->file[0]) && !is_npy(files->file[1]))
        return tn_compare_fail_no_npy(files->path, error);
    if (!pair_tensors(files, given->tensor, trouble, error)) return false;
    for (int64_t i = 0; i < files->num_pairs; i++)
        if (!compare_pair(files, &files->pairs[i], error)) return false;
    return true;
}

void tn_compare_close(tn_file_pair *files)
{
    free(files->pairs);
    for (int s = 0; s < 2; s++)
        if (files->file[s]) tenon_file_close(files->file[s]);
}
