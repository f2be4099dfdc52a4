/* SPDX-License-Identifier: MIT */
/* A folder of shards: which are finished already, and the others through the pipeline, each recorded in the manifest as
 * soon as its file has its name. A run can be killed at any time and started again. Several ranks share the shards. */
#include "interrupt.h"
#include "json.h"
#include "lock.h"
#include "manifest.h"
#include "ranks.h"
#include "ranks_same.h"
#include "report.h"
#include "run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct plan {
    tn_run_setup *setup;
    char *const *folders; /* [TN_ROLES] */
    bool force;
    bool made[TN_ROLES]; /* folders that this run made */
    tn_lock *lock;
    bool had_manifest;
    tn_manifest *manifest;
    char **shards; /* names in the features' folder */
    size_t num_shards;
    tn_run_job *jobs; /* what is left to do */
    size_t num_jobs;
    size_t num_done; /* of the jobs */
    int64_t images;  /* of the jobs */
    double kinds[TN_KINDS];
} plan;

/* The key of a role in a shard's entry. */
static const char *entry_key(int role)
{
    return role == TN_TOKENS ? "tokens_file" : tn_role_name((tn_role)role);
}

/* ---- the manifest's side ---- */

/* Everything but the weights that decides what the tokens are, bits included: so the CPU level is among it. */
static json_t *describe_options(const plan *p)
{
    const tn_run_setup *setup = p->setup;
    const tenon_call *call = &setup->call;
    json_t *grid = json_null();
    if (call->grid_height != TENON_UNSET) grid = tn_json_pair(call->grid_height, call->grid_width);
    json_t *window = call->pool_window == TENON_UNSET ? json_null() : json_integer(call->pool_window);
    return json_pack("{s:o, s:o, s:o, s:s, s:s, s:o, s:b, s:b, s:b, s:b}", "config",
                     tn_json_config(tenon_adapter_config(setup->adapter)), "window", window, "grid", grid, "dtype",
                     tenon_dtype_name(setup->dtype), "cpu", tenon_adapter_cpu(setup->adapter), "tensor",
                     tn_json_text(setup->tensor), "npy_bf16", setup->npy_bfloat16, "frame_mask",
                     p->folders[TN_FRAME_MASK] != NULL, "patch_mask", p->folders[TN_PATCH_MASK] != NULL, "attention",
                     p->folders[TN_ATTENTION] != NULL);
}

/* What of a shard is not finite; every entry says it, so that --check-finite knows which shards were looked at. */
static json_t *findings_to_json(const tn_run_job *job)
{
    json_t *object = json_object();
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        if (job->found[finding].count > 0)
            json_object_set_new(object, tn_finding_name((tn_finding)finding),
                                tn_nonfinite_to_json(&job->found[finding], NULL));
    return object;
}

static bool record(void *context, const tn_run_job *job, tenon_error *error)
{
    plan *p = context;
    json_t *entry = json_pack("{s:I, s:I}", "images", (json_int_t)job->images, "tokens",
                              (json_int_t)(job->images * job->tokens_out));
    if (entry) json_object_set_new(entry, "nonfinite", findings_to_json(job));
    for (int role = 0; entry && role < TN_ROLES; role++)
        if (job->paths[role])
            json_object_set_new(entry, entry_key(role),
                                json_pack("{s:s, s:s}", "hash", job->hashes[role], "stamp", job->stamps[role]));
    p->num_done++;
    return tn_manifest_add(p->manifest, tn_paths_base(job->paths[TN_FEATURES]), entry, error);
}

/* Is the file what the entry says? An unchanged stamp is believed, anything else is read and hashed. */
static bool same_content(const plan *p, const tn_run_job *job, int role, json_t *entry, bool *same, tenon_error *error)
{
    json_t *known = json_object_get(entry, entry_key(role));
    const char *hash = json_string_value(json_object_get(known, "hash"));
    const char *stamp = json_string_value(json_object_get(known, "stamp"));
    const char *path = job->paths[role];
    char now[TN_STAMP_SIZE];
    char found[TN_HASH_SIZE];
    tenon_file *file;
    int64_t index;
    tn_paths_stamp(path, now);
    *same = hash && stamp && !strcmp(stamp, now);
    if (*same) return true;
    if (!tn_job_open_file(p->setup, (tn_role)role, path, &file, error)) return false;
    bool good = tn_job_find_tensor(p->setup, (tn_role)role, path, file, &index, error) &&
                tn_hash_tensor(file, index, found, error);
    tenon_file_close(file);
    *same = good && hash && !strcmp(hash, found);
    return good;
}

