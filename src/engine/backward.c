/* SPDX-License-Identifier: MIT */
/* The backward pass: the groups and blocks of the forward pass, each segment's steps in reverse, segments in reverse.
 *
 * Of a step backward needs what it read and, under a fused activation, what it made before that. This comes from
 * call->saved, where forward left it, or is made anew: stored values for the group, all others for the block, in the
 * same layout and by the same code. Where one step reads a value, its gradient is written where it belongs; where
 * several do, or several rows read one row, their parts are added up in the order in which backward meets them. Steps
 * that have no gradient to give are not visited, and what only a frozen parameter would need is not made.
 */
#include "engine/backward.h"

#include "core/size.h"
#include "core/versioned.h"
#include <string.h>

/* ---- layout ---- */

static int64_t segment_rows(const tn_backward *p, const tn_segment *segment)
{
    return tn_group_rows(&p->run, &p->store, p->run.graph->values[tn_back_step(p, segment->end - 1)->value].space);
}

/* Lays a segment's block out for going back, or for making stored values; as in forward.c. */
static int64_t plan_segment(tn_backward *p, const tn_segment *segment, bool back, bool even, tn_arena *arena)
{
    const tn_wanted forward = {.forward = true, .made = p->store_made};
    const tn_wanted both = {.forward = tn_back_makes(segment, p->made),
                            .made = p->made,
                            .backward = true,
                            .back = p->back,
                            .through = p->through,
                            .parts = p->parts,
                            .kept = p->run.saved != NULL,
                            .keep = p->run.saved == NULL && tn_back_makes(segment, p->made)};
    if (segment->is_image) return tn_image_plan(&p->images, &p->run, &p->store, segment, back, arena) ? 1 : -1;
    return tn_area_plan(&p->area, &p->run, segment, even ? segment_rows(p, segment) : -1, back ? &both : &forward,
                        arena);
}

/* Gradients of the stored values of the group, or of the shared ones. */
static void take_gradients(tn_backward *p, bool shared, tn_arena *arena)
{
    const tn_plan *plan = p->run.plan;
    for (int i = 0; i < plan->num_stored; i++) {
        const tn_value *value = &plan->graph->values[plan->stored[i]];
        const bool own = (plan->graph->spaces[value->space].kind == TN_SPACE_SHARED) == shared;
        if (!own || !p->wanted[plan->stored[i]]) continue;
        char *data = tn_arena_rows(arena, tn_group_rows(&p->run, &p->store, value->space), value->width,
                                   tn_dtype_size(p->run.pack->ops->compute));
        if (arena->base != NULL) p->store.gradient[i] = data;
    }
    for (int i = 0; i < plan->graph->num_inputs && !shared; i++) {
        const int v = plan->graph->inputs[i].value;
        const tn_value *value = &plan->graph->values[v];
        if (!p->wanted[v] || !plan->values[v].adds) continue;
        const int64_t rows = tn_group_rows(&p->run, &p->store, value->space);
        char *data = tn_arena_rows(arena, rows, value->width, tn_dtype_size(p->run.pack->ops->compute));
        if (arena->base != NULL) p->store.summed[i] = data;
    }
}

/* Offsets of the rows of an input whose gradient is a sum. */
static bool take_offsets(tn_backward *p, tn_arena *arena)
{
    int64_t most = 0;
    for (int i = 0; i < p->run.graph->num_inputs; i++) {
        const int v = p->run.graph->inputs[i].value;
        if (!p->wanted[v] || !p->run.plan->values[v].adds) continue;
        most = tn_max_i64(most, tn_group_rows(&p->run, &p->store, p->run.graph->values[v].space));
    }
    p->group_offsets = tn_arena_array(arena, most, sizeof(int64_t));
    return !arena->overflow;
}

/* Everything of a group but its blocks. */
static bool take_group(tn_backward *p, tn_arena *arena)
{
    if (p->run.saved == NULL) tn_group_take(&p->run, &p->store, false, arena);
    tn_group_take_alive(&p->run, &p->store, arena);
    take_gradients(p, false, arena);
    return take_offsets(p, arena);
}

