/* SPDX-License-Identifier: MIT */
/* The steps of a run: which images, through the trainer, in which order; validation, checkpoints, and what stops it. */
#include "fit.h"
#include "interrupt.h"
#include "ranks.h"
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- one step ---- */

/* The first image of a step whose loss is not finite. */
typedef struct outcome {
    int64_t odd;  /* -1: none */
    double value; /* its loss */
} outcome;

typedef struct memory {
    tn_fit_reader *reader; /* of the steps' images */
    tn_fit_batch batch;    /* of all others */
    int64_t *images;       /* [batch] */
    double *losses;        /* [batch] */
} memory;

static bool train_micro_batch(tn_fit *fit, memory *m, outcome *out, tenon_error *error)
{
    for (int64_t done = 0; done < fit->given->batch;) {
        const tn_fit_batch *b = tn_fit_reader_next(m->reader, error);
        if (!b) return false;
        done += b->count;
        if (tenon_trainer_step(fit->trainer, &b->x, &b->target, &fit->call, m->losses, error) != TENON_OK) return false;
        for (int64_t i = 0; i < b->count && out->odd < 0; i++) {
            if (isfinite(m->losses[i])) continue;
            out->odd = b->images[i];
            out->value = m->losses[i];
        }
        tn_fit_reader_give_back(m->reader);
    }
    return true;
}

/* Which of this rank's images has a gradient that is not finite, by asking one at a time; -1: none. */
static int64_t find_odd_gradient(tn_fit *fit, memory *m, tenon_error *error)
{
    for (int64_t turn = 0; turn < fit->given->accumulate; turn++) {
        tn_fit_pick(fit, fit->state.done * fit->given->accumulate + turn, m->images);
        for (int64_t i = 0; i < fit->given->batch; i++) {
            tenon_trainer_clear(fit->trainer);
            if (!tn_fit_data_read(fit->data, m->images + i, 1, &m->batch, error)) return -1;
            if (tenon_trainer_step(fit->trainer, &m->batch.x, &m->batch.target, &fit->call, NULL, error) != TENON_OK)
                return -1;
            if (!isfinite(tenon_trainer_gradient_norm(fit->trainer))) return m->images[i];
        }
    }
    return -1;
}

/* The batch is to be left out; or the run ends, saying where the trouble is. */
static bool meet_odd_batch(tn_fit *fit, memory *m, const outcome *out, const tenon_step_info *info, tenon_error *error)
{
    char where[2100] = "";
    /* Neither the batch nor leaving it out would be to blame, or help. */
    if (!tn_ranks_agree(tn_fit_check_finite(fit, error))) return false;
    if (fit->given->skip_nonfinite) {
        fit->state.skipped++;
        return true;
    }
    int64_t odd = out->odd;
    double value = out->odd >= 0 ? out->value : info->gradient_norm;
    error->message[0] = 0;
    if (isfinite(info->loss)) odd = find_odd_gradient(fit, m, error);
    tenon_trainer_clear(fit->trainer);
    /* Whoever has the image speaks. */
    int finder = tn_ranks_first_failure(odd >= 0);
    if (finder >= 0 ? finder != tn_ranks_index() : tn_ranks_index() != 0) return false;
    if (odd >= 0)
        tn_fit_data_say(fit->data, odd, where, sizeof where);
    else if (!error->message[0])
        snprintf(where, sizeof where, "in the sum over the step's images");
    else
        return false;
    return tn_error(
        error,
        "step %" PRId64 ": the %s is %s: %s; mend the data or lower --lr, or pass --skip-nonfinite to leave "
        "such batches out",
        fit->state.done + 1, isfinite(info->loss) ? "gradient" : "loss", isnan(value) ? "nan" : "infinite", where);
}

/* Every rank takes part in every sum, also one that failed: else the others would wait for it for ever. */
static bool take_step(tn_fit *fit, memory *m, tenon_step_info *info, tenon_error *error)
{
    outcome out = {.odd = -1};
    bool good = true;
    for (int64_t turn = 0; good && turn < fit->given->accumulate; turn++)
        good = train_micro_batch(fit, m, &out, error);
    if (!tn_ranks_agree(good)) return false;
    tenon_step_info_init(info);
    good = tenon_trainer_apply(fit->trainer, info, error) == TENON_OK;
    if (good && !info->applied) good = meet_odd_batch(fit, m, &out, info, error);
    if (good) fit->state.done++;
    if (good && info->applied) {
        if (isnan(fit->state.first_loss)) fit->state.first_loss = info->loss;
        fit->state.last_loss = info->loss;
    }
    return good;
}

/* ---- validation ---- */

