/* SPDX-License-Identifier: MIT */
/* Checkpoints: the trainer's file in the checkpoint folder, with a note that says where the run is and what it is.
 *
 *     DIR/checkpoint.safetensors   replaced whole; a run that is killed leaves the last one or the new one
 *     DIR/best.safetensors         the connector at its best validation, where there is a validation
 */
#include "fit.h"
#include "ranks.h"
#include "ranks_same.h"
#include "report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FORMAT = 2 };

static const char file_name[] = "checkpoint.safetensors";

/* ---- the note ---- */

/* What decides the bits of the result, by the words for a sentence: two runs that agree in all of it take the same
 * steps, and differ only in how many. */
static json_t *describe(const tn_fit *fit)
{
    const tn_fit_settings *g = fit->given;
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, g->seed);
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:s, s:o, s:o, "
        "s:o, s:o, s:o, s:b}",
        "the hash of --model", fit->start_hash, "the hash of --features and --targets", fit->data_hash,
        "the CPU level (--cpu)", tenon_adapter_cpu(fit->adapter), "the number of ranks", (json_int_t)tn_ranks_count(),
        "--loss", g->loss, "--batch", (json_int_t)g->batch, "--accumulate", (json_int_t)g->accumulate, "--warmup",
        (json_int_t)g->warmup, "--lr", tn_json_real(g->lr), "--min-lr", tn_json_real(g->min_lr), "--weight-decay",
        tn_json_real(g->weight_decay), "--clip", tn_json_real(g->clip), "--beta1", tn_json_real(g->beta1), "--beta2",
        tn_json_real(g->beta2), "--eps", tn_json_real(g->eps), "--decay-biases", g->decay_biases, "--no-master",
        g->no_master, "--freeze", tn_json_text(g->freeze), "--seed", seed, "--val-fraction",
        tn_json_real(g->val_fraction), "--window", g->window == TENON_UNSET ? json_null() : json_integer(g->window),
        "--grid", g->grid.height ? tn_json_pair(g->grid.height, g->grid.width) : json_null(), "--tensor",
        tn_json_text(g->tensor), "--target-tensor", tn_json_text(g->target_tensor), "--npy-bf16", g->npy_bfloat16);
}

