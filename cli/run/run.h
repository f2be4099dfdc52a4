/* SPDX-License-Identifier: MIT */
/* The parts of `tenon run`: run.c reads the options, run_job.c opens and checks one features file, run_pipeline.c moves
 * files through the adapter chunk by chunk (run_chunk.c), run_output.c writes its outputs, run_folder.c plans a folder
 * of shards around manifest.c, run_report.c says what was done. */
#ifndef TN_CLI_RUN_H
#define TN_CLI_RUN_H

#include "buffer.h"
#include "finite.h"
#include "hash.h"
#include "named.h"
#include "names.h"
#include "options.h"
#include "paths.h"
#include "progress.h"
#include "tenon/tenon.h"

/* The files of one job. The first three are read, the last two written; a path is NULL where there is none. */
typedef enum tn_role { TN_FEATURES, TN_FRAME_MASK, TN_PATCH_MASK, TN_TOKENS, TN_ATTENTION, TN_ROLES } tn_role;
enum { TN_INPUT_ROLES = TN_TOKENS };

/* "features", "frame_mask", ...; and as the command line has it: "FEATURES", "--frame-mask", ... */
const char *tn_role_name(tn_role role);
const char *tn_role_option(tn_role role);

/* How the features of a file are stored, where an option is for one of these alone. */
typedef enum tn_kind { TN_KIND_NPY, TN_KIND_NPY_BF16, TN_KIND_SAFETENSORS, TN_KINDS } tn_kind;

/* Values that are not finite: of features that a token reads, of tokens in f32, and those that are finite in f32 but
 * not in the dtype of the tokens. */
typedef enum tn_finding { TN_FEATURES_NOT_FINITE, TN_TOKENS_NOT_FINITE, TN_TOKENS_OVERFLOW, TN_FINDINGS } tn_finding;

/* "features", "tokens", "overflow" */
const char *tn_finding_name(tn_finding finding);

/* ---- run_job.c ---- */

typedef struct tn_run_setup tn_run_setup;

/* One features file on its way to one tokens file. */
typedef struct tn_run_job {
    char *paths[TN_ROLES];
    bool is_stream[TN_ROLES]; /* standard input, standard output: the path is what sentences call it */
    size_t number;            /* of the features file among those of the run */
    /* filled by tn_job_open */
    tenon_file *inputs[TN_INPUT_ROLES];
    int64_t tensors[TN_INPUT_ROLES]; /* index in the file */
    char stamps[TN_ROLES][TN_STAMP_SIZE];
    char hashes[TN_ROLES][TN_HASH_SIZE]; /* known at the end, where the setup asks for hashes */
    DLDataType dtype;                    /* of the features, as read */
    tn_kind kind;
    bool is_one_image; /* features (tokens, in_dim): the tokens come out without a batch axis too */
    int64_t images;
    int64_t tokens_in;
    int64_t tokens_out;
    int64_t tokens;         /* of all images */
    bool is_named;          /* it has more tensors than the features and their masks */
    tn_named *named;        /* of one that is, while it is open */
    int64_t clip;           /* frames of a row of the frame mask */
    size_t bytes[TN_ROLES]; /* of one image */
    /* filled by the pipeline */
    tn_nonfinite found[TN_FINDINGS];
    char *problem; /* why it could not be done; NULL: it was, or nobody tried */
} tn_run_job;

struct tn_run_setup {
    const tenon_adapter *adapter;
    const char *model;
    const char *tensor; /* of safetensors features; NULL: the only float one */
    bool reads_targets; /* what is read as features are the targets of fit */
    bool npy_bfloat16;
    bool hashes;
    bool direct; /* outputs go past the file cache: the disk is waited for anyway, and the cache is left to features */
    tn_ports ports;    /* of the connector, by name; none where only features are read */
    tenon_call call;   /* window, grid and threads */
    tenon_dtype dtype; /* of the tokens */
    int64_t in_dim;
    int64_t out_dim;
    int64_t prefix_tokens;
    int64_t drop_window; /* patches beyond whole windows of this side are left out; 0: none are */
    bool notes;          /* say on standard error what is not an error */
    bool check_finite;   /* a value that is not finite is an error */
    int64_t heads;       /* of the attention weights, and the patches of a window */
    int64_t window_area;
    char weights[TN_HASH_SIZE];
    tn_progress *progress;
    /* Called on a thread of the pipeline when the files of a job have their names; NULL: no one cares. */
    bool (*finished)(void *context, const tn_run_job *job, tenon_error *error);
    void *context;
};

