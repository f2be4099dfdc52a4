/* SPDX-License-Identifier: MIT */
/* Packing: weights in the order that an ops table reads them, published at once, immutable afterwards. */
#include "adapter/adapter.h"

#include "core/size.h"
#include "core/versioned.h"
#include <stdlib.h>
#include <string.h>

static void free_pack(const tenon_adapter *adapter, tn_pack *pack)
{
    if (pack == NULL) return;
    tn_free(&adapter->allocator, pack->data, pack->size);
    free(pack);
}

void tn_pack_release(const tenon_adapter *adapter, const tn_pack *pack)
{
    if (pack == NULL) return;
    tn_pack *held = (tn_pack *)(uintptr_t)pack; /* immutable but for its count */
    tn_lock_acquire(adapter->lock);
    const bool last = --held->references == 0;
    tn_lock_release(adapter->lock);
    if (last) free_pack(adapter, held);
}

/* The thread that was writing over it when this process was forked does not exist here. */
static bool is_abandoned(const tn_pack *pack)
{
    return pack->writer != 0 && pack->writer != tn_process();
}

static void publish(tenon_adapter *adapter, tn_pack *pack)
{
    tn_lock_acquire(adapter->lock);
    tn_pack *old = adapter->pack;
    adapter->pack = pack;
    if (old != NULL && is_abandoned(old)) old->references--; /* its writer's */
    tn_lock_release(adapter->lock);
    tn_pack_release(adapter, old);
}

void tn_adapter_unpublish(tenon_adapter *adapter)
{
    publish(adapter, NULL);
}

tenon_status tn_adapter_check_storage(const tenon_adapter *adapter, tenon_error *error)
{
    for (int64_t i = 0; i < adapter->list->num_parameters; i++) {
        if (adapter->parameters[i].data == NULL) {
            return tn_fail(error, TENON_NOT_PREPARED,
                           "parameter '%s' has no storage; reset, load or set the parameters first",
                           adapter->list->parameters[i].name);
        }
    }
    return TENON_OK;
}

/* The parameters of a layer, in order. */
static tn_weights weights_of(const tenon_adapter *adapter, const tn_layer *layer)
{
    tn_weights weights = {.data = {NULL}};
    for (int64_t i = 0; i < layer->num_parameters; i++) {
        weights.data[i] = adapter->parameters[layer->first_parameter + i].data;
        weights.dtype[i] = adapter->parameters[layer->first_parameter + i].dtype;
        if (weights.dtype[i] == 0) weights.dtype[i] = TN_F32; /* no storage yet: only sizes are asked for */
    }
    return weights;
}

/* W = W2 W1 [n2, k] and b = W2 b1 + b2 [n2] of two linear layers, in the compute dtype, in memory the caller frees. */
static tenon_status fold(const tenon_adapter *adapter, const tn_step *step, const tn_context *context,
                         tn_weights *folded, void **memory, size_t *size, tenon_error *error)
{
    const tn_ops *ops = context->ops;
    const tn_layer *first = &adapter->list->layers[step->first], *second = &adapter->list->layers[step->folded];
    const tn_weights w1 = weights_of(adapter, first), w2 = weights_of(adapter, second);
    const int64_t n2 = second->out_dim, n1 = first->out_dim, k = first->in_dim;
    size_t weight, bias;
    if (!tn_shape_bytes(2, (int64_t[]){n2, k}, tn_dtype_size(ops->compute), &weight) ||
        !tn_shape_bytes(1, &n2, tn_dtype_size(ops->compute), &bias) || !tn_add_size(weight, bias + TN_ALIGN, size)) {
        return tn_fail(error, TENON_INVALID, "folding '%s' into '%s' needs too much memory", second->name, first->name);
    }
    TN_TRY(tn_alloc(&adapter->allocator, *size, "folding two linear layers", memory, error));
    ops->fold(context, *memory, w2.data[0], w2.dtype[0], w1.data[0], w1.dtype[0], NULL, TN_F32, n2, k, n1);
    *folded = (tn_weights){.data = {*memory, w2.data[1]}, .dtype = {ops->compute, w2.dtype[1]}};
    if (first->bias) {
        void *b = (char *)*memory + tn_align_up(weight, TN_ALIGN);
        const void *outer_bias = second->bias ? w2.data[1] : NULL;
        ops->fold(context, b, w2.data[0], w2.dtype[0], w1.data[1], w1.dtype[1], outer_bias, w2.dtype[1], n2, 1, n1);
        folded->data[1] = b;
        folded->dtype[1] = ops->compute;
    }
    return TENON_OK;
}

