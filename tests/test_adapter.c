/* SPDX-License-Identifier: MIT */
/* The adapter: parameters, prepare, the checks of a call, blocks and levels of windows, workspace, threads. Values are
 * judged elsewhere (test_properties, test_golden); here the layers run on the table in double. */
#include "adapter/adapter.h"
#include "adapters.h"
#include "ops_double.h"
#include "tenon/tenon.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void prepare_double(tenon_adapter *adapter)
{
    const tn_parallel serial = {1, NULL};
    assert_ok(tn_adapter_prepare_for(adapter, &ops_double, &serial, &error));
}

/* A dense float32 tensor of three axes over `data`. */
typedef struct tensor3 {
    int64_t shape[3];
    int64_t strides[3];
    DLTensor tensor;
} tensor3;

static void tensor3_init(tensor3 *t, float *data, int64_t a, int64_t b, int64_t c)
{
    *t = (tensor3){.shape = {a, b, c}, .strides = {b * c, c, 1}};
    t->tensor = (DLTensor){data, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, t->shape, t->strides, 0};
}

/* linear -> window mean -> relu -> window mean -> linear: rows before, between and after two levels of windows. */
static void pyramid(tenon_builder *b)
{
    const int64_t first = tenon_option_int(b, "first_window", 2);
    tenon_linear(b, "stem", 3, TENON_BIAS);
    tenon_window_mean(b, first, "partial");
    tenon_activation(b, "relu");
    tenon_window_mean(b, 2, "partial");
    tenon_linear(b, "head", tenon_builder_out_dim(b), TENON_BIAS);
}

/* Mean over the present cells of each window of a grid [h, w, c]; presence is NaN-free cells. Returns the new grid. */
static double *pool_grid(const double *grid, int64_t h, int64_t w, int64_t c, int64_t window)
{
    const int64_t oh = (h + window - 1) / window, ow = (w + window - 1) / window;
    double *out = malloc((size_t)(oh * ow * c) * sizeof *out);
    for (int64_t o = 0; o < oh * ow * c; o++) {
        const int64_t channel = o % c, column = o / c % ow, row = o / c / ow;
        double sum = 0;
        int count = 0;
        for (int64_t y = row * window; y < h && y < (row + 1) * window; y++) {
            for (int64_t x = column * window; x < w && x < (column + 1) * window; x++) {
                const double v = grid[(y * w + x) * c + channel];
                if (isnan(v)) continue;
                sum += v;
                count++;
            }
        }
        out[o] = count > 0 ? sum / count : NAN;
    }
    return out;
}

static const float *parameter_data(const tenon_adapter *adapter, const char *name)
{
    int64_t index;
    tenon_parameter p;
    tenon_parameter_init(&p);
    assert_ok(tenon_adapter_find_parameter(adapter, name, &index, &error));
    assert_ok(tenon_adapter_parameter(adapter, index, &p, &error));
    return p.data;
}

static double *dense(const tenon_adapter *adapter, const char *name, const double *x, int64_t rows, int64_t k,
                     int64_t n)
{
    char full[64];
    double *y = malloc((size_t)(rows * n) * sizeof *y);
    snprintf(full, sizeof full, "%s.weight", name);
    const float *w = parameter_data(adapter, full);
    snprintf(full, sizeof full, "%s.bias", name);
    const float *b = parameter_data(adapter, full);
    for (int64_t i = 0; i < rows * n; i++) {
        y[i] = (double)b[i % n];
        for (int64_t j = 0; j < k; j++)
            y[i] += (double)w[i % n * k + j] * x[i / n * k + j];
    }
    return y;
}

