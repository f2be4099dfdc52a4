/* SPDX-License-Identifier: MIT */
/* One batch: forward, loss, backward. One step: sum over processes, norm, clip, AdamW. */
#include "train/trainer.h"

#include "core/error.h"
#include "core/size.h"
#include "core/tensor.h"
#include "core/versioned.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include <math.h>
#include <string.h>

/* A batch, checked. */
typedef struct batch {
    tenon_trainer *trainer;
    tenon_call call;
    const DLTensor *x;
    tn_tensor target; /* [images, tokens, dim] */
    int64_t shape[3]; /* of the tokens */
    int64_t patches;  /* per image, prefix tokens included */
    DLTensor tokens;  /* trainer->tokens */
    double *losses;   /* [images], the caller's, or NULL */
    double loss;      /* sum over the images */
} batch;

/* ---- memory ---- */

static tenon_status grow(const tenon_trainer *trainer, tn_grown *memory, size_t size, const char *what,
                         tenon_error *error)
{
    const tenon_allocator *allocator = &trainer->adapter->allocator;
    if (memory->data != NULL && memory->size >= size) return TENON_OK;
    if (memory->data != NULL) tn_free(allocator, memory->data, memory->size);
    *memory = (tn_grown){.data = NULL};
    TN_TRY(tn_alloc(allocator, size, what, &memory->data, error));
    memory->size = size;
    return TENON_OK;
}

static tenon_status grow_for(batch *b, tenon_error *error)
{
    tenon_trainer *t = b->trainer;
    size_t tokens, losses, row;
    if (!tn_shape_bytes(3, b->shape, sizeof(float), &tokens) || !tn_shape_bytes(2, b->shape, sizeof(double), &losses) ||
        !tn_mul_size((size_t)t->parallel.workers, (size_t)b->shape[2] * sizeof(float), &row)) {
        return tn_fail(error, TENON_INVALID, "tokens of shape %s are too many", tn_shape_to_text(3, b->shape).text);
    }
    TN_TRY(grow(t, &t->tokens, tokens, "tokens of a batch", error));
    TN_TRY(grow(t, &t->losses, losses, "losses of a batch", error));
    return grow(t, &t->row, row, "targets of a batch", error);
}

static tenon_status get_workspace(batch *b, bool backward, tenon_workspace *workspace, tenon_error *error)
{
    tenon_trainer *t = b->trainer;
    size_t bytes;
    if (backward) {
        tenon_gradients gradients;
        tenon_gradients_init(&gradients);
        gradients.parameters = t->wanted;
        TN_TRY(tenon_adapter_backward_workspace_size(t->adapter, b->patches, &gradients, &b->call, &bytes, error));
    } else {
        TN_TRY(tenon_adapter_workspace_size(t->adapter, b->patches, &b->call, &bytes, error));
    }
    TN_TRY(grow(t, &t->workspace, bytes, "workspace of a batch", error));
    *workspace = (tenon_workspace){t->workspace.data, t->workspace.size};
    return TENON_OK;
}

/* ---- a batch ---- */

static tenon_status open_batch(batch *b, tenon_trainer *trainer, const DLTensor *x, const DLTensor *target,
                               const tenon_call *call, double *losses, tenon_error *error)
{
    tn_tensor view;
    *b = (batch){.trainer = trainer, .x = x, .losses = losses};
    TN_TRY(tn_call_read(&b->call, call, error));
    if (b->call.threads == 0) b->call.threads = trainer->options.threads;
    if (b->call.executor == NULL) b->call.executor = trainer->options.executor;
    const bool one_image = x != NULL && x->ndim == 2;
    TN_TRY(tn_images_view(x, "x", 3, one_image, TN_F32, NULL, &view, error));
    b->patches = view.shape[1];
    b->shape[0] = view.shape[0];
    b->shape[2] = trainer->adapter->out_dim;
    TN_TRY(tenon_adapter_output_num_tokens(trainer->adapter, &b->call, b->patches, &b->shape[1], error));
    TN_TRY(tn_images_view(target, "target", 3, one_image, TN_F32, b->shape, &b->target, error));
    TN_TRY(grow_for(b, error));
    b->tokens = (DLTensor){.data = trainer->tokens.data,
                           .device = {kDLCPU, 0},
                           .ndim = one_image ? 2 : 3,
                           .dtype = tenon_dtype_to_dlpack(TENON_F32),
                           .shape = one_image ? b->shape + 1 : b->shape};
    return TENON_OK;
}

