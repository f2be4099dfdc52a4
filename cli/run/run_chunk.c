/* SPDX-License-Identifier: MIT */
/* A chunk of images: its forward, and what in it is not finite. Those who read and write a chunk look at its values
 * while these are in the cache; only where something is not finite is it looked for, image by image, here. */
#include "report.h"
#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of image `at` of the chunk on. */
static void *part_at(const tn_run_chunk *chunk, tn_role role, int64_t at)
{
    char *data = chunk->parts[role].data;
    return data ? data + chunk->job->bytes[role] * (size_t)at : NULL;
}

/* ---- forward ---- */

static DLTensor tensor_of(void *data, DLDataType dtype, int ndim, int64_t *shape)
{
    return (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = ndim, .dtype = dtype, .shape = shape};
}

bool tn_chunk_forward(const tn_run_setup *setup, const tn_run_chunk *chunk, const tn_chunk_target *to,
                      tn_buffer *workspace, tenon_error *error)
{
    const tn_run_job *job = chunk->job;
    const DLDataType byte = {kDLUInt, 8, 1}, f32 = {kDLFloat, 32, 1};
    int64_t x_shape[] = {to->count, job->tokens_in, setup->in_dim};
    int64_t y_shape[] = {to->count, job->tokens_out, setup->out_dim};
    int64_t mask_shape[] = {to->count, job->tokens_in - setup->prefix_tokens};
    int64_t attention_shape[] = {to->count, job->tokens_out, setup->heads, setup->window_area};
    DLTensor x = tensor_of(part_at(chunk, TN_FEATURES, to->at), job->dtype, 3, x_shape);
    DLTensor y = tensor_of(to->tokens, tenon_dtype_to_dlpack(to->dtype), 3, y_shape);
    DLTensor frame_mask = tensor_of(part_at(chunk, TN_FRAME_MASK, to->at), byte, 1, mask_shape);
    DLTensor patch_mask = tensor_of(part_at(chunk, TN_PATCH_MASK, to->at), byte, 2, mask_shape);
    DLTensor attention = tensor_of(part_at(chunk, TN_ATTENTION, to->at), f32, 4, attention_shape);
    tenon_call call = setup->call;
    size_t bytes;
    if (job->paths[TN_FRAME_MASK]) call.frame_mask = &frame_mask;
    if (job->paths[TN_PATCH_MASK]) call.patch_mask = &patch_mask;
    if (job->paths[TN_ATTENTION] && !to->is_check) call.attention = &attention;
    if (to->is_check) {
        call.executor = NULL;
        call.threads = 1;
    }
    if (tenon_adapter_workspace_size(setup->adapter, job->tokens_in, &call, &bytes, error) != TENON_OK) return false;
    if (!tn_buffer_grow(workspace, bytes, error)) return false;
    tenon_workspace given = {workspace->data, workspace->size};
    return tenon_adapter_forward(setup->adapter, &x, &y, &call, &given, error) == TENON_OK;
}

/* ---- what is not finite ---- */

const char *tn_finding_name(tn_finding finding)
{
    static const char *const names[TN_FINDINGS] = {"features", "tokens", "overflow"};
    return names[finding];
}

static int64_t square_root(int64_t count)
{
    int64_t root = (int64_t)sqrt((double)count);
    while (root > 0 && root > count / root)
        root--;
    while (root + 1 <= count / (root + 1))
        root++;
    return root;
}

/* Patches of windows that the grid cuts off are left out where the config says "drop". */
static void mark_dropped(const tn_run_setup *setup, int64_t patches, unsigned char *is_read)
{
    const int64_t window = setup->drop_window;
    const bool is_square = setup->call.grid_height == TENON_UNSET;
    const int64_t height = is_square ? square_root(patches) : setup->call.grid_height;
    const int64_t width = patches / height;
    for (int64_t p = 0; p < patches; p++)
        if (p / width >= height - height % window || p % width >= width - width % window) is_read[p] = 0;
}

/* is_read [tokens_in]: the rows of an image's features that a token reads. */
static void mark_read(const tn_run_setup *setup, const tn_run_chunk *chunk, int64_t at, unsigned char *is_read)
{
    const int64_t patches = chunk->job->tokens_in - setup->prefix_tokens;
    const unsigned char *frame = part_at(chunk, TN_FRAME_MASK, at), *mask = part_at(chunk, TN_PATCH_MASK, at);
    const bool has_frame = chunk->job->paths[TN_FRAME_MASK], has_mask = chunk->job->paths[TN_PATCH_MASK];
    memset(is_read, 0, (size_t)chunk->job->tokens_in);
    if (has_frame && !*frame) return;
    is_read += setup->prefix_tokens;
    for (int64_t p = 0; p < patches; p++)
        is_read[p] = !has_mask || mask[p] != 0;
    if (setup->drop_window > 0) mark_dropped(setup, patches, is_read);
}