/* The pyramid of one image [h * w, 4], masked cells NaN; result [*count, 5], dead tokens NaN. */
static double *reference_pyramid(const tenon_adapter *adapter, const float *x, const uint8_t *mask, int64_t h,
                                 int64_t w, int64_t window, int64_t *count)
{
    double *image = malloc((size_t)(h * w * 4) * sizeof *image);
    for (int64_t i = 0; i < h * w * 4; i++)
        image[i] = mask[i / 4] ? (double)x[i] : NAN;
    double *stem = dense(adapter, "stem", image, h * w, 4, 3);
    double *first = pool_grid(stem, h, w, 3, window);
    const int64_t fh = (h + window - 1) / window, fw = (w + window - 1) / window;
    for (int64_t i = 0; i < fh * fw * 3; i++)
        first[i] = isnan(first[i]) ? NAN : fmax(first[i], 0);
    double *second = pool_grid(first, fh, fw, 3, 2);
    *count = (fh + 1) / 2 * ((fw + 1) / 2);
    double *head = dense(adapter, "head", second, *count, 3, 5);
    free(image), free(stem), free(first), free(second);
    return head;
}

static void rows_and_windows_mix(void **state)
{
    (void)state;
    (void)!tenon_register_adapter("pyramid", pyramid, NULL, NULL);
    tenon_adapter *adapter = adapter_of("{\"type\": \"pyramid\"}", 4, 5);
    prepare_double(adapter);
    for (int64_t trial = 0; trial < 40; trial++) {
        const int64_t h = 1 + trial % 7, w = 1 + trial % 5, batch = 1 + trial % 3, n = h * w, window = 1 + trial % 3;
        float *x = random_floats(batch * n * 4);
        uint8_t *mask = malloc((size_t)(batch * n));
        for (int64_t i = 0; i < batch * n; i++)
            mask[i] = trial < 10 || x[i * 4] > -0.3f;
        tenon_call call;
        tenon_call_init(&call);
        call.grid_height = h, call.grid_width = w;
        if (trial % 2 == 1) call.pool_window = window; /* overrides both pools */
        DLTensor mask_tensor = {mask, {kDLCPU, 0}, 2, {kDLUInt, 8, 1}, (int64_t[]){batch, n}, NULL, 0};
        call.patch_mask = &mask_tensor;
        int64_t m;
        assert_ok(tenon_adapter_output_num_tokens(adapter, &call, n, &m, &error));
        float *y = malloc((size_t)(batch * m * 5) * sizeof *y);
        tensor3 tx, ty;
        tensor3_init(&tx, x, batch, n, 4);
        tensor3_init(&ty, y, batch, m, 5);
        assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, NULL, &error));
        for (int64_t b = 0; b < batch && trial % 2 == 0; b++) {
            int64_t count;
            double *expected = reference_pyramid(adapter, x + b * n * 4, mask + b * n, h, w, 2, &count);
            assert_int_equal(count, m);
            for (int64_t i = 0; i < m * 5; i++) {
                const float found = y[b * m * 5 + i];
                if (isnan(expected[i])) {
                    assert_true(found == 0);
                } else {
                    assert_true(fabs((double)found - expected[i]) < 1e-6);
                }
            }
            free(expected);
        }
        free(x), free(y), free(mask);
    }
    tenon_adapter_free(adapter);
}

static void parameters_are_set_and_borrowed(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"linear\"}", 2, 2);
    float weight[] = {1, 2, 3, 4}, bias[] = {10, 20}, x[] = {1, 1}, y[2];
    DLTensor t = {weight, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, (int64_t[]){2, 2}, NULL, 0};
    assert_ok(tenon_adapter_set_parameter(adapter, "proj.weight", &t, &error));
    t.ndim = 1, t.data = bias;
    assert_ok(tenon_adapter_set_parameter(adapter, "proj.bias", &t, &error));
    assert_ptr_equal(parameter_data(adapter, "proj.weight"), weight);
    t.shape = (int64_t[]){3};
    assert_says(tenon_adapter_set_parameter(adapter, "proj.bias", &t, &error), TENON_MISMATCH,
                "'proj.bias' has shape [3]; expected [2]");
    assert_says(tenon_adapter_set_parameter(adapter, "proj.bia", &t, &error), TENON_NOT_FOUND,
                "proj.weight, proj.bias");
    t.shape = (int64_t[]){2}, t.strides = (int64_t[]){2};
    assert_says(tenon_adapter_set_parameter(adapter, "proj.bias", &t, &error), TENON_UNSUPPORTED, "strided");
    prepare_double(adapter);
    bias[0] = 0; /* the pack has its own copy */
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 1, 2);
    tensor3_init(&ty, y, 1, 1, 2);
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error));
    assert_true(y[0] == 13 && y[1] == 27);
    tenon_adapter_free(adapter);
}

