/* SPDX-License-Identifier: MIT */
/* The generator behind parameter initialisation: MT19937, seeded as torch.manual_seed does. */
#ifndef TN_CORE_RNG_H
#define TN_CORE_RNG_H

#include <stdint.h>

/* Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998. */
typedef struct tn_mt19937 {
    uint32_t state[624];
    int next;
} tn_mt19937;

/* The low 32 bits of the seed count. */
void tn_mt19937_seed(tn_mt19937 *rng, uint64_t seed);
uint32_t tn_mt19937_draw(tn_mt19937 *rng);

#endif
