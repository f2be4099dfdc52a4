/* SPDX-License-Identifier: MIT */
#include "graph_case.h"

#include "counter_rng.h"
#include "ops_double.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static tenon_error error;

static void ok(tenon_status status)
{
    if (status != TENON_OK) fail_msg("%s", error.message);
}

static void *take(size_t size)
{
    void *memory = calloc(1, size > 0 ? size : 1);
    assert_non_null(memory);
    return memory;
}

/* One tensor in double and as a level reads it. */
typedef struct array {
    const char *name;
    int ndim;
    int64_t shape[4];
    int64_t rows, width; /* rows over all images */
    double *wide;        /* [rows, width] */
    float *narrow;
    DLTensor tensor;
} array;

/* A case at work. */
typedef struct work {
    const graph_case *c;
    tenon_adapter *adapter;
    const tn_graph *graph;
    array in[GRAPH_MOST], out[GRAPH_MOST], dx[GRAPH_MOST], dy[GRAPH_MOST];
    float *weights[512], *dw[512];
    DLTensor weight_tensors[512], dw_tensors[512];
    const DLTensor *dw_list[512];
    signed char *patches, *frames;
    DLTensor patch_tensor, frame_tensor, grid_tensor, integer_tensors[GRAPH_MOST];
    int64_t patch_shape[2], frame_shape[1], grid_shape[2];
    tenon_named_tensor inputs[2 * GRAPH_MOST], outputs[GRAPH_MOST], dinputs[GRAPH_MOST], doutputs[GRAPH_MOST];
    tenon_call call;
    int64_t patch_rows;
} work;

static int64_t rows_of_features(const graph_case *c, int64_t prefix)
{
    if (c->grids == NULL) return c->images * c->tokens;
    int64_t rows = 0;
    for (int64_t i = 0; i < c->images; i++) {
        int64_t each = 1;
        for (int64_t k = 0; k < c->grid_columns; k++)
            each *= c->grids[i * c->grid_columns + k];
        rows += each + prefix;
    }
    return rows;
}

static void array_new(array *a, const char *name, const graph_case *c, int64_t rows, int64_t width)
{
    *a = (array){.name = name, .rows = rows, .width = width};
    if (c->grids != NULL) {
        a->ndim = 2;
        a->shape[0] = rows;
        a->shape[1] = width;
    } else {
        a->ndim = 3;
        a->shape[0] = c->images;
        a->shape[1] = c->images > 0 ? rows / c->images : 0;
        a->shape[2] = width;
    }
    a->wide = take((size_t)(rows * width) * sizeof *a->wide);
    a->narrow = take((size_t)(rows * width) * sizeof *a->narrow);
}

static void array_free(array *a)
{
    free(a->wide), free(a->narrow);
}

/* The tensor in double, or in float32. */
static void array_show(array *a, bool wide)
{
    a->tensor = (DLTensor){.data = wide ? (void *)a->wide : (void *)a->narrow,
                           .device = {kDLCPU, 0},
                           .ndim = a->ndim,
                           .dtype = {kDLFloat, wide ? 64 : 32, 1},
                           .shape = a->shape};
}

static int64_t prefix_of(const work *w)
{
    return w->graph->prefix_tokens;
}

static void draw_array(array *a, uint64_t seed, double scale)
{
    for (int64_t i = 0; i < a->rows * a->width; i++) {
        a->narrow[i] = (float)(scale * (double)counter_value(seed, (uint64_t)i));
        a->wide[i] = (double)a->narrow[i];
    }
}

static void make_adapter(work *w)
{
    const graph_case *c = w->c;
    tenon_config *config;
    ok(tenon_config_from_json(c->json, strlen(c->json), &config, &error));
    ok(tenon_adapter_new(config, c->in_dim, c->out_dim, NULL, &w->adapter, &error));
    tenon_config_free(config);
    w->graph = w->adapter->graph;
    assert_true(w->graph->num_parameters <= 512);
    for (int i = 0; i < w->graph->num_parameters; i++) {
        const tn_parameter_spec *spec = &w->graph->parameters[i];
        const int64_t count = tn_parameter_elements(spec);
        const double bound = spec->fan_in > 0 ? 1.5 / sqrt((double)spec->fan_in) : 0.7;
        w->weights[i] = take((size_t)count * sizeof(float));
        w->dw[i] = take((size_t)count * sizeof(float));
        for (int64_t k = 0; k < count; k++) {
            const double drawn = bound * (double)counter_value(c->seed + 100 + (uint64_t)i, (uint64_t)k);
            w->weights[i][k] = (float)(spec->initial == TN_INITIAL_CONSTANT ? spec->value + drawn : drawn);
        }
        w->weight_tensors[i] = (DLTensor){.data = w->weights[i],
                                          .device = {kDLCPU, 0},
                                          .ndim = spec->ndim,
                                          .dtype = {kDLFloat, 32, 1},
                                          .shape = (int64_t *)(uintptr_t)spec->shape};
        w->dw_tensors[i] = w->weight_tensors[i];
        w->dw_tensors[i].data = w->dw[i];
        w->dw_list[i] = &w->dw_tensors[i];
        ok(tenon_adapter_set_parameter(w->adapter, spec->name, &w->weight_tensors[i], &error));
    }
}

