/* SPDX-License-Identifier: MIT */
/* Forward and backward of an adapter, and what they need: the engine on the published pack. */
#include "adapter/adapter.h"

/* The engine on a pack of the adapter. */
static tn_engine engine_on(const tenon_adapter *adapter, const tn_pack *pack)
{
    return (tn_engine){pack, tenon_config_type(adapter->config), &adapter->allocator};
}

/* The published pack, which the caller releases, or TENON_NOT_PREPARED. */
static tenon_status acquire(const tenon_adapter *adapter, const tn_pack **pack, tenon_error *error)
{
    *pack = tn_pack_acquire(adapter);
    if (*pack != NULL) return TENON_OK;
    return tn_fail(error, TENON_NOT_PREPARED,
                   "the adapter is not prepared; call tenon_adapter_prepare after its "
                   "parameters were reset, loaded or set");
}

tenon_status tenon_adapter_forward(const tenon_adapter *adapter, const DLTensor *x, DLTensor *y, const tenon_call *call,
                                   const tenon_workspace *workspace, tenon_error *error)
{
    const tn_pack *pack;
    tenon_call settings;
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(acquire(adapter, &pack, error));
    const tn_engine engine = engine_on(adapter, pack);
    const tenon_status status = tn_engine_forward(&engine, x, y, &settings, workspace, error);
    tn_pack_release(adapter, pack);
    return status;
}

tenon_status tenon_adapter_backward(const tenon_adapter *adapter, const DLTensor *dy, const DLTensor *x,
                                    const tenon_gradients *gradients, const tenon_call *call,
                                    const tenon_workspace *workspace, tenon_error *error)
{
    const tn_pack *pack;
    tenon_call settings;
    tenon_gradients wanted;
    TN_TRY(tn_gradients_read(&wanted, gradients, error));
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(acquire(adapter, &pack, error));
    const tn_engine engine = engine_on(adapter, pack);
    const tenon_status status = tn_engine_backward(&engine, dy, x, &wanted, &settings, workspace, error);
    tn_pack_release(adapter, pack);
    return status;
}

/* ---- sizes ---- */

/* The published pack or, where there is none that does, one that is only planned. */
typedef struct planned {
    const tn_pack *published;
    tn_pack own;
} planned;

static tenon_status plan(planned *p, const tenon_adapter *adapter, bool train, tn_engine *engine, tenon_error *error)
{
    *p = (planned){.published = tn_pack_acquire(adapter)};
    if (p->published != NULL && (!train || p->published->train)) {
        *engine = engine_on(adapter, p->published);
        return TENON_OK;
    }
    *engine = engine_on(adapter, &p->own);
    return tn_adapter_plan_pack(adapter, train, &p->own, error);
}

static void end(planned *p, const tenon_adapter *adapter)
{
    tn_pack_release(adapter, p->published);
    tn_pack_free(&p->own);
}

tenon_status tenon_adapter_workspace_size(const tenon_adapter *adapter, int64_t num_input_tokens,
                                          const tenon_call *call, size_t *bytes, tenon_error *error)
{
    planned p;
    tn_engine engine;
    tenon_call settings;
    TN_TRY(tn_call_read(&settings, call, error));
    tenon_status status = plan(&p, adapter, false, &engine, error);
    if (status == TENON_OK) status = tn_engine_workspace_size(&engine, num_input_tokens, &settings, bytes, error);
    end(&p, adapter);
    return status;
}

tenon_status tenon_adapter_backward_workspace_size(const tenon_adapter *adapter, int64_t num_input_tokens,
                                                   const tenon_gradients *gradients, const tenon_call *call,
                                                   size_t *bytes, tenon_error *error)
{
    planned p;
    tn_engine engine;
    tenon_call settings;
    tenon_gradients given;
    TN_TRY(tn_gradients_read(&given, gradients, error));
    TN_TRY(tn_call_read(&settings, call, error));
    tenon_status status = plan(&p, adapter, true, &engine, error);
    if (status == TENON_OK) {
        status = tn_engine_backward_workspace_size(&engine, num_input_tokens, &given, gradients == NULL, &settings,
                                                   bytes, error);
    }
    end(&p, adapter);
    return status;
}

tenon_status tenon_adapter_saved_size(const tenon_adapter *adapter, int64_t batch, int64_t num_input_tokens,
                                      const tenon_call *call, size_t *bytes, tenon_error *error)
{
    planned p;
    tn_engine engine;
    tenon_call settings;
    if (batch < 0) return tn_fail(error, TENON_INVALID, "batch must not be negative (got %lld)", (long long)batch);
    TN_TRY(tn_call_read(&settings, call, error));
    tenon_status status = plan(&p, adapter, true, &engine, error);
    if (status == TENON_OK) {
        status = tn_engine_saved_size(&engine, batch, num_input_tokens, &settings, bytes, error);
    }
    end(&p, adapter);
    return status;
}

int64_t tenon_adapter_num_outputs(const tenon_adapter *adapter)
{
    return adapter->graph->num_outputs;
}

static tenon_status check_output(const tenon_adapter *adapter, int64_t index, tenon_error *error)
{
    if (index >= 0 && index < adapter->graph->num_outputs) return TENON_OK;
    return tn_fail(error, TENON_NOT_FOUND, "there is no output %lld; the adapter has %d", (long long)index,
                   adapter->graph->num_outputs);
}

tenon_status tenon_adapter_output(const tenon_adapter *adapter, int64_t index, const char **name, int64_t *width,
                                  tenon_error *error)
{
    TN_TRY(check_output(adapter, index, error));
    const tn_graph_output *output = &adapter->graph->outputs[index];
    *name = output->name;
    *width = adapter->graph->values[output->value].width;
    return TENON_OK;
}

tenon_status tenon_adapter_output_offsets(const tenon_adapter *adapter, int64_t index, const tenon_call *call,
                                          int64_t images, int64_t num_input_tokens, int64_t *offsets,
                                          tenon_error *error)
{
    planned p;
    tn_engine engine;
    tenon_call settings;
    TN_TRY(check_output(adapter, index, error));
    if (images < 0) return tn_fail(error, TENON_INVALID, "images must not be negative (got %lld)", (long long)images);
    TN_TRY(tn_call_read(&settings, call, error));
    tenon_status status = plan(&p, adapter, false, &engine, error);
    if (status == TENON_OK) {
        status = tn_engine_output_offsets(&engine, index, images, num_input_tokens, &settings, offsets, error);
    }
    end(&p, adapter);
    return status;
}
