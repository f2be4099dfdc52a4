/* SPDX-License-Identifier: MIT */
#include "engine/saved.h"

#include "core/size.h"

/* Bytes that a segment keeps of the store's group. */
static bool segment_bytes(const tn_run *run, tn_area *area, const tn_group *store, const tn_segment *segment,
                          size_t *bytes)
{
    const tn_wanted kept = {.kept = true};
    tn_arena arena = {.base = NULL};
    *bytes = 0;
    if (segment->is_image) return true;
    const int space = run->graph->values[run->plan->steps[segment->end - 1].value].space;
    const int64_t blocks = tn_area_plan(area, run, segment, tn_group_rows(run, store, space), &kept, &arena);
    return blocks >= 0 && tn_mul_size((size_t)blocks, tn_align_up(area->kept.size, TN_ALIGN), bytes);
}

/* Adds what the shared values need, or a group. */
static bool add_group(const tn_run *run, tn_area *area, tn_group *store, bool shared, size_t *sum)
{
    tn_arena stored = {.base = NULL};
    tn_group_take(run, store, shared, &stored);
    if (stored.overflow || !tn_add_size(*sum, stored.used, sum)) return false;
    for (int s = 0; s < run->plan->num_segments; s++) {
        size_t bytes;
        if (run->plan->segments[s].is_shared != shared) continue;
        if (!segment_bytes(run, area, store, &run->plan->segments[s], &bytes)) return false;
        if (!tn_add_size(*sum, bytes, sum)) return false;
    }
    return true;
}

bool tn_saved_size(const tn_run *run, tn_area *area, tn_group *store, size_t *bytes)
{
    const int64_t count = run->geometry.extents.images;
    size_t sum = TN_ALIGN;
    store->first_image = 0;
    tn_group_end_group(run, store);
    bool fits = add_group(run, area, store, true, &sum);
    for (store->first_image = 0; store->first_image < count && fits; store->first_image = store->end_image) {
        tn_group_end_group(run, store);
        fits = add_group(run, area, store, false, &sum);
    }
    store->first_image = store->end_image = 0;
    *bytes = sum;
    return fits;
}

tenon_status tn_saved_check(const tn_run *run, tn_area *area, tn_group *store, tenon_error *error)
{
    size_t needed;
    if (!tn_saved_size(run, area, store, &needed)) {
        return tn_fail(error, TENON_INVALID, "what backward needs of this call does not fit 64 bits");
    }
    if (run->saved_size >= needed) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "saved has %zu bytes; this call needs %zu (tenon_adapter_saved_size)",
                   run->saved_size, needed);
}
