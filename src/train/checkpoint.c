/* SPDX-License-Identifier: MIT */
/* A run on disk: a safetensors file with, for each trained parameter NAME,
 *
 *     parameter.NAME   in its dtype; the frozen ones too, so that the file is the whole run
 *     m.NAME, v.NAME   f32, the moments
 *     master.NAME      f32, where there are master copies
 *
 * and the metadata tenon.train (format version), tenon.config (the adapter's, widths included), tenon.steps,
 * tenon.note.
 */
#include "train/trainer.h"

#include "core/error.h"
#include "core/size.h"
#include "ops/finite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METADATA_TRAIN "tenon.train"
#define METADATA_STEPS "tenon.steps"
#define METADATA_NOTE "tenon.note"
#define METADATA_VERSION "1"

enum { MAX_PIECES = 4 };

/* One tensor of the file. */
typedef struct piece {
    const char *prefix;
    const char *parameter;
    tn_dtype dtype;
    int ndim;
    const int64_t *shape;
    void *data;
    size_t bytes;
} piece;

/* The name of a piece's tensor, in memory the caller frees. */
static tenon_status name_of(const piece *p, char **name, tenon_error *error)
{
    const size_t size = strlen(p->prefix) + strlen(p->parameter) + 2;
    *name = malloc(size);
    if (*name == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: tensors cannot be named");
    snprintf(*name, size, "%s.%s", p->prefix, p->parameter);
    return TENON_OK;
}

static piece make_piece(const char *prefix, const tn_parameter_spec *spec, tn_dtype dtype, void *data)
{
    piece made = {.prefix = prefix,
                  .parameter = spec->name,
                  .dtype = dtype,
                  .ndim = spec->ndim,
                  .shape = spec->shape,
                  .data = data};
    (void)tn_shape_bytes(spec->ndim, spec->shape, tn_dtype_size(dtype), &made.bytes); /* it is in memory: it fits */
    return made;
}

/* The tensors that parameter `index` has in the file. */
static int list_pieces(const tenon_trainer *trainer, int64_t index, piece pieces[MAX_PIECES])
{
    const tn_parameter_spec *spec = &trainer->adapter->graph->parameters[index];
    const tn_parameter *parameter = &trainer->adapter->parameters[index];
    const DLTensor *gradient = trainer->wanted[index];
    int count = 0;
    pieces[count++] = make_piece("parameter", spec, parameter->dtype, parameter->data);
    if (gradient == NULL) return count;
    const int64_t offset = (const float *)gradient->data - trainer->gradients;
    pieces[count++] = make_piece("m", spec, TN_F32, trainer->m + offset);
    pieces[count++] = make_piece("v", spec, TN_F32, trainer->v + offset);
    if (trainer->master != NULL) pieces[count++] = make_piece("master", spec, TN_F32, trainer->master + offset);
    return count;
}

/* ---- save ---- */

static tenon_status set_metadata(const tenon_trainer *trainer, tenon_writer *writer, const char *note,
                                 tenon_error *error)
{
    const tenon_adapter *adapter = trainer->adapter;
    char steps[32];
    snprintf(steps, sizeof steps, "%lld", (long long)trainer->steps);
    TN_TRY(tenon_writer_set_metadata(writer, METADATA_TRAIN, METADATA_VERSION, error));
    TN_TRY(tenon_writer_set_metadata(writer, METADATA_STEPS, steps, error));
    if (note != NULL) TN_TRY(tenon_writer_set_metadata(writer, METADATA_NOTE, note, error));
    char *json = tn_config_to_adapter_json(adapter->config, adapter->in_dim, adapter->out_dim);
    if (json == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: the config cannot be written");
    const tenon_status status = tenon_writer_set_metadata(writer, TN_METADATA_CONFIG, json, error);
    free(json);
    return status;
}

static tenon_status write_all(const tenon_trainer *trainer, tenon_writer *writer, const char *note, tenon_error *error)
{
    const int64_t parameters = trainer->adapter->graph->num_parameters;
    piece pieces[MAX_PIECES];
    TN_TRY(set_metadata(trainer, writer, note, error));
    for (int64_t p = 0; p < parameters; p++) {
        const int count = list_pieces(trainer, p, pieces);
        for (int i = 0; i < count; i++) {
            const DLDataType dtype = tenon_dtype_to_dlpack((tenon_dtype)pieces[i].dtype);
            char *name;
            TN_TRY(name_of(&pieces[i], &name, error));
            const tenon_status status =
                tenon_writer_add(writer, name, dtype, pieces[i].ndim, pieces[i].shape, NULL, error);
            free(name);
            if (status != TENON_OK) return status;
        }
    }
    int64_t next = 0;
    for (int64_t p = 0; p < parameters; p++) {
        const int count = list_pieces(trainer, p, pieces);
        for (int i = 0; i < count; i++)
            TN_TRY(tenon_writer_write(writer, next++, pieces[i].data, pieces[i].bytes, error));
    }
    return tenon_writer_commit(writer, error);
}

/* A run that goes on from numbers that are none has nothing to go on to. */
static tenon_status check_finite(const tenon_trainer *trainer, const char *path, tenon_error *error)
{
    piece pieces[MAX_PIECES];
    tenon_error reason;
    if (tenon_adapter_check_finite(trainer->adapter, &reason) != TENON_OK) {
        return tn_fail(error, TENON_INVALID, "%s: is not written: %s", tn_quote(path).text, reason.message);
    }
    for (int64_t p = 0; p < trainer->adapter->graph->num_parameters; p++) {
        const int count = list_pieces(trainer, p, pieces);
        for (int i = 1; i < count; i++) { /* the first is the parameter */
            int64_t first;
            const int64_t numbers = (int64_t)(pieces[i].bytes / tn_dtype_size(pieces[i].dtype));
            const int64_t found = tn_count_nonfinite(pieces[i].data, pieces[i].dtype, numbers, &first);
            if (found == 0) continue;
            return tn_fail(
                error, TENON_INVALID,
                "%s: is not written: %lld of the %lld numbers of '%s.%s' %s infinite or NaN, so the gradients "
                "were too large; a smaller `clip` bounds them",
                tn_quote(path).text, (long long)found, (long long)numbers, pieces[i].prefix, pieces[i].parameter,
                found == 1 ? "is" : "are");
        }
    }
    return TENON_OK;
}

tenon_status tenon_trainer_save(const tenon_trainer *trainer, const char *path, const char *note, tenon_error *error)
{
    if (trainer->images > 0) {
        return tn_fail(error, TENON_INVALID,
                       "gradients of %lld images are summed up; apply or clear them before saving",
                       (long long)trainer->images);
    }
    tenon_writer *writer;
    TN_TRY(check_finite(trainer, path, error));
    TN_TRY(tenon_writer_new(path, &writer, error));
    const tenon_status status = write_all(trainer, writer, note, error);
    tenon_writer_free(writer);
    return status;
}

/* ---- restore ---- */

static tenon_status check_metadata(const tenon_trainer *trainer, const tenon_file *file, const char *path,
                                   int64_t *steps, tenon_error *error)
{
    const tenon_adapter *adapter = trainer->adapter;
    const char *version = tenon_file_metadata(file, METADATA_TRAIN), *count = tenon_file_metadata(file, METADATA_STEPS);
    const char *config = tenon_file_metadata(file, TN_METADATA_CONFIG);
    char *end = NULL;
    *steps = count != NULL ? strtoll(count, &end, 10) : -1;
    if (version == NULL || config == NULL || *steps < 0 || end == count || *end != 0) {
        return tn_fail(error, TENON_BAD_FILE, "%s: is no checkpoint of a training run", tn_quote(path).text);
    }
    if (strcmp(version, METADATA_VERSION) != 0) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s: has checkpoint format %s; this version reads %s",
                       tn_quote(path).text, tn_quote(version).text, METADATA_VERSION);
    }
    char *ours = tn_config_to_adapter_json(adapter->config, adapter->in_dim, adapter->out_dim);
    if (ours == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: the config cannot be compared");
    const bool same = strcmp(ours, config) == 0;
    const tn_quoted theirs = tn_quote(config), mine = tn_quote(ours);
    free(ours);
    if (same) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH, "%s: is of the connector %s; this one is %s", tn_quote(path).text,
                   theirs.text, mine.text);
}

