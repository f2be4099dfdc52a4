/* SPDX-License-Identifier: MIT */
/* The backward pass: the blocks of the forward pass, each through its steps in reverse.
 *
 * Of a step backward needs what it read and, under a fused activation, what it made before that. This comes from
 * call->saved, where forward left it, or is made anew for the block, in the same layout and by the same code. Gradients
 * of the values between steps live in two buffers that take turns; the last step reads dy where it is, the first one
 * writes dx where the caller wants it. Steps below the lowest one that has a gradient to give are not visited, and
 * what only a frozen parameter would need is not made.
 */
#include "adapter/call.h"

#include "core/size.h"
#include "core/versioned.h"
#include <stdio.h>
#include <string.h>

/* A backward call, checked. run.y is dy. */
typedef struct pass {
    tn_run run;
    bool wants_x;
    bool overwrite;                                           /* gradients of parameters */
    tn_tensor dx;                                             /* [batch, tokens, in_dim] */
    float *gradient[TN_MAX_LAYERS * TN_MAX_LAYER_PARAMETERS]; /* by parameter; NULL: frozen */
    int first;                                                /* the lowest step to visit; num_steps: none */
    int remade; /* how many steps are run again to make what backward needs */
    bool value; /* the last of those makes its value, not only its state */
} pass;

/* The workspace of a call, cut up. */
typedef struct layout {
    tn_block_rows rows;
    size_t rows_at, dx_offsets, keep, gradients[2], input, buffer, scratch; /* byte offsets */
} layout;

/* --- what is wanted --- */

static const tn_step *step_of(const pass *p, int i)
{
    return &p->run.pack->plan->steps[i];
}

/* The gradients of a step's parameters. */
static float *const *gradients_of(const pass *p, int i)
{
    return p->gradient + step_of(p, i)->layer.first_parameter;
}

static bool wants_parameters(const pass *p, int i)
{
    for (int64_t j = 0; j < step_of(p, i)->layer.num_parameters; j++) {
        if (gradients_of(p, i)[j] != NULL) return true;
    }
    return false;
}

static bool wants_dx(const pass *p, int i)
{
    return i > p->first || (i == 0 && p->wants_x);
}

/* Is what step i reads needed? */
static bool reads_input(const pass *p, int i)
{
    const tn_layer *layer = &step_of(p, i)->layer;
    return i >= p->first && layer->type->reads_input(layer, gradients_of(p, i), wants_dx(p, i));
}

/* Is what step i made before its activation needed, or what the next one read? */
static bool needs_value(const pass *p, int i)
{
    const bool through = step_of(p, i)->act != TN_ACT_NONE && i >= p->first;
    return through || (i + 1 < p->run.pack->plan->num_steps && reads_input(p, i + 1));
}

/* Finds the steps to visit and those to run again. */
static void plan_steps(pass *p)
{
    const int count = p->run.pack->plan->num_steps;
    p->first = p->wants_x ? 0 : count;
    for (int i = count - 1; i >= 0; i--) {
        if (wants_parameters(p, i)) p->first = i < p->first ? i : p->first;
    }
    p->remade = 0;
    p->value = false;
    for (int i = 0; i < count && p->run.saved == NULL; i++) {
        const bool state = i >= p->first && step_of(p, i)->layer.type->state_size != NULL;
        if (!needs_value(p, i) && !state) continue;
        p->remade = i + 1;
        p->value = needs_value(p, i);
    }
}

/* --- memory --- */

