/* SPDX-License-Identifier: MIT */
#include "engine/segment.h"

#include "core/size.h"
#include <string.h>

enum { most_map_rows = 1 << 17 }; /* bounds the row arrays where windows are large */
static const size_t most_live = (size_t)64 << 20;

void tn_area_open(tn_area *area, const tn_run *run, tn_arena *arena)
{
    const tn_plan *plan = run->plan;
    *area = (tn_area){.segment = NULL};
    area->blocks.levels = tn_arena_array(arena, plan->most_levels, sizeof(tn_level));
    area->offsets = tn_arena_array(arena, plan->most_offsets, sizeof(int64_t *));
    area->buffers = tn_arena_array(arena, plan->most_buffers, sizeof(char *));
    area->gradients = tn_arena_array(arena, plan->most_gradients, sizeof(char *));
    area->x = tn_arena_array(arena, plan->most_inputs, sizeof(tn_rows));
    area->dx = tn_arena_array(arena, plan->most_inputs, sizeof(tn_rows));
    area->input = tn_arena_array(arena, plan->most_inputs, sizeof(char *));
    area->part = tn_arena_array(arena, plan->most_inputs, sizeof(char *));
    area->kept.value = tn_arena_array(arena, plan->num_steps, sizeof(size_t));
    area->kept.state = tn_arena_array(arena, plan->num_steps, sizeof(size_t));
}

/* ---- stored values ---- */

void tn_group_open(tn_group *store, const tn_run *run, tn_arena *arena)
{
    const tn_plan *plan = run->plan;
    *store = (tn_group){.first_image = 0};
    store->data = tn_arena_array(arena, plan->num_stored, sizeof(char *));
    store->gradient = tn_arena_array(arena, plan->num_stored, sizeof(char *));
    store->summed = tn_arena_array(arena, run->graph->num_inputs, sizeof(char *));
    store->alive = tn_arena_array(arena, run->graph->num_spaces, sizeof(int64_t *));
    if (arena->base == NULL) return;
    memset(store->data, 0, (size_t)plan->num_stored * sizeof(char *));
    memset(store->gradient, 0, (size_t)plan->num_stored * sizeof(char *));
    memset(store->summed, 0, (size_t)run->graph->num_inputs * sizeof(char *));
    memset(store->alive, 0, (size_t)run->graph->num_spaces * sizeof(int64_t *));
}

static bool space_is_shared(const tn_run *run, int space)
{
    return run->graph->spaces[space].kind == TN_SPACE_SHARED;
}

int64_t tn_group_first(const tn_run *run, const tn_group *store, int space)
{
    return space_is_shared(run, space) ? 0 : tn_geometry_first(&run->geometry, space, store->first_image);
}

int64_t tn_group_rows(const tn_run *run, const tn_group *store, int space)
{
    if (space_is_shared(run, space)) return run->graph->spaces[space].rows;
    return tn_geometry_first(&run->geometry, space, store->end_image) -
           tn_geometry_first(&run->geometry, space, store->first_image);
}

/* Adds the bytes of a value's rows of an image; false when they do not fit. */
static bool add_value_bytes(const tn_run *run, int64_t image, int value, size_t *sum)
{
    const tn_value *v = &run->graph->values[value];
    const int64_t rows = tn_shape_rows(tn_geometry_shape(&run->geometry, v->space, image));
    size_t bytes;
    return tn_shape_bytes(2, (int64_t[]){rows, v->width}, tn_dtype_size(run->pack->ops->compute), &bytes) &&
           tn_add_size(*sum, bytes, sum);
}

/* Bytes of what is stored of an image, with a pack for training of its gradients too; SIZE_MAX when they do not fit.
 * What a layer of image reach makes counts also where it is an output: for the lists of rows that the layer needs. */