/* Whether a segment runs forward before a group goes back: to make stored values anew, or to find which rows exist. */
static bool stores(const tn_backward *p, const tn_segment *segment)
{
    return tn_back_makes(segment, p->store_made) || (p->run.plan->groups && !segment->is_shared);
}

/* Bytes beyond those of the first piece. */
static bool measure(tn_backward *p, size_t *bytes)
{
    const int64_t images = p->run.geometry.extents.images;
    tn_arena shared = {.base = NULL};
    size_t most = 0;
    if (p->run.saved == NULL) tn_group_take(&p->run, &p->store, true, &shared);
    take_gradients(p, true, &shared);
    p->store.first_image = 0;
    do {
        tn_arena group = shared;
        tn_group_end_group(&p->run, &p->store);
        if (!take_group(p, &group)) return false;
        for (int s = 0; s < 2 * p->run.plan->num_segments; s++) {
            const tn_segment *segment = &p->run.plan->segments[s / 2];
            tn_arena arena = group;
            if (!(s % 2 ? tn_back_visits(p, segment) : stores(p, segment))) continue;
            if (plan_segment(p, segment, s % 2 != 0, false, &arena) < 0) return false;
            most = tn_max_size(most, arena.used);
        }
        most = tn_max_size(most, group.used);
        p->store.first_image = p->store.end_image;
    } while (p->run.geometry.packed && p->store.first_image < images);
    p->store.first_image = p->store.end_image = 0;
    return !shared.overflow && tn_add_size(most, TN_ALIGN, bytes);
}

/* Sums begin at zero, and so do rows of stored values that no block writes. */
static void clear_stores(const tn_backward *p, bool shared, const tn_context *context)
{
    const tn_plan *plan = p->run.plan;
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    for (int i = 0; i < plan->num_stored; i++) {
        const tn_value *value = &plan->graph->values[plan->stored[i]];
        const bool own = (plan->graph->spaces[value->space].kind == TN_SPACE_SHARED) == shared;
        if (!own || !p->wanted[plan->stored[i]]) continue;
        context->ops->copy(context, tn_dense_rows(p->store.gradient[i], context->ops->compute, value->width), zeros,
                           tn_group_rows(&p->run, &p->store, value->space), value->width);
    }
    for (int i = 0; i < plan->graph->num_inputs && !shared; i++) {
        const int v = plan->graph->inputs[i].value;
        const tn_value *value = &plan->graph->values[v];
        if (!p->wanted[v] || !plan->values[v].adds) continue;
        context->ops->copy(context, tn_dense_rows(p->store.summed[i], context->ops->compute, value->width), zeros,
                           tn_group_rows(&p->run, &p->store, value->space), value->width);
    }
}

/* ---- segments ---- */

static void blocks_back(tn_backward *p, int number, const tn_arena *memory)
{
    const tn_segment *segment = &p->run.plan->segments[number];
    tn_arena arena = *memory;
    if (plan_segment(p, segment, true, true, &arena) < 0) return; /* measure has said so */
    const tn_context context = {.ops = p->run.pack->ops, .parallel = &p->run.parallel, .scratch = p->area.scratch};
    const tn_level *top = &p->area.blocks.levels[segment->num_levels - 1];
    const int64_t first = tn_group_first(&p->run, &p->store, top->space), end = first + segment_rows(p, segment);
    char *kept = p->run.saved != NULL ? p->kept[number] : NULL;
    for (int64_t row = first; row < end;) {
        tn_area_fill(&p->area, &p->run, &p->store, end, &row, p->dx);
        if (kept != NULL) {
            p->area.keep = kept;
            kept += tn_align_up(p->area.kept.size, TN_ALIGN);
        }
        if (top->count == 0) continue;
        if (kept == NULL && tn_back_makes(segment, p->made)) {
            tn_area_forward(&p->area, &p->run, &p->store, p->made, NULL, &context);
        }
        memset(p->written, 0, (size_t)p->run.graph->num_values * sizeof *p->written);
        for (int i = segment->end - 1; i >= segment->first; i--) {
            if (p->back[i]) tn_back_run_step(p, i, &context);
        }
    }
}

