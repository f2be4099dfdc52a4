/* SPDX-License-Identifier: MIT */
/* tenon as a contender: whole connectors through the public API; see bench/run.py.
 *
 *   prepare type= in= out= tokens= batch= dtype=f32 features=f32 tokens_dtype=f32 threads= [window= heads= hidden=]
 *           [train=1 [recompute=1]]  run and output are of training steps: weights packed, forward
 *                                    (which keeps what backward needs, or does not), backward that overwrites all
 * gradients run warm= count= [batch= calls= threads=]    `calls` calls of `batch` images each, images side by side
 *   output path=                  the tokens of the whole batch, or a step's gradients: of the features, then of the
 *                                 parameters; raw f32
 *   pack count=                   times of tenon_adapter_prepare, and of plain copies of the same bytes
 *   memory type= ... batch=       what one forward needs beyond features, tokens and one copy of the weights
 *   save path=    open path=      writes the adapter file; reads it back: times and bytes read
 */
#include "tenon/tenon.h"
#include "core/dtype.h"
#include "inputs.h"
#include "worker.h"

#include <inttypes.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARAMETERS = 16 };

static struct {
    tenon_adapter *adapter;
    tenon_error error;
    int num_parameters;
    tenon_parameter parameter[MAX_PARAMETERS];
    void *weights[MAX_PARAMETERS];
    size_t weight_bytes;
    tenon_dtype dtype, features, tokens_dtype;
    int64_t batch, tokens, out_tokens, in_dim, out_dim;
    int threads;
    char *x, *y; /* [batch, tokens, in_dim], [batch, out_tokens, out_dim] */
    tenon_workspace workspace;
    bool trains; /* what follows is there */
    bool recompute;
    char *dx, *dy; /* f32 */
    float *gradient[MAX_PARAMETERS];
    tenon_workspace saved, backward;
} s;

static void release(void)
{
    tenon_adapter_free(s.adapter);
    for (int i = 0; i < s.num_parameters; i++)
        free(s.weights[i]);
    free(s.x);
    free(s.y);
    free(s.workspace.data);
    for (int i = 0; i < s.num_parameters; i++)
        free(s.gradient[i]);
    free(s.dx);
    free(s.dy);
    free(s.saved.data);
    free(s.backward.data);
    memset(&s, 0, sizeof s);
}

/* Answers with the library's sentence; returns whether the call succeeded. */
static bool good(tenon_status status)
{
    if (status != TENON_OK) worker_fail("%s", s.error.message);
    return status == TENON_OK;
}

static size_t parameter_bytes(const tenon_parameter *p)
{
    return (size_t)(p->shape[0] * (p->ndim > 1 ? p->shape[1] : 1)) * tenon_dtype_size(s.dtype);
}

static bool set_parameter(int i)
{
    tenon_parameter *p = &s.parameter[i];
    DLTensor tensor = {.data = s.weights[i],
                       .device = {kDLCPU, 0},
                       .ndim = p->ndim,
                       .dtype = tenon_dtype_to_dlpack(s.dtype),
                       .shape = (int64_t *)(uintptr_t)p->shape};
    return good(tenon_adapter_set_parameter(s.adapter, p->name, &tensor, &s.error));
}

/* Weight and bias of a layer have the bound of the layer's inputs; a bias follows its weight. */
static bool fill_parameters(void)
{
    int64_t fan_in = 1;
    s.num_parameters = (int)tenon_adapter_num_parameters(s.adapter);
    for (int i = 0; i < s.num_parameters && i < MAX_PARAMETERS; i++) {
        tenon_parameter *p = &s.parameter[i];
        tenon_parameter_init(p);
        if (!good(tenon_adapter_parameter(s.adapter, i, p, &s.error))) return false;
        const int64_t count = p->shape[0] * (p->ndim > 1 ? p->shape[1] : 1);
        if (p->ndim > 1) fan_in = p->shape[1];
        s.weights[i] = worker_memory(parameter_bytes(p));
        s.weight_bytes += parameter_bytes(p);
        inputs_fill(s.weights[i], (tn_dtype)s.dtype, SEED_PARAMETERS + (uint64_t)i, inputs_scale(fan_in), count);
        if (!set_parameter(i)) return false;
    }
    return true;
}

static bool make_config(const request *r, tenon_config **config)
{
    static const char *const options[][2] = {
        {"window", "pool_window"}, {"heads", "pool_heads"}, {"hidden", "hidden_dim"}};
    if (!good(tenon_config_new(request_text(r, "type", ""), config, &s.error))) return false;
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        const int64_t value = request_int(r, options[i][0], -1);
        if (value >= 0 && !good(tenon_config_set_int(*config, options[i][1], value, &s.error))) return false;
    }
    return true;
}

