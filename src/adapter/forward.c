/* SPDX-License-Identifier: MIT */
/* The forward pass: the call is checked, then blocks of tokens go through the steps of the plan.
 *
 * Per block, values between steps live in two buffers of the workspace that take turns; the first step reads the
 * features where they are, the last one writes the tokens where the caller wants them. What a backward will read is
 * made in the caller's memory instead, if there is one.
 */
#include "adapter/call.h"

#include "core/size.h"

/* The workspace of a call, cut up. */
typedef struct layout {
    tn_block_rows rows;
    size_t rows_at, offsets, values[2], buffer, scratch; /* byte offsets */
} layout;

static bool plan_layout(void *planned, const tn_run *r, size_t *bytes)
{
    layout *l = planned;
    const tn_plan *plan = r->pack->plan;
    const tn_ops *ops = r->pack->ops;
    size_t rows, offsets, values = 0, buffer = 0, scratch = 0, size = 0;
    *l = (layout){.buffer = 0};
    if (!tn_run_plan_rows(&l->rows, r)) return false;
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        const tn_layer_type *type = step->layer.type;
        const int64_t capacity = l->rows.capacity[step->level], slots = tn_step_slots(r, step);
        size_t value;
        if (!tn_step_value_size(r, &l->rows, step, &value)) return false;
        if (i + 1 < plan->num_steps) values = tn_max_size(values, value);
        if (type->buffer_size != NULL) {
            buffer = tn_max_size(buffer, type->buffer_size(&step->layer, ops, capacity, slots));
        }
        if (type->scratch_size != NULL) {
            scratch = tn_max_size(scratch, type->scratch_size(&step->layer, ops, &r->pack->weights[i], capacity, slots,
                                                              r->parallel.workers));
        }
    }
    return tn_block_rows_size(&l->rows, &rows) && tn_shape_bytes(1, &l->rows.block_rows, sizeof(int64_t), &offsets) &&
           tn_reserve(&size, rows, &l->rows_at) && tn_reserve(&size, offsets, &l->offsets) &&
           tn_reserve(&size, values, &l->values[0]) && tn_reserve(&size, values, &l->values[1]) &&
           tn_reserve(&size, buffer, &l->buffer) && tn_reserve(&size, scratch, &l->scratch) &&
           tn_add_size(size, TN_ALIGN, bytes); /* for a workspace that is not aligned */
}

/* Tokens without patches: exact zeros, and zero pooling weights. */
static void write_dead(const tn_run *r, const tn_block_rows *rows, int64_t *offsets, const tn_context *context)
{
    const int64_t per_image = r->geometry.count[r->geometry.num_windows];
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    tn_to_offsets(offsets, rows->dead, rows->num_dead, &r->y, per_image, 0);
    context->ops->copy(context, tn_rows_of(&r->y, offsets), zeros, rows->num_dead, r->adapter->out_dim);
    if (r->attention.data == NULL) return;
    tn_to_offsets(offsets, rows->dead, rows->num_dead, &r->attention, per_image, 0);
    context->ops->copy(context, tn_rows_of(&r->attention, offsets), zeros, rows->num_dead,
                       r->attention.shape[2] * r->attention.shape[3]);
}

static void run_blocks(const tn_run *r, layout *l, void *workspace)
{
    char *memory = tn_aligned(workspace);
    const tn_context context = {.ops = r->pack->ops, .parallel = &r->parallel, .scratch = memory + l->scratch};
    const int64_t batch = r->y.shape[0], per_image = r->y.shape[1], tokens = batch * per_image;
    const int top = l->rows.num_windows;
    int64_t *offsets = (int64_t *)(void *)(memory + l->offsets);
    tn_kept kept;
    tn_stage stage = {.rows = &l->rows,
                      .steps = r->pack->plan->num_steps,
                      .value = true,
                      .tokens = true,
                      .values = {memory + l->values[0], memory + l->values[1]},
                      .buffer = memory + l->buffer,
                      .attention_offsets = offsets,
                      .kept = &kept};
    tn_block_rows_place(&l->rows, memory + l->rows_at);
    tn_block_rows_even(&l->rows, tokens);
    const bool keeps = r->saved != NULL && tn_kept_plan(&kept, r, &l->rows);
    for (int64_t token = 0; token < tokens;) {
        const int64_t block = token / l->rows.block_rows;
        tn_block_rows_fill(&l->rows, &r->geometry, &r->masks, batch, &token);
        if (l->rows.num_dead > 0) write_dead(r, &l->rows, offsets, &context);
        if (l->rows.rows[top] == 0) continue;
        if (r->attention.data != NULL) {
            tn_to_offsets(offsets, l->rows.map[top], l->rows.rows[top], &r->attention, per_image, 0);
        }
        tn_run_locate(r, &l->rows);
        if (keeps) stage.keep = tn_saved_block(r, &kept, block);
        tn_run_steps(r, &stage, &context);
    }
}

