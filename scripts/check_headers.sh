#!/bin/sh
# SPDX-License-Identifier: MIT
# Compiles each header alone: tenon.h as strict C11 and C++17, the library's own as C11. The kernel headers are parts of
# one file per CPU level and are left out. scripts/check_headers.sh [CC [CXX]]
set -eu
cd "$(dirname "$0")/.."
cc=${1:-cc}
cxx=${2:-c++}
strict="-fsyntax-only -Wall -Wextra -Werror -pedantic -Iinclude"

status=0
check() { # HEADER COMPILER...
    header=$1
    shift
    count=$((count + 1))
    printf '#include "%s"\n#include "%s"\nextern int header_is_alone;\n' "$header" "$header" | "$@" - ||
        { echo "$header does not compile alone: $*" >&2; status=1; }
}

count=0
# shellcheck disable=SC2086 # lists of words
{
    check tenon/tenon.h "$cc" $strict -std=c11 -x c
    check tenon/tenon.h "$cxx" $strict -std=c++17 -x c++
    for path in src/*/*.h; do
        check "${path#src/}" "$cc" $strict -Isrc -std=c11 -D_POSIX_C_SOURCE=200809L -D_XOPEN_SOURCE=700 -x c
    done
}
[ $status = 0 ] && echo "$count headers compile alone"
exit $status
