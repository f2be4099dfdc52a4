/* SPDX-License-Identifier: MIT */
#include "engine/blocks.h"

#include "core/size.h"

bool tn_blocks_plan(tn_blocks *blocks, const tn_segment *segment, const tn_geometry *geometry, int64_t most_rows,
                    int counted)
{
    const int top = segment->num_levels - 1;
    int64_t fan_out = 1; /* rows of level `counted` that one row reads, at most */
    blocks->num_levels = segment->num_levels;
    for (int i = 0; i <= top; i++) {
        const int64_t slots = i > 0 ? tn_geometry_slots(geometry, segment->spaces[i]) : 0;
        blocks->levels[i] = (tn_level){.space = segment->spaces[i], .slots = slots};
        if (i > counted && !tn_mul_i64(fan_out, slots, &fan_out)) return false;
    }
    blocks->block_rows = tn_max_i64(1, most_rows / tn_max_i64(1, fan_out));
    blocks->levels[top].capacity = blocks->block_rows;
    for (int i = top; i > 0; i--) {
        const tn_level *above = &blocks->levels[i];
        if (!tn_mul_i64(above->capacity, above->slots, &blocks->levels[i - 1].capacity)) return false;
    }
    return true;
}

int64_t tn_blocks_even(tn_blocks *blocks, int64_t rows)
{
    if (rows == 0) return 0;
    const int64_t count = tn_ceil_div(rows, blocks->block_rows), even = tn_ceil_div(rows, count);
    for (int i = 0; i < blocks->num_levels; i++)
        blocks->levels[i].capacity = blocks->levels[i].capacity / blocks->block_rows * even;
    blocks->block_rows = even;
    return count;
}

bool tn_blocks_size(const tn_blocks *blocks, size_t *bytes)
{
    int64_t total = blocks->block_rows; /* the dead */
    for (int i = 0; i < blocks->num_levels; i++) {
        /* A level's map into the one below has as many entries as that one has rows. */
        const int64_t capacity = blocks->levels[i].capacity;
        if (!tn_add_i64(total, capacity, &total)) return false;
        if (i + 1 < blocks->num_levels && !tn_add_i64(total, capacity, &total)) return false;
    }
    return tn_shape_bytes(1, &total, sizeof(int64_t), bytes);
}

void tn_blocks_place(tn_blocks *blocks, void *data)
{
    int64_t *next = data;
    for (int i = 0; i < blocks->num_levels; i++) {
        tn_level *level = &blocks->levels[i];
        level->number = next;
        next += level->capacity;
        level->map = i > 0 ? next : NULL;
        next += i > 0 ? blocks->levels[i - 1].capacity : 0;
    }
    blocks->dead = next;
}

/* ---- what exists ---- */

/* A row that turns out not to exist is marked, so that its number can still be told. */
static int64_t marked(int64_t number)
{
    return number >= 0 ? ~number : number;
}

static bool image_exists(const tn_masks *masks, int64_t image)
{
    if (masks->frame.data == NULL) return true;
    const char *bits = masks->frame.data;
    return bits[image * masks->frame.stride[0]] != 0;
}

static bool patch_exists(const tn_existence *e, int space, int64_t image, int64_t row)
{
    const tn_tensor *mask = &e->masks->patch;
    const char *bits = mask->data;
    if (mask->ndim == 1) return bits[row * mask->stride[0]] != 0;
    return bits[image * mask->stride[0] + (row - tn_geometry_first(e->geometry, space, image)) * mask->stride[1]] != 0;
}

/* Drops the rows of the lowest level that do not exist. */
static void mask_rows(tn_blocks *blocks, const tn_existence *e, int64_t *numbers, int64_t count)
{
    const int space = blocks->levels[0].space, features = e->geometry->graph->values[0].space;
    const bool masked = e->masks->patch.data != NULL && space == features;
    int64_t image = 0;
    for (int64_t r = 0; r < count && (masked || e->alive != NULL); r++) {
        if (numbers[r] < 0) continue;
        if (e->alive != NULL && e->alive[numbers[r] - e->first_alive] < 0) {
            numbers[r] = marked(numbers[r]);
        } else if (masked) {
            image = tn_geometry_image(e->geometry, space, numbers[r], image);
            if (!patch_exists(e, space, image, numbers[r])) numbers[r] = marked(numbers[r]);
        }
    }
}

/* ---- filling ---- */

/* Takes rows from *row on, up to the capacity of the block; those of masked images are dead. Returns how many live. */
static int64_t take_rows(tn_blocks *blocks, const tn_existence *e, int64_t end, int64_t *row)
{
    const tn_level *top = &blocks->levels[blocks->num_levels - 1];
    const bool shared = e->geometry->graph->spaces[top->space].kind == TN_SPACE_SHARED;
    int64_t count = 0, image = 0;
    blocks->num_dead = 0;
    for (; *row < end && count + blocks->num_dead < blocks->block_rows; ++*row) {
        if (!shared && e->masks->frame.data != NULL) image = tn_geometry_image(e->geometry, top->space, *row, image);
        if (shared || image_exists(e->masks, image)) {
            top->number[count++] = *row;
        } else {
            blocks->dead[blocks->num_dead++] = *row;
        }
    }
    return count;
}

