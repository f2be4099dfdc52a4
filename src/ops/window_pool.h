/* SPDX-License-Identifier: MIT */
/* Window pooling out of the other ops of a table: what every table of this library has behind its entries. */
#ifndef TN_OPS_WINDOW_POOL_H
#define TN_OPS_WINDOW_POOL_H

#include "ops/ops.h"

bool tn_window_pool_sizes_of(tn_window_pool_sizes *sizes, const tn_ops *ops, const tn_window_pool *pool, int64_t rows,
                             int64_t slots, int workers, bool backward);
void tn_window_pool_pack(const tn_context *context, void *packed, void *packed_backward, const tn_window_pool *pool);
void tn_window_pool_forward(const tn_context *context, const tn_window_pool *pool, const tn_window_pool_call *call);
void tn_window_pool_backward(const tn_context *context, const tn_window_pool *pool, const tn_window_pool_call *call);

#endif