/* The dtypes that a step will be packed from; folded weights are of the compute dtype. */
static tn_weights planned_weights(const tenon_adapter *adapter, const tn_step *step, const tn_ops *ops)
{
    if (step->folded >= 0) return (tn_weights){.dtype = {ops->compute, ops->compute}};
    return weights_of(adapter, &step->layer);
}

/* Adds a part of a pack, of the size that the layer's function tells (NULL: none). */
static bool add_part(tn_pack *pack, size_t *offset,
                     bool (*size_of)(const tn_layer *, const tn_ops *, const tn_weights *, size_t *),
                     const tn_layer *layer, const tn_weights *weights)
{
    size_t bytes = 0;
    *offset = pack->size;
    return size_of == NULL || (size_of(layer, pack->ops, weights, &bytes) && bytes <= SIZE_MAX - TN_ALIGN &&
                               tn_add_size(pack->size, tn_align_up(bytes, TN_ALIGN), &pack->size));
}

tenon_status tn_pack_plan(const tenon_adapter *adapter, tn_pack *pack, tenon_error *error)
{
    pack->plan = pack->train ? &adapter->train_plan : &adapter->plan;
    for (int i = 0; i < pack->plan->num_steps; i++) {
        const tn_step *step = &pack->plan->steps[i];
        const tn_layer_type *type = step->layer.type;
        pack->weights[i] = planned_weights(adapter, step, pack->ops);
        if (!add_part(pack, &pack->offset[i], type->packed_size, &step->layer, &pack->weights[i]) ||
            (pack->train &&
             !add_part(pack, &pack->offset_backward[i], type->packed_backward_size, &step->layer, &pack->weights[i]))) {
            return tn_fail(error, TENON_INVALID, "layer '%s' is too large to pack", step->layer.name);
        }
    }
    return TENON_OK;
}

static tenon_status fill_pack(const tenon_adapter *adapter, tn_pack *pack, const tn_context *context,
                              tenon_error *error)
{
    for (int i = 0; i < pack->plan->num_steps; i++) {
        const tn_step *step = &pack->plan->steps[i];
        const tn_layer_type *type = step->layer.type;
        void *memory = NULL;
        size_t size = 0;
        if (type->pack == NULL) continue;
        pack->weights[i] = planned_weights(adapter, step, pack->ops);
        if (step->folded >= 0) {
            TN_TRY(fold(adapter, step, context, &pack->weights[i], &memory, &size, error));
        }
        type->pack((char *)pack->data + pack->offset[i], &step->layer, context, &pack->weights[i]);
        tn_free(&adapter->allocator, memory, size);
        if (!pack->train || type->pack_backward == NULL) continue;
        type->pack_backward((char *)pack->data + pack->offset_backward[i], &step->layer, context, &pack->weights[i]);
    }
    return TENON_OK;
}

