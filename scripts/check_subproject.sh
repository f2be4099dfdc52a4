#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds a project that has tenon as a part of itself, through add_subdirectory and through FetchContent, and runs it:
# tenon brings its libraries and nothing else.  scripts/check_subproject.sh [C COMPILER]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
generator=
! command -v ninja >/dev/null || generator=Ninja

quietly() {
    "$@" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
}

for how in add_subdirectory FetchContent; do
    build=$folder/$how
    quietly cmake ${generator:+-G "$generator"} -S "$root/tests/consumer" -B "$build" -DHOW=$how -DTENON_SOURCE="$root" \
        -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER="${1:-cc}"
    quietly cmake --build "$build"
    for library in tenon tenon_static; do
        "$build/consumer_$library" | grep -q '[0-9] tokens' || { echo "$how, $library: no tokens were counted" >&2; exit 1; }
    done
    [ -z "$(find "$build" -type f -path '*/bin/tenon')" ] || { echo "$how: the command was built" >&2; exit 1; }
    ctest --test-dir "$build" -N | grep -q 'Total Tests: 0' || { echo "$how: there are tests" >&2; exit 1; }
    quietly cmake --install "$build" --prefix "$folder/usr"
    [ ! -e "$folder/usr" ] || { echo "$how: files were installed" >&2; find "$folder/usr" >&2; exit 1; }
done
echo "tenon is a part of other projects"
