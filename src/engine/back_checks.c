/* SPDX-License-Identifier: MIT */
/* The caller's gradients, checked. */
#include "engine/backward.h"

#include "core/size.h"
#include <stdio.h>
#include <string.h>

/* ---- parameters ---- */

/* A parameter's gradient as bytes. */
static tn_tensor gradient_bytes(const tn_backward *p, int64_t index)
{
    const tn_parameter_spec *spec = &p->run.graph->parameters[index];
    size_t bytes = 0;
    if (!tn_shape_bytes(spec->ndim, spec->shape, sizeof(float), &bytes)) bytes = 0; /* its view was checked */
    return tn_bytes_tensor(p->gradient[index], bytes);
}

/* Gradients that nothing was added to. */
void tn_back_clear_parameters(const tn_backward *p)
{
    for (int i = 0; i < p->run.plan->num_steps; i++) {
        const tn_layer *layer = tn_back_step(p, i)->layer;
        for (int j = 0; j < layer->num_parameters && p->fresh[i]; j++) {
            const tn_tensor bytes = gradient_bytes(p, layer->first_parameter + j);
            if (bytes.data != NULL) p->run.pack->ops->zero(bytes.data, (size_t)bytes.shape[0]);
        }
    }
}

/* "the gradient of 'proj1.weight'" */
typedef struct gradient_name {
    char text[192];
} gradient_name;

static gradient_name name_gradient(const char *of)
{
    gradient_name name;
    snprintf(name.text, sizeof name.text, "the gradient of '%.150s'", of);
    return name;
}

static tenon_status check_parameter(tn_backward *p, const DLTensor *tensor, int64_t index, tenon_error *error)
{
    const tn_parameter_spec *spec = &p->run.graph->parameters[index];
    const gradient_name name = name_gradient(spec->name);
    tn_tensor view;
    TN_TRY(tn_tensor_view(tensor, name.text, spec->ndim, &view, error));
    TN_TRY(tn_check_shape(&view, name.text, spec->shape, error));
    if (view.dtype != TN_F32 || !tn_tensor_is_dense(&view)) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s must be float32, dense and row-major", name.text);
    }
    p->gradient[index] = view.data;
    return TENON_OK;
}

/* ---- overlaps ---- */

/* Moves an entry down a heap of parameters whose greatest address is on top. */
static void sift(int64_t *heap, int64_t count, int64_t at, float *const *address)
{
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && (uintptr_t)address[heap[child]] < (uintptr_t)address[heap[child + 1]]) child++;
        if ((uintptr_t)address[heap[at]] >= (uintptr_t)address[heap[child]]) return;
        const int64_t moved = heap[at];
        heap[at] = heap[child];
        heap[child] = moved;
    }
}

/* Numbers of the parameters by the address of their gradients. */
static void sort_parameters(tn_backward *p)
{
    const int64_t count = p->run.graph->num_parameters;
    for (int64_t i = 0; i < count; i++)
        p->sorted[i] = i;
    for (int64_t i = count / 2 - 1; i >= 0; i--)
        sift(p->sorted, count, i, p->gradient);
    for (int64_t end = count - 1; end > 0; end--) {
        const int64_t greatest = p->sorted[0];
        p->sorted[0] = p->sorted[end];
        p->sorted[end] = greatest;
        sift(p->sorted, end, 0, p->gradient);
    }
}

/* Sorted by address, two of them overlap exactly where two neighbours do. */
static tenon_status check_parameter_overlap(tn_backward *p, const tn_touched *others, size_t count, tenon_error *error)
{
    sort_parameters(p);
    for (int64_t k = 0; k < p->run.graph->num_parameters; k++) {
        const int64_t index = p->sorted[k];
        const gradient_name name = name_gradient(p->run.graph->parameters[index].name);
        const tn_tensor bytes = gradient_bytes(p, index);
        const tn_touched own = {name.text, &bytes, 1, true};
        for (size_t i = 0; i < count && bytes.data != NULL; i++)
            TN_TRY(tn_check_overlap((const tn_touched[]){others[i], own}, 2, error));
        if (k == 0) continue;
        const int64_t before = p->sorted[k - 1];
        const gradient_name other = name_gradient(p->run.graph->parameters[before].name);
        const tn_tensor neighbour = gradient_bytes(p, before);
        const tn_touched both[] = {{other.text, &neighbour, 1, true}, own};
        TN_TRY(tn_check_overlap(both, 2, error));
    }
    return TENON_OK;
}

