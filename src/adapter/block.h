/* SPDX-License-Identifier: MIT */
/* Which rows a block of tokens reads, level by level. */
#ifndef TN_ADAPTER_BLOCK_H
#define TN_ADAPTER_BLOCK_H

#include "adapter/adapter.h"
#include "core/tensor.h"

/* The masks of a call; data NULL where there is none. */
typedef struct tn_masks {
    tn_tensor patch; /* [batch, patches] */
    tn_tensor frame; /* [batch] */
} tn_masks;

/* The arrays of one block, in the workspace. Capacities are for block_rows tokens; `capacity[level]` counts rows. */
typedef struct tn_block_rows {
    int num_windows;
    int64_t block_rows;
    int64_t capacity[TN_MAX_WINDOWS + 1];
    int64_t rows[TN_MAX_WINDOWS + 1]; /* rows alive at each level */
    int64_t *map[TN_MAX_WINDOWS + 1]; /* map[l], l < num_windows: [rows[l+1], slots] rows of level l, -1 = absent;
                                         map[num_windows]: [rows] numbers of the tokens alive */
    int64_t *patches;                 /* [rows[0]] numbers of the patches alive, counted over the batch */
    int64_t *dead;                    /* [num_dead] numbers of the tokens that come out as zeros */
    int64_t num_dead;
} tn_block_rows;

/* Sets the capacities for this geometry: as many tokens as fit `most_rows` rows at level `counted` (at least one).
 * False when a number does not fit. */
bool tn_block_rows_plan(tn_block_rows *rows, const tn_geometry *geometry, int64_t most_rows, int counted);

/* Bytes of the arrays; false when they do not fit. */
bool tn_block_rows_size(const tn_block_rows *rows, size_t *bytes);

/* Places the arrays at `data`, aligned for int64_t. */
void tn_block_rows_place(tn_block_rows *rows, void *data);

/* Lowers the capacities so that the blocks of `tokens` tokens are of equal size; returns how many blocks there are. */
int64_t tn_block_rows_even(tn_block_rows *rows, int64_t tokens);

/* Fills the arrays with the next tokens from *token on, of `batch` images, and moves *token behind them. Tokens of
 * masked images, and tokens none of whose patches exist, are dead. */
void tn_block_rows_fill(tn_block_rows *rows, const tn_geometry *geometry, const tn_masks *masks, int64_t batch,
                        int64_t *token);

#endif
