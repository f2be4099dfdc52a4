/* SPDX-License-Identifier: MIT */
/* The forward pass: the call is checked, then the segments of the plan run, group of images after group.
 *
 * Per block, values between steps live in buffers of the workspace; steps read inputs where they are and write outputs
 * where the caller wants them. What a backward will read is made in the caller's memory instead, if there is one.
 */
#include "engine/forward.h"

#include "core/size.h"
#include "engine/image.h"
#include "engine/saved.h"
#include "engine/segment.h"

/* A forward call: its parts are laid out once for all segments, and for each as it runs. */
typedef struct pass {
    tn_run run;
    tn_area area;
    tn_image_area images;
    tn_group store;
    int64_t *rows_offsets; /* of what is written apart from steps: zeros, pooling weights; [block rows] */
    tn_arena saved;        /* the caller's memory for backward; base NULL: none */
} pass;

/* Rows of a segment's last level that belong to the group. */
static int64_t segment_rows(const pass *p, const tn_segment *segment)
{
    return tn_group_rows(&p->run, &p->store, p->run.graph->values[p->run.plan->steps[segment->end - 1].value].space);
}

/* Lays a segment out behind what the arena holds, for its blocks' largest size or, `even`, for blocks of equal size.
 * Returns how many blocks there are; -1: it does not fit 64 bits. */
static int64_t plan_segment(pass *p, const tn_segment *segment, bool even, tn_arena *arena)
{
    if (segment->is_image) return tn_image_plan(&p->images, &p->run, &p->store, segment, false, arena) ? 1 : -1;
    const tn_wanted wanted = {.forward = true, .kept = p->saved.base != NULL};
    const int64_t rows = even ? segment_rows(p, segment) : -1;
    const int64_t blocks = tn_area_plan(&p->area, &p->run, segment, rows, &wanted, arena);
    p->rows_offsets = tn_arena_array(arena, p->area.blocks.block_rows, sizeof(int64_t));
    return arena->overflow ? -1 : blocks;
}

/* ---- what does not exist ---- */

/* Rows that read nothing: exact zeros, and zero pooling weights. */
static void write_dead(pass *p, const tn_context *context)
{
    const tn_blocks *blocks = &p->area.blocks;
    const tn_run *run = &p->run;
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    const int space = blocks->levels[blocks->num_levels - 1].space;
    for (int i = 0; i < run->graph->num_outputs; i++) {
        const tn_value_plan *value = &run->plan->values[run->graph->outputs[i].value];
        if (run->plan->segments[value->segment].first != p->area.segment->first) continue;
        tn_tensor_offsets(p->rows_offsets, blocks->dead, blocks->num_dead, run, space, &run->outputs[i], 0);
        context->ops->copy(context, tn_rows_of(&run->outputs[i], p->rows_offsets), zeros, blocks->num_dead,
                           run->graph->values[run->graph->outputs[i].value].width);
    }
    if (run->attention.data == NULL ||
        run->plan->steps[run->plan->attention_step].segment != run->plan->steps[p->area.segment->first].segment)
        return;
    tn_tensor_offsets(p->rows_offsets, blocks->dead, blocks->num_dead, run, space, &run->attention, 0);
    context->ops->copy(context, tn_rows_of(&run->attention, p->rows_offsets), zeros, blocks->num_dead,
                       run->attention.shape[2] * run->attention.shape[3]);
}

/* ---- segments ---- */

static void run_blocks(pass *p, const tn_segment *segment, int64_t rows)
{
    const tn_run *run = &p->run;
    const tn_context context = {.ops = run->pack->ops, .parallel = &run->parallel, .scratch = p->area.scratch};
    const tn_level *top = &p->area.blocks.levels[segment->num_levels - 1];
    const int64_t first = tn_group_first(run, &p->store, top->space), end = first + rows;
    const bool attends = run->attention.data != NULL && run->plan->attention_step >= segment->first &&
                         run->plan->attention_step < segment->end;
    for (int64_t row = first; row < end;) {
        if (p->saved.base != NULL) p->area.keep = tn_arena_take(&p->saved, p->area.kept.size);
        tn_area_fill(&p->area, run, &p->store, end, &row, NULL);
        if (p->area.blocks.num_dead > 0) write_dead(p, &context);
        if (top->count == 0) continue;
        if (attends) {
            tn_tensor_offsets(p->rows_offsets, top->number, top->count, run, top->space, &run->attention, 0);
        }
        tn_area_forward(&p->area, run, &p->store, NULL, attends ? p->rows_offsets : NULL, &context);
    }
}

