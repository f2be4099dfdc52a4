/* SPDX-License-Identifier: MIT */
/* tenon fit: a connector whose tokens come to match target tokens. This file reads the options, opens everything and
 * says how it ended; see fit.h. */
#include "fit.h"

#include "commands.h"
#include "interrupt.h"
#include "ranks.h"
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const tn_argument arguments[] = {{.name = NULL}};

static const tn_option options[] = {
    {"model", 0, TN_STRING, "FILE", "@model", 0, offsetof(tn_fit_settings, start),
     "connector to start from: a file written by init or fit, or another checkpoint", "--model start.safetensors"},
    {"features", 0, TN_STRING, "DIR", "@file", 0, offsetof(tn_fit_settings, features),
     "features (images, tokens, width): one file, or a folder of .npy and .safetensors shards", "--features features/"},
    {"targets", 0, TN_STRING, "DIR", "@file", 0, offsetof(tn_fit_settings, targets),
     "target tokens (images, tokens, model width): one file, or a folder of shards with the names of the features",
     "--targets tokens/, written by tenon run with another connector"},
    {"output", 'o', TN_STRING, "FILE", "@output", 0, offsetof(tn_fit_settings, output),
     "the .safetensors file to write", "-o fitted.safetensors"},
    {"loss", 0, TN_STRING, "L", "mse cosine smooth_l1", 0, offsetof(tn_fit_settings, loss),
     "loss function: mse, cosine (direction only) or smooth_l1 (less sensitive to outliers); default mse",
     "--loss cosine"},
    {"steps", 0, TN_INT, "N", NULL, 1, offsetof(tn_fit_settings, steps), "number of optimizer steps; default one epoch",
     "--steps 1000"},
    {"epochs", 0, TN_INT, "E", NULL, 1, offsetof(tn_fit_settings, epochs),
     "number of passes over the images, instead of --steps", "--epochs 3"},
    {"batch", 0, TN_INT, "B", NULL, 1, offsetof(tn_fit_settings, batch),
     "images in one forward and backward pass, on each rank under mpirun; default 8", "--batch 16"},
    {"accumulate", 0, TN_INT, "A", NULL, 1, offsetof(tn_fit_settings, accumulate),
     "batches in one optimizer step: a larger effective batch in the same memory; default 1", "--accumulate 4"},
    {"lr", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, lr), "peak learning rate; default 0.001", "--lr 0.0003"},
    {"warmup", 0, TN_INT, "N", NULL, 0, offsetof(tn_fit_settings, warmup),
     "steps of linear warmup to --lr, before the cosine decay; default 0", "--warmup 100"},
    {"min-lr", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, min_lr),
     "learning rate at the end of the cosine decay; default 0", "--min-lr 0.00001"},
    {"weight-decay", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, weight_decay),
     "weight decay of AdamW, not applied to biases; default 0.01", "--weight-decay 0.05"},
    {"decay-biases", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_fit_settings, decay_biases),
     "apply weight decay to biases too", "--decay-biases"},
    {"beta1", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, beta1),
     "AdamW decay rate of the first moment; default 0.9", "--beta1 0.9"},
    {"beta2", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, beta2),
     "AdamW decay rate of the second moment; default 0.999", "--beta2 0.95"},
    {"eps", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, eps),
     "term added to the denominator of AdamW; default 1e-8", "--eps 1e-6"},
    {"clip", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, clip),
     "clip the global gradient norm; 0 disables; default 1", "--clip 0.5"},
    {"freeze", 0, TN_STRING, "PATTERN", NULL, 0, offsetof(tn_fit_settings, freeze),
     "names of parameters to freeze, separated by commas; * matches any characters", "--freeze 'proj1.*,k_proj.bias'"},
    {"no-master", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_fit_settings, no_master),
     "keep no f32 master copies of bf16 and f16 parameters: less memory, but small updates are lost to rounding",
     "--no-master"},
    {"save-activations", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_fit_settings, save_activations),
     "save activations for the backward pass instead of recomputing them: faster, but memory grows with --batch",
     "--save-activations"},
    {"seed", 0, TN_UINT, "S", NULL, 0, offsetof(tn_fit_settings, seed),
     "seed of the image order and of the validation split; default 0", "--seed 7"},
    {"val-fraction", 0, TN_REAL, "X", NULL, 0, offsetof(tn_fit_settings, val_fraction),
     "share of the images held out for validation; default 0", "--val-fraction 0.05"},
    {"patience", 0, TN_INT, "N", NULL, 1, offsetof(tn_fit_settings, patience),
     "stop after N validations in a row without improvement", "--patience 5"},
    {"checkpoint", 0, TN_STRING, "DIR", "@folder", 0, offsetof(tn_fit_settings, checkpoint),
     "folder for checkpoints, written every --every steps, at the end and on Ctrl-C; the connector with the best "
     "validation loss is saved there too",
     "--checkpoint run1/"},
    {"every", 0, TN_INT, "K", NULL, 1, offsetof(tn_fit_settings, every),
     "steps between checkpoints and between validations; default 100", "--every 500"},
    {"resume", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_fit_settings, resume),
     "continue from the checkpoint in --checkpoint with the same bits as an uninterrupted run; without a checkpoint, "
     "start a new run",
     "--resume"},
    {"skip-nonfinite", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_fit_settings, skip_nonfinite),
     "skip and count steps whose loss or gradient is infinite or NaN, instead of stopping", "--skip-nonfinite"},
    {"log", 0, TN_STRING, "FILE", "@output", 0, offsetof(tn_fit_settings, log),
     "file that receives one line of JSON per step and per validation", "--log run1.jsonl"},
    {"window", 0, TN_INT, "W", NULL, 1, offsetof(tn_fit_settings, window), "pooling window, instead of the config's",
     "--window 3"},
    {"grid", 0, TN_PAIR, "HxW", NULL, 0, offsetof(tn_fit_settings, grid),
     "rows x columns of the patch grid; default a square grid", "--grid 32x128"},
    TN_MODEL_OPTION_PREFIX(tn_fit_settings),
    TN_MODEL_OPTION_RENAME(tn_fit_settings),
    TN_MODEL_OPTION_CONFIG(tn_fit_settings),
    TN_MODEL_OPTION_FAMILY(tn_fit_settings),
    TN_MODEL_OPTION_ACTIVATION(tn_fit_settings),
    {"tensor", 0, TN_STRING, "NAME", NULL, 0, offsetof(tn_fit_settings, tensor),
     "name of the features in a .safetensors file; default features, or the only floating-point tensor",
     "--tensor image_features"},
    {"target-tensor", 0, TN_STRING, "NAME", NULL, 0, offsetof(tn_fit_settings, target_tensor),
     "name of the targets in a .safetensors file; default tokens, or the only floating-point tensor",
     "--target-tensor tokens"},
    {"npy-bf16", 0, TN_FLAG, NULL, NULL, 0, offsetof(tn_fit_settings, npy_bfloat16),
     "read uint16 npy features and targets as bfloat16", "--npy-bf16"},
    {"threads", 0, TN_INT, "N", NULL, 1, offsetof(tn_fit_settings, threads),
     "number of compute threads, which does not change the result; default OMP_NUM_THREADS, else one per core that "
     "affinity and CPU quota allow",
     "--threads 4"},
    {"cpu", 0, TN_STRING, "LEVEL", "@levels", 0, offsetof(tn_fit_settings, cpu),
     "highest CPU level to use; default TENON_CPU, else the best available", "--cpu baseline"},
    TN_OPTION_JSON(tn_fit_settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon run mlp.safetensors features/ -o tokens/", "target tokens from a larger connector"},
    {"tenon fit --model pool.safetensors --features features/ --targets tokens/ --epochs 3 --lr 0.0005 --warmup 100 "
     "--val-fraction 0.05 --checkpoint run1/ --resume --log run1.jsonl -o fitted.safetensors",
     "a run that can be interrupted and continued with the same command"},
    {"mpirun -n 4 tenon fit --model pool.safetensors --features features/ --targets tokens/ --batch 8 -o "
     "fitted.safetensors",
     "on several machines, in a build with MPI"},
    {.line = NULL}};