static size_t stored_bytes(const tn_run *run, int64_t image)
{
    const tn_plan *plan = run->plan;
    size_t sum = 0;
    bool fits = true;
    for (int i = 0; i < plan->num_stored; i++) {
        if (space_is_shared(run, run->graph->values[plan->stored[i]].space)) continue;
        for (int copies = run->pack->train ? 2 : 1; copies > 0; copies--)
            fits = fits && add_value_bytes(run, image, plan->stored[i], &sum);
    }
    for (int s = 0; s < plan->num_segments; s++) {
        const int value = plan->steps[plan->segments[s].first].value;
        if (!plan->segments[s].is_image || plan->values[value].place != TN_PLACE_OUTPUT) continue;
        fits = fits && add_value_bytes(run, image, value, &sum);
    }
    for (int i = 0; i < run->graph->num_inputs && run->pack->train; i++) {
        const int value = run->graph->inputs[i].value;
        if (plan->values[value].adds) fits = fits && add_value_bytes(run, image, value, &sum);
    }
    return fits ? sum : SIZE_MAX;
}

void tn_group_end_group(const tn_run *run, tn_group *store)
{
    const int64_t images = run->geometry.extents.images, most = store->first_image + TN_MOST_GROUP;
    const size_t most_stored = run->pack->ops->group_bytes;
    size_t sum = 0;
    store->end_image = images;
    if (!run->plan->groups || store->first_image == images) return;
    for (store->end_image = store->first_image; store->end_image < tn_min_i64(images, most); store->end_image++) {
        const size_t bytes = stored_bytes(run, store->end_image);
        sum = bytes > most_stored ? SIZE_MAX : sum + bytes;
        if (sum > most_stored && store->end_image > store->first_image) return;
        if (sum > most_stored) sum = most_stored; /* one image is taken, however large; no second */
    }
}

void tn_group_take(const tn_run *run, tn_group *store, bool shared, tn_arena *arena)
{
    for (int i = 0; i < run->plan->num_stored; i++) {
        const tn_value *value = &run->graph->values[run->plan->stored[i]];
        if (space_is_shared(run, value->space) != shared) continue;
        char *data = tn_arena_rows(arena, tn_group_rows(run, store, value->space), value->width,
                                   tn_dtype_size(run->pack->ops->compute));
        if (arena->base != NULL) store->data[i] = data;
    }
}

/* Whether some rows of a call may not exist. */
static bool rows_may_lack(const tn_run *run)
{
    if (run->masks.patch.data != NULL || run->masks.frame.data != NULL) return true;
    for (int s = 0; s < run->graph->num_spaces; s++) {
        if (run->graph->spaces[s].kind == TN_SPACE_MAP) return true;
    }
    return false;
}

void tn_group_take_alive(const tn_run *run, tn_group *store, tn_arena *arena)
{
    if (!run->plan->groups || (arena->base != NULL && !rows_may_lack(run))) return;
    for (int i = 0; i < run->plan->num_stored; i++) {
        const int space = run->graph->values[run->plan->stored[i]].space;
        bool first = !space_is_shared(run, space);
        for (int j = 0; j < i; j++)
            first = first && run->graph->values[run->plan->stored[j]].space != space;
        if (!first) continue;
        int64_t *alive = tn_arena_array(arena, tn_group_rows(run, store, space), sizeof *alive);
        if (arena->base != NULL) store->alive[space] = alive;
    }
}

/* ---- layout ---- */

tn_layer_query tn_step_query(const tn_run *run, int step, int64_t rows, int64_t slots, bool backward)
{
    return (tn_layer_query){.layer = run->plan->steps[step].layer,
                            .ops = run->pack->ops,
                            .weights = run->pack->weights + run->pack->first_weight[step],
                            .train = run->pack->train,
                            .backward = backward,
                            .rows = rows,
                            .slots = slots,
                            .workers = run->parallel.workers};
}

static int64_t step_slots(const tn_area *area, const tn_step *step)
{
    return step->layer->type->reach == TN_REACH_WINDOW ? area->blocks.levels[step->level].slots : 1;
}

/* Bytes of the values that a step makes for a block. */
static size_t value_bytes(const tn_area *area, const tn_run *run, int value, int level, tn_arena *arena)
{
    size_t bytes = 0;
    const int64_t shape[] = {area->blocks.levels[level].capacity, run->graph->values[value].width};
    if (!tn_shape_bytes(2, shape, tn_dtype_size(run->pack->ops->compute), &bytes)) arena->overflow = true;
    return bytes;
}