/* Runs the segments of the shared values, or those of a group; in memory behind what the arena holds. */
static void run_segments(pass *p, bool shared, const tn_arena *memory)
{
    for (int s = 0; s < p->run.plan->num_segments; s++) {
        const tn_segment *segment = &p->run.plan->segments[s];
        tn_arena arena = *memory;
        if (segment->is_shared != shared || plan_segment(p, segment, true, &arena) < 0) continue;
        if (segment->is_image) {
            tn_image_forward(&p->images, &p->run, &p->store);
        } else {
            run_blocks(p, segment, segment_rows(p, segment));
        }
    }
}

static void run_groups(pass *p, tn_arena *arena)
{
    const int64_t images = p->run.geometry.extents.images;
    tn_arena *stored = p->saved.base != NULL ? &p->saved : arena; /* backward reads them there */
    tn_group_take(&p->run, &p->store, true, stored);
    run_segments(p, true, arena);
    for (p->store.first_image = 0; p->store.first_image < images; p->store.first_image = p->store.end_image) {
        tn_arena group = *arena;
        tn_group_end_group(&p->run, &p->store);
        tn_group_take(&p->run, &p->store, false, p->saved.base != NULL ? &p->saved : &group);
        tn_group_take_alive(&p->run, &p->store, &group);
        run_segments(p, false, &group);
    }
}

/* ---- sizes ---- */

/* Bytes beyond those of tn_run_open: of the largest group, with the largest of its segments. */
static bool measure(pass *p, size_t *bytes)
{
    const int64_t images = p->run.geometry.extents.images;
    tn_arena shared = {.base = NULL};
    size_t most = 0;
    tn_group_take(&p->run, &p->store, true, &shared);
    p->store.first_image = 0;
    do {
        tn_arena group = shared;
        tn_group_end_group(&p->run, &p->store);
        tn_group_take(&p->run, &p->store, false, &group);
        tn_group_take_alive(&p->run, &p->store, &group);
        for (int s = 0; s < p->run.plan->num_segments; s++) {
            tn_arena arena = group;
            if (plan_segment(p, &p->run.plan->segments[s], false, &arena) < 0) return false;
            most = tn_max_size(most, arena.used);
        }
        p->store.first_image = p->store.end_image;
        /* Images that are all alike make groups that are all alike, but for a smaller one at the end. */
    } while (p->run.geometry.packed && p->store.first_image < images);
    p->store.first_image = p->store.end_image = 0;
    return tn_add_size(most, TN_ALIGN, bytes);
}

static tenon_status too_large(tenon_error *error)
{
    return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
}

/* ---- checks ---- */

static tenon_status find_attention(const tn_run *run, tenon_error *error)
{
    if (run->geometry.packed) {
        return tn_fail(error, TENON_UNSUPPORTED, "pooling weights are written for images of one shape, not of grids");
    }
    if (run->plan->attention_step >= 0) return TENON_OK;
    return tn_fail(error, TENON_UNSUPPORTED, "adapter type '%s' has no pooling weights to write", run->type);
}

static tenon_status check_attention(tn_run *run, const tenon_call *call, tenon_error *error)
{
    run->attention = (tn_tensor){.data = NULL};
    if (call->attention == NULL) return TENON_OK;
    TN_TRY(find_attention(run, error));
    const tn_step *step = &run->plan->steps[run->plan->attention_step];
    const int space = run->graph->values[step->value].space;
    const int64_t expected[] = {
        run->geometry.extents.images, tn_shape_rows(tn_geometry_shape(&run->geometry, space, 0)),
        step->layer->type->attention_heads(step->layer), tn_geometry_slots(&run->geometry, space)};
    TN_TRY(tn_images_view(call->attention, "attention", 4, run->one_image, TN_F32, expected, &run->attention, error));
    const tn_tensor *t = &run->attention;
    const int64_t heads = expected[2], slots = expected[3];
    const bool dense = (t->stride[3] == 1 || slots == 1) && (t->stride[2] == slots || heads == 1);
    if (t->dtype == TN_F32 && dense && tn_tensor_is_injective(t)) return TENON_OK;
    return tn_fail(error, TENON_UNSUPPORTED, "attention must be float32 and contiguous in its last two axes");
}