/* ---- options ---- */

/* What the options say of the trainer, but for the length of the run; false: one of them is out of its range. */
static bool trainer_options(const tn_fit_settings *g, tenon_trainer_options *o, tenon_error *error)
{
    tenon_trainer_options_init(o);
    if (tenon_loss_from_name(g->loss, &o->loss, error) != TENON_OK) return false;
    o->lr = g->lr;
    o->min_lr = g->min_lr;
    o->beta1 = g->beta1;
    o->beta2 = g->beta2;
    o->eps = g->eps;
    o->weight_decay = g->weight_decay;
    o->decay_biases = g->decay_biases;
    o->clip = g->clip;
    o->no_master = g->no_master;
    o->save_activations = g->save_activations;
    o->cpu = g->cpu;
    return tenon_trainer_options_check(o, error) == TENON_OK;
}

static int check_numbers(const tn_command *command, const tn_fit_settings *given)
{
    int code = tn_check_most(command, "threads", given->threads, TN_MOST_THREADS);
    if (code >= 0) return code;
    tenon_error error;
    tenon_trainer_options trainer;
    if (!trainer_options(given, &trainer, &error)) return tn_usage(command, "%s", error.message);
    if (given->steps && given->epochs) return tn_usage(command, "give --steps or --epochs, not both");
    if (given->val_fraction >= 1)
        return tn_usage(command, "--val-fraction is a share below 1, got %g", given->val_fraction);
    if (given->patience && given->val_fraction == 0)
        return tn_usage(command, "--patience needs images to validate on: --val-fraction X");
    if (given->resume && !given->checkpoint)
        return tn_usage(command, "--resume needs --checkpoint DIR, the folder of the run to go on with");
    if (given->batch > INT64_C(1) << 31 || given->accumulate > INT64_C(1) << 31)
        return tn_usage(command, "--batch and --accumulate are at most 2^31");
    return -1;
}

