/* SPDX-License-Identifier: MIT */
/* What layer files call to append themselves to a graph. */
#ifndef TN_GRAPH_BUILDER_H
#define TN_GRAPH_BUILDER_H

#include "graph/layer.h"

enum { TN_NO_INPUTS = -1 };

/* A layer being appended: what it reads and what it makes. */
typedef struct tn_append {
    const tn_layer_type *type;
    const char *name;  /* NULL is an error of the caller, with a sentence */
    size_t own_size;   /* bytes of the private struct, which comes zeroed; 0: none */
    int num_inputs;    /* 0: one, the value chosen by tenon_from or the value before; or TN_NO_INPUTS */
    const int *inputs; /* [num_inputs] */
} tn_append;

/* Appends a layer, whose output does not exist yet; NULL after an error. The layer's widths are in_dim and, until the
 * caller sets it, out_dim = in_dim. */
tn_layer *tn_builder_append(tenon_builder *builder, const tn_append *append);

/* Makes the output of the layer appended last, in the space of its first input that is not shared, or in `space`, and
 * returns its number; -1 after an error. */
int tn_builder_finish(tenon_builder *builder, tn_layer *layer);
int tn_builder_finish_in(tenon_builder *builder, tn_layer *layer, int space);

/* The value that the next layer reads unless it is told which. */
int tn_builder_next(const tenon_builder *builder);

/* The value behind a number; the builder has checked the number. */
const tn_value *tn_builder_value(const tenon_builder *builder, int value);
const tn_space *tn_builder_space(const tenon_builder *builder, int space);

/* Declare a parameter of the layer appended last: "name.suffix", or "suffix" where the layer has no name. */
void tn_builder_matrix(tenon_builder *builder, const char *suffix, int64_t rows, int64_t cols);
void tn_builder_vector(tenon_builder *builder, const char *suffix, int64_t size, int64_t fan_in);

/* The same with everything said: its name is `suffix`. */
void tn_builder_parameter(tenon_builder *builder, const char *suffix, const tn_parameter_spec *spec);

/* The space of windows by this rule over `parent`: the one there is, or a new one. Checks the rule; -1: an error. */
int tn_builder_windows(tenon_builder *builder, int parent, int64_t side, const char *ragged, bool is_pool);

/* The space of `rows` rows that are made of parameters alone: the one there is, or a new one. */
int tn_builder_shared(tenon_builder *builder, int64_t rows);

/* The same with everything said; `ragged` is the name of the rule's. */
int tn_builder_windows_by(tenon_builder *builder, int parent, const tn_window_rule *rule, const char *ragged);

/* A new space of the layer appended last, whose type has a shape function. */
int tn_builder_layer_space(tenon_builder *builder, const tn_layer *layer);

/* Whether an integer tensor of this number is declared, with `columns` columns (0: any); else the builder fails. */
bool tn_builder_check_integers(tenon_builder *builder, int integers, int64_t columns);

/* The space of a map that the call brings: a row for each of the map's rows. */
int tn_builder_map(tenon_builder *builder, int parent, int integers);

/* Refuses flags that a layer does not have. */
void tn_builder_flags(tenon_builder *builder, unsigned flags, unsigned known);

/* True once the builder has failed. */
bool tn_builder_failed(const tenon_builder *builder);

#endif