static void changes_unpublish_the_pack(void **state)
{
    (void)state;
    float x[4] = {0}, y[4];
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 1, 4);
    tensor3_init(&ty, y, 1, 1, 4);
    tenon_config *config;
    tenon_adapter *adapter;
    assert_ok(tenon_config_new("linear", &config, &error));
    assert_ok(tenon_adapter_new(config, 4, 4, NULL, &adapter, &error));
    tenon_config_free(config);
    size_t bytes;
    assert_says(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error), TENON_NOT_PREPARED,
                "tenon_adapter_prepare");
    assert_ok(
        tenon_adapter_workspace_size(adapter, 1, NULL, &bytes, &error)); /* B140: known before anything is loaded */
    assert_true(bytes > 0);
    assert_says(tenon_adapter_prepare(adapter, NULL, &error), TENON_NOT_PREPARED, "'proj.weight' has no storage");
    assert_says(tenon_adapter_reset_parameters(adapter, (tenon_dtype)9, 0, &error), TENON_INVALID, "f32, bf16 or f16");
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 0, &error));
    assert_null(tenon_adapter_cpu(adapter));
    prepare_double(adapter);
    assert_string_equal(tenon_adapter_cpu(adapter), "double");
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error));
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_BF16, 0, &error));
    assert_int_equal(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, NULL), TENON_NOT_PREPARED);
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.cpu = "z80";
    assert_says(tenon_adapter_prepare(adapter, &options, &error), TENON_INVALID,
                "`cpu` 'z80' is not a CPU level of this machine; it has baseline");
    tenon_adapter_free(adapter);
}

static void calls_are_checked(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"attentional_pool\", \"pool_heads\": 2}", 4, 6);
    assert_ok(tenon_adapter_prepare(adapter, NULL, &error)); /* a table that computes in float32 */
    float x[2 * 16 * 4] = {0}, y[2 * 4 * 6 + 8], a[2 * 4 * 2 * 4];
    tensor3 tx, ty;
    tenon_call call;
    tenon_call_init(&call);
