/* SPDX-License-Identifier: MIT */
/* Features, further inputs, integers, grids and mask of one file, found by their names and checked by their headers. */
#include "json.h"
#include "report.h"
#include "run.h"
#include "shards.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const grid_names[] = {"grid_thw", "grid_hw", "spatial_shapes"};
static const char mask_name[] = "mask";

/* ---- which tensors ---- */

static const tn_port *find_port(const tn_port *ports, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(ports[i].name, name)) return &ports[i];
    return NULL;
}

/* The file's tensor of that name; -1: there is none, or the connector declares the name for something else. */
static int64_t find_shared(const tn_run_job *job, const tn_ports *ports, const char *name)
{
    int64_t index;
    if (find_port(ports->inputs, ports->num_inputs, name) || find_port(ports->integers, ports->num_integers, name))
        return -1;
    return tenon_file_find_tensor(job->inputs[TN_FEATURES], name, &index, NULL) == TENON_OK ? index : -1;
}

static int64_t find_grids(const tn_run_job *job, const tn_ports *ports, const char **name)
{
    for (size_t i = 0; i < sizeof grid_names / sizeof *grid_names; i++) {
        const int64_t index = find_shared(job, ports, *name = grid_names[i]);
        if (index >= 0) return index;
    }
    return -1;
}

bool tn_named_is_needed(const tn_run_job *job, const tn_run_setup *setup)
{
    const tn_ports *ports = &setup->ports;
    const char *name;
    if (!ports->graph) return false;
    if (ports->num_inputs > 1 || ports->num_outputs > 1 || ports->num_integers > 0) return true;
    if (!strcmp(tenon_file_kind(job->inputs[TN_FEATURES]), "npy")) return false;
    return find_grids(job, ports, &name) >= 0 || find_shared(job, ports, mask_name) >= 0;
}

bool tn_named_list_ignored(const tn_run_job *job, const tn_run_setup *setup, json_t *names)
{
    const tn_ports *ports = &setup->ports;
    const tenon_file *file = job->inputs[TN_FEATURES];
    const char *grids;
    const int64_t taken = find_grids(job, ports, &grids), mask = find_shared(job, ports, mask_name);
    for (int64_t i = 0; ports->graph && i < tenon_file_num_tensors(file); i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(file, i, &tensor, NULL) != TENON_OK || i == job->tensors[TN_FEATURES] || i == taken ||
            i == mask || find_port(ports->inputs + 1, ports->num_inputs - 1, tensor.name) ||
            find_port(ports->integers, ports->num_integers, tensor.name))
            continue;
        char *key = tn_json_key(tensor.name);
        const bool good = key && json_object_set_new(names, key, json_true()) == 0;
        free(key);
        if (!good) return false;
    }
    return true;
}

/* ---- integers ---- */

static bool is_integer(DLDataType dtype)
{
    return dtype.code == kDLInt && (dtype.bits == 32 || dtype.bits == 64);
}

