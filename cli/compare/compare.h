/* SPDX-License-Identifier: MIT */
/* The parts of `tenon compare`: compare.c reads the options and goes through files or folders, compare_files.c pairs
 * the tensors of two files and reads them, compare_sums.c does the arithmetic, compare_report.c says what came of it.
 */
#ifndef TN_CLI_COMPARE_H
#define TN_CLI_COMPARE_H

#include "tenon/tenon.h"

#include <jansson.h>

typedef struct tn_compare_settings {
    double tolerance;
    const char *tensor;
    bool equal_nan;
    bool npy_bfloat16;
    bool json;
} tn_compare_settings;

/* ---- compare_sums.c: two streams of numbers, row by row. A row lies along the last axis ---- */

/* Sums over one row, or over all of them, of numbers divided by 2^exponent. Equal infinities count as zeros, and where
 * either number is NaN neither counts. */
typedef struct tn_sums {
    double aa; /* sum of a^2 */
    double bb;
    double ab;
    double dd; /* sum of (a - b)^2 */
    int exponent;
} tn_sums;

/* ||a - b|| / ||b||: 0 where a and b are equal, infinity where b alone is 0. */
double tn_sums_relative(const tn_sums *sums);

/* 1 - a.b / (||a|| ||b||): 0 where a and b are equal, 1 where one is zero. */
double tn_sums_cosine_difference(const tn_sums *sums);

/* ||a|| / ||b||: 1 where both are zero, infinity where b alone is. */
double tn_sums_ratio(const tn_sums *sums);

/* True when a is c times b but for a relative difference of 1e-3 at most, and this is most of how a differs from b;
 * *factor = c. */
bool tn_sums_scaled(const tn_sums *sums, double *factor);

typedef struct tn_worst {
    double value;
    int64_t row;
} tn_worst;

/* The comparison of one pair of tensors (..., width), b being the reference. A tensor of one axis is one row. */
typedef struct tn_comparison {
    int64_t width;
    int64_t rows;                   /* complete ones */
    int64_t position;               /* in the row under way */
    int64_t unequal;                /* pairs of different numbers, none of them NaN */
    int64_t nan_a, nan_b, nan_both; /* pairs with a NaN: only in a, only in b, in both */
    int64_t nan_row;                /* the first with a NaN */
    tn_sums row;                    /* of the row under way */
    tn_sums all;
    tn_worst absolute; /* largest differences, and the rows they are in */
    tn_worst relative;
    tn_worst cosine;
    double cosine_sum;                  /* of the cosine differences of all rows */
    double ratio_lowest, ratio_highest; /* of the rows' norm ratios */
} tn_comparison;

void tn_comparison_init(tn_comparison *c, int64_t width);

/* Feeds `count` elements of each, in row-major order and of the dtypes that tenon_file_read delivers with keep_f64:
 * all of them are compared exactly. False for a dtype without numbers. */
bool tn_comparison_add(tn_comparison *c, const void *a, DLDataType a_type, const void *b, DLDataType b_type,
                       size_t count);

bool tn_is_number(DLDataType dtype);
bool tn_is_integer(DLDataType dtype); /* or bool */

/* ---- compare_files.c ---- */

enum { TN_COMPARE_MAX_AXES = 64 };

/* One tensor of both files. */
typedef struct tn_tensor_pair {
    int64_t index[2];
    tenon_file_tensor tensors[2];
    tn_comparison result;
} tn_tensor_pair;

/* What keeps files from being compared whole: a sentence of the first few reasons and a count of the others. */
typedef struct tn_trouble {
    char text[TENON_ERROR_SIZE];
    int64_t count;
} tn_trouble;

void tn_trouble_add(tn_trouble *trouble, const char *format, ...) TENON_PRINTF(2, 3);

/* "and N more" at its end. */
void tn_trouble_end(tn_trouble *trouble);

typedef struct tn_file_pair {
    const char *path[2];
    const char *shard; /* its name in a folder; NULL: these are no shards */
    tenon_file *file[2];
    tn_tensor_pair *pairs; /* those that could be compared */
    int64_t num_pairs;
} tn_file_pair;

/* Opens the two files of *files and compares what both of them hold; the rest is trouble. False: a file cannot be read.
 * The caller closes *files in either case. */
bool tn_compare_files(const tn_compare_settings *given, tn_file_pair *files, tn_trouble *trouble, tenon_error *error);
void tn_compare_close(tn_file_pair *files);

/* Says that --npy-bf16 is for neither of the two. */
bool tn_compare_fail_no_npy(const char *const path[2], tenon_error *error);

/* ---- compare_report.c ---- */

typedef struct tn_compare_report tn_compare_report;

/* `a` and `b` are the names on the command line. NULL: no memory. */
tn_compare_report *tn_compare_report_new(const tn_compare_settings *given, const char *a, const char *b);

/* Reports on one pair of files: all there is, or the next shard. */
void tn_compare_report_add(tn_compare_report *report, const tn_file_pair *files);

/* Prints the verdict, then the trouble. Returns the exit code. */
int tn_compare_report_end(tn_compare_report *report, const tn_trouble *trouble);
void tn_compare_report_free(tn_compare_report *report);

#endif
