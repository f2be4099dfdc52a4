/* SPDX-License-Identifier: MIT */
/* A run of a folder on its way, shared by run_folder.c, run_entries.c (what the manifest knows of a shard) and
 * run_strays.c (what else lies in the folders). */
#ifndef TN_CLI_PLAN_H
#define TN_CLI_PLAN_H

#include "lock.h"
#include "manifest.h"
#include "run.h"

typedef struct tn_run_plan {
    tn_run_setup *setup;
    char *const *folders; /* [TN_ROLES] */
    bool force;
    bool made[TN_ROLES]; /* folders that this run made */
    tn_lock *lock;
    bool had_manifest;
    tn_manifest *manifest;
    char **shards; /* names in the features' folder */
    size_t num_shards;
    tn_run_job *jobs; /* of this rank, what is left to do */
    size_t num_jobs;
    size_t num_done; /* of the jobs */
    int64_t images;  /* of the jobs */
    double kinds[TN_KINDS];
    json_t *bad;     /* {shard: why it could not be done}; of this rank */
    json_t *ignored; /* {tensor: true}, which nobody reads; of this rank */
    json_t *changed; /* {shard: true}, whose files are others than those of its tokens; of this rank */
} tn_run_plan;

/* ---- run_entries.c ---- */

/* What the manifest records of the options. NULL: no memory. */
json_t *tn_plan_options(const tn_run_plan *plan);

/* Enters a job that is done; `context` is the plan. */
bool tn_plan_record(void *context, const tn_run_job *job, tenon_error *error);

typedef enum tn_shard_state {
    TN_SHARD_NEW,
    TN_SHARD_FINISHED,
    TN_SHARD_CHANGED, /* finished once, with other features or masks */
    TN_SHARD_BAD      /* its tokens are not those that were written; the error says so */
} tn_shard_state;
tn_shard_state tn_plan_state(const tn_run_plan *plan, const tn_run_job *job, tenon_error *error);

/* Tells again what is not finite in a finished shard: the run that did it may have been killed before it said so. */
void tn_plan_add_findings(const tn_run_plan *plan, const tn_run_job *job, tn_folder_result *result);

/* ---- run_strays.c ---- */

/* Removes the temporary files of killed runs, and lists by name which files are passed over and which tokens have no
 * features. For the rank that holds the lock. */
bool tn_plan_look_around(const tn_run_plan *plan, json_t *lists, tenon_error *error);
void tn_plan_print_notes(const tn_run_plan *plan, const json_t *lists);

#endif