static bool multiply(int64_t a, int64_t b, int64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

/* All elements of a small tensor; the caller frees them. */
static void *read_all(const tn_run_job *job, tn_role role, int64_t index, const tenon_file_tensor *tensor,
                      int64_t *count, tenon_error *error)
{
    *count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        if (!multiply(*count, tensor->shape[i], count)) *count = INT64_MAX / 8;
    const size_t bytes = (size_t)*count * (tensor->dtype.bits / 8u);
    void *data = malloc(bytes + 1);
    if (!data) {
        tn_error(error, "%s: out of memory for '%s'", job->paths[role], tn_name_text(tensor->name));
    } else if (*count > 0 && tenon_file_read(job->inputs[role], index, 0, tensor->ndim ? tensor->shape[0] : 1, data,
                                             bytes, error) != TENON_OK) {
        free(data);
        data = NULL;
    }
    return data;
}

/* An element of a read tensor of integers or bool. */
static int64_t value_at(const void *data, DLDataType dtype, int64_t i)
{
    if (dtype.bits == 64) return ((const int64_t *)data)[i];
    if (dtype.bits == 32) return ((const int32_t *)data)[i];
    return dtype.code == kDLInt ? ((const int8_t *)data)[i] : ((const uint8_t *)data)[i];
}

static bool read_grids(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    tn_named *n = job->named;
    const char *path = job->paths[TN_FEATURES], *name;
    const int64_t index = find_grids(job, &setup->ports, &name);
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (index < 0 || !strcmp(tenon_file_kind(job->inputs[TN_FEATURES]), "npy")) return true;
    if (tenon_file_get_tensor(job->inputs[TN_FEATURES], index, &tensor, error) != TENON_OK) return false;
    n->columns = strcmp(name, "grid_thw") ? 2 : 3;
    if (!is_integer(tensor.dtype) || tensor.ndim != 2 || tensor.shape[1] != n->columns)
        return tn_error(error,
                        "%s: %s is %s %s; expected i32 or i64 of (images, %" PRId64 "), %sheight and width in patches",
                        path, name, tn_dtype_text(tensor.dtype), tn_shape_text(tensor.ndim, tensor.shape), n->columns,
                        n->columns == 3 ? "time, " : "");
    if (setup->call.grid_height != TENON_UNSET)
        return tn_error(error, "%s: has a grid for each image in %s; omit --grid, which is one for all", path, name);
    int64_t count;
    void *data = read_all(job, TN_FEATURES, index, &tensor, &count, error);
    n->grids = data ? calloc((size_t)count + 1, sizeof *n->grids) : NULL;
    for (int64_t i = 0; n->grids && i < count; i++)
        n->grids[i] = value_at(data, tensor.dtype, i);
    free(data);
    job->images = tensor.shape[0];
    return n->grids || (data ? tn_error(error, "out of memory") : false);
}

/* ---- rows ---- */

/* First rows of the images of a packed batch, whose features have shape[0] rows. */
static bool place_images(tn_run_job *job, const tn_run_setup *setup, int64_t rows, tenon_error *error)
{
    tn_named *n = job->named;
    const char *path = job->paths[TN_FEATURES];
    n->first = calloc((size_t)job->images + 1, sizeof *n->first);
    if (!n->first) return tn_error(error, "out of memory");
    for (int64_t i = 0; i < job->images; i++) {
        const int64_t *grid = n->grids + i * n->columns;
        int64_t own = 1;
        bool fits = true;
        for (int64_t k = 0; k < n->columns; k++)
            fits = fits && grid[k] > 0 && multiply(own, grid[k], &own);
        fits = fits && !__builtin_add_overflow(own, setup->prefix_tokens, &own) &&
               !__builtin_add_overflow(n->first[i], own, &n->first[i + 1]);
        if (!fits)
            return tn_error(
                error, "%s: the grid of image %" PRId64 " has a side that is not positive, or too many rows", path, i);
    }
    if (n->first[job->images] == rows) return true;
    return tn_error(error,
                    "%s: the features have %" PRId64 " rows, but the grids of its %" PRId64 " images make %" PRId64,
                    path, rows, job->images, n->first[job->images]);
}

static size_t element(DLDataType dtype)
{
    return dtype.bits / 8u;
}

/* An input's header: as many rows and images as the features have, and its own width. */
static bool take_input(tn_run_job *job, const tn_port *port, int64_t index, tenon_error *error)
{
    tn_named *n = job->named;
    const char *path = job->paths[TN_FEATURES];
    tn_named_part *part = &n->parts[n->num_parts++];
    tenon_file_tensor t;
    tenon_file_tensor_init(&t);
    if (tenon_file_get_tensor(job->inputs[TN_FEATURES], index, &t, error) != TENON_OK) return false;
    const bool is_float = (t.dtype.code == kDLFloat || t.dtype.code == kDLBfloat) && t.dtype.bits <= 32;
    if (!is_float || (t.ndim != 2 && t.ndim != 3) || t.shape[t.ndim - 1] != port->width)
        return tn_error(error, "%s: %s is %s %s; expected f32, bf16 or f16 of (images, rows, %" PRId64 ")%s", path,
                        tn_name_text(port->name), tn_dtype_text(t.dtype), tn_shape_text(t.ndim, t.shape), port->width,
                        n->grids ? ", or (all rows, width)" : "");
    const int64_t images = t.ndim == 3 ? t.shape[0] : 1;
    *part = (tn_named_part){.name = port->name,
                            .index = index,
                            .dtype = t.dtype,
                            .ndim = 3,
                            .shape = {images, t.shape[t.ndim - 2], port->width}};
    part->row = (size_t)port->width * element(t.dtype);
    if (n->grids) { /* rows of all images follow each other, whatever the axes say */
        part->ndim = 2;
        if (!multiply(part->shape[0], part->shape[1], &part->shape[0]))
            return tn_error(error, "%s: too many rows", path);
        part->shape[1] = port->width;
    }
    return true;
}

static bool check_input(const tn_run_job *job, const tn_named_part *part, tenon_error *error)
{
    const tn_named_part *features = &job->named->parts[0];
    if (part->shape[0] == features->shape[0]) return true;
    return tn_error(error, "%s: %s is of %" PRId64 " %s, the features of %" PRId64, job->paths[TN_FEATURES],
                    tn_name_text(part->name), part->shape[0], job->named->grids ? "rows" : "images",
                    features->shape[0]);
}

static bool take_integers(tn_run_job *job, const tn_port *port, int64_t index, tenon_error *error)
{
    tn_named *n = job->named;
    tn_named_part *part = &n->parts[n->num_parts++];
    tenon_file_tensor t;
    tenon_file_tensor_init(&t);
    if (tenon_file_get_tensor(job->inputs[TN_FEATURES], index, &t, error) != TENON_OK) return false;
    const bool fits = is_integer(t.dtype) && t.ndim >= 1 && t.ndim <= 3 && t.shape[0] == job->images &&
                      (port->width == 0 || (t.ndim > 1 && t.shape[t.ndim - 1] == port->width));
    if (!fits)
        return tn_error(error, "%s: %s is %s %s; expected i32 or i64 with %" PRId64 " images along its first axis%s",
                        job->paths[TN_FEATURES], tn_name_text(port->name), tn_dtype_text(t.dtype),
                        tn_shape_text(t.ndim, t.shape), job->images, port->width ? ", and its columns" : "");
    *part = (tn_named_part){.name = port->name, .index = index, .dtype = t.dtype, .ndim = t.ndim};
    part->row = element(t.dtype);
    for (int i = 0; i < t.ndim; i++) {
        part->shape[i] = t.shape[i];
        if (i > 0) part->row *= (size_t)t.shape[i];
    }
    int64_t count;
    part->integers = read_all(job, TN_FEATURES, index, &t, &count, error);
    return part->integers != NULL;
}

/* "tap.0, tap.1": what the connector takes beside the features. */
static bool fail_missing(const tn_run_job *job, const tn_run_setup *setup, const char *name, tenon_error *error)
{
    const char *type = tenon_config_type(tenon_adapter_config(setup->adapter));
    const bool is_npy = job->kind != TN_KIND_SAFETENSORS;
    return tn_error(error, "%s: %s '%s', which %s takes beside the features; %s", job->paths[TN_FEATURES],
                    is_npy ? "is npy, whose one array leaves no place for" : "has no tensor", tn_name_text(name), type,
                    is_npy ? "give a .safetensors file with both" : "give it the tensor under that name");
}

static bool take_parts(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    const tn_ports *ports = &setup->ports;
    const tenon_file *file = job->inputs[TN_FEATURES];
    tn_named *n = job->named;
    int64_t index;
    if (!take_input(job, &ports->inputs[0], job->tensors[TN_FEATURES], error)) return false;
    if (n->grids ? !place_images(job, setup, n->parts[0].shape[0], error) : false) return false;
    if (!n->grids) job->images = n->parts[0].shape[0];
    for (size_t i = 1; i < ports->num_inputs; i++) {
        if (job->kind != TN_KIND_SAFETENSORS ||
            tenon_file_find_tensor(file, ports->inputs[i].name, &index, NULL) != TENON_OK)
            return fail_missing(job, setup, ports->inputs[i].name, error);
        if (!take_input(job, &ports->inputs[i], index, error) || !check_input(job, &n->parts[i], error)) return false;
    }
    n->num_inputs = n->num_parts;
    for (size_t i = 0; job->kind == TN_KIND_SAFETENSORS && i < ports->num_integers; i++)
        if (tenon_file_find_tensor(file, ports->integers[i].name, &index, NULL) == TENON_OK &&
            !take_integers(job, &ports->integers[i], index, error))
            return false;
    return true;
}

/* ---- masks ---- */

/* Reads a mask of 0 and 1 as bytes, of `expected` elements. */
static bool read_mask(const tn_run_job *job, tn_role role, int64_t index, int64_t expected, const char *of,
                      unsigned char **mask, tenon_error *error)
{
    tenon_file_tensor tensor;
    int64_t count;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(job->inputs[role], index, &tensor, error) != TENON_OK) return false;
    const int code = tensor.dtype.code;
    const bool is_byte = tensor.dtype.bits == 8 && (code == kDLInt || code == kDLUInt || code == TN_DLPACK_BOOL);
    if (!is_byte && !is_integer(tensor.dtype))
        return tn_error(error, "%s: the mask is %s; expected bool, i8, u8, i32 or i64 of 0 and 1", job->paths[role],
                        tn_dtype_text(tensor.dtype));
    void *data = read_all(job, role, index, &tensor, &count, error);
    bool good = data != NULL;
    if (good && count != expected)
        good = tn_error(error, "%s: the mask has shape %s; expected %" PRId64 " values, one for each %s",
                        job->paths[role], tn_shape_text(tensor.ndim, tensor.shape), expected, of);
    *mask = good ? malloc((size_t)count + 1) : NULL;
    good = good && (*mask || tn_error(error, "out of memory"));
    for (int64_t i = 0; good && i < count; i++) {
        const int64_t value = value_at(data, tensor.dtype, i);
        (*mask)[i] = value != 0;
        if (value != 0 && value != 1)
            good = tn_error(error, "%s: the mask has the value %" PRId64 "; a mask is of 0 and 1", job->paths[role],
                            value);
    }
    free(data);
    return good;
}