static int check_settings(const tn_command *command, const tn_fit_settings *given)
{
    if (!given->start) return tn_usage(command, "fit needs --model FILE, the connector to begin with");
    if (!given->features) return tn_usage(command, "fit needs --features DIR");
    if (!given->targets)
        return tn_usage(command, "fit needs --targets DIR, the tokens that the features should become");
    if (!given->output) return tn_usage(command, "fit needs -o FILE, where to write the fitted connector");
    return check_numbers(command, given);
}

/* "a,b" as an array of patterns in one block of memory; NULL: out of memory. */
static char **split_patterns(const char *text, int64_t *count)
{
    size_t length = text ? strlen(text) : 0;
    char **list = malloc((length + 2) * sizeof *list + length + 1);
    if (!list) return NULL;
    char *copy = (char *)(list + length + 2);
    memcpy(copy, text ? text : "", length + 1);
    *count = 0;
    for (char *at = copy; *at;) {
        size_t part = strcspn(at, ",");
        bool last = at[part] == 0;
        at[part] = 0;
        list[(*count)++] = at;
        at += part + !last;
    }
    return list;
}

/* ---- opening ---- */

static bool check_names(const tn_command *command, const tn_fit_settings *given, tenon_error *error)
{
    static const char *const no_words[TN_MAX_ARGUMENTS] = {NULL};
    tn_names *names;
    if (!tn_names_new(command, given, no_words, &names, error)) return false;
    bool good = tn_fit_folder_names(given, names, error) && tn_names_check(names, error);
    tn_names_free(names);
    return good;
}

/* Can it be written? Asked before hours of work, and after the folder of checkpoints is made: it may lie there. */
static bool check_output(const tn_fit_settings *given, tenon_error *error)
{
    tenon_writer *writer;
    if (tn_ranks_index() != 0) return true;
    if (tenon_writer_new(given->output, &writer, error) != TENON_OK) return false;
    tenon_writer_free(writer);
    return true;
}

