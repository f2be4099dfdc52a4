/* SPDX-License-Identifier: MIT */
#include "adapter/expected.h"

#include "core/size.h"
#include <stdlib.h>
#include <string.h>

tn_expected tn_expected_of_graph(const tn_graph *graph)
{
    return (tn_expected){.count = graph->num_parameters, .parameters = graph->parameters};
}

void tn_expected_free(tn_expected *expected)
{
    free(expected->sides);
    tn_graph_free(expected->graph);
    *expected = (tn_expected){.count = 0};
}

/* ---- building with widths that are tried ---- */

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A width that heads, groups and whatever else the options count divide. */
static tenon_status find_trial_width(const tenon_config *config, int64_t *width, tenon_error *error)
{
    enum { start = 5040, most = 1 << 26 }; /* the square of the largest, in doubles, is far from 2^63 */
    tn_options read = {NULL, 0};
    tn_graph *graph = NULL;
    TN_TRY(tn_config_graph(config, 0, 0, &read, &graph, error));
    tn_graph_free(graph);
    int64_t found = start;
    for (size_t i = 0; i < read.count; i++) {
        const int64_t option = read.items[i].kind == TN_OPTION_INT ? read.items[i].integer : 1;
        if (option < 2 || option > most) continue;
        const int64_t factor = option / greatest_divisor(found, option);
        if (found <= most / factor) found *= factor;
    }
    tn_options_free(&read);
    *width = found;
    return TENON_OK;
}

static tenon_status build(const tenon_config *config, const int64_t widths[TN_NUM_WIDTHS], tn_graph **graph,
                          tenon_error *error)
{
    tenon_config *tried = NULL;
    TN_TRY(tn_config_copy(&tried, config, error));
    tenon_status status = TENON_OK;
    if (widths[TN_HIDDEN_DIM] > 0) {
        status = tenon_config_set_int(tried, "hidden_dim", widths[TN_HIDDEN_DIM], error);
    }
    if (status == TENON_OK) {
        status = tn_config_graph(tried, widths[TN_IN_DIM], widths[TN_OUT_DIM], NULL, graph, error);
    }
    tenon_config_free(tried);
    return status;
}

/* ---- sides as functions of the widths ---- */

static bool same_parameters(const tn_graph *a, const tn_graph *b)
{
    if (a->num_parameters != b->num_parameters) return false;
    for (int64_t p = 0; p < a->num_parameters; p++) {
        const tn_parameter_spec *x = &a->parameters[p], *y = &b->parameters[p];
        if (x->ndim != y->ndim || strcmp(x->name, y->name) != 0) return false;
    }
    return true;
}

/* The slopes along one width, which is `step` larger in `other` than in expected->graph. */
static bool find_slopes(tn_expected *expected, const tn_graph *other, int width, int64_t step)
{
    if (!same_parameters(expected->graph, other)) return false;
    for (int64_t p = 0; p < expected->count; p++) {
        for (int d = 0; d < expected->parameters[p].ndim; d++) {
            const int64_t difference = other->parameters[p].shape[d] - expected->parameters[p].shape[d];
            tn_side *side = &expected->sides[p][d];
            if (step % 2 != 0 || difference % (step / 2) != 0) return false;
            side->slope[width] = difference / (step / 2);
            side->constant -= difference;
        }
    }
    return true;
}

