/* The probes of an x86-64 machine. */
#include "probe.h"

#include <string.h>

const tn_probe *tn_probe_find(const char *level)
{
    return strcmp(level, tn_probe_avx2.level) == 0 ? &tn_probe_avx2 : &tn_probe_portable;
}
