/* SPDX-License-Identifier: MIT */
#include "engine/forward.h"

#include "core/size.h"
#include <stdlib.h>

static int count_weights(const tn_plan *plan)
{
    int count = 0;
    for (int i = 0; i < plan->num_steps; i++)
        count += plan->steps[i].second >= 0 ? 2 : plan->steps[i].layer->num_parameters;
    return count;
}

/* The dtypes that a step is packed from; folded weights are of the compute dtype. */
static void find_dtypes(tn_pack *pack, int index, tn_weight *weights, const tn_weight *parameters)
{
    const tn_step *step = &pack->plan->steps[index];
    if (step->second >= 0) {
        weights[0] = weights[1] = (tn_weight){NULL, pack->ops->compute};
        return;
    }
    for (int i = 0; i < step->layer->num_parameters; i++) {
        const tn_dtype dtype = parameters[step->layer->first_parameter + i].dtype;
        weights[i] = (tn_weight){NULL, dtype != 0 ? dtype : TN_F32}; /* no storage yet: only sizes are asked for */
    }
}

static bool add_part(tn_pack *pack, size_t bytes, size_t *offset)
{
    *offset = pack->size;
    return bytes <= SIZE_MAX - TN_ALIGN && tn_add_size(pack->size, tn_align_up(bytes, TN_ALIGN), &pack->size);
}

static bool plan_step(tn_pack *pack, int index)
{
    const tn_step *step = &pack->plan->steps[index];
    const tn_layer_query query = {.layer = step->layer,
                                  .ops = pack->ops,
                                  .weights = pack->weights + pack->first_weight[index],
                                  .train = pack->train};
    tn_layer_sizes sizes = {.packed = 0};
    if (step->layer->type->sizes != NULL && !step->layer->type->sizes(&sizes, &query)) return false;
    return add_part(pack, sizes.packed, &pack->offset[index]) &&
           (!pack->train || add_part(pack, sizes.packed_backward, &pack->offset_backward[index]));
}

tenon_status tn_pack_plan(tn_pack *pack, const tn_plan *plan, const tn_ops *ops, bool train,
                          const tenon_allocator *allocator, const tn_weight *parameters, tenon_error *error)
{
    const size_t steps = (size_t)plan->num_steps;
    *pack = (tn_pack){.references = 1, .ops = ops, .plan = plan, .train = train, .allocator = allocator};
    pack->weights = calloc((size_t)count_weights(plan) + 1, sizeof *pack->weights);
    pack->first_weight = calloc(steps, sizeof *pack->first_weight);
    pack->offset = calloc(2 * steps, sizeof *pack->offset);
    if (pack->weights == NULL || pack->first_weight == NULL || pack->offset == NULL) {
        return tn_fail(error, TENON_NO_MEMORY, "out of memory: a pack cannot be made");
    }
    pack->offset_backward = pack->offset + steps;
    int next = 0;
    for (int i = 0; i < plan->num_steps; i++) {
        pack->first_weight[i] = next;
        next += plan->steps[i].second >= 0 ? 2 : plan->steps[i].layer->num_parameters;
        find_dtypes(pack, i, pack->weights + pack->first_weight[i], parameters);
        if (plan_step(pack, i)) continue;
        return tn_fail(error, TENON_INVALID, "layer '%s' is too large to pack",
                       tn_quote(plan->steps[i].layer->name).text);
    }
    pack->arrays = tn_forward_arrays(pack);
    return TENON_OK;
}

tenon_status tn_pack_allocate(tn_pack *pack, tenon_error *error)
{
    return tn_alloc(pack->allocator, pack->size, "packed weights", &pack->data, error);
}

/* ---- folding ---- */

/* An affine layer's parameters. */
typedef struct map {
    const tn_layer *layer;
    tn_weight weight, bias; /* bias.data NULL: none */
} map;

static map map_of(const tn_layer *layer, const tn_weight *parameters)
{
    tn_affine affine;
    (void)layer->type->affine(&affine, layer);
    const tn_weight *own = parameters + layer->first_parameter;
    return (map){layer, own[affine.weight], affine.bias >= 0 ? own[affine.bias] : (tn_weight){NULL, TN_F32}};
}