static bool count_steps(tn_fit *fit, tenon_error *error)
{
    const tn_fit_settings *g = fit->given;
    int64_t images, epochs = g->epochs ? g->epochs : 1, last;
    bool past = __builtin_mul_overflow(g->batch * tn_ranks_count(), g->accumulate, &fit->images_a_step);
    past = past || __builtin_mul_overflow(tn_fit_data_training(fit->data), epochs, &images);
    if (past) return tn_error(error, "--batch, --accumulate and --epochs give more images than this program can count");
    fit->steps = g->steps ? g->steps : images / fit->images_a_step + (images % fit->images_a_step != 0);
    if (__builtin_mul_overflow(fit->steps, fit->images_a_step, &last))
        return tn_error(error, "--steps gives more images than this program can count");
    if (g->warmup <= fit->steps) return true;
    return tn_error(error, "--warmup %" PRId64 " is more than the %" PRId64 " steps of the run", g->warmup, fit->steps);
}

/* Packs once, so that the level is known before anything is compared with a checkpoint; the trainer's steps write over
 * this pack. */
static bool prepare(tn_fit *fit, tenon_error *error)
{
    tenon_prepare_options prepared;
    tenon_prepare_options_init(&prepared);
    prepared.cpu = fit->given->cpu;
    prepared.executor = tn_pool_executor(fit->pool);
    prepared.train = true;
    return tenon_adapter_prepare(fit->adapter, &prepared, error) == TENON_OK;
}

static bool make_trainer(tn_fit *fit, tenon_error *error)
{
    const tn_fit_settings *g = fit->given;
    tenon_trainer_options o;
    int64_t patterns;
    if (!trainer_options(g, &o, error)) return false;
    char **freeze = split_patterns(g->freeze, &patterns);
    if (!freeze) return tn_error(error, "out of memory");
    o.steps = fit->steps;
    o.warmup = g->warmup;
    o.freeze = (const char *const *)freeze;
    o.num_freeze = patterns;
    o.sum = tn_ranks_count() > 1 ? tn_ranks_sum : NULL;
    o.executor = tn_pool_executor(fit->pool);
    tenon_error reason;
    tenon_status status = tenon_trainer_new(fit->adapter, &o, &fit->trainer, &reason);
    free(freeze);
    if (status == TENON_OK) return true;
    /* The other options are checked by now: it is a pattern that matches nothing, or everything. */
    const bool is_freeze = g->freeze && (status == TENON_NOT_FOUND || status == TENON_INVALID);
    return is_freeze ? tn_error(error, "--freeze %.500s: %.3000s", g->freeze, reason.message)
                     : tn_error(error, "%s", reason.message);
}

static bool open_all(tn_fit *fit, tenon_error *error)
{
    const tn_fit_settings *g = fit->given;
    if (!tn_paths_has_suffix(g->output, ".safetensors"))
        return tn_error(error, "%s: a connector is written as .safetensors", g->output);
    if (!tn_pool_new((int)g->threads, &fit->pool, error) ||
        tn_model_open(g->start, &g->model, false, &fit->adapter, NULL, error) != TENON_OK ||
        !tn_fit_check_finite(fit, error) || !tn_hash_weights(fit->adapter, fit->start_hash, error) ||
        !prepare(fit, error))
        return false;
    tenon_call_init(&fit->call);
    fit->call.pool_window = g->window;
    tn_call_set_grid(&fit->call, g->grid);
    if (!tn_fit_data_open(g, fit->adapter, &fit->call, &fit->data, error) || !count_steps(fit, error) ||
        !make_trainer(fit, error))
        return false;
    return tn_fit_data_hash(fit->data, fit->data_hash, error);
}

/* ---- the run ---- */

static void say_resumed(const tn_fit *fit)
{
    tn_note("going on from step %" PRId64 " of %" PRId64 " (%s)", fit->state.done, fit->steps, fit->given->checkpoint);
    if (fit->steps != fit->steps_before)
        tn_note("the run was to have %" PRId64 " steps; from here on the learning rate is that of a run of %" PRId64,
                fit->steps_before, fit->steps);
}

static bool resume(tn_fit *fit, tenon_error *error)
{
    bool found;
    if (!tn_ranks_agree(tn_fit_resume(fit, &found, error)) || !tn_fit_check_progress(fit, error)) return false;
    if (found && tn_ranks_index() == 0) say_resumed(fit);
    return tn_ranks_agree(tn_fit_report_open(fit, error));
}