/* Decides whether the shard is finished. A missing output is to be made again; anything else that differs is an error:
 * someone changed it, and which of the two is right is not ours to say. */
static bool check_finished(const plan *p, const tn_run_job *job, bool *finished, tenon_error *error)
{
    json_t *entry = tn_manifest_find(p->manifest, tn_paths_base(job->paths[TN_FEATURES]));
    *finished = false;
    if (!entry) return true;
    /* Done again, it fails as it would have failed with --check-finite from the start. */
    const json_t *nonfinite = json_object_get(entry, "nonfinite");
    if (p->setup->check_finite && (!nonfinite || json_object_size(nonfinite) > 0)) return true;
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (job->paths[role] && !tn_paths_exists(job->paths[role])) return true;
    for (int role = 0; role < TN_ROLES; role++) {
        bool same = true;
        if (job->paths[role] && !same_content(p, job, role, entry, &same, error)) return false;
        if (same) continue;
        return tn_error(error,
                        "%s: is not the file that %s records; use another folder, or --force to redo every shard",
                        job->paths[role], tn_manifest_path(p->manifest));
    }
    *finished = true;
    return true;
}

/* ---- the plan ---- */

/* The files of one shard: the same name in every folder, masks and attention as npy. */
static bool make_paths(const plan *p, const char *shard, tn_run_job *job, tenon_error *error)
{
    char *npy = tn_paths_with_suffix(shard, ".npy");
    char *twin = npy ? tn_paths_join(p->folders[TN_FEATURES], npy) : NULL;
    bool good = twin != NULL;
    bool shares = good && p->folders[TN_ATTENTION] && strcmp(npy, shard) != 0 && tn_paths_exists(twin);
    for (int role = 0; good && role < TN_ROLES; role++) {
        bool keeps_suffix = role == TN_FEATURES || role == TN_TOKENS;
        if (!p->folders[role]) continue;
        job->paths[role] = tn_paths_join(p->folders[role], keeps_suffix ? shard : npy);
        good = job->paths[role] != NULL;
    }
    free(npy);
    free(twin);
    if (!good) return tn_error(error, "out of memory");
    if (!shares) return true;
    return tn_error(error,
                    "%s: its attention weights and those of the .npy shard beside it would have one name; rename it",
                    job->paths[TN_FEATURES]);
}

/* A tokens file that no manifest knows may be someone's work. */
static bool check_not_foreign(const plan *p, const tn_run_job *job, tenon_error *error)
{
    if (p->had_manifest || p->force) return true;
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (job->paths[role] && tn_paths_exists(job->paths[role]))
            return tn_error(error,
                            "%s: exists, and %s has no manifest that says what made it; use another folder, or --force "
                            "to overwrite",
                            job->paths[role], p->folders[TN_TOKENS]);
    return true;
}

/* Opens the headers of this rank's shards, so that a bad one is found before hours of work and not after. Shards are
 * dealt out by their place in the list: no two ranks have one, whatever the ranks know of each other. */
static bool check_shards(plan *p, tenon_error *error)
{
    size_t ranks = (size_t)tn_ranks_count();
    p->jobs = calloc(p->num_shards, sizeof *p->jobs);
    if (!p->jobs) return tn_error(error, "out of memory");
    for (size_t i = (size_t)tn_ranks_index(); i < p->num_shards; i += ranks) {
        tn_run_job *job = &p->jobs[p->num_jobs++];
        job->number = i;
        if (!make_paths(p, p->shards[i], job, error) || !check_not_foreign(p, job, error) ||
            !tn_job_open(job, p->setup, error))
            return false;
        p->images += job->images;
        p->kinds[job->kind]++;
        tn_job_close(job);
    }
    return true;
}

static bool check_kinds(plan *p, tenon_error *error)
{
    tn_ranks_sum_doubles(p->kinds, TN_KINDS);
    return tn_check_kinds(p->setup, p->folders[TN_FEATURES], p->kinds, error);
}

/* What is not finite in a shard that an earlier run has done is told again: that run may have been killed before it
 * said anything. */
static void add_findings(const plan *p, const tn_run_job *job, tn_folder_result *result)
{
    const json_t *entry = tn_manifest_find(p->manifest, tn_paths_base(job->paths[TN_FEATURES]));
    const json_t *nonfinite = json_object_get(entry, "nonfinite");
    for (int finding = 0; finding < TN_FINDINGS; finding++) {
        tn_nonfinite found = tn_nonfinite_from_json(json_object_get(nonfinite, tn_finding_name((tn_finding)finding)));
        found.file = job->number;
        tn_nonfinite_add(&result->totals.found[finding], &found);
    }
}

