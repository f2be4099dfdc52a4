/* SPDX-License-Identifier: MIT */
/* What tenon inspect says of shards that an index names and that were not downloaded. */
#ifndef TENON_CLI_INSPECT_ABSENT_H
#define TENON_CLI_INSPECT_ABSENT_H

#include "tenon/tenon.h"

#include <jansson.h>

/* {"model-00002-of-00003.safetensors": 97, ...}: shard -> its tensors; empty where all are there. */
json_t *tn_absent_shards(const char *path);

/* A line for each shard, none where all are there. */
void tn_print_absent_shards(const char *path);

#endif
