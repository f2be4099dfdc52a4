#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds a preset into build/<preset>: scripts/build.sh PRESET [CMAKE OPTIONS]. Prints compiler output on failure only.
set -eu
cd "$(dirname "$0")/.."
preset=$1
shift
mkdir -p build
log=build/$preset.log
if ! { cmake --preset "$preset" "$@" && cmake --build --preset "$preset"; } >"$log" 2>&1; then
    grep -E -A12 'error|FAILED|CMake Error' "$log" >&2 || tail -n 40 "$log" >&2
    echo "tenon: building $preset failed; all of it is in $log" >&2
    exit 1
fi
