/* SPDX-License-Identifier: MIT */
/* AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) and the norm that gradients are clipped
 * by. For step t = 1, 2, ... and each element, in f32 and in the order of operations of PyTorch's AdamW:
 *
 *     p <- p (1 - lr wd)
 *     m <- m + (1 - beta1) (g - m)             mhat = m / (1 - beta1^t)
 *     v <- beta2 v + (1 - beta2) g^2           vhat = v / (1 - beta2^t)
 *     p <- p - lr mhat / (sqrt(vhat) + eps)
 */
#ifndef TN_TRAIN_OPTIMIZER_H
#define TN_TRAIN_OPTIMIZER_H

#include "core/dtype.h"
#include "core/parallel.h"

typedef struct tn_adamw {
    double lr;
    double beta1, beta2, eps;
    double weight_decay;
    double scale; /* of the gradients: 1 / images, and what clipping takes away */
    int64_t step; /* t, from 1 on */
} tn_adamw;

/* One parameter's arrays, [count] each. With a master the parameter is its rounding; without, a 16-bit parameter is
 * widened, updated and rounded. */
typedef struct tn_adamw_arrays {
    void *parameter;
    tn_dtype dtype;
    float *master; /* NULL: none */
    float *m, *v;
    const float *gradient;
    int64_t count;
} tn_adamw_arrays;

/* One step, in place. An element's bits do not depend on threads or on what lies beside it. */
void tn_adamw_step(const tn_parallel *parallel, const tn_adamw_arrays *arrays, const tn_adamw *settings);

/* Sum of squares in double, in an order that depends on `count` alone; `partial` holds tn_square_parts(count). Infinite
 * or NaN exactly when one of the numbers is. */
int64_t tn_square_parts(int64_t count);
double tn_sum_of_squares(const tn_parallel *parallel, double *partial, const float *data, int64_t count);

/* What gradients of this norm are multiplied by, so that their norm is at most `limit`: min(1, limit / (norm + 1e-6)),
 * as clip_grad_norm_ does; 1 where `limit` is 0. */
double tn_clip_factor(double norm, double limit);

#endif