static void make_masks(work *w)
{
    const graph_case *c = w->c;
    const int64_t prefix = prefix_of(w);
    w->patch_rows = rows_of_features(c, prefix) - c->images * prefix;
    w->patches = take((size_t)w->patch_rows);
    w->frames = take((size_t)c->images);
    for (int64_t i = 0; i < w->patch_rows; i++)
        w->patches[i] = counter_range(c->seed + 7, (uint64_t)i, 0, 4) > 0;
    for (int64_t i = 0; i < c->images; i++)
        w->frames[i] = c->images < 2 || i != c->images / 2;
    w->patch_shape[0] = c->grids != NULL ? w->patch_rows : c->images;
    w->patch_shape[1] = c->grids != NULL || c->images == 0 ? 0 : w->patch_rows / c->images;
    w->frame_shape[0] = c->images;
    w->patch_tensor = (DLTensor){.data = w->patches,
                                 .device = {kDLCPU, 0},
                                 .ndim = c->grids != NULL ? 1 : 2,
                                 .dtype = {kDLInt, 8, 1},
                                 .shape = w->patch_shape};
    w->frame_tensor = (DLTensor){
        .data = w->frames, .device = {kDLCPU, 0}, .ndim = 1, .dtype = {kDLInt, 8, 1}, .shape = w->frame_shape};
    if (c->patch_mask) w->call.patch_mask = &w->patch_tensor;
    if (c->frame_mask) w->call.frame_mask = &w->frame_tensor;
}

static void make_integers(work *w)
{
    const graph_case *c = w->c;
    for (int i = 0; i < c->num_integers; i++) {
        const graph_integers *given = &c->integers[i];
        w->integer_tensors[i] = (DLTensor){.data = (void *)(uintptr_t)given->values,
                                           .device = {kDLCPU, 0},
                                           .ndim = given->ndim,
                                           .dtype = {kDLInt, 64, 1},
                                           .shape = (int64_t *)(uintptr_t)given->shape};
        w->inputs[w->call.num_inputs++] = (tenon_named_tensor){given->name, &w->integer_tensors[i]};
    }
    if (c->grids == NULL) return;
    w->grid_shape[0] = c->images;
    w->grid_shape[1] = c->grid_columns;
    w->grid_tensor = (DLTensor){.data = (void *)(uintptr_t)c->grids,
                                .device = {kDLCPU, 0},
                                .ndim = 2,
                                .dtype = {kDLInt, 64, 1},
                                .shape = w->grid_shape};
    w->call.grids = &w->grid_tensor;
}

static void make_inputs(work *w)
{
    const graph_case *c = w->c;
    const int64_t features = rows_of_features(c, prefix_of(w));
    for (int i = 0; i < w->graph->num_inputs; i++) {
        const int64_t rows = i > 0 && c->input_tokens[i] > 0 ? c->images * c->input_tokens[i] : features;
        const int64_t width = w->graph->values[w->graph->inputs[i].value].width;
        array_new(&w->in[i], w->graph->inputs[i].name, c, rows, width);
        array_new(&w->dx[i], w->graph->inputs[i].name, c, rows, width);
        draw_array(&w->in[i], c->seed + 20 + (uint64_t)i, c->scale > 0 ? c->scale : 1);
        if (i == 0) continue;
        w->inputs[w->call.num_inputs++] = (tenon_named_tensor){w->in[i].name, &w->in[i].tensor};
        w->dinputs[i - 1] = (tenon_named_tensor){w->in[i].name, &w->dx[i].tensor};
    }
}

