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

/* The connectors that tenon ships. */
void tn_build_linear(tenon_builder *builder);
void tn_build_mlp_2layer(tenon_builder *builder);
void tn_build_avgpool(tenon_builder *builder);
void tn_build_attentional_pool(tenon_builder *builder);

#endif
