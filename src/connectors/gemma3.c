/* SPDX-License-Identifier: MIT */
/* Gemma 3: y = norm(mean over each window of x) W, W stored (in, out), the norm an RMS norm by 1 + weight. */
#include "connectors/registry.h"

void tn_build_gemma3(tenon_builder *b)
{
    tenon_window_mean(b, tenon_option_int(b, "pool_window", 4), "drop");
    tenon_rms_norm(b, "mm_soft_emb_norm", tenon_option_real(b, "eps", 1e-6), TENON_PLUS_ONE);
    tenon_linear(b, "mm_input_projection_weight", tenon_builder_out_dim(b), TENON_TRANSPOSED | TENON_BARE_NAME);
}
