/* Probes at the baseline level. */
#include "ops/cpu/primitives_baseline.h"

#include "probe_kernels.h"

const probe probe_baseline = PROBE("baseline");
