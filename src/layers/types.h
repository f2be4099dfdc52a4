/* SPDX-License-Identifier: MIT */
/* The layer types, for their own files. */
#ifndef TN_LAYERS_TYPES_H
#define TN_LAYERS_TYPES_H

#include "graph/builder.h"

extern const tn_layer_type tn_activation_type, tn_copy_type, tn_sum_type, tn_concat_type, tn_window_mean_type,
    tn_window_attention_type, tn_norm_type, tn_patch_merge_type, tn_gate_type, tn_attention_type, tn_parameter_type,
    tn_concat_rows_type, tn_unpad_tiles_type, tn_resize_type;

/* The activation of a name; TENON_INVALID lists them. */
tenon_status tn_act_from_name(const char *name, tn_act *act, tenon_error *error);
const char *tn_act_name(tn_act act);

#endif