static tenon_status prepare(tenon_trainer *trainer, tenon_error *error)
{
    tenon_prepare_options options;
    if (trainer->prepared) return TENON_OK;
    tenon_prepare_options_init(&options);
    options.cpu = trainer->options.cpu;
    options.threads = trainer->options.threads;
    options.executor = trainer->options.executor;
    options.train = true;
    TN_TRY(tenon_adapter_prepare(trainer->adapter, &options, error));
    trainer->prepared = true;
    return TENON_OK;
}

/* What forward leaves for backward, in memory of the trainer. */
static tenon_status keep_for_backward(batch *b, tenon_error *error)
{
    tenon_trainer *t = b->trainer;
    size_t bytes;
    if (!t->options.save_activations) return TENON_OK;
    TN_TRY(tenon_adapter_saved_size(t->adapter, b->shape[0], b->patches, &b->call, &bytes, error));
    TN_TRY(grow(t, &t->saved, bytes, "what backward needs of a batch", error));
    b->call.saved = t->saved.data;
    b->call.saved_size = t->saved.size;
    return TENON_OK;
}

/* Forward, and the losses; the tokens become their gradient where `differentiate` says so. */
static tenon_status find_losses(batch *b, bool differentiate, tenon_error *error)
{
    tenon_trainer *t = b->trainer;
    tenon_workspace workspace;
    TN_TRY(prepare(t, error));
    if (differentiate) TN_TRY(keep_for_backward(b, error));
    TN_TRY(get_workspace(b, false, &workspace, error));
    TN_TRY(tenon_adapter_forward(t->adapter, b->x, &b->tokens, &b->call, &workspace, error));
    double *rows = t->losses.data;
    tn_loss_rows(&t->parallel, t->tokens.data, rows, t->options.loss, differentiate, &b->target, t->row.data);
    for (int64_t i = 0; i < b->shape[0]; i++) {
        double sum = 0;
        for (int64_t m = 0; m < b->shape[1]; m++)
            sum += rows[i * b->shape[1] + m];
        const double loss = b->shape[1] > 0 ? sum / (double)b->shape[1] : 0;
        if (b->losses != NULL) b->losses[i] = loss;
        b->loss += loss;
    }
    return TENON_OK;
}

tenon_status tenon_trainer_evaluate(tenon_trainer *trainer, const DLTensor *x, const DLTensor *target,
                                    const tenon_call *call, double *losses, tenon_error *error)
{
    batch b;
    TN_TRY(open_batch(&b, trainer, x, target, call, losses, error));
    return find_losses(&b, false, error);
}

tenon_status tenon_trainer_step(tenon_trainer *trainer, const DLTensor *x, const DLTensor *target,
                                const tenon_call *call, double *losses, tenon_error *error)
{
    batch b;
    tenon_workspace workspace;
    tenon_gradients gradients;
    tenon_gradients_init(&gradients);
    gradients.parameters = trainer->wanted;
    gradients.overwrite = !trainer->summed;
    TN_TRY(open_batch(&b, trainer, x, target, call, losses, error));
    TN_TRY(find_losses(&b, true, error));
    if (isfinite(b.loss)) {
        TN_TRY(get_workspace(&b, true, &workspace, error));
        TN_TRY(tenon_adapter_backward(trainer->adapter, &b.tokens, x, &gradients, &b.call, &workspace, error));
        trainer->summed = true;
    }
    trainer->images += b.shape[0];
    trainer->loss += b.loss;
    return TENON_OK;
}

/* ---- a step ---- */

