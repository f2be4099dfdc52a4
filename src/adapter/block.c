/* SPDX-License-Identifier: MIT */
/* Rows of a block. Tokens are taken in order over the whole batch; each window level is expanded downwards to the
 * patches it reads, what does not exist is pruned upwards, and the rest is numbered densely. */
#include "adapter/block.h"

#include "core/size.h"

bool tn_block_rows_plan(tn_block_rows *rows, const tn_geometry *geometry, int64_t most_rows, int counted)
{
    const int top = geometry->num_windows;
    int64_t fan_out = 1; /* rows of level `counted` that one token reads, at most */
    for (int level = top; level > counted; level--) {
        if (!tn_mul_i64(fan_out, tn_tiling_slots(&geometry->tiling[level - 1]), &fan_out)) return false;
    }
    rows->num_windows = top;
    rows->block_rows = tn_max_i64(1, most_rows / fan_out);
    rows->capacity[top] = rows->block_rows;
    for (int level = top; level > 0; level--) {
        const int64_t slots = tn_tiling_slots(&geometry->tiling[level - 1]);
        if (!tn_mul_i64(rows->capacity[level], slots, &rows->capacity[level - 1])) return false;
    }
    return true;
}

bool tn_block_rows_size(const tn_block_rows *rows, size_t *bytes)
{
    int64_t total = 0;
    for (int level = 0; level <= rows->num_windows; level++) {
        if (!tn_add_i64(total, rows->capacity[level], &total)) return false;
    }
    if (!tn_add_i64(total, rows->capacity[0], &total) || !tn_add_i64(total, rows->block_rows, &total)) return false;
    return tn_shape_bytes(1, &total, sizeof(int64_t), bytes);
}

void tn_block_rows_place(tn_block_rows *rows, void *data)
{
    int64_t *next = data;
    for (int level = 0; level <= rows->num_windows; level++) {
        rows->map[level] = next;
        next += rows->capacity[level];
    }
    rows->patches = next;
    rows->dead = rows->patches + rows->capacity[0];
}

int64_t tn_block_rows_even(tn_block_rows *rows, int64_t tokens)
{
    if (tokens == 0) return 0;
    const int64_t blocks = tn_ceil_div(tokens, rows->block_rows), even = tn_ceil_div(tokens, blocks);
    for (int level = 0; level <= rows->num_windows; level++)
        rows->capacity[level] = rows->capacity[level] / rows->block_rows * even;
    rows->block_rows = even;
    return blocks;
}

static bool patch_exists(const tn_masks *masks, int64_t image, int64_t patch)
{
    if (masks->patch.data == NULL) return true;
    const char *bits = masks->patch.data;
    return bits[image * masks->patch.stride[0] + patch * masks->patch.stride[1]] != 0;
}

static bool image_exists(const tn_masks *masks, int64_t image)
{
    if (masks->frame.data == NULL) return true;
    const char *bits = masks->frame.data;
    return bits[image * masks->frame.stride[0]] != 0;
}

/* Takes tokens from *token on, up to the capacity of the block or of the list of dead ones; returns how many. */
static int64_t take_tokens(tn_block_rows *rows, const tn_geometry *geometry, const tn_masks *masks, int64_t batch,
                           int64_t *token)
{
    const int64_t per_image = geometry->count[geometry->num_windows], end = batch * per_image;
    int64_t *taken = rows->map[rows->num_windows], count = 0;
    rows->num_dead = 0;
    while (*token < end && count + rows->num_dead < rows->block_rows) {
        if (image_exists(masks, *token / per_image)) {
            taken[count++] = *token;
        } else {
            rows->dead[rows->num_dead++] = *token;
        }
        ++*token;
    }
    return count;
}

/* The rows of level `level - 1` that each of `count` rows of `level` reads; numbers count over the batch. */
static void expand(tn_block_rows *rows, const tn_geometry *geometry, int level, int64_t count)
{
    const tn_tiling *tiling = &geometry->tiling[level - 1];
    const int64_t slots = tn_tiling_slots(tiling);
    for (int64_t r = 0; r < count; r++) {
        int64_t *below = rows->map[level - 1] + r * slots;
        const int64_t row = rows->map[level][r];
        const int64_t image = row >= 0 ? row / geometry->count[level] : 0;
        if (row >= 0) tn_tiling_patches(below, tiling, row % geometry->count[level]);
        for (int64_t s = 0; s < slots; s++) {
            below[s] = row >= 0 && below[s] >= 0 ? image * geometry->count[level - 1] + below[s] : -1;
        }
    }
}

