/* SPDX-License-Identifier: MIT */
/* The parts of `tenon fit`: fit.c reads the options, fit_data.c finds and reads images, fit_reader.c reads ahead,
 * fit_loop.c takes the steps, fit_state.c writes checkpoints and goes on from them, fit_report.c says what happens.
 * ranks.h is about processes. */
#ifndef TN_CLI_FIT_H
#define TN_CLI_FIT_H

#include "buffer.h"
#include "hash.h"
#include "json.h"
#include "lock.h"
#include "model.h"
#include "names.h"
#include "options.h"
#include "paths.h"
#include "pool.h"
#include "run/run.h"
#include "tenon/tenon.h"

/* What the command line says. */
typedef struct tn_fit_settings {
    tn_model_settings model;
    const char *start; /* --model */
    const char *features, *targets, *output;
    const char *loss, *freeze;
    int64_t steps, epochs, batch, accumulate, warmup;
    double lr, min_lr, weight_decay, clip, beta1, beta2, eps;
    bool decay_biases, no_master, save_activations;
    uint64_t seed;
    double val_fraction;
    const char *checkpoint, *log;
    int64_t every, patience;
    bool resume, skip_nonfinite;
    int64_t window, threads;
    tn_pair grid;
    const char *tensor, *target_tensor, *cpu;
    bool npy_bfloat16, json;
} tn_fit_settings;

/* ---- fit_data.c: features and targets, and the order in which a run sees them ---- */

typedef struct tn_fit_data tn_fit_data;

/* Images of one shape, read into memory that the batch owns. */
typedef struct tn_fit_batch {
    int64_t count;
    const int64_t *images; /* [count] their numbers, the caller's */
    DLTensor x;            /* (count, tokens, in_dim) */
    DLTensor target;       /* (count, out_tokens, out_dim) */
    int64_t x_shape[3], target_shape[3];
    tn_buffer memory[2];
} tn_fit_batch;

/* Opens every shard's headers and checks that features and targets fit the adapter and each other. The settings, the
 * adapter and the call are borrowed. */
bool tn_fit_data_open(const tn_fit_settings *given, const tenon_adapter *adapter, const tenon_call *call,
                      tn_fit_data **data, tenon_error *error);
void tn_fit_data_close(tn_fit_data *data);

int64_t tn_fit_data_training(const tn_fit_data *data);   /* images to learn from */
int64_t tn_fit_data_validation(const tn_fit_data *data); /* images kept back */

/* The image at a place of the endless stream of shuffled epochs; of the list that was kept back. */
int64_t tn_fit_data_next(const tn_fit_data *data, int64_t place);
int64_t tn_fit_data_kept(const tn_fit_data *data, int64_t index);

/* The names in the folder of features that are no shards; NULL: the features are one file. */
const json_t *tn_fit_data_skipped(const tn_fit_data *data);

/* A hash of the shards' names, shapes, dtypes and sizes, and of samples of their bytes. */
bool tn_fit_data_hash(const tn_fit_data *data, char hash[TN_HASH_SIZE], tenon_error *error);

/* "in/a.npy, image 3". */
bool tn_fit_data_say(const tn_fit_data *data, int64_t image, char *text, size_t size);

/* Reads the longest possible beginning of images[0..count): all of one shape and dtype. Safe from several threads. */
bool tn_fit_data_read(tn_fit_data *data, const int64_t *images, int64_t count, tn_fit_batch *batch, tenon_error *error);
void tn_fit_batch_free(tn_fit_batch *batch);

/* ---- a run ---- */

/* What a run is in the middle of; a checkpoint holds it, beside what the trainer keeps. */
typedef struct tn_fit_state {
    int64_t done;                 /* steps, skipped ones included */
    int64_t skipped;              /* of these */
    int64_t validations, stale;   /* since the run began; since the best */
    double first_loss, last_loss; /* of a step's images; NAN: no step was taken yet */
    double first_val, last_val;   /* infinite or NaN where a held-out image's loss is; NAN while there is none */
    double best_val;              /* the smallest finite one; INFINITY: none yet */
    double seconds;               /* of the runs before this one */
    int64_t log_bytes;            /* length of the log */
} tn_fit_state;

/* One line of the log. */
typedef struct tn_fit_report tn_fit_report;

typedef struct tn_fit {
    const tn_fit_settings *given;
    tn_pool *pool;
    tenon_adapter *adapter;
    tenon_trainer *trainer;
    tn_fit_data *data;
    tn_fit_report *report;
    tenon_call call;
    tn_fit_state state;
    int64_t steps;         /* of the whole run */
    int64_t steps_before;  /* what they were when the checkpoint was written; 0: there was none */
    int64_t images_a_step; /* of all ranks */
    char start_hash[TN_HASH_SIZE], data_hash[TN_HASH_SIZE];
    tn_lock *lock; /* of the folder of checkpoints */
    double started;
    bool stopped_early;
    bool noted_validation; /* it was said that an image's validation loss is not finite */
} tn_fit;

/* ---- fit_reader.c: images ahead of the step that needs them ---- */

typedef struct tn_fit_reader tn_fit_reader;

/* The images of this rank's micro-batch `turn`, counted from the start of the run. */
void tn_fit_pick(const tn_fit *fit, int64_t turn, int64_t *images);

/* Begins to read where the run is. On success the caller owns *reader. */
bool tn_fit_reader_start(tn_fit *fit, tn_fit_reader **reader, tenon_error *error);

/* The next batch, which stays until it is given back; NULL: it could not be read. */
const tn_fit_batch *tn_fit_reader_next(tn_fit_reader *reader, tenon_error *error);
void tn_fit_reader_give_back(tn_fit_reader *reader);
void tn_fit_reader_stop(tn_fit_reader *reader); /* and free; NULL is allowed */

/* ---- the rest ---- */

/* fit_loop.c: takes the steps that are left. *signal is the one that ended it early, or 0. */
bool tn_fit_run(tn_fit *fit, int *signal, tenon_error *error);

/* In the folder of checkpoints: the connector at its best validation. */
#define TN_FIT_BEST "best.safetensors"

/* fit_state.c: the checkpoint's file, saving to it and going on from it. *found: there was one. */
bool tn_fit_save(tn_fit *fit, tenon_error *error);

/* Are the parameters finite, before the first step and after the steps so far? */
bool tn_fit_check_finite(const tn_fit *fit, tenon_error *error);
bool tn_fit_resume(tn_fit *fit, bool *found, tenon_error *error);

/* Are all ranks in the same run, and after some steps at the same parameters? */
bool tn_fit_check_ranks(const tn_fit *fit, tenon_error *error);
bool tn_fit_check_progress(const tn_fit *fit, tenon_error *error);
bool tn_fit_open_folder(tn_fit *fit, tenon_error *error);

/* Adds the files that a run makes in the folder of checkpoints, where there is one. */
bool tn_fit_folder_names(const tn_fit_settings *given, tn_names *names, tenon_error *error);

/* fit_report.c */
bool tn_fit_report_open(tn_fit *fit, tenon_error *error);
bool tn_fit_report_step(tn_fit *fit, const tenon_step_info *info, tenon_error *error);
bool tn_fit_report_validation(tn_fit *fit, tenon_error *error);
bool tn_fit_report_sync(tn_fit *fit, tenon_error *error); /* the log is on the disk, and state.log_bytes its length */
void tn_fit_report_close(tn_fit *fit);                    /* wipes the bar, closes the log */
int tn_fit_report_end(const tn_fit *fit);                 /* the table; an exit code */

#endif
