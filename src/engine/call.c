/* SPDX-License-Identifier: MIT */
/* Checks of a call. */
#include "engine/call.h"

#include "core/size.h"
#include <inttypes.h>
#include <string.h>

/* ---- tensors ---- */

tenon_status tn_check_written(const tn_tensor *t, const char *name, tenon_error *error)
{
    const int last = t->ndim - 1;
    if (t->stride[last] != 1 && t->shape[last] > 1) {
        return tn_fail(error, TENON_UNSUPPORTED, "%s has stride %lld on its last axis; it must be contiguous", name,
                       (long long)t->stride[last]);
    }
    if (!tn_tensor_is_injective(t)) {
        return tn_fail(error, TENON_INVALID, "%s has strides under which two tokens share memory", name);
    }
    return TENON_OK;
}

tn_tensor tn_bytes_tensor(void *data, size_t bytes)
{
    return (tn_tensor){.data = bytes > 0 ? data : NULL, .ndim = 1, .shape = {(int64_t)bytes}, .stride = {1}};
}

tenon_status tn_check_overlap(const tn_touched *all, size_t count, tenon_error *error)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (all[i].tensor->data == NULL || all[j].tensor->data == NULL || !(all[i].written || all[j].written)) {
                continue;
            }
            if (!tn_tensor_overlap(all[j].tensor, all[j].element, all[i].tensor, all[i].element)) continue;
            return tn_fail(error, TENON_INVALID, "%s and %s overlap in memory", all[j].name, all[i].name);
        }
    }
    return TENON_OK;
}

tenon_status tn_check_overlap_run(const tn_run *run, bool written, const tn_touched *others, size_t count,
                                  tenon_error *error)
{
    const tn_graph *graph = run->graph;
    TN_TRY(tn_check_overlap(others, count, error));
    for (int i = 0; i < graph->num_inputs + graph->num_outputs; i++) {
        const bool output = i >= graph->num_inputs;
        const int index = output ? i - graph->num_inputs : i;
        const tn_tensor *t = output ? &run->outputs[index] : &run->inputs[index];
        const char *name = output ? (index > 0 ? graph->outputs[index].name
                                     : written ? "y"
                                               : "dy")
                                  : (index > 0 ? graph->inputs[index].name : "x");
        const tn_touched own = {name, t, tn_dtype_size(t->dtype), output && written};
        for (size_t k = 0; k < count; k++) {
            if (others[k].tensor->data == NULL) continue;
            TN_TRY(tn_check_overlap((const tn_touched[]){own, others[k]}, 2, error));
        }
        for (int j = 0; j < graph->num_inputs && output; j++) {
            const tn_tensor *x = &run->inputs[j];
            const tn_touched read = {j > 0 ? graph->inputs[j].name : "x", x, tn_dtype_size(x->dtype), false};
            TN_TRY(tn_check_overlap((const tn_touched[]){read, own}, 2, error));
        }
        for (int j = 0; j < index && output; j++) {
            const tn_tensor *y = &run->outputs[j];
            const tn_touched before = {j > 0 ? graph->outputs[j].name : "y", y, tn_dtype_size(y->dtype), written};
            TN_TRY(tn_check_overlap((const tn_touched[]){before, own}, 2, error));
        }
    }
    return TENON_OK;
}

bool tn_run_is_empty(const tn_run *run)
{
    return run->geometry.extents.images == 0 || tn_run_tokens(run) == 0;
}

const DLTensor *tn_find_tensor(const tenon_named_tensor *tensors, int64_t count, const char *name)
{
    for (int64_t i = 0; i < count; i++) {
        if (tensors[i].name != NULL && strcmp(tensors[i].name, name) == 0) return tensors[i].tensor;
    }
    return NULL;
}

/* ---- names ---- */

static bool graph_has_input(const tn_graph *graph, const char *name)
{
    for (int i = 1; i < graph->num_inputs; i++) {
        if (strcmp(graph->inputs[i].name, name) == 0) return true;
    }
    for (int i = 0; i < graph->num_integers; i++) {
        if (strcmp(graph->integers[i].name, name) == 0) return true;
    }
    return false;
}

