/* SPDX-License-Identifier: MIT */
/* A file of named tensors through the adapter: images are taken in groups of about a chunk, read, computed and written
 * one group after the other. */
#include "interrupt.h"
#include "report.h"
#include "run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const size_t group_bytes = (size_t)36 << 20;

/* A group on its way: images [first, end). */
typedef struct group {
    const tn_run_setup *setup;
    tn_run_job *job;
    int64_t first, end;
    tn_buffer *inputs;  /* [num_inputs] */
    tn_buffer *outputs; /* [num_outputs] */
    tn_run_outputs files;
    int64_t indices[2]; /* of the tokens and of token_counts in the file; further outputs follow the tokens */
} group;

/* ---- rows ---- */

/* Rows of images [first, end) of an input. */
static int64_t input_rows(const tn_named *n, const tn_named_part *part, int64_t first, int64_t end)
{
    return n->grids ? n->first[end] - n->first[first] : (end - first) * part->shape[1];
}

static int64_t output_rows(const tn_named *n, size_t output, int64_t first, int64_t end)
{
    return n->made[output][end] - n->made[output][first];
}

static size_t output_row_bytes(const tn_run_setup *setup, size_t output)
{
    return (size_t)setup->ports.outputs[output].width * tenon_dtype_size(setup->dtype);
}

/* Bytes of what is read and written of one image. */
static size_t image_bytes(const group *g, int64_t image)
{
    const tn_named *n = g->job->named;
    size_t sum = 0;
    for (size_t i = 0; i < n->num_inputs; i++)
        sum += (size_t)input_rows(n, &n->parts[i], image, image + 1) * n->parts[i].row;
    for (size_t i = 0; i < g->setup->ports.num_outputs; i++)
        sum += (size_t)output_rows(n, i, image, image + 1) * output_row_bytes(g->setup, i);
    return sum;
}

static void end_group(group *g)
{
    size_t sum = 0;
    for (g->end = g->first; g->end < g->job->images; g->end++) {
        const size_t bytes = image_bytes(g, g->end);
        if (g->end > g->first && sum + bytes > group_bytes) break;
        sum += bytes;
    }
}

/* ---- read ---- */

static bool read_input(group *g, size_t index, tenon_error *error)
{
    const tn_named *n = g->job->named;
    const tn_named_part *part = &n->parts[index];
    int64_t first = g->first, count = g->end - g->first;
    const size_t bytes = (size_t)input_rows(n, part, g->first, g->end) * part->row;
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(g->job->inputs[TN_FEATURES], part->index, &tensor, error) != TENON_OK) return false;
    /* Slices along the file's first axis: images, or rows where it has no axis of images. */
    if (tensor.ndim == 2) {
        first = n->grids ? n->first[g->first] : 0;
        count = n->grids ? n->first[g->end] - first : tensor.shape[0];
    }
    if (!tn_buffer_grow(&g->inputs[index], bytes, error)) return false;
    return bytes == 0 || tenon_file_read(g->job->inputs[TN_FEATURES], part->index, first, count, g->inputs[index].data,
                                         bytes, error) == TENON_OK;
}

/* ---- compute ---- */

static DLTensor tensor_of(void *data, DLDataType dtype, int ndim, int64_t *shape)
{
    return (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = ndim, .dtype = dtype, .shape = shape};
}

/* A tensor of the group's rows: packed, or with an axis of images. */
static DLTensor rows_tensor(const group *g, void *data, DLDataType dtype, int64_t rows, int64_t width, int64_t shape[3])
{
    const int64_t images = g->end - g->first;
    const bool packed = g->job->named->grids != NULL;
    shape[0] = packed ? rows : images;
    shape[1] = packed ? width : rows / (images > 0 ? images : 1);
    shape[2] = width;
    return tensor_of(data, dtype, packed ? 2 : 3, shape);
}

/* The masks of the group's images. */
static void take_masks(const group *g, tenon_call *call, DLTensor mask[2], int64_t shape[2][2])
{
    const tn_named *n = g->job->named;
    const DLDataType byte = {kDLUInt, 8, 1};
    const int64_t images = g->end - g->first, prefix = g->setup->prefix_tokens;
    const int64_t each = n->grids ? 0 : n->parts[0].shape[1] - prefix;
    const int64_t before = n->grids ? n->first[g->first] - g->first * prefix : g->first * each;
    const int64_t rows = n->grids ? n->first[g->end] - n->first[g->first] - images * prefix : images;
    shape[0][0] = rows;
    shape[0][1] = each;
    shape[1][0] = images;
    mask[0] = tensor_of(n->patch ? n->patch + before : NULL, byte, n->grids ? 1 : 2, shape[0]);
    mask[1] = tensor_of(n->frame ? n->frame + g->first : NULL, byte, 1, shape[1]);
    if (n->patch) call->patch_mask = &mask[0];
    if (n->frame) call->frame_mask = &mask[1];
}