void tenon_step_info_init(tenon_step_info *info)
{
    *info = (tenon_step_info){.size = sizeof *info};
}

void tenon_trainer_clear(tenon_trainer *trainer)
{
    trainer->summed = false;
    trainer->images = 0;
    trainer->loss = 0;
}

/* Norm of the mean over `images`. */
static double gradient_norm(const tenon_trainer *trainer, double images)
{
    if (!trainer->summed) return 0;
    const double squares = tn_sum_of_squares(&trainer->parallel, trainer->partial, trainer->gradients, trainer->count);
    return images > 0 ? sqrt(squares) / images : sqrt(squares);
}

double tenon_trainer_gradient_norm(const tenon_trainer *trainer)
{
    return gradient_norm(trainer, (double)trainer->images);
}

/* Images and losses travel behind the gradients; both are sums. */
static tenon_status sum_over_processes(tenon_trainer *trainer, tenon_step_info *info, tenon_error *error)
{
    float *tail = trainer->gradients + trainer->count;
    info->images = trainer->images;
    info->loss = trainer->loss;
    if (trainer->options.sum != NULL) {
        if (!trainer->summed) memset(trainer->gradients, 0, (size_t)trainer->count * sizeof *trainer->gradients);
        trainer->summed = true;
        tail[TN_TAIL_IMAGES] = (float)trainer->images;
        tail[TN_TAIL_LOSS] = (float)trainer->loss;
        const size_t count = (size_t)trainer->count + TN_TAIL;
        const int failed = trainer->options.sum(trainer->options.sum_context, trainer->gradients, count);
        if (failed != 0) {
            return tn_fail(error, TENON_IO, "the sum of gradients over the processes failed with %d", failed);
        }
        info->images = (int64_t)tail[TN_TAIL_IMAGES];
        info->loss = tail[TN_TAIL_LOSS];
    }
    if (info->images > 0) info->loss /= (double)info->images;
    return TENON_OK;
}

static void update_parameters(tenon_trainer *trainer, const tenon_step_info *info)
{
    const tenon_trainer_options *o = &trainer->options;
    for (int64_t i = 0; i < trainer->num_trained; i++) {
        const tn_trained *t = &trainer->trained[i];
        const tn_parameter *parameter = &trainer->adapter->parameters[t->parameter];
        const tn_adamw settings = {.lr = info->lr,
                                   .beta1 = o->beta1,
                                   .beta2 = o->beta2,
                                   .eps = o->eps,
                                   .weight_decay = t->decays ? o->weight_decay : 0,
                                   .scale = tn_clip_factor(info->gradient_norm, o->clip) / (double)info->images,
                                   .step = info->step};
        const tn_adamw_arrays arrays = {.parameter = parameter->data,
                                        .dtype = parameter->dtype,
                                        .master = trainer->master != NULL ? trainer->master + t->offset : NULL,
                                        .m = trainer->m + t->offset,
                                        .v = trainer->v + t->offset,
                                        .gradient = trainer->gradients + t->offset,
                                        .count = t->count};
        tn_adamw_step(&trainer->parallel, &arrays, &settings);
    }
    trainer->steps++;
    trainer->prepared = false;
}

tenon_status tenon_trainer_apply(tenon_trainer *trainer, tenon_step_info *info, tenon_error *error)
{
    tenon_step_info done;
    tenon_step_info_init(&done);
    TN_TRY(sum_over_processes(trainer, &done, error));
    done.lr = tn_schedule_rate(&trainer->schedule, trainer->steps);
    done.gradient_norm = gradient_norm(trainer, (double)done.images);
    done.applied = done.images > 0 && isfinite(done.loss) && isfinite(done.gradient_norm);
    done.step = trainer->steps + (done.applied ? 1 : 0);
    if (done.applied) update_parameters(trainer, &done);
    tenon_trainer_clear(trainer);
    if (info == NULL) return TENON_OK;
    return tn_struct_write(info, &done, sizeof done, TN_FIRST_SIZE(tenon_step_info, applied), "tenon_step_info", error);
}
