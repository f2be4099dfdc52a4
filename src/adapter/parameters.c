/* SPDX-License-Identifier: MIT */
/* Parameters: storage, borrowing, and PyTorch's initial values. */
#include "adapter/adapter.h"

#include "core/items.h"
#include "core/rng.h"
#include "core/size.h"
#include "core/tensor.h"
#include "core/versioned.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

tenon_status tn_parameters_new(const tenon_adapter *adapter, tn_parameter **parameters, tenon_error *error)
{
    const size_t count = (size_t)adapter->graph->num_parameters + 1; /* never of size 0 */
    tn_parameter *made = calloc(count, sizeof(tn_parameter) + sizeof(tn_weight));
    if (made == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: parameters cannot be described");
    *parameters = made;
    return TENON_OK;
}

static void drop_storage(const tenon_adapter *adapter, tn_parameter *parameter)
{
    if (parameter->bytes > 0) tn_free(&adapter->allocator, parameter->data, parameter->bytes);
    free(parameter->source);
    *parameter = (tn_parameter){.data = NULL};
}

void tn_parameters_free(const tenon_adapter *adapter, tn_parameter *parameters)
{
    if (parameters == NULL) return;
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++)
        drop_storage(adapter, &parameters[i]);
    free(parameters);
}

tenon_status tn_parameter_allocate(const tenon_adapter *adapter, tn_parameter *parameters, int64_t index,
                                   tn_dtype dtype, tenon_error *error)
{
    const tn_parameter_spec *spec = &adapter->graph->parameters[index];
    tn_parameter *parameter = &parameters[index];
    size_t bytes;
    if (!tn_shape_bytes(spec->ndim, spec->shape, tn_dtype_size(dtype), &bytes)) {
        return tn_fail(error, TENON_INVALID, "parameter '%s' is too large", spec->name);
    }
    TN_TRY(tn_alloc(&adapter->allocator, bytes, spec->name, &parameter->data, error));
    parameter->dtype = dtype;
    parameter->bytes = bytes;
    return TENON_OK;
}

static tn_weight *weights_of(const tenon_adapter *adapter, tn_parameter *parameters)
{
    return (tn_weight *)(void *)(parameters + adapter->graph->num_parameters + 1);
}

tn_weight *tn_adapter_weights(const tenon_adapter *adapter)
{
    return weights_of(adapter, adapter->parameters);
}

/* A parameter as packing will read it. */
static void show_weight(const tenon_adapter *adapter, tn_parameter *parameters, int64_t index)
{
    weights_of(adapter, parameters)[index] = (tn_weight){parameters[index].data, parameters[index].dtype};
}

void tn_adapter_replace_parameters(tenon_adapter *adapter, tn_parameter *fresh)
{
    tn_parameter *old = adapter->parameters;
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++)
        show_weight(adapter, fresh, i);
    tn_adapter_unpublish(adapter);
    adapter->parameters = fresh;
    tn_parameters_free(adapter, old);
}

void tenon_parameter_init(tenon_parameter *parameter)
{
    *parameter = (tenon_parameter){.size = sizeof *parameter};
}

int64_t tenon_adapter_num_parameters(const tenon_adapter *adapter)
{
    return adapter->graph->num_parameters;
}

tenon_status tenon_adapter_parameter(const tenon_adapter *adapter, int64_t index, tenon_parameter *parameter,
                                     tenon_error *error)
{
    if (index < 0 || index >= adapter->graph->num_parameters) {
        return tn_fail(error, TENON_NOT_FOUND, "there is no parameter %lld; the adapter has %lld", (long long)index,
                       (long long)adapter->graph->num_parameters);
    }
    const tn_parameter_spec *spec = &adapter->graph->parameters[index];
    const tenon_parameter found = {.name = spec->name,
                                   .dtype = (tenon_dtype)adapter->parameters[index].dtype,
                                   .ndim = spec->ndim,
                                   .shape = spec->shape,
                                   .data = adapter->parameters[index].data,
                                   .source = adapter->parameters[index].source};
    return tn_struct_write(parameter, &found, sizeof found, TN_FIRST_SIZE(tenon_parameter, data), "tenon_parameter",
                           error);
}

tenon_status tenon_adapter_find_parameter(const tenon_adapter *adapter, const char *name, int64_t *index,
                                          tenon_error *error)
{
    char names[1024] = "";
    tn_text text = {names, sizeof names, 0};
    tn_items items = {.text = &text};
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        if (strcmp(adapter->graph->parameters[i].name, name) == 0) {
            *index = i;
            return TENON_OK;
        }
        tn_items_add(&items, "%s", adapter->graph->parameters[i].name);
    }
    tn_items_end(&items);
    return tn_fail(error, TENON_NOT_FOUND, "there is no parameter '%s'; the adapter has %s", tn_quote(name).text,
                   names);
}

/* nn.Linear's bound: weights kaiming_uniform with a = sqrt(5), in the order of PyTorch's double operations; biases
 * 1 / sqrt(fan_in). They differ in the last bit for some fan_in. */
static float initial_bound(const tn_parameter_spec *spec)
{
    const double root = sqrt((double)spec->fan_in);
    return (float)(spec->initial == TN_INITIAL_WEIGHT ? sqrt(3.0) * (sqrt(2.0 / (1 + 5)) / root) : 1 / root);
}

/* One uniform draw in [0, 1) as PyTorch makes it. */
static float draw(tn_mt19937 *rng)
{
    return (float)(tn_mt19937_draw(rng) & 0xffffffu) * 0x1p-24f;
}

