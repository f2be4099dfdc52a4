/* SPDX-License-Identifier: MIT */
/* Forward and backward of a packed connector, and the memory they need. */
#ifndef TN_ENGINE_FORWARD_H
#define TN_ENGINE_FORWARD_H

#include "engine/pack.h"

/* What a call runs on. `pack` may be one that is only planned where sizes are asked for. */
typedef struct tn_engine {
    const tn_pack *pack;
    const char *type; /* the connector's, for sentences */
    const tenon_allocator *allocator;
} tn_engine;

/* Bytes of a forward's arrays whose lengths are the plan's: the same for every call. */
size_t tn_forward_arrays(const tn_pack *pack);

tenon_status tn_engine_forward(const tn_engine *engine, const DLTensor *x, DLTensor *y, const tenon_call *call,
                               const tenon_workspace *workspace, tenon_error *error);

/* Bytes of workspace for any batch of images of num_input tokens; with grids, for these images. */
tenon_status tn_engine_workspace_size(const tn_engine *engine, int64_t num_input, const tenon_call *call, size_t *bytes,
                                      tenon_error *error);

/* Bytes of call->saved. */
tenon_status tn_engine_saved_size(const tn_engine *engine, int64_t batch, int64_t num_input, const tenon_call *call,
                                  size_t *bytes, tenon_error *error);

/* First row of each of the images in an output, and behind them how many rows there are: offsets [images + 1]. */
tenon_status tn_engine_output_offsets(const tn_engine *engine, int64_t output, int64_t images, int64_t num_input,
                                      const tenon_call *call, int64_t *offsets, tenon_error *error);

tenon_status tn_engine_backward(const tn_engine *engine, const DLTensor *dy, const DLTensor *x,
                                const tenon_gradients *gradients, const tenon_call *call,
                                const tenon_workspace *workspace, tenon_error *error);
tenon_status tn_engine_backward_workspace_size(const tn_engine *engine, int64_t num_input,
                                               const tenon_gradients *gradients, bool all, const tenon_call *call,
                                               size_t *bytes, tenon_error *error);

/* The caller's struct over the defaults. */
tenon_status tn_gradients_read(tenon_gradients *settings, const tenon_gradients *given, tenon_error *error);

#endif
