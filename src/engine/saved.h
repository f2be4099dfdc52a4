/* SPDX-License-Identifier: MIT */
/* call->saved: what a forward leaves for backward. In this order: the shared stored values, what the segments that make
 * them keep; then for each group its stored values and what each of its segments keeps, block after block. */
#ifndef TN_ENGINE_SAVED_H
#define TN_ENGINE_SAVED_H

#include "engine/segment.h"

/* Bytes for this call, room for alignment included; false when they do not fit. Area and store are used, and left at no
 * group. */
bool tn_saved_size(const tn_run *run, tn_area *area, tn_group *store, size_t *bytes);

/* That the call's saved has as many. */
tenon_status tn_saved_check(const tn_run *run, tn_area *area, tn_group *store, tenon_error *error);

#endif
