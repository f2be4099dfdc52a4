/* Which levels there are and which of them this machine can run. */
#include "ops/cpu/levels.h"
#ifdef TN_HAVE_AVX2
#include <cpuid.h>
#endif

#ifdef TN_HAVE_AVX2
/* The builtin also asks whether the system saves the wide registers; clang 14's does not know f16c. */
static bool has_avx2(void)
{
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C) != 0;
}
#define AVX2_TABLE &tn_ops_avx2
#else
static bool has_avx2(void)
{
    return false;
}
#define AVX2_TABLE NULL
#endif

static bool has_baseline(void)
{
    return true;
}

/* All levels of all builds, lowest first. */
static const struct {
    const char *name;
    const tn_ops *table; /* NULL: not in this build */
    bool (*runs)(void);
} levels[] = {
    {"baseline", &tn_ops_baseline, has_baseline},
    {"avx2", AVX2_TABLE, has_avx2},
};
enum { num_levels = sizeof levels / sizeof levels[0] };

const tn_ops *const *tn_cpu_tables(void)
{
    static const tn_ops *const all[] = {&tn_ops_baseline, AVX2_TABLE, NULL};
    static const tn_ops *const lowest[] = {&tn_ops_baseline, NULL};
    return has_avx2() ? all : lowest;
}

const tn_ops *tn_cpu_find(const char *name)
{
    const tn_ops *best = NULL;
    for (int i = 0; i < num_levels; i++) {
        if (levels[i].table != NULL && levels[i].runs()) best = levels[i].table;
        if (name != NULL && strcmp(levels[i].name, name) == 0) return best;
    }
    return name == NULL ? best : NULL;
}