/* Finds a piece in the file and checks that it is what we would have written. */
static tenon_status find_piece(const tenon_file *file, const char *path, const piece *wanted, int64_t *index,
                               tenon_error *error)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    char *name;
    TN_TRY(name_of(wanted, &name, error));
    const tenon_status found = tenon_file_find_tensor(file, name, index, NULL);
    free(name);
    if (found != TENON_OK) {
        return tn_fail(error, TENON_MISMATCH,
                       "%s: has no '%s.%s'; the run that wrote it froze other parameters, or kept "
                       "other copies of them",
                       tn_quote(path).text, wanted->prefix, wanted->parameter);
    }
    TN_TRY(tenon_file_get_tensor(file, *index, &tensor, error));
    const DLDataType dtype = tenon_dtype_to_dlpack((tenon_dtype)wanted->dtype);
    const bool same = tensor.dtype.code == dtype.code && tensor.dtype.bits == dtype.bits &&
                      tensor.ndim == wanted->ndim &&
                      memcmp(tensor.shape, wanted->shape, (size_t)wanted->ndim * sizeof *wanted->shape) == 0;
    if (same) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH, "%s: '%s.%s' is %s %s; expected %s %s", tn_quote(path).text, wanted->prefix,
                   wanted->parameter, tn_quote(tensor.stored).text, tn_shape_to_text(tensor.ndim, tensor.shape).text,
                   tenon_dtype_name((tenon_dtype)wanted->dtype), tn_shape_to_text(wanted->ndim, wanted->shape).text);
}