typedef struct tensors {
    DLTensor *data;
    int64_t (*shapes)[3];
    tenon_named_tensor *names;
} tensors;

static bool new_tensors(tensors *t, size_t count, tenon_error *error)
{
    *t = (tensors){calloc(count + 1, sizeof *t->data), calloc(count + 1, sizeof *t->shapes),
                   calloc(count + 1, sizeof *t->names)};
    return (t->data && t->shapes && t->names) || tn_error(error, "out of memory");
}

static void free_tensors(tensors *t)
{
    free(t->data);
    free(t->shapes);
    free(t->names);
}

static bool forward(group *g, tensors *in, tensors *out, tenon_error *error)
{
    const tn_run_setup *setup = g->setup;
    const tn_named *n = g->job->named;
    const int64_t images = g->end - g->first;
    tenon_call call = setup->call;
    DLTensor mask[2];
    int64_t mask_shape[2][2], grid_shape[] = {images, n->columns};
    DLTensor grids =
        tensor_of(n->grids ? n->grids + g->first * n->columns : NULL, (DLDataType){kDLInt, 64, 1}, 2, grid_shape);
    for (size_t i = 0; i < n->num_parts; i++) {
        const tn_named_part *part = &n->parts[i];
        if (i < n->num_inputs) {
            in->data[i] = rows_tensor(g, g->inputs[i].data, part->dtype, input_rows(n, part, g->first, g->end),
                                      setup->ports.inputs[i].width, in->shapes[i]);
        } else {
            memcpy(in->shapes[i], part->shape, sizeof part->shape);
            in->shapes[i][0] = images;
            in->data[i] = tensor_of((char *)part->integers + (size_t)g->first * part->row, part->dtype, part->ndim,
                                    in->shapes[i]);
        }
        in->names[i] = (tenon_named_tensor){part->name, &in->data[i]};
    }
    for (size_t i = 0; i < setup->ports.num_outputs; i++) {
        const int64_t rows = output_rows(n, i, g->first, g->end);
        if (!tn_buffer_grow(&g->outputs[i], (size_t)rows * output_row_bytes(setup, i), error)) return false;
        out->data[i] = rows_tensor(g, g->outputs[i].data, tenon_dtype_to_dlpack(setup->dtype), rows,
                                   setup->ports.outputs[i].width, out->shapes[i]);
        out->names[i] = (tenon_named_tensor){setup->ports.outputs[i].name, &out->data[i]};
    }
    if (n->grids) call.grids = &grids;
    call.inputs = in->names + 1;
    call.num_inputs = (int64_t)n->num_parts - 1;
    call.outputs = out->names + 1;
    call.num_outputs = (int64_t)setup->ports.num_outputs - 1;
    take_masks(g, &call, mask, mask_shape);
    return tenon_adapter_forward(setup->adapter, &in->data[0], &out->data[0], &call, NULL, error) == TENON_OK;
}

/* ---- what is not finite ---- */

/* Rows that a token may read: no prefix tokens, none that a mask takes away. */
static bool mark_read(const group *g, int64_t image, int64_t rows, unsigned char **is_read, tenon_error *error)
{
    const tn_named *n = g->job->named;
    const int64_t prefix = g->setup->prefix_tokens, each = rows - prefix;
    const int64_t before = n->grids ? n->first[image] - image * prefix : image * each;
    unsigned char *marks = *is_read = calloc((size_t)rows + 1, 1);
    if (!marks) return tn_error(error, "out of memory");
    if (n->frame && !n->frame[image]) return true;
    for (int64_t r = 0; r < each; r++)
        marks[prefix + r] = !n->patch || n->patch[before + r];
    return true;
}

