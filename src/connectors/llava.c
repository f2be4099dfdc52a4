/* SPDX-License-Identifier: MIT */
/* LLaVA and its kin: an MLP on each patch, tokens kept. */
#include "connectors/registry.h"

#include <stdio.h>

/* y = linear_depth(f(... f(linear_1(x)))); depth 0: y = x. With `norm` (BakLLaVA) a layer norm follows each linear
 * layer, before the activation. */
void tn_build_llava(tenon_builder *b)
{
    const int64_t depth = tenon_option_int(b, "depth", 2);
    const int64_t hidden = tenon_option_int(b, "hidden_dim", 0), out = tenon_builder_out_dim(b);
    const char *activation = tenon_option_string(b, "activation", "gelu");
    const unsigned flags = tenon_option_bool(b, "bias", true) ? TENON_BIAS : TENON_NO_BIAS;
    const bool norm = tenon_option_bool(b, "norm", false);
    if (depth < 0 || depth > 1000) tenon_builder_fail(b, "`depth` must be from 0 to 1000 (got %lld)", (long long)depth);
    if (depth == 0) tenon_copy(b);
    for (int64_t i = 1; i <= depth && depth <= 1000; i++) {
        char name[32];
        if (i > 1) tenon_activation(b, activation);
        snprintf(name, sizeof name, "linear_%lld", (long long)i);
        tenon_linear(b, name, i == depth || hidden == 0 ? out : hidden, flags);
        snprintf(name, sizeof name, "norm_%lld", (long long)i);
        if (norm) tenon_layer_norm(b, name, 1e-5);
    }
}

/* ViP-LLaVA: y = linear_2(f(linear_1(projector_layernorm(x)))) of concatenated encoder layers. */
void tn_build_vip_llava(tenon_builder *b)
{
    const int64_t hidden = tenon_option_int(b, "hidden_dim", 0), out = tenon_builder_out_dim(b);
    const char *activation = tenon_option_string(b, "activation", "gelu");
    tenon_layer_norm(b, "projector_layernorm", tenon_option_real(b, "eps", 1e-5));
    tenon_linear(b, "linear_1", hidden == 0 ? out : hidden, TENON_BIAS);
    tenon_activation(b, activation);
    tenon_linear(b, "linear_2", out, TENON_BIAS);
}