static bool graph_has_output(const tn_graph *graph, const char *name)
{
    for (int i = 1; i < graph->num_outputs; i++) {
        if (strcmp(graph->outputs[i].name, name) == 0) return true;
    }
    return false;
}

/* "features, tap.0, grid_thw": what a call may bring beside x. */
static void list_inputs(tn_text *text, const tn_graph *graph)
{
    const size_t first = text->length;
    for (int i = 1; i < graph->num_inputs; i++)
        tn_text_add(text, "%s%s", text->length > first ? ", " : "", graph->inputs[i].name);
    for (int i = 0; i < graph->num_integers; i++)
        tn_text_add(text, "%s%s", text->length > first ? ", " : "", graph->integers[i].name);
    if (text->length == first) tn_text_add(text, "none");
}

static tenon_status check_names(const tn_run *run, const tn_request *request, tenon_error *error)
{
    const tenon_call *call = request->call;
    for (int64_t i = 0; i < call->num_inputs; i++) {
        const char *name = call->inputs[i].name;
        if (name == NULL || call->inputs[i].tensor == NULL) {
            return tn_fail(error, TENON_INVALID, "input %" PRId64 " of the call has no name or no tensor", i);
        }
        if (graph_has_input(run->graph, name)) continue;
        char known[512] = "";
        tn_text text = {known, sizeof known, 0};
        list_inputs(&text, run->graph);
        return tn_fail(error, TENON_INVALID, "adapter type '%s' has no input '%s'; beside the features it takes: %s",
                       run->type, tn_quote(name).text, known);
    }
    for (int64_t i = 0; i < request->num_outputs; i++) {
        const char *name = request->outputs[i].name;
        if (name == NULL || request->outputs[i].tensor == NULL) {
            return tn_fail(error, TENON_INVALID, "output %" PRId64 " of the call has no name or no tensor", i);
        }
        if (graph_has_output(run->graph, name)) continue;
        return tn_fail(error, TENON_INVALID, "adapter type '%s' has no output '%s' beside its tokens", run->type,
                       tn_quote(name).text);
    }
    return TENON_OK;
}

/* ---- integer tensors ---- */

/* An integer tensor on the CPU of 1 to 3 axes, as [images, rows, columns]. */
typedef struct integer_view {
    const char *data;
    int bits;
    int64_t shape[3], stride[3];
} integer_view;

static tenon_status view_integers(const DLTensor *tensor, const char *name, bool is_map, integer_view *view,
                                  tenon_error *error)
{
    if (tensor->device.device_type != kDLCPU || tensor->dtype.code != kDLInt || tensor->dtype.lanes != 1 ||
        (tensor->dtype.bits != 32 && tensor->dtype.bits != 64)) {
        return tn_fail(error, TENON_UNSUPPORTED, "'%s' must be a tensor of int32 or int64 on the CPU", name);
    }
    if (tensor->ndim < 1 || tensor->ndim > 3 || tensor->shape == NULL) {
        return tn_fail(error, TENON_MISMATCH, "'%s' has %d axes; expected 1 to 3", name, tensor->ndim);
    }
    *view = (integer_view){.data = (const char *)tensor->data + tensor->byte_offset, .bits = tensor->dtype.bits};
    int64_t dense = 1, elements = 1;
    for (int i = 2, axis = tensor->ndim - 1; i >= 0; i--, axis--) {
        /* Missing axes: one column for a list, one row for a table. */
        const int missing = is_map ? 0 : 1; /* two axes of a map are those of one image */
        const bool given = tensor->ndim == 1 ? i == 0 : tensor->ndim == 2 ? i != missing : true;
        const int from = tensor->ndim == 1 ? 0 : tensor->ndim == 2 ? (i <= 1 - missing ? 0 : 1) : i;
        view->shape[i] = given ? tensor->shape[from] : 1;
        view->stride[i] = !given ? 0 : tensor->strides != NULL ? tensor->strides[from] : dense;
        if (given && !tn_mul_i64(dense, tn_max_i64(1, view->shape[i]), &dense)) elements = -1;
        if (view->shape[i] < 0) elements = -1;
    }
    if (elements < 0) {
        return tn_fail(error, TENON_INVALID, "'%s' has shape %s, which is none", name,
                       tn_shape_to_text(tensor->ndim, tensor->shape).text);
    }
    return TENON_OK;
}