static bool check_values(group *g, bool is_features, tenon_error *error)
{
    tn_run_job *job = g->job;
    const tn_named *n = job->named;
    const DLDataType dtype = is_features ? n->parts[0].dtype : tenon_dtype_to_dlpack(g->setup->dtype);
    const size_t row = is_features ? n->parts[0].row : output_row_bytes(g->setup, 0);
    const char *data = is_features ? g->inputs[0].data : g->outputs[0].data;
    tn_nonfinite *found = &job->found[is_features ? TN_FEATURES_NOT_FINITE : TN_TOKENS_NOT_FINITE];
    for (int64_t image = g->first; image < g->end; image++) {
        const int64_t rows =
            is_features ? input_rows(n, &n->parts[0], image, image + 1) : output_rows(n, 0, image, image + 1);
        const int64_t before =
            is_features ? input_rows(n, &n->parts[0], g->first, image) : output_rows(n, 0, g->first, image);
        const tn_value_rows values = {.data = data + (size_t)before * row,
                                      .dtype = dtype,
                                      .file = job->number,
                                      .first = image,
                                      .images = 1,
                                      .tokens = rows,
                                      .width = (int64_t)(row / (dtype.bits / 8u))};
        unsigned char *is_read = NULL;
        if (rows == 0 || tn_all_finite(values.data, dtype, (size_t)rows * row)) continue;
        if (is_features && !mark_read(g, image, rows, &is_read, error)) return false;
        tn_nonfinite_find(found, &values, is_read);
        free(is_read);
    }
    if (!g->setup->check_finite || found->count == 0) return true;
    return tn_error(error, "%s: in %s, %s; correct them, or omit --check-finite", job->paths[TN_FEATURES],
                    is_features ? "the features" : "its tokens", tn_nonfinite_text(found));
}

/* ---- write ---- */

/* Declares an output: (images, rows, width) where every image has as many, else (rows, width). */
static bool add_output(group *g, tenon_writer *writer, size_t output, tn_hasher **hasher, tenon_error *error)
{
    const tn_named *n = g->job->named;
    const int64_t images = g->job->images, width = g->setup->ports.outputs[output].width;
    const bool one = g->job->is_one_image && !n->grids, stacked = n->is_stacked && !one;
    int64_t shape[3] = {images, n->made[output][1], width};
    if (!stacked) shape[0] = one ? n->made[output][1] : n->made[output][images], shape[1] = width;
    const int ndim = stacked ? 3 : 2;
    int64_t *index = output == 0 ? &g->indices[0] : NULL;
    if (hasher && !(*hasher = tn_hasher_new(ndim, shape))) return tn_error(error, "out of memory");
    return tenon_writer_add(writer, g->setup->ports.outputs[output].name, tenon_dtype_to_dlpack(g->setup->dtype), ndim,
                            shape, index, error) == TENON_OK;
}

static bool add_counts(group *g, tenon_writer *writer, tenon_error *error)
{
    const DLDataType i64 = {kDLInt, 64, 1};
    return tenon_writer_add(writer, "token_counts", i64, 1, &g->job->images, &g->indices[1], error) == TENON_OK;
}

static bool write_counts(const group *g, tenon_error *error)
{
    const int64_t images = g->job->images;
    int64_t *counts = calloc((size_t)images + 1, sizeof *counts);
    if (!counts) return tn_error(error, "out of memory");
    for (int64_t i = 0; i < images; i++)
        counts[i] = output_rows(g->job->named, 0, i, i + 1);
    const bool good = images == 0 || tenon_writer_write(g->files.of[TN_TOKENS].writer, g->indices[1], counts,
                                                        (size_t)images * sizeof *counts, error) == TENON_OK;
    free(counts);
    return good;
}

static bool begin(group *g, tenon_error *error)
{
    tn_run_job *job = g->job;
    tn_run_output *output = &g->files.of[TN_TOKENS];
    const bool has_counts = !job->named->is_stacked;
    const char *format = job->kind == TN_KIND_SAFETENSORS ? "safetensors" : "npy", *path = job->paths[TN_TOKENS];
    g->files = (tn_run_outputs){.job = job};
    const tenon_status opened = job->is_stream[TN_TOKENS]
                                    ? tenon_writer_new_stream(STDOUT_FILENO, path, format, &output->writer, error)
                                    : tenon_writer_new(path, &output->writer, error);
    if (opened != TENON_OK) return false;
    for (size_t i = 0; i < g->setup->ports.num_outputs; i++)
        if (!add_output(g, output->writer, i, i == 0 && g->setup->hashes ? &output->hasher : NULL, error)) return false;
    if (has_counts && !add_counts(g, output->writer, error)) return false;
    const bool is_npy = job->is_stream[TN_TOKENS] ? !strcmp(format, "npy") : tn_paths_has_suffix(path, ".npy");
    if (!is_npy && !tn_output_metadata(g->setup, output->writer, error)) return false;
    return !has_counts || write_counts(g, error); /* larger elements come first in a stream too */
}

static bool write_group(group *g, tenon_error *error)
{
    bool good = true;
    for (size_t i = 0; good && i < g->setup->ports.num_outputs; i++) {
        const size_t bytes = (size_t)output_rows(g->job->named, i, g->first, g->end) * output_row_bytes(g->setup, i);
        if (bytes == 0) continue;
        if (i == 0) tn_hasher_add(g->files.of[TN_TOKENS].hasher, g->outputs[0].data, bytes);
        good = tenon_writer_write(g->files.of[TN_TOKENS].writer, g->indices[0] + (int64_t)i, g->outputs[i].data, bytes,
                                  error) == TENON_OK;
    }
    return good;
}

