/* SPDX-License-Identifier: MIT */
/* Loads a connector and an array of patch features, runs it, and prints the first token.
 *
 *     tenon init --type mlp_2layer --in-dim 588 --out-dim 1024 -o adapter.safetensors
 *     01_load_and_run adapter.safetensors data/coffee.npy
 */
#include <stdio.h>
#include <stdlib.h>
#include <tenon/tenon.h>

static tenon_error error;

static void check(tenon_status status)
{
    if (status == TENON_OK) return;
    fprintf(stderr, "%s: %s\n", tenon_status_name(status), error.message);
    exit(1);
}

/* Reads the first tensor of a file: (batch, tokens, in_dim). Its shape lives as long as the file is open. */
static DLTensor read_features(tenon_file *file)
{
    tenon_file_tensor info;
    tenon_file_tensor_init(&info);
    check(tenon_file_get_tensor(file, 0, &info, &error));
    size_t bytes = info.dtype.bits / 8u;
    for (int i = 0; i < info.ndim; i++)
        bytes *= (size_t)info.shape[i];
    void *data = malloc(bytes);
    check(tenon_file_read(file, 0, 0, info.shape[0], data, bytes, &error));
    return (DLTensor){data, {kDLCPU, 0}, info.ndim, info.dtype, (int64_t *)info.shape, NULL, 0};
}

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: 01_load_and_run ADAPTER FEATURES\n"), 2;
    tenon_adapter *adapter;
    tenon_file *file;
    check(tenon_adapter_open(argv[1], NULL, &adapter, &error));
    check(tenon_adapter_prepare(adapter, NULL, &error));
    check(tenon_file_open(argv[2], NULL, &file, &error));
    DLTensor x = read_features(file);

    int64_t shape[3] = {x.shape[0], 0, tenon_adapter_out_dim(adapter)};
    check(tenon_adapter_output_num_tokens(adapter, NULL, x.shape[1], &shape[1], &error));
    float *tokens = malloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *tokens);
    DLTensor y = {tokens, {kDLCPU, 0}, 3, tenon_dtype_to_dlpack(TENON_F32), shape, NULL, 0};
    check(tenon_adapter_forward(adapter, &x, &y, NULL, NULL, &error));

    printf("%lld patches -> %lld tokens of %lld numbers; the first token begins", (long long)x.shape[1],
           (long long)shape[1], (long long)shape[2]);
    for (int i = 0; i < 4; i++)
        printf(" %.5f", (double)tokens[i]);
    printf("\n");

    free(tokens);
    free(x.data);
    tenon_file_close(file);
    tenon_adapter_free(adapter);
    return 0;
}