static int64_t integer_at(const integer_view *view, int64_t i, int64_t j, int64_t k)
{
    const int64_t at = i * view->stride[0] + j * view->stride[1] + k * view->stride[2];
    int64_t wide;
    int32_t narrow;
    if (view->bits == 64) {
        memcpy(&wide, view->data + at * 8, sizeof wide);
        return wide;
    }
    memcpy(&narrow, view->data + at * 4, sizeof narrow);
    return narrow;
}

/* Widens an integer tensor into the arena. */
static tenon_status read_integers(const DLTensor *tensor, const char *name, bool is_map, tn_integers *integers,
                                  int64_t *images, tn_arena *arena, tenon_error *error)
{
    integer_view view = {.bits = 64};
    TN_TRY(view_integers(tensor, name, is_map, &view, error));
    int64_t *data = tn_arena_rows(arena, view.shape[0], view.shape[1] * view.shape[2], sizeof *data);
    *integers = (tn_integers){data, view.shape[1], view.shape[2]};
    *images = view.shape[0];
    for (int64_t i = 0, next = 0; data != NULL && i < view.shape[0]; i++) {
        for (int64_t j = 0; j < view.shape[1]; j++) {
            for (int64_t k = 0; k < view.shape[2]; k++)
                data[next++] = integer_at(&view, i, j, k);
        }
    }
    return TENON_OK;
}

/* ---- extents ---- */

static tenon_status check_width(const tn_run *run, const tn_tensor *t, int input, const char *name, tenon_error *error)
{
    const int64_t width = run->graph->values[run->graph->inputs[input].value].width, found = t->shape[t->ndim - 1];
    if (found == width) return TENON_OK;
    return tn_fail(error, TENON_MISMATCH, "%s has width %lld; the adapter's %s is %lld (%s is %s)", name,
                   (long long)found, input == 0 ? "in_dim" : "width of it", (long long)width, name,
                   tn_shape_to_text(t->ndim, t->shape).text);
}

static tenon_status read_inputs(tn_run *run, const tn_request *request, tenon_error *error)
{
    const tn_graph *graph = run->graph;
    const bool packed = request->call->grids != NULL;
    const DLTensor *x = request->x;
    if (x == NULL) return tn_fail(error, TENON_INVALID, "x is NULL");
    if (x->ndim != 2 && (packed || x->ndim != 3)) {
        return tn_fail(error, TENON_MISMATCH, "x has %d dimensions; expected %s", x->ndim,
                       packed ? "2 beside grids: (rows, in_dim)"
                              : "3: (batch, tokens, in_dim), or 2 for one image: (tokens, in_dim)");
    }
    run->one_image = !packed && x->ndim == 2;
    for (int i = 0; i < graph->num_inputs; i++) {
        const char *name = i == 0 ? "x" : graph->inputs[i].name;
        const DLTensor *tensor =
            i == 0 ? request->x : tn_find_tensor(request->call->inputs, request->call->num_inputs, name);
        if (tensor == NULL) {
            return tn_fail(error, TENON_INVALID, "adapter type '%s' also needs the input '%s'", run->type, name);
        }
        TN_TRY(tn_images_view(tensor, name, packed ? 2 : 3, run->one_image, run->pack->ops->compute, NULL,
                              &run->inputs[i], error));
        TN_TRY(check_width(run, &run->inputs[i], i, name, error));
        if (!packed && run->inputs[i].shape[0] != run->inputs[0].shape[0]) {
            return tn_fail(error, TENON_MISMATCH, "x is of %lld images, '%s' of %lld",
                           (long long)run->inputs[0].shape[0], name, (long long)run->inputs[i].shape[0]);
        }
    }
    return TENON_OK;
}

static bool is_map(const tn_graph *graph, int integers)
{
    for (int s = 0; s < graph->num_spaces; s++) {
        if (graph->spaces[s].kind == TN_SPACE_MAP && graph->spaces[s].integers == integers) return true;
    }
    return false;
}

