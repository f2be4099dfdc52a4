/* SPDX-License-Identifier: MIT */
/* What a run says: a bar on a terminal, a line of JSON for each step in the log, a table at the end. Rank 0 speaks. */
#include "fit.h"
#include "progress.h"
#include "ranks.h"
#include "report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tn_fit_report {
    FILE *log;
    tn_progress progress;
};

/* ---- the log ---- */

static bool log_failed(const tn_fit *fit, tenon_error *error)
{
    return tn_error(error, "%s: cannot write the log: %s", fit->given->log, strerror(errno));
}

/* After a resume the log goes on where the checkpoint left it: what the killed run wrote later is cut off, because it
 * will be written again. */
static bool open_log(tn_fit *fit, tenon_error *error)
{
    const char *path = fit->given->log;
    const bool goes_on = fit->state.done > 0 && tn_paths_exists(path);
    FILE *log = fopen(path, goes_on ? "r+b" : "wb");
    fit->report->log = log;
    if (!log) return log_failed(fit, error);
    if (!goes_on) return true;
    if (fseeko(log, 0, SEEK_END) != 0) return log_failed(fit, error);
    if (ftello(log) <= fit->state.log_bytes) return true;
    if (ftruncate(fileno(log), (off_t)fit->state.log_bytes) != 0) return log_failed(fit, error);
    return fseeko(log, 0, SEEK_END) == 0 || log_failed(fit, error);
}

/* Writes one line and frees the object. */
static bool log_line(tn_fit *fit, json_t *object, tenon_error *error)
{
    FILE *log = fit->report->log;
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) return tn_error(error, "out of memory while writing the log");
    bool good = fprintf(log, "%s\n", text) > 0;
    free(text);
    return good || log_failed(fit, error);
}

static double seconds_so_far(const tn_fit *fit)
{
    return fit->state.seconds + tn_seconds() - fit->started;
}

bool tn_fit_report_sync(tn_fit *fit, tenon_error *error)
{
    FILE *log = fit->report ? fit->report->log : NULL;
    if (!log) return true;
    /* Pipes, and the files of some file systems, cannot be synced; there is nothing better to be had. */
    if (fflush(log) != 0) return log_failed(fit, error);
    if (fsync(fileno(log)) != 0 && errno != EINVAL && errno != ENOSYS && errno != ENOTSUP && errno != EROFS)
        return log_failed(fit, error);
    const off_t length = ftello(log);
    fit->state.log_bytes = length > 0 ? length : 0;
    return true;
}

/* ---- progress ---- */

static void show_progress(tn_fit *fit, const tenon_step_info *info)
{
    char remark[160], validation[48] = "";
    if (fit->state.validations) snprintf(validation, sizeof validation, "  validation %.4g", fit->state.last_val);
    snprintf(remark, sizeof remark, "loss %.4g  gradient %.3g  rate %.3g%s", info->loss, info->gradient_norm, info->lr,
             validation);
    tn_progress_set(&fit->report->progress, fit->state.done, remark);
}

/* ---- events ---- */

bool tn_fit_report_open(tn_fit *fit, tenon_error *error)
{
    fit->report = calloc(1, sizeof *fit->report);
    if (!fit->report) return tn_error(error, "out of memory");
    if (tn_ranks_index() != 0) return true;
    tn_progress_start(&fit->report->progress, "steps", fit->state.done, fit->steps);
    return !fit->given->log || open_log(fit, error);
}

bool tn_fit_report_step(tn_fit *fit, const tenon_step_info *info, tenon_error *error)
{
    show_progress(fit, info);
    if (!fit->report->log) return true;
    const double epoch = (double)fit->state.done * (double)fit->images_a_step / (double)tn_fit_data_training(fit->data);
    return log_line(fit,
                    json_pack("{s:I, s:o, s:I, s:o, s:o, s:o, s:b, s:o}", "step", (json_int_t)fit->state.done, "epoch",
                              tn_json_real(epoch), "images", (json_int_t)info->images, "loss", tn_json_real(info->loss),
                              "gradient_norm", tn_json_real(info->gradient_norm), "lr", tn_json_real(info->lr),
                              "skipped", !info->applied, "seconds", tn_json_real(seconds_so_far(fit))),
                    error);
}