static float draw_bounded(tn_mt19937 *rng, float bound)
{
    return fmaf(draw(rng), 2 * bound, -bound);
}

static void put_parameter(tn_parameter *parameter, int64_t index, float value)
{
    if (parameter->dtype == TN_F32) {
        ((float *)parameter->data)[index] = value;
    } else {
        ((uint16_t *)parameter->data)[index] =
            parameter->dtype == TN_BF16 ? tn_f32_to_bf16(value) : tn_f32_to_f16(value);
    }
}

/* A 16-bit type is rounded from the draw, and what rounds onto the upper bound becomes the lower one. */
static void draw_uniform(tn_parameter *parameter, int64_t count, float bound, tn_mt19937 *rng)
{
    if (parameter->dtype == TN_F32) {
        for (int64_t i = 0; i < count; i++)
            put_parameter(parameter, i, draw_bounded(rng, bound));
        return;
    }
    uint16_t *values = parameter->data;
    uint16_t (*const round)(float) = parameter->dtype == TN_BF16 ? tn_f32_to_bf16 : tn_f32_to_f16;
    const uint16_t high = round(bound), low = round(-bound);
    for (int64_t i = 0; i < count; i++) {
        const uint16_t value = round(draw_bounded(rng, bound));
        values[i] = value == high ? low : value;
    }
}

/* Pairs of uniform draws by Box and Muller's transformation, in double. */
static void draw_normal(tn_parameter *parameter, int64_t count, double deviation, tn_mt19937 *rng)
{
    const double pi = acos(-1.0);
    for (int64_t i = 0; i < count; i += 2) {
        const double radius = sqrt(-2 * log(1 - (double)draw(rng))), angle = 2 * pi * draw(rng);
        put_parameter(parameter, i, (float)(deviation * radius * cos(angle)));
        if (i + 1 < count) put_parameter(parameter, i + 1, (float)(deviation * radius * sin(angle)));
    }
}

static void draw_parameter(tn_parameter *parameter, const tn_parameter_spec *spec, tn_mt19937 *rng)
{
    const int64_t count = tn_parameter_elements(spec);
    switch (spec->initial) {
    case TN_INITIAL_WEIGHT:
    case TN_INITIAL_BIAS:
        draw_uniform(parameter, count, initial_bound(spec), rng);
        break;
    case TN_INITIAL_CONSTANT:
        for (int64_t i = 0; i < count; i++)
            put_parameter(parameter, i, (float)spec->value);
        break;
    case TN_INITIAL_NORMAL:
        draw_normal(parameter, count, spec->value, rng);
        break;
    }
}

tenon_status tenon_adapter_reset_parameters(tenon_adapter *adapter, tenon_dtype dtype, uint64_t seed,
                                            tenon_error *error)
{
    if (tenon_dtype_size(dtype) == 0) {
        return tn_fail(error, TENON_INVALID, "parameters need a dtype of f32, bf16 or f16 (got %d)", (int)dtype);
    }
    tn_parameter *fresh = NULL;
    TN_TRY(tn_parameters_new(adapter, &fresh, error));
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        const tenon_status status = tn_parameter_allocate(adapter, fresh, i, (tn_dtype)dtype, error);
        if (status != TENON_OK) {
            tn_parameters_free(adapter, fresh);
            return status;
        }
    }
    tn_mt19937 rng;
    tn_environment environment;
    tn_mt19937_seed(&rng, seed);
    tn_environment_enter(&environment);
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        draw_parameter(&fresh[i], &adapter->graph->parameters[i], &rng);
    }
    tn_environment_leave(&environment);
    tn_adapter_replace_parameters(adapter, fresh);
    return TENON_OK;
}

void tenon_adapter_release_parameters(tenon_adapter *adapter)
{
    tn_pack_release(adapter, tn_pack_acquire(adapter)); /* it is whole now: nobody reads the storage any more */
    for (int64_t i = 0; i < adapter->graph->num_parameters; i++) {
        const tn_dtype dtype = adapter->parameters[i].dtype;
        drop_storage(adapter, &adapter->parameters[i]);
        adapter->parameters[i].dtype = dtype;
        show_weight(adapter, adapter->parameters, i);
    }
}

tenon_status tenon_adapter_set_parameter(tenon_adapter *adapter, const char *name, const DLTensor *tensor,
                                         tenon_error *error)
{
    int64_t index;
    TN_TRY(tenon_adapter_find_parameter(adapter, name, &index, error));
    const tn_parameter_spec *spec = &adapter->graph->parameters[index];
    tn_tensor view;
    TN_TRY(tn_tensor_view(tensor, spec->name, spec->ndim, &view, error));
    if (memcmp(view.shape, spec->shape, (size_t)spec->ndim * sizeof spec->shape[0]) != 0) {
        return tn_fail(error, TENON_MISMATCH, "parameter '%s' has shape %s; expected %s", spec->name,
                       tn_shape_to_text(view.ndim, view.shape).text, tn_shape_to_text(spec->ndim, spec->shape).text);
    }
    if (!tn_tensor_is_dense(&view)) {
        return tn_fail(error, TENON_UNSUPPORTED, "parameter '%s' is strided; it must be dense and row-major",
                       spec->name);
    }
    tn_adapter_unpublish(adapter);
    drop_storage(adapter, &adapter->parameters[index]);
    adapter->parameters[index] = (tn_parameter){.dtype = view.dtype, .data = view.data};
    show_weight(adapter, adapter->parameters, index);
    return TENON_OK;
}
