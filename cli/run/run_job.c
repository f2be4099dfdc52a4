/* SPDX-License-Identifier: MIT */
/* One features file: opened, and everything checked that headers can tell, before anything is computed or written. */
#include "report.h"
#include "run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *tn_role_name(tn_role role)
{
    static const char *const names[TN_ROLES] = {"features", "frame_mask", "patch_mask", "tokens", "attention"};
    return names[role];
}

const char *tn_role_option(tn_role role)
{
    static const char *const names[TN_ROLES] = {"FEATURES", "--frame-mask", "--patch-mask", "-o", "--attention"};
    return names[role];
}

bool tn_check_kinds(const tn_run_setup *setup, const char *features, const double kinds[TN_KINDS], tenon_error *error)
{
    if (setup->tensor && kinds[TN_KIND_SAFETENSORS] == 0)
        return tn_error(error,
                        "--tensor %s: %s is npy, whose one array has no name; omit it, or give .safetensors features",
                        setup->tensor, features);
    if (setup->npy_bfloat16 && kinds[TN_KIND_NPY_BF16] == 0)
        return tn_error(error, "--npy-bf16: %s holds no npy array of uint16 to read as bfloat16; omit it", features);
    return true;
}

static tenon_file_options file_options(const tn_run_setup *setup, tn_role role)
{
    tenon_file_options options;
    tenon_file_options_init(&options);
    options.npy_bfloat16 = role == TN_FEATURES && setup->npy_bfloat16;
    return options;
}

bool tn_job_open_file(const tn_run_setup *setup, tn_role role, const char *path, tenon_file **file, tenon_error *error)
{
    const tenon_file_options options = file_options(setup, role);
    return tenon_file_open(path, &options, file, error) == TENON_OK;
}

static bool open_stream(const tn_run_setup *setup, const char *name, tenon_file **file, tenon_error *error)
{
    const tenon_file_options options = file_options(setup, TN_FEATURES);
    return tenon_file_open_stream(STDIN_FILENO, name, &options, file, error) == TENON_OK;
}

static bool is_float(DLDataType dtype)
{
    return dtype.code == kDLFloat || dtype.code == kDLBfloat;
}

/* The only float tensor of a file. */
static bool find_only_float(const tn_run_setup *setup, const char *path, const tenon_file *file, int64_t *index,
                            tenon_error *error)
{
    char names[256] = "";
    int64_t found = 0;
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(file, i, &tensor, error) != TENON_OK) return false;
        if (!is_float(tensor.dtype)) continue;
        size_t used = strlen(names);
        if (found < 4) snprintf(names + used, sizeof names - used, found ? ", %.48s" : "%.48s", tensor.name);
        if (found++ == 0) *index = i;
    }
    if (found == 1) return true;
    if (found == 0)
        return tn_error(error, "%s: has no tensor of floating-point numbers to take as %s", path,
                        setup->reads_targets ? "targets" : "features");
    return tn_error(error, "%s: has %" PRId64 " tensors of floating-point numbers (%s%s); choose one with --%s NAME",
                    path, found, names, found > 4 ? ", ..." : "", setup->reads_targets ? "target-tensor" : "tensor");
}

bool tn_job_find_tensor(const tn_run_setup *setup, tn_role role, const char *path, const tenon_file *file,
                        int64_t *index, tenon_error *error)
{
    bool is_npy = !strcmp(tenon_file_kind(file), "npy");
    *index = 0;
    if (is_npy || role == TN_ATTENTION) return true;
    if (role == TN_TOKENS) { /* others may lie beside it */
        (void)!tenon_file_find_tensor(file, tn_role_name(role), index, NULL);
        return true;
    }
    if (role != TN_FEATURES) return tn_error(error, "%s: is %s; a mask is an npy file", path, tenon_file_kind(file));
    const char *usual = setup->reads_targets ? "tokens" : "features";
    if (!setup->tensor && tenon_file_find_tensor(file, usual, index, NULL) == TENON_OK) return true;
    if (!setup->tensor) return find_only_float(setup, path, file, index, error);
    return tenon_file_find_tensor(file, setup->tensor, index, error) == TENON_OK;
}

static bool check_feature_dtype(const char *path, const tenon_file_tensor *tensor, tenon_error *error)
{
    if (is_float(tensor->dtype) && (tensor->dtype.bits == 32 || tensor->dtype.bits == 16)) return true;
    bool is_u16 = tensor->dtype.code == kDLUInt && tensor->dtype.bits == 16;
    return tn_error(error, "%s: features are %s; expected f32, bf16, f16, or f64, which is read as f32; %s", path,
                    tn_dtype_text(tensor->dtype),
                    is_u16 ? "if these are bfloat16 bits, pass --npy-bf16"
                           : "convert them (NumPy: features.astype(\"float32\"))");
}