static void image_back(tn_backward *p, int number, const tn_arena *memory)
{
    const tn_segment *segment = &p->run.plan->segments[number];
    const int i = segment->first;
    tn_arena arena = *memory;
    if (plan_segment(p, segment, true, true, &arena) < 0) return;
    tn_image_backward(&p->images, &p->run, &p->store, p->dx, p->wanted, tn_back_gradients(p, i), p->fresh[i]);
    p->fresh[i] = false;
}

/* A segment of blocks makes what the stored values need, or, `mark`, only finds which of its rows exist. */
static void make_blocks(tn_backward *p, const tn_segment *segment, bool mark)
{
    const tn_context context = {.ops = p->run.pack->ops, .parallel = &p->run.parallel, .scratch = p->area.scratch};
    const tn_level *top = &p->area.blocks.levels[segment->num_levels - 1];
    const int64_t first = tn_group_first(&p->run, &p->store, top->space), end = first + segment_rows(p, segment);
    for (int64_t row = first; row < end;) {
        tn_area_fill(&p->area, &p->run, &p->store, end, &row, NULL);
        if (top->count > 0 && !mark) tn_area_forward(&p->area, &p->run, &p->store, p->store_made, NULL, &context);
    }
}

/* Makes the stored values anew that backward reads; of the others, and of saved ones, only which rows exist has to be
 * found again. */
static void make_store(tn_backward *p, bool shared, const tn_arena *memory)
{
    for (int s = 0; s < p->run.plan->num_segments; s++) {
        const tn_segment *segment = &p->run.plan->segments[s];
        const bool makes = tn_back_makes(segment, p->store_made);
        tn_arena arena = *memory;
        if (segment->is_shared != shared || !stores(p, segment)) continue;
        if (plan_segment(p, segment, false, true, &arena) < 0) return;
        if (!segment->is_image) {
            make_blocks(p, segment, !makes);
        } else if (makes) {
            tn_image_forward(&p->images, &p->run, &p->store);
        } else {
            tn_image_mark(&p->images, &p->run, &p->store);
        }
    }
}

/* Where a forward with this call left what it kept, group after group: stored values, then each segment's. */
static void find_saved(tn_backward *p, bool shared)
{
    if (p->run.saved == NULL) return;
    tn_group_take(&p->run, &p->store, shared, &p->saved);
    for (int s = 0; s < p->run.plan->num_segments; s++) {
        const tn_segment *segment = &p->run.plan->segments[s];
        tn_arena arena = {.base = NULL};
        if (segment->is_shared != shared || segment->is_image) continue;
        const int64_t blocks = plan_segment(p, segment, true, true, &arena);
        p->kept[s] = tn_arena_take(&p->saved, (size_t)tn_max_i64(blocks, 0) * tn_align_up(p->area.kept.size, TN_ALIGN));
    }
}

static void segments_back(tn_backward *p, bool shared, const tn_arena *memory)
{
    for (int s = p->run.plan->num_segments - 1; s >= 0; s--) {
        const tn_segment *segment = &p->run.plan->segments[s];
        if (segment->is_shared != shared || !tn_back_visits(p, segment)) continue;
        if (segment->is_image) {
            image_back(p, s, memory);
        } else {
            blocks_back(p, s, memory);
        }
    }
}

static void run_groups(tn_backward *p, tn_arena *arena)
{
    const int64_t images = p->run.geometry.extents.images;
    const tn_context context = {.ops = p->run.pack->ops, .parallel = &p->run.parallel};
    tn_group_end_group(&p->run, &p->store);
    if (p->run.saved == NULL) tn_group_take(&p->run, &p->store, true, arena);
    take_gradients(p, true, arena);
    find_saved(p, true);
    make_store(p, true, arena);
    clear_stores(p, true, &context);
    tn_back_clear_inputs(p, &context);
    for (p->store.first_image = 0; p->store.first_image < images; p->store.first_image = p->store.end_image) {
        tn_arena group = *arena;
        tn_group_end_group(&p->run, &p->store);
        (void)take_group(p, &group);
        find_saved(p, false);
        make_store(p, false, &group);
        clear_stores(p, false, &context);
        segments_back(p, false, &group);
        tn_back_finish_inputs(p, &context);
    }
    segments_back(p, true, arena);
}

