/* SPDX-License-Identifier: MIT */
/* The generator behind the golden vectors: the values pinned in scripts/counter_rng.py. */
#include "counter_rng.h"
#include "tests.h"

static void bits_are_pinned(void **state)
{
    (void)state;
    assert_true(counter_bits(0, 0) == UINT64_C(0x48218226FF3CD4BF));
    assert_true(counter_bits(0, 1) == UINT64_C(0xA706DD2F4D197E6F));
    assert_true(counter_bits(7, 0) == UINT64_C(0x74B5ABCC66B8BDC1));
    assert_true(counter_bits(7, 12345678901) == UINT64_C(0x635E62280948C31C));
    assert_true(counter_bits(UINT64_MAX, 3) == UINT64_C(0x82B43276ABB80226));
}

static void values_are_exact(void **state)
{
    (void)state;
    assert_true(counter_outlier(7, 77) == -8.223014831542969f);
    assert_true(counter_value(7, 77) == -8.223014831542969f / 64);
    assert_true(counter_outlier(7, 78) == 0.5947873592376709f);
    float least = 1, most = -1;
    for (uint64_t i = 0; i < 100000; i++) {
        const float v = counter_value(3, i);
        least = v < least ? v : least;
        most = v > most ? v : most;
    }
    assert_true(least >= -1 && least < -0.9999f && most < 1 && most > 0.9999f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bits_are_pinned), cmocka_unit_test(values_are_exact)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