/* Buffers of one step, each as large as the largest step needs it. */
static bool plan_step(layout *l, size_t sizes[5], const pass *p, int i)
{
    const tn_step *step = step_of(p, i);
    const tn_layer_type *type = step->layer.type;
    const tn_ops *ops = p->run.pack->ops;
    const tn_weights *weights = &p->run.pack->weights[i];
    const int64_t capacity = l->rows.capacity[step->level], slots = tn_step_slots(&p->run, step);
    const int workers = p->run.parallel.workers;
    const bool last = i + 1 == p->run.pack->plan->num_steps;
    size_t value;
    if (!tn_step_value_size(&p->run, &l->rows, step, &value)) return false;
    if (!last || step->act != TN_ACT_NONE) sizes[i % 2] = tn_max_size(sizes[i % 2], value);
    if (!last && step->act != TN_ACT_NONE && reads_input(p, i + 1)) sizes[2] = tn_max_size(sizes[2], value);
    if (i < p->remade && type->buffer_size != NULL) {
        sizes[3] = tn_max_size(sizes[3], type->buffer_size(&step->layer, ops, capacity, slots));
    }
    if (i < p->remade && type->scratch_size != NULL) {
        sizes[4] = tn_max_size(sizes[4], type->scratch_size(&step->layer, ops, weights, capacity, slots, workers));
    }
    if (i < p->first) return true;
    if (type->buffer_backward_size != NULL) {
        sizes[3] = tn_max_size(sizes[3], type->buffer_backward_size(&step->layer, ops, capacity, slots));
    }
    if (type->scratch_backward_size != NULL) {
        sizes[4] =
            tn_max_size(sizes[4], type->scratch_backward_size(&step->layer, ops, weights, capacity, slots, workers));
    }
    return true;
}

static bool plan_layout(void *planned, const tn_run *run, size_t *bytes)
{
    const pass *p = (const pass *)(const void *)run; /* its first member */
    layout *l = planned;
    tn_kept kept;
    size_t sizes[5] = {0}, rows, offsets, size = 0;
    *l = (layout){.buffer = 0};
    if (!tn_run_plan_rows(&l->rows, run)) return false;
    for (int i = 0; i < run->pack->plan->num_steps; i++) {
        if (!plan_step(l, sizes, p, i)) return false;
    }
    if (!tn_kept_plan(&kept, run, &l->rows)) return false;
    return tn_block_rows_size(&l->rows, &rows) && tn_shape_bytes(1, &l->rows.capacity[0], sizeof(int64_t), &offsets) &&
           tn_reserve(&size, rows, &l->rows_at) && tn_reserve(&size, p->wants_x ? offsets : 0, &l->dx_offsets) &&
           tn_reserve(&size, p->remade > 0 ? kept.size : 0, &l->keep) &&
           tn_reserve(&size, sizes[0], &l->gradients[0]) && tn_reserve(&size, sizes[1], &l->gradients[1]) &&
           tn_reserve(&size, sizes[2], &l->input) && tn_reserve(&size, sizes[3], &l->buffer) &&
           tn_reserve(&size, sizes[4], &l->scratch) && tn_add_size(size, TN_ALIGN, bytes);
}

/* --- dx --- */

/* Is there a token of x that no block writes? */
static bool leaves_tokens(const tn_run *r)
{
    bool whole = r->geometry.prefix_tokens == 0 && r->masks.patch.data == NULL && r->masks.frame.data == NULL;
    for (int i = 0; i < r->geometry.num_windows; i++) {
        const tn_tiling *t = &r->geometry.tiling[i];
        whole = whole && t->out_height * t->window >= t->in_height && t->out_width * t->window >= t->in_width;
    }
    return !whole;
}

static void clear_dx(const pass *p, const tn_context *context)
{
    const tn_tensor *t = &p->dx;
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    for (int64_t image = 0; image < t->shape[0]; image++) {
        char *data = (char *)t->data + image * t->stride[0] * (int64_t)tn_dtype_size(t->dtype);
        context->ops->copy(context, (tn_rows){data, t->dtype, t->stride[1], 1, NULL}, zeros, t->shape[1], t->shape[2]);
    }
}

/* Where the first step writes dx, as it reads x: before rows->patches and its map become offsets of x. */
static void locate_dx(int64_t *offsets, const pass *p, const tn_block_rows *rows)
{
    const tn_run *r = &p->run;
    const tn_step *step = step_of(p, 0);
    tn_to_offsets(offsets, rows->patches, rows->rows[0], &p->dx, r->geometry.count[0], r->geometry.prefix_tokens);
    if (step->window < 0) return;
    /* A slot's number is at most its place, so going down they can be spread in place. */
    for (int64_t e = rows->rows[step->level] * tn_step_slots(r, step) - 1; e >= 0; e--) {
        const int64_t number = rows->map[0][e];
        offsets[e] = number >= 0 ? offsets[number] : -1;
    }
}

