/* SPDX-License-Identifier: MIT */
/* What the tests of adapters share: small adapters, sentences, random numbers, and a count of the allocations. */
#ifndef TESTS_ADAPTERS_H
#define TESTS_ADAPTERS_H

#include "tests.h"
#include <stdatomic.h>
#include <tenon/tenon.h>

extern tenon_error error;

/* The linker sends the library's allocations to counting functions (see CMakeLists.txt). */
extern atomic_int allocations;

/* Fail the test: with the sentence in `error`, or when that is not what was expected. */
void assert_ok(tenon_status status);
void assert_says(tenon_status status, tenon_status expected, const char *part);

/* An adapter with parameters but no pack. */
tenon_adapter *adapter_of(const char *json, int64_t in_dim, int64_t out_dim);

/* Numbers in [-1, 1), other ones in each call; the caller frees them. */
float *random_floats(int64_t count);

#endif