/* The values of one image, from image `at` of the chunk. */
static tn_value_rows rows_of(const tn_run_setup *setup, const tn_run_chunk *chunk, tn_role role, int64_t at)
{
    const tn_run_job *job = chunk->job;
    const bool is_features = role == TN_FEATURES;
    return (tn_value_rows){.data = part_at(chunk, role, at),
                           .dtype = is_features ? job->dtype : tenon_dtype_to_dlpack(setup->dtype),
                           .file = job->number,
                           .first = chunk->first + at,
                           .images = 1,
                           .tokens = is_features ? job->tokens_in : job->tokens_out,
                           .width = is_features ? setup->in_dim : setup->out_dim};
}

bool tn_chunk_check_features(const tn_run_setup *setup, const tn_run_chunk *chunk, tenon_error *error)
{
    tn_run_job *job = chunk->job;
    tn_nonfinite *found = &job->found[TN_FEATURES_NOT_FINITE];
    unsigned char *is_read = malloc((size_t)job->tokens_in);
    if (!is_read) return tn_error(error, "out of memory");
    for (int64_t at = 0; at < chunk->count; at++) {
        const tn_value_rows rows = rows_of(setup, chunk, TN_FEATURES, at);
        if (tn_all_finite(rows.data, rows.dtype, job->bytes[TN_FEATURES])) continue;
        mark_read(setup, chunk, at, is_read);
        tn_nonfinite_find(found, &rows, is_read);
    }
    free(is_read);
    if (!setup->check_finite || found->count == 0) return true;
    return tn_error(error, "%s: in the features, %s; correct them, mask the patch, or omit --check-finite",
                    job->paths[TN_FEATURES], tn_nonfinite_text(found));
}

/* Computes the tokens of an image once more, in f32, which tells what did not fit their dtype from what was not finite
 * before. */
static bool check_narrow_tokens(const tn_run_setup *setup, const tn_run_chunk *chunk, int64_t at,
                                tn_chunk_memory *memory, tenon_error *error)
{
    tn_run_job *job = chunk->job;
    tn_value_rows rows = rows_of(setup, chunk, TN_TOKENS, at);
    size_t bytes;
    if (__builtin_mul_overflow(job->bytes[TN_TOKENS], sizeof(float) / tenon_dtype_size(setup->dtype), &bytes) ||
        !tn_buffer_grow(&memory->tokens, bytes, error))
        return tn_error(error, "%s: no memory to find out which of its tokens overflow", job->paths[TN_FEATURES]);
    const tn_chunk_target to = {at, 1, memory->tokens.data, TENON_F32, true};
    if (!tn_chunk_forward(setup, chunk, &to, &memory->workspace, error)) return false;
    tn_nonfinite_find_overflow(&job->found[TN_TOKENS_OVERFLOW], &rows, memory->tokens.data);
    rows.data = memory->tokens.data;
    rows.dtype = tenon_dtype_to_dlpack(TENON_F32);
    tn_nonfinite_find(&job->found[TN_TOKENS_NOT_FINITE], &rows, NULL);
    return true;
}

static bool refuse_tokens(const tn_run_setup *setup, const tn_run_job *job, tenon_error *error)
{
    const tn_nonfinite *tokens = &job->found[TN_TOKENS_NOT_FINITE], *overflow = &job->found[TN_TOKENS_OVERFLOW];
    if (setup->check_finite && tokens->count > 0)
        return tn_error(
            error,
            "%s: in its tokens, %s, though its features are finite: the weights are not, or too large; omit "
            "--check-finite to write them all the same",
            job->paths[TN_FEATURES], tn_nonfinite_text(tokens));
    if (setup->check_finite && overflow->count > 0)
        return tn_error(error, "%s: in its tokens, %s in %s and finite in f32; use --dtype f32, or omit --check-finite",
                        job->paths[TN_FEATURES], tn_nonfinite_text(overflow), tenon_dtype_name(setup->dtype));
    return true;
}

bool tn_chunk_check_tokens(const tn_run_setup *setup, const tn_run_chunk *chunk, tn_chunk_memory *memory,
                           tenon_error *error)
{
    tn_run_job *job = chunk->job;
    const size_t bytes = job->bytes[TN_TOKENS];
    const DLDataType dtype = tenon_dtype_to_dlpack(setup->dtype);
    for (int64_t at = 0; at < chunk->count; at++) {
        const tn_value_rows rows = rows_of(setup, chunk, TN_TOKENS, at);
        if (tn_all_finite(rows.data, dtype, bytes)) continue;
        if (setup->dtype == TENON_F32)
            tn_nonfinite_find(&job->found[TN_TOKENS_NOT_FINITE], &rows, NULL);
        else if (!check_narrow_tokens(setup, chunk, at, memory, error))
            return false;
    }
    return refuse_tokens(setup, job, error);
}