/* Says once that an image spoils every validation; the training share has --skip-nonfinite for that. */
static void note_odd_validation(tn_fit *fit, int64_t image, double loss)
{
    char where[2100];
    if (fit->noted_validation) return;
    fit->noted_validation = true;
    tn_fit_data_say(fit->data, image, where, sizeof where);
    tn_note("the validation loss is %s: %s is held out; no validation counts as the best",
            isnan(loss) ? "nan" : "infinite", where);
}

static bool evaluate_share(tn_fit *fit, memory *m, double *sum, tenon_error *error)
{
    const int64_t kept = tn_fit_data_validation(fit->data), batch = fit->given->batch;
    for (int64_t first = tn_ranks_index() * batch; first < kept; first += tn_ranks_count() * batch) {
        int64_t count = kept - first < batch ? kept - first : batch;
        for (int64_t i = 0; i < count; i++)
            m->images[i] = tn_fit_data_kept(fit->data, first + i);
        for (int64_t done = 0; done < count; done += m->batch.count) {
            if (!tn_fit_data_read(fit->data, m->images + done, count - done, &m->batch, error)) return false;
            if (tenon_trainer_evaluate(fit->trainer, &m->batch.x, &m->batch.target, &fit->call, m->losses, error) !=
                TENON_OK)
                return false;
            for (int64_t i = 0; i < m->batch.count; i++) {
                *sum += m->losses[i];
                if (!isfinite(m->losses[i])) note_odd_validation(fit, m->batch.images[i], m->losses[i]);
            }
        }
    }
    return true;
}

static bool save_best(const tn_fit *fit, tenon_error *error)
{
    if (!fit->given->checkpoint || tn_ranks_index() != 0) return true;
    char *path = tn_paths_join(fit->given->checkpoint, TN_FIT_BEST);
    bool good = path || tn_error(error, "out of memory");
    good = good && tenon_adapter_save(fit->adapter, path, NULL, error) == TENON_OK;
    free(path);
    return good;
}

static bool validate(tn_fit *fit, memory *m, tenon_error *error)
{
    tn_fit_state *s = &fit->state;
    double sum = 0;
    if (tn_fit_data_validation(fit->data) == 0) return true;
    if (!tn_ranks_agree(evaluate_share(fit, m, &sum, error))) return false;
    tn_ranks_sum_doubles(&sum, 1);
    s->last_val = isnan(sum) ? NAN : sum / (double)tn_fit_data_validation(fit->data); /* no NaN has a sign */
    if (s->validations++ == 0) s->first_val = s->last_val;
    bool better = s->last_val < s->best_val;
    s->stale = better ? 0 : s->stale + 1;
    if (better) s->best_val = s->last_val;
    bool good = tn_fit_report_validation(fit, error) && (!better || save_best(fit, error));
    return tn_ranks_agree(good);
}

/* ---- the run ---- */

static bool is_plateau(const tn_fit *fit)
{
    return fit->given->patience > 0 && fit->state.stale >= fit->given->patience;
}

static bool run_steps(tn_fit *fit, memory *m, int *signal, tenon_error *error)
{
    if (fit->state.validations == 0 && !validate(fit, m, error)) return false;
    fit->stopped_early = is_plateau(fit);
    while (fit->state.done < fit->steps && !fit->stopped_early && !*signal) {
        tenon_step_info info;
        bool good = take_step(fit, m, &info, error) && tn_fit_report_step(fit, &info, error);
        if (!tn_ranks_agree(good)) return false;
        bool is_due = fit->state.done % fit->given->every == 0 || fit->state.done == fit->steps;
        *signal = tn_ranks_max(tn_interrupt_signal());
        if ((is_due || *signal) && !tn_fit_check_progress(fit, error)) return false;
        if (is_due && !validate(fit, m, error)) return false;
        fit->stopped_early = is_plateau(fit);
        if ((is_due || *signal) && !tn_ranks_agree(tn_fit_save(fit, error))) return false;
    }
    return true;
}

bool tn_fit_run(tn_fit *fit, int *signal, tenon_error *error)
{
    size_t batch = (size_t)fit->given->batch;
    memory m = {.images = malloc(batch * sizeof *m.images), .losses = malloc(batch * sizeof *m.losses)};
    *signal = 0;
    bool good =
        (m.images && m.losses) ||
        tn_error(error, "out of memory for a batch of %" PRId64 " images; give a smaller --batch", fit->given->batch);
    good = good && tn_fit_reader_start(fit, &m.reader, error);
    good = tn_ranks_agree(good) && run_steps(fit, &m, signal, error);
    tn_fit_reader_stop(m.reader);
    tn_fit_batch_free(&m.batch);
    free(m.images);
    free(m.losses);
    return good;
}
