/* SPDX-License-Identifier: MIT */
/* Our matrix engine alone, through the ops table; see bench/run.py.
 *
 *   prepare m= n= k= dtype=f32 threads= copies= bias=1 act=0     packs `copies` sets of the same weights
 *   run warm= count=          each product takes the next set, so that many sets cannot stay in a cache
 *   output path=              the tokens, raw f32 [m, n]
 */
#include "ops/ops.h"
#include "core/memory.h"
#include "core/size.h"
#include "inputs.h"
#include "worker.h"

#include <stdlib.h>

enum { MAX_COPIES = 64 };

static struct {
    tn_context context;
    tn_parallel parallel;
    tn_map map;
    tn_act act;
    int64_t m;
    float *x, *y, *bias; /* [m, k], [m, n], [n] */
    void *packed[MAX_COPIES];
    int64_t copies, turn;
} s;

static void release(void)
{
    for (int64_t i = 0; i < s.copies; i++)
        free(s.packed[i]);
    free(s.x);
    free(s.y);
    free(s.bias);
    free(s.context.scratch);
    s.copies = 0;
    s.x = s.y = s.bias = NULL;
    s.context.scratch = NULL;
}

static void pack(const request *r)
{
    const int64_t n = s.map.n, k = s.map.k;
    const size_t elements = (size_t)(n * k);
    size_t bytes;
    if (!s.context.ops->packed_size(&s.map, &bytes)) exit(1);
    void *w = worker_memory(elements * tn_dtype_size(s.map.dtype));
    inputs_fill(w, s.map.dtype, SEED_PARAMETERS, inputs_scale(k), n * k);
    for (s.copies = 0; s.copies < request_int(r, "copies", 1) && s.copies < MAX_COPIES; s.copies++) {
        s.packed[s.copies] = worker_large_memory(bytes);
        s.context.ops->pack(&s.context, s.packed[s.copies], w, &s.map, 0, k, 1);
    }
    free(w);
}

static void prepare(const request *r)
{
    release();
    tenon_dtype dtype;
    if (tenon_dtype_from_name(request_text(r, "dtype", "f32"), &dtype, NULL) != TENON_OK ||
        tn_parallel_init(&s.parallel, (int)request_int(r, "threads", 0), NULL, NULL) != TENON_OK) {
        worker_fail("bad dtype or threads");
        return;
    }
    s.context = (tn_context){tn_cpu_find(NULL), &s.parallel, NULL};
    s.map = (tn_map){1, request_int(r, "n", 1), request_int(r, "k", 1), (tn_dtype)dtype};
    s.m = request_int(r, "m", 1);
    s.act = (tn_act)request_int(r, "act", TN_ACT_NONE);
    s.x = worker_memory((size_t)(s.m * s.map.k) * sizeof(float));
    s.y = worker_memory((size_t)(s.m * s.map.n) * sizeof(float));
    s.bias = worker_memory((size_t)s.map.n * sizeof(float));
    inputs_fill(s.x, TN_F32, SEED_FEATURES, 1.0f, s.m * s.map.k);
    inputs_fill(s.bias, TN_F32, SEED_PARAMETERS + 1, inputs_scale(s.map.k), s.map.n);
    pack(r);
    s.context.scratch = worker_large_memory(s.context.ops->linear_scratch(&s.map, s.m, s.parallel.workers));
    worker_ok("level=%s threads=%d", s.context.ops->name, s.parallel.workers);
}

static void product(void *unused)
{
    (void)unused;
    const tn_rows y = tn_dense_rows(s.y, TN_F32, s.map.n), x = tn_dense_rows(s.x, TN_F32, s.map.k);
    s.context.ops->linear(&s.context, y, x, s.packed[s.turn++ % s.copies], s.bias, s.act, &s.map, s.m);
}

static void run(const request *r)
{
    if (s.copies == 0) {
        worker_fail("nothing is prepared");
    } else {
        worker_times(r, product, NULL);
    }
}

static void output(const request *r)
{
    product(NULL);
    worker_write(request_text(r, "path", ""), s.y, (size_t)(s.m * s.map.n) * sizeof(float));
}

int main(void)
{
    return worker_serve((const worker_command[]){{"prepare", prepare}, {"run", run}, {"output", output}, {NULL, NULL}});
}
