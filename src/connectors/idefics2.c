/* SPDX-License-Identifier: MIT */
/* Idefics2's connector: a gated projection of each patch, then a perceiver resampler of learned latents. The names are
 * those of Idefics2Connector in Hugging Face's transformers. */
#include "connectors/registry.h"
#include <stdio.h>

/* "prefix.suffix", which is short: the prefixes are those below. */
typedef struct name {
    char text[128];
} name;

static name join(const char *prefix, const char *suffix)
{
    name made;
    snprintf(made.text, sizeof made.text, "%.70s.%.40s", prefix, suffix);
    return made;
}

/* y = down_proj(act(gate_proj(x)) up_proj(x)), without biases */
static int gated_mlp(tenon_builder *b, const char *prefix, int x, int64_t hidden, const char *activation)
{
    tenon_from(b, x);
    const int gate = tenon_linear(b, join(prefix, "gate_proj").text, hidden, TENON_NO_BIAS);
    tenon_from(b, x);
    const int up = tenon_linear(b, join(prefix, "up_proj").text, hidden, TENON_NO_BIAS);
    tenon_gate(b, activation, gate, up);
    return tenon_linear(b, join(prefix, "down_proj").text, tenon_builder_out_dim(b), TENON_NO_BIAS);
}

typedef struct resampler {
    int64_t depth, latents, heads, key_heads, head_dim;
    double eps;
    const char *activation;
} resampler;

/* The latents' queries over keys of the context and the latents together. */
static int attend(tenon_builder *b, const char *prefix, const resampler *r, int context, int latents)
{
    const int rows = tenon_concat_rows(b, 2, (int[]){context, latents});
    tenon_from(b, latents);
    const int q = tenon_linear(b, join(prefix, "q_proj").text, r->heads * r->head_dim, TENON_NO_BIAS);
    tenon_from(b, rows);
    const int k = tenon_linear(b, join(prefix, "k_proj").text, r->key_heads * r->head_dim, TENON_NO_BIAS);
    tenon_from(b, rows);
    const int v = tenon_linear(b, join(prefix, "v_proj").text, r->key_heads * r->head_dim, TENON_NO_BIAS);
    tenon_attention(b, q, k, v, r->heads, r->key_heads);
    return tenon_linear(b, join(prefix, "o_proj").text, tenon_builder_out_dim(b), TENON_NO_BIAS);
}

static int perceiver_layer(tenon_builder *b, const char *prefix, const resampler *r, int context, int latents)
{
    tenon_from(b, latents);
    const int queries = tenon_rms_norm(b, join(prefix, "input_latents_norm").text, r->eps, 0);
    tenon_from(b, context);
    const int keys = tenon_rms_norm(b, join(prefix, "input_context_norm").text, r->eps, 0);
    const int attended = attend(b, join(prefix, "self_attn").text, r, keys, queries);
    const int sum = tenon_sum(b, 2, (int[]){latents, attended});
    const int normed = tenon_rms_norm(b, join(prefix, "post_attention_layernorm").text, r->eps, 0);
    const int mlp = gated_mlp(b, join(prefix, "mlp").text, normed, 4 * tenon_builder_out_dim(b), r->activation);
    return tenon_sum(b, 2, (int[]){sum, mlp});
}

void tn_build_idefics2(tenon_builder *b)
{
    const int64_t out = tenon_builder_out_dim(b), hidden = tenon_option_int(b, "hidden_dim", 0);
    resampler r;
    r.activation = tenon_option_string(b, "activation", "silu");
    r.latents = tenon_option_int(b, "resampler_n_latents", 64);
    r.depth = tenon_option_int(b, "resampler_depth", 3);
    r.heads = tenon_option_int(b, "resampler_n_heads", 16);
    r.head_dim = tenon_option_int(b, "resampler_head_dim", 96);
    r.key_heads = tenon_option_int(b, "num_key_value_heads", 4);
    r.eps = tenon_option_real(b, "eps", 1e-6);
    const char *projection = tenon_option_string(b, "projection_activation", "silu");
    const int context = gated_mlp(b, "modality_projection", 0, hidden > 0 ? hidden : 4 * out, projection);
    int latents = tenon_parameter_rows(b, "perceiver_resampler.latents", r.latents, out, 1, 0, 0);
    for (int64_t i = 0; i < r.depth; i++) {
        name layer;
        snprintf(layer.text, sizeof layer.text, "perceiver_resampler.layers.%lld", (long long)i);
        latents = perceiver_layer(b, layer.text, &r, context, latents);
        if (latents < 0) return;
    }
    tenon_from(b, latents);
    tenon_rms_norm(b, "perceiver_resampler.norm", r.eps, 0);
}
