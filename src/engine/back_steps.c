/* SPDX-License-Identifier: MIT */
/* Steps of a block going back, and the gradients of the inputs. */
#include "engine/backward.h"

/* ---- gradients of inputs ---- */

/* Is there a row of an input that no block writes? */
static bool leaves_rows(const tn_backward *p)
{
    const tn_run *run = &p->run;
    if (run->graph->prefix_tokens > 0 || run->masks.patch.data != NULL || run->masks.frame.data != NULL) return true;
    for (int s = 0; s < run->graph->num_spaces; s++) {
        const tn_space *space = &run->graph->spaces[s];
        if (space->kind != TN_SPACE_WINDOWS || space->windows.ragged != TN_RAGGED_DROP) continue;
        for (int64_t i = 0; i < (run->geometry.packed ? run->geometry.extents.images : 1); i++) {
            const tn_tiling t = tn_geometry_tiling(&run->geometry, s, i);
            if (t.out_height * t.side < t.in_height || t.out_width * t.side < t.in_width) return true;
        }
    }
    return false;
}

static void clear_dx(const tn_tensor *t, const tn_context *context)
{
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    const int last = t->ndim - 1;
    for (int64_t image = 0; image < (last == 2 ? t->shape[0] : 1); image++) {
        char *data = (char *)t->data + (last == 2 ? image * t->stride[0] : 0) * (int64_t)tn_dtype_size(t->dtype);
        context->ops->copy(context, (tn_rows){data, t->dtype, t->stride[last - 1], 1, NULL}, zeros, t->shape[last - 1],
                           t->shape[last]);
    }
}

void tn_back_clear_inputs(const tn_backward *p, const tn_context *context)
{
    const bool leaves = tn_run_is_empty(&p->run) || leaves_rows(p);
    for (int i = 0; i < p->run.graph->num_inputs; i++) {
        const int v = p->run.graph->inputs[i].value;
        if (p->dx[i].data != NULL && (leaves || !p->wanted[v])) clear_dx(&p->dx[i], context);
    }
}

/* What was summed up over a group is rounded once, into the caller's tensor. */
void tn_back_finish_inputs(const tn_backward *p, const tn_context *context)
{
    const tn_run *run = &p->run;
    for (int i = 0; i < run->graph->num_inputs; i++) {
        const int v = run->graph->inputs[i].value, space = run->graph->values[v].space;
        if (p->dx[i].data == NULL || !p->wanted[v] || !run->plan->values[v].adds) continue;
        const int64_t rows = tn_group_rows(run, &p->store, space), first = tn_group_first(run, &p->store, space);
        const bool features = space == run->graph->values[0].space;
        for (int64_t r = 0; r < rows; r++)
            p->group_offsets[r] = first + r;
        tn_tensor_offsets(p->group_offsets, p->group_offsets, rows, run, space, &p->dx[i],
                          features ? run->graph->prefix_tokens : 0);
        const int64_t width = run->graph->values[v].width;
        context->ops->copy(context, tn_rows_of(&p->dx[i], p->group_offsets),
                           tn_dense_rows(p->store.summed[i], context->ops->compute, width), rows, width);
    }
}

/* ---- steps ---- */

/* What step i read as input j; through an activation that has to be made once more. */
static tn_rows find_input(const tn_backward *p, int i, int j, const tn_context *context)
{
    const tn_area *area = &p->area;
    const tn_step *step = tn_back_step(p, i);
    const tn_value_plan *v = &p->run.plan->values[step->inputs[j]];
    if (!tn_back_reads_input(p, i, j)) {
        const int64_t *offsets = step->x_offsets[j] >= 0 ? area->offsets[step->x_offsets[j]] : NULL;
        return (tn_rows){.data = NULL, .dtype = context->ops->compute, .offset = offsets};
    }
    if (!p->through[step->first_input + j]) return tn_step_input(area, &p->run, &p->store, step, j);
    const int64_t width = step->widths[j];
    const tn_rows before =
        tn_dense_rows(area->keep + area->kept.value[v->step - area->segment->first], context->ops->compute, width);
    tn_rows x = tn_dense_rows(area->input[j], context->ops->compute, width);
    context->ops->activation(context, x, before, tn_back_step(p, v->step)->act, area->blocks.levels[v->level].count,
                             width);
    if (step->x_offsets[j] >= 0) x.offset = area->offsets[step->x_offsets[j]];
    return x;
}

