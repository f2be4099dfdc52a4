/* SPDX-License-Identifier: MIT */
/* Which levels there are and which of them this machine can run. */
#include "ops/cpu/levels.h"
#ifdef TN_HAVE_X86
#include <cpuid.h>

/* The builtin also asks whether the system saves the wide registers; clang 14's does not know f16c. */
static bool has_avx2(void)
{
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C) != 0;
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#define AVX2 &tn_ops_avx2, has_avx2
#define AVX512 &tn_ops_avx512, has_avx512
#else
#define AVX2 NULL, NULL
#define AVX512 NULL, NULL
#endif

static bool always(void)
{
    return true;
}

#ifdef TN_HAVE_NEON
#define NEON &tn_ops_neon, always
#else
#define NEON NULL, NULL
#endif

/* All levels of all builds, lowest first. */
static const struct {
    const char *name;
    const tn_ops *table; /* NULL: not in this build */
    bool (*runs)(void);
} levels[] = {
    {"baseline", &tn_ops_baseline, always},
    {"avx2", AVX2},
    {"avx512", AVX512},
    {"neon", NEON},
};
enum { num_levels = sizeof levels / sizeof levels[0] };

/* Those of this machine, found when the library is loaded. */
static const tn_ops *tables[num_levels + 1];

__attribute__((constructor)) static void find_tables(void)
{
    int count = 0;
    for (int i = 0; i < num_levels; i++) {
        if (levels[i].table != NULL && levels[i].runs()) tables[count++] = levels[i].table;
    }
}

const tn_ops *const *tn_cpu_tables(void)
{
    return tables;
}

const tn_ops *tn_cpu_find(const char *name)
{
    const tn_ops *best = NULL;
    int next = 0;
    for (int i = 0; i < num_levels; i++) {
        if (tables[next] != NULL && tables[next] == levels[i].table) best = tables[next++];
        if (name != NULL && strcmp(levels[i].name, name) == 0) return levels[i].table != NULL ? best : NULL;
    }
    return name == NULL ? best : NULL;
}
