/* SPDX-License-Identifier: MIT */
/* The sample features are the file that examples/data/README.md describes. */
#include "scene.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { header = 128, count = 729 * 588 };

static void sample_is_the_documented_one(void **state)
{
    (void)state;
    const size_t size = header + 2 * (size_t)count;
    unsigned char *bytes = grab(size + 1);
    FILE *file = fopen(TESTS_DIR "/../examples/data/coffee.npy", "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, size + 1, file), size);
    fclose(file);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00\x76\x00", 10);
    assert_non_null(memchr(bytes, '\n', header));
    bytes[header - 1] = '\0';
    assert_string_equal(strtok((char *)bytes + 10, "}"),
                        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 729, 588), ");
    float least = 1, most = -1;
    for (size_t i = header; i < size; i += 2) {
        const float v = half_value(TENON_F16, (uint16_t)(bytes[i] | bytes[i + 1] << 8));
        least = fminf(least, v);
        most = fmaxf(most, v);
    }
    assert_true(least == -1 && most == 1);
    assert_int_equal(crc32_bytes(0, bytes + header, size - header), 0xC71B6A14u);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sample_is_the_documented_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
