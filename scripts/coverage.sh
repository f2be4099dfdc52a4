#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the tests on the coverage build and prints the share of lines of src and cli that they reach, by file.
set -eu
cd "$(dirname "$0")/.."
find build/coverage -name '*.gcda' -delete 2>/dev/null || true
sh scripts/test.sh coverage || echo "some tests failed: they have more limits in a build that counts" >&2
cd build/coverage
find src cli -name '*.gcda' -print0 | xargs -0 gcov -r -s "$(cd ../.. && pwd)" -n 2>/dev/null | awk '
    /^File / { file = $2; gsub(/\047/, "", file) }
    /^Lines executed:/ && file ~ /^(src|cli)\/.*\.[ch]$/ {
        split($0, part, /[:%]| of /)
        lines[file] = part[4]
        hit[file] = hit[file] > part[2] ? hit[file] : part[2] # a header counts in its best user
        file = ""
    }
    END {
        for (file in lines) {
            printf "%6.1f %% of %4d lines  %s\n", hit[file], lines[file], file | "sort -n"
            all += lines[file]
            reached += lines[file] * hit[file] / 100
        }
        close("sort -n")
        printf "%6.1f %% of %4d lines\n", 100 * reached / all, all
    }'
