/* SPDX-License-Identifier: MIT */
/* How much processor time the control groups of this process leave it. */
#ifndef TN_CORE_QUOTA_H
#define TN_CORE_QUOTA_H

#include <stdint.h>

/* The least quota / period over the group of this process and all groups around it, in cores, rounded up: at least 1.
 * 0: there is no limit, or none that can be read. Versions 1 and 2 of control groups, wherever they are mounted. Every
 * path is looked for under `root`: "" is this machine, a test has a folder of its own. */
int64_t tn_cpu_quota(const char *root);

#endif
