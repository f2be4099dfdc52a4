/* SPDX-License-Identifier: MIT */
/* oneDNN (2.x) as a contender, weights reordered once into the layout it asks for; see bench/run.py.
 *
 *   prepare m= n= k= copies=      answers kind=inner_product|matmul: both are tried, the faster one is kept
 *   run warm= count=      output path=
 */
#include "inputs.h"
#include "worker.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_COPIES = 64, TRIALS = 5 };

/* One way to compute it: the primitive and the weights as it wants them. */
typedef struct form {
    const char *name;
    dnnl_primitive_t primitive;
    dnnl_memory_t weights[MAX_COPIES], bias, x, y;
    void *data[MAX_COPIES]; /* of the weights */
} form;

static struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_dim_t m, n, k;
    float *x, *y, *w, *bias;
    int64_t copies, turn;
    form forms[2], *best;
} s;

/* A failure here is a mistake in this file, or memory that is out. */
static void check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success) return;
    fprintf(stderr, "bench_onednn: %s: status %d\n", what, (int)status);
    exit(1);
}

static dnnl_memory_desc_t describe(dnnl_dim_t rows, dnnl_dim_t columns, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t desc;
    check(dnnl_memory_desc_init_by_tag(&desc, 2, (dnnl_dims_t){rows, columns}, dnnl_f32, tag), "memory_desc");
    return desc;
}

static dnnl_memory_t wrap(const dnnl_memory_desc_t *desc, void *data)
{
    dnnl_memory_t memory;
    check(dnnl_memory_create(&memory, desc, s.engine, data), "memory");
    return memory;
}

static void execute(dnnl_primitive_t primitive, const dnnl_exec_arg_t *arguments, int count)
{
    check(dnnl_primitive_execute(primitive, s.stream, count, arguments), "execute");
    check(dnnl_stream_wait(s.stream), "wait");
}

/* The plain weights in the layout of `wanted`. */
static dnnl_memory_t reorder(void **data, const dnnl_memory_desc_t *plain, const dnnl_memory_desc_t *wanted)
{
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    *data = worker_large_memory(dnnl_memory_desc_get_size(wanted));
    dnnl_memory_t from = wrap(plain, s.w), to = wrap(wanted, *data);
    check(dnnl_reorder_primitive_desc_create(&desc, plain, s.engine, wanted, s.engine, NULL), "reorder");
    check(dnnl_primitive_create(&primitive, desc), "reorder");
    execute(primitive, (dnnl_exec_arg_t[]){{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}, 2);
    check(dnnl_primitive_destroy(primitive), "destroy");
    check(dnnl_primitive_desc_destroy(desc), "destroy");
    check(dnnl_memory_destroy(from), "destroy");
    return to;
}

static void finish(form *f, const_dnnl_op_desc_t op, const dnnl_memory_desc_t *plain, const dnnl_memory_desc_t *bias,
                   const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *y)
{
    dnnl_primitive_desc_t desc;
    check(dnnl_primitive_desc_create(&desc, op, NULL, s.engine, NULL), f->name);
    check(dnnl_primitive_create(&f->primitive, desc), f->name);
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    for (int64_t i = 0; i < s.copies; i++)
        f->weights[i] = reorder(&f->data[i], plain, wanted);
    f->bias = wrap(bias, s.bias);
    f->x = wrap(x, s.x);
    f->y = wrap(y, s.y);
    check(dnnl_primitive_desc_destroy(desc), "destroy");
}

static void make_inner_product(form *f)
{
    const dnnl_memory_desc_t x = describe(s.m, s.k, dnnl_ab), y = describe(s.m, s.n, dnnl_ab);
    const dnnl_memory_desc_t any = describe(s.n, s.k, dnnl_format_tag_any), plain = describe(s.n, s.k, dnnl_ab);
    dnnl_memory_desc_t bias;
    check(dnnl_memory_desc_init_by_tag(&bias, 1, (dnnl_dims_t){s.n}, dnnl_f32, dnnl_a), "bias");
    dnnl_inner_product_desc_t op;
    check(dnnl_inner_product_forward_desc_init(&op, dnnl_forward_inference, &x, &any, &bias, &y), "inner_product");
    f->name = "inner_product";
    finish(f, &op, &plain, &bias, &x, &y);
}

static void make_matmul(form *f)
{
    const dnnl_memory_desc_t x = describe(s.m, s.k, dnnl_ab), y = describe(s.m, s.n, dnnl_ab);
    const dnnl_memory_desc_t any = describe(s.k, s.n, dnnl_format_tag_any), plain = describe(s.k, s.n, dnnl_ba);
    const dnnl_memory_desc_t bias = describe(1, s.n, dnnl_ab);
    dnnl_matmul_desc_t op;
    check(dnnl_matmul_desc_init(&op, &x, &any, &bias, &y), "matmul");
    f->name = "matmul";
    finish(f, &op, &plain, &bias, &x, &y);
}

static void product(void *argument)
{
    const form *f = argument;
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, f->x},
                                         {DNNL_ARG_WEIGHTS, f->weights[s.turn++ % s.copies]},
                                         {DNNL_ARG_BIAS, f->bias},
                                         {DNNL_ARG_DST, f->y}};
    execute(f->primitive, arguments, 4);
}