/* Opens the inputs of job->paths, where they are not open, and checks everything that headers can tell. On failure
 * nothing stays open. */
bool tn_job_open(tn_run_job *job, const tn_run_setup *setup, tenon_error *error);
void tn_job_close(tn_run_job *job);

/* Refuses --tensor and --npy-bf16 where none of the files is of their kind; kinds[k] files are of kind k. */
bool tn_check_kinds(const tn_run_setup *setup, const char *features, const double kinds[TN_KINDS], tenon_error *error);

/* Finds the tensor that holds a role's data: of the features the one called so, or the only float one. */
bool tn_job_find_tensor(const tn_run_setup *setup, tn_role role, const char *path, const tenon_file *file,
                        int64_t *index, tenon_error *error);

/* Opens a file as the role reads it. */
bool tn_job_open_file(const tn_run_setup *setup, tn_role role, const char *path, tenon_file **file, tenon_error *error);

/* Frees the paths and the problem. */
void tn_job_free(tn_run_job *job);

/* Checks the header of the features; how they are stored. */
bool tn_job_check_features(const tn_run_setup *setup, const char *path, const tenon_file_tensor *tensor,
                           tenon_error *error);
tn_kind tn_job_kind(const tenon_file *file, const tenon_file_tensor *features);

/* ---- run_named.c ---- */

/* Does the open file, or its connector, have more tensors than the features? */
bool tn_named_is_needed(const tn_run_job *job, const tn_run_setup *setup);

/* Fills job->named, and what headers tell of the job. */
bool tn_named_open(tn_run_job *job, const tn_run_setup *setup, tenon_error *error);

/* Adds the names of the tensors that nobody reads as keys; says them once, unless --tensor chose one of them. False:
 * out of memory. */
bool tn_named_list_ignored(const tn_run_job *job, const tn_run_setup *setup, json_t *names);
void tn_named_note_ignored(const tn_run_setup *setup, const char *features, const json_t *names);

/* ---- run_chunk.c ---- */

/* Some images of a job, and what goes with them. */
typedef struct tn_run_chunk {
    tn_run_job *job;
    int64_t first, count;      /* images of the job */
    tn_buffer parts[TN_ROLES]; /* [count, elements of one image] */
} tn_run_chunk;

/* What images of a chunk are computed into. */
typedef struct tn_chunk_target {
    int64_t at, count; /* of the chunk's images */
    void *tokens;      /* [count, tokens_out, out_dim] */
    tenon_dtype dtype;
    bool is_check; /* beside the run, by the calling thread alone, without attention */
} tn_chunk_target;

bool tn_chunk_forward(const tn_run_setup *setup, const tn_run_chunk *chunk, const tn_chunk_target *to,
                      tn_buffer *workspace, tenon_error *error);

/* Count what is not finite in the features of the chunk, or in its tokens, where something is; false when that is an
 * error. */
bool tn_chunk_check_features(const tn_run_setup *setup, const tn_run_chunk *chunk, tenon_error *error);

typedef struct tn_chunk_memory {
    tn_buffer tokens, workspace;
} tn_chunk_memory;
bool tn_chunk_check_tokens(const tn_run_setup *setup, const tn_run_chunk *chunk, tn_chunk_memory *memory,
                           tenon_error *error);

/* ---- run_output.c ---- */

typedef struct tn_run_output {
    tenon_writer *writer;
    tn_hasher *hasher;
} tn_run_output;

