/* SPDX-License-Identifier: MIT */
/* The entry that libFuzzer calls. */
#ifndef TENON_TESTS_FUZZ_FILE_H
#define TENON_TESTS_FUZZ_FILE_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
