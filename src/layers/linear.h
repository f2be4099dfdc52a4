/* SPDX-License-Identifier: MIT */
/* Linear layers that a plan makes of two. */
#ifndef TN_LAYERS_LINEAR_H
#define TN_LAYERS_LINEAR_H

#include "graph/layer.h"

extern const tn_layer_type tn_linear_type;

/* Bytes of the private struct of a linear layer. */
size_t tn_linear_own_size(void);

/* Makes `layer` a linear layer of these widths; `own` is memory of tn_linear_own_size bytes that lives as long. */
void tn_linear_make(tn_layer *layer, void *own, int64_t in_dim, int64_t out_dim, bool has_bias);

#endif
