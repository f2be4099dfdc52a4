/* SPDX-License-Identifier: MIT */
/* Molmo2's adapter: attention of the mean of a few patches over them, which a map of the call names, and a gated
 * projection. The features are those of two layers of the encoder side by side. The names are those of Molmo2Adapter in
 * Hugging Face's transformers. */
#include "connectors/registry.h"

/* y = down_proj(act(gate_proj(a)) up_proj(a)), a = o_proj(attention of each row of pooled_patches_idx) */
void tn_build_molmo2(tenon_builder *b)
{
    const int64_t heads = tenon_option_int(b, "num_attention_heads", 16);
    const int64_t head_dim = tenon_option_int(b, "head_dim", 72);
    const int64_t hidden = tenon_option_int(b, "hidden_dim", 0);
    const int64_t inner = hidden > 0 ? hidden : 4 * tenon_builder_out_dim(b);
    const char *activation = tenon_option_string(b, "activation", "silu");
    const unsigned attention_bias = tenon_option_bool(b, "attention_bias", true) ? TENON_BIAS : TENON_NO_BIAS;
    const unsigned mlp_bias = tenon_option_bool(b, "mlp_bias", false) ? TENON_BIAS : TENON_NO_BIAS;
    const int map = tenon_integers(b, "pooled_patches_idx", 0);
    tenon_map_attention(b, "image_pooling_2d", map, heads, head_dim, attention_bias);
    const int pooled = tenon_linear(b, "image_pooling_2d.o_proj", heads * head_dim, attention_bias);
    const int gate = tenon_linear(b, "image_projector.gate_proj", inner, mlp_bias);
    tenon_from(b, pooled);
    const int up = tenon_linear(b, "image_projector.up_proj", inner, mlp_bias);
    tenon_gate(b, activation, gate, up);
    tenon_linear(b, "image_projector.down_proj", tenon_builder_out_dim(b), TENON_NO_BIAS);
}
