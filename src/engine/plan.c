/* SPDX-License-Identifier: MIT */
/* Planning, in this order: layers become steps (fusing, folding), steps become segments, values get their places, and
 * steps the lists of offsets by which they find them.
 *
 * An activation is done in the pass of the layer before it where that layer can and nobody else reads what it made. An
 * affine layer that follows an affine layer, likewise, is folded into it, W = W2 W1, b = W2 b1 + b2, where one product
 * costs less than two: n2 k < n1 k + n2 n1.
 */
#include "engine/plan.h"

#include "layers/linear.h"
#include <stdlib.h>
#include <string.h>

/* ---- steps ---- */

/* The only layer that reads a value; NULL where there are more, or where the value is an output. */
static const tn_layer *only_reader(const tn_graph *graph, int value, int *number)
{
    if (graph->values[value].readers != 1 || graph->values[value].output >= 0) return NULL;
    for (int i = graph->values[value].layer + 1; i < graph->num_layers; i++) {
        for (int j = 0; j < graph->layers[i]->num_inputs; j++) {
            if (graph->layers[i]->inputs[j] != value) continue;
            *number = i;
            return graph->layers[i];
        }
    }
    return NULL;
}

static bool folding_pays(const tn_layer *first, const tn_layer *second)
{
    const double k = (double)first->in_dim, n1 = (double)first->out_dim, n2 = (double)second->out_dim;
    return n2 * k < n1 * k + n2 * n1;
}

static bool is_affine(const tn_layer *layer)
{
    tn_affine which;
    return layer->type->affine != NULL && layer->type->affine(&which, layer);
}

/* The step's layer becomes the product of two. */
static void fold_step(tn_plan *plan, tn_step *step, const tn_layer *first, const tn_layer *second, int number)
{
    tn_affine a, b;
    (void)first->type->affine(&a, first);
    (void)second->type->affine(&b, second);
    step->made = *first;
    step->made.output = second->output;
    tn_linear_make(&step->made, plan->folded_own + (size_t)step->first * tn_linear_own_size(), first->in_dim,
                   second->out_dim, a.bias >= 0 || b.bias >= 0);
    step->layer = &step->made;
    step->second = number;
    step->value = second->output;
}

static void make_step(tn_plan *plan, bool *done, int number, bool train)
{
    const tn_graph *graph = plan->graph;
    const tn_layer *layer = graph->layers[number];
    tn_step *step = &plan->steps[plan->num_steps++];
    int next_number;
    *step = (tn_step){.layer = layer, .first = number, .second = -1, .act = TN_ACT_NONE, .value = layer->output};
    step->inputs = layer->inputs;
    const tn_layer *next = only_reader(graph, step->value, &next_number);
    if (!train && next != NULL && is_affine(layer) && is_affine(next) && folding_pays(layer, next)) {
        fold_step(plan, step, layer, next, next_number);
        done[next_number] = true;
        next = only_reader(graph, step->value, &next_number);
    }
    if (next == NULL || !layer->type->fuses_activation || next->type->activation == NULL) return;
    step->act = next->type->activation(next);
    step->value = next->output;
    done[next_number] = true;
}

static bool is_shared(const tn_graph *graph, int value)
{
    return graph->spaces[graph->values[value].space].kind == TN_SPACE_SHARED;
}

/* Steps of shared values first, because they run once before all images; each kind in the order of the graph. */
static tenon_status make_steps(tn_plan *plan, bool train, tenon_error *error)
{
    const tn_graph *graph = plan->graph;
    bool *done = calloc((size_t)graph->num_layers, sizeof *done);
    if (done == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a plan cannot be made");
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < graph->num_layers; i++) {
            if (done[i] || is_shared(graph, graph->layers[i]->output) != (pass == 0)) continue;
            make_step(plan, done, i, train);
        }
    }
    free(done);
    for (int i = 0; i < plan->num_steps; i++) {
        plan->steps[i].first_input = plan->num_step_inputs;
        plan->num_step_inputs += plan->steps[i].layer->num_inputs;
        if (plan->steps[i].layer->num_inputs > plan->most_inputs) plan->most_inputs = plan->steps[i].layer->num_inputs;
    }
    return TENON_OK;
}

/* ---- segments ---- */

static int level_of(const tn_segment *segment, int space)
{
    for (int i = segment->num_levels - 1; i >= 0; i--) {
        if (segment->spaces[i] == space) return i;
    }
    return -1;
}

