/* SPDX-License-Identifier: MIT */
/* Packing: weights in the order that an ops table reads them, published at once, immutable afterwards. */
#include "adapter/adapter.h"

#include "core/size.h"
#include "core/versioned.h"
#include <stdlib.h>
#include <string.h>

static void free_pack(tn_pack *pack)
{
    if (pack == NULL) return;
    tn_pack_free(pack);
    free(pack);
}

void tn_pack_release(const tenon_adapter *adapter, const tn_pack *pack)
{
    if (pack == NULL) return;
    tn_pack *held = (tn_pack *)(uintptr_t)pack; /* immutable but for its count */
    tn_mutex_acquire(adapter->lock);
    const bool last = --held->references == 0;
    tn_mutex_release(adapter->lock);
    if (last) free_pack(held);
}

/* The thread that was writing over it when this process was forked does not exist here. */
static bool is_abandoned(const tn_pack *pack)
{
    return pack->writer != 0 && pack->writer != tn_process();
}

static void publish(tenon_adapter *adapter, tn_pack *pack)
{
    tn_mutex_acquire(adapter->lock);
    tn_pack *old = adapter->pack;
    adapter->pack = pack;
    if (old != NULL && is_abandoned(old)) old->references--; /* its writer's */
    tn_mutex_release(adapter->lock);
    tn_pack_release(adapter, old);
}

void tn_adapter_unpublish(tenon_adapter *adapter)
{
    publish(adapter, NULL);
}

tenon_status tn_adapter_check_storage(const tenon_adapter *adapter, tenon_error *error)
{
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        if (adapter->parameters[i].data == NULL) {
            return tn_fail(error, TENON_NOT_PREPARED,
                           "parameter '%s' has no storage; reset, load or set the parameters first",
                           adapter->graph->parameters[i].name);
        }
    }
    return TENON_OK;
}

static const tn_plan *plan_of(const tenon_adapter *adapter, bool train)
{
    return train ? &adapter->train_plan : &adapter->plan;
}

tenon_status tn_adapter_plan_pack(const tenon_adapter *adapter, bool train, tn_pack *pack, tenon_error *error)
{
    const tn_pack *published = tn_pack_acquire(adapter);
    const tn_ops *ops = published != NULL ? published->ops : NULL;
    tn_pack_release(adapter, published);
    *pack = (tn_pack){.references = 0};
    if (ops == NULL) TN_TRY(tn_find_table(NULL, &ops, error));
    return tn_pack_plan(pack, plan_of(adapter, train), ops, train, &adapter->allocator, tn_adapter_weights(adapter),
                        error);
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
    (void)!tn_pack_fill(pack, tn_adapter_weights(adapter), &context, NULL);
    tn_mutex_acquire(adapter->lock);
    pack->writer = 0;
    tn_mutex_release(adapter->lock);
}

/* Writes over the published pack, if it is one for training of the same layout that nobody uses. */
static bool refill_pack(const tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel)
{
    tn_mutex_acquire(adapter->lock);
    tn_pack *pack = adapter->pack;
    const bool fits = pack != NULL && (pack->references == 1 || is_abandoned(pack)) && pack->train &&
                      pack->ops == ops && tn_pack_fits(pack, tn_adapter_weights(adapter));
    if (fits) take_over_locked(pack);
    tn_mutex_release(adapter->lock);
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
        tn_mutex_acquire(adapter->lock);
        tn_pack *pack = adapter->pack;
        const bool whole = pack == NULL || pack->writer == 0, abandoned = !whole && is_abandoned(pack);
        if (abandoned) take_over_locked(pack);
        if (whole && pack != NULL) pack->references++;
        tn_mutex_release(adapter->lock);
        if (abandoned) finish_pack(adapter, pack);
        if (whole || abandoned) return pack;
        tn_nap(turn);
    }
}

/* ---- prepare ---- */

/* Fills a planned pack. */
static tenon_status fill_pack(const tenon_adapter *adapter, tn_pack *pack, const tn_context *context, bool train,
                              tenon_error *error)
{
    TN_TRY(tn_pack_plan(pack, plan_of(adapter, train), context->ops, train, &adapter->allocator,
                        tn_adapter_weights(adapter), error));
    TN_TRY(tn_pack_allocate(pack, error));
    return tn_pack_fill(pack, tn_adapter_weights(adapter), context, error);
}

static tenon_status make_and_publish(tenon_adapter *adapter, const tn_context *context, bool train, tenon_error *error)
{
    tn_pack *pack = calloc(1, sizeof *pack);
    if (pack == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a pack cannot be made");
    const tenon_status status = fill_pack(adapter, pack, context, train, error);
    if (status != TENON_OK) {
        free_pack(pack);
        return status;
    }
    publish(adapter, pack);
    return TENON_OK;
}

static tenon_status prepare(tenon_adapter *adapter, const tn_ops *ops, const tn_parallel *parallel, bool train,
                            tenon_error *error)
{
    TN_TRY(tn_adapter_check_storage(adapter, error));
    const tn_context context = {.ops = ops, .parallel = parallel};
    tenon_status status = TENON_OK;
    tn_environment environment;
    tn_environment_enter(&environment);
    if (!train || !refill_pack(adapter, ops, parallel)) status = make_and_publish(adapter, &context, train, error);
    tn_environment_leave(&environment);
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
    return tn_fail(error, TENON_INVALID, "%s '%s' is not a CPU level of this machine; it has %s",
                   from_environment ? "TENON_CPU" : "`cpu`", tn_quote(level).text, tenon_cpu_levels());
}

tenon_status tenon_find_cpu_level(const char *name, const char **level, tenon_error *error)
{
    const tn_ops *ops;
    TN_TRY(tn_find_table(name, &ops, error));
    if (level != NULL) *level = ops->name;
    return TENON_OK;
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
