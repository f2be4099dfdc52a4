/* SPDX-License-Identifier: MIT */
/* The probes of an x86-64 machine. */
#include "probe.h"

#include <string.h>

const tn_probe *tn_probe_find(const char *level)
{
    if (strcmp(level, tn_probe_avx512.level) == 0) return &tn_probe_avx512;
    return strcmp(level, tn_probe_avx2.level) == 0 ? &tn_probe_avx2 : &tn_probe_portable;
}