static int space_of(const tn_plan *plan, int value)
{
    return plan->graph->values[value].space;
}

static bool is_map(const tn_plan *plan, int space)
{
    return plan->graph->spaces[space].kind == TN_SPACE_MAP;
}

/* Is there a map above a level? It may name a row more than once, or never, so what it reads is made elsewhere, once.
 */
static bool below_map(const tn_plan *plan, const tn_segment *segment, int level)
{
    for (int i = level + 1; i < segment->num_levels; i++) {
        if (is_map(plan, segment->spaces[i])) return true;
    }
    return false;
}

/* Whether a step can join a segment of blocks, and at which level; the segment gets the levels it lacks. */
static bool join(tn_plan *plan, tn_segment *segment, tn_step *step)
{
    const bool windows = step->layer->type->reach == TN_REACH_WINDOW;
    const int made = space_of(plan, step->value), read = windows ? space_of(plan, step->inputs[0]) : made;
    if (segment->num_levels == 0) {
        segment->spaces[segment->num_levels++] = read;
        if (windows) segment->spaces[segment->num_levels++] = made;
        step->level = segment->num_levels - 1;
        return true;
    }
    int level = level_of(segment, made);
    if (level < 0 && windows && !is_map(plan, made) && segment->spaces[segment->num_levels - 1] == read) {
        segment->spaces[segment->num_levels++] = made;
        level = segment->num_levels - 1;
    }
    if (level < 0 || below_map(plan, segment, level)) return false;
    if (windows && (level == 0 || segment->spaces[level - 1] != read)) return false;
    step->level = level;
    return true;
}

static tn_segment *open_segment(tn_plan *plan, int first, bool is_image, bool shared)
{
    tn_segment *segment = &plan->segments[plan->num_segments++];
    /* A segment has at most two levels for each of its steps. */
    int *spaces = (int *)plan->memory[5] + 2 * first;
    *segment = (tn_segment){.is_image = is_image, .is_shared = shared, .first = first, .end = first, .spaces = spaces};
    return segment;
}

/* Steps to segments; `cut[i]`: a new one begins at step i. */
static void cut_segments(tn_plan *plan, const bool *cut)
{
    tn_segment *segment = NULL;
    plan->num_segments = 0;
    for (int i = 0; i < plan->num_steps; i++) {
        tn_step *step = &plan->steps[i];
        const bool is_image = step->layer->type->reach == TN_REACH_IMAGE, shared = is_shared(plan->graph, step->value);
        const bool fits = segment != NULL && !cut[i] && !is_image && !segment->is_image && segment->is_shared == shared;
        if (!fits || !join(plan, segment, step)) {
            segment = open_segment(plan, i, is_image, shared);
            if (!is_image) (void)join(plan, segment, step);
        }
        segment->end = i + 1;
        step->segment = plan->num_segments - 1;
    }
}

static void find_makers(tn_plan *plan)
{
    for (int v = 0; v < plan->graph->num_values; v++)
        plan->values[v] = (tn_value_plan){.step = -1, .segment = -1, .gradient = -1, .index = -1};
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        tn_value_plan *value = &plan->values[step->value];
        value->step = i;
        value->segment = step->segment;
        value->level = step->level;
        for (int j = 0; j < step->layer->num_inputs; j++)
            plan->values[step->inputs[j]].readers++;
    }
}

/* Does a value leave the segment that makes it? */
static bool leaves(const tn_plan *plan, int value)
{
    if (plan->graph->values[value].output >= 0) return true;
    for (int i = plan->values[value].step + 1; i < plan->num_steps; i++) {
        for (int j = 0; j < plan->steps[i].layer->num_inputs; j++) {
            if (plan->steps[i].inputs[j] == value && plan->steps[i].segment != plan->values[value].segment) return true;
        }
    }
    return false;
}

/* The step to cut before so that values that leave a segment are of its last level; -1: none. */
static int find_cut(const tn_plan *plan)
{
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_segment *segment = &plan->segments[plan->steps[i].segment];
        if (segment->is_image || plan->steps[i].level + 1 >= segment->num_levels ||
            !leaves(plan, plan->steps[i].value)) {
            continue;
        }
        for (int j = segment->first; j < segment->end; j++) {
            if (plan->steps[j].level > plan->steps[i].level && j > i) return j;
        }
        return i; /* a higher level came before it */
    }
    return -1;
}