/* --- blocks --- */

/* A block on its way back. */
typedef struct stage {
    const pass *pass;
    const tn_block_rows *rows;
    const tn_kept *kept;
    char *keep;
    char *gradients[2], *input, *buffer;
    const int64_t *dx_offsets;
    bool fresh; /* nothing has been written to the gradients of parameters yet, and they are to be overwritten */
} stage;

/* What step i read; through an activation that has to be made once more. */
static tn_rows find_input(const stage *s, int i, const tn_context *context)
{
    const pass *p = s->pass;
    const tn_step *step = step_of(p, i);
    const int64_t *map = step->window >= 0 ? s->rows->map[step->window] : NULL;
    if (!reads_input(p, i)) return (tn_rows){.data = NULL, .dtype = context->ops->compute, .offset = map};
    if (i == 0) return tn_rows_of(&p->run.x, map != NULL ? map : s->rows->patches);
    const tn_step *below = step_of(p, i - 1);
    tn_rows x = tn_dense_rows(s->keep + s->kept->value[i - 1], context->ops->compute, step->layer.in_dim);
    if (below->act != TN_ACT_NONE) {
        const tn_rows made = tn_dense_rows(s->input, context->ops->compute, step->layer.in_dim);
        context->ops->activation(context, made, x, below->act, s->rows->rows[below->level], step->layer.in_dim);
        x = made;
    }
    x.offset = map;
    return x;
}

/* The gradient of what step i made before its activation. */
static tn_rows find_dy(const stage *s, int i, const tn_context *context)
{
    const tn_run *r = &s->pass->run;
    const tn_step *step = step_of(s->pass, i);
    const bool last = i + 1 == r->pack->plan->num_steps;
    const tn_rows buffer = tn_dense_rows(s->gradients[i % 2], context->ops->compute, step->layer.out_dim);
    const tn_rows dy = last ? tn_rows_of(&r->y, s->rows->map[s->rows->num_windows]) : buffer;
    if (step->act == TN_ACT_NONE) return dy;
    const tn_rows before = tn_dense_rows(s->keep + s->kept->value[i], context->ops->compute, step->layer.out_dim);
    context->ops->activation_backward(context, buffer, dy, before, step->act, s->rows->rows[step->level],
                                      step->layer.out_dim);
    return buffer;
}

static tn_rows find_dx(const stage *s, int i, const tn_context *context)
{
    const pass *p = s->pass;
    const tn_step *step = step_of(p, i);
    if (!wants_dx(p, i)) return (tn_rows){.data = NULL, .dtype = context->ops->compute};
    if (i == 0) return tn_rows_of(&p->dx, s->dx_offsets);
    tn_rows dx = tn_dense_rows(s->gradients[(i - 1) % 2], context->ops->compute, step->layer.in_dim);
    dx.offset = step->window >= 0 ? s->rows->map[step->window] : NULL;
    return dx;
}

static void step_back(const stage *s, int i, const tn_context *context)
{
    const tn_pack *pack = s->pass->run.pack;
    const tn_step *step = step_of(s->pass, i);
    const char *packed = pack->data;
    tn_block_backward block = {.dy = find_dy(s, i, context),
                               .x = find_input(s, i, context),
                               .dx = find_dx(s, i, context),
                               .state = s->keep + s->kept->state[i],
                               .rows = s->rows->rows[step->level],
                               .slots = tn_step_slots(&s->pass->run, step),
                               .buffer = s->buffer,
                               .fresh = s->fresh};
    for (int64_t j = 0; j < step->layer.num_parameters; j++)
        block.gradient[j] = gradients_of(s->pass, i)[j];
    if (!wants_dx(s->pass, i) && !wants_parameters(s->pass, i)) return;
    step->layer.type->backward(&block, &step->layer, context, packed + pack->offset[i],
                               packed + pack->offset_backward[i], &pack->weights[i]);
}