/* The files that a job writes; all zero where there are none. */
typedef struct tn_run_outputs {
    tn_run_job *job;
    tn_run_output of[TN_ROLES];
} tn_run_outputs;

/* Begins the outputs that job->paths names; *outputs is overwritten and freed by the caller, also after a failure. */
bool tn_outputs_begin(const tn_run_setup *setup, tn_run_job *job, tn_run_outputs *outputs, tenon_error *error);

/* Appends elements to one of them, and says of tokens whether all of them are finite. */
bool tn_outputs_write(tn_run_outputs *outputs, const tn_run_setup *setup, tn_role role, const void *data, size_t bytes,
                      bool *all_finite, tenon_error *error);

/* Waits until they are on the disk, gives them their names, fills the job's hashes and stamps of them and calls
 * setup->finished. */
bool tn_output_metadata(const tn_run_setup *setup, tenon_writer *writer, tenon_error *error);
bool tn_outputs_commit(const tn_run_setup *setup, tn_run_outputs *outputs, tenon_error *error);
void tn_outputs_free(tn_run_outputs *outputs);

/* ---- run_pipeline.c ---- */

typedef struct tn_run_totals {
    int64_t images;
    int64_t tokens;
    double read_seconds; /* each stage's own work, waiting left out; stages overlap */
    double compute_seconds;
    double write_seconds;
    tn_nonfinite found[TN_FINDINGS];
} tn_run_totals;

/* Moves the jobs through the adapter in order. Each job's files appear when it is done. A job that cannot be read or
 * computed gets its `problem`, and the others go on. False, with the reason in *error, when nothing can go on: the disk
 * is full, or a signal came; then the jobs before may be done and the others are not begun. */
bool tn_pipeline_run(const tn_run_setup *setup, tn_run_job *jobs, size_t count, tn_run_totals *totals,
                     tenon_error *error);

/* ---- run_groups.c ---- */

/* Runs one named job; what it adds to the totals. A job that cannot be read or computed gets its `problem`. False, with
 * the reason in *error, when nothing can go on. */
bool tn_named_run(const tn_run_setup *setup, tn_run_job *job, tn_run_totals *totals, tenon_error *error);

/* Runs jobs of either kind, in order; as tn_pipeline_run. */
bool tn_jobs_run(const tn_run_setup *setup, tn_run_job *jobs, size_t count, tn_run_totals *totals, tenon_error *error);

/* ---- run_folder.c ---- */

typedef struct tn_folder_result {
    tn_run_totals totals;
    size_t done;
    size_t skipped;
    size_t num_shards;
    char *files[TN_FINDINGS]; /* the file of totals.found[finding], where there is one */
    json_t *lists;            /* of names: bad_shards {name: reason}, changed_shards, skipped_files, ...; of rank 0 */
} tn_folder_result;

void tn_folder_result_free(tn_folder_result *result);

/* run_join.c: makes each rank's result that of all of them. */
bool tn_join_results(tn_folder_result *result, tenon_error *error);

/* Adds the files that a run of the folder makes: those of the shards, of the manifest and of the lock. `attention` may
 * be NULL. */
bool tn_run_folder_names(tn_names *names, const char *features, const char *tokens, const char *attention,
                         tenon_error *error);

/* Runs every shard of the folders in `folders` (by role; features and tokens at least) that the manifest does not list
 * as finished. A shard that cannot be done is said at once, listed in result->lists, and does not stop the others. */
bool tn_run_folder(tn_run_setup *setup, char *const folders[TN_ROLES], bool force, tn_folder_result *result,
                   tenon_error *error);

/* ---- run_report.c ---- */

typedef struct tn_run_outcome {
    const char *features, *output; /* as the command line has them */
    bool is_output_stream;         /* results go to standard error */
    bool is_folder;
    tn_folder_result result;
    double load_seconds;
    double total_seconds;
} tn_run_outcome;

/* Says what was done; an exit code. */
int tn_run_report(const tn_run_setup *setup, const tn_run_outcome *out, bool json);

#endif