/* Rows of the outputs: what the geometry of the engine says. */
static void make_outputs(work *w)
{
    const graph_case *c = w->c;
    tn_extents extents = tn_extents_of(&w->call, c->images, c->tokens);
    tn_integers integers[GRAPH_MOST] = {{.data = NULL}};
    int64_t tokens[GRAPH_MOST];
    tn_geometry geometry;
    size_t bytes;
    extents.grids = c->grids;
    extents.grid_columns = c->grid_columns;
    for (int i = 0; i < w->graph->num_inputs; i++)
        tokens[i] = w->in[i].ndim == 3 ? w->in[i].shape[1] : 0;
    for (int i = 0; i < w->graph->num_integers; i++) {
        for (int k = 0; k < c->num_integers; k++) {
            const graph_integers *given = &c->integers[k];
            if (strcmp(given->name, w->graph->integers[i].name) != 0) continue;
            integers[i] = (tn_integers){given->values, given->ndim == 3 ? given->shape[1] : 1,
                                        given->ndim == 1 ? 1 : given->shape[given->ndim - 1]};
        }
    }
    extents.input_tokens = tokens;
    extents.integers = integers;
    assert_true(tn_geometry_size(w->graph, &extents, &bytes));
    void *memory = take(bytes);
    ok(tn_geometry_make(&geometry, w->graph, &extents, memory, &error));
    for (int i = 0; i < w->graph->num_outputs; i++) {
        const tn_value *value = &w->graph->values[w->graph->outputs[i].value];
        const int64_t rows = tn_geometry_first(&geometry, value->space, c->images);
        array_new(&w->out[i], w->graph->outputs[i].name, c, rows, value->width);
        array_new(&w->dy[i], w->graph->outputs[i].name, c, rows, value->width);
        draw_array(&w->dy[i], c->seed + 40 + (uint64_t)i, 1);
        if (i == 0) continue;
        w->outputs[i - 1] = (tenon_named_tensor){w->out[i].name, &w->out[i].tensor};
        w->doutputs[i - 1] = (tenon_named_tensor){w->out[i].name, &w->dy[i].tensor};
    }
    free(memory);
    w->call.outputs = w->outputs;
    w->call.num_outputs = w->graph->num_outputs - 1;
}

static work *work_new(const graph_case *c)
{
    work *w = take(sizeof *w);
    w->c = c;
    tenon_call_init(&w->call);
    if (c->height > 0) {
        w->call.grid_height = c->height;
        w->call.grid_width = c->width;
    }
    w->call.inputs = w->inputs;
    make_adapter(w);
    make_masks(w);
    make_integers(w);
    make_inputs(w);
    make_outputs(w);
    return w;
}

static void work_free(work *w)
{
    for (int i = 0; i < w->graph->num_inputs; i++)
        array_free(&w->in[i]), array_free(&w->dx[i]);
    for (int i = 0; i < w->graph->num_outputs; i++)
        array_free(&w->out[i]), array_free(&w->dy[i]);
    for (int i = 0; i < w->graph->num_parameters; i++)
        free(w->weights[i]), free(w->dw[i]);
    free(w->patches), free(w->frames);
    tenon_adapter_free(w->adapter);
    free(w);
}

/* ---- running ---- */

static void prepare(work *w, const tn_ops *ops)
{
    const tn_parallel two = {2, NULL}, one = {1, NULL};
    ok(tn_adapter_prepare_train_for(w->adapter, ops, ops == &ops_double ? &one : &two, &error));
}

static void show(work *w, bool wide)
{
    for (int i = 0; i < w->graph->num_inputs; i++)
        array_show(&w->in[i], wide), array_show(&w->dx[i], wide);
    for (int i = 0; i < w->graph->num_outputs; i++)
        array_show(&w->out[i], wide), array_show(&w->dy[i], wide);
}

enum { CANARY = 4096 };

/* A workspace with a canary behind it. */
static tenon_workspace workspace_of(size_t size)
{
    unsigned char *data = take(size + CANARY);
    memset(data + size, 0xa5, CANARY);
    return (tenon_workspace){data, size};
}

static void workspace_check(tenon_workspace *workspace)
{
    const unsigned char *behind = (const unsigned char *)workspace->data + workspace->size;
    for (int i = 0; i < CANARY; i++)
        assert_int_equal(behind[i], 0xa5);
    free(workspace->data);
}

