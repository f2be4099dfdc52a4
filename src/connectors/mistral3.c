/* SPDX-License-Identifier: MIT */
/* Mistral Small 3.1 and LightOnOCR: y = linear_2(f(linear_1(merging_layer(merge(norm(x)))))), merged with the channel
 * before row and column of the window; rows and columns that do not fill a window are dropped. */
#include "connectors/registry.h"

void tn_build_mistral3(tenon_builder *b)
{
    const int64_t side = tenon_option_int(b, "spatial_merge_size", 2);
    const double eps = tenon_option_real(b, "eps", 1e-5);
    const char *activation = tenon_option_string(b, "activation", "gelu");
    const unsigned flags = tenon_option_bool(b, "bias", false) ? TENON_BIAS : TENON_NO_BIAS;
    tenon_rms_norm(b, "norm", eps, 0);
    tenon_patch_merge(b, side, TENON_MERGE_C_DY_DX, "drop");
    tenon_linear(b, "patch_merger.merging_layer", tenon_builder_in_dim(b), TENON_NO_BIAS);
    tenon_linear(b, "linear_1", tenon_builder_out_dim(b), flags);
    tenon_activation(b, activation);
    tenon_linear(b, "linear_2", tenon_builder_out_dim(b), flags);
}
