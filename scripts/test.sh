#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds a preset with its tests and runs them: scripts/test.sh PRESET [CTEST OPTIONS]
set -eu
cd "$(dirname "$0")/.."
preset=$1
shift
sh scripts/build.sh "$preset" -DTENON_TESTS=ON -DPython3_EXECUTABLE="$(sh scripts/test_python.sh)"

# Tests ask for more threads than there are cores: idle ones must sleep, not spin.
export OMP_WAIT_POLICY=passive
# Under sanitizers: a stack for each finding, and NULL for absurd sizes, as from any other allocator.
export UBSAN_OPTIONS=print_stacktrace=1
export ASAN_OPTIONS=allocator_may_return_null=1
export TSAN_OPTIONS=allocator_may_return_null=1
export LSAN_OPTIONS="suppressions=$PWD/scripts/lsan.supp:print_suppressions=0"
ctest --test-dir "build/$preset" -j"$(nproc)" --output-on-failure "$@"