#define FORWARD tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, NULL, &error)
#define FRESH (tensor3_init(&tx, x, 2, 16, 4), tensor3_init(&ty, y, 2, 4, 6), tenon_call_init(&call))
    FRESH;
    assert_ok(FORWARD);
    tx.shape[2] = 3; /* B22, B108 */
    assert_says(FORWARD, TENON_MISMATCH, "x has width 3; the adapter's in_dim is 4");
    FRESH, tx.tensor.ndim = 1; /* B17 */
    assert_says(FORWARD, TENON_MISMATCH, "x has 1 dimensions; expected 3");
    FRESH, tx.tensor.ndim = 4;
    assert_says(FORWARD, TENON_MISMATCH, "x has 4 dimensions; expected 3: (batch, tokens, in_dim), or 2 for one image");
    FRESH, ty.shape[1] = 5;
    assert_says(FORWARD, TENON_MISMATCH, "y has shape [2, 5, 6]; expected [2, 4, 6]");
    FRESH, ty.tensor.dtype = (DLDataType){kDLFloat, 64, 1};
    assert_says(FORWARD, TENON_UNSUPPORTED, "y is float64; expected float32, bfloat16 or float16");
    FRESH, tx.tensor.device.device_type = kDLCUDA; /* B110 */
    assert_says(FORWARD, TENON_UNSUPPORTED, "computes on the CPU");
    FRESH, ty.strides[2] = 2;
    assert_says(FORWARD, TENON_UNSUPPORTED, "last axis");
    FRESH, ty.strides[1] = 5;
    assert_says(FORWARD, TENON_INVALID, "share memory");
    FRESH, ty.tensor.data = x + 60;
    assert_says(FORWARD, TENON_INVALID, "x and y overlap");
    FRESH, call.threads = -2;
    assert_says(FORWARD, TENON_INVALID, "`threads` is -2");
    FRESH, call.pool_window = 3;
    assert_says(FORWARD, TENON_INVALID, "(4x4) be divisible by the pool window (3)");
    uint8_t bits[32] = {1};
    DLTensor mask = {bits, {kDLCPU, 0}, 2, {kDLUInt, 8, 1}, (int64_t[]){2, 15}, NULL, 0};
    FRESH, call.patch_mask = &mask;
    assert_says(FORWARD, TENON_MISMATCH, "patch_mask has shape [2, 15]; expected [2, 16]");
    mask.dtype.bits = 32;
    assert_says(FORWARD, TENON_UNSUPPORTED, "patch_mask is uint32");
    mask = (DLTensor){bits, {kDLCPU, 0}, 1, {kDLUInt, 8, 1}, (int64_t[]){3}, NULL, 0};
    FRESH, call.frame_mask = &mask;
    assert_says(FORWARD, TENON_MISMATCH, "frame_mask has shape [3]; expected [2]");
    DLTensor attention = {a, {kDLCPU, 0}, 4, {kDLFloat, 32, 1}, (int64_t[]){2, 4, 2, 9}, NULL, 0};
    FRESH, call.attention = &attention;
    assert_says(FORWARD, TENON_MISMATCH, "attention has shape [2, 4, 2, 9]; expected [2, 4, 2, 4]");
    attention.shape = (int64_t[]){2, 4, 2, 4};
    assert_ok(FORWARD);
    ty.tensor.data = a; /* y holds fewer numbers than the weights do */
    assert_says(FORWARD, TENON_INVALID, "y and attention overlap");
    tenon_adapter_free(adapter);
    adapter = adapter_of("{\"type\": \"avgpool\"}", 4, 6);
    prepare_double(adapter);
    assert_says(FORWARD, TENON_UNSUPPORTED, "'avgpool' has no pooling weights");
    tenon_adapter_free(adapter);
}

/* The tensor without its first axis, of which it is the first part. */
static DLTensor first_of(const DLTensor *all)
{
    DLTensor one = *all;
    one.ndim--;
    one.shape++;
    if (one.strides != NULL) one.strides++;
    return one;
}