static tenon_status read_call_integers(tn_run *run, const tn_request *request, int64_t images, tn_arena *arena,
                                       tenon_error *error)
{
    for (int i = 0; i < run->graph->num_integers; i++) {
        const tn_graph_integers *declared = &run->graph->integers[i];
        const DLTensor *tensor = tn_find_tensor(request->call->inputs, request->call->num_inputs, declared->name);
        int64_t found;
        run->integers[i] = (tn_integers){.data = NULL};
        if (tensor == NULL) continue;
        TN_TRY(read_integers(tensor, declared->name, is_map(run->graph, i), &run->integers[i], &found, arena, error));
        if (declared->columns > 0 && run->integers[i].columns != declared->columns) {
            return tn_fail(error, TENON_MISMATCH, "'%s' has %lld columns; expected %lld", declared->name,
                           (long long)run->integers[i].columns, (long long)declared->columns);
        }
        if (!is_map(run->graph, i) && run->integers[i].rows != 1) {
            return tn_fail(error, TENON_MISMATCH, "'%s' has 3 axes; expected 2: (images, columns)", declared->name);
        }
        if (images >= 0 && found != images) {
            return tn_fail(error, TENON_MISMATCH, "'%s' is of %lld images, the features of %lld", declared->name,
                           (long long)found, (long long)images);
        }
    }
    return TENON_OK;
}

/* The grids of a packed batch: (images, 2) or (images, 3). */
static tenon_status read_grids(tn_extents *extents, const tenon_call *call, tn_arena *arena, tenon_error *error)
{
    tn_integers grids;
    if (call->grids == NULL) return TENON_OK;
    if (call->grids->ndim != 2) {
        return tn_fail(error, TENON_MISMATCH, "grids has %d axes; expected (images, 2) or (images, 3)",
                       call->grids->ndim);
    }
    if (call->grid_height != TENON_UNSET || call->grid_width != TENON_UNSET) {
        return tn_fail(error, TENON_INVALID, "a call has grids, one for each image, or one grid for all, not both");
    }
    TN_TRY(read_integers(call->grids, "grids", false, &grids, &extents->images, arena, error));
    if (grids.columns != 2 && grids.columns != 3) {
        return tn_fail(error, TENON_MISMATCH,
                       "grids has %lld columns; expected height and width, or time, height and "
                       "width",
                       (long long)grids.columns);
    }
    extents->grids = grids.data;
    extents->grid_columns = grids.columns;
    return TENON_OK;
}

/* The features of a packed batch are as many rows as the grids say. */
static tenon_status check_packed_rows(const tn_run *run, tenon_error *error)
{
    const tn_geometry *g = &run->geometry;
    for (int i = 0; i < run->graph->num_inputs && g->packed; i++) {
        const int space = run->graph->values[run->graph->inputs[i].value].space;
        int64_t rows = tn_geometry_first(g, space, g->extents.images);
        if (space == run->graph->values[0].space) rows += run->graph->prefix_tokens * g->extents.images;
        if (run->inputs[i].shape[0] == rows) continue;
        return tn_fail(error, TENON_MISMATCH, "%s has %lld rows; the grids of its %lld images make %lld",
                       i == 0 ? "x" : run->graph->inputs[i].name, (long long)run->inputs[i].shape[0],
                       (long long)g->extents.images, (long long)rows);
    }
    return TENON_OK;
}

/* Inputs in the space of the features have as many rows as these. */
static tenon_status check_taps(const tn_run *run, tenon_error *error)
{
    const tn_graph *graph = run->graph;
    for (int i = 1; i < graph->num_inputs && !run->geometry.packed; i++) {
        const int space = graph->values[graph->inputs[i].value].space;
        if (space != graph->values[graph->inputs[0].value].space) continue;
        if (run->inputs[i].shape[1] == run->inputs[0].shape[1]) continue;
        return tn_fail(error, TENON_MISMATCH, "'%s' has %lld rows an image, the features have %lld",
                       graph->inputs[i].name, (long long)run->inputs[i].shape[1], (long long)run->inputs[0].shape[1]);
    }
    return TENON_OK;
}

