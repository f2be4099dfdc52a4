/* SPDX-License-Identifier: MIT */
/* The four connectors of KempnerForge's adapter module. docs/connectors.md states their maths and tensor names. */
#include "connectors/registry.h"

#include <string.h>

void tn_build_norm(tenon_builder *b, const char *option, const char *norm, const char *name, double eps)
{
    if (strcmp(norm, "layernorm") == 0) {
        tenon_layer_norm(b, name, eps);
    } else if (strcmp(norm, "rmsnorm") == 0) {
        tenon_rms_norm(b, name, eps, 0);
    } else {
        tenon_builder_fail(b, "unknown `%s` '%.32s'; options: layernorm, rmsnorm", option, norm);
    }
}

/* y = proj(x) */
void tn_build_linear(tenon_builder *b)
{
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_BIAS);
}

/* y = proj2(act(proj1(x))), the default connector (LLaVA-1.5's); with `pre_norm` of ln_q(x). */
void tn_build_mlp_2layer(tenon_builder *b)
{
    int64_t hidden = tenon_option_int(b, "hidden_dim", 0);
    if (hidden == 0) hidden = tenon_builder_out_dim(b);
    const char *norm = tenon_option_string(b, "pre_norm", NULL);
    if (norm != NULL && norm[0] != '\0') tn_build_norm(b, "pre_norm", norm, "ln_q", 1e-5);
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
