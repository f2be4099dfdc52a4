/* SPDX-License-Identifier: MIT */
/* A folder of shards: which are finished already, and the others through the pipeline, each recorded in the manifest as
 * soon as its file has its name. A run can be killed at any time and started again. Several ranks share the shards. */
#include "interrupt.h"
#include "json.h"
#include "plan.h"
#include "ranks.h"
#include "ranks_same.h"
#include "report.h"
#include "shards.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the plan ---- */

/* Says what is wrong with a shard and goes on without it: the others can be done. */
static bool set_aside(tn_run_plan *p, tn_run_job *job, const char *reason, tenon_error *error)
{
    if (!tn_shards_set_bad(p->bad, p->shards[job->number], reason, error)) return false;
    tn_job_free(job);
    memset(job, 0, sizeof *job);
    return true;
}

/* Moves up the jobs behind those that were set aside or are finished. */
static void close_gaps(tn_run_plan *p)
{
    size_t kept = 0;
    for (size_t i = 0; i < p->num_jobs; i++) {
        tn_run_job job = p->jobs[i];
        memset(&p->jobs[i], 0, sizeof p->jobs[i]);
        if (job.paths[TN_FEATURES]) p->jobs[kept++] = job;
    }
    p->num_jobs = kept;
}

/* The files of one shard: the same name in every folder, masks and attention as npy. */
static bool make_paths(const tn_run_plan *p, const char *shard, tn_run_job *job, tenon_error *error)
{
    char *npy = tn_paths_with_suffix(shard, ".npy");
    bool good = npy != NULL;
    for (int role = 0; good && role < TN_ROLES; role++) {
        bool keeps_suffix = role == TN_FEATURES || role == TN_TOKENS;
        if (!p->folders[role]) continue;
        job->paths[role] = tn_paths_join(p->folders[role], keeps_suffix ? shard : npy);
        good = job->paths[role] != NULL;
    }
    free(npy);
    return good || tn_error(error, "out of memory");
}

/* Would the attention weights of this shard have the name of another's? */
static bool check_attention_name(const tn_run_job *job, tenon_error *error)
{
    const char *features = job->paths[TN_FEATURES];
    if (!job->paths[TN_ATTENTION] || tn_paths_has_suffix(features, ".npy")) return true;
    char *twin = tn_paths_with_suffix(features, ".npy");
    const bool shares = twin && tn_paths_exists(twin);
    free(twin);
    if (!shares) return true;
    return tn_error(error,
                    "%s: its attention weights and those of the .npy shard beside it would have one name; rename it",
                    features);
}

/* A tokens file that no manifest knows may be someone's work. */
static bool check_not_foreign(const tn_run_plan *p, const tn_run_job *job, tenon_error *error)
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

static bool check_shard(tn_run_plan *p, tn_run_job *job, tenon_error *error)
{
    tenon_error reason;
    if (!make_paths(p, p->shards[job->number], job, error) || !check_not_foreign(p, job, error)) return false;
    if (!check_attention_name(job, &reason) || !tn_job_open(job, p->setup, &reason))
        return set_aside(p, job, reason.message, error);
    p->images += job->images;
    p->kinds[job->kind]++;
    const bool good = tn_named_list_ignored(job, p->setup, p->ignored) || tn_error(error, "out of memory");
    tn_job_close(job);
    return good;
}

/* Opens the headers of this rank's shards, so that bad ones are named before hours of work and not after. Shards are
 * dealt out by their place in the list: no two ranks have one, whatever the ranks know of each other. */
static bool check_shards(tn_run_plan *p, tenon_error *error)
{
    size_t ranks = (size_t)tn_ranks_count();
    p->jobs = calloc(p->num_shards, sizeof *p->jobs);
    if (!p->jobs) return tn_error(error, "out of memory");
    for (size_t i = (size_t)tn_ranks_index(); i < p->num_shards; i += ranks) {
        tn_run_job *job = &p->jobs[p->num_jobs++];
        job->number = i;
        if (!check_shard(p, job, error)) return false;
    }
    close_gaps(p);
    return true;
}

/* What all ranks found. Where no shard can be done, nothing is written. */
static bool check_kinds(tn_run_plan *p, tenon_error *error)
{
    double good = (double)p->num_jobs;
    tn_ranks_sum_doubles(&good, 1);
    tn_ranks_sum_doubles(p->kinds, TN_KINDS);
    if (good > 0) return tn_check_kinds(p->setup, p->folders[TN_FEATURES], p->kinds, error);
    return tn_error(error, "%s: none of its %zu shard%s can be done", p->folders[TN_FEATURES], p->num_shards,
                    p->num_shards == 1 ? "" : "s");
}