static bool drop_finished(plan *p, tn_folder_result *result, tenon_error *error)
{
    size_t kept = 0;
    for (size_t i = 0; i < p->num_jobs; i++) {
        bool finished;
        if (!check_finished(p, &p->jobs[i], &finished, error)) return false;
        if (finished) {
            p->images -= p->jobs[i].images;
            add_findings(p, &p->jobs[i], result);
            tn_job_free(&p->jobs[i]);
            memset(&p->jobs[i], 0, sizeof p->jobs[i]);
            result->skipped++;
            continue;
        }
        tn_run_job job = p->jobs[i];
        memset(&p->jobs[i], 0, sizeof p->jobs[i]);
        p->jobs[kept++] = job;
    }
    p->num_jobs = kept;
    return true;
}

static bool make_folder(plan *p, int role, tenon_error *error)
{
    const char *folder = p->folders[role];
    p->made[role] = mkdir(folder, 0777) == 0;
    if (p->made[role] || (errno == EEXIST && tn_paths_is_folder(folder))) return true;
    return tn_error(error, "%s: cannot make the folder: %s", folder, strerror(errno));
}

/* A run that failed before it wrote anything leaves no empty folder; one with files in it stays. */
static void remove_made_folders(const plan *p)
{
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (p->made[role]) rmdir(p->folders[role]);
}

static bool check_inputs(const plan *p, tenon_error *error)
{
    for (int role = 0; role < TN_INPUT_ROLES; role++)
        if (p->folders[role] && !tn_paths_is_folder(p->folders[role]))
            return tn_error(error, "%s %s: is no folder; features in a folder take a folder of files with their names",
                            tn_role_option((tn_role)role), p->folders[role]);
    return true;
}

static bool make_folders(plan *p, tenon_error *error)
{
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (p->folders[role] && !make_folder(p, role, error)) return false;
    return true;
}

/* From here on no other run changes what is there. Rank 0 has the lock for all. */
static bool lock_tokens(plan *p, tenon_error *error)
{
    if (tn_ranks_index() == 0 && !tn_lock_take(p->folders[TN_TOKENS], &p->lock, error)) return false;
    char *path = tn_paths_join(p->folders[TN_TOKENS], "manifest.json");
    if (!path) return tn_error(error, "out of memory");
    p->had_manifest = tn_paths_exists(path);
    free(path);
    return true;
}

static bool open_manifest(plan *p, tenon_error *error)
{
    json_t *options = describe_options(p);
    if (!options) return tn_error(error, "out of memory");
    const char *folder = p->folders[TN_TOKENS], *weights = p->setup->weights;
    int rank = tn_ranks_index();
    bool good = rank > 0 || tn_manifest_open(folder, weights, options, p->force, &p->manifest, error);
    good = tn_ranks_agree(good);
    if (good && rank > 0) good = tn_manifest_open_part(folder, weights, options, rank, &p->manifest, error);
    json_decref(options);
    return good;
}

/* Shards are dealt out by their place in the list, and rank 0's manifest speaks for all tokens. */
static bool check_ranks(const plan *p, tenon_error *error)
{
    char shards[TN_HASH_SIZE];
    tn_hasher *hasher = tn_hasher_new(0, NULL);
    for (size_t i = 0; i < p->num_shards; i++)
        tn_hasher_add(hasher, p->shards[i], strlen(p->shards[i]) + 1);
    json_t *facts = hasher ? describe_options(p) : NULL;
    tn_hasher_finish(hasher, shards);
    json_t *rest = json_pack("{s:s, s:I, s:b}", "the names of the shards (hash)", shards, "the number of shards",
                             (json_int_t)p->num_shards, "--force", p->force);
    return tn_ranks_same(tn_json_joined(facts, rest), TN_RANKS_ADVICE, error);
}

static void add_totals(tn_run_totals *totals, const tn_run_totals *more)
{
    tn_nonfinite found[TN_FINDINGS];
    memcpy(found, totals->found, sizeof found);
    *totals = *more;
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        tn_nonfinite_add(&totals->found[finding], &found[finding]);
}