/* Counts bytes and tensors (memory NULL), reads every piece into `memory`, or copies them from there to their places:
 * the three walks see the same pieces in the same order. */
typedef enum pass { COUNT, READ, PLACE } pass;

static tenon_status walk(const tenon_trainer *trainer, const tenon_file *file, const char *path, pass what,
                         char *memory, size_t *bytes, tenon_error *error)
{
    piece pieces[MAX_PIECES];
    int64_t tensors = 0;
    *bytes = 0;
    for (int64_t p = 0; p < trainer->adapter->graph->num_parameters; p++) {
        const int count = list_pieces(trainer, p, pieces);
        tensors += count;
        for (int i = 0; i < count; i++) {
            int64_t index;
            char *at = memory != NULL ? memory + *bytes : NULL;
            *bytes += pieces[i].bytes;
            if (what == PLACE) {
                memcpy(pieces[i].data, at, pieces[i].bytes);
                continue;
            }
            TN_TRY(find_piece(file, path, &pieces[i], &index, error));
            if (what == READ) {
                TN_TRY(tenon_file_read(file, index, 0, pieces[i].shape[0], at, pieces[i].bytes, error));
            }
        }
    }
    if (tensors == tenon_file_num_tensors(file)) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH,
                   "%s: has %lld tensors; expected %lld: the run that wrote it trained parameters "
                   "that are frozen now, or kept other copies of them",
                   tn_quote(path).text, (long long)tenon_file_num_tensors(file), (long long)tensors);
}

static tenon_status restore(tenon_trainer *trainer, const tenon_file *file, const char *path, tenon_error *error)
{
    const tenon_allocator *allocator = &trainer->adapter->allocator;
    int64_t steps;
    size_t bytes, seen;
    void *memory;
    TN_TRY(check_metadata(trainer, file, path, &steps, error));
    TN_TRY(walk(trainer, file, path, COUNT, NULL, &bytes, error));
    TN_TRY(tn_alloc(allocator, bytes, "a checkpoint", &memory, error));
    tenon_status status = walk(trainer, file, path, READ, memory, &seen, error);
    if (status == TENON_OK) status = walk(trainer, file, path, PLACE, memory, &seen, error);
    tn_free(allocator, memory, bytes);
    if (status != TENON_OK) return status;
    tenon_trainer_clear(trainer);
    trainer->steps = steps;
    trainer->prepared = false;
    return TENON_OK;
}

tenon_status tenon_trainer_restore(tenon_trainer *trainer, const char *path, tenon_error *error)
{
    tenon_file *file;
    TN_TRY(tenon_file_open(path, NULL, &file, error));
    const tenon_status status = restore(trainer, file, path, error);
    tenon_file_close(file);
    return status;
}