static bool look_up(tn_run_plan *p, tn_run_job *job, tn_folder_result *result, tenon_error *error)
{
    tenon_error reason;
    const tn_shard_state state = tn_plan_state(p, job, &reason);
    if (state == TN_SHARD_NEW) return true;
    if (state == TN_SHARD_CHANGED) {
        char *key = tn_json_key(p->shards[job->number]);
        const bool good = key && json_object_set_new(p->changed, key, json_true()) == 0;
        free(key);
        return good || tn_error(error, "out of memory");
    }
    p->images -= job->images;
    if (state == TN_SHARD_BAD) return set_aside(p, job, reason.message, error);
    tn_plan_add_findings(p, job, result);
    tn_job_free(job);
    memset(job, 0, sizeof *job);
    result->skipped++;
    return true;
}

static bool drop_finished(tn_run_plan *p, tn_folder_result *result, tenon_error *error)
{
    for (size_t i = 0; i < p->num_jobs; i++)
        if (!look_up(p, &p->jobs[i], result, error)) return false;
    close_gaps(p);
    return true;
}

static bool make_folder(tn_run_plan *p, int role, tenon_error *error)
{
    const char *folder = p->folders[role];
    p->made[role] = mkdir(folder, 0777) == 0;
    if (p->made[role] || (errno == EEXIST && tn_paths_is_folder(folder))) return true;
    return tn_error(error, "%s: cannot make the folder: %s", folder, strerror(errno));
}

/* A run that failed before it wrote anything leaves no empty folder; one with files in it stays. */
static void remove_made_folders(const tn_run_plan *p)
{
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (p->made[role]) rmdir(p->folders[role]);
}

static bool check_inputs(const tn_run_plan *p, tenon_error *error)
{
    for (int role = 0; role < TN_INPUT_ROLES; role++)
        if (p->folders[role] && !tn_paths_is_folder(p->folders[role]))
            return tn_error(error, "%s %s: is no folder; features in a folder take a folder of files with their names",
                            tn_role_option((tn_role)role), p->folders[role]);
    return true;
}

static bool make_folders(tn_run_plan *p, tenon_error *error)
{
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (p->folders[role] && !make_folder(p, role, error)) return false;
    return true;
}

/* From here on no other run changes what is there. Rank 0 has the lock for all. */
static bool lock_tokens(tn_run_plan *p, tenon_error *error)
{
    if (tn_ranks_index() == 0 && !tn_lock_take(p->folders[TN_TOKENS], &p->lock, error)) return false;
    char *path = tn_paths_join(p->folders[TN_TOKENS], "manifest.json");
    if (!path) return tn_error(error, "out of memory");
    p->had_manifest = tn_paths_exists(path);
    free(path);
    return true;
}

