/* SPDX-License-Identifier: MIT */
/* What every test file includes. */
#ifndef TENON_TESTS_H
#define TENON_TESTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#endif
