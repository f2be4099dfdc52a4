/* SPDX-License-Identifier: MIT */
/* The adapter object: making, freeing, counting, describing. */
#include "adapter/adapter.h"

#include "core/versioned.h"
#include <stdlib.h>

/* The fields of an allocator the caller gave, or the system's. */
static tenon_status read_allocator(const tenon_allocator *given, tenon_allocator *allocator, tenon_error *error)
{
    *allocator = tn_system_allocator;
    TN_TRY(tn_struct_read(allocator, sizeof *allocator, given, TN_FIRST_SIZE(tenon_allocator, context),
                          "tenon_allocator", error));
    if (allocator->alloc == NULL || allocator->free == NULL) {
        return tn_fail(error, TENON_INVALID, "an allocator needs alloc and free");
    }
    return TENON_OK;
}

static tenon_status describe(tenon_adapter *adapter, const tenon_config *config, tenon_error *error)
{
    TN_TRY(tn_config_copy(&adapter->config, config, error));
    /* Options that the builder reads are written out, so that the file does not depend on a default. */
    TN_TRY(tn_config_graph(adapter->config, adapter->in_dim, adapter->out_dim, &adapter->config->options,
                           &adapter->graph, error));
    TN_TRY(tn_plan_make(&adapter->plan, adapter->graph, false, error));
    TN_TRY(tn_plan_make(&adapter->train_plan, adapter->graph, true, error));
    TN_TRY(tn_parameters_new(adapter, &adapter->parameters, error));
    return tn_mutex_new(&adapter->lock, error);
}

tenon_status tenon_adapter_new(const tenon_config *config, int64_t in_dim, int64_t out_dim,
                               const tenon_allocator *allocator, tenon_adapter **adapter, tenon_error *error)
{
    if (config == NULL || adapter == NULL) {
        return tn_fail(error, TENON_INVALID, "tenon_adapter_new: config or adapter is NULL");
    }
    if (in_dim <= 0 || out_dim <= 0) {
        return tn_fail(error, TENON_INVALID, "`in_dim` and `out_dim` must be positive (got %lld and %lld)",
                       (long long)in_dim, (long long)out_dim);
    }
    tenon_allocator own;
    TN_TRY(read_allocator(allocator, &own, error));
    tenon_adapter *made = calloc(1, sizeof *made);
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: an adapter cannot be made");
    made->allocator = own;
    made->in_dim = in_dim;
    made->out_dim = out_dim;
    const tenon_status status = describe(made, config, error);
    if (status != TENON_OK) {
        tenon_adapter_free(made);
        return status;
    }
    *adapter = made;
    return TENON_OK;
}

void tenon_adapter_free(tenon_adapter *adapter)
{
    if (adapter == NULL) return;
    if (adapter->lock != NULL) tn_adapter_unpublish(adapter);
    tn_parameters_free(adapter, adapter->parameters);
    tn_mutex_free(adapter->lock);
    tenon_config_free(adapter->config);
    tn_plan_free(&adapter->plan);
    tn_plan_free(&adapter->train_plan);
    tn_graph_free(adapter->graph);
    free(adapter->feeding);
    free(adapter);
}

const tenon_config *tenon_adapter_config(const tenon_adapter *adapter)
{
    return adapter->config;
}

int64_t tenon_adapter_in_dim(const tenon_adapter *adapter)
{
    return adapter->in_dim;
}

int64_t tenon_adapter_out_dim(const tenon_adapter *adapter)
{
    return adapter->out_dim;
}

const char *tenon_adapter_family(const tenon_adapter *adapter)
{
    return adapter->family != NULL ? adapter->family->name : NULL;
}

const char *tenon_adapter_feeding(const tenon_adapter *adapter)
{
    return adapter->feeding;
}

tenon_status tenon_adapter_output_num_tokens(const tenon_adapter *adapter, const tenon_call *call,
                                             int64_t num_input_tokens, int64_t *count, tenon_error *error)
{
    tenon_call settings;
    TN_TRY(tn_call_read(&settings, call, error));
    return tn_graph_count(adapter->graph, &settings, num_input_tokens, count, error);
}

void tenon_layer_info_init(tenon_layer_info *info)
{
    *info = (tenon_layer_info){.size = sizeof *info};
}

int64_t tenon_adapter_num_layers(const tenon_adapter *adapter)
{
    return adapter->graph->num_layers;
}

tenon_status tenon_adapter_layer(const tenon_adapter *adapter, int64_t index, tenon_layer_info *info,
                                 tenon_error *error)
{
    if (index < 0 || index >= adapter->graph->num_layers) {
        return tn_fail(error, TENON_NOT_FOUND, "there is no layer %lld; the adapter has %d", (long long)index,
                       adapter->graph->num_layers);
    }
    const tn_layer *layer = adapter->graph->layers[index];
    const tenon_layer_info found = {.size = sizeof found,
                                    .type = layer->type->name,
                                    .name = layer->name,
                                    .reach = tn_reach_name(layer->type->reach),
                                    .in_dim = layer->in_dim,
                                    .out_dim = layer->out_dim,
                                    .first_parameter = layer->first_parameter,
                                    .num_parameters = layer->num_parameters,
                                    .inputs = layer->inputs,
                                    .num_inputs = layer->num_inputs,
                                    .output = layer->output};
    return tn_struct_write(info, &found, sizeof found, TN_FIRST_SIZE(tenon_layer_info, num_parameters),
                           "tenon_layer_info", error);
}

tenon_status tenon_adapter_flops(const tenon_adapter *adapter, int64_t num_input_tokens, const tenon_call *call,
                                 double *flops, tenon_error *error)
{
    tenon_call settings;
    TN_TRY(tn_call_read(&settings, call, error));
    return tn_plan_flops(&adapter->plan, &settings, num_input_tokens, flops, error);
}