/* The rows of the level below that each row reads, as numbers over the call, into the map. */
static void expand_windows(const tn_level *level, const tn_level *below, const tn_geometry *g, const int64_t *numbers,
                           int64_t count)
{
    int64_t image = 0, first = 0, first_below = 0, next = -1;
    tn_tiling tiling = {.side = 0};
    for (int64_t r = 0; r < count; r++) {
        int64_t *map = level->map + r * level->slots;
        if (numbers[r] < 0) {
            for (int64_t s = 0; s < level->slots; s++)
                map[s] = -1;
            continue;
        }
        if (tiling.side == 0 || numbers[r] >= next || numbers[r] < first) {
            image = tn_geometry_image(g, level->space, numbers[r], image);
            first = tn_geometry_first(g, level->space, image);
            next = tn_geometry_first(g, level->space, image + 1);
            first_below = tn_geometry_first(g, below->space, image);
            if (tiling.side == 0 || g->packed) tiling = tn_geometry_tiling(g, level->space, image);
        }
        tn_tiling_patches(map, &tiling, numbers[r] - first);
        for (int64_t s = 0; s < level->slots; s++) {
            if (map[s] >= 0) map[s] += first_below;
        }
    }
}

/* The same by a map that the call brings: rows of the image's features, -1: none. */
static void expand_map(const tn_level *level, const tn_level *below, const tn_geometry *g, const int64_t *numbers,
                       int64_t count)
{
    const tn_integers *given = &g->extents.integers[g->graph->spaces[level->space].integers];
    int64_t image = 0;
    for (int64_t r = 0; r < count; r++) {
        int64_t *map = level->map + r * level->slots;
        if (numbers[r] >= 0) image = tn_geometry_image(g, level->space, numbers[r], image);
        const int64_t first = tn_geometry_first(g, below->space, image);
        for (int64_t s = 0; s < level->slots; s++) {
            const int64_t row = numbers[r] >= 0 ? given->data[numbers[r] * given->columns + s] : -1;
            map[s] = row >= 0 ? first + row : -1;
        }
    }
}

/* Rows of `level` whose rows below are all gone are gone too; the slots of the others move together. */
static void prune(tn_level *level, int64_t *numbers, int64_t count, const int64_t *below)
{
    int64_t kept = 0;
    for (int64_t r = 0; r < count; r++) {
        bool alive = false;
        for (int64_t s = 0; s < level->slots; s++)
            alive = alive || below[r * level->slots + s] >= 0;
        if (!alive) {
            numbers[r] = marked(numbers[r]);
            continue;
        }
        for (int64_t s = 0; s < level->slots; s++)
            level->map[kept * level->slots + s] = below[r * level->slots + s];
        kept++;
    }
}

/* The rows alive of a level become its list, and the map's entries their places in the list below. */
static void list_alive(tn_level *below, int64_t *map, int64_t entries)
{
    below->count = 0;
    for (int64_t e = 0; e < entries; e++) {
        if (map[e] < 0) continue;
        below->number[below->count] = map[e];
        map[e] = below->count++;
    }
}

/* Downwards: numbers of the rows that each level's rows read, in the maps. Returns how many of level 0. */
static int64_t expand(tn_blocks *blocks, const tn_existence *e, int64_t count)
{
    const tn_graph *graph = e->geometry->graph;
    const int64_t *numbers = blocks->levels[blocks->num_levels - 1].number;
    for (int i = blocks->num_levels - 1; i > 0; i--) {
        const tn_level *level = &blocks->levels[i], *below = &blocks->levels[i - 1];
        if (graph->spaces[level->space].kind == TN_SPACE_MAP) {
            expand_map(level, below, e->geometry, numbers, count);
        } else {
            expand_windows(level, below, e->geometry, numbers, count);
        }
        numbers = level->map;
        count *= level->slots;
    }
    return count;
}

/* Moves the rows alive of the last level to the front of its list; the others join the dead. */
static void split_top(tn_blocks *blocks, int64_t count)
{
    tn_level *top = &blocks->levels[blocks->num_levels - 1];
    top->count = 0;
    for (int64_t i = 0; i < count; i++) {
        if (top->number[i] >= 0) {
            top->number[top->count++] = top->number[i];
        } else {
            blocks->dead[blocks->num_dead++] = ~top->number[i];
        }
    }
}

void tn_blocks_fill(tn_blocks *blocks, const tn_existence *exists, int64_t end, int64_t *row)
{
    const int top = blocks->num_levels - 1;
    tn_level *levels = blocks->levels;
    const int64_t taken = take_rows(blocks, exists, end, row);
    int64_t count = expand(blocks, exists, taken);
    mask_rows(blocks, exists, top > 0 ? levels[1].map : levels[0].number, count);
    for (int i = 1; i <= top; i++) {
        count /= levels[i].slots;
        prune(&levels[i], i < top ? levels[i + 1].map : levels[top].number, count, levels[i].map);
    }
    split_top(blocks, taken);
    for (int i = top; i > 0; i--)
        list_alive(&levels[i - 1], levels[i].map, levels[i].count * levels[i].slots);
}