static tenon_status check_saved(pass *p, tenon_error *error)
{
    if (p->run.saved == NULL) return TENON_OK;
    if (!p->run.pack->train) {
        return tn_fail(error, TENON_NOT_PREPARED,
                       "call.saved is for a backward, but the adapter is not prepared with train");
    }
    TN_TRY(tn_saved_check(&p->run, &p->area, &p->store, error));
    p->saved.base = tn_aligned(p->run.saved);
    return TENON_OK;
}

static tenon_status check_overlap(const tn_run *run, const tenon_workspace *workspace, tenon_error *error)
{
    const tn_tensor none = {.data = NULL};
    const tn_tensor memory = workspace != NULL ? tn_bytes_tensor(workspace->data, workspace->size) : none;
    const tn_tensor saved = tn_bytes_tensor(run->saved, run->saved_size);
    const tn_touched all[] = {
        {"patch_mask", &run->masks.patch, 1, false},
        {"frame_mask", &run->masks.frame, 1, false},
        {"attention", &run->attention, sizeof(float), true},
        {"the workspace", &memory, 1, true},
        {"saved", &saved, 1, true},
    };
    return tn_check_overlap_run(run, true, all, sizeof all / sizeof all[0], error);
}

/* ---- the call ---- */

/* The arrays whose lengths are the plan's, and what tn_run_open reads. */
static void take_arrays(pass *p, tn_arena *arena)
{
    tn_area_open(&p->area, &p->run, arena);
    tn_image_open(&p->images, &p->run, arena);
    tn_group_open(&p->store, &p->run, arena);
}

static tenon_status open_pass(pass *p, const tn_request *request, tn_arena *arena, tenon_error *error)
{
    take_arrays(p, arena);
    return tn_run_open(&p->run, request, arena, error);
}

size_t tn_forward_arrays(const tn_pack *pack)
{
    pass p = {.run = {.pack = pack, .plan = pack->plan, .graph = pack->plan->graph}};
    tn_arena arena = {.base = NULL};
    take_arrays(&p, &arena);
    return arena.used;
}

static tenon_status open_size(const pass *p, const tn_request *request, size_t *bytes, tenon_error *error)
{
    size_t opened;
    TN_TRY(tn_run_open_size(&p->run, request, &opened, error));
    return tn_add_size(p->run.pack->arrays, opened, bytes) && tn_add_size(*bytes, TN_ALIGN, bytes) ? TENON_OK
                                                                                                   : too_large(error);
}

static pass start(const tn_engine *engine)
{
    return (pass){.run = {.pack = engine->pack,
                          .plan = engine->pack->plan,
                          .graph = engine->pack->plan->graph,
                          .type = engine->type,
                          .allocator = engine->allocator}};
}

static tenon_status run_call(pass *p, const tn_request *request, const tenon_workspace *workspace, tn_memory *memory,
                             tenon_error *error)
{
    size_t opened, needed;
    tn_environment environment;
    TN_TRY(open_size(p, request, &opened, error));
    tn_arena arena;
    TN_TRY(tn_memory_open(memory, p->run.allocator, workspace, opened, &arena, error));
    TN_TRY(open_pass(p, request, &arena, error));
    TN_TRY(check_attention(&p->run, request->call, error));
    TN_TRY(check_saved(p, error));
    if (tn_run_is_empty(&p->run)) return TENON_OK;
    TN_TRY(check_overlap(&p->run, workspace, error));
    /* How many workers OpenMP offers depends on the thread that asks, and the tokens do not depend on it. */
    if (!measure(p, &needed)) return too_large(error);
    const size_t wanted = needed;
    while (!tn_memory_fits(memory, needed) && p->run.parallel.workers > 1) {
        p->run.parallel.workers--;
        if (!measure(p, &needed)) break;
    }
    TN_TRY(tn_memory_take(memory, needed, wanted, &arena, error));
    tn_environment_enter(&environment);
    run_groups(p, &arena);
    tn_environment_leave(&environment);
    return TENON_OK;
}