static void run_block(const stage *s, const tn_context *context)
{
    const pass *p = s->pass;
    const tn_stage again = {.rows = s->rows,
                            .steps = p->remade,
                            .value = p->value,
                            .values = {s->gradients[0], s->gradients[1]},
                            .buffer = s->buffer,
                            .kept = s->kept,
                            .keep = s->keep};
    tn_run_steps(&p->run, &again, context);
    for (int i = p->run.pack->plan->num_steps - 1; i >= p->first; i--)
        step_back(s, i, context);
}

/* A parameter's gradient as bytes. */
static tn_tensor gradient_bytes(const pass *p, int64_t index)
{
    const tn_parameter_spec *spec = &p->run.adapter->list->parameters[index];
    size_t bytes = 0;
    if (!tn_shape_bytes(spec->ndim, spec->shape, sizeof(float), &bytes)) bytes = 0; /* its view was checked */
    return tn_bytes_tensor(p->gradient[index], bytes);
}

/* When no token has a patch. */
static void clear_parameters(const pass *p)
{
    for (int64_t i = 0; i < p->run.adapter->list->num_parameters; i++) {
        const tn_tensor bytes = gradient_bytes(p, i);
        if (bytes.data != NULL) memset(bytes.data, 0, (size_t)bytes.shape[0]);
    }
}

static void run_blocks(const pass *p, layout *l, void *workspace)
{
    const tn_run *r = &p->run;
    char *memory = tn_aligned(workspace);
    const tn_context context = {.ops = r->pack->ops, .parallel = &r->parallel, .scratch = memory + l->scratch};
    const int64_t batch = r->y.shape[0], tokens = batch * r->y.shape[1];
    int64_t *dx_offsets = (int64_t *)(void *)(memory + l->dx_offsets);
    tn_kept kept;
    stage s = {.pass = p,
               .rows = &l->rows,
               .kept = &kept,
               .keep = memory + l->keep,
               .gradients = {memory + l->gradients[0], memory + l->gradients[1]},
               .input = memory + l->input,
               .buffer = memory + l->buffer,
               .dx_offsets = dx_offsets,
               .fresh = p->overwrite};
    tn_block_rows_place(&l->rows, memory + l->rows_at);
    tn_block_rows_even(&l->rows, tokens);
    if (!tn_kept_plan(&kept, r, &l->rows)) return; /* plan_layout has said so */
    if (p->wants_x && leaves_tokens(r)) clear_dx(p, &context);
    for (int64_t token = 0; token < tokens;) {
        const int64_t block = token / l->rows.block_rows;
        tn_block_rows_fill(&l->rows, &r->geometry, &r->masks, batch, &token);
        if (l->rows.rows[l->rows.num_windows] == 0) continue;
        if (p->wants_x) locate_dx(dx_offsets, p, &l->rows);
        tn_run_locate(r, &l->rows);
        if (r->saved != NULL) s.keep = tn_saved_block(r, &kept, block);
        run_block(&s, &context);
        s.fresh = false;
    }
    if (s.fresh) clear_parameters(p);
}

/* --- the call --- */

static tenon_status read_gradients(tenon_gradients *settings, const tenon_gradients *given, tenon_error *error)
{
    tenon_gradients_init(settings);
    return tn_struct_read(settings, sizeof *settings, given, TN_FIRST_SIZE(tenon_gradients, parameters),
                          "tenon_gradients", error);
}

void tenon_gradients_init(tenon_gradients *gradients)
{
    *gradients = (tenon_gradients){.size = sizeof *gradients};
}

static tenon_status check_dx(pass *p, const DLTensor *dx, tenon_error *error)
{
    p->wants_x = dx != NULL;
    if (dx == NULL) return TENON_OK;
    const tn_run *r = &p->run;
    TN_TRY(tn_images_view(dx, "the gradient of x", 3, r->one_image, r->x.shape, &p->dx, error));
    return tn_check_written(&p->dx, "the gradient of x", error);
}