/* The gradient of what step i made before its activation. */
static tn_rows find_dy(const tn_backward *p, int i, const tn_context *context)
{
    const tn_area *area = &p->area;
    const tn_step *step = tn_back_step(p, i);
    const tn_value_plan *v = &p->run.plan->values[step->value];
    const int64_t width = p->run.graph->values[step->value].width;
    tn_rows dy, buffer = {.data = NULL};
    if (v->gradient >= 0) buffer = tn_dense_rows(area->gradients[v->gradient], context->ops->compute, width);
    if (v->place == TN_PLACE_OUTPUT) {
        dy = tn_rows_of(&p->run.outputs[v->index], area->offsets[step->y_offsets]);
    } else if (v->place == TN_PLACE_STORED) {
        dy = tn_dense_rows(p->store.gradient[v->index], context->ops->compute, width);
        dy.offset = area->offsets[step->y_offsets];
    } else {
        dy = buffer;
    }
    if (step->act == TN_ACT_NONE) return dy;
    const tn_rows before =
        tn_dense_rows(area->keep + area->kept.value[i - area->segment->first], context->ops->compute, width);
    context->ops->activation_backward(context, buffer, dy, before, step->act, area->blocks.levels[step->level].count,
                                      width);
    return buffer;
}

/* Where the gradient of input j belongs. */
static tn_rows find_target(const tn_backward *p, int i, int j)
{
    const tn_area *area = &p->area;
    const tn_step *step = tn_back_step(p, i);
    const tn_value_plan *v = &p->run.plan->values[step->inputs[j]];
    const tn_dtype compute = p->run.pack->ops->compute;
    const int64_t *offsets = step->dx_offsets[j] >= 0 ? area->offsets[step->dx_offsets[j]] : NULL;
    if (v->place == TN_PLACE_INPUT && !v->adds) return tn_rows_of(&p->dx[v->index], offsets);
    const char *data = v->place == TN_PLACE_INPUT    ? p->store.summed[v->index]
                       : v->place == TN_PLACE_STORED ? p->store.gradient[v->index]
                                                     : area->gradients[v->gradient];
    tn_rows rows = tn_dense_rows(data, compute, step->widths[j]);
    rows.offset = offsets;
    return rows;
}

/* Whether the gradient of input j is a part that is added to what is there already. */
static bool is_part(const tn_backward *p, int i, int j)
{
    const int value = tn_back_step(p, i)->inputs[j];
    const tn_value_plan *v = &p->run.plan->values[value];
    if (!p->parts[tn_back_step(p, i)->first_input + j]) return false;
    return v->place != TN_PLACE_BLOCK || p->written[value];
}

static tn_rows find_dx(const tn_backward *p, int i, int j)
{
    const tn_step *step = tn_back_step(p, i);
    if (!p->wanted[step->inputs[j]]) return (tn_rows){.data = NULL, .dtype = p->run.pack->ops->compute};
    if (!is_part(p, i, j)) return find_target(p, i, j);
    tn_rows rows = tn_dense_rows(p->area.part[j], p->run.pack->ops->compute, step->widths[j]);
    if (step->part_offsets[j] >= 0) rows.offset = p->area.offsets[step->part_offsets[j]];
    return rows;
}

/* Adds the parts of step i to their sums, row after row. */
static void add_parts(const tn_backward *p, int i, const tn_context *context)
{
    const tn_step *step = tn_back_step(p, i);
    const tn_level *level = &p->area.blocks.levels[step->level];
    const bool mapped = step->layer->type->reach == TN_REACH_WINDOW;
    for (int j = 0; j < step->layer->num_inputs; j++) {
        const int value = step->inputs[j];
        if (!p->wanted[value]) continue;
        if (is_part(p, i, j)) {
            const tn_rows part = tn_dense_rows(p->area.part[j], context->ops->compute, step->widths[j]);
            context->ops->accumulate(context, find_target(p, i, j), part,
                                     mapped ? level->count * level->slots : level->count, step->widths[j]);
        }
        p->written[value] = true;
    }
}

void tn_back_run_step(tn_backward *p, int i, const tn_context *context)
{
    const tn_pack *pack = p->run.pack;
    const tn_step *step = tn_back_step(p, i);
    const tn_level *level = &p->area.blocks.levels[step->level];
    const char *packed = pack->data;
    const tn_rows dy = find_dy(p, i, context);
    for (int j = 0; j < step->layer->num_inputs; j++) {
        p->area.x[j] = find_input(p, i, j, context);
        p->area.dx[j] = find_dx(p, i, j);
    }
    const tn_layer_call call = {
        .layer = step->layer,
        .context = context,
        .weights = pack->weights + pack->first_weight[i],
        .packed = packed + pack->offset[i],
        .packed_backward = packed + pack->offset_backward[i],
        .rows = level->count,
        .slots = step->layer->type->reach == TN_REACH_WINDOW ? level->slots : 1,
        .x = p->area.x,
        .widths = step->widths,
        .buffer = p->area.buffer,
        .state = p->area.keep != NULL ? p->area.keep + p->area.kept.state[i - p->area.segment->first] : NULL,
        .dy = dy,
        .dx = p->area.dx,
        .gradient = tn_back_gradients(p, i),
        .overwrite = p->fresh[i]};
    step->layer->type->backward(&call);
    p->fresh[i] = false;
    add_parts(p, i, context);
}