static tenon_status make_segments(tn_plan *plan, tenon_error *error)
{
    bool *cut = calloc((size_t)plan->num_steps, sizeof *cut);
    if (cut == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a plan cannot be made");
    for (int next = 0; next >= 0; next = find_cut(plan)) {
        cut[next] = true;
        cut_segments(plan, cut);
        find_makers(plan);
    }
    free(cut);
    return TENON_OK;
}

/* ---- places ---- */

static void place_values(tn_plan *plan)
{
    const tn_graph *graph = plan->graph;
    for (int v = 0; v < graph->num_values; v++) {
        tn_value_plan *value = &plan->values[v];
        if (graph->values[v].input >= 0) {
            *value = (tn_value_plan){.place = TN_PLACE_INPUT,
                                     .index = graph->values[v].input,
                                     .step = -1,
                                     .segment = -1,
                                     .readers = value->readers,
                                     .gradient = -1};
        } else if (value->step < 0) {
            continue; /* fused away */
        } else if (graph->values[v].output >= 0) {
            value->place = TN_PLACE_OUTPUT;
            value->index = graph->values[v].output;
        } else if (plan->segments[value->segment].is_image || leaves(plan, v)) {
            value->place = TN_PLACE_STORED;
            value->index = plan->num_stored;
            plan->stored[plan->num_stored++] = v;
            plan->groups = plan->groups || !is_shared(graph, v);
        } else {
            value->place = TN_PLACE_BLOCK;
        }
    }
}

/* The last step of the segment that reads a value. */
static int last_reader(const tn_plan *plan, const tn_segment *segment, int value)
{
    for (int i = segment->end - 1; i >= segment->first; i--) {
        for (int j = 0; j < plan->steps[i].layer->num_inputs; j++) {
            if (plan->steps[i].inputs[j] == value) return i;
        }
    }
    return -1;
}

/* A buffer that nobody uses, or a new one. */
static int take_buffer(bool *busy, int *count)
{
    int found = 0;
    while (found < *count && busy[found])
        found++;
    if (found == *count) ++*count;
    busy[found] = true;
    return found;
}

/* Buffers of the values that live in a block: from the step that makes one to the last that reads it. */
static void place_buffers(tn_plan *plan, tn_segment *segment, bool *busy)
{
    memset(busy, 0, (size_t)plan->num_steps * sizeof *busy);
    for (int i = segment->first; i < segment->end; i++) {
        tn_value_plan *made = &plan->values[plan->steps[i].value];
        if (made->place == TN_PLACE_BLOCK) made->index = take_buffer(busy, &segment->num_buffers);
        for (int j = 0; j < plan->steps[i].layer->num_inputs; j++) {
            const tn_value_plan *read = &plan->values[plan->steps[i].inputs[j]];
            if (read->place == TN_PLACE_BLOCK && last_reader(plan, segment, plan->steps[i].inputs[j]) == i) {
                busy[read->index] = false;
            }
        }
    }
}

/* Buffers of gradients: from the last step that reads the value, which backward meets first, to the one that makes it.
 * A fused activation needs one for the gradient before it. */
static void place_gradients(tn_plan *plan, tn_segment *segment, bool *busy)
{
    memset(busy, 0, ((size_t)plan->num_steps + 1) * sizeof *busy);
    for (int i = segment->end - 1; i >= segment->first; i--) {
        const tn_step *step = &plan->steps[i];
        tn_value_plan *made = &plan->values[step->value];
        if (made->gradient < 0 && step->act != TN_ACT_NONE) made->gradient = take_buffer(busy, &segment->num_gradients);
        for (int j = 0; j < step->layer->num_inputs; j++) {
            tn_value_plan *read = &plan->values[step->inputs[j]];
            if (read->place == TN_PLACE_BLOCK && read->gradient < 0) {
                read->gradient = take_buffer(busy, &segment->num_gradients);
            }
        }
        if (made->gradient >= 0) busy[made->gradient] = false;
    }
}

/* ---- offsets ---- */

static int add_offsets(tn_segment *segment, const tn_offsets_plan *wanted)
{
    for (int i = 0; i < segment->num_offsets; i++) {
        const tn_offsets_plan *o = &segment->offsets[i];
        if (o->level == wanted->level && o->mapped == wanted->mapped && o->gradient == wanted->gradient &&
            o->summed == wanted->summed && o->place == wanted->place && o->index == wanted->index &&
            o->width == wanted->width) {
            return i;
        }
    }
    segment->offsets[segment->num_offsets] = *wanted;
    return segment->num_offsets++;
}

/* The list by which a step finds a value, or its gradient; -1: dense rows, in order. */
static int offsets_of(const tn_plan *plan, tn_segment *segment, int value, int level, bool mapped, bool gradient)
{
    const tn_value_plan *v = &plan->values[value];
    const bool is_block = v->place == TN_PLACE_BLOCK, is_input = v->place == TN_PLACE_INPUT;
    if (is_block && !mapped) return -1;
    return add_offsets(segment, &(tn_offsets_plan){.level = level,
                                                   .mapped = mapped,
                                                   .gradient = gradient && is_input,
                                                   .summed = gradient && is_input && v->adds,
                                                   .place = v->place,
                                                   .index = is_block ? -1 : v->index,
                                                   .width = is_block ? plan->graph->values[value].width : 0});
}

/* The list of the dense slots in which the parts of a sum are made; -1: dense rows, in order. */
static int parts_of(const tn_plan *plan, tn_segment *segment, int value, int level, bool mapped)
{
    if (!mapped || !plan->values[value].adds) return -1;
    return add_offsets(segment, &(tn_offsets_plan){.level = level,
                                                   .mapped = true,
                                                   .gradient = true,
                                                   .place = TN_PLACE_BLOCK,
                                                   .index = -1,
                                                   .width = plan->graph->values[value].width});
}

static void find_offsets(tn_plan *plan, tn_segment *segment, tn_offsets_plan *memory)
{
    segment->offsets = memory;
    segment->skips_bottom = segment->num_levels > 1;
    for (int i = segment->first; i < segment->end; i++) {
        tn_step *step = &plan->steps[i];
        const bool mapped = step->layer->type->reach == TN_REACH_WINDOW;
        if (step->level == 0) segment->skips_bottom = false;
        step->y_offsets = offsets_of(plan, segment, step->value, step->level, false, false);
        for (int j = 0; j < step->layer->num_inputs; j++) {
            step->x_offsets[j] = offsets_of(plan, segment, step->inputs[j], step->level, mapped, false);
            step->dx_offsets[j] = offsets_of(plan, segment, step->inputs[j], step->level, mapped, true);
            step->part_offsets[j] = parts_of(plan, segment, step->inputs[j], step->level, mapped);
        }
    }
}

/* A gradient is a sum where several steps read the value, where a shared value is read for each image, and where a map
 * may name a row more than once. */
static void find_sums(tn_plan *plan)
{
    for (int v = 0; v < plan->graph->num_values; v++)
        plan->values[v].adds = plan->values[v].readers > 1;
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        const tn_space *made = &plan->graph->spaces[space_of(plan, step->value)];
        for (int j = 0; j < step->layer->num_inputs; j++) {
            tn_value_plan *read = &plan->values[step->inputs[j]];
            if (made->kind == TN_SPACE_MAP && step->layer->type->reach == TN_REACH_WINDOW) read->adds = true;
            if (made->kind != TN_SPACE_SHARED && is_shared(plan->graph, step->inputs[j])) read->adds = true;
            step->widths[j] = plan->graph->values[step->inputs[j]].width;
        }
    }
}