/* "the gradient of 'proj1.weight'" */
typedef struct gradient_name {
    char text[TN_MAX_NAME + 64];
} gradient_name;

static gradient_name name_gradient(const tn_parameter_spec *spec)
{
    gradient_name name;
    snprintf(name.text, sizeof name.text, "the gradient of '%s'", spec->name);
    return name;
}

static tenon_status check_parameter(pass *p, const DLTensor *tensor, int64_t index, tenon_error *error)
{
    const tn_parameter_spec *spec = &p->run.adapter->list->parameters[index];
    const gradient_name name = name_gradient(spec);
    tn_tensor view;
    TN_TRY(tn_tensor_view(tensor, name.text, spec->ndim, &view, error));
    TN_TRY(tn_check_shape(&view, name.text, spec->shape, error));
    if (view.dtype != TN_F32 || !tn_tensor_is_dense(&view)) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s must be float32, dense and row-major", name.text);
    }
    p->gradient[index] = view.data;
    return TENON_OK;
}

/* A parameter's gradient against all else that the call touches, and against those before it. */
static tenon_status check_parameter_overlap(const pass *p, int64_t index, const tn_touched *all, size_t count,
                                            tenon_error *error)
{
    const tn_parameter_spec *specs = p->run.adapter->list->parameters;
    const gradient_name name = name_gradient(&specs[index]);
    const tn_tensor bytes = gradient_bytes(p, index);
    const tn_touched own = {name.text, &bytes, 1, true};
    for (size_t i = 0; i < count; i++)
        TN_TRY(tn_check_overlap((const tn_touched[]){all[i], own}, 2, error));
    for (int64_t i = 0; i < index; i++) {
        const gradient_name before = name_gradient(&specs[i]);
        const tn_tensor other = gradient_bytes(p, i);
        TN_TRY(tn_check_overlap((const tn_touched[]){{before.text, &other, 1, true}, own}, 2, error));
    }
    return TENON_OK;
}

static tenon_status check_overlap(const pass *p, const tenon_workspace *workspace, tenon_error *error)
{
    const tn_run *r = &p->run;
    const tn_tensor none = {.data = NULL};
    const tn_tensor memory = workspace != NULL ? tn_bytes_tensor(workspace->data, workspace->size) : none;
    const tn_tensor saved = tn_bytes_tensor(r->saved, r->saved_size);
    const tn_touched all[] = {
        {"x", &r->x, tn_dtype_size(r->x.dtype), false},
        {"dy", &r->y, tn_dtype_size(r->y.dtype), false},
        {"patch_mask", &r->masks.patch, 1, false},
        {"frame_mask", &r->masks.frame, 1, false},
        {"saved", &saved, 1, false},
        {"the gradient of x", &p->dx, tn_dtype_size(p->dx.dtype), true},
        {"the workspace", &memory, 1, true},
    };
    const size_t count = sizeof all / sizeof all[0];
    TN_TRY(tn_check_overlap(all, count, error));
    for (int64_t i = 0; i < r->adapter->list->num_parameters; i++)
        TN_TRY(check_parameter_overlap(p, i, all, count, error));
    return TENON_OK;
}

static tenon_status check_call(pass *p, const DLTensor *dy, const DLTensor *x, const tenon_gradients *gradients,
                               const tenon_call *call, tenon_error *error)
{
    tn_run *r = &p->run;
    if (!r->pack->train) {
        return tn_fail(
            error, TENON_NOT_PREPARED,
            "the adapter is prepared for inference; call tenon_adapter_prepare with train before a backward");
    }
    TN_TRY(tn_run_check(r, x, call, error));
    TN_TRY(tn_run_check_tokens(r, dy, "dy", error));
    TN_TRY(check_dx(p, gradients->x, error));
    p->overwrite = gradients->overwrite;
    for (int64_t i = 0; i < r->adapter->list->num_parameters && gradients->parameters != NULL; i++) {
        if (gradients->parameters[i] == NULL) continue;
        TN_TRY(check_parameter(p, gradients->parameters[i], i, error));
    }
    if (r->saved != NULL) TN_TRY(tn_run_check_saved(r, error));
    plan_steps(p);
    return TENON_OK;
}

