/* The registry: the one list of connector names. */
#ifndef TN_CONNECTORS_REGISTRY_H
#define TN_CONNECTORS_REGISTRY_H

#include "tenon/tenon.h"

/* NULL, and *error says which names there are. */
tenon_builder_function tn_registry_find(const char *name, tenon_error *error);

/* The connectors that tenon ships. */
void tn_build_linear(tenon_builder *builder);
void tn_build_mlp_2layer(tenon_builder *builder);
void tn_build_avgpool(tenon_builder *builder);
void tn_build_attentional_pool(tenon_builder *builder);

#endif
