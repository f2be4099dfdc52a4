/* The forward pass: the call is checked, then blocks of tokens go through the steps of the plan.
 *
 * Per block, values between steps live in two buffers of the workspace that take turns; the first step reads the
 * features where they are, the last one writes the tokens where the caller wants them.
 */
#include "adapter/block.h"

#include "core/size.h"
#include <string.h>

/* A call, checked. */
typedef struct run {
    const tenon_adapter *adapter;
    const tn_pack *pack;
    tn_parallel parallel;
    tn_geometry geometry;
    tn_masks masks;
    tn_tensor x, y;      /* [batch, tokens, in_dim], [batch, out_tokens, out_dim] */
    tn_tensor attention; /* [batch, out_tokens, heads, window^2], or data NULL */
    int attention_step;  /* the step that writes it */
} run;

/* The workspace of a call, cut up. */
typedef struct layout {
    tn_block_rows rows;
    size_t rows_at, offsets, values[2], buffer, scratch; /* byte offsets */
    size_t size;
} layout;

enum { most_map_rows = 1 << 17 }; /* bounds the row arrays where windows are large */

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Reserves `bytes` at the end of the layout, aligned; false when it does not fit. */
static bool reserve(layout *l, size_t bytes, size_t *offset)
{
    *offset = l->size;
    return bytes <= SIZE_MAX - TN_ALIGN && tn_add_size(l->size, tn_align_up(bytes, TN_ALIGN), &l->size);
}

static bool plan_rows(layout *l, const run *r)
{
    const tn_step *steps = r->adapter->plan.steps;
    const int64_t most = r->pack->ops->block_rows;
    /* Where the first step reads the features through its windows, of level 0 only the map is ever stored. */
    const bool by_block = tn_block_rows_plan(&l->rows, &r->geometry, most, steps[0].window == 0 ? 1 : 0);
    if (by_block && l->rows.capacity[0] <= most_map_rows) return true;
    return tn_block_rows_plan(&l->rows, &r->geometry, most_map_rows, 0);
}

static int64_t step_slots(const run *r, const tn_step *step)
{
    return step->window >= 0 ? tn_tiling_slots(&r->geometry.tiling[step->window]) : 1;
}

static bool plan_layout(layout *l, const run *r)
{
    const tn_plan *plan = &r->adapter->plan;
    const tn_ops *ops = r->pack->ops;
    size_t rows, offsets, values = 0, buffer = 0, scratch = 0;
    *l = (layout){.size = 0};
    if (!plan_rows(l, r)) return false;
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        const tn_layer_type *type = step->layer.type;
        const int64_t capacity = l->rows.capacity[step->level], slots = step_slots(r, step);
        size_t value;
        if (!tn_shape_bytes(2, (int64_t[]){capacity, step->layer.out_dim}, tn_dtype_size(ops->compute), &value)) {
            return false;
        }
        if (i + 1 < plan->num_steps) values = max_size(values, value);
        if (type->buffer_size != NULL) {
            buffer = max_size(buffer, type->buffer_size(&step->layer, ops, capacity, slots));
        }
        if (type->scratch_size != NULL) {
            scratch = max_size(scratch, type->scratch_size(&step->layer, ops, &r->pack->weights[i], capacity, slots,
                                                           r->parallel.workers));
        }
    }
    return tn_block_rows_size(&l->rows, &rows) && tn_shape_bytes(1, &l->rows.block_rows, sizeof(int64_t), &offsets) &&
           reserve(l, rows, &l->rows_at) && reserve(l, offsets, &l->offsets) && reserve(l, values, &l->values[0]) &&
           reserve(l, values, &l->values[1]) && reserve(l, buffer, &l->buffer) && reserve(l, scratch, &l->scratch) &&
           tn_add_size(l->size, TN_ALIGN, &l->size); /* for a workspace that is not aligned */
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

static tn_rows rows_of(const tn_tensor *t, const int64_t *offsets)
{
    char *data = (char *)t->data + lowest_row(t) * (int64_t)tn_dtype_size(t->dtype);
    return (tn_rows){data, t->dtype, 0, t->ndim == 3 ? t->stride[2] : 1, offsets};
}

/* offsets[i] = where row numbers[i], counted over the batch, starts; an image's row 0 comes after `skip` rows. */
static void to_offsets(int64_t *offsets, const int64_t *numbers, int64_t count, const tn_tensor *t, int64_t per_image,
                       int64_t skip)
{
    const int64_t low = lowest_row(t);
    for (int64_t i = 0; i < count; i++) {
        const int64_t image = numbers[i] / per_image, row = numbers[i] % per_image + skip;
        offsets[i] = image * t->stride[0] + row * t->stride[1] - low;
    }
}