/* A pack of `planned`'s plan, filled. */
static tenon_status make_pack(const tenon_adapter *adapter, const tn_pack *planned, const tn_context *context,
                              tn_pack **made, tenon_error *error)
{
    tn_pack *pack = calloc(1, sizeof *pack);
    if (pack == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a pack cannot be made");
    *pack = *planned;
    pack->references = 1;
    tenon_status status = tn_alloc(&adapter->allocator, pack->size, "packed weights", &pack->data, error);
    if (status == TENON_OK) status = fill_pack(adapter, pack, context, error);
    if (status != TENON_OK) {
        free_pack(adapter, pack);
        return status;
    }
    *made = pack;
    return TENON_OK;
}

/* ---- writing over a published pack ---- */

/* Makes the caller its writer; the reference of a writer who is gone becomes the caller's. */
static void take_over_locked(tn_pack *pack)
{
    if (!is_abandoned(pack)) pack->references++;
    pack->writer = tn_process();
}

/* The lock is not held meanwhile. Nothing in here can fail: nothing is folded for training. */
static void write_over(const tenon_adapter *adapter, tn_pack *pack, const tn_parallel *parallel)
{
    const tn_context context = {.ops = pack->ops, .parallel = parallel};
    (void)!fill_pack(adapter, pack, &context, NULL);
    tn_lock_acquire(adapter->lock);
    pack->writer = 0;
    tn_lock_release(adapter->lock);
}

/* Writes over the published pack, if it is one for training of the same layout that nobody uses. */
static bool refill_pack(const tenon_adapter *adapter, const tn_pack *planned, const tn_parallel *parallel)
{
    tn_lock_acquire(adapter->lock);
    tn_pack *pack = adapter->pack;
    const bool fits = pack != NULL && (pack->references == 1 || is_abandoned(pack)) && pack->train && planned->train &&
                      pack->ops == planned->ops && pack->size == planned->size &&
                      memcmp(pack->offset, planned->offset, sizeof pack->offset) == 0;
    if (fits) take_over_locked(pack);
    tn_lock_release(adapter->lock);
    if (!fits) return false;
    write_over(adapter, pack, parallel);
    tn_pack_release(adapter, pack);
    return true;
}

/* The same on one thread, for a call that finds the pack abandoned. */
static void finish_pack(const tenon_adapter *adapter, tn_pack *pack)
{
    const tn_parallel serial = {.workers = 1};
    tn_environment environment;
    tn_environment_enter(&environment);
    write_over(adapter, pack, &serial);
    tn_environment_leave(&environment);
}

const tn_pack *tn_pack_acquire(const tenon_adapter *adapter)
{
    for (int turn = 0;; turn++) {
        tn_lock_acquire(adapter->lock);
        tn_pack *pack = adapter->pack;
        const bool whole = pack == NULL || pack->writer == 0, abandoned = !whole && is_abandoned(pack);
        if (abandoned) take_over_locked(pack);
        if (whole && pack != NULL) pack->references++;
        tn_lock_release(adapter->lock);
        if (abandoned) finish_pack(adapter, pack);
        if (whole || abandoned) return pack;
        tn_nap(turn);
    }
}

/* ---- prepare ---- */

static tenon_status prepare(tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel, bool train,
                            tenon_error *error)
{
    TN_TRY(tn_adapter_check_storage(adapter, error));
    tn_pack planned = {.ops = ops, .train = train}, *pack = NULL;
    TN_TRY(tn_pack_plan(adapter, &planned, error));
    const tn_context context = {.ops = ops, .parallel = parallel};
    tn_environment environment;
    tn_environment_enter(&environment);
    const bool refilled = refill_pack(adapter, &planned, parallel);
    const tenon_status status = refilled ? TENON_OK : make_pack(adapter, &planned, &context, &pack, error);
    tn_environment_leave(&environment);
    if (status == TENON_OK && !refilled) publish(adapter, pack);
    return status;
}

tenon_status tn_adapter_prepare_for(tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel,
                                    tenon_error *error)
{
    return prepare(adapter, ops, parallel, false, error);
}

tenon_status tn_adapter_prepare_train_for(tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel,
                                          tenon_error *error)
{
    return prepare(adapter, ops, parallel, true, error);
}

void tenon_prepare_options_init(tenon_prepare_options *options)
{
    *options = (tenon_prepare_options){.size = sizeof *options};
}

tenon_status tn_find_table(const char *level, const tn_ops **ops, tenon_error *error)
{
    const bool from_environment = level == NULL;
    if (from_environment) level = getenv("TENON_CPU");
    if (level != NULL && level[0] == '\0') level = NULL;
    *ops = tn_cpu_find(level);
    if (*ops != NULL) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "unknown CPU level '%s'%s; this machine has %s", tn_quote(level).text,
                   from_environment ? " in TENON_CPU" : "", tenon_cpu_levels());
}

tenon_status tenon_adapter_prepare(tenon_adapter *adapter, const tenon_prepare_options *options, tenon_error *error)
{
    tenon_prepare_options settings;
    tenon_prepare_options_init(&settings);
    const tn_ops *ops;
    tn_parallel parallel;
    TN_TRY(tn_struct_read(&settings, sizeof settings, options, TN_FIRST_SIZE(tenon_prepare_options, executor),
                          "tenon_prepare_options", error));
    TN_TRY(tn_find_table(settings.cpu, &ops, error));
    TN_TRY(tn_parallel_init(&parallel, settings.threads, settings.executor, error));
    return prepare(adapter, ops, &parallel, settings.train, error);
}

const char *tenon_adapter_cpu(const tenon_adapter *adapter)
{
    const tn_pack *pack = tn_pack_acquire(adapter);
    const char *name = pack != NULL ? pack->ops->name : NULL;
    tn_pack_release(adapter, pack);
    return name;
}