/* A map's entries are rows of their image's features, or -1. */
static tenon_status check_maps(const tn_run *run, tenon_error *error)
{
    const tn_graph *graph = run->graph;
    for (int s = 0; s < graph->num_spaces; s++) {
        const tn_space *space = &graph->spaces[s];
        if (space->kind != TN_SPACE_MAP) continue;
        const tn_integers *map = &run->integers[space->integers];
        for (int64_t image = 0, e = 0; image < run->geometry.extents.images; image++) {
            const int64_t rows = tn_shape_rows(tn_geometry_shape(&run->geometry, space->parent, image));
            for (int64_t j = 0; j < map->rows * map->columns; j++, e++) {
                if (map->data[e] >= -1 && map->data[e] < rows) continue;
                return tn_fail(error, TENON_MISMATCH, "'%s' names row %lld of image %lld, which has %lld",
                               graph->integers[space->integers].name, (long long)map->data[e], (long long)image,
                               (long long)rows);
            }
        }
    }
    return TENON_OK;
}

static tenon_status read_masks(tn_run *run, const tenon_call *call, tenon_error *error)
{
    const tn_geometry *g = &run->geometry;
    const int features = run->graph->values[0].space;
    const int64_t images = g->extents.images;
    run->masks = (tn_masks){.patch = {.data = NULL}};
    if (call->patch_mask != NULL) {
        const int64_t rows = tn_geometry_first(g, features, g->packed ? images : 1);
        const int64_t expected[] = {images, rows};
        const bool one_row = run->one_image && call->patch_mask->ndim == 1;
        TN_TRY(tn_mask_view(call->patch_mask, "patch_mask", g->packed || one_row ? 1 : 2, &run->masks.patch, error));
        if (one_row) tn_tensor_add_images(&run->masks.patch);
        TN_TRY(tn_check_shape(&run->masks.patch, "patch_mask", g->packed ? &rows : expected, error));
    }
    if (call->frame_mask != NULL) {
        TN_TRY(tn_mask_view(call->frame_mask, "frame_mask", 1, &run->masks.frame, error));
        TN_TRY(tn_check_shape(&run->masks.frame, "frame_mask", &images, error));
    }
    return TENON_OK;
}

/* ---- outputs ---- */

int64_t tn_run_tokens(const tn_run *run)
{
    const int space = run->graph->values[run->graph->outputs[0].value].space;
    return tn_geometry_first(&run->geometry, space, run->geometry.extents.images);
}

static tenon_status check_output(tn_run *run, int index, const DLTensor *tensor, const char *name, bool written,
                                 tenon_error *error)
{
    const tn_geometry *g = &run->geometry;
    const tn_value *value = &run->graph->values[run->graph->outputs[index].value];
    const int64_t images = g->extents.images, rows = tn_geometry_first(g, value->space, g->packed ? images : 1);
    const int64_t expected[] = {images, rows, value->width};
    TN_TRY(tn_images_view(tensor, name, g->packed ? 2 : 3, run->one_image, run->pack->ops->compute,
                          g->packed ? expected + 1 : expected, &run->outputs[index], error));
    return written ? tn_check_written(&run->outputs[index], name, error) : TENON_OK;
}

static tenon_status read_outputs(tn_run *run, const tn_request *request, tenon_error *error)
{
    for (int i = 0; i < run->graph->num_outputs; i++) {
        const char *name = i == 0 ? request->y_name : run->graph->outputs[i].name;
        const DLTensor *tensor = i == 0 ? request->y : tn_find_tensor(request->outputs, request->num_outputs, name);
        run->outputs[i] = (tn_tensor){.data = NULL};
        if (tensor == NULL && request->gradients) continue;
        if (tensor == NULL) {
            return tn_fail(error, TENON_INVALID, "adapter type '%s' also makes the output '%s'; give it a tensor",
                           run->type, name);
        }
        TN_TRY(check_output(run, i, tensor, name, !request->gradients, error));
    }
    return TENON_OK;
}

/* ---- the whole ---- */