/* Tokens without patches: exact zeros, and zero pooling weights. */
static void write_dead(const run *r, const tn_block_rows *rows, int64_t *offsets, const tn_context *context)
{
    const int64_t per_image = r->geometry.count[r->geometry.num_windows];
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    to_offsets(offsets, rows->dead, rows->num_dead, &r->y, per_image, 0);
    context->ops->copy(context, rows_of(&r->y, offsets), zeros, rows->num_dead, r->adapter->out_dim);
    if (r->attention.data == NULL) return;
    to_offsets(offsets, rows->dead, rows->num_dead, &r->attention, per_image, 0);
    context->ops->copy(context, rows_of(&r->attention, offsets), zeros, rows->num_dead,
                       r->attention.shape[2] * r->attention.shape[3]);
}

/* Turns the numbers of rows into offsets, in place: of features for the first step, of tokens for the last, of dense
 * rows for windows in between. */
static void locate_rows(const run *r, tn_block_rows *rows, int64_t *attention_offsets)
{
    const tn_plan *plan = &r->adapter->plan;
    const int top = rows->num_windows;
    const int64_t per_image = r->geometry.count[top];
    if (r->attention.data != NULL) {
        to_offsets(attention_offsets, rows->map[top], rows->rows[top], &r->attention, per_image, 0);
    }
    if (top > 0) to_offsets(rows->map[top], rows->map[top], rows->rows[top], &r->y, per_image, 0);
    to_offsets(rows->patches, rows->patches, rows->rows[0], &r->x, r->geometry.count[0], r->geometry.strip);
    if (top == 0) to_offsets(rows->map[0], rows->map[0], rows->rows[0], &r->y, per_image, 0);
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        if (step->window < 0) continue;
        const int64_t entries = rows->rows[step->level] * step_slots(r, step);
        int64_t *map = rows->map[step->window];
        for (int64_t e = 0; e < entries; e++) {
            if (map[e] >= 0) map[e] = i == 0 ? rows->patches[map[e]] : map[e] * step->layer.in_dim;
        }
    }
}

static void run_steps(const run *r, const tn_block_rows *rows, const layout *l, char *memory, const tn_context *context)
{
    const tn_plan *plan = &r->adapter->plan;
    const tn_dtype compute = context->ops->compute;
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        const int64_t *map = step->window >= 0 ? rows->map[step->window] : NULL;
        tn_block block = {.rows = rows->rows[step->level],
                          .slots = step_slots(r, step),
                          .act = step->act,
                          .attention = {.dtype = TN_F32},
                          .buffer = memory + l->buffer};
        if (i == 0) {
            block.x = rows_of(&r->x, map != NULL ? map : rows->patches);
        } else {
            block.x = tn_dense_rows(memory + l->values[(i - 1) % 2], compute, step->layer.in_dim);
            block.x.offset = map;
        }
        if (i + 1 == plan->num_steps) {
            block.y = rows_of(&r->y, rows->map[rows->num_windows]);
        } else {
            block.y = tn_dense_rows(memory + l->values[i % 2], compute, step->layer.out_dim);
        }
        if (r->attention.data != NULL && i == r->attention_step) {
            block.attention = rows_of(&r->attention, (const int64_t *)(const void *)(memory + l->offsets));
        }
        step->layer.type->forward(&block, &step->layer, context, (const char *)r->pack->data + r->pack->offset[i],
                                  &r->pack->weights[i]);
    }
}

static void run_blocks(const run *r, layout *l, void *workspace)
{
    char *memory = (char *)workspace + (TN_ALIGN - (uintptr_t)workspace % TN_ALIGN) % TN_ALIGN;
    const tn_context context = {.ops = r->pack->ops, .parallel = &r->parallel, .scratch = memory + l->scratch};
    const int64_t batch = r->y.shape[0], tokens = batch * r->y.shape[1];
    int64_t *offsets = (int64_t *)(void *)(memory + l->offsets);
    tn_block_rows_place(&l->rows, memory + l->rows_at);
    const int64_t blocks = tn_ceil_div(tokens, l->rows.block_rows);
    l->rows.block_rows = tn_ceil_div(tokens, blocks); /* blocks of equal size */
    for (int64_t token = 0; token < tokens;) {
        tn_block_rows_fill(&l->rows, &r->geometry, &r->masks, batch, &token);
        if (l->rows.num_dead > 0) write_dead(r, &l->rows, offsets, &context);
        if (l->rows.rows[l->rows.num_windows] == 0) continue;
        locate_rows(r, &l->rows, offsets);
        run_steps(r, &l->rows, l, memory, &context);
    }
}

