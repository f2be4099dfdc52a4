/* SPDX-License-Identifier: MIT */
/* The files that a run writes: begun, filled chunk by chunk, and put in place when the job is complete. */
#include "run.h"

#include "report.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What made the tokens, beside them in the file: a reader can tell tokens of other weights. */
bool tn_output_metadata(const tn_run_setup *setup, tenon_writer *writer, tenon_error *error)
{
    char grid[64] = "square";
    if (setup->call.grid_height != TENON_UNSET)
        snprintf(grid, sizeof grid, "%lldx%lld", (long long)setup->call.grid_height, (long long)setup->call.grid_width);
    const char *const pairs[][2] = {{"tenon.made_by", "tenon run " TENON_VERSION_STRING},
                                    {"tenon.connector", tenon_config_type(tenon_adapter_config(setup->adapter))},
                                    {"tenon.weights", setup->weights},
                                    {"tenon.grid", grid}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (tenon_writer_set_metadata(writer, pairs[i][0], pairs[i][1], error) != TENON_OK) return false;
    return true;
}

/* Begins one output: tokens (images, tokens_out, out_dim), without the first axis for one image that came without, or
 * attention (images, tokens_out, heads, window^2). */
static bool begin_output(const tn_run_setup *setup, const tn_run_job *job, tn_role role, tn_run_output *output,
                         tenon_error *error)
{
    int64_t tokens_shape[] = {job->images, job->tokens_out, setup->out_dim};
    int64_t attention_shape[] = {job->images, job->tokens_out, setup->heads, setup->window_area};
    bool is_tokens = role == TN_TOKENS;
    int skip = is_tokens && job->is_one_image ? 1 : 0;
    int ndim = is_tokens ? 3 - skip : 4;
    const int64_t *shape = is_tokens ? tokens_shape + skip : attention_shape;
    DLDataType dtype = tenon_dtype_to_dlpack(is_tokens ? setup->dtype : TENON_F32);
    const char *path = job->paths[role];
    /* What comes through a pipe goes on in the same format. */
    const char *format = job->kind == TN_KIND_SAFETENSORS ? "safetensors" : "npy";
    const tenon_status opened = job->is_stream[role]
                                    ? tenon_writer_new_stream(STDOUT_FILENO, path, format, &output->writer, error)
                                    : tenon_writer_new(path, &output->writer, error);
    const bool is_npy = job->is_stream[role] ? !strcmp(format, "npy") : !tn_paths_has_suffix(path, ".safetensors");
    if (opened != TENON_OK ||
        tenon_writer_add(output->writer, tn_role_name(role), dtype, ndim, shape, NULL, error) != TENON_OK)
        return false;
    if (!is_npy && !tn_output_metadata(setup, output->writer, error)) return false;
    if (setup->direct && tenon_writer_set_direct(output->writer, error) != TENON_OK) return false;
    if (setup->hashes && !(output->hasher = tn_hasher_new(ndim, shape)))
        return tn_error(error, "out of memory while hashing %s", path);
    return true;
}

bool tn_outputs_begin(const tn_run_setup *setup, tn_run_job *job, tn_run_outputs *outputs, tenon_error *error)
{
    *outputs = (tn_run_outputs){.job = job};
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (job->paths[role] && !begin_output(setup, job, (tn_role)role, &outputs->of[role], error)) return false;
    return true;
}

/* Piece by piece, so that what looks at the bytes finds them in the cache: the check, the hash, the system's copy. Past
 * the file cache nothing is copied, and the disk is given as much at once as there is. */
bool tn_outputs_write(tn_run_outputs *outputs, const tn_run_setup *setup, tn_role role, const void *data, size_t bytes,
                      bool *all_finite, tenon_error *error)
{
    enum { PIECE = 1 << 20 };
    const DLDataType dtype = tenon_dtype_to_dlpack(setup->dtype);
    tn_run_output *output = &outputs->of[role];
    *all_finite = true;
    for (size_t done = 0, size; done < bytes; done += size) {
        const char *piece = (const char *)data + done;
        size = bytes - done < PIECE ? bytes - done : PIECE;
        if (role == TN_TOKENS && !tn_all_finite(piece, dtype, size)) *all_finite = false;
        tn_hasher_add(output->hasher, piece, size);
        if (!setup->direct && tenon_writer_write(output->writer, 0, piece, size, error) != TENON_OK) return false;
    }
    return !setup->direct || tenon_writer_write(output->writer, 0, data, bytes, error) == TENON_OK;
}

static bool commit_output(tn_run_job *job, tn_role role, tn_run_output *output, tenon_error *error)
{
    tn_hasher_finish(output->hasher, job->hashes[role]);
    output->hasher = NULL;
    if (tenon_writer_commit(output->writer, error) != TENON_OK) return false;
    tn_paths_stamp(job->paths[role], job->stamps[role]);
    return true;
}

bool tn_outputs_commit(const tn_run_setup *setup, tn_run_outputs *outputs, tenon_error *error)
{
    tn_run_job *job = outputs->job;
    bool good = true;
    /* The tokens last: once they have their name, the job is complete. */
    for (int role = TN_ROLES - 1; good && role >= TN_TOKENS; role--)
        if (job->paths[role]) good = commit_output(job, (tn_role)role, &outputs->of[role], error);
    if (good && setup->finished) good = setup->finished(setup->context, job, error);
    return good;
}

void tn_outputs_free(tn_run_outputs *outputs)
{
    for (int role = 0; role < TN_ROLES; role++) {
        char unused[TN_HASH_SIZE];
        tenon_writer_free(outputs->of[role].writer);
        tn_hasher_finish(outputs->of[role].hasher, unused);
    }
    *outputs = (tn_run_outputs){.job = NULL};
}
