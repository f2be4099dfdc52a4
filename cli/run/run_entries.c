/* SPDX-License-Identifier: MIT */
#include "json.h"
#include "plan.h"
#include "report.h"

#include <string.h>

/* The key of a role in a shard's entry. */
static const char *entry_key(int role)
{
    return role == TN_TOKENS ? "tokens_file" : tn_role_name((tn_role)role);
}

/* Everything but the weights that decides what the tokens are, bits included: so the CPU level is among it. */
json_t *tn_plan_options(const tn_run_plan *p)
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

bool tn_plan_record(void *context, const tn_run_job *job, tenon_error *error)
{
    tn_run_plan *p = context;
    json_t *entry = json_pack("{s:I, s:I}", "images", (json_int_t)job->images, "tokens", (json_int_t)job->tokens);
    if (entry) json_object_set_new(entry, "nonfinite", findings_to_json(job));
    for (int role = 0; entry && role < TN_ROLES; role++)
        if (job->paths[role])
            json_object_set_new(entry, entry_key(role),
                                json_pack("{s:s, s:s}", "hash", job->hashes[role], "stamp", job->stamps[role]));
    p->num_done++;
    return tn_manifest_add(p->manifest, tn_paths_base(job->paths[TN_FEATURES]), entry, error);
}

/* Is the file what the entry says? An unchanged stamp is believed, anything else is read and hashed. */
static bool same_content(const tn_run_plan *p, const tn_run_job *job, int role, const json_t *entry, bool *same,
                         tenon_error *error)
{
    const json_t *known = json_object_get(entry, entry_key(role));
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

/* Are all files of these roles what the entry says? *differs: the first that is not, or TN_ROLES. */
static bool compare_files(const tn_run_plan *p, const tn_run_job *job, int first, int end, const json_t *entry,
                          int *differs, tenon_error *error)
{
    *differs = TN_ROLES;
    for (int role = first; role < end; role++) {
        bool same = true;
        if (job->paths[role] && !same_content(p, job, role, entry, &same, error)) return false;
        if (same) continue;
        *differs = role;
        return true;
    }
    return true;
}

/* Outputs first: what someone made of them is not written over. A missing output is made again. */
tn_shard_state tn_plan_state(const tn_run_plan *p, const tn_run_job *job, tenon_error *error)
{
    const json_t *entry = tn_manifest_find(p->manifest, tn_paths_base(job->paths[TN_FEATURES]));
    const json_t *nonfinite = json_object_get(entry, "nonfinite");
    int differs;
    if (!entry) return TN_SHARD_NEW;
    for (int role = TN_TOKENS; role < TN_ROLES; role++)
        if (job->paths[role] && !tn_paths_exists(job->paths[role])) return TN_SHARD_NEW;
    if (!compare_files(p, job, TN_TOKENS, TN_ROLES, entry, &differs, error)) return TN_SHARD_BAD;
    if (differs != TN_ROLES) {
        tn_error(error,
                 "%s: is not the file that %s records; remove it to have this shard done again, or use --force to redo "
                 "every shard",
                 job->paths[differs], tn_manifest_path(p->manifest));
        return TN_SHARD_BAD;
    }
    if (!compare_files(p, job, 0, TN_INPUT_ROLES, entry, &differs, error)) return TN_SHARD_BAD;
    if (differs != TN_ROLES) return TN_SHARD_CHANGED;
    /* Done again, it fails as it would have failed with --check-finite from the start. */
    if (p->setup->check_finite && (!nonfinite || json_object_size(nonfinite) > 0)) return TN_SHARD_NEW;
    return TN_SHARD_FINISHED;
}

void tn_plan_add_findings(const tn_run_plan *p, const tn_run_job *job, tn_folder_result *result)
{
    const json_t *entry = tn_manifest_find(p->manifest, tn_paths_base(job->paths[TN_FEATURES]));
    const json_t *nonfinite = json_object_get(entry, "nonfinite");
    for (int finding = 0; finding < TN_FINDINGS; finding++) {
        tn_nonfinite found = tn_nonfinite_from_json(json_object_get(nonfinite, tn_finding_name((tn_finding)finding)));
        found.file = job->number;
        tn_nonfinite_add(&result->totals.found[finding], &found);
    }
}