static char *make_note(const tn_fit *fit)
{
    const tn_fit_state *s = &fit->state;
    json_t *note = json_pack(
        "{s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "format", FORMAT, "run",
        describe(fit), "steps", (json_int_t)fit->steps, "done", (json_int_t)s->done, "skipped", (json_int_t)s->skipped,
        "validations", (json_int_t)s->validations, "stale", (json_int_t)s->stale, "first_loss",
        tn_json_real(s->first_loss), "last_loss", tn_json_real(s->last_loss), "first_val", tn_json_real(s->first_val),
        "last_val", tn_json_real(s->last_val), "best_val", tn_json_real(s->best_val), "seconds",
        tn_json_real(s->seconds + tn_seconds() - fit->started), "log_bytes", (json_int_t)s->log_bytes);
    char *text = note ? json_dumps(note, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(note);
    return text;
}

static double number_of(const json_t *note, const char *key)
{
    return tn_json_read_real(json_object_get(note, key), NAN);
}

static int64_t count_of(const json_t *note, const char *key)
{
    return json_integer_value(json_object_get(note, key));
}

static void read_state(tn_fit_state *state, const json_t *note)
{
    *state = (tn_fit_state){.done = count_of(note, "done"),
                            .skipped = count_of(note, "skipped"),
                            .validations = count_of(note, "validations"),
                            .stale = count_of(note, "stale"),
                            .first_loss = number_of(note, "first_loss"),
                            .last_loss = number_of(note, "last_loss"),
                            .first_val = number_of(note, "first_val"),
                            .last_val = number_of(note, "last_val"),
                            .best_val = number_of(note, "best_val"),
                            .seconds = number_of(note, "seconds"),
                            .log_bytes = count_of(note, "log_bytes")};
}

/* ---- is it the same run? ---- */

bool tn_fit_check_ranks(const tn_fit *fit, tenon_error *error)
{
    const tn_fit_settings *g = fit->given;
    json_t *facts = describe(fit);
    json_t *rest = json_pack("{s:s, s:s, s:I, s:I, s:I, s:b, s:b}", "the subcommand", "fit", "tenon", tenon_version(),
                             "--steps", (json_int_t)fit->steps, "--every", (json_int_t)g->every, "--patience",
                             (json_int_t)g->patience, "--skip-nonfinite", g->skip_nonfinite, "--resume", g->resume);
    return tn_ranks_same(tn_json_joined(facts, rest), TN_RANKS_ADVICE, error);
}

bool tn_fit_check_progress(const tn_fit *fit, tenon_error *error)
{
    static const char advice[] = "what one machine computes is not what another does; give all ranks one CPU level "
                                 "(--cpu) and one version of the system's libraries";
    char hash[TN_HASH_SIZE] = "";
    if (tn_ranks_count() == 1) return true;
    const bool good = tn_hash_weights(fit->adapter, hash, error);
    if (!tn_ranks_agree(good)) return false;
    return tn_ranks_same(json_pack("{s:I, s:I, s:s}", "the number of steps", (json_int_t)fit->state.done,
                                   "the number of skipped steps", (json_int_t)fit->state.skipped,
                                   "the hash of the parameters after them", hash),
                         advice, error);
}

static bool same_run(const tn_fit *fit, const char *path, const json_t *note, tenon_error *error)
{
    char list[3000];
    if (count_of(note, "format") != FORMAT)
        return tn_error(error, "%s: has no note of this version of tenon fit (format %d)", path, FORMAT);
    json_t *now = describe(fit);
    if (!now) return tn_error(error, "out of memory");
    const bool same =
        tn_json_same(json_object_get(note, "run"), now, (tn_json_words){"was", "and is now", ""}, list, sizeof list);
    json_decref(now);
    return same ||
           tn_error(error, "%s: is of another run: %s; continue with what that run had, or start in another folder",
                    path, list);
}

/* A file that says so is not believed to be a checkpoint of ours for that. */
static bool check_state(const tn_fit *fit, const char *path, const json_t *note, tenon_error *error)
{
    const tn_fit_state *s = &fit->state;
    const bool sound = s->done >= 0 && s->skipped >= 0 && s->skipped <= s->done && s->validations >= 0 &&
                       s->stale >= 0 && s->stale <= s->validations && s->log_bytes >= 0 &&
                       count_of(note, "steps") >= s->done;
    if (!sound) return tn_error(error, "%s: is damaged: its counts do not fit each other", path);
    if (s->done <= fit->steps) return true;
    return tn_error(error,
                    "%s: has taken %" PRId64 " steps already, and this run is to have %" PRId64
                    "; give --steps or --epochs at least as many",
                    path, s->done, fit->steps);
}

/* ---- the folder ---- */

bool tn_fit_folder_names(const tn_fit_settings *given, tn_names *names, tenon_error *error)
{
    static const char option[] = "--checkpoint";
    const char *folder = given->checkpoint;
    if (!folder) return true;
    return tn_names_add(names, option, folder, file_name, error) &&
           tn_names_add(names, option, folder, TN_LOCK_NAME, error) &&
           (given->val_fraction == 0 || tn_names_add(names, option, folder, TN_FIT_BEST, error));
}

bool tn_fit_open_folder(tn_fit *fit, tenon_error *error)
{
    const char *folder = fit->given->checkpoint;
    if (!folder || tn_ranks_index() != 0) return true;
    if (mkdir(folder, 0777) != 0 && (errno != EEXIST || !tn_paths_is_folder(folder)))
        return tn_error(error, "%s: cannot make the folder of checkpoints: %s", folder, strerror(errno));
    if (!tn_lock_take(folder, &fit->lock, error)) return false;
    char *path = tn_paths_join(folder, file_name);
    bool taken = path && !fit->given->resume && tn_paths_exists(path);
    free(path);
    if (taken)
        return tn_error(
            error,
            "%s: holds the checkpoint of a run; --resume goes on from it, or choose another folder for a new "
            "run",
            folder);
    static const char *const own[] = {file_name, TN_FIT_BEST};
    tn_lock_sweep(fit->lock, folder, own, sizeof own / sizeof *own);
    return true;
}

bool tn_fit_check_finite(const tn_fit *fit, tenon_error *error)
{
    tenon_error reason;
    if (tenon_adapter_check_finite(fit->adapter, &reason) == TENON_OK) return true;
    if (fit->state.done == 0) return tn_error(error, "--model %.1000s: %.2900s", fit->given->start, reason.message);
    return tn_error(error,
                    "after step %" PRId64 ": %.2900s; what was saved before is whole: start again from it with a lower "
                    "--lr",
                    fit->state.done, reason.message);
}

bool tn_fit_save(tn_fit *fit, tenon_error *error)
{
    tenon_error reason;
    if (!fit->given->checkpoint || tn_ranks_index() != 0) return true;
    if (!tn_fit_check_finite(fit, error) || !tn_fit_report_sync(fit, error)) return false;
    char *path = tn_paths_join(fit->given->checkpoint, file_name);
    char *note = make_note(fit);
    bool good = (path && note) || tn_error(error, "out of memory while writing a checkpoint");
    if (good && tenon_trainer_save(fit->trainer, path, note, &reason) != TENON_OK)
        good = tn_error(error, "%.3000s; the checkpoint before it is whole, so --resume goes on from there",
                        reason.message);
    free(path);
    free(note);
    return good;
}

static bool read_note(tn_fit *fit, const char *path, tenon_error *error)
{
    tenon_file *file;
    if (tenon_file_open(path, NULL, &file, error) != TENON_OK) return false;
    const char *text = tenon_file_metadata(file, "tenon.note");
    json_t *note = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    bool good = note != NULL || tn_error(error, "%s: is no checkpoint of tenon fit", path);
    good = good && same_run(fit, path, note, error);
    if (good) read_state(&fit->state, note);
    good = good && check_state(fit, path, note, error);
    if (good) fit->steps_before = count_of(note, "steps");
    json_decref(note);
    tenon_file_close(file);
    return good;
}

bool tn_fit_resume(tn_fit *fit, bool *found, tenon_error *error)
{
    *found = false;
    if (!fit->given->resume) return true;
    char *path = tn_paths_join(fit->given->checkpoint, file_name);
    if (!path) return tn_error(error, "out of memory");
    bool good = true;
    if (tn_paths_exists(path)) {
        *found = true;
        good = read_note(fit, path, error) && tenon_trainer_restore(fit->trainer, path, error) == TENON_OK;
        if (good && tenon_trainer_steps(fit->trainer) != fit->state.done - fit->state.skipped)
            good = tn_error(error, "%s: is damaged: its counts do not fit each other", path);
    }
    free(path);
    return good;
}
