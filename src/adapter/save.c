/* SPDX-License-Identifier: MIT */
/* Saving: a safetensors file whose metadata holds the format's version, the config and the widths. */
#include "adapter/adapter.h"

#include <stdlib.h>

static tenon_status declare(const tenon_adapter *adapter, tenon_writer *writer, tenon_error *error)
{
    char *json = tn_config_to_adapter_json(adapter->config, adapter->in_dim, adapter->out_dim);
    if (json == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: the config cannot be written");
    tenon_status status = tenon_writer_set_metadata(writer, TN_METADATA_FORMAT, TN_METADATA_VERSION, error);
    if (status == TENON_OK) status = tenon_writer_set_metadata(writer, TN_METADATA_CONFIG, json, error);
    free(json);
    for (int64_t i = 0; i < adapter->graph->num_parameters && status == TENON_OK; i++) {
        const tn_parameter_spec *spec = &adapter->graph->parameters[i];
        const DLDataType dtype = tenon_dtype_to_dlpack((tenon_dtype)adapter->parameters[i].dtype);
        status = tenon_writer_add(writer, spec->name, dtype, spec->ndim, spec->shape, NULL, error);
    }
    return status;
}

static tenon_status write_all(const tenon_adapter *adapter, tenon_writer *writer, tenon_error *error)
{
    TN_TRY(declare(adapter, writer, error));
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        const tn_parameter_spec *spec = &adapter->graph->parameters[i];
        const size_t elements = (size_t)tn_parameter_elements(spec);
        TN_TRY(tenon_writer_write(writer, i, adapter->parameters[i].data,
                                  elements * tn_dtype_size(adapter->parameters[i].dtype), error));
    }
    return tenon_writer_commit(writer, error);
}

tenon_status tenon_adapter_save(const tenon_adapter *adapter, const char *path, tenon_error *error)
{
    TN_TRY(tn_adapter_check_storage(adapter, error));
    tenon_writer *writer;
    TN_TRY(tenon_writer_new(path, &writer, error));
    const tenon_status status = write_all(adapter, writer, error);
    tenon_writer_free(writer);
    return status;
}
