/* SPDX-License-Identifier: MIT */
/* Checks, memory and steps of a call. */
#include "adapter/call.h"

#include "core/size.h"
#include <string.h>

enum { most_map_rows = 1 << 17 }; /* bounds the row arrays where windows are large */

/* --- checks --- */

tenon_status tn_run_acquire(tn_run *run, const tenon_adapter *adapter, tenon_error *error)
{
    run->adapter = adapter;
    run->pack = tn_pack_acquire(adapter);
    if (run->pack != NULL) return TENON_OK;
    return tn_fail(error, TENON_NOT_PREPARED,
                   "the adapter is not prepared; call tenon_adapter_prepare after its "
                   "parameters were reset, loaded or set");
}

static tenon_status check_features(tn_run *r, const DLTensor *x, const tenon_call *call, tenon_error *error)
{
    const tenon_adapter *adapter = r->adapter;
    if (x != NULL && x->ndim != 2 && x->ndim != 3) {
        return tn_fail(error, TENON_MISMATCH,
                       "x has %d dimensions; expected 3: (batch, tokens, in_dim), or 2 for one image: (tokens, in_dim)",
                       x->ndim);
    }
    r->one_image = x != NULL && x->ndim == 2;
    TN_TRY(tn_images_view(x, "x", 3, r->one_image, NULL, &r->x, error));
    if (r->x.shape[2] != adapter->in_dim) {
        return tn_fail(error, TENON_MISMATCH, "x has width %lld; the adapter's in_dim is %lld (x is %s)",
                       (long long)r->x.shape[2], (long long)adapter->in_dim, tn_shape_to_text(3, r->x.shape).text);
    }
    return tn_geometry_make(&r->geometry, adapter->list, call, r->x.shape[1], call->attention != NULL, error);
}

static tenon_status check_masks(tn_run *r, const tenon_call *call, tenon_error *error)
{
    const int64_t batch = r->x.shape[0];
    if (call->patch_mask != NULL) {
        const bool one_row = r->one_image && call->patch_mask->ndim == 1;
        TN_TRY(tn_mask_view(call->patch_mask, "patch_mask", one_row ? 1 : 2, &r->masks.patch, error));
        if (one_row) tn_tensor_add_images(&r->masks.patch);
        TN_TRY(tn_check_shape(&r->masks.patch, "patch_mask", (int64_t[]){batch, r->geometry.count[0]}, error));
    }
    if (call->frame_mask != NULL) {
        TN_TRY(tn_mask_view(call->frame_mask, "frame_mask", 1, &r->masks.frame, error));
        TN_TRY(tn_check_shape(&r->masks.frame, "frame_mask", &batch, error));
    }
    return TENON_OK;
}

tenon_status tn_run_check(tn_run *run, const DLTensor *x, const tenon_call *call, tenon_error *error)
{
    TN_TRY(tn_parallel_init(&run->parallel, call->threads, call->executor, error));
    TN_TRY(check_features(run, x, call, error));
    run->saved = call->saved;
    run->saved_size = call->saved_size;
    return check_masks(run, call, error);
}

tenon_status tn_run_check_tokens(tn_run *run, const DLTensor *y, const char *name, tenon_error *error)
{
    const tn_geometry *geometry = &run->geometry;
    const int64_t expected[] = {run->x.shape[0], geometry->count[geometry->num_windows], run->adapter->out_dim};
    return tn_images_view(y, name, 3, run->one_image, expected, &run->y, error);
}

tenon_status tn_check_written(const tn_tensor *t, const char *name, tenon_error *error)
{
    if (t->stride[2] != 1 && t->shape[2] > 1) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s has stride %lld on its last axis; it must be contiguous", name,
                       (long long)t->stride[2]);
    }
    if (!tn_tensor_is_injective(t)) {
        return tn_fail(error, TENON_INVALID, "%s has strides under which two tokens share memory", name);
    }
    return TENON_OK;
}

