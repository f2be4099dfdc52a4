/* SPDX-License-Identifier: MIT */
/* Values that are not finite (NaN, infinity) in features, targets and tokens: counted, and the first one found named.
 */
#ifndef TN_CLI_FINITE_H
#define TN_CLI_FINITE_H

#include "tenon/tenon.h"

#include <jansson.h>

/* Values that are not finite, in the order in which they were looked at. */
typedef struct tn_nonfinite {
    int64_t count;
    size_t file; /* of the first: its number in a list of the caller's, and where it is in that file */
    int64_t image, token, column;
    double value;
} tn_nonfinite;

/* Rows of f32, bf16 or f16 numbers [images, tokens, width], dense; the first of them is image `first` of file `file`.
 */
typedef struct tn_value_rows {
    const void *data;
    DLDataType dtype;
    size_t file;
    int64_t first, images, tokens, width;
} tn_value_rows;

/* Is every one of `bytes` bytes of f32, bf16 or f16 numbers finite? About as fast as memory is read: call it first, and
 * the others where it says no. */
bool tn_all_finite(const void *data, DLDataType dtype, size_t bytes);

/* Adds what is not finite in the rows. `is_read` (NULL: all are) [images, tokens]: rows of 0 are not looked at. */
void tn_nonfinite_find(tn_nonfinite *found, const tn_value_rows *rows, const unsigned char *is_read);

/* Adds what is infinite in the f16 `rows`, but finite in `wide`, the same numbers [images, tokens, width] in f32. */
void tn_nonfinite_find_overflow(tn_nonfinite *found, const tn_value_rows *rows, const float *wide);

/* Adds `more`; the first is the one of the lower file, image, token and column. */
void tn_nonfinite_add(tn_nonfinite *found, const tn_nonfinite *more);

/* "image 3, token 17, column 5 is nan", in one of a few static buffers of the calling thread. */
const char *tn_nonfinite_text(const tn_nonfinite *found);

/* {"count": 2, "first": {"file": FILE, "image": 3, "token": 17, "column": 5, "value": "nan"}}, without "first" for a
 * count of 0, without "file" for NULL; and back, where anything else is a count of 0. */
json_t *tn_nonfinite_to_json(const tn_nonfinite *found, const char *file);
tn_nonfinite tn_nonfinite_from_json(const json_t *object);

#endif