static bool check_feature_shape(const tn_run_setup *setup, const char *path, const tenon_file_tensor *tensor,
                                tenon_error *error)
{
    const char *shape = tn_shape_text(tensor->ndim, tensor->shape);
    if (tensor->ndim != 2 && tensor->ndim != 3)
        return tn_error(
            error, "%s: has %d axes %s; expected features of (images, tokens, %" PRId64 ") or (tokens, %" PRId64 ")%s",
            path, tensor->ndim, shape, setup->in_dim, setup->in_dim,
            tensor->ndim == 4 ? ": pixels go through the vision encoder first, clips of frames are folded "
                                "into (clips x frames, tokens, width)"
                              : "");
    int64_t width = tensor->shape[tensor->ndim - 1];
    if (width == setup->in_dim) return true;
    return tn_error(error,
                    "%s: features %s have width %" PRId64 ", but %s takes width %" PRId64
                    " (in_dim); use features of the encoder it was made for",
                    path, shape, width, setup->model, setup->in_dim);
}

bool tn_job_check_features(const tn_run_setup *setup, const char *path, const tenon_file_tensor *tensor,
                           tenon_error *error)
{
    return check_feature_shape(setup, path, tensor, error) && check_feature_dtype(path, tensor, error);
}

tn_kind tn_job_kind(const tenon_file *file, const tenon_file_tensor *features)
{
    if (strcmp(tenon_file_kind(file), "npy") != 0) return TN_KIND_SAFETENSORS;
    return features->dtype.code == kDLBfloat ? TN_KIND_NPY_BF16 : TN_KIND_NPY;
}

static bool take_features(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    const char *path = job->paths[TN_FEATURES];
    tenon_file_tensor tensor;
    tenon_error reason;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(job->inputs[TN_FEATURES], job->tensors[TN_FEATURES], &tensor, error) != TENON_OK ||
        !tn_job_check_features(setup, path, &tensor, error))
        return false;
    job->dtype = tensor.dtype;
    job->kind = tn_job_kind(job->inputs[TN_FEATURES], &tensor);
    job->is_one_image = tensor.ndim == 2;
    job->images = job->is_one_image ? 1 : tensor.shape[0];
    job->tokens_in = tensor.shape[tensor.ndim - 2];
    if (tenon_adapter_output_num_tokens(setup->adapter, &setup->call, job->tokens_in, &job->tokens_out, &reason) ==
        TENON_OK)
        return true;
    return tn_error(error, "%s: %.3000s", path, reason.message);
}

static bool check_mask_dtype(const char *path, const tenon_file_tensor *tensor, tenon_error *error)
{
    int code = tensor->dtype.code;
    if (tensor->dtype.bits == 8 && (code == kDLInt || code == kDLUInt || code == TN_DLPACK_BOOL)) return true;
    return tn_error(error, "%s: the mask is %s; expected bool, int8 or uint8 (NumPy: mask.astype(bool))", path,
                    tn_dtype_text(tensor->dtype));
}

/* (images) or a clip's (clips, frames) flattened. */
static bool take_frame_mask(tn_run_job *job, const tenon_file_tensor *mask, tenon_error *error)
{
    bool fits = mask->ndim == 1 || mask->ndim == 2;
    int64_t frames = 0;
    job->clip = fits && mask->ndim == 2 ? mask->shape[1] : 1;
    fits = fits && !__builtin_mul_overflow(mask->shape[0], job->clip, &frames) && frames == job->images;
    if (fits) return true;
    return tn_error(
        error,
        "%s: the frame mask has shape %s; expected (%" PRId64 "), one value for each image of %s, or (clips, "
        "frames) with that product",
        job->paths[TN_FRAME_MASK], tn_shape_text(mask->ndim, mask->shape), job->images, job->paths[TN_FEATURES]);
}

static bool take_patch_mask(tn_run_job *job, int64_t prefix_tokens, const tenon_file_tensor *mask, tenon_error *error)
{
    int64_t patches = job->tokens_in - prefix_tokens;
    bool is_row = mask->ndim == 1 && job->is_one_image && mask->shape[0] == patches;
    if (is_row || (mask->ndim == 2 && mask->shape[0] == job->images && mask->shape[1] == patches)) return true;
    return tn_error(error,
                    "%s: the patch mask has shape %s; expected (%" PRId64 ", %" PRId64
                    "), a value for each patch of each image of %s without its %" PRId64 " prefix tokens",
                    job->paths[TN_PATCH_MASK], tn_shape_text(mask->ndim, mask->shape), job->images, patches,
                    job->paths[TN_FEATURES], prefix_tokens);
}

