/* SPDX-License-Identifier: MIT */
/* Declares a connector of its own: average the windows, then three linear layers. Counting, initialisation, files and
 * the forward pass follow from the list. */
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

static void pooled_mlp(tenon_builder *b)
{
    int64_t hidden = tenon_option_int(b, "bottleneck", 32); /* an option that only this connector knows */
    tenon_window_mean(b, tenon_option_int(b, "pool_window", 2), tenon_option_string(b, "ragged", "reject"));
    tenon_linear(b, "down", hidden, TENON_BIAS);
    tenon_activation(b, tenon_option_string(b, "activation", "silu"));
    tenon_linear(b, "up", tenon_builder_out_dim(b), TENON_NO_BIAS);
}

int main(void)
{
    enum { patches = 36, in_dim = 48, out_dim = 64 };
    tenon_config *config;
    tenon_adapter *adapter;
    check(tenon_register_adapter("pooled_mlp", pooled_mlp, NULL, &error));
    check(tenon_config_new("pooled_mlp", &config, &error));
    check(tenon_config_set_int(config, "bottleneck", 24, &error));
    check(tenon_adapter_new(config, in_dim, out_dim, NULL, &adapter, &error));
    check(tenon_adapter_reset_parameters(adapter, TENON_BF16, 7, &error));
    check(tenon_adapter_prepare(adapter, NULL, &error));

    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter p;
        tenon_parameter_init(&p);
        check(tenon_adapter_parameter(adapter, i, &p, &error));
        printf("%-12s %s %lld x %lld\n", p.name, tenon_dtype_name(p.dtype), (long long)p.shape[0],
               p.ndim == 2 ? (long long)p.shape[1] : 1LL);
    }
    int64_t count;
    check(tenon_adapter_output_num_tokens(adapter, NULL, patches, &count, &error));
    float x[patches * in_dim], y[patches * out_dim];
    for (int i = 0; i < patches * in_dim; i++)
        x[i] = (float)(i % 7);
    DLDataType f32 = tenon_dtype_to_dlpack(TENON_F32);
    DLTensor features = {x, {kDLCPU, 0}, 3, f32, (int64_t[]){1, patches, in_dim}, NULL, 0};
    DLTensor tokens = {y, {kDLCPU, 0}, 3, f32, (int64_t[]){1, count, out_dim}, NULL, 0};
    check(tenon_adapter_forward(adapter, &features, &tokens, NULL, NULL, &error));
    printf("%d patches -> %lld tokens; the first begins %.5f\n", patches, (long long)count, (double)y[0]);

    tenon_adapter_free(adapter);
    tenon_config_free(config);
    return 0;
}
