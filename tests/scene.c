/* SPDX-License-Identifier: MIT */
#include "scene.h"
#include "counter_rng.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void *grab(size_t size)
{
    void *data = malloc(size > 0 ? size : 1);
    assert_non_null(data);
    return data;
}

void expect_ok(tenon_status status, const tenon_error *error)
{
    if (status != TENON_OK) fail_msg("%s: %s", tenon_status_name(status), error->message);
}

const char *cpu_level(int index)
{
    static char levels[8][16];
    const char *at = tenon_cpu_levels();
    for (int i = 0; i < index && at != NULL; i++) {
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
    if (at == NULL || *at == '\0') return NULL;
    assert_true(index < 8);
    snprintf(levels[index], sizeof levels[index], "%.*s", (int)strcspn(at, ","), at);
    return levels[index];
}

double worst_token(const float *y, const double *ref, int64_t tokens, int64_t width)
{
    double worst = 0;
    for (int64_t t = 0; t < tokens; t++) {
        double error = 0, norm = 0;
        for (int64_t c = 0; c < width; c++) {
            const double d = (double)y[t * width + c] - ref[t * width + c];
            error += d * d;
            norm += ref[t * width + c] * ref[t * width + c];
        }
        const double relative = error == 0 ? 0 : sqrt(error / norm);
        if (!(relative <= worst)) worst = isnan(relative) ? INFINITY : relative;
    }
    return worst;
}

uint16_t half_bits(tenon_dtype dtype, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == TENON_BF16) {
        if (isnan(value)) return 0x7fc0;
        return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (isnan(value)) return 0x7e00;
    if (value == 0 || isinf(value)) return (uint16_t)(sign | (value == 0 ? 0 : 0x7c00));
    const int exponent = ilogbf(value) < -14 ? -14 : ilogbf(value);
    const long code = ((long)(exponent + 14) << 10) + lrintf(ldexpf(fabsf(value), 10 - exponent));
    return (uint16_t)(sign | (code > 0x7c00 ? 0x7c00 : code));
}

float half_value(tenon_dtype dtype, uint16_t bits)
{
    if (dtype == TENON_BF16) {
        const uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                  : exponent == 0 ? ldexpf((float)fraction, -24)
                                  : ldexpf((float)(fraction + 1024), exponent - 25);
    return bits & 0x8000 ? -value : value;
}

float round_to(tenon_dtype dtype, float value)
{
    return dtype == TENON_F32 ? value : half_value(dtype, half_bits(dtype, value));
}

uint32_t crc32_bytes(uint32_t crc, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* ---- tensors in awkward places ---- */

enum { guard = 64, filler = 0xA5 };

/* A [batch, rows, width] tensor somewhere in memory of its own. */
typedef struct buffer {
    DLTensor tensor;
    int64_t shape[3], strides[3];
    unsigned char *memory;
    size_t bytes;
    tenon_dtype dtype;
} buffer;

static void buffer_init(buffer *b, tenon_dtype dtype, int64_t batch, int64_t rows, int64_t width, layout how)
{
    const size_t item = tenon_dtype_size(dtype);
    const int64_t row = how == TRANSPOSED ? 1 : how == PADDED ? width + 8 : width;
    const int64_t image = how == TRANSPOSED ? rows * width : rows * row + (how == PADDED ? 5 : 0);
    size_t offset = guard + (how == PADDED ? 3 * item : 0);
    b->bytes = (size_t)(batch * image) * item + 2 * guard + 3 * item;
    b->memory = grab(b->bytes);
    memset(b->memory, filler, b->bytes);
    memcpy(b->shape, (int64_t[]){batch, rows, width}, sizeof b->shape);
    memcpy(b->strides, (int64_t[]){image, row, how == TRANSPOSED ? rows : 1}, sizeof b->strides);
    if (how == REVERSED && batch * rows > 0) {
        offset += (size_t)((batch - 1) * image + (rows - 1) * row) * item;
        b->strides[0] = -image;
        b->strides[1] = -row;
    }
    b->dtype = dtype;
    b->tensor = (DLTensor){
        b->memory, {kDLCPU, 0}, 3, tenon_dtype_to_dlpack(dtype), b->shape, how == PACKED ? NULL : b->strides, offset};
}

static unsigned char *buffer_at(const buffer *b, int64_t flat)
{
    const int64_t column = flat % b->shape[2], row = flat / b->shape[2] % b->shape[1];
    const int64_t image = flat / b->shape[2] / b->shape[1];
    const int64_t element = image * b->strides[0] + row * b->strides[1] + column * b->strides[2];
    return b->memory + b->tensor.byte_offset + element * (int64_t)tenon_dtype_size(b->dtype);
}

static int64_t buffer_count(const buffer *b)
{
    return b->shape[0] * b->shape[1] * b->shape[2];
}

static void buffer_put(buffer *b, const float *values)
{
    for (int64_t i = 0; i < buffer_count(b); i++) {
        const uint16_t bits = b->dtype == TENON_F32 ? 0 : half_bits(b->dtype, values[i]);
        if (b->dtype == TENON_F32)
            memcpy(buffer_at(b, i), &values[i], sizeof(float));
        else
            memcpy(buffer_at(b, i), &bits, sizeof bits);
    }
}

/* Reads the elements, then checks that nothing but them was written. */
static void buffer_take(float *values, buffer *b)
{
    const size_t item = tenon_dtype_size(b->dtype);
    for (int64_t i = 0; i < buffer_count(b); i++) {
        uint16_t bits;
        memcpy(&bits, buffer_at(b, i), sizeof bits);
        if (b->dtype == TENON_F32)
            memcpy(&values[i], buffer_at(b, i), sizeof(float));
        else
            values[i] = half_value(b->dtype, bits);
        memset(buffer_at(b, i), filler, item);
    }
    for (size_t i = 0; i < b->bytes; i++)
        assert_int_equal(b->memory[i], filler);
}

/* ---- scenes ---- */

tenon_adapter *adapter_from_json(const char *json, int64_t in, int64_t out, const tenon_allocator *allocator)
{
    tenon_config *config = NULL;
    tenon_adapter *adapter = NULL;
    tenon_error error;
    expect_ok(tenon_config_from_json(json, strlen(json), &config, &error), &error);
    expect_ok(tenon_adapter_new(config, in, out, allocator, &adapter, &error), &error);
    tenon_config_free(config);
    return adapter;
}

static float parameter_value(const tenon_parameter *p, int64_t index)
{
    if (p->dtype == TENON_F32) return ((const float *)p->data)[index];
    return half_value(p->dtype, ((const uint16_t *)p->data)[index]);
}

/* Points module->linear at the parameters, widened to double; they are weight and bias of one linear layer after
 * another in declaration order. The caller frees what is returned. */
static double *widen_parameters(ref_module *module, const tenon_adapter *adapter)
{
    const int64_t count = tenon_adapter_num_parameters(adapter);
    double *widened = NULL, *at = NULL;
    int64_t total = 0;
    tenon_parameter p;
    tenon_error error;
    for (int64_t i = 0; i < 2 * count; i++) {
        if (i == count) at = widened = grab((size_t)total * sizeof(double));
        tenon_parameter_init(&p);
        expect_ok(tenon_adapter_parameter(adapter, i % count, &p, &error), &error);
        const int64_t size = p.shape[0] * (p.ndim == 2 ? p.shape[1] : 1);
        total += size;
        if (i < count) continue;
        ref_linear *layer = &module->linear[i % count / 2];
        if (p.ndim == 2)
            *layer = (ref_linear){p.shape[0], p.shape[1], at, NULL};
        else
            layer->bias = at;
        for (int64_t j = 0; j < size; j++)
            *at++ = (double)parameter_value(&p, j);
    }
    return widened;
}

static int64_t config_int(const tenon_config *config, const char *name, int64_t fallback)
{
    int64_t value;
    return tenon_config_get_int(config, name, &value, NULL) == TENON_OK ? value : fallback;
}

static const char *config_string(const tenon_config *config, const char *name, const char *fallback)
{
    const char *value;
    return tenon_config_get_string(config, name, &value, NULL) == TENON_OK ? value : fallback;
}

void scene_finish(scene *s)
{
    const tenon_config *config = tenon_adapter_config(s->adapter);
    const int64_t window = s->call_window == TENON_UNSET ? config_int(config, "pool_window", 2) : s->call_window;
    s->module.type = tenon_config_type(config);
    s->module.activation = config_string(config, "activation", "gelu");
    s->module.ragged = config_string(config, "ragged", "partial");
    s->module.window = window;
    s->module.heads = config_int(config, "pool_heads", 16);
    s->module.prefix_tokens = config_int(config, "prefix_tokens", 0);
    s->call.patch_mask = s->patch_mask;
    s->call.frame_mask = s->frame_mask;
    s->out_tokens = ref_out_tokens(&s->module, &s->call);

    tenon_call call;
    DLTensor masks[2];
    int64_t shapes[3], count = -1;
    tenon_error error;
    const run_options options = run_defaults(s);
    scene_call(&call, masks, shapes, s, &options);
    expect_ok(tenon_adapter_output_num_tokens(s->adapter, &call, s->tokens, &count, &error), &error);
    assert_int_equal(count, s->out_tokens);
    expect_ok(tenon_config_output_num_tokens(config, &call, s->tokens, &count, &error), &error);
    assert_int_equal(count, s->out_tokens);
}

void scene_free(scene *s)
{
    tenon_adapter_free(s->adapter);
    free(s->x), free(s->patch_mask), free(s->frame_mask);
}

bool scene_reads(const scene *s, int64_t token, int64_t patch)
{
    const bool pools = tenon_type_pools(s->module.type);
    const int64_t side = pools ? s->module.window : 1, width = s->call.width;
    const bool drop = pools && strcmp(s->module.ragged, "drop") == 0;
    const int64_t columns = drop ? width / side : (width + side - 1) / side;
    return patch / width / side == token / columns && patch % width / side == token % columns;
}

/* Whether any token reads this row of the features of an image. */
static bool is_read(const scene *s, int64_t image, int64_t row)
{
    const int64_t patch = row - s->module.prefix_tokens;
    if (patch < 0) return false;
    if (s->frame_mask != NULL && s->frame_mask[image] == 0) return false;
    if (s->patch_mask != NULL && s->patch_mask[image * s->call.height * s->call.width + patch] == 0) return false;
    for (int64_t t = 0; t < s->out_tokens; t++)
        if (scene_reads(s, t, patch)) return true;
    return false;
}

void scene_fill(scene *s, uint64_t seed, float scale, bool poison)
{
    const int64_t rows = s->call.batch * s->tokens;
    if (s->x == NULL) s->x = grab((size_t)(rows * s->in) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
        const bool read = !poison || is_read(s, r / s->tokens, r % s->tokens);
        for (int64_t c = 0; c < s->in; c++) {
            const uint64_t index = (uint64_t)(r * s->in + c);
            s->x[index] = read ? round_to(s->features, counter_value(seed, index) * scale) : NAN;
        }
    }
}

void scene_prepare(scene *s, const char *level)
{
    tenon_prepare_options options;
    tenon_error error;
    tenon_prepare_options_init(&options);
    options.cpu = level;
    expect_ok(tenon_adapter_prepare(s->adapter, &options, &error), &error);
    assert_string_equal(tenon_adapter_cpu(s->adapter), level);
}

run_options run_defaults(const scene *s)
{
    return (run_options){.tokens = TENON_F32, .count = s->call.batch};
}

void scene_call(tenon_call *call, DLTensor masks[2], int64_t mask_shapes[3], const scene *s, const run_options *options)
{
    const int64_t patches = s->tokens - s->module.prefix_tokens;
    const DLDataType bytes = {kDLUInt, 8, 1};
    tenon_call_init(call);
    call->pool_window = s->call_window;
    if (s->give_grid) {
        call->grid_height = s->call.height;
        call->grid_width = s->call.width;
    }
    call->threads = options->threads;
    call->executor = options->executor;
    memcpy(mask_shapes, (int64_t[]){options->count, patches, options->count}, 3 * sizeof *mask_shapes);
    masks[0] =
        (DLTensor){s->patch_mask, {kDLCPU, 0}, 2, bytes, mask_shapes, NULL, (uint64_t)(options->first * patches)};
    masks[1] = (DLTensor){s->frame_mask, {kDLCPU, 0}, 1, bytes, mask_shapes + 2, NULL, (uint64_t)options->first};
    if (s->patch_mask != NULL) call->patch_mask = &masks[0];
    if (s->frame_mask != NULL) call->frame_mask = &masks[1];
}

/* Memory for workspace->size bytes at an odd address, with a fence behind them. */
static unsigned char *fenced_workspace(tenon_workspace *workspace, int misalign)
{
    unsigned char *memory = grab(workspace->size + guard + (size_t)misalign);
    memset(memory, filler, workspace->size + guard + (size_t)misalign);
    workspace->data = memory + misalign;
    return memory;
}

static void workspace_check(const tenon_workspace *workspace)
{
    for (size_t i = 0; i < guard; i++)
        assert_int_equal(((unsigned char *)workspace->data)[workspace->size + i], filler);
}

void scene_run(float *y, const scene *s, const run_options *options)
{
    const int64_t slots = s->module.window * s->module.window;
    int64_t shapes[3], attention_shape[4] = {options->count, s->out_tokens, s->module.heads, slots};
    DLTensor masks[2], attention = {options->attention, {kDLCPU, 0}, 4, {kDLFloat, 32, 1}, attention_shape, NULL, 0};
    tenon_call call;
    tenon_error error;
    scene_call(&call, masks, shapes, s, options);
    if (options->attention != NULL) call.attention = &attention;

    buffer x, tokens;
    buffer_init(&x, s->features, options->count, s->tokens, s->in, options->x_layout);
    buffer_init(&tokens, options->tokens, options->count, s->out_tokens, s->out, options->y_layout);
    buffer_put(&x, s->x + options->first * s->tokens * s->in);
    tenon_workspace workspace;
    const bool given = options->misalign != NO_WORKSPACE;
    unsigned char *memory = NULL;
    if (given) {
        expect_ok(tenon_adapter_workspace_size(s->adapter, s->tokens, &call, &workspace.size, &error), &error);
        memory = fenced_workspace(&workspace, options->misalign);
    }
    expect_ok(tenon_adapter_forward(s->adapter, &x.tensor, &tokens.tensor, &call, given ? &workspace : NULL, &error),
              &error);
    if (given) workspace_check(&workspace);
    buffer_take(y, &tokens);
    free(memory), free(x.memory), free(tokens.memory);
}

float *scene_tokens(const scene *s, const run_options *options)
{
    float *y = grab((size_t)(options->count * s->out_tokens * s->out) * sizeof(float));
    scene_run(y, s, options);
    return y;
}

/* ---- gradients ---- */

back_options back_defaults(const scene *s)
{
    return (back_options){.run = run_defaults(s), .dx = TENON_F32};
}

void scene_gradients_free(scene_gradients *g)
{
    for (int64_t i = 0; i < g->num; i++)
        free(g->parameters[i]);
    free(g->parameters), free(g->sizes), free(g->x);
}

/* Zeros for every parameter that is not frozen, and their tensors: [num], NULL where frozen. The caller frees both. */
static DLTensor *gradient_tensors(scene_gradients *g, const DLTensor **pointers, const scene *s, const bool *frozen)
{
    DLTensor *tensors = grab((size_t)g->num * sizeof *tensors);
    for (int64_t i = 0; i < g->num; i++) {
        tenon_parameter p;
        tenon_error error;
        tenon_parameter_init(&p);
        expect_ok(tenon_adapter_parameter(s->adapter, i, &p, &error), &error);
        g->sizes[i] = p.shape[0] * (p.ndim == 2 ? p.shape[1] : 1);
        g->parameters[i] = NULL;
        pointers[i] = NULL;
        if (frozen != NULL && frozen[i]) continue;
        g->parameters[i] = calloc((size_t)g->sizes[i], sizeof(float));
        assert_non_null(g->parameters[i]);
        int64_t *shape = (int64_t *)(uintptr_t)p.shape; /* only read */
        tensors[i] = (DLTensor){g->parameters[i], {kDLCPU, 0}, p.ndim, {kDLFloat, 32, 1}, shape, NULL, 0};
        pointers[i] = &tensors[i];
    }
    return tensors;
}

/* A forward that keeps what backward needs; the memory, with a fence behind it. */
static unsigned char *save_forward(const scene *s, const DLTensor *x, tenon_call *call, const run_options *run)
{
    tenon_error error;
    buffer y;
    expect_ok(tenon_adapter_saved_size(s->adapter, run->count, s->tokens, call, &call->saved_size, &error), &error);
    unsigned char *memory = grab(call->saved_size + guard);
    memset(memory, filler, call->saved_size + guard);
    call->saved = memory;
    buffer_init(&y, TENON_F32, run->count, s->out_tokens, s->out, PACKED);
    expect_ok(tenon_adapter_forward(s->adapter, x, &y.tensor, call, NULL, &error), &error);
    for (size_t i = 0; i < guard; i++)
        assert_int_equal(memory[call->saved_size + i], filler);
    free(y.memory);
    return memory;
}

static void call_backward(const scene *s, const DLTensor *dy, const DLTensor *x, const tenon_gradients *gradients,
                          const tenon_call *call, int misalign)
{
    tenon_error error;
    tenon_workspace workspace;
    const bool given = misalign != NO_WORKSPACE;
    unsigned char *memory = NULL;
    if (given) {
        expect_ok(
            tenon_adapter_backward_workspace_size(s->adapter, s->tokens, gradients, call, &workspace.size, &error),
            &error);
        memory = fenced_workspace(&workspace, misalign);
    }
    expect_ok(tenon_adapter_backward(s->adapter, dy, x, gradients, call, given ? &workspace : NULL, &error), &error);
    if (given) workspace_check(&workspace);
    free(memory);
}

float *scene_draw_dy(const scene *s, uint64_t seed)
{
    const int64_t count = s->call.batch * s->out_tokens * s->out;
    float *dy = grab((size_t)count * sizeof *dy);
    for (int64_t i = 0; i < count; i++)
        dy[i] = round_to(TENON_BF16, counter_value(seed, (uint64_t)i));
    return dy;
}

int64_t scene_count_x(const scene *s)
{
    return s->call.batch * s->tokens * s->in;
}

scene_gradients scene_backward(const scene *s, const float *dy, const back_options *options)
{
    const run_options *run = &options->run;
    int64_t shapes[3];
    DLTensor masks[2];
    tenon_call call;
    scene_gradients g = {.num = tenon_adapter_num_parameters(s->adapter)};
    tenon_gradients wanted;
    scene_call(&call, masks, shapes, s, run);
    tenon_gradients_init(&wanted);
    g.parameters = grab((size_t)g.num * sizeof *g.parameters);
    g.sizes = grab((size_t)g.num * sizeof *g.sizes);
    const DLTensor **pointers = grab((size_t)g.num * sizeof *pointers);
    DLTensor *tensors = gradient_tensors(&g, pointers, s, options->frozen);
    wanted.parameters = pointers;

    buffer x, tokens, dx = {.memory = NULL};
    buffer_init(&x, s->features, run->count, s->tokens, s->in, run->x_layout);
    buffer_init(&tokens, run->tokens, run->count, s->out_tokens, s->out, run->y_layout);
    buffer_put(&x, s->x + run->first * s->tokens * s->in);
    buffer_put(&tokens, dy);
    if (options->dx != 0) {
        buffer_init(&dx, options->dx, run->count, s->tokens, s->in, options->dx_layout);
        wanted.x = &dx.tensor;
    }
    unsigned char *saved = options->save ? save_forward(s, &x.tensor, &call, run) : NULL;
    call_backward(s, &tokens.tensor, &x.tensor, &wanted, &call, run->misalign);
    if (options->dx != 0) {
        g.x = grab((size_t)buffer_count(&dx) * sizeof *g.x);
        buffer_take(g.x, &dx);
    }
    free(saved), free(tensors), free(pointers), free(x.memory), free(tokens.memory), free(dx.memory);
    return g;
}

ref_module scene_module(const scene *s, double **weights)
{
    ref_module module = s->module;
    *weights = widen_parameters(&module, s->adapter);
    return module;
}

double *scene_reference(const scene *s, double *attention)
{
    const int64_t in = s->call.batch * s->tokens * s->in;
    double *x = grab((size_t)in * sizeof(double));
    double *y = grab((size_t)(s->call.batch * s->out_tokens * s->out) * sizeof(double));
    for (int64_t i = 0; i < in; i++)
        x[i] = (double)s->x[i];
    double *widened;
    const ref_module module = scene_module(s, &widened);
    ref_forward(y, attention, x, &module, &s->call);
    free(widened), free(x);
    return y;
}

/* ---- random scenes ---- */

static const char *const types[] = {"linear", "mlp_2layer", "avgpool", "attentional_pool"};
static const char *const activations[] = {"gelu", "silu", "relu", "gelu_tanh", "quick_gelu"};
static const char *const raggeds[] = {"reject", "partial", "drop"};

static void random_masks(scene *s, uint64_t seed)
{
    const int64_t patches = s->call.height * s->call.width, kind = counter_range(seed, 20, 0, 3);
    if (kind & 1) {
        s->patch_mask = grab((size_t)(s->call.batch * patches));
        for (int64_t i = 0; i < s->call.batch * patches; i++)
            s->patch_mask[i] = counter_range(seed, (uint64_t)(1000 + i), 0, 9) > 3 ? (unsigned char)(i % 255 + 1) : 0;
    }
    if (kind & 2) {
        s->frame_mask = grab((size_t)s->call.batch);
        for (int64_t i = 0; i < s->call.batch; i++)
            s->frame_mask[i] = (unsigned char)counter_range(seed, (uint64_t)(100 + i), 0, 1);
    }
}

void scene_random(scene *s, uint64_t seed)
{
    char json[300], windows[100] = "";
    *s = (scene){.call_window = TENON_UNSET};
    const char *type = types[seed % 4], *ragged = raggeds[counter_range(seed, 1, 0, 2)];
    const int64_t window = counter_range(seed, 2, 1, 4), heads = counter_range(seed, 3, 1, 6);
    const bool whole = strcmp(ragged, "reject") == 0;
    int64_t height = counter_range(seed, 4, 1, whole ? 4 : 9), width = counter_range(seed, 5, 1, whole ? 4 : 9);
    if (whole) height *= window, width *= window;
    if (strcmp(ragged, "drop") == 0) height += window, width += window;
    s->in = heads * counter_range(seed, 6, 1, 17);
    s->out = counter_range(seed, 7, 1, 70);
    s->call.batch = counter_range(seed, 8, 1, 3);
    s->call.height = height;
    s->call.width = width;
    s->give_grid = height != width || counter_range(seed, 9, 0, 1) == 1;
    if (tenon_type_pools(type))
        snprintf(windows, sizeof windows, "\"ragged\": \"%s\", \"pool_window\": %d, ", ragged, (int)window);
    if (counter_range(seed, 10, 0, 2) == 0 && windows[0] != '\0') {
        snprintf(windows, sizeof windows, "\"ragged\": \"%s\", \"pool_window\": 7, ", ragged);
        s->call_window = window;
    }
    const int64_t prefix_tokens = counter_range(seed, 11, 0, 3);
    snprintf(
        json, sizeof json,
        "{\"type\": \"%s\", %s\"prefix_tokens\": %d, \"activation\": \"%s\", \"hidden_dim\": %d, \"pool_heads\": %d}",
        type, windows, (int)prefix_tokens, activations[counter_range(seed, 12, 0, 4)],
        (int)counter_range(seed, 13, 0, 90), (int)heads);
    s->tokens = height * width + prefix_tokens;
    s->features = (tenon_dtype)counter_range(seed, 14, 1, 3);
    s->adapter = adapter_from_json(json, s->in, s->out, NULL);
    tenon_error error;
    const tenon_dtype weights = (tenon_dtype)counter_range(seed, 15, 1, 3);
    expect_ok(tenon_adapter_reset_parameters(s->adapter, weights, seed, &error), &error);
    random_masks(s, seed);
    scene_finish(s);
    scene_fill(s, seed + 77, 2.0f, true);
}
