/* SPDX-License-Identifier: MIT */
/* Losses between tokens y and targets t, both (rows, dim), a row a token. An image's loss is the mean over its tokens
 * of the row's loss, with d = y - t and sums in double, k ascending:
 *
 *     mse        l = 1/dim sum_k d_k^2                                  dl/dy_k = 2 d_k / dim
 *     smooth_l1  l = 1/dim sum_k (|d_k| < 1 ? d_k^2 / 2 : |d_k| - 1/2)  dl/dy_k = clamp(d_k, -1, 1) / dim
 *     cosine     l = 1 - y.t / (|y| |t|)                                dl/dy = -(t / |t| - y (y.t) / (|y|^2 |t|)) /
 * |y|
 *
 * They are PyTorch's mse_loss, smooth_l1_loss and 1 - cosine_similarity, but for one thing: a row whose y or t is
 * shorter than 1e-8 has no direction, so its cosine loss is 1 and its gradient 0, where PyTorch's gradient is up to
 * 1e8.
 */
#ifndef TN_TRAIN_LOSS_H
#define TN_TRAIN_LOSS_H

#include "core/parallel.h"
#include "core/tensor.h"

/* For every row of y [batch, tokens, dim]: losses[row] gets its loss, and where `differentiate` says so y becomes the
 * gradient of the image's loss, dl/dy / tokens. `target` is a checked view (batch, tokens, dim), any dtype and strides;
 * `scratch` holds dim floats for each worker. */
void tn_loss_rows(const tn_parallel *parallel, float *y, double *losses, tenon_loss loss, bool differentiate,
                  const tn_tensor *target, float *scratch);

#endif