static bool open_manifest(tn_run_plan *p, tenon_error *error)
{
    json_t *options = tn_plan_options(p);
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
static bool check_ranks(const tn_run_plan *p, tenon_error *error)
{
    char shards[TN_HASH_SIZE];
    tn_hasher *hasher = tn_hasher_new(0, NULL);
    for (size_t i = 0; i < p->num_shards; i++)
        tn_hasher_add(hasher, p->shards[i], strlen(p->shards[i]) + 1);
    json_t *facts = hasher ? tn_plan_options(p) : NULL;
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

/* Also after a failure: what is finished stays finished. */
static bool save_manifest(tn_run_plan *p, tenon_error *error)
{
    json_t *last_run = json_pack("{s:O, s:O}", "bad", p->bad, "changed", p->changed);
    const bool good = tn_manifest_set_last_run(p->manifest, last_run, error) && tn_manifest_save(p->manifest, error);
    json_decref(last_run);
    return good;
}

static bool run_jobs(tn_run_plan *p, tn_folder_result *result, tenon_error *error)
{
    tn_run_totals totals;
    tenon_error late;
    p->setup->finished = tn_plan_record;
    p->setup->context = p;
    if (tn_ranks_index() == 0) tn_progress_start(p->setup->progress, "images", 0, p->images);
    bool good = tn_jobs_run(p->setup, p->jobs, p->num_jobs, &totals, error);
    tn_progress_end(p->setup->progress);
    add_totals(&result->totals, &totals);
    for (size_t i = 0; i < p->num_jobs; i++) {
        char *problem = p->jobs[i].problem;
        p->jobs[i].problem = NULL;
        if (problem && !set_aside(p, &p->jobs[i], problem, &late) && good) {
            *error = late;
            good = false;
        }
        free(problem);
    }
    if (!save_manifest(p, &late) && good) {
        *error = late;
        good = false;
    }
    result->done = p->num_done;
    if (good || !tn_interrupt_signal()) return good;
    return tn_error(error, "interrupted; %zu of %zu shards are finished, and the same command goes on from there",
                    result->skipped + result->done, p->num_shards);
}

/* Every rank has saved its part; rank 0 makes one of them, also when one of the ranks has failed. */
static bool join_manifests(tn_run_plan *p, bool good, tenon_error *error)
{
    tenon_error late;
    bool all = tn_ranks_agree(good);
    if (tn_ranks_index() > 0 || tn_ranks_count() == 1 || tn_manifest_take_parts(p->manifest, &late)) return all;
    if (good) *error = late;
    return false;
}

/* The lists of all ranks, which rank 0's manifest has by now, in the order of the shards. */
static bool take_lists(const tn_run_plan *p, tn_folder_result *result, tenon_error *error)
{
    const json_t *last_run = tn_manifest_last_run(p->manifest);
    const json_t *all_bad = json_object_get(last_run, "bad"), *all_changed = json_object_get(last_run, "changed");
    json_t *bad = json_object(), *changed = json_array();
    bool good = bad && changed;
    for (size_t i = 0; good && i < p->num_shards; i++) {
        char *key = tn_json_key(p->shards[i]);
        json_t *reason = key ? json_object_get(all_bad, key) : NULL;
        good = key && (!reason || json_object_set(bad, key, reason) == 0);
        if (good && json_object_get(all_changed, key)) good = json_array_append_new(changed, json_string(key)) == 0;
        free(key);
    }
    result->num_shards = p->num_shards;
    good = json_object_set_new(result->lists, "bad_shards", bad) == 0 && good;
    good = json_object_set_new(result->lists, "changed_shards", changed) == 0 && good;
    return good || tn_error(error, "out of memory");
}

/* The file of the first value of each finding. */
static bool name_files(const tn_run_plan *p, tn_folder_result *result, tenon_error *error)
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
static bool run_plan(tn_run_plan *p, tn_folder_result *result, tenon_error *error)
{
    const char *features = p->folders[TN_FEATURES];
    bool good = check_inputs(p, error) && tn_paths_list_shards(features, &p->shards, &p->num_shards, error);
    if (!tn_ranks_agree(good) || !check_ranks(p, error)) return false;
    if (!tn_ranks_agree(make_folders(p, error) && lock_tokens(p, error))) return false;
    good = (tn_ranks_index() > 0 || tn_plan_look_around(p, result->lists, error)) && check_shards(p, error);
    if (!tn_ranks_agree(good) || !check_kinds(p, error)) return false;
    if (!tn_ranks_agree(open_manifest(p, error))) return false;
    if (!tn_ranks_agree(drop_finished(p, result, error))) return false;
    if (p->setup->notes && tn_ranks_index() == 0) tn_plan_print_notes(p, result->lists);
    if (tn_ranks_index() == 0) tn_named_note_ignored(p->setup, features, p->ignored);
    if (!join_manifests(p, run_jobs(p, result, error), error)) return false;
    return tn_join_results(result, error) && name_files(p, result, error) && take_lists(p, result, error);
}

void tn_folder_result_free(tn_folder_result *result)
{
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        free(result->files[finding]);
    json_decref(result->lists);
}

static bool add_own_names(tn_names *names, const char *folder, tenon_error *error)
{
    char part[TN_MANIFEST_PART_SIZE];
    bool good = tn_names_add(names, "-o", folder, TN_MANIFEST_NAME, error) &&
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
    tn_run_plan p = {.setup = setup, .folders = folders, .force = force};
    *result = (tn_folder_result){.lists = json_object()};
    p.bad = json_object();
    p.changed = json_object();
    p.ignored = json_object();
    const bool has_memory = (result->lists && p.bad && p.changed && p.ignored) || tn_error(error, "out of memory");
    const bool good = tn_ranks_agree(has_memory) && run_plan(&p, result, error);
    tn_lock_release(p.lock);
    if (!good) remove_made_folders(&p);
    for (size_t i = 0; p.jobs && i < p.num_shards; i++)
        tn_job_free(&p.jobs[i]);
    free(p.jobs);
    tn_paths_free_list(p.shards, p.num_shards);
    tn_manifest_free(p.manifest);
    json_decref(p.bad);
    json_decref(p.changed);
    json_decref(p.ignored);
    return good;
}