static tenon_status check_attention(tn_run *r, const tenon_call *call, tenon_error *error)
{
    if (call->attention == NULL) return TENON_OK;
    TN_TRY(tn_run_find_attention(r, error));
    const int64_t slots = tn_tiling_slots(&r->geometry.tiling[r->geometry.num_windows - 1]);
    const int64_t heads = r->pack->plan->steps[r->attention_step].layer.heads;
    const int64_t expected[] = {r->x.shape[0], r->geometry.count[r->geometry.num_windows], heads, slots};
    TN_TRY(tn_images_view(call->attention, "attention", 4, r->one_image, expected, &r->attention, error));
    const tn_tensor *t = &r->attention;
    const bool dense = (t->stride[3] == 1 || slots == 1) && (t->stride[2] == slots || heads == 1);
    if (t->dtype != TN_F32 || !dense || !tn_tensor_is_injective(t)) {
        return tn_fail(error, TENON_UNSUPPORTED, "attention must be float32 and contiguous in its last two axes");
    }
    return TENON_OK;
}

static tenon_status check_saved(const tn_run *r, tenon_error *error)
{
    if (r->saved == NULL) return TENON_OK;
    if (!r->pack->train) {
        return tn_fail(error, TENON_NOT_PREPARED,
                       "call.saved is for a backward, but the adapter is not prepared with train");
    }
    return tn_run_check_saved(r, error);
}

static tenon_status check_overlap(const tn_run *r, const tenon_workspace *workspace, tenon_error *error)
{
    const tn_tensor none = {.data = NULL};
    const tn_tensor memory = workspace != NULL ? tn_bytes_tensor(workspace->data, workspace->size) : none;
    const tn_tensor saved = tn_bytes_tensor(r->saved, r->saved_size);
    const tn_touched all[] = {
        {"x", &r->x, tn_dtype_size(r->x.dtype), false},
        {"y", &r->y, tn_dtype_size(r->y.dtype), true},
        {"patch_mask", &r->masks.patch, 1, false},
        {"frame_mask", &r->masks.frame, 1, false},
        {"attention", &r->attention, sizeof(float), true},
        {"the workspace", &memory, 1, true},
        {"saved", &saved, 1, true},
    };
    return tn_check_overlap(all, sizeof all / sizeof all[0], error);
}

static tenon_status check_call(tn_run *r, const DLTensor *x, const DLTensor *y, const tenon_call *call,
                               tenon_error *error)
{
    TN_TRY(tn_run_check(r, x, call, error));
    TN_TRY(tn_run_check_tokens(r, y, "y", error));
    TN_TRY(tn_check_written(&r->y, "y", error));
    TN_TRY(check_saved(r, error));
    return check_attention(r, call, error);
}

static tenon_status run_call(tn_run *r, const tenon_workspace *workspace, tenon_error *error)
{
    layout l;
    void *memory;
    size_t allocated;
    tn_environment environment;
    if (r->y.shape[0] == 0 || r->y.shape[1] == 0) return TENON_OK;
    TN_TRY(check_overlap(r, workspace, error));
    TN_TRY(tn_run_memory(r, &l, plan_layout, workspace, &memory, &allocated, error));
    tn_environment_enter(&environment);
    run_blocks(r, &l, memory);
    tn_environment_leave(&environment);
    if (workspace == NULL) tn_free(&r->adapter->allocator, memory, allocated);
    return TENON_OK;
}

tenon_status tenon_adapter_forward(const tenon_adapter *adapter, const DLTensor *x, DLTensor *y, const tenon_call *call,
                                   const tenon_workspace *workspace, tenon_error *error)
{
    tn_run r = {.attention_step = -1};
    tenon_call settings;
    TN_TRY(tn_run_acquire(&r, adapter, error));
    tenon_status status = tn_call_read(&settings, call, error);
    if (status == TENON_OK) status = check_call(&r, x, y, &settings, error);
    if (status == TENON_OK) status = run_call(&r, workspace, error);
    tn_pack_release(adapter, r.pack);
    return status;
}

static tenon_status measure(tn_run *run, const tenon_call *call, size_t *bytes, tenon_error *error)
{
    layout l;
    if (call->attention != NULL) TN_TRY(tn_run_find_attention(run, error));
    if (!plan_layout(&l, run, bytes)) {
        return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
    }
    return TENON_OK;
}

tenon_status tenon_adapter_workspace_size(const tenon_adapter *adapter, int64_t num_input_tokens,
                                          const tenon_call *call, size_t *bytes, tenon_error *error)
{
    tn_planned planned;
    tenon_call settings;
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(tn_run_plan(&planned, adapter, num_input_tokens, &settings, false, error));
    size_t needed = 0;
    const tenon_status status = measure(&planned.run, &settings, &needed, error);
    tn_run_plan_end(&planned);
    if (status == TENON_OK) *bytes = needed;
    return status;
}