static void say_interrupted(const tn_fit *fit)
{
    if (tn_ranks_index() != 0) return;
    if (fit->given->checkpoint)
        tn_note("interrupted after step %" PRId64 " of %" PRId64 "; the same command with --resume goes on from there",
                fit->state.done, fit->steps);
    else
        tn_note("interrupted after step %" PRId64 " of %" PRId64
                "; nothing was saved: with --checkpoint DIR it would be",
                fit->state.done, fit->steps);
}

/* *signal: it was interrupted, which is no error and no success. */
static bool fit_all(const tn_command *command, tn_fit *fit, int *signal, tenon_error *error)
{
    const bool opened = check_names(command, fit->given, error) && open_all(fit, error);
    if (!tn_ranks_agree(opened) || !tn_fit_check_ranks(fit, error)) return false;
    if (!tn_ranks_agree(tn_fit_open_folder(fit, error) && check_output(fit->given, error)) || !resume(fit, error))
        return false;
    bool good = tn_fit_run(fit, signal, error);
    if (good) good = tn_ranks_agree(tn_fit_report_sync(fit, error));
    tn_fit_report_close(fit);
    if (!good || *signal) return good;
    if (!tn_ranks_agree(tn_fit_check_finite(fit, error))) return false;
    if (tn_ranks_index() != 0) return tn_ranks_agree(true);
    return tn_ranks_agree(tenon_adapter_save(fit->adapter, fit->given->output, NULL, error) == TENON_OK);
}

static int finish(const tn_fit *fit, bool good, int signal, const tenon_error *error)
{
    if (good && signal) say_interrupted(fit);
    if (good && !signal) return tn_ranks_index() == 0 ? tn_fit_report_end(fit) : TN_EXIT_OK;
    return good ? TN_EXIT_FAILURE : tn_failed_on_ranks(error);
}

static int run_fit(const tn_command *command, const tn_fit_settings *given)
{
    tenon_error error;
    tn_fit fit = {.given = given, .started = tn_seconds()};
    int signal = 0;
    error.message[0] = 0;
    fit.state =
        (tn_fit_state){.first_loss = NAN, .last_loss = NAN, .first_val = NAN, .last_val = NAN, .best_val = INFINITY};
    bool good = fit_all(command, &fit, &signal, &error);
    tn_fit_report_close(&fit);
    tn_lock_release(fit.lock);
    int code = finish(&fit, good, signal, &error);
    tenon_trainer_free(fit.trainer);
    tn_fit_data_close(fit.data);
    tenon_adapter_free(fit.adapter);
    tn_pool_free(fit.pool);
    return code;
}

static int run(const tn_command *command, int argc, char **argv)
{
    tn_fit_settings given = {.window = TENON_UNSET,
                             .loss = "mse",
                             .batch = 8,
                             .accumulate = 1,
                             .lr = 1e-3,
                             .weight_decay = 0.01,
                             .clip = 1,
                             .beta1 = 0.9,
                             .beta2 = 0.999,
                             .eps = 1e-8,
                             .every = 100};
    const char *words[TN_MAX_ARGUMENTS];
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = check_settings(command, &given);
    if (code >= 0) return code;
    tn_ranks_start();
    tn_interrupt_install();
    code = run_fit(command, &given);
    tn_ranks_end();
    if (code != TN_EXIT_OK) tn_interrupt_end(); /* the run is saved */
    return code;
}

const tn_command tn_command_fit = {
    "fit",
    "fit a connector to target tokens",
    "Trains a connector so that its tokens match target tokens: to distil a large connector into a pooling one, to "
    "initialise one better than at random, or to adapt a connector to another encoder or language model. The "
    "optimizer is AdamW with gradient clipping, linear warmup and cosine decay. The seed determines the order of the "
    "images; the same seed, data and CPU level give the same bytes for any number of threads and interruptions. A "
    "progress bar shows loss, gradient norm, learning rate and remaining time; a table on standard output summarises "
    "the run. With --checkpoint a run can be killed at any time: the same command with --resume continues from the "
    "last checkpoint.",
    arguments,
    options,
    examples,
    "0: written. 1: invalid data or a failure; files written before are complete. 2: invalid command "
    "line. 128 + N in a shell: interrupted by signal N.",
    run,
    true};
