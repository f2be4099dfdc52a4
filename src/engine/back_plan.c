/* SPDX-License-Identifier: MIT */
/* Which steps a backward visits, and what of forward it makes anew. */
#include "engine/backward.h"

#include <string.h>

const tn_step *tn_back_step(const tn_backward *p, int i)
{
    return &p->run.plan->steps[i];
}

/* The gradients of a step's parameters. */
float *const *tn_back_gradients(const tn_backward *p, int i)
{
    return p->gradient + tn_back_step(p, i)->layer->first_parameter;
}

static bool wants_parameters(const tn_backward *p, int i)
{
    for (int j = 0; j < tn_back_step(p, i)->layer->num_parameters; j++) {
        if (tn_back_gradients(p, i)[j] != NULL) return true;
    }
    return false;
}

static bool wants_inputs(const tn_backward *p, int i)
{
    for (int j = 0; j < tn_back_step(p, i)->layer->num_inputs; j++) {
        if (p->wanted[tn_back_step(p, i)->inputs[j]]) return true;
    }
    return false;
}

bool tn_back_reads_input(const tn_backward *p, int i, int j)
{
    const tn_layer *layer = tn_back_step(p, i)->layer;
    return p->back[i] && layer->type->reads_input != NULL &&
           layer->type->reads_input(layer, j, tn_back_gradients(p, i), wants_inputs(p, i));
}

static bool has_state(const tn_backward *p, int i)
{
    const tn_layer *layer = tn_back_step(p, i)->layer;
    const tn_layer_query query = tn_step_query(&p->run, i, 1, 1, true);
    tn_layer_sizes sizes = {.state = 0};
    if (layer->type->reach == TN_REACH_IMAGE || layer->type->sizes == NULL) return false;
    return layer->type->sizes(&sizes, &query) && sizes.state > 0;
}

/* Steps to visit: those that have a gradient to give, and that a gradient reaches. */
static void find_steps(tn_backward *p)
{
    const tn_plan *plan = p->run.plan;
    for (int v = 0; v < plan->graph->num_values; v++) {
        const int input = plan->graph->values[v].input;
        p->wanted[v] = input >= 0 && p->dx[input].ndim != 0;
    }
    for (int i = 0; i < plan->num_steps; i++) {
        p->back[i] = wants_parameters(p, i) || wants_inputs(p, i);
        p->wanted[tn_back_step(p, i)->value] = p->back[i];
    }
    memset(p->written, 0, (size_t)plan->graph->num_values * sizeof *p->written);
    for (int o = 0; o < plan->graph->num_outputs; o++)
        p->written[plan->graph->outputs[o].value] = p->run.outputs[o].ndim != 0;
    for (int i = plan->num_steps - 1; i >= 0; i--) {
        p->back[i] = p->back[i] && p->written[tn_back_step(p, i)->value];
        p->wanted[tn_back_step(p, i)->value] = p->back[i];
        for (int j = 0; j < tn_back_step(p, i)->layer->num_inputs; j++) {
            if (p->back[i]) p->written[tn_back_step(p, i)->inputs[j]] = true;
        }
        p->fresh[i] = p->overwrite;
    }
    for (int v = 0; v < plan->graph->num_values; v++)
        p->wanted[v] = p->wanted[v] && p->written[v];
}

/* Marks the steps whose values step i reads, `made` being what is made in the same segment. */
static void make_inputs(const tn_backward *p, unsigned char *made, int i)
{
    for (int j = 0; j < tn_back_step(p, i)->layer->num_inputs; j++) {
        const tn_value_plan *v = &p->run.plan->values[tn_back_step(p, i)->inputs[j]];
        if (v->place == TN_PLACE_BLOCK) made[v->step] |= TN_MAKES_WHOLE | TN_MAKES_VALUE;
    }
}

/* What is made anew of each block, where nothing was saved. */
static void find_made(tn_backward *p)
{
    const tn_plan *plan = p->run.plan;
    memset(p->made, 0, (size_t)plan->num_steps);
    memset(p->through, 0, (size_t)plan->num_step_inputs);
    memset(p->parts, 0, (size_t)plan->num_step_inputs);
    for (int i = plan->num_steps - 1; i >= 0; i--) {
        const tn_step *step = tn_back_step(p, i);
        if (p->back[i] && step->act != TN_ACT_NONE) p->made[i] |= TN_MAKES_VALUE;
        if (p->back[i] && has_state(p, i)) p->made[i] |= TN_MAKES_STATE;
        for (int j = 0; j < step->layer->num_inputs; j++) {
            const tn_value_plan *v = &plan->values[step->inputs[j]];
            const bool reads = tn_back_reads_input(p, i, j), in_block = v->place == TN_PLACE_BLOCK;
            if (reads && in_block) p->made[v->step] |= TN_MAKES_VALUE;
            p->through[step->first_input + j] = reads && in_block && tn_back_step(p, v->step)->act != TN_ACT_NONE;
            p->parts[step->first_input + j] = p->back[i] && p->wanted[step->inputs[j]] && v->adds;
        }
        if (p->made[i] != 0 && step->layer->type->reach != TN_REACH_IMAGE) make_inputs(p, p->made, i);
    }
}

/* What is made anew for the stored values of a group: those that backward reads, and those that they are made of. */
static void find_store_made(tn_backward *p)
{
    const tn_plan *plan = p->run.plan;
    memset(p->store_made, 0, (size_t)plan->num_steps);
    for (int i = plan->num_steps - 1; i >= 0; i--) {
        const tn_step *step = tn_back_step(p, i);
        const bool image = step->layer->type->reach == TN_REACH_IMAGE;
        const bool runs = p->store_made[i] != 0 || p->made[i] != 0;
        for (int j = 0; j < step->layer->num_inputs; j++) {
            const tn_value_plan *v = &plan->values[step->inputs[j]];
            if (v->place == TN_PLACE_STORED && (runs || tn_back_reads_input(p, i, j)))
                p->store_made[v->step] |= TN_MAKES_WHOLE;
        }
        if (p->store_made[i] != 0 && !image) make_inputs(p, p->store_made, i);
    }
}

void tn_back_plan_steps(tn_backward *p)
{
    find_steps(p);
    find_made(p);
    find_store_made(p);
    if (p->run.saved == NULL) return;
    memset(p->made, 0, (size_t)p->run.plan->num_steps);
    memset(p->store_made, 0, (size_t)p->run.plan->num_steps);
}

bool tn_back_makes(const tn_segment *segment, const unsigned char *made)
{
    for (int i = segment->first; i < segment->end; i++) {
        if (made[i] != 0) return true;
    }
    return false;
}

bool tn_back_visits(const tn_backward *p, const tn_segment *segment)
{
    for (int i = segment->first; i < segment->end; i++) {
        if (p->back[i]) return true;
    }
    return false;
}
