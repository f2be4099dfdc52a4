/* SPDX-License-Identifier: MIT */
/* MT19937 with the initialisation of 2002 (a single 32-bit seed). */
#include "core/rng.h"

enum { N = 624, M = 397 };

void tn_mt19937_seed(tn_mt19937 *rng, uint64_t seed)
{
    rng->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < N; i++) {
        const uint32_t previous = rng->state[i - 1];
        rng->state[i] = 1812433253u * (previous ^ previous >> 30) + i;
    }
    rng->next = N;
}

static void refill(tn_mt19937 *rng)
{
    uint32_t *s = rng->state;
    for (int i = 0; i < N; i++) {
        const uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7fffffffu);
        s[i] = s[(i + M) % N] ^ y >> 1 ^ ((y & 1u) != 0 ? 0x9908b0dfu : 0);
    }
    rng->next = 0;
}

uint32_t tn_mt19937_draw(tn_mt19937 *rng)
{
    if (rng->next == N) refill(rng);
    uint32_t y = rng->state[rng->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}
