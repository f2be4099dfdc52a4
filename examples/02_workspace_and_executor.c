/* SPDX-License-Identifier: MIT */
/* Runs a connector in the caller's memory, on the caller's threads: the forward pass allocates and starts none. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <tenon/tenon.h>

enum { width = 4, patches = 784, in_dim = 64, out_dim = 128 };

struct jobs {
    void (*job)(void *argument, int index);
    void *argument;
    atomic_int next;
};

static void *run_one(void *data)
{
    struct jobs *jobs = data;
    jobs->job(jobs->argument, atomic_fetch_add(&jobs->next, 1));
    return NULL;
}

/* tenon_executor.run: calls job(argument, i) for each i in [0, count), returns when all have; count is at most width.
 */
static void run_on_threads(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    struct jobs jobs = {job, argument, 0};
    pthread_t *threads = context;
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, run_one, &jobs) != 0) abort();
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    static float features[patches * in_dim], tokens[196 * out_dim]; /* features of a black image */
    const DLDataType f32 = tenon_dtype_to_dlpack(TENON_F32);
    DLTensor x = {features, {kDLCPU, 0}, 3, f32, (int64_t[]){1, patches, in_dim}, NULL, 0};
    DLTensor y = {tokens, {kDLCPU, 0}, 3, f32, (int64_t[]){1, 196, out_dim}, NULL, 0};
    tenon_config *config = NULL;
    tenon_adapter *adapter = NULL;
    tenon_error e;
    bool ok = !tenon_config_new("avgpool", &config, &e) &&
              !tenon_adapter_new(config, in_dim, out_dim, NULL, &adapter, &e) &&
              !tenon_adapter_reset_parameters(adapter, TENON_F32, 0, &e) && !tenon_adapter_prepare(adapter, NULL, &e);
    pthread_t threads[width];
    tenon_executor executor = {sizeof executor, width, run_on_threads, threads};
    tenon_workspace workspace = {NULL, 0};
    tenon_call call;
    tenon_call_init(&call);
    call.executor = &executor;
    ok = ok && !tenon_adapter_workspace_size(adapter, patches, &call, &workspace.size, &e) &&
         (workspace.data = malloc(workspace.size)) && !tenon_adapter_forward(adapter, &x, &y, &call, &workspace, &e);
    printf("%s, %zu bytes of workspace\n", ok ? "784 patches -> 196 tokens" : e.message, workspace.size);
    free(workspace.data);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
    return !ok;
}