/* Marks the patches that the mask takes away. */
static void mask_patches(tn_block_rows *rows, const tn_geometry *geometry, const tn_masks *masks, int64_t count)
{
    if (masks->patch.data == NULL) return;
    for (int64_t r = 0; r < count; r++) {
        int64_t *patch = &rows->map[0][r];
        if (*patch >= 0 && !patch_exists(masks, *patch / geometry->count[0], *patch % geometry->count[0])) *patch = -1;
    }
}

/* Rows of `level` whose rows below are all gone are gone too; the groups of `slots` that are left move together. */
static void prune(tn_block_rows *rows, int level, int64_t count, int64_t slots)
{
    int64_t *above = rows->map[level], *below = rows->map[level - 1], kept = 0;
    for (int64_t r = 0; r < count; r++) {
        bool alive = false;
        for (int64_t s = 0; s < slots; s++)
            alive = alive || below[r * slots + s] >= 0;
        if (!alive) {
            above[r] = -1;
            continue;
        }
        for (int64_t s = 0; s < slots; s++)
            below[kept * slots + s] = below[r * slots + s];
        kept++;
    }
}

static int64_t count_alive(const int64_t *numbers, int64_t count)
{
    int64_t alive = 0;
    for (int64_t i = 0; i < count; i++)
        alive += numbers[i] >= 0;
    return alive;
}

/* Replaces the numbers of what is alive by 0, 1, 2, ... */
static void number_densely(int64_t *numbers, int64_t count)
{
    int64_t alive = 0;
    for (int64_t i = 0; i < count; i++) {
        if (numbers[i] >= 0) numbers[i] = alive++;
    }
}

/* The last level's array becomes the list of the tokens alive; the others join the dead. */
static void split_tokens(tn_block_rows *rows, const int64_t *tokens, int64_t count)
{
    int64_t *alive = rows->map[rows->num_windows], kept = 0;
    for (int64_t i = 0; i < count; i++) {
        if (alive[i] >= 0) {
            alive[kept++] = alive[i];
        } else {
            rows->dead[rows->num_dead++] = tokens[i];
        }
    }
    rows->rows[rows->num_windows] = kept;
}

void tn_block_rows_fill(tn_block_rows *rows, const tn_geometry *geometry, const tn_masks *masks, int64_t batch,
                        int64_t *token)
{
    const int top = rows->num_windows;
    int64_t count[TN_MAX_WINDOWS + 1];
    count[top] = take_tokens(rows, geometry, masks, batch, token);
    int64_t *tokens = rows->patches; /* free until the end, and at least as long */
    for (int64_t i = 0; i < count[top]; i++)
        tokens[i] = rows->map[top][i];

    for (int level = top; level > 0; level--) {
        expand(rows, geometry, level, count[level]);
        count[level - 1] = count[level] * tn_tiling_slots(&geometry->tiling[level - 1]);
    }
    mask_patches(rows, geometry, masks, count[0]);
    for (int level = 1; level <= top; level++) {
        prune(rows, level, count[level], tn_tiling_slots(&geometry->tiling[level - 1]));
    }
    split_tokens(rows, tokens, count[top]);

    for (int level = top; level > 0; level--) {
        count[level - 1] = rows->rows[level] * tn_tiling_slots(&geometry->tiling[level - 1]);
        rows->rows[level - 1] = count_alive(rows->map[level - 1], count[level - 1]);
    }
    int64_t alive = 0;
    for (int64_t i = 0; i < (top > 0 ? count[0] : rows->rows[0]); i++) {
        if (rows->map[0][i] >= 0) rows->patches[alive++] = rows->map[0][i];
    }
    for (int level = 0; level < top; level++)
        number_densely(rows->map[level], count[level]);
}
