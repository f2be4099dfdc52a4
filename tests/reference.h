/* SPDX-License-Identifier: MIT */
/* The four connectors in double, in their direct form: queries, keys and values per patch, one window after another.
 * Independent of the library and of scripts/reference.py; what both are compared with.
 *
 * Every token reads the patches of its window that exist and are not masked. A token that reads none, and every token
 * of a masked frame, is zero.
 */
#ifndef TESTS_REFERENCE_H
#define TESTS_REFERENCE_H

#include <stdint.h>

/* y = x weight^T + bias */
typedef struct ref_linear {
    int64_t out, in;
    const double *weight; /* [out, in] */
    const double *bias;   /* [out] */
} ref_linear;

typedef struct ref_module {
    const char *type; /* "linear", "mlp_2layer", "avgpool", "attentional_pool" */
    const char *activation;
    const char *ragged; /* "partial" or "drop"; a grid that "reject" refuses is for the caller to leave out */
    int64_t window, heads, prefix_tokens;
    ref_linear linear[5]; /* in declaration order */
} ref_module;

typedef struct ref_call {
    int64_t batch, height, width;    /* tokens = prefix_tokens + height * width */
    const unsigned char *patch_mask; /* [batch, height * width] or NULL */
    const unsigned char *frame_mask; /* [batch] or NULL */
} ref_call;

int64_t ref_out_tokens(const ref_module *module, const ref_call *call);

/* x [batch, tokens, in] -> y [batch, out_tokens, out]; attention [batch, out_tokens, heads, window^2] or NULL. */
void ref_forward(double *y, double *attention, const double *x, const ref_module *module, const ref_call *call);

/* The element-wise functions by name. */
double ref_activation(const char *name, double x);

#endif
