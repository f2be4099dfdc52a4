/* SPDX-License-Identifier: MIT */
/* Qwen's mergers: side x side patches, which follow each other as Qwen's processors deliver them, become one token. */
#include "connectors/registry.h"

#include <stdio.h>

/* Qwen2-VL and Qwen2.5-VL: y = mlp.2(f(mlp.0(merge(ln_q(x))))), the norm on each patch. */
void tn_build_qwen2_vl(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "spatial_merge_size", 2);
    const char *norm = tenon_option_string(b, "norm", "layernorm");
    const double eps = tenon_option_real(b, "eps", 1e-6);
    const char *activation = tenon_option_string(b, "activation", "gelu");
    tenon_features(b, TENON_ROWS_BLOCKS);
    tn_build_norm(b, "norm", norm, "ln_q", eps);
    const int merged = tenon_patch_merge(b, side, TENON_MERGE_DY_DX_C, "reject");
    tenon_linear(b, "mlp.0", tenon_value_width(b, merged), TENON_BIAS);
    tenon_activation(b, activation);
    tenon_linear(b, "mlp.2", tenon_builder_out_dim(b), TENON_BIAS);
}

/* Qwen3-VL's merger of one value: norm on each patch, or with `after` on the merged row. Returns its value. */
static int merge_one(tenon_builder *b, const char *prefix, int value, bool after)
{
    const int64_t side = tenon_option_int(b, "spatial_merge_size", 2);
    const double eps = tenon_option_real(b, "eps", 1e-6);
    char name[160];
    tenon_from(b, value);
    snprintf(name, sizeof name, "%s.norm", prefix);
    if (!after) tenon_layer_norm(b, name, eps);
    int merged = tenon_patch_merge(b, side, TENON_MERGE_DY_DX_C, "reject");
    if (after) merged = tenon_layer_norm(b, name, eps);
    snprintf(name, sizeof name, "%s.linear_fc1", prefix);
    tenon_linear(b, name, tenon_value_width(b, merged), TENON_BIAS);
    tenon_activation(b, tenon_option_string(b, "activation", "gelu"));
    snprintf(name, sizeof name, "%s.linear_fc2", prefix);
    return tenon_linear(b, name, tenon_builder_out_dim(b), TENON_BIAS);
}

/* Qwen3-VL: the tokens, and an output "deepstack.i" of each "tap.i", which is added to the hidden states of the
 * language model's layer i. */
void tn_build_qwen3_vl(tenon_builder *b)
{
    const int64_t taps = tenon_option_int(b, "deepstack", 0);
    const int features = tenon_features(b, TENON_ROWS_BLOCKS);
    if (taps < 0 || taps > 1000)
        tenon_builder_fail(b, "`deepstack` must be from 0 to 1000 (got %lld)", (long long)taps);
    tenon_output(b, "tokens", merge_one(b, "merger", features, false));
    for (int64_t i = 0; i < taps && taps <= 1000; i++) {
        char name[64];
        snprintf(name, sizeof name, "tap.%lld", (long long)i);
        const int tap = tenon_tap(b, name, tenon_builder_in_dim(b));
        snprintf(name, sizeof name, "deepstack_merger_list.%lld", (long long)i);
        const int merged = merge_one(b, name, tap, true);
        snprintf(name, sizeof name, "deepstack.%lld", (long long)i);
        tenon_output(b, name, merged);
    }
}
