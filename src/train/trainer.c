/* SPDX-License-Identifier: MIT */
/* Making a trainer: options checked, patterns matched, arrays cut. */
#include "train/trainer.h"

#include "core/error.h"
#include "core/size.h"
#include "core/versioned.h"
#include "train/optimizer.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void tenon_trainer_options_init(tenon_trainer_options *options)
{
    *options = (tenon_trainer_options){.size = sizeof *options,
                                       .loss = TENON_LOSS_MSE,
                                       .lr = 1e-3,
                                       .beta1 = 0.9,
                                       .beta2 = 0.999,
                                       .eps = 1e-8,
                                       .weight_decay = 0.01,
                                       .clip = 1};
}

/* ---- options ---- */

static tenon_status check_number(const char *name, double value, double low, double high, tenon_error *error)
{
    if (value >= low && value < high) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "`%s` must be from %g to below %g (got %g)", name, low, high, value);
}

/* A gradient that is exactly zero leaves moments of zero, and the step is then 0 / eps; it is taken in f32. */
static tenon_status check_eps(double eps, tenon_error *error)
{
    if (isfinite(eps) && eps <= FLT_MAX && (float)eps > 0) return TENON_OK;
    return tn_fail(
        error, TENON_INVALID,
        "`eps` must be above 0, also when it is rounded to f32 (got %g): where a gradient is exactly zero the "
        "step divides by it",
        eps);
}

static tenon_status check_options(const tenon_trainer_options *o, tenon_error *error)
{
    if (tenon_loss_name(o->loss) == NULL) {
        return tn_fail(error, TENON_INVALID, "there is no loss number %d", (int)o->loss);
    }
    TN_TRY(check_number("lr", o->lr, 0, INFINITY, error));
    TN_TRY(check_number("min_lr", o->min_lr, 0, INFINITY, error));
    TN_TRY(check_number("beta1", o->beta1, 0, 1, error));
    TN_TRY(check_number("beta2", o->beta2, 0, 1, error));
    TN_TRY(check_eps(o->eps, error));
    TN_TRY(check_number("weight_decay", o->weight_decay, 0, INFINITY, error));
    TN_TRY(check_number("clip", o->clip, 0, INFINITY, error));
    if (o->min_lr > o->lr) {
        return tn_fail(error, TENON_INVALID, "`min_lr` (%g), at which the schedule ends, is above `lr` (%g)", o->min_lr,
                       o->lr);
    }
    if (o->warmup < 0 || o->steps < 0 || (o->steps > 0 && o->warmup > o->steps)) {
        return tn_fail(error, TENON_INVALID, "`warmup` of %lld steps does not fit a run of %lld", (long long)o->warmup,
                       (long long)o->steps);
    }
    return TENON_OK;
}

static tenon_status read_options(const tenon_trainer_options *given, tenon_trainer_options *o, tenon_error *error)
{
    tenon_trainer_options_init(o);
    TN_TRY(tn_struct_read(o, sizeof *o, given, TN_FIRST_SIZE(tenon_trainer_options, executor), "tenon_trainer_options",
                          error));
    return check_options(o, error);
}

tenon_status tenon_trainer_options_check(const tenon_trainer_options *options, tenon_error *error)
{
    tenon_trainer_options read;
    return read_options(options, &read, error);
}

static tenon_status take_options(tenon_trainer *trainer, const tenon_trainer_options *given, tenon_error *error)
{
    tenon_trainer_options *o = &trainer->options;
    TN_TRY(read_options(given, o, error));
    const tn_ops *ops; /* a level that there is not is found now, not after the first batch was read */
    TN_TRY(tn_find_table(o->cpu, &ops, error));
    if (o->cpu != NULL) {
        tn_text text = {trainer->cpu, sizeof trainer->cpu, 0};
        tn_text_add(&text, "%s", ops->name);
        o->cpu = trainer->cpu;
    }
    trainer->schedule = (tn_schedule){o->lr, o->min_lr, o->warmup, o->steps};
    return tn_parallel_init(&trainer->parallel, o->threads, o->executor, error);
}

/* ---- what is trained ---- */

static bool is_frozen(const tenon_trainer_options *o, const char *name)
{
    for (int64_t i = 0; i < o->num_freeze; i++) {
        if (tenon_name_matches(o->freeze[i], name)) return true;
    }
    return false;
}

/* Every pattern must name a parameter: one that does not is a misspelt one. */
static tenon_status check_patterns(const tn_graph *graph, const tenon_trainer_options *o, tenon_error *error)
{
    for (int64_t i = 0; i < o->num_freeze; i++) {
        char names[1024] = "";
        tn_text text = {names, sizeof names, 0};
        bool found = false;
        for (int64_t p = 0; p < graph->num_parameters && !found; p++) {
            found = tenon_name_matches(o->freeze[i], graph->parameters[p].name);
            tn_text_add(&text, "%s%s", p > 0 ? ", " : "", graph->parameters[p].name);
        }
        if (found) continue;
        return tn_fail(error, TENON_NOT_FOUND, "no parameter matches '%s', so nothing would be frozen; there are %s",
                       tn_quote(o->freeze[i]).text, names);
    }
    return TENON_OK;
}

