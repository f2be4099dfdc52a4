/* SPDX-License-Identifier: MIT */
/* Numbers that are none: infinities and NaN. */
#ifndef TN_OPS_FINITE_H
#define TN_OPS_FINITE_H

#include "core/dtype.h"

/* How many of `count` numbers at `data`, aligned or not, are infinite or NaN; *first is the index of the first of them,
 * and untouched when there is none. */
int64_t tn_count_nonfinite(const void *data, tn_dtype dtype, int64_t count, int64_t *first);

#endif