/* ---- the whole ---- */

/* One group; *fatal: it is no fault of this job's. */
static bool run_group(group *g, tensors *in, tensors *out, tn_run_totals *totals, bool *fatal, tenon_error *error)
{
    double at[4];
    if (tn_interrupt_signal()) {
        *fatal = true;
        return tn_error(error, "interrupted");
    }
    at[0] = tn_seconds();
    for (size_t i = 0; i < g->job->named->num_inputs; i++)
        if (!read_input(g, i, error)) return false;
    if (!check_values(g, true, error)) return false;
    at[1] = tn_seconds();
    tenon_error reason;
    if (!forward(g, in, out, &reason))
        return tn_error(error, "%s: %.3000s", g->job->paths[TN_FEATURES], reason.message);
    at[2] = tn_seconds();
    if (!check_values(g, false, error)) return false;
    *fatal = !write_group(g, error);
    at[3] = tn_seconds();
    totals->read_seconds += at[1] - at[0];
    totals->compute_seconds += at[2] - at[1];
    totals->write_seconds += at[3] - at[2];
    tn_progress_add(g->setup->progress, g->end - g->first);
    return !*fatal;
}

static bool run_groups(group *g, tn_run_totals *totals, bool *fatal, tenon_error *error)
{
    tensors in = {NULL, NULL, NULL}, out = {NULL, NULL, NULL};
    bool good =
        new_tensors(&in, g->job->named->num_parts, error) && new_tensors(&out, g->setup->ports.num_outputs, error);
    if (good) {
        good = begin(g, error);
        *fatal = !good;
    }
    for (g->first = 0; good && g->first < g->job->images; g->first = g->end) {
        end_group(g);
        good = run_group(g, &in, &out, totals, fatal, error);
    }
    free_tensors(&in);
    free_tensors(&out);
    if (!good) return false;
    const double started = tn_seconds();
    *fatal = !tn_outputs_commit(g->setup, &g->files, error);
    totals->write_seconds += tn_seconds() - started;
    return !*fatal;
}

static void free_group(group *g, size_t num_inputs)
{
    for (size_t i = 0; g->inputs && i < num_inputs; i++)
        tn_buffer_free(&g->inputs[i]);
    for (size_t i = 0; g->outputs && i < g->setup->ports.num_outputs; i++)
        tn_buffer_free(&g->outputs[i]);
    free(g->inputs);
    free(g->outputs);
    tn_outputs_free(&g->files);
}

bool tn_named_run(const tn_run_setup *setup, tn_run_job *job, tn_run_totals *totals, tenon_error *error)
{
    bool fatal = false;
    group g = {.setup = setup, .job = job};
    bool good = tn_job_open(job, setup, error);
    const size_t num_inputs = good ? job->named->num_inputs : 0;
    if (good) {
        g.inputs = calloc(num_inputs + 1, sizeof *g.inputs);
        g.outputs = calloc(setup->ports.num_outputs + 1, sizeof *g.outputs);
        good = (g.inputs && g.outputs) || tn_error(error, "out of memory");
        good = good && run_groups(&g, totals, &fatal, error);
    }
    if (good) {
        totals->images += job->images;
        totals->tokens += job->tokens;
        for (int finding = 0; finding < TN_FINDINGS; finding++)
            tn_nonfinite_add(&totals->found[finding], &job->found[finding]);
    }
    free_group(&g, num_inputs);
    tn_job_close(job);
    if (good || fatal) return good;
    job->problem = strdup(error->message);
    return job->problem != NULL;
}

static void add_totals(tn_run_totals *totals, const tn_run_totals *more)
{
    totals->images += more->images;
    totals->tokens += more->tokens;
    totals->read_seconds += more->read_seconds;
    totals->compute_seconds += more->compute_seconds;
    totals->write_seconds += more->write_seconds;
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        tn_nonfinite_add(&totals->found[finding], &more->found[finding]);
}

bool tn_jobs_run(const tn_run_setup *setup, tn_run_job *jobs, size_t count, tn_run_totals *totals, tenon_error *error)
{
    bool good = true;
    *totals = (tn_run_totals){.images = 0};
    for (size_t first = 0, end; good && first < count; first = end) {
        tn_run_totals some = {.images = 0};
        for (end = first + 1; !jobs[first].is_named && end < count && !jobs[end].is_named;)
            end++;
        good = jobs[first].is_named ? tn_named_run(setup, &jobs[first], &some, error)
                                    : tn_pipeline_run(setup, &jobs[first], end - first, &some, error);
        add_totals(totals, &some);
    }
    return good;
}