static bool take_masks(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    tn_named *n = job->named;
    const tn_named_part *features = &n->parts[0];
    const bool is_npy = job->kind != TN_KIND_SAFETENSORS;
    const int64_t index = is_npy ? -1 : find_shared(job, &setup->ports, mask_name);
    const int64_t rows = n->grids ? features->shape[0] - job->images * setup->prefix_tokens
                                  : job->images * (features->shape[1] - setup->prefix_tokens);
    const char *patches = "patch, without prefix tokens";
    if (index >= 0 && job->paths[TN_PATCH_MASK])
        return tn_error(error, "--patch-mask %s: %s has a tensor 'mask' too; give one of them",
                        job->paths[TN_PATCH_MASK], job->paths[TN_FEATURES]);
    if (index >= 0 && !read_mask(job, TN_FEATURES, index, rows, patches, &n->patch, error)) return false;
    if (job->paths[TN_PATCH_MASK] &&
        !read_mask(job, TN_PATCH_MASK, job->tensors[TN_PATCH_MASK], rows, patches, &n->patch, error))
        return false;
    return !job->paths[TN_FRAME_MASK] ||
           read_mask(job, TN_FRAME_MASK, job->tensors[TN_FRAME_MASK], job->images, "image", &n->frame, error);
}

/* ---- outputs ---- */

