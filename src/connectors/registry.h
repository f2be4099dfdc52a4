/* SPDX-License-Identifier: MIT */
/* The registry: the one list of connector names. */
#ifndef TN_CONNECTORS_REGISTRY_H
#define TN_CONNECTORS_REGISTRY_H

#include "tenon/tenon.h"

/* A function that lists layers, and what it was registered with. */
typedef struct tn_recipe {
    tenon_builder_function function;
    void *context;
} tn_recipe;

/* TENON_NOT_FOUND says which names there are. */
tenon_status tn_registry_find(const char *name, tn_recipe *recipe, tenon_error *error);

/* A norm that an option names, "layernorm" or "rmsnorm". */
void tn_build_norm(tenon_builder *builder, const char *option, const char *norm, const char *name, double eps);

/* The connectors that tenon ships. */
void tn_build_linear(tenon_builder *builder);
void tn_build_mlp_2layer(tenon_builder *builder);
void tn_build_avgpool(tenon_builder *builder);
void tn_build_attentional_pool(tenon_builder *builder);
void tn_build_llava(tenon_builder *builder);
void tn_build_vip_llava(tenon_builder *builder);
void tn_build_qwen2_vl(tenon_builder *builder);
void tn_build_qwen3_vl(tenon_builder *builder);
void tn_build_internvl(tenon_builder *builder);
void tn_build_idefics2(tenon_builder *builder);
void tn_build_llava_next(tenon_builder *builder);
void tn_build_llava_onevision(tenon_builder *builder);
void tn_build_molmo2(tenon_builder *builder);
void tn_build_idefics3(tenon_builder *builder);
void tn_build_aya(tenon_builder *builder);
void tn_build_llama4(tenon_builder *builder);
void tn_build_gemma3(tenon_builder *builder);
void tn_build_mistral3(tenon_builder *builder);

#endif
