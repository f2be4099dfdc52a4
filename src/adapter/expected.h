/* SPDX-License-Identifier: MIT */
/* The tensors that a connector expects, while its widths may still be unknown.
 *
 * Each side of a tensor is  constant + slope . (in_dim, out_dim, hidden_dim),  which two builds with different widths
 * tell for any builder: nothing here knows a connector. Slopes count in halves, as a gate may take half of a width. The
 * widths then follow from the sides of a file's tensors. */
#ifndef TN_ADAPTER_EXPECTED_H
#define TN_ADAPTER_EXPECTED_H

#include "connectors/config.h"

enum { TN_IN_DIM, TN_OUT_DIM, TN_HIDDEN_DIM, TN_NUM_WIDTHS };
enum { TN_MAX_SIDES = sizeof((tn_parameter_spec *)0)->shape / sizeof((tn_parameter_spec *)0)->shape[0] };

typedef struct tn_side {
    int64_t constant;
    int64_t slope[TN_NUM_WIDTHS]; /* in halves */
} tn_side;

typedef struct tn_expected {
    int64_t count;                       /* of parameters */
    const tn_parameter_spec *parameters; /* [count], of `graph`: names and numbers of dimensions */
    tn_graph *graph;                     /* owned; NULL: another's */
    tn_side (*sides)[TN_MAX_SIDES];      /* [count]; NULL: the parameters' shapes are it */
    int64_t widths[TN_NUM_WIDTHS];       /* those that are known; 0: to be found */
} tn_expected;

/* What a connector whose widths are known expects; nothing to free. */
tn_expected tn_expected_of_graph(const tn_graph *graph);

/* What a config expects. in_dim, out_dim 0: to be found; so is hidden_dim with `find_hidden`, else it is the config's.
 * TENON_UNSUPPORTED: the builder does not take the widths that are tried. */
tenon_status tn_expected_make(tn_expected *expected, const tenon_config *config, int64_t in_dim, int64_t out_dim,
                              bool find_hidden, tenon_error *error);
void tn_expected_free(tn_expected *expected);

/* The shape of parameter `index` under these widths; a side that depends on a width that is 0 is -1. */
void tn_expected_shape(const tn_expected *expected, int64_t index, const int64_t widths[TN_NUM_WIDTHS],
                       int64_t shape[TN_MAX_SIDES]);

/* True when a side depends on a width that is to be found. */
bool tn_expected_uses(const tn_expected *expected, int width);

/* The widths: known ones, and of the others what most sides of the tensors agree on, in case of doubt the first; 0
 * where no side tells. tensors[i] is NULL where the checkpoint has no parameter i. */
tenon_status tn_expected_solve(const tn_expected *expected, const tenon_file_tensor *const *tensors,
                               int64_t widths[TN_NUM_WIDTHS], tenon_error *error);

/* How many of the tensors are there and have the shapes expected under these widths. Those of absent shards, of which
 * only the name is known, count. */
int64_t tn_expected_fitting(const tn_expected *expected, const tenon_file_tensor *const *tensors,
                            const int64_t widths[TN_NUM_WIDTHS]);

#endif