/* ---- the call ---- */

void tenon_gradients_init(tenon_gradients *gradients)
{
    *gradients = (tenon_gradients){.size = sizeof *gradients};
}

tenon_status tn_gradients_read(tenon_gradients *settings, const tenon_gradients *given, tenon_error *error)
{
    tenon_gradients_init(settings);
    return tn_struct_read(settings, sizeof *settings, given, TN_FIRST_SIZE(tenon_gradients, parameters),
                          "tenon_gradients", error);
}

/* The arrays whose lengths are the plan's and the graph's. */
static void take_arrays(tn_backward *p, tn_arena *arena)
{
    const tn_plan *plan = p->run.plan;
    const tn_graph *graph = plan->graph;
    tn_area_open(&p->area, &p->run, arena);
    tn_image_open(&p->images, &p->run, arena);
    tn_group_open(&p->store, &p->run, arena);
    p->dx = tn_arena_array(arena, graph->num_inputs, sizeof *p->dx);
    p->gradient = tn_arena_array(arena, graph->num_parameters, sizeof *p->gradient);
    p->sorted = tn_arena_array(arena, graph->num_parameters, sizeof *p->sorted);
    p->wanted = tn_arena_array(arena, graph->num_values, sizeof *p->wanted);
    p->written = tn_arena_array(arena, graph->num_values, sizeof *p->written);
    p->back = tn_arena_array(arena, plan->num_steps, sizeof *p->back);
    p->fresh = tn_arena_array(arena, plan->num_steps, sizeof *p->fresh);
    p->made = tn_arena_array(arena, plan->num_steps, sizeof *p->made);
    p->store_made = tn_arena_array(arena, plan->num_steps, sizeof *p->store_made);
    p->through = tn_arena_array(arena, plan->num_step_inputs, sizeof *p->through);
    p->parts = tn_arena_array(arena, plan->num_step_inputs, sizeof *p->parts);
    p->kept = tn_arena_array(arena, plan->num_segments, sizeof *p->kept);
    if (arena->base == NULL) return;
    memset(p->dx, 0, (size_t)graph->num_inputs * sizeof *p->dx);
    memset(p->gradient, 0, (size_t)graph->num_parameters * sizeof *p->gradient);
    memset(p->kept, 0, (size_t)plan->num_segments * sizeof *p->kept);
}

static tenon_status open_size(const tn_backward *given, const tn_request *request, size_t *bytes, tenon_error *error)
{
    tn_backward p = *given;
    tn_arena arena = {.base = NULL};
    size_t opened;
    take_arrays(&p, &arena);
    TN_TRY(tn_run_open_size(&p.run, request, &opened, error));
    if (tn_add_size(arena.used, opened, bytes) && tn_add_size(*bytes, TN_ALIGN, bytes)) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
}

static tenon_status run_call(tn_backward *p, const tn_request *request, const tenon_gradients *gradients,
                             const tenon_workspace *workspace, tn_memory *memory, tenon_error *error)
{
    size_t opened, needed;
    tn_arena arena;
    tn_environment environment;
    if (!p->run.pack->train) {
        return tn_fail(
            error, TENON_NOT_PREPARED,
            "the adapter is prepared for inference; call tenon_adapter_prepare with train before a backward");
    }
    TN_TRY(open_size(p, request, &opened, error));
    TN_TRY(tn_memory_open(memory, p->run.allocator, workspace, opened, &arena, error));
    take_arrays(p, &arena);
    TN_TRY(tn_run_open(&p->run, request, &arena, error));
    TN_TRY(tn_back_check(p, gradients, error));
    if (p->run.saved != NULL) TN_TRY(tn_saved_check(&p->run, &p->area, &p->store, error));
    tn_back_plan_steps(p);
    TN_TRY(tn_back_check_overlap(p, workspace, error));
    if (tn_run_is_empty(&p->run)) {
        tn_back_clear_inputs(p, &(tn_context){.ops = p->run.pack->ops, .parallel = &p->run.parallel});
        tn_back_clear_parameters(p);
        return TENON_OK;
    }
    if (!measure(p, &needed)) {
        return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
    }
    const size_t wanted = needed;
    while (!tn_memory_fits(memory, needed) && p->run.parallel.workers > 1) {
        p->run.parallel.workers--;
        if (!measure(p, &needed)) break;
    }
    TN_TRY(tn_memory_take(memory, needed, wanted, &arena, error));
    if (p->run.saved != NULL) p->saved.base = tn_aligned(p->run.saved);
    tn_environment_enter(&environment);
    run_groups(p, &arena);
    tn_back_clear_parameters(p);
    tn_environment_leave(&environment);
    return TENON_OK;
}