/* The integer tensors of the file, as a call takes them; room for as many as there are. */
static int64_t all_integers(const tn_named *n, tenon_named_tensor *named, DLTensor *tensors)
{
    int64_t count = 0;
    for (size_t i = n->num_inputs; i < n->num_parts; i++, count++) {
        tn_named_part *part = &n->parts[i];
        tensors[count] = (DLTensor){part->integers, {kDLCPU, 0}, part->ndim, part->dtype, part->shape, NULL, 0};
        named[count] = (tenon_named_tensor){part->name, &tensors[count]};
    }
    return count;
}

/* First rows of the images in an output. */
static bool count_output(const tn_run_job *job, const tn_run_setup *setup, size_t output, tenon_error *error)
{
    const tn_named *n = job->named;
    const size_t integers = n->num_parts - n->num_inputs;
    /* Also of no image at all it is told how many rows one would have. */
    const int64_t images = n->grids || integers > 0 || job->images > 0 ? job->images : 1;
    tenon_call call = setup->call;
    tenon_named_tensor *named = calloc(integers + 1, sizeof *named);
    DLTensor *tensors = calloc(integers + 1, sizeof *tensors);
    n->made[output] = calloc((size_t)images + 2, sizeof *n->made[output]);
    int64_t shape[] = {job->images, n->columns};
    DLTensor grids = {n->grids, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, shape, NULL, 0};
    bool done = n->made[output] && named && tensors;
    if (!done) {
        tn_error(error, "out of memory");
    } else {
        tenon_error reason;
        if (n->grids) call.grids = &grids;
        call.inputs = named;
        call.num_inputs = all_integers(n, named, tensors);
        done = tenon_adapter_output_offsets(setup->adapter, (int64_t)output, &call, images, n->parts[0].shape[1],
                                            n->made[output], &reason) == TENON_OK;
        if (!done) tn_error(error, "%s: %.3000s", job->paths[TN_FEATURES], reason.message);
    }
    free(named);
    free(tensors);
    return done;
}