tenon_status tn_run_find_attention(tn_run *run, tenon_error *error)
{
    const tn_plan *plan = run->pack->plan;
    for (int i = 0; i < plan->num_steps; i++) {
        if (!plan->steps[i].layer.type->writes_attention || plan->steps[i].level != run->geometry.num_windows) continue;
        run->attention_step = i;
        return TENON_OK;
    }
    return tn_fail(error, TENON_UNSUPPORTED, "adapter type '%s' has no pooling weights to write",
                   tenon_config_type(run->adapter->config));
}

tn_tensor tn_bytes_tensor(void *data, size_t bytes)
{
    return (tn_tensor){.data = bytes > 0 ? data : NULL, .ndim = 1, .shape = {(int64_t)bytes}, .stride = {1}};
}

tenon_status tn_check_overlap(const tn_touched *all, size_t count, tenon_error *error)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (all[i].tensor->data == NULL || all[j].tensor->data == NULL || !(all[i].written || all[j].written)) {
                continue;
            }
            if (!tn_tensor_overlap(all[j].tensor, all[j].element, all[i].tensor, all[i].element)) continue;
            return tn_fail(error, TENON_INVALID, "%s and %s overlap in memory", all[j].name, all[i].name);
        }
    }
    return TENON_OK;
}

/* --- memory --- */

bool tn_reserve(size_t *size, size_t bytes, size_t *offset)
{
    *offset = *size;
    return bytes <= SIZE_MAX - TN_ALIGN && tn_add_size(*size, tn_align_up(bytes, TN_ALIGN), size);
}

tenon_status tn_run_memory(tn_run *run, void *layout, tn_layout_plan *plan, const tenon_workspace *given, void **memory,
                           size_t *allocated, tenon_error *error)
{
    size_t needed;
    *allocated = 0;
    if (!plan(layout, run, &needed)) {
        return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
    }
    if (given == NULL) {
        TN_TRY(tn_alloc(&run->adapter->allocator, needed, "the workspace of a call", memory, error));
        *allocated = needed;
        return TENON_OK;
    }
    /* How many workers OpenMP offers depends on the thread that asks, and the tokens do not depend on it. */
    const size_t available = given->data != NULL ? given->size : 0, wanted = needed;
    while (available < needed && run->parallel.workers > 1) {
        run->parallel.workers--;
        if (!plan(layout, run, &needed)) break;
    }
    if (available < needed) {
        return tn_fail(error, TENON_INVALID, "the workspace has %zu bytes; this call needs %zu", available, wanted);
    }
    *memory = given->data;
    return TENON_OK;
}

static tenon_status plan_run(tn_planned *planned, int64_t num_input_tokens, const tenon_call *call, bool train,
                             tenon_error *error)
{
    tn_run *run = &planned->run;
    if (run->pack == NULL || (train && !run->pack->train)) {
        planned->own.train = train;
        if (run->pack != NULL) {
            planned->own.ops = run->pack->ops;
        } else {
            TN_TRY(tn_find_table(NULL, &planned->own.ops, error));
        }
        TN_TRY(tn_pack_plan(run->adapter, &planned->own, error));
        tn_run_plan_end(planned);
        run->pack = &planned->own;
    }
    TN_TRY(tn_parallel_init(&run->parallel, call->threads, call->executor, error));
    return tn_geometry_make(&run->geometry, run->adapter->list, call, num_input_tokens, call->attention != NULL, error);
}

tenon_status tn_run_plan(tn_planned *planned, const tenon_adapter *adapter, int64_t num_input_tokens,
                         const tenon_call *call, bool train, tenon_error *error)
{
    *planned = (tn_planned){.run = {.adapter = adapter, .pack = tn_pack_acquire(adapter)}};
    const tenon_status status = plan_run(planned, num_input_tokens, call, train, error);
    if (status != TENON_OK) tn_run_plan_end(planned);
    return status;
}

void tn_run_plan_end(tn_planned *planned)
{
    if (planned->run.pack != &planned->own) tn_pack_release(planned->run.adapter, planned->run.pack);
}

/* --- rows --- */