/* W = W2 W1 [n2, k] and b = W2 b1 + b2 [n2] of two affine layers, in the compute dtype, in memory the caller frees. */
static tenon_status fold(const tn_pack *pack, const tn_step *step, const tn_weight *parameters,
                         const tn_context *context, tn_weight folded[2], void **memory, size_t *size,
                         tenon_error *error)
{
    const tn_ops *ops = context->ops;
    const map first = map_of(pack->plan->graph->layers[step->first], parameters);
    const map second = map_of(pack->plan->graph->layers[step->second], parameters);
    const int64_t n2 = second.layer->out_dim, n1 = first.layer->out_dim, k = first.layer->in_dim;
    size_t weight, bias;
    if (!tn_shape_bytes(2, (int64_t[]){n2, k}, tn_dtype_size(ops->compute), &weight) ||
        !tn_shape_bytes(1, &n2, tn_dtype_size(ops->compute), &bias) || !tn_add_size(weight, bias + TN_ALIGN, size)) {
        return tn_fail(error, TENON_INVALID, "folding '%s' into '%s' needs too much memory", second.layer->name,
                       first.layer->name);
    }
    TN_TRY(tn_alloc(pack->allocator, *size, "folding two linear layers", memory, error));
    ops->fold(context, *memory, second.weight.data, second.weight.dtype, first.weight.data, first.weight.dtype, NULL,
              TN_F32, n2, k, n1);
    folded[0] = (tn_weight){*memory, ops->compute};
    folded[1] = second.bias;
    if (first.bias.data == NULL) return TENON_OK;
    void *b = (char *)*memory + tn_align_up(weight, TN_ALIGN);
    ops->fold(context, b, second.weight.data, second.weight.dtype, first.bias.data, first.bias.dtype, second.bias.data,
              second.bias.dtype, n2, 1, n1);
    folded[1] = (tn_weight){b, ops->compute};
    return TENON_OK;
}

static tenon_status fill_step(tn_pack *pack, int index, const tn_weight *parameters, const tn_context *context,
                              tenon_error *error)
{
    const tn_step *step = &pack->plan->steps[index];
    const tn_weight *weights = parameters + step->layer->first_parameter;
    char *packed = (char *)pack->data + pack->offset[index];
    char *backward = pack->train ? (char *)pack->data + pack->offset_backward[index] : NULL;
    tn_weight folded[2];
    void *memory = NULL;
    size_t size = 0;
    if (step->layer->type->pack == NULL) return TENON_OK;
    if (step->second >= 0) {
        TN_TRY(fold(pack, step, parameters, context, folded, &memory, &size, error));
        weights = folded;
    }
    step->layer->type->pack(packed, backward, step->layer, context, weights);
    tn_free(pack->allocator, memory, size);
    return TENON_OK;
}

tenon_status tn_pack_fill(tn_pack *pack, const tn_weight *parameters, const tn_context *context, tenon_error *error)
{
    for (int i = 0; i < pack->plan->num_steps; i++)
        TN_TRY(fill_step(pack, i, parameters, context, error));
    return TENON_OK;
}

bool tn_pack_fits(const tn_pack *pack, const tn_weight *parameters)
{
    for (int i = 0; i < pack->plan->num_steps; i++) {
        const tn_step *step = &pack->plan->steps[i];
        const tn_weight *weights = pack->weights + pack->first_weight[i];
        if (step->second >= 0) return false; /* folded dtypes do not tell those of the parameters */
        for (int j = 0; j < step->layer->num_parameters; j++) {
            if (weights[j].dtype != parameters[step->layer->first_parameter + j].dtype) return false;
        }
    }
    return true;
}

void tn_pack_free(tn_pack *pack)
{
    if (pack->data != NULL) tn_free(pack->allocator, pack->data, pack->size);
    free(pack->weights);
    free(pack->first_weight);
    free(pack->offset);
    *pack = (tn_pack){.references = 0};
}