static bool take_outputs(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    tn_named *n = job->named;
    const size_t count = setup->ports.num_outputs;
    const bool is_file = job->paths[TN_TOKENS] && !job->is_stream[TN_TOKENS];
    for (size_t i = 0; i < count; i++)
        if (!count_output(job, setup, i, error)) return false;
    n->is_stacked = true;
    for (int64_t i = 1; n->grids && i < job->images; i++)
        n->is_stacked = n->is_stacked && n->made[0][i + 1] - n->made[0][i] == n->made[0][1];
    n->is_stacked = n->is_stacked && !(n->grids && job->is_one_image);
    job->tokens = n->made[0][job->images];
    if (job->paths[TN_ATTENTION])
        return tn_error(error,
                        "--attention: %s has grids or further tensors, beside which no pooling weights are written",
                        job->paths[TN_FEATURES]);
    const bool several = count > 1 || !n->is_stacked;
    if (several && is_file && !tn_paths_has_suffix(job->paths[TN_TOKENS], ".safetensors"))
        return tn_error(error, "-o %s: %s is written beside the tokens, which takes a .safetensors file",
                        job->paths[TN_TOKENS], count > 1 ? setup->ports.outputs[1].name : "token_counts");
    if (count > 1 && job->is_stream[TN_TOKENS])
        return tn_error(error, "-o -: several outputs take a .safetensors file, not standard output");
    return true;
}

void tn_named_note_ignored(const tn_run_setup *setup, const char *features, const json_t *names)
{
    char text[512];
    if (!setup->notes || setup->tensor || tn_shards_text(names, text, sizeof text) == 0) return;
    tn_note("%s: tensors that a connector of type %s does not take are ignored: %s", features,
            tenon_config_type(tenon_adapter_config(setup->adapter)), text);
}

bool tn_named_open(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    const tn_ports *ports = &setup->ports;
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    job->named = calloc(1, sizeof *job->named);
    if (!job->named) return tn_error(error, "out of memory");
    job->named->parts = calloc(ports->num_inputs + ports->num_integers, sizeof *job->named->parts);
    job->named->num_outputs = ports->num_outputs;
    job->named->made = calloc(ports->num_outputs, sizeof *job->named->made);
    if (!job->named->parts || !job->named->made) return tn_error(error, "out of memory");
    if (tenon_file_get_tensor(job->inputs[TN_FEATURES], job->tensors[TN_FEATURES], &tensor, error) != TENON_OK ||
        !tn_job_check_features(setup, job->paths[TN_FEATURES], &tensor, error))
        return false;
    job->kind = tn_job_kind(job->inputs[TN_FEATURES], &tensor);
    job->dtype = tensor.dtype;
    job->is_one_image = tensor.ndim == 2;
    return read_grids(job, setup, error) && take_parts(job, setup, error) && take_masks(job, setup, error) &&
           take_outputs(job, setup, error);
}

void tn_named_free(tn_named *named)
{
    if (!named) return;
    for (size_t i = 0; named->made && i < named->num_outputs; i++)
        free(named->made[i]);
    free(named->made);
    for (size_t i = 0; named->parts && i < named->num_parts; i++)
        free(named->parts[i].integers);
    free(named->parts);
    free(named->grids);
    free(named->first);
    free(named->patch);
    free(named->frame);
    free(named);
}
