/* SPDX-License-Identifier: MIT */
/* Which rows a block of a segment reads, level by level.
 *
 * A block is some rows of the segment's last level. Each window level is expanded downwards to the rows it reads, what
 * does not exist is pruned upwards, and what is left is kept as numbers, counted over the call. Numbers say which row
 * it is; where a row lies is a matter of offsets, which are made from numbers for each tensor.
 */
#ifndef TN_ENGINE_BLOCKS_H
#define TN_ENGINE_BLOCKS_H

#include "core/tensor.h"
#include "engine/plan.h"
#include "graph/geometry.h"

/* The masks of a call; data NULL where there is none. Patches are counted without prefix tokens. */
typedef struct tn_masks {
    tn_tensor patch; /* [images, patches], or packed [patches] */
    tn_tensor frame; /* [images] */
} tn_masks;

/* One level of a block. */
typedef struct tn_level {
    int space;
    int64_t slots;    /* of the level below that a row reads; 0: the lowest level */
    int64_t capacity; /* rows, at most */
    int64_t count;    /* rows alive */
    int64_t *number;  /* [count] the rows, over the call */
    int64_t *map;     /* [count, slots] which of the rows alive below, -1: none; NULL for the lowest level */
} tn_level;

typedef struct tn_blocks {
    int num_levels;
    tn_level *levels;
    int64_t block_rows; /* of the last level, at most */
    int64_t *dead;      /* [num_dead] numbers of rows of the last level that come out as zeros */
    int64_t num_dead;
} tn_blocks;

/* What decides whether a row exists. */
typedef struct tn_existence {
    const tn_geometry *geometry;
    const tn_masks *masks;
    const int64_t *alive; /* of the lowest level, where it was stored: -1 for rows that do not exist, by number less
                             `first_alive`; NULL: all do */
    int64_t first_alive;
} tn_existence;

/* Sets levels, slots and capacities: as many rows of the last level as fit `most_rows` rows of level `counted` (at
 * least one). False when a number does not fit. */
bool tn_blocks_plan(tn_blocks *blocks, const tn_segment *segment, const tn_geometry *geometry, int64_t most_rows,
                    int counted);

/* Lowers the capacities so that the blocks of `rows` rows are of equal size; returns how many blocks there are. */
int64_t tn_blocks_even(tn_blocks *blocks, int64_t rows);

/* Bytes of the arrays of numbers; false when they do not fit. Then: places them at `data`, aligned for int64_t. */
bool tn_blocks_size(const tn_blocks *blocks, size_t *bytes);
void tn_blocks_place(tn_blocks *blocks, void *data);

/* Fills the levels with the next rows of the last level from *row on, before `end`, and moves *row behind them. Rows of
 * masked images, and rows that read nothing that exists, are dead. */
void tn_blocks_fill(tn_blocks *blocks, const tn_existence *exists, int64_t end, int64_t *row);

#endif
