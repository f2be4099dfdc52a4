/* SPDX-License-Identifier: MIT */
#include "engine/image.h"

#include "core/size.h"
#include <string.h>

void tn_image_open(tn_image_area *area, const tn_run *run, tn_arena *arena)
{
    const int64_t inputs = run->plan->most_inputs;
    *area = (tn_image_area){.segment = NULL};
    area->x = tn_arena_array(arena, inputs, sizeof(tn_rows));
    area->dx = tn_arena_array(arena, inputs, sizeof(tn_rows));
    area->offsets = tn_arena_array(arena, inputs, sizeof(int64_t *));
    area->dx_offsets = tn_arena_array(arena, inputs, sizeof(int64_t *));
    area->part = tn_arena_array(arena, inputs, sizeof(char *));
}

static const tn_step *step_of(const tn_image_area *area, const tn_run *run)
{
    return &run->plan->steps[area->segment->first];
}

static int space_of(const tn_run *run, int value)
{
    return run->graph->values[value].space;
}

/* An input's rows need offsets where they are a caller's, or may not exist. */
static bool needs_offsets(const tn_run *run, const tn_group *store, int value)
{
    const tn_value_plan *v = &run->plan->values[value];
    return v->place == TN_PLACE_INPUT || v->place == TN_PLACE_OUTPUT || store->alive[space_of(run, value)] != NULL;
}

/* Lists of offsets of the group's rows, of the inputs and of the output. */
static void take_lists(tn_image_area *area, const tn_run *run, const tn_group *store, bool backward, tn_arena *arena)
{
    const tn_step *step = step_of(area, run);
    for (int j = 0; j < step->layer->num_inputs; j++) {
        const int64_t rows = tn_group_rows(run, store, space_of(run, step->inputs[j]));
        const bool needed = arena->base == NULL || needs_offsets(run, store, step->inputs[j]);
        const bool adds = backward && run->plan->values[step->inputs[j]].adds;
        area->offsets[j] = needed ? tn_arena_array(arena, rows, sizeof(int64_t)) : NULL;
        area->dx_offsets[j] = needed && backward ? tn_arena_array(arena, rows, sizeof(int64_t)) : NULL;
        area->part[j] =
            adds ? tn_arena_rows(arena, rows, step->widths[j], tn_dtype_size(run->pack->ops->compute)) : NULL;
    }
    const bool output = run->plan->values[step->value].place == TN_PLACE_OUTPUT;
    const int64_t rows = tn_group_rows(run, store, space_of(run, step->value));
    area->y_offsets = output ? tn_arena_array(arena, rows, sizeof(int64_t)) : NULL;
    area->exists = tn_arena_array(arena, rows, sizeof(int64_t));
}

bool tn_image_plan(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_segment *segment,
                   bool backward, tn_arena *arena)
{
    const int index = segment->first;
    tn_layer_sizes sizes = {.buffer = 0};
    area->segment = segment;
    const tn_step *step = step_of(area, run);
    const int64_t rows = tn_group_rows(run, store, space_of(run, step->value));
    area->images = (tn_images){&run->geometry, store->first_image, store->end_image - store->first_image};
    if (segment->is_shared) area->images.count = 1;
    const int first = step->layer->num_inputs > 0 ? step->inputs[0] : step->value;
    tn_layer_query query = tn_step_query(run, index, rows, tn_group_rows(run, store, space_of(run, first)), backward);
    query.images = &area->images;
    if (step->layer->type->sizes != NULL && !step->layer->type->sizes(&sizes, &query)) return false;
    take_lists(area, run, store, backward, arena);
    area->buffer = tn_arena_take(arena, sizes.buffer);
    area->scratch = tn_arena_take(arena, sizes.scratch);
    return !arena->overflow;
}

/* ---- rows ---- */

static bool mask_says_no(const tn_run *run, int space, int64_t number, int64_t image)
{
    const tn_tensor *frame = &run->masks.frame, *patch = &run->masks.patch;
    if (frame->data != NULL && ((const char *)frame->data)[image * frame->stride[0]] == 0) return true;
    if (patch->data == NULL || space != run->graph->values[0].space) return false;
    const char *bits = patch->data;
    if (patch->ndim == 1) return bits[number * patch->stride[0]] == 0;
    const int64_t row = number - tn_geometry_first(&run->geometry, space, image);
    return bits[image * patch->stride[0] + row * patch->stride[1]] == 0;
}

/* Numbers of the group's rows of a caller's input, -1 where a mask takes them away. */
static void list_rows(int64_t *numbers, const tn_run *run, const tn_group *store, int space)
{
    const int64_t first = tn_group_first(run, store, space), rows = tn_group_rows(run, store, space);
    const bool masked = run->masks.frame.data != NULL || run->masks.patch.data != NULL;
    int64_t image = store->first_image;
    for (int64_t i = 0; i < rows; i++) {
        numbers[i] = first + i;
        if (!masked) continue;
        image = tn_geometry_image(&run->geometry, space, first + i, image);
        if (mask_says_no(run, space, first + i, image)) numbers[i] = -1;
    }
}