static bool take_mask(tn_run_job *job, const tn_run_setup *setup, tn_role role, tenon_error *error)
{
    tenon_file_tensor mask;
    tenon_file_tensor_init(&mask);
    if (!job->inputs[role]) return true;
    if (tenon_file_get_tensor(job->inputs[role], job->tensors[role], &mask, error) != TENON_OK ||
        !check_mask_dtype(job->paths[role], &mask, error))
        return false;
    if (role == TN_FRAME_MASK) return take_frame_mask(job, &mask, error);
    return take_patch_mask(job, setup->prefix_tokens, &mask, error);
}

/* Can the outputs be written where they belong? */
static bool check_outputs(const tn_run_job *job, tenon_error *error)
{
    for (int output = TN_TOKENS; output < TN_ROLES; output++) {
        const char *path = job->paths[output];
        if (!path || job->is_stream[output]) continue;
        tenon_writer *writer;
        if (tenon_writer_new(path, &writer, error) != TENON_OK) return false;
        tenon_writer_free(writer);
    }
    return true;
}

static bool count_bytes(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    size_t attention, *bytes = job->bytes;
    bool past = false;
    memset(bytes, 0, sizeof job->bytes);
    past |= __builtin_mul_overflow((size_t)job->tokens_in, (size_t)setup->in_dim, &bytes[TN_FEATURES]);
    past |= __builtin_mul_overflow(bytes[TN_FEATURES], job->dtype.bits / 8u, &bytes[TN_FEATURES]);
    past |= __builtin_mul_overflow((size_t)job->tokens_out, (size_t)setup->out_dim, &bytes[TN_TOKENS]);
    past |= __builtin_mul_overflow(bytes[TN_TOKENS], tenon_dtype_size(setup->dtype), &bytes[TN_TOKENS]);
    past |= __builtin_mul_overflow((size_t)job->tokens_out, (size_t)setup->heads, &attention);
    past |= __builtin_mul_overflow(attention, (size_t)setup->window_area, &attention);
    past |= __builtin_mul_overflow(attention, sizeof(float), &attention);
    if (job->paths[TN_ATTENTION]) bytes[TN_ATTENTION] = attention;
    if (job->paths[TN_FRAME_MASK]) bytes[TN_FRAME_MASK] = 1;
    if (job->paths[TN_PATCH_MASK]) bytes[TN_PATCH_MASK] = (size_t)(job->tokens_in - setup->prefix_tokens);
    past |= __builtin_mul_overflow(job->images, job->tokens_out, &job->tokens);
    if (!past) return true;
    return tn_error(error, "%s: one image of it, or its tokens, is larger than this machine can address",
                    job->paths[TN_FEATURES]);
}

static bool open_inputs(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    for (int role = 0; role < TN_INPUT_ROLES; role++) {
        const char *path = job->paths[role];
        if (!path) continue;
        tn_paths_stamp(path, job->stamps[role]);
        if (!(job->is_stream[role] ? open_stream(setup, path, &job->inputs[role], error)
                                   : tn_job_open_file(setup, (tn_role)role, path, &job->inputs[role], error)))
            return false;
        if (!tn_job_find_tensor(setup, (tn_role)role, path, job->inputs[role], &job->tensors[role], error))
            return false;
    }
    return true;
}

static bool take_file(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    job->is_named = tn_named_is_needed(job, setup);
    if (job->is_named) return tn_named_open(job, setup, error);
    return take_features(job, setup, error) && take_mask(job, setup, TN_FRAME_MASK, error) &&
           take_mask(job, setup, TN_PATCH_MASK, error) && count_bytes(job, setup, error);
}

bool tn_job_open(tn_run_job *job, const tn_run_setup *setup, tenon_error *error)
{
    if (job->inputs[TN_FEATURES]) return true;
    if (open_inputs(job, setup, error) && take_file(job, setup, error) && check_outputs(job, error)) return true;
    tn_job_close(job);
    return false;
}

void tn_job_close(tn_run_job *job)
{
    for (int role = 0; role < TN_INPUT_ROLES; role++) {
        if (job->inputs[role]) tenon_file_close(job->inputs[role]);
        job->inputs[role] = NULL;
    }
    tn_named_free(job->named);
    job->named = NULL;
}

void tn_job_free(tn_run_job *job)
{
    for (int role = 0; role < TN_ROLES; role++)
        free(job->paths[role]);
    free(job->problem);
}