bool tn_fit_report_validation(tn_fit *fit, tenon_error *error)
{
    if (!fit->report->log) return true;
    return log_line(fit,
                    json_pack("{s:I, s:o, s:o}", "step", (json_int_t)fit->state.done, "validation_loss",
                              tn_json_real(fit->state.last_val), "seconds", tn_json_real(seconds_so_far(fit))),
                    error);
}

void tn_fit_report_close(tn_fit *fit)
{
    tn_fit_report *r = fit->report;
    if (!r) return;
    tn_progress_end(&r->progress);
    if (r->log) fclose(r->log);
    free(r);
    fit->report = NULL;
}

/* ---- the end ---- */

static void print_row(const char *name, double before, double after)
{
    printf("%-16s %12.6g %12.6g %12.4g\n", name, before, after, before > 0 ? after / before : NAN);
}

static json_t *real_or_null(bool exists, double value)
{
    return exists ? tn_json_real(value) : json_null();
}

static int end_as_json(const tn_fit *fit)
{
    const tn_fit_state *s = &fit->state;
    const bool stepped = !isnan(s->first_loss), validated = s->validations > 0;
    json_t *object = json_pack(
        "{s:o, s:o, s:s, s:I, s:I, s:I, s:b, s:I, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "model",
        tn_json_text(fit->given->start), "output", tn_json_text(fit->given->output), "loss", fit->given->loss, "steps",
        (json_int_t)s->done, "images_a_step", (json_int_t)fit->images_a_step, "skipped", (json_int_t)s->skipped,
        "stopped_early", fit->stopped_early, "ranks", (json_int_t)tn_ranks_count(), "cpu",
        tenon_adapter_cpu(fit->adapter), "seconds", tn_json_real(seconds_so_far(fit)), "before",
        real_or_null(stepped, s->first_loss), "after", real_or_null(stepped, s->last_loss), "validation_before",
        real_or_null(validated, s->first_val), "validation_after", real_or_null(validated, s->last_val),
        "validation_best", real_or_null(isfinite(s->best_val), s->best_val));
    const json_t *skipped = tn_fit_data_skipped(fit->data);
    if (object && skipped) json_object_set_new(object, "skipped_files", json_deep_copy(skipped));
    return tn_print_json(object);
}

int tn_fit_report_end(const tn_fit *fit)
{
    const tn_fit_state *s = &fit->state;
    if (fit->given->json) return end_as_json(fit);
    printf("%-16s %12s %12s %12s\n", fit->given->loss, "before", "after", "ratio");
    if (!isnan(s->first_loss)) print_row("training", s->first_loss, s->last_loss);
    if (s->validations) print_row("validation", s->first_val, s->last_val);
    if (isfinite(s->best_val)) print_row("best validation", s->first_val, s->best_val);
    if (s->skipped)
        printf("left out, for their loss or gradient is not finite: %s of them\n", tn_count_text(s->skipped));
    if (fit->stopped_early)
        printf("stopped early: no better validation in %" PRId64 " of them\n", fit->given->patience);
    fflush(stdout);
    fprintf(stderr, "%s -> %s: %s steps of %s images in %.1f s on cpu (%s)", tn_name_text(fit->given->start),
            tn_name_text(fit->given->output), tn_count_text(s->done), tn_count_text(fit->images_a_step),
            seconds_so_far(fit), tenon_adapter_cpu(fit->adapter));
    if (tn_ranks_count() > 1) fprintf(stderr, ", %d ranks", tn_ranks_count());
    fprintf(stderr, "\n");
    return TN_EXIT_OK;
}