/* x of two axes is one image, at every call, and gives the bits that it gives in a batch of one. */
static void two_axes_are_one_image(void **state)
{
    (void)state;
    const DLDataType f32 = {kDLFloat, 32, 1};
    tenon_adapter *adapter =
        adapter_of("{\"type\": \"attentional_pool\", \"pool_heads\": 2, \"prefix_tokens\": 1}", 4, 6);
    tenon_prepare_options prepared;
    tenon_prepare_options_init(&prepared);
    prepared.train = true;
    assert_ok(tenon_adapter_prepare(adapter, &prepared, &error));
    float *x = random_floats(17 * 4), *dy = random_floats(4 * 6), y[2][4 * 6], a[2][4 * 2 * 4], dx[2][17 * 4];
    uint8_t bits[16] = {1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1}, frame = 1;
    tensor3 tx, ty, tdy, tdx;
    for (int one = 0; one < 2; one++) {
        tenon_call call;
        tenon_gradients gradients;
        DLTensor mask = {bits, {kDLCPU, 0}, 2, {kDLUInt, 8, 1}, (int64_t[]){1, 16}, NULL, 0};
        DLTensor frames = {&frame, {kDLCPU, 0}, 1, {kDLUInt, 8, 1}, (int64_t[]){1}, NULL, 0};
        DLTensor attention = {a[one], {kDLCPU, 0}, 4, f32, (int64_t[]){1, 4, 2, 4}, NULL, 0};
        tensor3_init(&tx, x, 1, 17, 4), tensor3_init(&ty, y[one], 1, 4, 6);
        tensor3_init(&tdy, dy, 1, 4, 6), tensor3_init(&tdx, dx[one], 1, 17, 4);
        DLTensor all[] = {tx.tensor, ty.tensor, tdy.tensor, tdx.tensor, mask, attention};
        for (int i = 0; one && i < 6; i++)
            all[i] = first_of(&all[i]);
        tenon_call_init(&call);
        call.patch_mask = &all[4];
        call.frame_mask = &frames;
        call.attention = &all[5];
        assert_ok(tenon_adapter_forward(adapter, &all[0], &all[1], &call, NULL, &error));
        call.patch_mask = &mask; /* (1, patches) will do as well */
        assert_ok(tenon_adapter_forward(adapter, &all[0], &all[1], &call, NULL, &error));
        tenon_gradients_init(&gradients);
        gradients.x = &all[3];
        call.attention = NULL;
        assert_ok(tenon_adapter_backward(adapter, &all[2], &all[0], &gradients, &call, NULL, &error));
    }
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    assert_memory_equal(a[0], a[1], sizeof a[0]);
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
    const DLTensor image = first_of(&tx.tensor);
    tenon_gradients gradients;
    tenon_gradients_init(&gradients);
    assert_says(tenon_adapter_forward(adapter, &image, &ty.tensor, NULL, NULL, &error), TENON_MISMATCH,
                "y has 3 dimensions; expected 2, because x is one image without an axis of images");
    assert_says(tenon_adapter_backward(adapter, &tdy.tensor, &image, &gradients, NULL, NULL, &error), TENON_MISMATCH,
                "dy has 3 dimensions; expected 2");
    ty.shape[1] = 5;
    DLTensor tokens = first_of(&ty.tensor);
    assert_says(tenon_adapter_forward(adapter, &image, &tokens, NULL, NULL, &error), TENON_MISMATCH,
                "y has shape [5, 6]; expected [4, 6]");
    tenon_adapter_free(adapter);
    free(x);
    free(dy);
}

/* With a byte less, one worker has too little. */
static void check_workspace(tenon_adapter *adapter, int threads)
{
    float *x = random_floats(5 * 16 * 4), y[5 * 16 * 6], z[5 * 16 * 6];
    int64_t m;
    size_t bytes;
    tenon_call call;
    tenon_call_init(&call);
    call.threads = threads;
    assert_ok(tenon_adapter_output_num_tokens(adapter, NULL, 16, &m, &error));
    assert_ok(tenon_adapter_workspace_size(adapter, 16, &call, &bytes, &error));
    char *memory = malloc(bytes + 64);
    memset(memory, 0x5a, bytes + 64);
    tensor3 tx, ty, tz;
    tensor3_init(&tx, x, 5, 16, 4);
    tensor3_init(&ty, y, 5, m, 6);
    tensor3_init(&tz, z, 5, m, 6);
    const tenon_workspace small = {memory + 1, bytes - 1}, exact = {memory + 1, bytes};
    if (threads == 1) {
        assert_says(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, &small, &error), TENON_INVALID,
                    "this call needs");
    }
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, &exact, &error));
    assert_int_equal(memory[0], 0x5a);
    for (size_t i = bytes + 1; i < bytes + 64; i++)
        assert_int_equal(memory[i], 0x5a);
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &tz.tensor, NULL, NULL, &error));
    assert_memory_equal(y, z, (size_t)(5 * m * 6) * sizeof(float));
    free(memory);
    free(x);
}

static void workspaces_are_enough(void **state)
{
    (void)state;
    static const char *const configs[] = {"{}", "{\"type\": \"linear\"}", "{\"type\": \"avgpool\"}",
                                          "{\"type\": \"attentional_pool\", \"pool_heads\": 2}",
                                          "{\"type\": \"pyramid\"}"};
    (void)!tenon_register_adapter("pyramid", pyramid, NULL, NULL);
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
        tenon_adapter *adapter = adapter_of(configs[c], 4, 6);
        prepare_double(adapter);
        for (int threads = 0; threads < 4; threads++)
            check_workspace(adapter, threads);
        tenon_adapter_free(adapter);
    }
}

