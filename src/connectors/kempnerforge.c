/* SPDX-License-Identifier: MIT */
/* The four connectors of KempnerForge's adapter module. docs/connectors.md states their maths and tensor names. */
#include "connectors/registry.h"

/* y = proj(x) */
void tn_build_linear(tenon_builder *b)
{
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

/* y = proj2(act(proj1(x))), the default connector (LLaVA-1.5's) */
void tn_build_mlp_2layer(tenon_builder *b)
{
    int64_t hidden = tenon_option_int(b, "hidden_dim", 0);
    if (hidden == 0) hidden = tenon_builder_out_dim(b);
    tenon_linear(b, "proj1", hidden, TENON_BIAS);
    tenon_activation(b, tenon_option_string(b, "activation", "gelu"));
    tenon_linear(b, "proj2", tenon_builder_out_dim(b), TENON_BIAS);
}

/* y = proj(mean over each window of x) */
void tn_build_avgpool(tenon_builder *b)
{
    const int64_t window = tenon_option_int(b, "pool_window", 2);
    const char *ragged = tenon_option_string(b, "ragged", "partial");
    tenon_window_mean(b, window, ragged);
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

/* y = out_proj(o_proj(attention of each window's mean over its patches)), after Molmo2 */
void tn_build_attentional_pool(tenon_builder *b)
{
    const int64_t window = tenon_option_int(b, "pool_window", 2);
    const int64_t heads = tenon_option_int(b, "pool_heads", 16);
    const char *ragged = tenon_option_string(b, "ragged", "reject");
    tenon_window_attention(b, "", heads, window, ragged, TENON_BIAS);
    tenon_linear(b, "o_proj", tenon_builder_in_dim(b), TENON_BIAS);
    tenon_linear(b, "out_proj", tenon_builder_out_dim(b), TENON_BIAS);
}