/* The fastest of a few trials. */
static int64_t trial(form *f)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < TRIALS; i++) {
        const int64_t start = worker_now();
        product(f);
        const int64_t taken = worker_now() - start;
        if (taken < best) best = taken;
    }
    return best;
}

static void drop(form *f)
{
    for (int64_t i = 0; i < s.copies; i++) {
        check(dnnl_memory_destroy(f->weights[i]), "destroy");
        free(f->data[i]);
    }
    check(dnnl_memory_destroy(f->bias), "destroy");
    check(dnnl_memory_destroy(f->x), "destroy");
    check(dnnl_memory_destroy(f->y), "destroy");
    check(dnnl_primitive_destroy(f->primitive), "destroy");
}

static void release(void)
{
    if (s.best == NULL) return;
    drop(s.best);
    free(s.x);
    free(s.y);
    free(s.w);
    free(s.bias);
    s.best = NULL;
}

static void prepare(const request *r)
{
    release();
    s.m = request_int(r, "m", 1);
    s.n = request_int(r, "n", 1);
    s.k = request_int(r, "k", 1);
    s.copies = request_int(r, "copies", 1) < MAX_COPIES ? request_int(r, "copies", 1) : MAX_COPIES;
    s.x = worker_memory((size_t)(s.m * s.k) * sizeof(float));
    s.y = worker_memory((size_t)(s.m * s.n) * sizeof(float));
    s.w = worker_memory((size_t)(s.n * s.k) * sizeof(float));
    s.bias = worker_memory((size_t)s.n * sizeof(float));
    inputs_fill(s.x, TN_F32, SEED_FEATURES, 1.0f, s.m * s.k);
    inputs_fill(s.w, TN_F32, SEED_PARAMETERS, inputs_scale(s.k), s.n * s.k);
    inputs_fill(s.bias, TN_F32, SEED_PARAMETERS + 1, inputs_scale(s.k), s.n);
    make_inner_product(&s.forms[0]);
    make_matmul(&s.forms[1]);
    trial(&s.forms[0]);
    trial(&s.forms[1]);
    const int slower = trial(&s.forms[0]) <= trial(&s.forms[1]) ? 1 : 0;
    drop(&s.forms[slower]);
    s.best = &s.forms[1 - slower];
    worker_ok("kind=%s bias=1", s.best->name);
}

static void run(const request *r)
{
    if (s.best == NULL) {
        worker_fail("nothing is prepared");
    } else {
        worker_times(r, product, s.best);
    }
}

static void output(const request *r)
{
    product(s.best);
    worker_write(request_text(r, "path", ""), s.y, (size_t)(s.m * s.n) * sizeof(float));
}

static void version(const request *r)
{
    (void)r;
    const dnnl_version_t *v = dnnl_version();
    worker_ok("version=%d.%d.%d", v->major, v->minor, v->patch);
}

int main(void)
{
    check(dnnl_engine_create(&s.engine, dnnl_cpu, 0), "engine");
    check(dnnl_stream_create(&s.stream, s.engine, dnnl_stream_default_flags), "stream");
    return worker_serve((const worker_command[]){
        {"version", version}, {"prepare", prepare}, {"run", run}, {"output", output}, {NULL, NULL}});
}