static bool make_adapter(const request *r)
{
    tenon_config *config = NULL;
    s.in_dim = request_int(r, "in", 0);
    s.out_dim = request_int(r, "out", 0);
    const bool made = make_config(r, &config) &&
                      good(tenon_adapter_new(config, s.in_dim, s.out_dim, NULL, &s.adapter, &s.error)) &&
                      fill_parameters();
    tenon_config_free(config);
    return made;
}

static bool read_dtypes(const request *r)
{
    return good(tenon_dtype_from_name(request_text(r, "dtype", "f32"), &s.dtype, &s.error)) &&
           good(tenon_dtype_from_name(request_text(r, "features", "f32"), &s.features, &s.error)) &&
           good(tenon_dtype_from_name(request_text(r, "tokens_dtype", "f32"), &s.tokens_dtype, &s.error));
}

/* Features filled and tokens touched, so that no page of them is new when time or memory is measured. */
static bool make_tensors(const request *r)
{
    s.batch = request_int(r, "batch", 1);
    s.tokens = request_int(r, "tokens", 1);
    s.threads = (int)request_int(r, "threads", 0);
    if (!good(tenon_adapter_output_num_tokens(s.adapter, NULL, s.tokens, &s.out_tokens, &s.error))) return false;
    const int64_t inputs = s.batch * s.tokens * s.in_dim, outputs = s.batch * s.out_tokens * s.out_dim;
    const size_t y_bytes = (size_t)outputs * tenon_dtype_size(s.tokens_dtype);
    s.x = worker_memory((size_t)inputs * tenon_dtype_size(s.features));
    s.y = worker_memory(y_bytes);
    inputs_fill(s.x, (tn_dtype)s.features, SEED_FEATURES, 1.0f, inputs);
    memset(s.y, 0, y_bytes);
    return true;
}

static bool publish(void)
{
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.threads = s.threads;
    options.train = s.trains;
    return good(tenon_adapter_prepare(s.adapter, &options, &s.error));
}

/* Builds everything but the pack. */
static bool build(const request *r)
{
    release();
    return read_dtypes(r) && make_adapter(r) && make_tensors(r);
}

static size_t gradient_bytes(int i)
{
    const tenon_parameter *p = &s.parameter[i];
    return (size_t)(p->shape[0] * (p->ndim > 1 ? p->shape[1] : 1)) * sizeof(float);
}

/* Memory of a step: gradients of tokens, features and parameters, what forward keeps, and workspaces. */
static bool make_training(void)
{
    const int64_t inputs = s.batch * s.tokens * s.in_dim, outputs = s.batch * s.out_tokens * s.out_dim;
    s.trains = true;
    if (!publish() || !good(tenon_adapter_saved_size(s.adapter, s.batch, s.tokens, NULL, &s.saved.size, &s.error)) ||
        !good(tenon_adapter_backward_workspace_size(s.adapter, s.tokens, NULL, NULL, &s.backward.size, &s.error)))
        return false;
    s.dx = worker_memory((size_t)inputs * sizeof(float));
    s.dy = worker_memory((size_t)outputs * sizeof(float));
    inputs_fill(s.dy, TN_F32, SEED_TOKEN_GRADIENTS, 1.0f, outputs);
    for (int i = 0; i < s.num_parameters; i++)
        s.gradient[i] = worker_memory(gradient_bytes(i));
    s.saved.data = worker_large_memory(s.saved.size);
    s.backward.data = worker_large_memory(s.backward.size);
    return true;
}

static void prepare(const request *r)
{
    if (!build(r) || !publish()) return;
    s.recompute = request_int(r, "recompute", 0) != 0;
    if (request_int(r, "train", 0) != 0 && !make_training()) return;
    double flops;
    if (!good(tenon_adapter_workspace_size(s.adapter, s.tokens, NULL, &s.workspace.size, &s.error)) ||
        !good(tenon_adapter_flops(s.adapter, s.tokens, NULL, &flops, &s.error)))
        return;
    s.workspace.data = worker_large_memory(s.workspace.size);
    worker_ok("level=%s workspace=%zu flops=%.0f version=%s", tenon_adapter_cpu(s.adapter), s.workspace.size, flops,
              tenon_version());
}

/* How the batch is fed: `calls` calls of `batch` images. */
typedef struct feed {
    int64_t batch, calls;
    int threads;
    const tenon_workspace *workspace;
    tenon_status status;
} feed;

