/* SPDX-License-Identifier: MIT */
/* Saving: a safetensors file whose metadata holds the format's version, the config and the widths. Numbers that are
 * infinite or NaN are refused before the file is opened. */
#include "adapter/adapter.h"

#include "core/size.h"
#include "core/versioned.h"
#include "formats/format.h"
#include "ops/finite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tenon_save_options_init(tenon_save_options *options)
{
    *options = (tenon_save_options){.size = sizeof *options};
}

/* ---- finite numbers ---- */

/* "[3, 17]": element number `index` of a parameter. */
static void add_place(tn_text *text, const tn_parameter_spec *spec, int64_t index)
{
    int64_t place[sizeof spec->shape / sizeof spec->shape[0]];
    for (int d = spec->ndim - 1; d >= 0; d--) {
        place[d] = index % spec->shape[d];
        index /= spec->shape[d];
    }
    tn_text_add(text, "%s", tn_shape_to_text(spec->ndim, place).text);
}

tenon_status tenon_adapter_check_finite(const tenon_adapter *adapter, tenon_error *error)
{
    char place[256] = "";
    tn_text text = {place, sizeof place, 0};
    int64_t numbers = 0, tensors = 0;
    TN_TRY(tn_adapter_check_storage(adapter, error));
    for (int64_t p = 0; p < adapter->graph->num_parameters; p++) {
        const tn_parameter_spec *spec = &adapter->graph->parameters[p];
        const tn_parameter *parameter = &adapter->parameters[p];
        int64_t first = 0;
        const int64_t found =
            tn_count_nonfinite(parameter->data, parameter->dtype, tn_parameter_elements(spec), &first);
        if (found > 0 && tensors == 0) {
            tn_text_add(&text, "'%s' at ", spec->name);
            add_place(&text, spec, first);
        }
        numbers += found;
        tensors += found > 0;
    }
    if (numbers == 0) return TENON_OK;
    return tn_fail(error, TENON_INVALID,
                   "%lld of the parameters' numbers, in %lld of the tensors, %s infinite or NaN, the first in %s",
                   (long long)numbers, (long long)tensors, numbers == 1 ? "is" : "are", place);
}

/* ---- the file ---- */

static tenon_status set_metadata(const tenon_adapter *adapter, const char *prefix, tenon_writer *writer,
                                 tenon_error *error)
{
    char *json = tn_config_to_adapter_json(adapter->config, adapter->in_dim, adapter->out_dim);
    if (json == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: the config cannot be written");
    tenon_status status = tenon_writer_set_metadata(writer, TN_METADATA_FORMAT, TN_METADATA_VERSION, error);
    if (status == TENON_OK) status = tenon_writer_set_metadata(writer, TN_METADATA_CONFIG, json, error);
    /* transformers reads no file that does not say which framework its tensors are laid out for. */
    if (status == TENON_OK && prefix[0] != '\0') status = tenon_writer_set_metadata(writer, "format", "pt", error);
    free(json);
    return status;
}

static tenon_status declare(const tenon_adapter *adapter, const char *prefix, tenon_writer *writer, tenon_error *error)
{
    TN_TRY(set_metadata(adapter, prefix, writer, error));
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        const tn_parameter_spec *spec = &adapter->graph->parameters[i];
        const DLDataType dtype = tenon_dtype_to_dlpack((tenon_dtype)adapter->parameters[i].dtype);
        const size_t length = strlen(prefix), size = length + strlen(spec->name) + 2;
        char *name = malloc(size);
        if (name == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory for the name of a tensor");
        snprintf(name, size, "%s%s%s", prefix, length > 0 && prefix[length - 1] != '.' ? "." : "", spec->name);
        const tenon_status status = tenon_writer_add(writer, name, dtype, spec->ndim, spec->shape, NULL, error);
        free(name);
        if (status != TENON_OK) return status;
    }
    return TENON_OK;
}

static tenon_status write_all(const tenon_adapter *adapter, const char *prefix, tenon_writer *writer,
                              tenon_error *error)
{
    TN_TRY(declare(adapter, prefix, writer, error));
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        const size_t elements = (size_t)tn_parameter_elements(&adapter->graph->parameters[i]);
        TN_TRY(tenon_writer_write(writer, i, adapter->parameters[i].data,
                                  elements * tn_dtype_size(adapter->parameters[i].dtype), error));
    }
    return tenon_writer_commit(writer, error);
}

/* An npy file has no config, and programs that read GGUF want their own names and keys, which a graft keeps. */
static tenon_status check_format(const tenon_writer *writer, tenon_error *error)
{
    const char *suffix = writer->format->suffix;
    if (strcmp(suffix, ".safetensors") == 0) return TENON_OK;
    return tn_fail(error, TENON_UNSUPPORTED, "%s: a connector is written as .safetensors%s",
                   tn_quote(writer->path).text,
                   strcmp(suffix, ".gguf") == 0 ? "; `tenon graft` puts it into a GGUF file of its model" : "");
}

tenon_status tenon_adapter_save(const tenon_adapter *adapter, const char *path, const tenon_save_options *options,
                                tenon_error *error)
{
    tenon_save_options settings;
    tenon_writer *writer;
    tenon_error reason;
    tenon_save_options_init(&settings);
    TN_TRY(tn_struct_read(&settings, sizeof settings, options, TN_FIRST_SIZE(tenon_save_options, allow_nonfinite),
                          "tenon_save_options", error));
    TN_TRY(tn_adapter_check_storage(adapter, error));
    if (!settings.allow_nonfinite && tenon_adapter_check_finite(adapter, &reason) != TENON_OK) {
        return tn_fail(error, TENON_INVALID, "%s: is not written: %s", tn_quote(path).text, reason.message);
    }
    TN_TRY(tenon_writer_new(path, &writer, error));
    tenon_status status = check_format(writer, error);
    if (status == TENON_OK) {
        status = write_all(adapter, settings.prefix != NULL ? settings.prefix : "", writer, error);
    }
    tenon_writer_free(writer);
    return status;
}