static void forward(work *w, const tn_ops *ops)
{
    show(w, ops == &ops_double);
    size_t size;
    ok(tenon_adapter_workspace_size(w->adapter, w->c->tokens, &w->call, &size, &error));
    tenon_workspace workspace = workspace_of(size);
    ok(tenon_adapter_forward(w->adapter, &w->in[0].tensor, &w->out[0].tensor, &w->call, &workspace, &error));
    workspace_check(&workspace);
}

/* `only`: the gradient of that input alone, or, past the inputs, of that parameter; -1: all. */
static void backward_of(work *w, const tn_ops *ops, int only)
{
    const int inputs = w->graph->num_inputs;
    const DLTensor *wanted[512] = {NULL};
    tenon_gradients g;
    show(w, ops == &ops_double);
    tenon_gradients_init(&g);
    for (int i = 0; i < w->graph->num_parameters; i++)
        wanted[i] = only < 0 || only == inputs + i ? w->dw_list[i] : NULL;
    g.x = only <= 0 ? &w->dx[0].tensor : NULL;
    g.parameters = wanted;
    g.overwrite = true;
    const bool one_input = only > 0 && only < inputs;
    g.inputs = one_input ? w->dinputs + only - 1 : w->dinputs;
    g.num_inputs = only < 0 ? inputs - 1 : one_input;
    g.outputs = w->doutputs;
    g.num_outputs = w->graph->num_outputs - 1;
    for (int i = 0; i < w->graph->num_inputs; i++) {
        for (int64_t k = 0; k < w->dx[i].rows * w->dx[i].width; k++)
            if (ops == &ops_double) {
                w->dx[i].wide[k] = NAN; /* every number must be written */
            } else {
                w->dx[i].narrow[k] = NAN;
            }
    }
    size_t size;
    ok(tenon_adapter_backward_workspace_size(w->adapter, w->c->tokens, &g, &w->call, &size, &error));
    tenon_workspace workspace = workspace_of(size);
    ok(tenon_adapter_backward(w->adapter, &w->dy[0].tensor, &w->in[0].tensor, &g, &w->call, &workspace, &error));
    workspace_check(&workspace);
}

static void backward(work *w, const tn_ops *ops)
{
    backward_of(w, ops, -1);
}

static double loss(work *w)
{
    double sum = 0;
    forward(w, &ops_double);
    for (int i = 0; i < w->graph->num_outputs; i++) {
        for (int64_t k = 0; k < w->out[i].rows * w->out[i].width; k++)
            sum += w->out[i].wide[k] * w->dy[i].wide[k];
    }
    return sum;
}

/* ---- finite differences ---- */

static void judge(const char *what, double along, double expected, double size, double tolerance)
{
    if (fabs(along - expected) <= tolerance * size + 1e-8) return;
    fail_msg("%s: slope %.9g, expected %.9g of %.3g", what, along, expected, size);
}

/* The gradient of input i along a random direction. */
static void check_input_slope(work *w, int i, uint64_t trial)
{
    const double step = 1e-5;
    const int64_t count = w->in[i].rows * w->in[i].width;
    double *start = take((size_t)count * sizeof *start), side[2], along = 0, norm = 0, length = 0;
    double *direction = take((size_t)count * sizeof *direction);
    memcpy(start, w->in[i].wide, (size_t)count * sizeof *start);
    for (int64_t k = 0; k < count; k++) {
        direction[k] = (double)counter_value(w->c->seed + 900 + trial, (uint64_t)k);
        along += w->dx[i].wide[k] * direction[k];
        norm += w->dx[i].wide[k] * w->dx[i].wide[k];
        length += direction[k] * direction[k];
    }
    for (int s = 0; s < 2; s++) {
        for (int64_t k = 0; k < count; k++)
            w->in[i].wide[k] = start[k] + (s == 0 ? step : -step) * direction[k];
        side[s] = loss(w);
    }
    memcpy(w->in[i].wide, start, (size_t)count * sizeof *start);
    char what[160];
    snprintf(what, sizeof what, "%s, input %s", w->c->json, w->in[i].name);
    judge(what, along, (side[0] - side[1]) / (2 * step), sqrt(norm * length), w->c->nonlinear_kinks ? 1e-3 : 1e-6);
    free(start), free(direction);
}