static tenon_status list_trained(tenon_trainer *trainer, tenon_error *error)
{
    const tn_graph *graph = trainer->adapter->graph;
    TN_TRY(check_patterns(graph, &trainer->options, error));
    trainer->trained = calloc((size_t)graph->num_parameters + 1, sizeof *trainer->trained);
    trainer->wanted = calloc((size_t)graph->num_parameters + 1, sizeof *trainer->wanted);
    if (trainer->trained == NULL || trainer->wanted == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: a trainer cannot be made");
    }
    for (int64_t p = 0; p < graph->num_parameters; p++) {
        const tn_parameter_spec *spec = &graph->parameters[p];
        if (is_frozen(&trainer->options, spec->name)) continue;
        tn_trained *t = &trainer->trained[trainer->num_trained++];
        *t = (tn_trained){.parameter = p,
                          .offset = trainer->count,
                          .count = tn_parameter_elements(spec),
                          .decays = spec->decays || trainer->options.decay_biases};
        memcpy(t->shape, spec->shape, sizeof t->shape);
        trainer->count += t->count;
    }
    if (trainer->num_trained > 0) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "every parameter is frozen; nothing is left to train");
}

/* ---- arrays ---- */

static bool needs_master(const tenon_trainer *trainer)
{
    for (int64_t i = 0; i < trainer->num_trained; i++) {
        const tn_parameter *parameter = &trainer->adapter->parameters[trainer->trained[i].parameter];
        if (parameter->dtype != TN_F32 && !trainer->options.no_master) return true;
    }
    return false;
}

/* Gradients, m, v, the master copy and the parts of the norm, one behind the other, each on a cache line. */
static tenon_status cut_arrays(tenon_trainer *trainer, tenon_error *error)
{
    const int arrays = needs_master(trainer) ? 4 : 3;
    const size_t line = TN_ALIGN / sizeof(float);
    const size_t each = tn_align_up((size_t)trainer->count + TN_TAIL, line);
    const size_t parts = (size_t)tn_square_parts(trainer->count) * sizeof(double);
    size_t bytes;
    if (!tn_mul_size(each, (size_t)arrays * sizeof(float), &bytes) || !tn_add_size(bytes, parts, &bytes)) {
        return tn_fail(error, TENON_INVALID, "the parameters are too many to train");
    }
    TN_TRY(tn_alloc(&trainer->adapter->allocator, bytes, "gradients and moments", &trainer->state.data, error));
    trainer->state.size = bytes;
    memset(trainer->state.data, 0, bytes);
    float *next = trainer->state.data;
    trainer->gradients = next;
    trainer->m = next + each;
    trainer->v = next + 2 * each;
    trainer->master = arrays == 4 ? next + 3 * each : NULL;
    trainer->partial = (double *)(void *)(next + (size_t)arrays * each);
    return TENON_OK;
}

static void fill_arrays(tenon_trainer *trainer)
{
    for (int64_t i = 0; i < trainer->num_trained; i++) {
        tn_trained *t = &trainer->trained[i];
        const tn_parameter *parameter = &trainer->adapter->parameters[t->parameter];
        t->gradient = (DLTensor){.data = trainer->gradients + t->offset,
                                 .device = {kDLCPU, 0},
                                 .ndim = trainer->adapter->graph->parameters[t->parameter].ndim,
                                 .dtype = tenon_dtype_to_dlpack(TENON_F32),
                                 .shape = t->shape};
        trainer->wanted[t->parameter] = &t->gradient;
        for (int64_t k = 0; trainer->master != NULL && k < t->count; k++)
            trainer->master[t->offset + k] = (float)tn_load(parameter->data, parameter->dtype, k);
    }
}

/* ---- new and free ---- */

static tenon_status make(tenon_trainer *trainer, const tenon_trainer_options *options, tenon_error *error)
{
    TN_TRY(take_options(trainer, options, error));
    TN_TRY(tn_adapter_check_storage(trainer->adapter, error));
    TN_TRY(list_trained(trainer, error));
    TN_TRY(cut_arrays(trainer, error));
    fill_arrays(trainer);
    trainer->options.freeze = NULL; /* the caller's, and no longer needed */
    trainer->options.num_freeze = 0;
    return TENON_OK;
}

tenon_status tenon_trainer_new(tenon_adapter *adapter, const tenon_trainer_options *options, tenon_trainer **trainer,
                               tenon_error *error)
{
    tenon_trainer *made = calloc(1, sizeof *made);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a trainer cannot be made");
    made->adapter = adapter;
    const tenon_status status = make(made, options, error);
    if (status != TENON_OK) {
        tenon_trainer_free(made);
        return status;
    }
    *trainer = made;
    return TENON_OK;
}

void tenon_trainer_free(tenon_trainer *trainer)
{
    if (trainer == NULL) return;
    tn_grown *const all[] = {&trainer->state, &trainer->tokens,    &trainer->losses,
                             &trainer->saved, &trainer->workspace, &trainer->row};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i]->data != NULL) tn_free(&trainer->adapter->allocator, all[i]->data, all[i]->size);
    }
    free(trainer->trained);
    free(trainer->wanted);
    free(trainer);
}

int64_t tenon_trainer_steps(const tenon_trainer *trainer)
{
    return trainer->steps;
}