/* B111: the size is known before, does not depend on the batch, and does not explode with the image. */
static void b111_workspaces_are_bounded(void **state)
{
    (void)state;
    static const char *const configs[] = {"{}", "{\"type\": \"avgpool\"}",
                                          "{\"type\": \"attentional_pool\", \"ragged\": \"partial\"}"};
    for (int c = 0; c < 3; c++) {
        tenon_adapter *adapter = adapter_of(configs[c], 1152, 1024);
        tenon_call call;
        tenon_call_init(&call);
        size_t small, large;
        assert_ok(tenon_adapter_workspace_size(adapter, 729, NULL, &small, &error));
        assert_ok(tenon_adapter_workspace_size(adapter, 729 * 729, NULL, &large, &error));
        assert_true(small < 64u << 20 && large <= 2 * small);
        call.pool_window = 1 << 20; /* one window over all patches */
        assert_ok(tenon_adapter_workspace_size(adapter, 729 * 729, &call, &large, &error));
        assert_true(large < 256u << 20);
        tenon_adapter_free(adapter);
    }
}

/* An allocator that counts, and fails on demand. */
typedef struct counting {
    int64_t live, calls, fail_at;
} counting;

static void *counting_alloc(void *context, size_t size, size_t align)
{
    counting *c = context;
    if (++c->calls == c->fail_at) return NULL;
    c->live++;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void counting_free(void *context, void *data, size_t size)
{
    (void)size;
    ((counting *)context)->live--;
    free(data);
}

static tenon_status whole_life(counting *c)
{
    const tenon_allocator allocator = {sizeof allocator, counting_alloc, counting_free, c};
    const tn_parallel serial = {1, NULL};
    float x[16 * 4] = {0}, y[4 * 6];
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 16, 4);
    tensor3_init(&ty, y, 1, 4, 6);
    tenon_config *config;
    tenon_adapter *adapter;
    assert_ok(tenon_config_new("attentional_pool", &config, &error));
    assert_ok(tenon_config_set_int(config, "pool_heads", 2, &error));
    assert_ok(tenon_adapter_new(config, 4, 6, &allocator, &adapter, &error));
    tenon_config_free(config);
    assert_int_equal(c->calls, 0); /* the "meta" build has no storage */
    tenon_status status = tenon_adapter_reset_parameters(adapter, TENON_F16, 0, &error);
    if (status == TENON_OK) status = tn_adapter_prepare_for(adapter, &ops_double, &serial, &error);
    if (status == TENON_OK) {
        size_t bytes;
        assert_ok(tenon_adapter_workspace_size(adapter, 16, NULL, &bytes, &error));
        const tenon_workspace workspace = {malloc(bytes), bytes};
        const int64_t before = c->calls;
        const int system_before = allocations;
        assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, &workspace, &error));
        assert_int_equal(c->calls, before); /* a workspace is all that forward needs */
        assert_int_equal(allocations, system_before);
        free(workspace.data);
        status = tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error);
    }
    tenon_adapter_free(adapter);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    counting c = {0};
    assert_int_equal(whole_life(&c), TENON_OK);
    assert_int_equal(c.live, 0);
    const int64_t calls = c.calls;
    for (int64_t n = 1; n <= calls; n++) {
        c = (counting){.fail_at = n};
        assert_says(whole_life(&c), TENON_NO_MEMORY, "out of memory");
        assert_int_equal(c.live, 0);
    }
}

static void wrong_allocators_are_refused(void **state)
{
    (void)state;
    tenon_config *config;
    tenon_adapter *adapter;
    assert_ok(tenon_config_new("linear", &config, &error));
    const tenon_allocator empty = {sizeof empty, NULL, NULL, NULL};
    assert_says(tenon_adapter_new(config, 1, 1, &empty, &adapter, &error), TENON_INVALID, "allocator");
    tenon_config_free(config);
}

