/* SPDX-License-Identifier: MIT */
/* What a run did: one line of text on standard error, or JSON. Rank 0 speaks. */
#include "json.h"
#include "ranks.h"
#include "report.h"
#include "run.h"
#include "shards.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* A file of the command line as sentences call it. */
static const char *shown(const char *word, bool is_output)
{
    if (!tn_is_stream(word)) return tn_name_text(word);
    return is_output ? "standard output" : "standard input";
}

/* The file in which the first value of a finding is. */
static const char *file_of(const tn_run_outcome *out, int finding)
{
    if (out->is_folder) return out->result.files[finding];
    return finding == TN_FEATURES_NOT_FINITE ? out->features : out->output;
}

static json_t *findings_to_json(const tn_run_outcome *out)
{
    json_t *object = json_object();
    for (int finding = 0; finding < TN_FINDINGS; finding++)
        json_object_set_new(object, tn_finding_name((tn_finding)finding),
                            tn_nonfinite_to_json(&out->result.totals.found[finding], file_of(out, finding)));
    return object;
}

static int report_json(const tn_run_setup *setup, const tn_run_outcome *out)
{
    const tn_run_totals *totals = &out->result.totals;
    json_t *object =
        json_pack("{s:o, s:o, s:o, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:o, s:{s:f, s:f, s:f, s:f, s:f}}", "model",
                  tn_json_text(setup->model), "features", tn_json_text(out->features), "output",
                  tn_json_text(out->output), "device", "cpu", "cpu", tenon_adapter_cpu(setup->adapter), "images",
                  (json_int_t)totals->images, "tokens", (json_int_t)totals->tokens, "width", (json_int_t)setup->out_dim,
                  "dtype", tenon_dtype_name(setup->dtype), "weights", setup->weights, "nonfinite",
                  findings_to_json(out), "seconds", "load", out->load_seconds, "read", totals->read_seconds, "compute",
                  totals->compute_seconds, "write", totals->write_seconds, "total", out->total_seconds);
    if (object && out->is_folder) {
        json_object_set_new(
            object, "shards",
            json_pack("{s:I, s:I}", "done", (json_int_t)out->result.done, "skipped", (json_int_t)out->result.skipped));
        json_object_update(object, out->result.lists);
    }
    return tn_print_json_to(out->is_output_stream ? stderr : stdout, object);
}

/* ---- text ---- */

static void print_findings(const tn_run_setup *setup, const tn_run_outcome *out)
{
    static const char *const says[TN_FINDINGS] = {"of the features not finite", "of the tokens not finite",
                                                  "of the tokens too large for "};
    for (int finding = 0; finding < TN_FINDINGS; finding++) {
        const tn_nonfinite *found = &out->result.totals.found[finding];
        if (found->count == 0) continue;
        fprintf(stderr, "; %s value%s %s%s (first: %s, %s)", tn_count_text(found->count), found->count == 1 ? "" : "s",
                says[finding], finding == TN_TOKENS_OVERFLOW ? tenon_dtype_name(setup->dtype) : "",
                shown(file_of(out, finding), finding != TN_FEATURES_NOT_FINITE), tn_nonfinite_text(found));
    }
}

static void report_text(const tn_run_setup *setup, const tn_run_outcome *out)
{
    const tn_run_totals *totals = &out->result.totals;
    fprintf(stderr, "%s -> %s: ", shown(out->features, false), shown(out->output, true));
    if (out->is_folder) {
        const size_t bad = json_object_size(json_object_get(out->result.lists, "bad_shards"));
        fprintf(stderr, "%zu shards done, %zu skipped, ", out->result.done, out->result.skipped);
        if (bad) fprintf(stderr, "%zu not done, ", bad);
    }
    fprintf(stderr, "%s image%s, %s tokens of width %" PRId64 " in %s on cpu (%s)", tn_count_text(totals->images),
            totals->images == 1 ? "" : "s", tn_count_text(totals->tokens), setup->out_dim,
            tenon_dtype_name(setup->dtype), tenon_adapter_cpu(setup->adapter));
    if (out->is_folder && tn_ranks_count() > 1) fprintf(stderr, " by %d ranks", tn_ranks_count());
    fprintf(stderr, "; %.3f s: load %.3f, read %.3f, compute %.3f, write %.3f", out->total_seconds, out->load_seconds,
            totals->read_seconds, totals->compute_seconds, totals->write_seconds);
    print_findings(setup, out);
    fprintf(stderr, "\n");
}

int tn_run_report(const tn_run_setup *setup, const tn_run_outcome *out, bool json)
{
    char names[512];
    int code = TN_EXIT_OK;
    if (tn_ranks_index() > 0) return TN_EXIT_OK;
    const size_t changed = tn_shards_text(json_object_get(out->result.lists, "changed_shards"), names, sizeof names);
    if (json) {
        code = report_json(setup, out);
    } else {
        if (changed)
            tn_note("%s: %zu shard%s had changed and %s done again: %s", out->features, changed,
                    changed == 1 ? "" : "s", changed == 1 ? "was" : "were", names);
        report_text(setup, out);
    }
    const json_t *bad = json_object_get(out->result.lists, "bad_shards");
    if (json_object_size(bad) == 0) return code;
    tenon_error error;
    (void)tn_shards_fail(bad, out->features, out->result.num_shards, "could not be done",
                         ", and the same command does the rest", &error);
    return tn_failed("%s", error.message);
}