tenon_status tn_engine_forward(const tn_engine *engine, const DLTensor *x, DLTensor *y, const tenon_call *call,
                               const tenon_workspace *workspace, tenon_error *error)
{
    pass p = start(engine);
    tn_memory memory = {.allocator = engine->allocator};
    const tn_request request = {
        .x = x, .y = y, .y_name = "y", .call = call, .outputs = call->outputs, .num_outputs = call->num_outputs};
    const tenon_status status = run_call(&p, &request, workspace, &memory, error);
    tn_memory_close(&memory);
    return status;
}

/* Sizes of calls on images of num_input tokens each: of as many as make the largest group, or, with grids, of these. */
static tenon_status sized(pass *p, int64_t batch, int64_t num_input, const tenon_call *call, tn_memory *memory,
                          size_t *opened, tenon_error *error)
{
    tn_arena arena;
    const tn_request request = {.sized = true, .call = call, .batch = batch, .num_input = num_input};
    TN_TRY(open_size(p, &request, opened, error));
    TN_TRY(tn_memory_open(memory, &tn_system_allocator, NULL, *opened, &arena, error));
    return open_pass(p, &request, &arena, error);
}

tenon_status tn_engine_workspace_size(const tn_engine *engine, int64_t num_input, const tenon_call *call, size_t *bytes,
                                      tenon_error *error)
{
    pass p = start(engine);
    tn_memory memory = {.allocator = &tn_system_allocator};
    size_t opened = 0, needed = 0;
    tenon_status status = sized(&p, p.run.plan->groups ? TN_MOST_GROUP : 1, num_input, call, &memory, &opened, error);
    if (status == TENON_OK && call->attention != NULL) status = find_attention(&p.run, error);
    if (status == TENON_OK && (!measure(&p, &needed) || !tn_add_size(needed, opened, &needed))) {
        status = too_large(error);
    }
    tn_memory_close(&memory);
    if (status == TENON_OK) *bytes = needed;
    return status;
}

tenon_status tn_engine_saved_size(const tn_engine *engine, int64_t batch, int64_t num_input, const tenon_call *call,
                                  size_t *bytes, tenon_error *error)
{
    pass p = start(engine);
    tn_memory memory = {.allocator = &tn_system_allocator};
    size_t opened = 0, needed = 0;
    tenon_status status = sized(&p, batch, num_input, call, &memory, &opened, error);
    if (status == TENON_OK && !tn_saved_size(&p.run, &p.area, &p.store, &needed)) {
        status = tn_fail(error, TENON_INVALID, "what backward needs of this call does not fit 64 bits");
    }
    tn_memory_close(&memory);
    if (status == TENON_OK) *bytes = needed;
    return status;
}

tenon_status tn_engine_output_offsets(const tn_engine *engine, int64_t output, int64_t images, int64_t num_input,
                                      const tenon_call *call, int64_t *offsets, tenon_error *error)
{
    pass p = start(engine);
    tn_memory memory = {.allocator = &tn_system_allocator};
    size_t opened = 0;
    tenon_status status = sized(&p, images, num_input, call, &memory, &opened, error);
    const tn_geometry *g = &p.run.geometry;
    if (status == TENON_OK && g->extents.images != images) {
        status = tn_fail(error, TENON_MISMATCH, "grids has %lld images; expected %lld", (long long)g->extents.images,
                         (long long)images);
    }
    const int space = p.run.graph->values[p.run.graph->outputs[output].value].space;
    for (int64_t i = 0; i <= images && status == TENON_OK; i++)
        offsets[i] = tn_geometry_first(g, space, i);
    tn_memory_close(&memory);
    return status;
}