static tenon_status run_call(pass *p, const tenon_workspace *workspace, tenon_error *error)
{
    layout l;
    void *memory;
    size_t allocated;
    tn_environment environment;
    TN_TRY(check_overlap(p, workspace, error));
    if (p->run.y.shape[0] == 0 || p->run.y.shape[1] == 0) {
        if (p->overwrite) clear_parameters(p);
        return TENON_OK;
    }
    TN_TRY(tn_run_memory(&p->run, &l, plan_layout, workspace, &memory, &allocated, error));
    tn_environment_enter(&environment);
    run_blocks(p, &l, memory);
    tn_environment_leave(&environment);
    if (workspace == NULL) tn_free(&p->run.adapter->allocator, memory, allocated);
    return TENON_OK;
}

tenon_status tenon_adapter_backward(const tenon_adapter *adapter, const DLTensor *dy, const DLTensor *x,
                                    const tenon_gradients *gradients, const tenon_call *call,
                                    const tenon_workspace *workspace, tenon_error *error)
{
    pass p = {.wants_x = false};
    tenon_call settings;
    tenon_gradients wanted;
    TN_TRY(read_gradients(&wanted, gradients, error));
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(tn_run_acquire(&p.run, adapter, error));
    tenon_status status = check_call(&p, dy, x, &wanted, &settings, error);
    if (status == TENON_OK) status = run_call(&p, workspace, error);
    tn_pack_release(adapter, p.run.pack);
    return status;
}

/* --- sizes --- */

tenon_status tenon_adapter_backward_workspace_size(const tenon_adapter *adapter, int64_t num_input_tokens,
                                                   const tenon_gradients *gradients, const tenon_call *call,
                                                   size_t *bytes, tenon_error *error)
{
    static float wanted;
    tn_planned planned;
    tenon_call settings;
    tenon_gradients given;
    layout l;
    TN_TRY(read_gradients(&given, gradients, error));
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(tn_run_plan(&planned, adapter, num_input_tokens, &settings, true, error));
    pass p = {.run = planned.run, .wants_x = gradients == NULL || given.x != NULL};
    p.run.saved = settings.saved;
    for (int64_t i = 0; i < adapter->list->num_parameters; i++) {
        const bool frozen = gradients != NULL && (given.parameters == NULL || given.parameters[i] == NULL);
        p.gradient[i] = frozen ? NULL : &wanted;
    }
    plan_steps(&p);
    size_t needed;
    const bool fits = plan_layout(&l, &p.run, &needed);
    tn_run_plan_end(&planned);
    if (!fits) return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
    *bytes = needed;
    return TENON_OK;
}

tenon_status tenon_adapter_saved_size(const tenon_adapter *adapter, int64_t batch, int64_t num_input_tokens,
                                      const tenon_call *call, size_t *bytes, tenon_error *error)
{
    tn_planned planned;
    tenon_call settings;
    if (batch < 0) return tn_fail(error, TENON_INVALID, "batch must not be negative (got %lld)", (long long)batch);
    TN_TRY(tn_call_read(&settings, call, error));
    TN_TRY(tn_run_plan(&planned, adapter, num_input_tokens, &settings, true, error));
    const tn_geometry *geometry = &planned.run.geometry;
    int64_t tokens;
    size_t needed;
    const bool fits = tn_mul_i64(batch, geometry->count[geometry->num_windows], &tokens) &&
                      tn_saved_bytes(&planned.run, tokens, &needed);
    tn_run_plan_end(&planned);
    if (!fits) return tn_fail(error, TENON_INVALID, "what backward needs of this call does not fit 64 bits");
    *bytes = needed;
    return TENON_OK;
}