/* The arrays whose lengths are the graph's. */
static void take_arrays(tn_run *run, tn_arena *arena)
{
    run->inputs = tn_arena_array(arena, run->graph->num_inputs, sizeof *run->inputs);
    run->outputs = tn_arena_array(arena, run->graph->num_outputs, sizeof *run->outputs);
    run->integers = tn_arena_array(arena, run->graph->num_integers, sizeof *run->integers);
}

static bool take_geometry(tn_run *run, const tn_extents *extents, tn_arena *arena, void **memory)
{
    size_t bytes;
    if (!tn_geometry_size(run->graph, extents, &bytes)) return false;
    *memory = tn_arena_take(arena, bytes);
    return !arena->overflow;
}

static tenon_status too_large(tenon_error *error)
{
    return tn_fail(error, TENON_INVALID, "the workspace of this call does not fit 64 bits");
}

/* Images and their tokens; those that sizes are asked for, or those of x. */
static tenon_status find_extents(tn_run *run, const tn_request *request, tn_extents *extents, tn_arena *arena,
                                 tenon_error *error)
{
    const bool sized = request->sized;
    *extents = tn_extents_of(request->call, request->batch, request->num_input);
    TN_TRY(read_grids(extents, request->call, arena, error));
    if (!sized) {
        TN_TRY(read_inputs(run, request, error));
        if (extents->grids == NULL) {
            extents->images = run->inputs[0].shape[0];
            extents->tokens = run->inputs[0].shape[1];
        }
    }
    return TENON_OK;
}

tenon_status tn_run_open_size(const tn_run *run, const tn_request *request, size_t *bytes, tenon_error *error)
{
    tn_run scratch = *run;
    tn_arena arena = {.base = NULL};
    tn_extents extents = tn_extents_of(request->call, request->batch, request->num_input);
    tn_integers integers;
    int64_t images;
    void *memory;
    take_arrays(&scratch, &arena);
    int64_t *tokens = tn_arena_array(&arena, run->graph->num_inputs, sizeof *tokens);
    (void)tokens;
    TN_TRY(read_grids(&extents, request->call, &arena, error));
    static const int64_t some[1];
    if (request->call->grids != NULL) extents.grids = some; /* only whether there are grids counts for the size */
    for (int64_t i = 0; i < request->call->num_inputs; i++) {
        const tenon_named_tensor *given = &request->call->inputs[i];
        if (given->tensor == NULL || given->tensor->dtype.code != kDLInt) continue;
        const char *name = given->name != NULL ? given->name : "";
        TN_TRY(read_integers(given->tensor, name, false, &integers, &images, &arena, error));
    }
    if (!take_geometry(&scratch, &extents, &arena, &memory)) return too_large(error);
    *bytes = arena.used;
    return TENON_OK;
}

tenon_status tn_run_open(tn_run *run, const tn_request *request, tn_arena *arena, tenon_error *error)
{
    tn_extents extents;
    void *memory;
    const bool sized = request->sized;
    TN_TRY(tn_parallel_init(&run->parallel, request->call->threads, request->call->executor, error));
    take_arrays(run, arena);
    int64_t *tokens = tn_arena_array(arena, run->graph->num_inputs, sizeof *tokens);
    if (!sized) TN_TRY(check_names(run, request, error));
    TN_TRY(find_extents(run, request, &extents, arena, error));
    const bool counted = !sized || extents.grids != NULL; /* the images of the call are known */
    TN_TRY(read_call_integers(run, request, counted ? extents.images : -1, arena, error));
    extents.integers = run->integers;
    for (int i = 0; i < run->graph->num_inputs && !sized && extents.grids == NULL; i++)
        tokens[i] = run->inputs[i].shape[1];
    if (!sized && extents.grids == NULL) extents.input_tokens = tokens;
    if (!take_geometry(run, &extents, arena, &memory)) return too_large(error);
    TN_TRY(tn_geometry_make(&run->geometry, run->graph, &extents, memory, error));
    if (sized) return TENON_OK;
    TN_TRY(check_packed_rows(run, error));
    TN_TRY(check_taps(run, error));
    TN_TRY(check_maps(run, error));
    run->saved = request->call->saved;
    run->saved_size = request->call->saved_size;
    TN_TRY(read_masks(run, request->call, error));
    return read_outputs(run, request, error);
}