static tenon_status check_shape(const tn_tensor *t, const char *name, const int64_t *expected, tenon_error *error)
{
    if (memcmp(t->shape, expected, (size_t)t->ndim * sizeof expected[0]) == 0) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH, "%s has shape %s; expected %s", name,
                   tn_shape_to_text(t->ndim, t->shape).text, tn_shape_to_text(t->ndim, expected).text);
}

static tenon_status check_features(run *r, const DLTensor *x, const tenon_call *call, tenon_error *error)
{
    const tenon_adapter *adapter = r->adapter;
    TN_TRY(tn_tensor_view(x, "x", 3, &r->x, error));
    if (r->x.shape[2] != adapter->in_dim) {
        return tn_fail(error, TENON_MISMATCH, "x has width %lld; the adapter's in_dim is %lld (x is %s)",
                       (long long)r->x.shape[2], (long long)adapter->in_dim, tn_shape_to_text(3, r->x.shape).text);
    }
    return tn_geometry_make(&r->geometry, adapter->list, call, r->x.shape[1], call->attention != NULL, error);
}

static tenon_status check_tokens(run *r, const DLTensor *y, tenon_error *error)
{
    TN_TRY(tn_tensor_view(y, "y", 3, &r->y, error));
    const int64_t expected[] = {r->x.shape[0], r->geometry.count[r->geometry.num_windows], r->adapter->out_dim};
    TN_TRY(check_shape(&r->y, "y", expected, error));
    if (r->y.stride[2] != 1 && r->y.shape[2] > 1) {
        return tn_fail(error, TENON_UNSUPPORTED, "y has stride %lld on its last axis; it must be contiguous",
                       (long long)r->y.stride[2]);
    }
    if (!tn_tensor_is_injective(&r->y)) {
        return tn_fail(error, TENON_INVALID, "y has strides under which two tokens share memory");
    }
    return TENON_OK;
}

static tenon_status check_masks(run *r, const tenon_call *call, tenon_error *error)
{
    const int64_t batch = r->x.shape[0];
    if (call->patch_mask != NULL) {
        TN_TRY(tn_mask_view(call->patch_mask, "patch_mask", 2, &r->masks.patch, error));
        TN_TRY(check_shape(&r->masks.patch, "patch_mask", (int64_t[]){batch, r->geometry.count[0]}, error));
    }
    if (call->frame_mask != NULL) {
        TN_TRY(tn_mask_view(call->frame_mask, "frame_mask", 1, &r->masks.frame, error));
        TN_TRY(check_shape(&r->masks.frame, "frame_mask", &batch, error));
    }
    return TENON_OK;
}

/* The step whose pooling weights the caller wants: its windows must be the tokens. */
static tenon_status find_attention_step(run *r, tenon_error *error)
{
    const tn_plan *plan = &r->adapter->plan;
    for (int i = 0; i < plan->num_steps; i++) {
        if (!plan->steps[i].layer.type->writes_attention || plan->steps[i].level != r->geometry.num_windows) continue;
        r->attention_step = i;
        return TENON_OK;
    }
    return tn_fail(error, TENON_UNSUPPORTED, "adapter type '%s' has no pooling weights to write",
                   tenon_config_type(r->adapter->config));
}

static tenon_status check_attention(run *r, const tenon_call *call, tenon_error *error)
{
    if (call->attention == NULL) return TENON_OK;
    TN_TRY(find_attention_step(r, error));
    TN_TRY(tn_tensor_view(call->attention, "attention", 4, &r->attention, error));
    const int64_t slots = tn_tiling_slots(&r->geometry.tiling[r->geometry.num_windows - 1]);
    const int64_t heads = r->adapter->plan.steps[r->attention_step].layer.heads;
    const int64_t expected[] = {r->x.shape[0], r->geometry.count[r->geometry.num_windows], heads, slots};
    TN_TRY(check_shape(&r->attention, "attention", expected, error));
    const tn_tensor *t = &r->attention;
    const bool dense = (t->stride[3] == 1 || slots == 1) && (t->stride[2] == slots || heads == 1);
    if (t->dtype != TN_F32 || !dense || !tn_tensor_is_injective(t)) {
        return tn_fail(error, TENON_UNSUPPORTED, "attention must be float32 and contiguous in its last two axes");
    }
    return TENON_OK;
}