static void forward(void *argument)
{
    feed *f = argument;
    tenon_call call;
    tenon_call_init(&call);
    call.threads = f->threads;
    int64_t x_shape[3] = {f->batch, s.tokens, s.in_dim}, y_shape[3] = {f->batch, s.out_tokens, s.out_dim};
    for (int64_t i = 0; i < f->calls; i++) {
        DLTensor x = {.data = s.x, .device = {kDLCPU, 0}, .ndim = 3, .dtype = tenon_dtype_to_dlpack(s.features)};
        DLTensor y = {.data = s.y, .device = {kDLCPU, 0}, .ndim = 3, .dtype = tenon_dtype_to_dlpack(s.tokens_dtype)};
        x.shape = x_shape;
        y.shape = y_shape;
        x.byte_offset = (uint64_t)(i * f->batch * s.tokens * s.in_dim) * tenon_dtype_size(s.features);
        y.byte_offset = (uint64_t)(i * f->batch * s.out_tokens * s.out_dim) * tenon_dtype_size(s.tokens_dtype);
        f->status = tenon_adapter_forward(s.adapter, &x, &y, &call, f->workspace, &s.error);
        if (f->status != TENON_OK) return;
    }
}

static DLTensor f32_tensor(void *data, int ndim, const int64_t *shape)
{
    return (DLTensor){.data = data,
                      .device = {kDLCPU, 0},
                      .ndim = ndim,
                      .dtype = tenon_dtype_to_dlpack(TENON_F32),
                      .shape = (int64_t *)(uintptr_t)shape};
}

static tenon_status back(const DLTensor *x, tenon_call *call)
{
    DLTensor tensors[MAX_PARAMETERS];
    const DLTensor *pointers[MAX_PARAMETERS];
    for (int i = 0; i < s.num_parameters; i++) {
        tensors[i] = f32_tensor(s.gradient[i], s.parameter[i].ndim, s.parameter[i].shape);
        pointers[i] = &tensors[i];
    }
    const int64_t x_shape[3] = {s.batch, s.tokens, s.in_dim}, y_shape[3] = {s.batch, s.out_tokens, s.out_dim};
    DLTensor dx = f32_tensor(s.dx, 3, x_shape), dy = f32_tensor(s.dy, 3, y_shape);
    tenon_gradients gradients;
    tenon_gradients_init(&gradients);
    gradients.x = &dx;
    gradients.parameters = pointers;
    gradients.overwrite = true;
    return tenon_adapter_backward(s.adapter, &dy, x, &gradients, call, &s.backward, &s.error);
}

static void step(void *argument)
{
    feed *f = argument;
    tenon_call call;
    tenon_call_init(&call);
    call.threads = f->threads;
    if (!s.recompute) {
        call.saved = s.saved.data;
        call.saved_size = s.saved.size;
    }
    int64_t x_shape[3] = {s.batch, s.tokens, s.in_dim}, y_shape[3] = {s.batch, s.out_tokens, s.out_dim};
    DLTensor x = {.data = s.x, .device = {kDLCPU, 0}, .ndim = 3, .dtype = tenon_dtype_to_dlpack(s.features)};
    DLTensor y = {.data = s.y, .device = {kDLCPU, 0}, .ndim = 3, .dtype = tenon_dtype_to_dlpack(s.tokens_dtype)};
    x.shape = x_shape;
    y.shape = y_shape;
    f->status = publish() ? TENON_OK : TENON_INVALID;
    if (f->status == TENON_OK) f->status = tenon_adapter_forward(s.adapter, &x, &y, &call, &s.workspace, &s.error);
    if (f->status == TENON_OK) f->status = back(&x, &call);
}

static void write_gradients(const request *r)
{
    size_t bytes = (size_t)(s.batch * s.tokens * s.in_dim) * sizeof(float), at = bytes;
    for (int i = 0; i < s.num_parameters; i++)
        bytes += gradient_bytes(i);
    char *all = worker_memory(bytes);
    memcpy(all, s.dx, at);
    for (int i = 0; i < s.num_parameters; i++) {
        memcpy(all + at, s.gradient[i], gradient_bytes(i));
        at += gradient_bytes(i);
    }
    worker_write(request_text(r, "path", ""), all, bytes);
    free(all);
}

static void run(const request *r)
{
    feed f = {request_int(r, "batch", s.batch), request_int(r, "calls", 1), (int)request_int(r, "threads", s.threads),
              &s.workspace, TENON_OK};
    if (s.workspace.data == NULL || f.batch * f.calls > s.batch) {
        worker_fail("nothing is prepared, or not so many images");
        return;
    }
    void (*job)(void *) = s.trains ? step : forward;
    /* Once before anything is timed, so that a refusal is told; not without a warm-up, as calls may be long. */
    if (request_int(r, "warm", 1) > 0) job(&f);
    if (good(f.status)) worker_times(r, job, &f);
}