bool tn_run_plan_rows(tn_block_rows *rows, const tn_run *run)
{
    const tn_step *steps = run->pack->plan->steps;
    const int64_t most = run->pack->ops->block_rows;
    /* Where the first step reads the features through its windows, of level 0 only the map is ever stored. */
    const bool by_block = tn_block_rows_plan(rows, &run->geometry, most, steps[0].window == 0 ? 1 : 0);
    if (by_block && rows->capacity[0] <= most_map_rows) return true;
    return tn_block_rows_plan(rows, &run->geometry, most_map_rows, 0);
}

bool tn_step_value_size(const tn_run *run, const tn_block_rows *rows, const tn_step *step, size_t *bytes)
{
    const int64_t shape[] = {rows->capacity[step->level], step->layer.out_dim};
    return tn_shape_bytes(2, shape, tn_dtype_size(run->pack->ops->compute), bytes);
}

int64_t tn_step_slots(const tn_run *run, const tn_step *step)
{
    return step->window >= 0 ? tn_tiling_slots(&run->geometry.tiling[step->window]) : 1;
}

/* Lowest offset that the first two axes reach, so that row offsets can be counted from there and never be negative. */
static int64_t lowest_row(const tn_tensor *t)
{
    int64_t low = 0;
    for (int i = 0; i < 2; i++) {
        if (t->stride[i] < 0 && t->shape[i] > 0) low += (t->shape[i] - 1) * t->stride[i];
    }
    return low;
}

tn_rows tn_rows_of(const tn_tensor *t, const int64_t *offsets)
{
    char *data = (char *)t->data + lowest_row(t) * (int64_t)tn_dtype_size(t->dtype);
    return (tn_rows){data, t->dtype, 0, t->ndim == 3 ? t->stride[2] : 1, offsets};
}

void tn_to_offsets(int64_t *offsets, const int64_t *numbers, int64_t count, const tn_tensor *t, int64_t per_image,
                   int64_t skip)
{
    const int64_t low = lowest_row(t);
    for (int64_t i = 0; i < count; i++) {
        const int64_t image = numbers[i] / per_image, row = numbers[i] % per_image + skip;
        offsets[i] = image * t->stride[0] + row * t->stride[1] - low;
    }
}

void tn_run_locate(const tn_run *run, tn_block_rows *rows)
{
    const tn_plan *plan = run->pack->plan;
    const int top = rows->num_windows;
    tn_to_offsets(rows->patches, rows->patches, rows->rows[0], &run->x, run->geometry.count[0],
                  run->geometry.prefix_tokens);
    tn_to_offsets(rows->map[top], rows->map[top], rows->rows[top], &run->y, run->geometry.count[top], 0);
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        if (step->window < 0) continue;
        const int64_t entries = rows->rows[step->level] * tn_step_slots(run, step);
        int64_t *map = rows->map[step->window];
        for (int64_t e = 0; e < entries; e++) {
            if (map[e] >= 0) map[e] = i == 0 ? rows->patches[map[e]] : map[e] * step->layer.in_dim;
        }
    }
}

/* --- what forward leaves for backward --- */

bool tn_kept_plan(tn_kept *kept, const tn_run *run, const tn_block_rows *rows)
{
    const tn_plan *plan = run->pack->plan;
    *kept = (tn_kept){.size = 0};
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        const bool has_value = i + 1 < plan->num_steps || step->act != TN_ACT_NONE;
        size_t value = 0, state = 0;
        if (has_value && !tn_step_value_size(run, rows, step, &value)) return false;
        if (step->layer.type->state_size != NULL) {
            state = step->layer.type->state_size(&step->layer, run->pack->ops, rows->capacity[step->level]);
        }
        if (!tn_reserve(&kept->size, value, &kept->value[i]) || !tn_reserve(&kept->size, state, &kept->state[i])) {
            return false;
        }
    }
    return true;
}

char *tn_saved_block(const tn_run *run, const tn_kept *kept, int64_t block)
{
    return tn_aligned(run->saved) + (size_t)block * kept->size;
}

