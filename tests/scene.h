/* SPDX-License-Identifier: MIT */
/* A scene: one adapter, its features and masks, and the same thing for the double reference. Runs the library through
 * the public API only, in any layout, and never trusts it: outputs start as garbage, the bytes around them are checked.
 */
#ifndef TESTS_SCENE_H
#define TESTS_SCENE_H

#include "reference.h"
#include "tests.h"
#include <tenon/tenon.h>

/* How the rows of a tensor lie in memory. */
typedef enum layout {
    PACKED,
    PADDED,     /* rows C + 8 apart, behind a byte offset */
    REVERSED,   /* images and rows backwards */
    TRANSPOSED, /* [B, C, N] in memory: the last axis is not contiguous */
    LAYOUT_COUNT
} layout;

typedef struct scene {
    tenon_adapter *adapter;
    int64_t in, out, tokens, out_tokens;
    tenon_dtype features;
    bool give_grid;      /* pass height and width with the call */
    int64_t call_window; /* or TENON_UNSET */
    ref_module module;   /* without its weights: the adapter has them */
    ref_call call;
    float *x; /* [batch, tokens, in], values that `features` holds exactly */
    unsigned char *patch_mask, *frame_mask;
} scene;

typedef struct run_options {
    layout x_layout, y_layout;
    tenon_dtype tokens; /* dtype of y */
    int threads;
    const tenon_executor *executor;
    int misalign;         /* of the workspace, in bytes; NO_WORKSPACE: none is given */
    int64_t first, count; /* the images to run */
    float *attention;     /* [count, out_tokens, heads, window^2] or NULL */
} run_options;

enum { NO_WORKSPACE = -1 };

/* How to run a backward: `run` with its y_layout and tokens said of dy. */
typedef struct back_options {
    run_options run;
    layout dx_layout;
    tenon_dtype dx;     /* dtype of x's gradient; 0: not wanted */
    bool save;          /* a forward keeps what backward needs */
    const bool *frozen; /* [parameters] or NULL */
} back_options;

/* Gradients, widened. */
typedef struct scene_gradients {
    int64_t num;
    float **parameters; /* [num], of sizes[i] numbers; NULL: frozen */
    int64_t *sizes;
    float *x; /* [count, tokens, in] or NULL */
} scene_gradients;

/* Fails the test with the library's sentence. */
void expect_ok(tenon_status status, const tenon_error *error);

/* The adapter that a config in JSON describes, without parameters. */
tenon_adapter *adapter_from_json(const char *json, int64_t in, int64_t out, const tenon_allocator *allocator);

/* Fills the fields of s->module and s->call that follow from the adapter's config, window override and grid, and counts
 * the tokens, by the reference and by the library. in, out, tokens, call_window, give_grid, call's sizes and the masks
 * are set. */
void scene_finish(scene *s);

/* A scene that depends on the seed alone: type, widths, grid, window, ragged, prefix_tokens, masks, dtypes. What the
 * connector must not read is NaN. */
void scene_random(scene *s, uint64_t seed);
void scene_free(scene *s);

/* Draws x: finite everywhere (poison false), or NaN in all that no token reads. */
void scene_fill(scene *s, uint64_t seed, float scale, bool poison);

void scene_prepare(scene *s, const char *level);

/* All images, f32 tokens, packed, own workspace. */
run_options run_defaults(const scene *s);

/* The call that the options describe, for images first .. first + count. */
void scene_call(tenon_call *call, DLTensor masks[2], int64_t mask_shapes[3], const scene *s,
                const run_options *options);

/* y [count, out_tokens, out], widened. */
void scene_run(float *y, const scene *s, const run_options *options);
float *scene_tokens(const scene *s, const run_options *options); /* the caller frees */

/* All gradients in f32 of f32 dy, packed, recomputed. */
back_options back_defaults(const scene *s);

/* dy [batch, out_tokens, out] of bf16 numbers, so that every storage holds them; the caller frees it. */
float *scene_draw_dy(const scene *s, uint64_t seed);

/* Numbers of x, all images and tokens. */
int64_t scene_count_x(const scene *s);

/* Gradients for dy [count, out_tokens, out], rounded to its dtype; those of parameters start from zero. The adapter is
 * prepared for training. */
scene_gradients scene_backward(const scene *s, const float *dy, const back_options *options);
void scene_gradients_free(scene_gradients *g);

/* The scene's module with weights in double, one parameter after another in *weights, which the caller frees. */
ref_module scene_module(const scene *s, double **weights);

/* y [batch, out_tokens, out] by the reference; attention may be NULL. The caller frees y. */
double *scene_reference(const scene *s, double *attention);

/* Whether token t of an image reads this patch, were nothing masked. */
bool scene_reads(const scene *s, int64_t token, int64_t patch);

/* The index-th level of tenon_cpu_levels(), or NULL. */
const char *cpu_level(int index);

/* Largest ||y - ref|| / ||ref|| of a token; infinite for NaN and for a token that should be zero and is not. */
double worst_token(const float *y, const double *ref, int64_t tokens, int64_t width);

/* Storage types, written from their definition. */
float round_to(tenon_dtype dtype, float value);
uint16_t half_bits(tenon_dtype dtype, float value);
float half_value(tenon_dtype dtype, uint16_t bits);

uint32_t crc32_bytes(uint32_t crc, const void *data, size_t size);

/* malloc or fail the test. */
void *grab(size_t size);

#endif