/* Bytes of the buffers of values together. */
static size_t live_bytes(const tn_area *area, const tn_run *run, tn_arena *arena)
{
    size_t sum = 0;
    for (int b = 0; b < area->segment->num_buffers; b++) {
        size_t most = 0;
        for (int i = area->segment->first; i < area->segment->end; i++) {
            const tn_step *step = &run->plan->steps[i];
            const tn_value_plan *value = &run->plan->values[step->value];
            if (value->place != TN_PLACE_BLOCK || value->index != b) continue;
            most = tn_max_size(most, value_bytes(area, run, step->value, step->level, arena));
        }
        if (!tn_add_size(sum, most, &sum)) arena->overflow = true;
    }
    return sum;
}

/* Capacities of a block, as many rows as do the kernels good; fewer where their values would take too much. */
static bool plan_rows(tn_area *area, const tn_run *run, tn_arena *arena)
{
    int64_t most = run->pack->ops->block_rows;
    /* Where rows are read through windows only, of level 0 only the map is ever stored. */
    if (!tn_blocks_plan(&area->blocks, area->segment, &run->geometry, most, area->segment->skips_bottom ? 1 : 0) ||
        area->blocks.levels[0].capacity > most_map_rows) {
        most = most_map_rows;
        if (!tn_blocks_plan(&area->blocks, area->segment, &run->geometry, most, 0)) return false;
    }
    while (area->blocks.block_rows > 1 && live_bytes(area, run, arena) > most_live) {
        const int64_t half = tn_ceil_div(area->blocks.block_rows, 2);
        (void)tn_blocks_even(&area->blocks, half);
    }
    return true;
}

static void plan_kept(tn_area *area, const tn_run *run, tn_arena *arena)
{
    tn_arena kept = {.base = NULL};
    for (int i = area->segment->first; i < area->segment->end; i++) {
        const tn_step *step = &run->plan->steps[i];
        const bool in_block = run->plan->values[step->value].place == TN_PLACE_BLOCK || step->act != TN_ACT_NONE;
        const int64_t rows = area->blocks.levels[step->level].capacity;
        const tn_layer_query query = tn_step_query(run, i, rows, step_slots(area, step), true);
        tn_layer_sizes sizes = {.state = 0};
        if (step->layer->type->sizes != NULL && !step->layer->type->sizes(&sizes, &query)) kept.overflow = true;
        area->kept.value[i - area->segment->first] = kept.used;
        (void)tn_arena_take(&kept, in_block ? value_bytes(area, run, step->value, step->level, arena) : 0);
        area->kept.state[i - area->segment->first] = kept.used;
        (void)tn_arena_take(&kept, sizes.state);
    }
    area->kept.size = kept.used;
    arena->overflow = arena->overflow || kept.overflow;
}

static bool is_made(const tn_wanted *wanted, int step)
{
    return wanted->forward && (wanted->made == NULL || wanted->made[step] != 0);
}

/* Buffers of values, as large as the largest that takes its turn there. */
static void take_values(tn_area *area, const tn_run *run, const tn_wanted *wanted, tn_arena *arena)
{
    for (int b = 0; b < area->segment->num_buffers && wanted->forward; b++) {
        size_t most = 0;
        for (int i = area->segment->first; i < area->segment->end; i++) {
            const tn_step *step = &run->plan->steps[i];
            const tn_value_plan *value = &run->plan->values[step->value];
            if (value->place != TN_PLACE_BLOCK || value->index != b) continue;
            if (wanted->made != NULL && (wanted->made[i] & TN_MAKES_WHOLE) == 0) continue;
            if (wanted->keep && step->act == TN_ACT_NONE) continue; /* it is kept */
            most = tn_max_size(most, value_bytes(area, run, step->value, step->level, arena));
        }
        char *data = tn_arena_take(arena, most);
        area->buffers[b] = data;
    }
}

