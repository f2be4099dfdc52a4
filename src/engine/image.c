/* SPDX-License-Identifier: MIT */
#include "engine/image.h"

#include "core/size.h"

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
}

bool tn_image_plan(tn_image_area *area, const tn_run *run, const tn_group *store, const tn_segment *segment,
                   bool backward, tn_arena *arena)
{
    const int index = segment->first;
    tn_layer_sizes sizes = {.state = 0};
    area->segment = segment;
    const tn_step *step = step_of(area, run);
    const int64_t rows = tn_group_rows(run, store, space_of(run, step->value));
    area->images = (tn_images){&run->geometry, store->first_image, store->end_image - store->first_image};
    if (segment->is_shared) area->images.count = 1;
    tn_layer_query query =
        tn_step_query(run, index, rows, tn_group_rows(run, store, space_of(run, step->inputs[0])), backward);
    query.images = &area->images;
    if (step->layer->type->sizes != NULL && !step->layer->type->sizes(&sizes, &query)) return false;
    take_lists(area, run, store, backward, arena);
    area->state_size = sizes.state;
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
static bool image_lives(const tn_image_area *area, const tn_run *run, int64_t i)
{
    const int64_t *offsets = area->x[0].offset;
    if (offsets == NULL) return true;
    const int value = step_of(area, run)->inputs[0];
    for (int64_t r = tn_images_begin(&area->images, value, i); r < tn_images_begin(&area->images, value, i + 1); r++) {
        if (offsets[r] >= 0) return true;
    }
    return false;
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

/* Rows of images that are not there: zeros in an output, absent for whoever reads a stored value. */
static void finish_images(tn_image_area *area, const tn_run *run, const tn_group *store, tn_rows y,
                          const tn_context *context)
{
    const tn_step *step = step_of(area, run);
    int64_t *alive = store->alive[space_of(run, step->value)];
    const tn_rows zeros = tn_dense_rows(NULL, context->ops->compute, 0);
    if (area->x[0].offset == NULL || area->segment->is_shared) return;
    for (int64_t i = 0; i < area->images.count; i++) {
        const int64_t begin = tn_images_begin(&area->images, step->value, i);
        const int64_t end = tn_images_begin(&area->images, step->value, i + 1);
        const bool lives = image_lives(area, run, i);
        for (int64_t r = begin; r < end && alive != NULL; r++)
            alive[r] = lives ? r : -1;
        if (!lives) {
            context->ops->copy(context, tn_rows_from(y, begin), zeros, end - begin, step->layer->out_dim);
        }
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
    return (tn_layer_call){.layer = step->layer,
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
}

void tn_image_forward(tn_image_area *area, const tn_run *run, const tn_group *store, char *state)
{
    const tn_context context = {.ops = run->pack->ops, .parallel = &run->parallel, .scratch = area->scratch};
    tn_layer_call call = make_call(area, run, store, &context);
    call.state = state;
    call.y = output_rows(area, run, store);
    call.layer->type->forward(&call);
    finish_images(area, run, store, call.y, &context);
}

void tn_image_mark(tn_image_area *area, const tn_run *run, const tn_group *store)
{
    const tn_step *step = step_of(area, run);
    int64_t *alive = store->alive[space_of(run, step->value)];
    area->x[0] = input_rows(area, run, store, 0);
    for (int64_t i = 0; i < area->images.count && alive != NULL; i++) {
        const bool lives = image_lives(area, run, i);
        for (int64_t r = tn_images_begin(&area->images, step->value, i);
             r < tn_images_begin(&area->images, step->value, i + 1); r++)
            alive[r] = lives ? r : -1;
    }
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
                       const bool *wanted, float *const *gradient, const char *state, bool overwrite)
{
    const tn_context context = {.ops = run->pack->ops, .parallel = &run->parallel, .scratch = area->scratch};
    tn_layer_call call = make_call(area, run, store, &context);
    for (int j = 0; j < call.layer->num_inputs; j++) {
        area->dx[j] = wanted[step_of(area, run)->inputs[j]] ? input_gradient(area, run, store, dx, j)
                                                            : (tn_rows){.dtype = context.ops->compute};
    }
    call.state = (void *)(uintptr_t)state;
    call.dy = output_gradient(area, run, store);
    call.dx = area->dx;
    call.gradient = gradient;
    call.overwrite = overwrite;
    call.layer->type->backward(&call);
    add_parts(area, run, store, wanted, &context);
}