/* The gradient of parameter i along a random direction, of which float32 keeps what it can. */
static void check_parameter_slope(work *w, int i, uint64_t trial)
{
    const float step = 0x1p-13f;
    const int64_t count = tn_parameter_elements(&w->graph->parameters[i]);
    float *start = take((size_t)count * sizeof *start);
    double side[2], along = 0, norm = 0, length = 0;
    float *moved[2] = {take((size_t)count * sizeof(float)), take((size_t)count * sizeof(float))};
    memcpy(start, w->weights[i], (size_t)count * sizeof *start);
    for (int64_t k = 0; k < count; k++) {
        const float direction = counter_value(w->c->seed + 950 + trial, (uint64_t)k);
        moved[0][k] = start[k] + step * direction;
        moved[1][k] = start[k] - step * direction;
        const double exact = (double)moved[0][k] - (double)moved[1][k];
        along += (double)w->dw[i][k] * exact;
        norm += (double)w->dw[i][k] * (double)w->dw[i][k];
        length += exact * exact;
    }
    for (int s = 0; s < 2; s++) {
        memcpy(w->weights[i], moved[s], (size_t)count * sizeof(float));
        prepare(w, &ops_double);
        side[s] = loss(w);
    }
    memcpy(w->weights[i], start, (size_t)count * sizeof *start);
    prepare(w, &ops_double);
    char what[200];
    snprintf(what, sizeof what, "%s, parameter %s", w->c->json, w->graph->parameters[i].name);
    judge(what, along, side[0] - side[1], sqrt(norm * length), w->c->nonlinear_kinks ? 1e-3 : 2e-6);
    free(start), free(moved[0]), free(moved[1]);
}

/* ---- beside the double table ---- */

static double distance(const double *expected, const float *found, int64_t count, double *norm)
{
    double difference = 0;
    *norm = 0;
    for (int64_t k = 0; k < count; k++) {
        const double d = (double)found[k] - expected[k];
        difference += d * d;
        *norm += expected[k] * expected[k];
    }
    *norm = sqrt(*norm);
    return sqrt(difference);
}

static void check_rows(const work *w, const array *a, const char *level)
{
    const double tolerance = w->c->tolerance > 0 ? w->c->tolerance : 1e-5;
    double whole;
    (void)distance(a->wide, a->narrow, a->rows * a->width, &whole);
    for (int64_t r = 0; r < a->rows; r++) {
        double norm;
        const double d = distance(a->wide + r * a->width, a->narrow + r * a->width, a->width, &norm);
        if (norm == 0) {
            if (d > 1e-6 * whole) fail_msg("%s, %s, %s: row %d should be zero", w->c->json, level, a->name, (int)r);
        } else if (!(d <= tolerance * norm + 1e-6 * whole / sqrt((double)a->rows))) {
            fail_msg("%s, %s, %s: row %d differs by %.3g of %.3g", w->c->json, level, a->name, (int)r, d, norm);
        }
    }
}

static void check_level(work *w, const tn_ops *ops, double *const *dw)
{
    const double tolerance = w->c->tolerance > 0 ? w->c->tolerance : 1e-5;
    prepare(w, ops);
    forward(w, ops);
    for (int i = 0; i < w->graph->num_outputs; i++)
        check_rows(w, &w->out[i], ops->name);
    backward(w, ops);
    for (int i = 0; i < w->graph->num_inputs; i++)
        check_rows(w, &w->dx[i], ops->name);
    for (int i = 0; i < w->graph->num_parameters; i++) {
        double norm;
        const double d = distance(dw[i], w->dw[i], tn_parameter_elements(&w->graph->parameters[i]), &norm);
        if (!(d <= tolerance * norm + 1e-6)) {
            fail_msg("%s, %s, gradient of %s differs by %.3g of %.3g", w->c->json, ops->name,
                     w->graph->parameters[i].name, d, norm);
        }
    }
}

/* ---- bits ---- */

typedef struct bits {
    float *out[GRAPH_MOST], *dx[GRAPH_MOST], *dw[512];
} bits;

