/* SPDX-License-Identifier: MIT */
/* Patch merge: the patches of each side x side window side by side in one row, zeros where the grid ends or a patch is
 * masked. Reach: window. No parameters. */
#include "core/size.h"
#include "layers/types.h"

typedef struct patch_merge {
    tenon_merge_order order;
} patch_merge;

static bool is_channel_first(const tn_layer *layer)
{
    return ((const patch_merge *)layer->own)->order == TENON_MERGE_C_DY_DX;
}

int tenon_patch_merge(tenon_builder *builder, int64_t side, tenon_merge_order order, const char *ragged)
{
    tn_layer *layer = tn_builder_append(
        builder, &(tn_append){.type = &tn_patch_merge_type, .name = "", .own_size = sizeof(patch_merge)});
    if (layer == NULL) return -1;
    int64_t area;
    if ((unsigned)order > TENON_MERGE_DY_DX_C_TRANSPOSED) {
        tenon_builder_fail(builder, "a patch merge has no order %d; see tenon_merge_order", (int)order);
        return -1;
    }
    if (side <= 0 || !tn_mul_i64(side, side, &area) || !tn_mul_i64(layer->in_dim, area, &layer->out_dim)) {
        tenon_builder_fail(builder, "a patch merge needs a positive side whose square fits the width (got %lld)",
                           (long long)side);
        return -1;
    }
    ((patch_merge *)layer->own)->order = order;
    const int space = tn_builder_value(builder, layer->inputs[0])->space;
    const tn_window_rule rule = {.side = side, .transposed = order == TENON_MERGE_DY_DX_C_TRANSPOSED};
    return tn_builder_finish_in(builder, layer, tn_builder_windows_by(builder, space, &rule, ragged));
}

static void describe(const tn_settings *settings, const tn_layer *layer)
{
    static const char *const names[] = {[TENON_MERGE_DY_DX_C] = "dy_dx_c",
                                        [TENON_MERGE_C_DY_DX] = "c_dy_dx",
                                        [TENON_MERGE_DY_DX_C_TRANSPOSED] = "dy_dx_c_transposed"};
    tn_settings_string(settings, "order", names[((const patch_merge *)layer->own)->order]);
}

/* The windows of a merge are no pool's, so that they have all side^2 slots on any grid. */
static void forward(const tn_layer_call *call)
{
    call->context->ops->merge(call->context, call->y, call->x[0], call->rows, call->slots, call->layer->in_dim,
                              is_channel_first(call->layer));
}

static void backward(const tn_layer_call *call)
{
    call->context->ops->merge_backward(call->context, call->dx[0], call->dy, call->rows, call->slots,
                                       call->layer->in_dim, is_channel_first(call->layer));
}

const tn_layer_type tn_patch_merge_type = {
    .name = "patch_merge",
    .reach = TN_REACH_WINDOW,
    .describe = describe,
    .forward = forward,
    .backward = backward,
};