bool tn_saved_bytes(const tn_run *run, int64_t tokens, size_t *bytes)
{
    tn_block_rows rows;
    tn_kept kept;
    if (!tn_run_plan_rows(&rows, run)) return false;
    const int64_t blocks = tn_block_rows_even(&rows, tokens);
    return tn_kept_plan(&kept, run, &rows) && tn_mul_size(kept.size, (size_t)blocks, bytes) &&
           tn_add_size(*bytes, TN_ALIGN, bytes);
}

tenon_status tn_run_check_saved(const tn_run *run, tenon_error *error)
{
    size_t needed;
    if (!tn_saved_bytes(run, run->y.shape[0] * run->y.shape[1], &needed)) {
        return tn_fail(error, TENON_INVALID, "what backward needs of this call does not fit 64 bits");
    }
    if (run->saved_size >= needed) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "saved has %zu bytes; this call needs %zu (tenon_adapter_saved_size)",
                   run->saved_size, needed);
}

/* --- steps --- */

/* The values that step i made. */
static const char *value_of(const tn_run *run, const tn_stage *stage, int i)
{
    const bool kept = stage->keep != NULL && run->pack->plan->steps[i].act == TN_ACT_NONE;
    return kept ? stage->keep + stage->kept->value[i] : stage->values[i % 2];
}

static tn_rows step_input(const tn_run *run, const tn_stage *stage, int i)
{
    const tn_step *step = &run->pack->plan->steps[i];
    const int64_t *map = step->window >= 0 ? stage->rows->map[step->window] : NULL;
    if (i == 0) return tn_rows_of(&run->x, map != NULL ? map : stage->rows->patches);
    tn_rows x = tn_dense_rows(value_of(run, stage, i - 1), run->pack->ops->compute, step->layer.in_dim);
    x.offset = map;
    return x;
}

static tn_rows step_output(const tn_run *run, const tn_stage *stage, int i)
{
    const tn_step *step = &run->pack->plan->steps[i];
    if (i + 1 == run->pack->plan->num_steps) return tn_rows_of(&run->y, stage->rows->map[stage->rows->num_windows]);
    return tn_dense_rows(value_of(run, stage, i), run->pack->ops->compute, step->layer.out_dim);
}

/* Step i with its result kept: the layer first, then the activation. `whole`: the result after it is wanted too. */
static void run_kept(const tn_run *run, const tn_stage *stage, tn_block *block, int i, bool whole,
                     const tn_context *context)
{
    const tn_step *step = &run->pack->plan->steps[i];
    const tn_rows y = block->y;
    if (step->layer.type->state_size != NULL) block->state = stage->keep + stage->kept->state[i];
    if (step->act != TN_ACT_NONE) {
        block->y = tn_dense_rows(stage->keep + stage->kept->value[i], context->ops->compute, step->layer.out_dim);
        block->act = TN_ACT_NONE;
    }
    if (i + 1 == stage->steps && !stage->value) block->y.data = NULL;
    step->layer.type->forward(block, &step->layer, context, (const char *)run->pack->data + run->pack->offset[i],
                              &run->pack->weights[i]);
    if (step->act == TN_ACT_NONE || !whole) return;
    context->ops->activation(context, y, block->y, step->act, block->rows, step->layer.out_dim);
}

void tn_run_steps(const tn_run *run, const tn_stage *stage, const tn_context *context)
{
    const tn_plan *plan = run->pack->plan;
    for (int i = 0; i < stage->steps; i++) {
        const tn_step *step = &plan->steps[i];
        tn_block block = {.y = step_output(run, stage, i),
                          .x = step_input(run, stage, i),
                          .rows = stage->rows->rows[step->level],
                          .slots = tn_step_slots(run, step),
                          .act = step->act,
                          .attention = {.dtype = TN_F32},
                          .buffer = stage->buffer};
        if (run->attention.data != NULL && i == run->attention_step) {
            block.attention = tn_rows_of(&run->attention, stage->attention_offsets);
        }
        if (stage->keep != NULL) {
            run_kept(run, stage, &block, i, stage->tokens || i + 1 < stage->steps, context);
            continue;
        }
        step->layer.type->forward(&block, &step->layer, context, (const char *)run->pack->data + run->pack->offset[i],
                                  &run->pack->weights[i]);
    }
}