static float *copy_of(const float *values, int64_t count)
{
    float *copy = take((size_t)count * sizeof *copy);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

static bits bits_take(work *w, const tn_ops *ops)
{
    bits b;
    forward(w, ops);
    backward(w, ops);
    for (int i = 0; i < w->graph->num_outputs; i++)
        b.out[i] = copy_of(w->out[i].narrow, w->out[i].rows * w->out[i].width);
    for (int i = 0; i < w->graph->num_inputs; i++)
        b.dx[i] = copy_of(w->dx[i].narrow, w->dx[i].rows * w->dx[i].width);
    for (int i = 0; i < w->graph->num_parameters; i++)
        b.dw[i] = copy_of(w->dw[i], tn_parameter_elements(&w->graph->parameters[i]));
    return b;
}

static void bits_free(const work *w, bits *b)
{
    for (int i = 0; i < w->graph->num_outputs; i++)
        free(b->out[i]);
    for (int i = 0; i < w->graph->num_inputs; i++)
        free(b->dx[i]);
    for (int i = 0; i < w->graph->num_parameters; i++)
        free(b->dw[i]);
}

static void bits_compare(const work *w, const bits *a, const bits *b, const char *how)
{
    for (int i = 0; i < w->graph->num_outputs; i++) {
        if (memcmp(a->out[i], b->out[i], (size_t)(w->out[i].rows * w->out[i].width) * sizeof(float)) != 0) {
            fail_msg("%s: output %s has other bits %s", w->c->json, w->out[i].name, how);
        }
    }
    for (int i = 0; i < w->graph->num_inputs; i++) {
        if (memcmp(a->dx[i], b->dx[i], (size_t)(w->dx[i].rows * w->dx[i].width) * sizeof(float)) != 0) {
            fail_msg("%s: gradient of %s has other bits %s", w->c->json, w->dx[i].name, how);
        }
    }
    for (int i = 0; i < w->graph->num_parameters; i++) {
        if (memcmp(a->dw[i], b->dw[i], (size_t)tn_parameter_elements(&w->graph->parameters[i]) * sizeof(float)) != 0) {
            fail_msg("%s: gradient of %s has other bits %s", w->c->json, w->graph->parameters[i].name, how);
        }
    }
}

/* With one thread, and with what forward saves. */
static void check_bits(work *w, const tn_ops *ops)
{
    prepare(w, ops);
    bits first = bits_take(w, ops);
    w->call.threads = 1;
    bits serial = bits_take(w, ops);
    bits_compare(w, &first, &serial, "on one thread");
    bits_free(w, &serial);
    w->call.threads = 3;
    if (w->c->grids == NULL && w->c->num_integers == 0) {
        ok(tenon_adapter_saved_size(w->adapter, w->c->images, w->c->tokens, &w->call, &w->call.saved_size, &error));
        w->call.saved = take(w->call.saved_size);
        bits saved = bits_take(w, ops);
        bits_compare(w, &first, &saved, "with what forward saved");
        bits_free(w, &saved);
        free(w->call.saved);
        w->call.saved = NULL;
        w->call.saved_size = 0;
    }
    w->call.threads = 0;
    bits_free(w, &first);
}

/* Each gradient by itself, all others frozen. */
static void check_frozen(work *w, const tn_ops *ops)
{
    const int inputs = w->graph->num_inputs;
    prepare(w, ops);
    bits first = bits_take(w, ops);
    for (int only = 0; only < inputs + w->graph->num_parameters; only++) {
        const int p = only - inputs;
        const int64_t count =
            p < 0 ? w->in[only].rows * w->in[only].width : tn_parameter_elements(&w->graph->parameters[p]);
        for (int64_t k = 0; p >= 0 && k < count; k++)
            w->dw[p][k] = NAN;
        backward_of(w, ops, only);
        const float *found = p < 0 ? w->dx[only].narrow : w->dw[p], *expected = p < 0 ? first.dx[only] : first.dw[p];
        if (memcmp(found, expected, (size_t)count * sizeof *found) == 0) continue;
        fail_msg("%s: gradient of %s has other bits where all others are frozen", w->c->json,
                 p < 0 ? w->in[only].name : w->graph->parameters[p].name);
    }
    bits_free(w, &first);
}

/* In groups of few images: the same bits of each image, and near sums over images. */
static void check_groups(work *w, const tn_ops *ops, double *const *dw)
{
    tn_ops small = *ops;
    small.group_bytes = 1 << 10;
    prepare(w, ops);
    bits first = bits_take(w, ops);
    check_level(w, &small, dw);
    for (int i = 0; i < w->graph->num_parameters; i++)
        memcpy(w->dw[i], first.dw[i], (size_t)tn_parameter_elements(&w->graph->parameters[i]) * sizeof(float));
    bits grouped = {{NULL}, {NULL}, {NULL}};
    for (int i = 0; i < w->graph->num_outputs; i++)
        grouped.out[i] = w->out[i].narrow;
    for (int i = 0; i < w->graph->num_inputs; i++)
        grouped.dx[i] = w->dx[i].narrow;
    for (int i = 0; i < w->graph->num_parameters; i++)
        grouped.dw[i] = w->dw[i];
    bits_compare(w, &first, &grouped, "in groups of few images");
    check_bits(w, &small);
    prepare(w, ops);
    bits_free(w, &first);
}

/* Masked rows may hold anything, and get no gradient. */
static void check_masked(work *w, const tn_ops *ops)
{
    const graph_case *c = w->c;
    if (!c->patch_mask && !c->frame_mask) return;
    prepare(w, ops);
    bits first = bits_take(w, ops);
    const int64_t prefix = prefix_of(w), width = w->in[0].width;
    int64_t row = 0, patch = 0;
    for (int64_t i = 0; i < c->images; i++) {
        int64_t patches = c->grids != NULL ? 1 : c->tokens - prefix;
        for (int64_t k = 0; c->grids != NULL && k < c->grid_columns; k++)
            patches *= c->grids[i * c->grid_columns + k];
        row += prefix;
        for (int64_t p = 0; p < patches; p++, row++, patch++) {
            const bool gone = (c->patch_mask && !w->patches[patch]) || (c->frame_mask && !w->frames[i]);
            for (int64_t k = 0; k < width && gone; k++) {
                w->in[0].narrow[row * width + k] = NAN;
                assert_true(first.dx[0][row * width + k] == 0);
            }
        }
    }
    bits masked = bits_take(w, ops);
    bits_compare(w, &first, &masked, "where masked rows are NaN");
    bits_free(w, &masked);
    bits_free(w, &first);
    for (int64_t k = 0; k < w->in[0].rows * width; k++)
        w->in[0].narrow[k] = (float)w->in[0].wide[k];
}

void graph_refused(const char *json, const char *says)
{
    tenon_error why;
    tenon_config *config;
    tenon_adapter *adapter = NULL;
    assert_int_equal(tenon_config_from_json(json, strlen(json), &config, &why), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 6, 4, NULL, &adapter, &why), TENON_INVALID);
    if (strstr(why.message, says) == NULL) fail_msg("%s: %s", json, why.message);
    assert_null(adapter);
    tenon_config_free(config);
}