/* What the call writes must not meet what it reads, nor each other. */
static tenon_status check_overlap(const run *r, const tenon_workspace *workspace, tenon_error *error)
{
    const int64_t bytes = workspace != NULL ? (int64_t)workspace->size : 0;
    const tn_tensor memory = {
        .data = workspace != NULL ? workspace->data : NULL, .ndim = 1, .shape = {bytes}, .stride = {1}};
    const struct {
        const char *name;
        const tn_tensor *tensor;
        size_t element;
        bool written;
    } all[] = {
        {"x", &r->x, tn_dtype_size(r->x.dtype), false},    {"y", &r->y, tn_dtype_size(r->y.dtype), true},
        {"patch_mask", &r->masks.patch, 1, false},         {"frame_mask", &r->masks.frame, 1, false},
        {"attention", &r->attention, sizeof(float), true}, {"the workspace", &memory, 1, true},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
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

static tenon_status check_call(run *r, const DLTensor *x, const DLTensor *y, const tenon_call *call, tenon_error *error)
{
    TN_TRY(tn_parallel_init(&r->parallel, call->threads, call->executor, error));
    TN_TRY(check_features(r, x, call, error));
    TN_TRY(check_tokens(r, y, error));
    TN_TRY(check_masks(r, call, error));
    return check_attention(r, call, error);
}

/* Lays the call out in what there is. A workspace that is too small for all workers may do for fewer: how many OpenMP
 * offers depends on the thread that asks, and the tokens do not depend on it. */
static tenon_status find_workspace(run *r, layout *l, const tenon_workspace *given, void **memory, tenon_error *error)
{
    if (!plan_layout(l, r)) return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
    if (given == NULL) return tn_alloc(&r->adapter->allocator, l->size, "the workspace of a call", memory, error);
    const size_t available = given->data != NULL ? given->size : 0;
    const size_t wanted = l->size;
    while (available < l->size && r->parallel.workers > 1) {
        r->parallel.workers--;
        if (!plan_layout(l, r)) break;
    }
    if (available < l->size) {
        return tn_fail(error, TENON_INVALID, "the workspace has %zu bytes; this call needs %zu", available, wanted);
    }
    *memory = given->data;
    return TENON_OK;
}

static tenon_status run_call(run *r, const tenon_workspace *workspace, tenon_error *error)
{
    layout l;
    void *memory;
    tn_environment environment;
    if (r->y.shape[0] == 0 || r->y.shape[1] == 0) return TENON_OK;
    TN_TRY(check_overlap(r, workspace, error));
    TN_TRY(find_workspace(r, &l, workspace, &memory, error));
    tn_environment_enter(&environment);
    run_blocks(r, &l, memory);
    tn_environment_leave(&environment);
    if (workspace == NULL) tn_free(&r->adapter->allocator, memory, l.size);
    return TENON_OK;
}

tenon_status tenon_adapter_forward(const tenon_adapter *adapter, const DLTensor *x, DLTensor *y, const tenon_call *call,
                                   const tenon_workspace *workspace, tenon_error *error)
{
    tn_pack *pack = tn_pack_acquire(adapter);
    if (pack == NULL) {
        return tn_fail(error, TENON_NOT_PREPARED,
                       "the adapter is not prepared; call tenon_adapter_prepare after its "
                       "parameters were reset, loaded or set");
    }
    run r = {.adapter = adapter, .pack = pack};
    tenon_call settings;
    tenon_status status = tn_call_read(&settings, call, error);
    if (status == TENON_OK) status = check_call(&r, x, y, &settings, error);
    if (status == TENON_OK) status = run_call(&r, workspace, error);
    tn_pack_release(adapter, pack);
    return status;
}

static tenon_status measure(run *r, int64_t num_input_tokens, const tenon_call *call, size_t *bytes, tenon_error *error)
{
    layout l;
    TN_TRY(tn_parallel_init(&r->parallel, call->threads, call->executor, error));
    TN_TRY(tn_geometry_make(&r->geometry, r->adapter->list, call, num_input_tokens, call->attention != NULL, error));
    if (call->attention != NULL) TN_TRY(find_attention_step(r, error));
    if (!plan_layout(&l, r)) return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
    *bytes = l.size;
    return TENON_OK;
}

tenon_status tenon_adapter_workspace_size(const tenon_adapter *adapter, int64_t num_input_tokens,
                                          const tenon_call *call, size_t *bytes, tenon_error *error)
{
    tn_pack *pack = tn_pack_acquire(adapter), planned = {.size = 0};
    run r = {.adapter = adapter, .pack = pack != NULL ? pack : &planned};
    tenon_call settings;
    tenon_status status = tn_call_read(&settings, call, error);
    if (pack == NULL && status == TENON_OK) {
        status = tn_find_table(NULL, &planned.ops, error);
        if (status == TENON_OK) status = tn_pack_plan(adapter, &planned, error);
    }
    if (status == TENON_OK) status = measure(&r, num_input_tokens, &settings, bytes, error);
    tn_pack_release(adapter, pack);
    return status;
}
