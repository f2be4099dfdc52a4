/* SPDX-License-Identifier: MIT */
/* The arithmetic of `tenon compare`: two streams of elements, token by token. */
#ifndef TN_CLI_COMPARE_H
#define TN_CLI_COMPARE_H

#include "tenon/tenon.h"

/* Sums over one token, or over all of them. Elements that are equal infinities count as equal zeros. */
typedef struct tn_sums {
    double aa; /* sum of a^2 */
    double bb;
    double ab;
    double dd; /* sum of (a - b)^2 */
} tn_sums;

/* ||a - b|| / ||b||: 0 where both are zero, infinity where only b is. */
double tn_sums_relative(const tn_sums *sums);

/* 1 - a.b / (||a|| ||b||): 0 where both are zero, 1 where one is. */
double tn_sums_cosine_difference(const tn_sums *sums);

typedef struct tn_worst {
    double value;
    int64_t token;
} tn_worst;

/* The comparison of one pair of tensors (..., width), b being the reference. A tensor of one axis is one token. */
typedef struct tn_comparison {
    int64_t width;
    int64_t tokens;   /* complete ones */
    int64_t position; /* in the token under way */
    int64_t nans;     /* elements of which one or both are NaN */
    int64_t unequal;  /* elements of different value, NaN included */
    tn_sums token;
    tn_sums all;
    tn_worst absolute; /* largest differences, and the tokens they are in */
    tn_worst relative;
    tn_worst cosine;
    double cosine_sum; /* of the cosine differences of all tokens */
} tn_comparison;

void tn_comparison_init(tn_comparison *c, int64_t width);

/* Feeds `count` elements of each, in row-major order. */
void tn_comparison_add(tn_comparison *c, const double *a, const double *b, size_t count);

/* Widens `count` elements of a dtype that tenon_file_read delivers; false for a dtype without numbers. */
bool tn_widen(double *out, const void *data, DLDataType dtype, size_t count);

#endif