/* Bytes of a buffer of gradients: of what steps make, and of what they read. */
static size_t gradient_bytes(const tn_area *area, const tn_run *run, const tn_wanted *wanted, int buffer,
                             tn_arena *arena)
{
    size_t most = 0;
    for (int i = area->segment->first; i < area->segment->end; i++) {
        const tn_step *step = &run->plan->steps[i];
        const int below = step->layer->type->reach == TN_REACH_WINDOW ? step->level - 1 : step->level;
        if (!wanted->back[i]) continue;
        if (run->plan->values[step->value].gradient == buffer) {
            most = tn_max_size(most, value_bytes(area, run, step->value, step->level, arena));
        }
        for (int j = 0; j < step->layer->num_inputs; j++) {
            if (run->plan->values[step->inputs[j]].gradient != buffer) continue;
            most = tn_max_size(most, value_bytes(area, run, step->inputs[j], below, arena));
        }
    }
    return most;
}

/* Memory for input j of the steps that `which` marks: as large as the largest of them. */
static char *take_input(const tn_area *area, const tn_run *run, const bool *which, int j, tn_arena *arena)
{
    size_t most = 0;
    for (int i = area->segment->first; i < area->segment->end; i++) {
        const tn_step *step = &run->plan->steps[i];
        const int below = step->layer->type->reach == TN_REACH_WINDOW ? step->level - 1 : step->level;
        if (j >= step->layer->num_inputs || !which[step->first_input + j]) continue;
        most = tn_max_size(most, value_bytes(area, run, step->inputs[j], below, arena));
    }
    return tn_arena_take(arena, most);
}

static void take_gradients(tn_area *area, const tn_run *run, const tn_wanted *wanted, tn_arena *arena)
{
    for (int b = 0; b < area->segment->num_gradients && wanted->backward; b++) {
        char *data = tn_arena_take(arena, gradient_bytes(area, run, wanted, b, arena));
        area->gradients[b] = data;
    }
    for (int j = 0; j < run->plan->most_inputs && wanted->backward; j++) {
        area->input[j] = take_input(area, run, wanted->through, j, arena);
        area->part[j] = take_input(area, run, wanted->parts, j, arena);
    }
}

/* Values are made before their gradients are, so the two share memory. */
static void take_buffers(tn_area *area, const tn_run *run, const tn_wanted *wanted, tn_arena *arena)
{
    const size_t before = arena->used;
    take_values(area, run, wanted, arena);
    const size_t values = arena->used;
    arena->used = before;
    take_gradients(area, run, wanted, arena);
    arena->used = tn_max_size(arena->used, values);
}

/* Bytes that the layers need: the largest of them. */
static void size_layers(tn_area *area, const tn_run *run, const tn_wanted *wanted, tn_arena *arena)
{
    area->buffer_size = area->scratch_size = 0;
    for (int i = area->segment->first; i < area->segment->end; i++) {
        const tn_step *step = &run->plan->steps[i];
        const int64_t rows = area->blocks.levels[step->level].capacity, slots = step_slots(area, step);
        for (int back = 0; back < 2; back++) {
            const tn_layer_query query = tn_step_query(run, i, rows, slots, back != 0);
            tn_layer_sizes sizes = {.buffer = 0};
            if (!(back ? wanted->backward && wanted->back[i] : is_made(wanted, i))) continue;
            if (step->layer->type->sizes == NULL) continue;
            if (!step->layer->type->sizes(&sizes, &query)) arena->overflow = true;
            area->buffer_size = tn_max_size(area->buffer_size, sizes.buffer);
            area->scratch_size = tn_max_size(area->scratch_size, sizes.scratch);
        }
    }
}

/* The memory of the layers. Blocks of equal size need no more than the largest, so that a call on few rows does not ask
 * the layers twice. */
static void take_layers(tn_area *area, const tn_run *run, const tn_wanted *wanted, bool even, tn_arena *arena)
{
    const bool is_forward = wanted->forward && wanted->made == NULL && !wanted->backward;
    if (!even || !is_forward || area->measured != area->segment) size_layers(area, run, wanted, arena);
    area->measured = is_forward && (!even || area->measured == area->segment) ? area->segment : NULL;
    area->buffer = tn_arena_take(arena, area->buffer_size);
    area->scratch = tn_arena_take(arena, area->scratch_size);
}