static bool run_jobs(plan *p, tn_folder_result *result, tenon_error *error)
{
    tn_run_totals totals;
    tenon_error late;
    p->setup->finished = record;
    p->setup->context = p;
    if (tn_ranks_index() == 0) tn_progress_start(p->setup->progress, "images", 0, p->images);
    bool good = tn_pipeline_run(p->setup, p->jobs, p->num_jobs, &totals, error);
    tn_progress_end(p->setup->progress);
    add_totals(&result->totals, &totals);
    for (size_t i = 0; good && i < p->num_jobs; i++)
        if (p->jobs[i].problem) good = tn_error(error, "%s", p->jobs[i].problem);
    /* Also after a failure: what is finished stays finished. */
    if (!tn_manifest_save(p->manifest, &late) && good) {
        *error = late;
        good = false;
    }
    result->done = p->num_done;
    if (good || !tn_interrupt_signal()) return good;
    return tn_error(error, "interrupted; %zu of %zu shards are finished, and the same command goes on from there",
                    result->skipped + result->done, p->num_shards);
}

/* Every rank has saved its part; rank 0 makes one of them, also when one of the ranks has failed. */
static bool join_manifests(plan *p, bool good, tenon_error *error)
{
    tenon_error late;
    bool all = tn_ranks_agree(good);
    if (tn_ranks_index() > 0 || tn_ranks_count() == 1 || tn_manifest_take_parts(p->manifest, &late)) return all;
    if (good) *error = late;
    return false;
}

/* The file of the first value of each finding. */
static bool name_files(const plan *p, tn_folder_result *result, tenon_error *error)
{
    for (int finding = 0; finding < TN_FINDINGS; finding++) {
        const tn_nonfinite *found = &result->totals.found[finding];
        if (found->count == 0) continue;
        const char *folder = p->folders[finding == TN_FEATURES_NOT_FINITE ? TN_FEATURES : TN_TOKENS];
        result->files[finding] = tn_paths_join(folder, p->shards[found->file]);
        if (!result->files[finding]) return tn_error(error, "out of memory");
    }
    return true;
}

/* All ranks take each of these steps, or none does. */
static bool run_plan(plan *p, tn_folder_result *result, tenon_error *error)
{
    const char *features = p->folders[TN_FEATURES];
    bool good = check_inputs(p, error) && tn_paths_list_shards(features, &p->shards, &p->num_shards, error);
    if (!tn_ranks_agree(good) || !check_ranks(p, error)) return false;
    if (!tn_ranks_agree(make_folders(p, error) && lock_tokens(p, error))) return false;
    if (!tn_ranks_agree(check_shards(p, error)) || !check_kinds(p, error)) return false;
    if (!tn_ranks_agree(open_manifest(p, error))) return false;
    if (!tn_ranks_agree(drop_finished(p, result, error))) return false;
    if (!join_manifests(p, run_jobs(p, result, error), error)) return false;
    return tn_join_results(result, error) && name_files(p, result, error);
}

void tn_folder_result_free(tn_folder_result *result)
{
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        free(result->files[finding]);
}

static bool add_own_names(tn_names *names, const char *folder, tenon_error *error)
{
    char part[TN_MANIFEST_PART_SIZE];
    bool good = tn_names_add(names, "-o", folder, "manifest.json", error) &&
                tn_names_add(names, "-o", folder, TN_LOCK_NAME, error);
    for (int rank = 1; good && rank < tn_ranks_count(); rank++) {
        tn_manifest_part_name(rank, part);
        good = tn_names_add(names, "-o", folder, part, error);
    }
    return good;
}

bool tn_run_folder_names(tn_names *names, const char *features, const char *tokens, const char *attention,
                         tenon_error *error)
{
    char **shards;
    size_t count;
    if (!tn_paths_list_shards(features, &shards, &count, error)) return false;
    bool good = add_own_names(names, tokens, error);
    for (size_t i = 0; good && i < count; i++) {
        char *npy = tn_paths_with_suffix(shards[i], ".npy");
        good = npy ? tn_names_add(names, "-o", tokens, shards[i], error) : tn_error(error, "out of memory");
        if (good && attention) good = tn_names_add(names, "--attention", attention, npy, error);
        free(npy);
    }
    tn_paths_free_list(shards, count);
    return good;
}

bool tn_run_folder(tn_run_setup *setup, char *const folders[TN_ROLES], bool force, tn_folder_result *result,
                   tenon_error *error)
{
    plan p = {.setup = setup, .folders = folders, .force = force};
    *result = (tn_folder_result){.done = 0};
    bool good = run_plan(&p, result, error);
    tn_lock_release(p.lock);
    if (!good) remove_made_folders(&p);
    for (size_t i = 0; p.jobs && i < p.num_shards; i++)
        tn_job_free(&p.jobs[i]);
    free(p.jobs);
    tn_paths_free_list(p.shards, p.num_shards);
    tn_manifest_free(p.manifest);
    return good;
}