/* The gradients of inputs against all that the call reads, and against each other. */
static tenon_status check_dx_overlap(const tn_backward *p, const tn_touched *others, size_t count, tenon_error *error)
{
    const tn_graph *graph = p->run.graph;
    for (int i = 0; i < graph->num_inputs; i++) {
        const gradient_name name = name_gradient(i > 0 ? graph->inputs[i].name : "x");
        const tn_touched own = {i > 0 ? name.text : "the gradient of x", &p->dx[i], tn_dtype_size(p->dx[i].dtype),
                                true};
        TN_TRY(tn_check_overlap_run(&p->run, false, &own, 1, error));
        for (size_t k = 0; k < count; k++)
            TN_TRY(tn_check_overlap((const tn_touched[]){others[k], own}, 2, error));
        for (int j = 0; j < i; j++) {
            const tn_touched before = {"the gradient of another input", &p->dx[j], tn_dtype_size(p->dx[j].dtype), true};
            TN_TRY(tn_check_overlap((const tn_touched[]){before, own}, 2, error));
        }
    }
    return TENON_OK;
}

tenon_status tn_back_check_overlap(tn_backward *p, const tenon_workspace *workspace, tenon_error *error)
{
    const tn_run *run = &p->run;
    const tn_tensor none = {.data = NULL};
    const tn_tensor memory = workspace != NULL ? tn_bytes_tensor(workspace->data, workspace->size) : none;
    const tn_tensor saved = tn_bytes_tensor(run->saved, run->saved_size);
    const tn_touched others[] = {
        {"patch_mask", &run->masks.patch, 1, false},
        {"frame_mask", &run->masks.frame, 1, false},
        {"saved", &saved, 1, false},
        {"the workspace", &memory, 1, true},
    };
    const size_t count = sizeof others / sizeof others[0];
    TN_TRY(tn_check_overlap_run(run, false, others, count, error));
    TN_TRY(check_dx_overlap(p, others, count, error));
    tn_touched all[8];
    size_t used = 0;
    for (; used < count; used++)
        all[used] = others[used];
    all[used++] = (tn_touched){"x", &run->inputs[0], tn_dtype_size(run->inputs[0].dtype), false};
    all[used++] = (tn_touched){"dy", &run->outputs[0], tn_dtype_size(run->outputs[0].dtype), false};
    all[used++] = (tn_touched){"the gradient of x", &p->dx[0], tn_dtype_size(p->dx[0].dtype), true};
    return check_parameter_overlap(p, all, used, error);
}

/* ---- the whole ---- */

static tenon_status check_dx(tn_backward *p, const tenon_gradients *gradients, tenon_error *error)
{
    const tn_graph *graph = p->run.graph;
    for (int64_t i = 0; i < gradients->num_inputs; i++) {
        bool known = false;
        for (int k = 1; k < graph->num_inputs; k++)
            known = known || (gradients->inputs[i].name != NULL &&
                              strcmp(gradients->inputs[i].name, graph->inputs[k].name) == 0);
        if (known) continue;
        return tn_fail(error, TENON_INVALID, "adapter type '%s' has no input '%s' beside the features", p->run.type,
                       gradients->inputs[i].name != NULL ? tn_quote(gradients->inputs[i].name).text : "(null)");
    }
    for (int i = 0; i < graph->num_inputs; i++) {
        const gradient_name named = name_gradient(graph->inputs[i].name);
        const char *name = i == 0 ? "the gradient of x" : named.text;
        const DLTensor *dx =
            i == 0 ? gradients->x : tn_find_tensor(gradients->inputs, gradients->num_inputs, graph->inputs[i].name);
        if (dx == NULL) continue;
        TN_TRY(tn_images_view(dx, name, p->run.inputs[i].ndim, p->run.one_image, p->run.inputs[i].shape, &p->dx[i],
                              error));
        TN_TRY(tn_check_written(&p->dx[i], name, error));
    }
    return TENON_OK;
}

tenon_status tn_back_check(tn_backward *p, const tenon_gradients *gradients, tenon_error *error)
{
    TN_TRY(check_dx(p, gradients, error));
    p->overwrite = gradients->overwrite;
    for (int64_t i = 0; i < p->run.graph->num_parameters && gradients->parameters != NULL; i++) {
        if (gradients->parameters[i] == NULL) continue;
        TN_TRY(check_parameter(p, gradients->parameters[i], i, error));
    }
    return TENON_OK;
}