static void output(const request *r)
{
    feed f = {s.batch, 1, s.threads, &s.workspace, TENON_OK};
    (s.trains ? step : forward)(&f);
    if (!good(f.status)) return;
    if (s.trains) {
        write_gradients(r);
        return;
    }
    const int64_t count = s.batch * s.out_tokens * s.out_dim;
    float *wide = worker_memory((size_t)count * sizeof *wide);
    for (int64_t i = 0; i < count; i++)
        wide[i] = (float)tn_load(s.y, (tn_dtype)s.tokens_dtype, i);
    worker_write(request_text(r, "path", ""), wide, (size_t)count * sizeof *wide);
    free(wide);
}

/* New memory and every parameter copied into it: what keeping a copy of one's own costs at least. */
static int64_t copy_weights(void)
{
    const int64_t start = worker_now();
    char *copy = worker_memory(s.weight_bytes);
    size_t at = 0;
    for (int i = 0; i < s.num_parameters; i++) {
        memcpy(copy + at, s.weights[i], parameter_bytes(&s.parameter[i]));
        at += parameter_bytes(&s.parameter[i]);
    }
    const int64_t taken = worker_now() - start;
    free(copy);
    return taken;
}

static void pack(const request *r)
{
    static int64_t packs[WORKER_MAX_TIMES], copies[WORKER_MAX_TIMES];
    const int64_t count = request_int(r, "count", 1);
    for (int64_t i = -1; i < count; i++) { /* the first pair warms up */
        copies[i < 0 ? 0 : i] = copy_weights();
        if (!set_parameter(0)) return; /* unpublishes the pack */
        const int64_t start = worker_now();
        if (!publish()) return;
        packs[i < 0 ? 0 : i] = worker_now() - start;
    }
    printf("ok bytes=%zu", s.weight_bytes);
    for (int list = 0; list < 2; list++) {
        for (int64_t i = 0; i < count; i++)
            printf("%s%" PRId64, i > 0 ? "," : list == 0 ? " pack=" : " copy=", list == 0 ? packs[i] : copies[i]);
    }
    putchar('\n');
    fflush(stdout);
}

/* A line of /proc/self/NAME that begins with the key, as a number; 0 when there is none. */
static int64_t proc_number(const char *name, const char *key)
{
    char line[256];
    int64_t value = 0;
    FILE *file = fopen(name, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) value = strtoll(line + strlen(key), NULL, 10);
    }
    if (file != NULL) fclose(file);
    return value;
}

static int64_t resident(const char *key)
{
    return 1024 * proc_number("/proc/self/status", key);
}

/* Makes the peak start again from what is resident now; where the kernel refuses, peaks count from the start. */
static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file == NULL) return;
    fputs("5", file);
    fclose(file);
}

static void memory(const request *r)
{
    if (!build(r)) return;
    reset_peak();
    const int64_t before = resident("VmRSS:");
    if (!publish()) return;
    const int64_t packed = resident("VmRSS:"), pack_peak = resident("VmHWM:");
    reset_peak();
    feed f = {s.batch, 1, s.threads, NULL, TENON_OK};
    forward(&f);
    if (!good(f.status)) return;
    const int64_t peak = resident("VmHWM:");
    worker_ok("weights=%zu prepare_peak=%" PRId64 " prepared=%" PRId64 " forward_peak=%" PRId64, s.weight_bytes,
              pack_peak - before, packed - before, peak - before);
}

static void save(const request *r)
{
    if (good(tenon_adapter_save(s.adapter, request_text(r, "path", ""), NULL, &s.error))) worker_ok("saved=1");
}

/* Bytes that a process asked the kernel for, cached or not. */
static int64_t bytes_read(void)
{
    return proc_number("/proc/self/io", "rchar:");
}

static void open_file(const request *r)
{
    tenon_load_options options;
    tenon_load_options_init(&options);
    int64_t time[2], bytes[2];
    for (int describe = 0; describe < 2; describe++) {
        tenon_adapter *adapter;
        options.describe_only = describe == 1;
        const int64_t read = bytes_read(), start = worker_now();
        if (!good(tenon_adapter_open(request_text(r, "path", ""), &options, &adapter, &s.error))) return;
        time[describe] = worker_now() - start;
        bytes[describe] = bytes_read() - read;
        tenon_adapter_free(adapter);
    }
    worker_ok("load_ns=%" PRId64 " load_bytes=%" PRId64 " describe_ns=%" PRId64 " describe_bytes=%" PRId64, time[0],
              bytes[0], time[1], bytes[1]);
}

int main(void)
{
#ifdef M_MMAP_THRESHOLD
    /* Large blocks come from the kernel and go back to it, so that neither copies nor packs find warm pages. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    return worker_serve((const worker_command[]){{"prepare", prepare},
                                                 {"run", run},
                                                 {"output", output},
                                                 {"pack", pack},
                                                 {"memory", memory},
                                                 {"save", save},
                                                 {"open", open_file},
                                                 {NULL, NULL}});
}