static tn_rows input_rows(tn_image_area *area, const tn_run *run, const tn_group *store, int j)
{
    const int value = step_of(area, run)->inputs[j], space = space_of(run, value);
    const tn_value_plan *v = &run->plan->values[value];
    const int64_t width = run->graph->values[value].width, *alive = store->alive[space];
    int64_t *offsets = area->offsets[j];
    if (v->place == TN_PLACE_INPUT) {
        const bool features = space == run->graph->values[0].space;
        list_rows(offsets, run, store, space);
        tn_tensor_offsets(offsets, offsets, tn_group_rows(run, store, space), run, space, &run->inputs[v->index],
                          features ? run->graph->prefix_tokens : 0);
        return tn_rows_of(&run->inputs[v->index], offsets);
    }
    tn_rows rows = tn_dense_rows(store->data[v->index], run->pack->ops->compute, width);
    if (alive == NULL) return rows;
    for (int64_t i = 0; i < tn_group_rows(run, store, space); i++)
        offsets[i] = alive[i] >= 0 ? i * width : -1;
    rows.offset = offsets;
    return rows;
}

/* Whether an image has a row of the first input. */
static bool image_lives(const tn_layer_call *call, int64_t i)
{
    const int64_t *offsets = call->x[0].offset;
    const int value = call->layer->inputs[0];
    if (offsets == NULL) return true;
    for (int64_t r = tn_images_begin(call->images, value, i); r < tn_images_begin(call->images, value, i + 1); r++) {
        if (offsets[r] >= 0) return true;
    }
    return false;
}

/* Finds which rows of the output exist, and marks them in the store. False: all do. */
static bool find_existing(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_layer_call *call)
{
    const int value = step_of(area, run)->value, space = space_of(run, value);
    bool all = true;
    for (int j = 0; j < call->layer->num_inputs; j++)
        all = all && area->x[j].offset == NULL;
    if (all || area->segment->is_shared) return false;
    if (call->layer->type->exists != NULL) call->layer->type->exists(area->exists, call);
    for (int64_t i = 0; i < area->images.count && call->layer->type->exists == NULL; i++) {
        const bool lives = image_lives(call, i);
        for (int64_t r = tn_images_begin(call->images, value, i); r < tn_images_begin(call->images, value, i + 1); r++)
            area->exists[r] = lives ? r : -1;
    }
    if (store->alive[space] != NULL) {
        memcpy(store->alive[space], area->exists, (size_t)call->rows * sizeof *area->exists);
    }
    return true;
}

static tn_rows output_rows(tn_image_area *area, const tn_run *run, const tn_group *store)
{
    const int value = step_of(area, run)->value, space = space_of(run, value);
    const tn_value_plan *v = &run->plan->values[value];
    if (v->place == TN_PLACE_STORED) {
        return tn_dense_rows(store->data[v->index], run->pack->ops->compute, run->graph->values[value].width);
    }
    const int64_t first = tn_group_first(run, store, space), rows = tn_group_rows(run, store, space);
    for (int64_t i = 0; i < rows; i++)
        area->y_offsets[i] = first + i;
    tn_tensor_offsets(area->y_offsets, area->y_offsets, rows, run, space, &run->outputs[v->index], 0);
    return tn_rows_of(&run->outputs[v->index], area->y_offsets);
}

/* Zeros in the rows of y that do not exist. */
static void clear_absent(const tn_image_area *area, const tn_layer_call *call)
{
    const tn_ops *ops = call->context->ops;
    for (int64_t r = 0, end; r < call->rows; r = end) {
        for (end = r + 1; end < call->rows && (area->exists[end] < 0) == (area->exists[r] < 0); end++) {
        }
        if (area->exists[r] >= 0) continue;
        ops->copy(call->context, tn_rows_from(call->y, r), tn_dense_rows(NULL, ops->compute, 0), end - r,
                  call->layer->out_dim);
    }
}

/* ---- forward and backward ---- */

static tn_layer_call make_call(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_context *context)
{
    const int index = area->segment->first;
    const tn_step *step = step_of(area, run);
    for (int j = 0; j < step->layer->num_inputs; j++)
        area->x[j] = input_rows(area, run, store, j);
    const char *packed = run->pack->data;
    tn_layer_call call = {.layer = step->layer,
                          .context = context,
                          .weights = run->pack->weights + run->pack->first_weight[index],
                          .packed = packed + run->pack->offset[index],
                          .packed_backward = packed + run->pack->offset_backward[index],
                          .rows = tn_group_rows(run, store, space_of(run, step->value)),
                          .slots = 1,
                          .images = &area->images,
                          .x = area->x,
                          .widths = step->widths,
                          .buffer = area->buffer,
                          .attention = {.dtype = TN_F32},
                          .act = step->act};
    call.exists = find_existing(area, run, store, &call) ? area->exists : NULL;
    return call;
}