void graph_check(const graph_case *c)
{
    work *w = work_new(c);
    double *dw[512];
    prepare(w, &ops_double);
    forward(w, &ops_double);
    backward(w, &ops_double);
    for (int i = 0; i < w->graph->num_parameters; i++) {
        const int64_t count = tn_parameter_elements(&w->graph->parameters[i]);
        dw[i] = take((size_t)count * sizeof(double));
        for (int64_t k = 0; k < count; k++)
            dw[i][k] = (double)w->dw[i][k];
    }
    for (uint64_t trial = 0; trial < 2; trial++) {
        for (int i = 0; i < w->graph->num_inputs; i++)
            check_input_slope(w, i, trial);
        for (int i = 0; i < w->graph->num_parameters; i++)
            check_parameter_slope(w, i, trial);
    }
    forward(w, &ops_double);
    for (const tn_ops *const *ops = tn_cpu_tables(); *ops != NULL; ops++) {
        check_level(w, *ops, dw);
        check_bits(w, *ops);
        check_masked(w, *ops);
        check_frozen(w, *ops);
        check_groups(w, *ops, dw);
    }
    for (int i = 0; i < w->graph->num_parameters; i++)
        free(dw[i]);
    work_free(w);
}

double *graph_tokens_with(const graph_case *c, graph_fill *fill, void *context, const double *x, int64_t *rows)
{
    work *w = work_new(c);
    for (int64_t i = 0; x != NULL && i < w->in[0].rows * w->in[0].width; i++)
        w->in[0].wide[i] = x[i];
    if (fill != NULL) fill(w->adapter, context);
    prepare(w, &ops_double);
    forward(w, &ops_double);
    const int64_t count = w->out[0].rows * w->out[0].width;
    double *tokens = take((size_t)count * sizeof *tokens);
    memcpy(tokens, w->out[0].wide, (size_t)count * sizeof *tokens);
    *rows = w->out[0].rows;
    work_free(w);
    return tokens;
}

double *graph_tokens(const graph_case *c, int64_t *rows)
{
    return graph_tokens_with(c, NULL, NULL, NULL, rows);
}