typedef struct runner {
    tenon_adapter *adapter;
    const float *expected;
    int wrong;
} runner;

static void *run_often(void *argument)
{
    runner *r = argument;
    float x[16 * 4], y[4 * 6];
    for (int i = 0; i < 64; i++)
        x[i] = (float)(i % 7) * 0.25f;
    for (int i = 0; i < 200; i++) {
        tensor3 tx, ty;
        tensor3_init(&tx, x, 1, 16, 4);
        tensor3_init(&ty, y, 1, 4, 6);
        tenon_call call;
        tenon_call_init(&call);
        call.threads = 1;
        if (tenon_adapter_forward(r->adapter, &tx.tensor, &ty.tensor, &call, NULL, NULL) != TENON_OK) r->wrong++;
        if (r->expected != NULL && memcmp(y, r->expected, sizeof y) != 0) r->wrong++;
    }
    return NULL;
}

/* Forwards run while the pack is replaced under them. */
static void one_adapter_serves_many_threads(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"avgpool\"}", 4, 6);
    prepare_double(adapter);
    float x[16 * 4], y[4 * 6];
    for (int i = 0; i < 64; i++)
        x[i] = (float)(i % 7) * 0.25f;
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 16, 4);
    tensor3_init(&ty, y, 1, 4, 6);
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error));
    pthread_t threads[4];
    runner runners[4];
    for (int i = 0; i < 4; i++) {
        runners[i] = (runner){adapter, y, 0};
        pthread_create(&threads[i], NULL, run_often, &runners[i]);
    }
    for (int i = 0; i < 50; i++)
        prepare_double(adapter);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(runners[i].wrong, 0);
    }
    tenon_adapter_free(adapter);
}

/* Memory that is read must not be written: workspace and masks too. */
static void overlaps_are_refused(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"linear\"}", 4, 4);
    prepare_double(adapter);
    size_t bytes;
    assert_ok(tenon_adapter_workspace_size(adapter, 4, NULL, &bytes, &error));
    char *memory = calloc(1, bytes + 4096);
    float x[16] = {0};
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 4, 4);
    tensor3_init(&ty, (float *)(void *)(memory + 64), 1, 4, 4);
    const tenon_workspace workspace = {memory, bytes};
    assert_says(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, &workspace, &error), TENON_INVALID,
                "y and the workspace overlap");
    DLTensor mask = {memory + 64, {kDLCPU, 0}, 1, {kDLUInt, 8, 1}, (int64_t[]){1}, NULL, 0};
    tenon_call call;
    tenon_call_init(&call);
    call.frame_mask = &mask;
    assert_says(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, NULL, &error), TENON_INVALID,
                "y and frame_mask overlap");
    free(memory);
    tenon_adapter_free(adapter);
}

static void run_in_order(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    (void)context;
    for (int i = 0; i < count; i++)
        job(argument, i);
}

/* The workspace of one worker serves a call that would like more. */
static void small_workspaces_take_fewer_workers(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{\"type\": \"attentional_pool\", \"pool_heads\": 2}", 4, 6);
    assert_ok(tenon_adapter_prepare(adapter, NULL, &error));
    float *x = random_floats(64), y[24], z[24];
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 16, 4);
    tensor3_init(&ty, y, 1, 4, 6);
    tenon_call call;
    tenon_call_init(&call);
    size_t one, many;
    const tenon_executor wide = {sizeof wide, 64, run_in_order, NULL}; /* 64 workers in a build without threads too */
    call.executor = &wide;
    call.threads = 1;
    assert_ok(tenon_adapter_workspace_size(adapter, 16, &call, &one, &error));
    call.threads = 64;
    assert_ok(tenon_adapter_workspace_size(adapter, 16, &call, &many, &error));
    assert_true(many > one);
    const tenon_workspace workspace = {malloc(one), one}, less = {workspace.data, one - 1};
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, &workspace, &error));
    ty.tensor.data = z;
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, NULL, &error));
    assert_memory_equal(y, z, sizeof y);
    assert_int_equal(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, &less, &error), TENON_INVALID);
    free(workspace.data);
    free(x);
    tenon_adapter_free(adapter);
}