static tenon_status find_sides(tn_expected *expected, const tenon_config *config, const bool unknown[TN_NUM_WIDTHS],
                               int64_t trial, tenon_error *error)
{
    int64_t widths[TN_NUM_WIDTHS];
    for (int w = 0; w < TN_NUM_WIDTHS; w++)
        widths[w] = unknown[w] ? trial : expected->widths[w];
    TN_TRY(build(config, widths, &expected->graph, error));
    expected->count = expected->graph->num_parameters;
    expected->parameters = expected->graph->parameters;
    expected->sides = calloc((size_t)expected->count + 1, sizeof *expected->sides); /* never of size 0 */
    if (expected->sides == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: shapes cannot be described");
    for (int64_t p = 0; p < expected->count; p++) {
        for (int d = 0; d < expected->parameters[p].ndim; d++)
            expected->sides[p][d].constant = expected->parameters[p].shape[d];
    }
    for (int w = 0; w < TN_NUM_WIDTHS; w++) {
        if (!unknown[w]) continue;
        tn_graph *other = NULL;
        widths[w] = 2 * trial;
        TN_TRY(build(config, widths, &other, error));
        widths[w] = trial;
        const bool found = find_slopes(expected, other, w, trial);
        tn_graph_free(other);
        if (!found) {
            return tn_fail(error, TENON_UNSUPPORTED, "the names or shapes of its parameters do not follow the widths");
        }
    }
    return TENON_OK;
}

tenon_status tn_expected_make(tn_expected *expected, const tenon_config *config, int64_t in_dim, int64_t out_dim,
                              bool find_hidden, tenon_error *error)
{
    const bool unknown[TN_NUM_WIDTHS] = {
        [TN_IN_DIM] = in_dim == 0, [TN_OUT_DIM] = out_dim == 0, [TN_HIDDEN_DIM] = find_hidden};
    tn_expected made = {.widths = {[TN_IN_DIM] = in_dim, [TN_OUT_DIM] = out_dim}};
    int64_t trial = 0;
    tenon_error reason;
    TN_TRY(find_trial_width(config, &trial, error));
    const tenon_status status = find_sides(&made, config, unknown, trial, &reason);
    if (status == TENON_OK) {
        *expected = made;
        return TENON_OK;
    }
    tn_expected_free(&made);
    if (status == TENON_NO_MEMORY || (in_dim > 0 && out_dim > 0)) return tn_fail(error, status, "%s", reason.message);
    return tn_fail(error, TENON_UNSUPPORTED,
                   "the widths of adapter type '%s' cannot be found from its tensors (%.1000s); give `in_dim` and "
                   "`out_dim` in the config",
                   config->type, reason.message);
}

bool tn_expected_uses(const tn_expected *expected, int width)
{
    for (int64_t p = 0; p < expected->count && expected->sides != NULL; p++) {
        for (int d = 0; d < expected->parameters[p].ndim; d++) {
            if (expected->sides[p][d].slope[width] != 0) return true;
        }
    }
    return false;
}

/* ---- shapes of widths, and widths of shapes ---- */

/* *value: the side; false when it depends on a width that is 0, or is past what 64 bits hold. */
static bool side_length(const tn_side *side, const int64_t widths[TN_NUM_WIDTHS], int64_t *value)
{
    *value = side->constant;
    for (int w = 0; w < TN_NUM_WIDTHS; w++) {
        int64_t part;
        if (side->slope[w] == 0) continue;
        if (widths[w] == 0 || !tn_mul_i64(side->slope[w], widths[w], &part) || part % 2 != 0 ||
            !tn_add_i64(*value, part / 2, value)) {
            return false;
        }
    }
    return true;
}

void tn_expected_shape(const tn_expected *expected, int64_t index, const int64_t widths[TN_NUM_WIDTHS],
                       int64_t shape[TN_MAX_SIDES])
{
    const tn_parameter_spec *parameter = &expected->parameters[index];
    for (int d = 0; d < parameter->ndim; d++) {
        shape[d] = parameter->shape[d];
        if (expected->sides != NULL && !side_length(&expected->sides[index][d], widths, &shape[d])) shape[d] = -1;
    }
}

/* The width of a side that depends on this width and otherwise on known ones; 0 when it tells none. */
static int64_t width_of_side(const tn_side *side, const int64_t widths[TN_NUM_WIDTHS], int width, int64_t length)
{
    int64_t known, rest;
    tn_side others = *side;
    others.slope[width] = 0;
    if (side->slope[width] == 0 || !side_length(&others, widths, &known)) return 0;
    if (__builtin_sub_overflow(length, known, &rest) || rest <= 0 || !tn_mul_i64(rest, 2, &rest)) return 0;
    return rest % side->slope[width] == 0 ? rest / side->slope[width] : 0;
}

typedef struct tally {
    int64_t width, votes;
} tally;

static void vote(tally *tallies, int64_t *count, int64_t width)
{
    int64_t i = 0;
    while (i < *count && tallies[i].width != width)
        i++;
    if (i == *count) tallies[(*count)++] = (tally){width, 0};
    tallies[i].votes++;
}

/* What most sides say; of equals, what the first of them says. */
static int64_t elect(const tn_expected *expected, const tenon_file_tensor *const *tensors,
                     const int64_t widths[TN_NUM_WIDTHS], int width, tally *tallies)
{
    int64_t count = 0, best = 0;
    for (int64_t p = 0; p < expected->count; p++) {
        const int ndim = expected->parameters[p].ndim;
        if (tensors[p] == NULL || tensors[p]->ndim != ndim) continue;
        for (int d = 0; d < ndim; d++) {
            const int64_t found = width_of_side(&expected->sides[p][d], widths, width, tensors[p]->shape[d]);
            if (found > 0) vote(tallies, &count, found);
        }
    }
    for (int64_t i = 1; i < count; i++) {
        if (tallies[i].votes > tallies[best].votes) best = i;
    }
    return count > 0 ? tallies[best].width : 0;
}

tenon_status tn_expected_solve(const tn_expected *expected, const tenon_file_tensor *const *tensors,
                               int64_t widths[TN_NUM_WIDTHS], tenon_error *error)
{
    memcpy(widths, expected->widths, sizeof expected->widths);
    if (expected->sides == NULL) return TENON_OK;
    tally *tallies = calloc((size_t)expected->count * TN_MAX_SIDES + 1, sizeof *tallies);
    if (tallies == NULL) return tn_fail(error, TENON_NO_MEMORY, "out of memory: the widths cannot be found");
    /* A side of two unknown widths tells one of them once the other is known. */
    for (int turn = 0; turn < TN_NUM_WIDTHS; turn++) {
        for (int w = 0; w < TN_NUM_WIDTHS; w++) {
            if (widths[w] == 0) widths[w] = elect(expected, tensors, widths, w, tallies);
        }
    }
    free(tallies);
    return TENON_OK;
}

int64_t tn_expected_fitting(const tn_expected *expected, const tenon_file_tensor *const *tensors,
                            const int64_t widths[TN_NUM_WIDTHS])
{
    int64_t fitting = 0;
    for (int64_t p = 0; p < expected->count; p++) {
        int64_t shape[TN_MAX_SIDES];
        const int ndim = expected->parameters[p].ndim;
        if (tensors[p] == NULL) continue;
        tn_expected_shape(expected, p, widths, shape);
        fitting += tensors[p]->absent_shard != NULL ||
                   (tensors[p]->ndim == ndim && memcmp(tensors[p]->shape, shape, (size_t)ndim * sizeof shape[0]) == 0);
    }
    return fitting;
}
