/* SPDX-License-Identifier: MIT */
/* Connectors that begin with a pixel shuffle: the patches of side x side windows of a row-major grid side by side, row
 * and column of the window before the channel. */
#include "connectors/registry.h"

#include <string.h>

/* InternVL: y = linear_2(f(linear_1(layer_norm(shuffle(x))))). */
void tn_build_internvl(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "downsample", 2);
    const char *version = tenon_option_string(b, "ps_version", "v2");
    const double eps = tenon_option_real(b, "eps", 1e-5);
    const bool transposed = strcmp(version, "v1") == 0;
    if (!transposed && strcmp(version, "v2") != 0) {
        tenon_builder_fail(b, "unknown `ps_version` '%.32s'; options: v1, v2", version);
    }
    tenon_patch_merge(b, side, transposed ? TENON_MERGE_DY_DX_C_TRANSPOSED : TENON_MERGE_DY_DX_C, "reject");
    tenon_layer_norm(b, "layer_norm", eps);
    tenon_linear(b, "linear_1", tenon_builder_out_dim(b), TENON_BIAS);
    tenon_activation(b, tenon_option_string(b, "activation", "gelu"));
    tenon_linear(b, "linear_2", tenon_builder_out_dim(b), TENON_BIAS);
}

/* Idefics3 and SmolVLM: y = proj(shuffle(x)). */
void tn_build_idefics3(tenon_builder *b)
{
    tenon_patch_merge(b, tenon_option_int(b, "scale_factor", 2), TENON_MERGE_DY_DX_C, "reject");
    tenon_linear(b, "proj", tenon_builder_out_dim(b), TENON_NO_BIAS);
}

/* Aya Vision: y = linear_2(f(second half of z) first half of z), z = linear_1(layernorm(shuffle(x))). */
void tn_build_aya(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "downsample", 2);
    const int64_t hidden = tenon_option_int(b, "hidden_dim", 0), out = tenon_builder_out_dim(b);
    tenon_patch_merge(b, side, TENON_MERGE_DY_DX_C, "reject");
    tenon_layer_norm(b, "layernorm", tenon_option_real(b, "eps", 1e-6));
    tenon_linear(b, "linear_1", hidden == 0 ? out : hidden, TENON_BIAS);
    tenon_gate_halves(b, tenon_option_string(b, "activation", "silu"), true);
    tenon_linear(b, "linear_2", out, TENON_BIAS);
}

/* Llama 4: y = linear_1(f(mlp.fc2(f(mlp.fc1(shuffle(x)))))), no biases. */
void tn_build_llama4(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "downsample", 2);
    const int64_t hidden = tenon_option_int(b, "hidden_dim", 0), out = tenon_builder_out_dim(b);
    const char *activation = tenon_option_string(b, "activation", "gelu");
    tenon_patch_merge(b, side, TENON_MERGE_DY_DX_C, "reject");
    tenon_linear(b, "mlp.fc1", hidden == 0 ? out : hidden, TENON_NO_BIAS);
    tenon_activation(b, activation);
    tenon_linear(b, "mlp.fc2", hidden == 0 ? out : hidden, TENON_NO_BIAS);
    tenon_activation(b, activation);
    tenon_linear(b, "linear_1", out, TENON_NO_BIAS);
}
