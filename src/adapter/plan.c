/* SPDX-License-Identifier: MIT */
/* From the list of layers to the steps of a forward pass, which backward walks in reverse.
 *
 * Two things are decided, both from shapes alone: an activation is done in the pass of the layer before it where that
 * layer can, and a linear layer that follows a linear layer is folded into it, W = W2 W1, b = W2 b1 + b2, where one
 * product costs less than two: n2 k < n1 k + n2 n1. Training folds nothing.
 */
#include "adapter/adapter.h"

static bool folding_pays(const tn_layer *first, const tn_layer *second)
{
    const double k = (double)first->in_dim, n1 = (double)first->out_dim, n2 = (double)second->out_dim;
    return n2 * k < n1 * k + n2 * n1;
}

void tn_plan_make(tn_plan *plan, const tn_list *list, bool train)
{
    int level = 0;
    plan->num_steps = 0;
    for (int i = 0; i < list->num_layers; i++) {
        tn_step *step = &plan->steps[plan->num_steps++];
        *step = (tn_step){.layer = list->layers[i], .first = i, .folded = -1, .window = -1, .act = TN_ACT_NONE};
        if (step->layer.type->reach == TN_REACH_WINDOW) step->window = level++;
        step->level = level;
        const tn_layer *next = i + 1 < list->num_layers ? &list->layers[i + 1] : NULL;
        if (!train && next != NULL && step->layer.type->folds && next->type->folds &&
            folding_pays(&step->layer, next)) {
            step->folded = ++i;
            step->layer.out_dim = next->out_dim;
            step->layer.bias = step->layer.bias || next->bias;
            next = i + 1 < list->num_layers ? &list->layers[i + 1] : NULL;
        }
        if (next != NULL && step->layer.type->fuses_activation && next->type == &tn_activation_type) {
            step->act = next->act;
            i++;
        }
    }
}