void tn_image_forward(tn_image_area *area, const tn_run *run, const tn_group *store)
{
    const tn_context context = {.ops = run->pack->ops, .parallel = &run->parallel, .scratch = area->scratch};
    tn_layer_call call = make_call(area, run, store, &context);
    call.y = output_rows(area, run, store);
    call.layer->type->forward(&call);
    if (call.exists != NULL) clear_absent(area, &call);
}

void tn_image_mark(tn_image_area *area, const tn_run *run, const tn_group *store)
{
    const tn_context context = {.ops = run->pack->ops, .parallel = &run->parallel, .scratch = area->scratch};
    (void)make_call(area, run, store, &context);
}

/* The gradient of the output. */
static tn_rows output_gradient(tn_image_area *area, const tn_run *run, const tn_group *store)
{
    const int value = step_of(area, run)->value;
    const tn_value_plan *v = &run->plan->values[value];
    if (v->place == TN_PLACE_OUTPUT) return output_rows(area, run, store);
    return tn_dense_rows(store->gradient[v->index], run->pack->ops->compute, run->graph->values[value].width);
}

/* Rows of input j, absent where the input's are, of `width` from 0 on. */
static tn_rows dense_like_input(tn_image_area *area, const tn_run *run, const tn_group *store, int j, const void *data)
{
    const int value = step_of(area, run)->inputs[j];
    const int64_t width = run->graph->values[value].width, rows = tn_group_rows(run, store, space_of(run, value));
    tn_rows made = tn_dense_rows(data, run->pack->ops->compute, width);
    if (area->x[j].offset == NULL) return made;
    for (int64_t r = 0; r < rows; r++)
        area->dx_offsets[j][r] = area->x[j].offset[r] >= 0 ? r * width : -1;
    made.offset = area->dx_offsets[j];
    return made;
}

/* Where the layer writes the gradient of input j: where it belongs, or a part that is added there. */
static tn_rows input_gradient(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_tensor *dx, int j)
{
    const int value = step_of(area, run)->inputs[j], space = space_of(run, value);
    const tn_value_plan *v = &run->plan->values[value];
    if (v->adds) return dense_like_input(area, run, store, j, area->part[j]);
    if (v->place == TN_PLACE_STORED) return dense_like_input(area, run, store, j, store->gradient[v->index]);
    const bool features = space == run->graph->values[0].space;
    list_rows(area->dx_offsets[j], run, store, space);
    tn_tensor_offsets(area->dx_offsets[j], area->dx_offsets[j], tn_group_rows(run, store, space), run, space,
                      &dx[v->index], features ? run->graph->prefix_tokens : 0);
    return tn_rows_of(&dx[v->index], area->dx_offsets[j]);
}

/* Adds the parts to their sums, image after image where the value is shared. */
static void add_parts(tn_image_area *area, const tn_run *run, const tn_group *store, const bool *wanted,
                      const tn_context *context)
{
    const tn_step *step = step_of(area, run);
    for (int j = 0; j < step->layer->num_inputs; j++) {
        const tn_value_plan *v = &run->plan->values[step->inputs[j]];
        if (!wanted[step->inputs[j]] || !v->adds) continue;
        char *sum = v->place == TN_PLACE_INPUT ? store->summed[v->index] : store->gradient[v->index];
        tn_rows to = tn_dense_rows(sum, context->ops->compute, step->widths[j]);
        to.offset = area->dx[j].offset; /* absent rows have no part */
        context->ops->accumulate(context, to, tn_dense_rows(area->part[j], context->ops->compute, step->widths[j]),
                                 tn_group_rows(run, store, space_of(run, step->inputs[j])), step->widths[j]);
    }
}

void tn_image_backward(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_tensor *dx,
                       const bool *wanted, float *const *gradient, bool overwrite)
{
    const tn_context context = {.ops = run->pack->ops, .parallel = &run->parallel, .scratch = area->scratch};
    tn_layer_call call = make_call(area, run, store, &context);
    for (int j = 0; j < call.layer->num_inputs; j++) {
        area->dx[j] = wanted[step_of(area, run)->inputs[j]] ? input_gradient(area, run, store, dx, j)
                                                            : (tn_rows){.dtype = context.ops->compute};
    }
    call.dy = output_gradient(area, run, store);
    call.dx = area->dx;
    call.gradient = gradient;
    call.overwrite = overwrite;
    call.layer->type->backward(&call);
    add_parts(area, run, store, wanted, &context);
}