/* ---- the whole ---- */

static tenon_status allocate(tn_plan *plan, tenon_error *error)
{
    const size_t layers = (size_t)plan->graph->num_layers, values = (size_t)plan->graph->num_values + 1;
    size_t inputs = 0;
    for (size_t i = 0; i < layers; i++)
        inputs += (size_t)plan->graph->layers[i]->num_inputs;
    const size_t lists = 3 * inputs + layers;
    void **m = plan->memory;
    plan->steps = m[0] = calloc(layers, sizeof *plan->steps);
    plan->segments = m[1] = calloc(layers, sizeof *plan->segments);
    plan->values = m[2] = calloc(values, sizeof *plan->values);
    plan->stored = m[3] = calloc(values, sizeof *plan->stored);
    plan->folded_own = m[4] = calloc(layers, tn_linear_own_size());
    m[5] = calloc(2 * layers + 3 * inputs + 1, sizeof(int));
    m[6] = calloc(lists, sizeof(tn_offsets_plan));
    m[7] = calloc(inputs + 1, sizeof(int64_t));
    for (int i = 0; i < 8; i++) {
        if (m[i] == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a plan cannot be made");
    }
    return TENON_OK;
}

/* Gives the steps their arrays; those of the segments' spaces come first. */
static void cut_arrays(tn_plan *plan)
{
    int *numbers = plan->memory[5];
    int64_t *widths = plan->memory[7];
    for (int i = 0; i < plan->num_steps; i++) {
        tn_step *step = &plan->steps[i];
        step->x_offsets = numbers + 2 * plan->graph->num_layers + 3 * step->first_input;
        step->dx_offsets = step->x_offsets + step->layer->num_inputs;
        step->part_offsets = step->dx_offsets + step->layer->num_inputs;
        step->widths = widths + step->first_input;
    }
}

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static tenon_status finish(tn_plan *plan, tenon_error *error)
{
    bool *busy = calloc((size_t)plan->num_steps * 2 + 2, sizeof *busy);
    if (busy == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: a plan cannot be made");
    tn_offsets_plan *offsets = plan->memory[6];
    for (int i = 0; i < plan->num_segments; i++) {
        tn_segment *segment = &plan->segments[i];
        if (segment->is_image) continue;
        place_buffers(plan, segment, busy);
        place_gradients(plan, segment, busy);
        find_offsets(plan, segment, offsets);
        offsets += segment->num_offsets;
        plan->most_levels = larger(plan->most_levels, segment->num_levels);
        plan->most_buffers = larger(plan->most_buffers, segment->num_buffers);
        plan->most_gradients = larger(plan->most_gradients, segment->num_gradients);
        plan->most_offsets = larger(plan->most_offsets, segment->num_offsets);
    }
    free(busy);
    return TENON_OK;
}

/* The layer whose pooling weights lie on the rows of the tokens. */
static void find_attention(tn_plan *plan)
{
    const int tokens = space_of(plan, plan->graph->outputs[0].value);
    plan->attention_step = -1;
    for (int i = plan->num_steps - 1; i >= 0; i--) {
        if (plan->steps[i].layer->type->attention_heads != NULL && space_of(plan, plan->steps[i].value) == tokens) {
            plan->attention_step = i;
        }
    }
}

tenon_status tn_plan_make(tn_plan *plan, const tn_graph *graph, bool train, tenon_error *error)
{
    *plan = (tn_plan){.graph = graph};
    TN_TRY(allocate(plan, error));
    TN_TRY(make_steps(plan, train, error));
    cut_arrays(plan);
    TN_TRY(make_segments(plan, error));
    place_values(plan);
    find_sums(plan);
    for (int s = 0; s < plan->num_segments; s++)
        plan->groups = plan->groups || (plan->segments[s].is_image && !plan->segments[s].is_shared);
    for (int i = 0; i < plan->graph->num_inputs && train; i++)
        plan->groups = plan->groups || plan->values[plan->graph->inputs[i].value].adds;
    TN_TRY(finish(plan, error));
    find_attention(plan);
    return TENON_OK;
}

void tn_plan_free(tn_plan *plan)
{
    for (int i = 0; i < 8; i++)
        free(plan->memory[i]);
    *plan = (tn_plan){.graph = NULL};
}

static double sum_flops(const tn_plan *plan, const tn_geometry *geometry)
{
    double sum = 0;
    for (int i = 0; i < plan->num_steps; i++) {
        const tn_step *step = &plan->steps[i];
        if (step->layer->type->flops == NULL) continue;
        const double rows = (double)tn_shape_rows(&geometry->shapes[space_of(plan, step->value)]);
        const int first = step->layer->num_inputs > 0 ? step->inputs[0] : step->value;
        double inputs = (double)tn_shape_rows(&geometry->shapes[space_of(plan, first)]);
        if (plan->graph->spaces[space_of(plan, step->value)].kind == TN_SPACE_MAP &&
            step->layer->type->reach == TN_REACH_WINDOW) {
            inputs = rows * (double)tn_geometry_slots(geometry, space_of(plan, step->value));
        }
        sum += step->layer->type->flops(step->layer, rows, inputs);
    }
    return sum;
}

tenon_status tn_plan_flops(const tn_plan *plan, const tenon_call *call, int64_t num_input, double *flops,
                           tenon_error *error)
{
    tn_geometry geometry;
    void *memory;
    const tenon_status status = tn_geometry_of_one(&geometry, &memory, plan->graph, call, num_input, error);
    if (status == TENON_OK) *flops = sum_flops(plan, &geometry);
    free(memory);
    return status;
}