static void released_parameters_leave_the_pack(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{}", 4, 6);
    prepare_double(adapter);
    float x[4] = {1, 2, 3, 4}, y[6], z[6];
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 1, 4);
    tensor3_init(&ty, y, 1, 1, 6);
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error));
    tenon_adapter_release_parameters(adapter);
    assert_null(parameter_data(adapter, "proj1.weight"));
    ty.tensor.data = z;
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, NULL, &error));
    assert_memory_equal(y, z, sizeof y);
    assert_says(tenon_adapter_prepare(adapter, NULL, &error), TENON_NOT_PREPARED, "no storage");
    tenon_adapter_free(adapter);
}

/* A server may run OpenMP of its own, fork, and let the child be the first to call tenon. */
static void forked_children_may_be_the_first(void **state)
{
    (void)state;
    int sum = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(2) reduction(+ : sum)
#endif
    for (int i = 0; i < 100; i++)
        sum += i;
    assert_int_equal(sum, 4950);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        tenon_adapter *adapter = adapter_of("{}", 64, 64);
        tenon_prepare_options options;
        tenon_prepare_options_init(&options);
        options.threads = 2;
        _exit(tenon_adapter_prepare(adapter, &options, NULL) == TENON_OK ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

/* How many threads there are by default is found by prepare, whatever that was told. */
static void the_first_forward_does_not_allocate(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{}", 4, 6);
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.threads = 1;
    assert_ok(tenon_adapter_prepare(adapter, &options, &error));
    float x[16 * 4] = {1}, y[16 * 6];
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 16, 4);
    tensor3_init(&ty, y, 1, 16, 6);
    tenon_workspace workspace = {NULL, 0};
    tenon_call call;
    tenon_call_init(&call);
    call.threads = 1;
    assert_ok(tenon_adapter_workspace_size(adapter, 16, &call, &workspace.size, &error));
    workspace.data = malloc(workspace.size);
    const int before = allocations;
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, NULL, &workspace, &error));
    assert_int_equal(allocations, before);
    free(workspace.data);
    tenon_adapter_free(adapter);
}

static void forked_children_compute(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_of("{}", 4, 6);
    assert_ok(tenon_adapter_prepare(adapter, NULL, &error));
    float x[16 * 4] = {1}, y[16 * 6], z[16 * 6];
    tensor3 tx, ty;
    tensor3_init(&tx, x, 1, 16, 4);
    tensor3_init(&ty, y, 1, 16, 6);
    tenon_call call;
    tenon_call_init(&call);
    call.threads = 2;
    assert_ok(tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, NULL, &error));
    const pid_t child = fork();
    if (child == 0) {
        ty.tensor.data = z;
        alarm(20);
        const bool ok = tenon_adapter_forward(adapter, &tx.tensor, &ty.tensor, &call, NULL, NULL) == TENON_OK;
        _exit(ok && memcmp(y, z, sizeof y) == 0 ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    tenon_adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forked_children_may_be_the_first), /* before any other has used threads */
        cmocka_unit_test(the_first_forward_does_not_allocate),
        cmocka_unit_test(rows_and_windows_mix),
        cmocka_unit_test(parameters_are_set_and_borrowed),
        cmocka_unit_test(changes_unpublish_the_pack),
        cmocka_unit_test(calls_are_checked),
        cmocka_unit_test(two_axes_are_one_image),
        cmocka_unit_test(workspaces_are_enough),
        cmocka_unit_test(b111_workspaces_are_bounded),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(wrong_allocators_are_refused),
        cmocka_unit_test(one_adapter_serves_many_threads),
        cmocka_unit_test(overlaps_are_refused),
        cmocka_unit_test(small_workspaces_take_fewer_workers),
        cmocka_unit_test(released_parameters_leave_the_pack),
        cmocka_unit_test(forked_children_compute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