static void take_offsets(tn_area *area, tn_arena *arena)
{
    for (int o = 0; o < area->segment->num_offsets; o++) {
        const tn_offsets_plan *list = &area->segment->offsets[o];
        const int64_t count = area->blocks.levels[list->mapped ? list->level - 1 : list->level].capacity;
        area->offsets[o] = tn_arena_array(arena, count, sizeof(int64_t));
    }
}

int64_t tn_area_plan(tn_area *area, const tn_run *run, const tn_segment *segment, int64_t rows, const tn_wanted *wanted,
                     tn_arena *arena)
{
    size_t bytes;
    const bool again = rows >= 0 && area->is_whole && area->segment == segment;
    area->segment = segment;
    area->keep = NULL;
    if (!again && !plan_rows(area, run, arena)) return -1;
    area->is_whole = rows < 0;
    const int64_t blocks = rows >= 0 ? tn_blocks_even(&area->blocks, rows) : 0;
    if (!tn_blocks_size(&area->blocks, &bytes)) return -1;
    void *numbers = tn_arena_take(arena, bytes);
    if (arena->base != NULL) tn_blocks_place(&area->blocks, numbers);
    take_offsets(area, arena);
    take_buffers(area, run, wanted, arena);
    take_layers(area, run, wanted, rows >= 0, arena);
    area->kept.size = 0;
    if (wanted->kept || wanted->keep) plan_kept(area, run, arena);
    if (wanted->keep) area->keep = tn_arena_take(arena, area->kept.size);
    return arena->overflow ? -1 : blocks;
}

/* ---- offsets ---- */

/* Lowest offset that the first axes reach, so that row offsets can be counted from there and never be negative. */
static int64_t lowest_row(const tn_tensor *t)
{
    int64_t low = 0;
    for (int i = 0; i < t->ndim - 1 && i < 2; i++) {
        if (t->stride[i] < 0 && t->shape[i] > 0) low += (t->shape[i] - 1) * t->stride[i];
    }
    return low;
}

tn_rows tn_rows_of(const tn_tensor *t, const int64_t *offsets)
{
    if (t->data == NULL) return (tn_rows){.data = NULL, .dtype = t->dtype, .offset = offsets};
    char *data = (char *)t->data + lowest_row(t) * (int64_t)tn_dtype_size(t->dtype);
    return (tn_rows){data, t->dtype, 0, t->ndim < 4 ? t->stride[t->ndim - 1] : 1, offsets};
}

void tn_tensor_offsets(int64_t *offsets, const int64_t *numbers, int64_t count, const tn_run *run, int space,
                       const tn_tensor *t, int64_t prefix)
{
    const tn_geometry *g = &run->geometry;
    const int64_t low = lowest_row(t);
    if (!g->packed) {
        const int64_t rows = tn_max_i64(1, tn_shape_rows(&g->shapes[space]));
        for (int64_t i = 0; i < count; i++) {
            const int64_t image = numbers[i] / rows, row = numbers[i] % rows + prefix;
            offsets[i] = numbers[i] < 0 ? -1 : image * t->stride[0] + row * t->stride[1] - low;
        }
        return;
    }
    int64_t image = 0;
    for (int64_t i = 0; i < count; i++) {
        if (numbers[i] >= 0 && prefix > 0) image = tn_geometry_image(g, space, numbers[i], image);
        offsets[i] = numbers[i] < 0 ? -1 : (numbers[i] + (image + 1) * prefix) * t->stride[0] - low;
    }
}

/* Offsets of rows of a stored value: by their place in the group, or within their image where the value is shared. */
static void stored_offsets(int64_t *offsets, const int64_t *numbers, int64_t count, const tn_run *run,
                           const tn_group *store, int space, const tn_value *value)
{
    const bool broadcast = space_is_shared(run, value->space) && !space_is_shared(run, space);
    const int64_t first = tn_group_first(run, store, value->space);
    int64_t image = store->first_image;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = numbers[i] - first;
        if (broadcast && numbers[i] >= 0) {
            image = tn_geometry_image(&run->geometry, space, numbers[i], image);
            row =
                (numbers[i] - tn_geometry_first(&run->geometry, space, image)) % run->graph->spaces[value->space].rows;
        }
        offsets[i] = numbers[i] < 0 ? -1 : row * value->width;
    }
}

