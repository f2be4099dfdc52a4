/* SPDX-License-Identifier: MIT */
/* What was built, and what this machine can run. */
#include "core/error.h"
#include "core/mutex.h"
#include "core/parallel.h"
#include "ops/ops.h"
#include <stdatomic.h>

const char *tenon_version(void)
{
    return TENON_VERSION_STRING;
}

/* The strings below depend on the machine alone: whoever comes first writes them, under the lock. */
static char levels[128];
static char info[256];
static atomic_bool are_written;

static void describe_locked(void)
{
    tn_text text = {levels, sizeof levels, 0};
    for (const tn_ops *const *table = tn_cpu_tables(); *table != NULL; table++) {
        tn_text_add(&text, "%s%s", text.length > 0 ? "," : "", (*table)->name);
    }
    tn_text line = {info, sizeof info, 0};
    tn_text_add(&line, "tenon %s, threads: %s, CPU levels: %s", TENON_VERSION_STRING, tn_parallel_kind(), levels);
}

static const char *described(const char *text)
{
    tn_global_mutex_acquire();
    if (!are_written) describe_locked();
    are_written = true; /* after the last byte: a fork may come at any time */
    tn_global_mutex_release();
    return text;
}

const char *tenon_cpu_levels(void)
{
    return described(levels);
}

const char *tenon_build_info(void)
{
    return described(info);
}