static tn_backward start(const tn_engine *engine)
{
    return (tn_backward){.run = {.pack = engine->pack,
                                 .plan = engine->pack->plan,
                                 .graph = engine->pack->plan->graph,
                                 .type = engine->type,
                                 .allocator = engine->allocator}};
}

tenon_status tn_engine_backward(const tn_engine *engine, const DLTensor *dy, const DLTensor *x,
                                const tenon_gradients *gradients, const tenon_call *call,
                                const tenon_workspace *workspace, tenon_error *error)
{
    tn_backward p = start(engine);
    tn_memory memory = {.allocator = engine->allocator};
    const tn_request request = {.x = x,
                                .y = dy,
                                .y_name = "dy",
                                .call = call,
                                .outputs = gradients->outputs,
                                .num_outputs = gradients->num_outputs,
                                .gradients = true};
    const tenon_status status = run_call(&p, &request, gradients, workspace, &memory, error);
    tn_memory_close(&memory);
    return status;
}

/* What a size query wants: all gradients, or those whose tensors are there. */
static void want(tn_backward *p, const tenon_gradients *gradients, bool all)
{
    static float some;
    const tn_graph *graph = p->run.graph;
    for (int i = 0; i < graph->num_parameters; i++) {
        const bool frozen = !all && (gradients->parameters == NULL || gradients->parameters[i] == NULL);
        p->gradient[i] = frozen ? NULL : &some;
    }
    for (int i = 0; i < graph->num_inputs; i++) {
        const bool given =
            i == 0 ? gradients->x != NULL
                   : tn_find_tensor(gradients->inputs, gradients->num_inputs, graph->inputs[i].name) != NULL;
        p->dx[i].ndim = all || given ? 3 : 0;
    }
    for (int i = 0; i < graph->num_outputs; i++)
        p->run.outputs[i] = (tn_tensor){.ndim = 3};
}

tenon_status tn_engine_backward_workspace_size(const tn_engine *engine, int64_t num_input,
                                               const tenon_gradients *gradients, bool all, const tenon_call *call,
                                               size_t *bytes, tenon_error *error)
{
    tn_backward p = start(engine);
    tn_memory memory = {.allocator = &tn_system_allocator};
    tn_arena arena;
    size_t opened = 0, needed = 0;
    const int64_t batch = p.run.plan->groups ? TN_MOST_GROUP : 1;
    const tn_request request = {.sized = true, .call = call, .batch = batch, .num_input = num_input};
    tenon_status status = open_size(&p, &request, &opened, error);
    if (status == TENON_OK) status = tn_memory_open(&memory, memory.allocator, NULL, opened, &arena, error);
    if (status == TENON_OK) take_arrays(&p, &arena);
    if (status == TENON_OK) status = tn_run_open(&p.run, &request, &arena, error);
    if (status == TENON_OK) {
        want(&p, gradients, all);
        p.run.saved = call->saved;
        tn_back_plan_steps(&p);
        if (!measure(&p, &needed) || !tn_add_size(needed, opened, &needed)) {
            status = tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
        }
    }
    tn_memory_close(&memory);
    if (status == TENON_OK) *bytes = needed;
    return status;
}