/* The numbers that a list is made of: a level's rows; or, through its map, those of the level below. */
static int64_t list_numbers(int64_t *numbers, const tn_area *area, const tn_offsets_plan *list)
{
    const tn_level *level = &area->blocks.levels[list->level];
    if (!list->mapped) {
        memcpy(numbers, level->number, (size_t)level->count * sizeof *numbers);
        return level->count;
    }
    const int64_t count = level->count * level->slots, *below = level[-1].number;
    for (int64_t e = 0; e < count; e++)
        numbers[e] = level->map[e] >= 0 ? below[level->map[e]] : -1;
    return count;
}

static void fill_list(tn_area *area, const tn_run *run, const tn_group *store, int index, const tn_tensor *dx)
{
    const tn_offsets_plan *list = &area->segment->offsets[index];
    const tn_graph *graph = run->graph;
    int64_t *offsets = area->offsets[index];
    const tn_level *level = &area->blocks.levels[list->level];
    const int space = list->mapped ? level[-1].space : level->space;
    if (list->gradient && dx == NULL) return;
    if (list->place == TN_PLACE_BLOCK) {
        for (int64_t e = 0; e < level->count * level->slots; e++)
            offsets[e] = level->map[e] >= 0 ? (list->gradient ? e : level->map[e]) * list->width : -1;
        return;
    }
    if (list->gradient && dx[list->index].data == NULL) return;
    const int64_t count = list_numbers(offsets, area, list);
    if (list->summed) {
        stored_offsets(offsets, offsets, count, run, store, space, &graph->values[graph->inputs[list->index].value]);
        return;
    }
    if (list->place == TN_PLACE_STORED) {
        stored_offsets(offsets, offsets, count, run, store, space, &graph->values[run->plan->stored[list->index]]);
        return;
    }
    const tn_tensor *t = list->place == TN_PLACE_OUTPUT ? &run->outputs[list->index]
                         : list->gradient               ? &dx[list->index]
                                                        : &run->inputs[list->index];
    const bool features = list->place == TN_PLACE_INPUT &&
                          graph->values[graph->inputs[list->index].value].space == graph->values[0].space;
    if (t->data != NULL) {
        tn_tensor_offsets(offsets, offsets, count, run, space, t, features ? graph->prefix_tokens : 0);
    }
}

/* Rows that the segment stores: alive for whoever reads them next. */
static void mark_alive(const tn_area *area, const tn_run *run, const tn_group *store)
{
    const tn_level *top = &area->blocks.levels[area->blocks.num_levels - 1];
    int64_t *alive = store->alive[top->space];
    if (alive == NULL) return;
    const int64_t first = tn_group_first(run, store, top->space);
    for (int64_t i = 0; i < top->count; i++)
        alive[top->number[i] - first] = top->number[i] - first;
    for (int64_t i = 0; i < area->blocks.num_dead; i++)
        alive[area->blocks.dead[i] - first] = -1;
}

/* Whether the lowest level's rows are those of a stored value, whose rows may not all exist. */
static const int64_t *alive_below(const tn_area *area, const tn_run *run, const tn_group *store)
{
    const int space = area->blocks.levels[0].space;
    return space == run->graph->values[0].space ? NULL : store->alive[space];
}

void tn_area_fill(tn_area *area, const tn_run *run, const tn_group *store, int64_t end, int64_t *row,
                  const tn_tensor *dx)
{
    const tn_existence exists = {.geometry = &run->geometry,
                                 .masks = &run->masks,
                                 .alive = alive_below(area, run, store),
                                 .first_alive = tn_group_first(run, store, area->blocks.levels[0].space)};
    tn_blocks_fill(&area->blocks, &exists, end, row);
    mark_alive(area, run, store);
    for (int o = 0; o < area->segment->num_offsets; o++)
        fill_list(area, run, store, o, dx);
}

/* ---- steps ---- */

