/* SPDX-License-Identifier: MIT */
/* The trainer: an adapter, what the optimizer keeps for it, and the memory of a step.
 *
 *   trainer.c    options, freezing, new, free     step.c        forward, loss, backward; apply
 *   loss.c       losses of tokens                 optimizer.c   AdamW, norm; schedule.c the rate
 *   checkpoint.c save, restore
 */
#ifndef TN_TRAIN_TRAINER_H
#define TN_TRAIN_TRAINER_H

#include "adapter/adapter.h"
#include "train/schedule.h"

/* A parameter that is trained: where its numbers lie in the arrays of the trainer. */
typedef struct tn_trained {
    int64_t parameter; /* its number in the adapter */
    int64_t offset, count;
    bool decays;
    int64_t shape[TN_MAX_PARAMETER_DIMS];
    DLTensor gradient; /* a view of trainer->gradients; its shape is the field above */
} tn_trained;

/* Memory that grows to what was asked for most. */
typedef struct tn_grown {
    void *data;
    size_t size;
} tn_grown;

/* Behind the gradients, so that one sum over the processes is enough: number of images, sum of their losses. */
enum { TN_TAIL_IMAGES, TN_TAIL_LOSS, TN_TAIL };

struct tenon_trainer {
    tenon_adapter *adapter;
    tenon_trainer_options options; /* pointers of the caller are not kept, but for the executor and the sum */
    char cpu[32];                  /* "" for NULL */
    tn_parallel parallel;
    tn_schedule schedule;
    int64_t num_trained;
    tn_trained *trained;     /* [num_trained] */
    const DLTensor **wanted; /* [num_parameters] the gradients that backward adds to; NULL where frozen */
    int64_t count;           /* numbers of all trained parameters */
    bool summed;             /* the gradients hold something; else the next backward overwrites them */
    float *gradients;        /* [count + TN_TAIL] */
    float *m, *v;            /* [count] */
    float *master;           /* [count] or NULL */
    double *partial;         /* of the norm */
    tn_grown state;          /* holds the five arrays above */
    int64_t steps;           /* taken */
    int64_t images;          /* whose gradients are summed up */
    double loss;             /* sum over them */
    bool prepared;           /* since the parameters changed last */
    tn_grown tokens;         /* [batch, out_tokens, out_dim], then their gradient */
    tn_grown losses, workspace, saved, row; /* [batch * out_tokens]; of a call; of a call; [workers, out_dim] */
};

#endif