/* The values that a step made for the block. */
static const char *block_value(const tn_area *area, const tn_run *run, int value)
{
    const tn_value_plan *v = &run->plan->values[value];
    const bool kept = area->keep != NULL && run->plan->steps[v->step].act == TN_ACT_NONE;
    return kept ? area->keep + area->kept.value[v->step - area->segment->first] : area->buffers[v->index];
}

static tn_rows value_rows(const tn_area *area, const tn_run *run, const tn_group *store, int value, int list)
{
    const tn_value_plan *v = &run->plan->values[value];
    const int64_t width = run->graph->values[value].width;
    const tn_dtype compute = run->pack->ops->compute;
    const int64_t *offsets = list >= 0 ? area->offsets[list] : NULL;
    tn_rows rows;
    switch (v->place) {
    case TN_PLACE_INPUT:
        return tn_rows_of(&run->inputs[v->index], offsets);
    case TN_PLACE_OUTPUT:
        return tn_rows_of(&run->outputs[v->index], offsets);
    case TN_PLACE_STORED:
        rows = tn_dense_rows(store->data[v->index], compute, width);
        break;
    default:
        rows = tn_dense_rows(block_value(area, run, value), compute, width);
        break;
    }
    rows.offset = offsets;
    return rows;
}

tn_rows tn_step_input(const tn_area *area, const tn_run *run, const tn_group *store, const tn_step *step, int j)
{
    return value_rows(area, run, store, step->inputs[j], step->x_offsets[j]);
}

tn_rows tn_step_output(const tn_area *area, const tn_run *run, const tn_group *store, const tn_step *step)
{
    return value_rows(area, run, store, step->value, step->y_offsets);
}

/* A step whose result is kept: the layer first, then the activation. */
static void run_kept(const tn_area *area, const tn_run *run, tn_layer_call *call, int i, unsigned char makes,
                     const tn_context *context)
{
    const tn_step *step = &run->plan->steps[i];
    const int local = i - area->segment->first;
    const tn_rows y = call->y;
    call->state = area->keep + area->kept.state[local];
    if (step->act == TN_ACT_NONE) {
        step->layer->type->forward(call);
        return;
    }
    const int64_t width = step->layer->out_dim;
    const tn_rows before = tn_dense_rows(area->keep + area->kept.value[local], context->ops->compute, width);
    call->y = before;
    if ((makes & (TN_MAKES_VALUE | TN_MAKES_WHOLE)) == 0) call->y.data = NULL;
    call->act = TN_ACT_NONE;
    step->layer->type->forward(call);
    if (y.data != NULL) context->ops->activation(context, y, before, step->act, call->rows, width);
}

void tn_area_forward(tn_area *area, const tn_run *run, const tn_group *store, const unsigned char *made,
                     const int64_t *attention_offsets, const tn_context *context)
{
    for (int i = area->segment->first; i < area->segment->end; i++) {
        const tn_step *step = &run->plan->steps[i];
        const unsigned char makes = made != NULL ? made[i] : TN_MAKES_STATE | TN_MAKES_VALUE | TN_MAKES_WHOLE;
        if (makes == 0) continue;
        for (int j = 0; j < step->layer->num_inputs; j++)
            area->x[j] = tn_step_input(area, run, store, step, j);
        tn_layer_call call = {.layer = step->layer,
                              .context = context,
                              .weights = run->pack->weights + run->pack->first_weight[i],
                              .packed = (const char *)run->pack->data + run->pack->offset[i],
                              .rows = area->blocks.levels[step->level].count,
                              .slots = step_slots(area, step),
                              .x = area->x,
                              .widths = step->widths,
                              .buffer = area->buffer,
                              .y = tn_step_output(area, run, store, step),
                              .attention = {.dtype = TN_F32},
                              .act = step->act};
        if ((makes & TN_MAKES_WHOLE) == 0 && ((makes & TN_MAKES_VALUE) == 0 || step->act != TN_ACT_NONE)) {
            call.y.data = NULL;
        }
        if (attention_offsets != NULL && i == run->plan->attention_step) {
            call.attention = tn_rows_of(&run->attention, attention_offsets);
        }
        if (area->keep != NULL) {
            run_kept(area, run, &call, i, makes, context);
        } else {
            step->layer->type->forward(&call);
        }
    }
}
