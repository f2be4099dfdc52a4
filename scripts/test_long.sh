#!/bin/sh
# The checks that take minutes: scripts/test_long.sh [PART ...]; all parts by default.
set -eu
cd "$(dirname "$0")/.."

# Tests that compare values, for which a CPU level or a compiler can make a difference.
values='^test_(core|golden|init|properties|reports|sample|adapter|layers|ops|train)'
# Tests whose threads are pthreads of their own, or of the command.
threads='^test_(core|adapter|properties|reports|registry|threads)|^replay|cli'

part() {
    echo "== $1 =="
    case $1 in
    clang) sh scripts/test.sh clang ;;
    asan) sh scripts/test.sh asan --timeout 600 ;;
    tsan) PYTEST_ADDOPTS='-k "not memory"' sh scripts/test.sh tsan -R "$threads" --timeout 600 ;;
    serial) sh scripts/test.sh serial ;;
    sdist) sh scripts/python_sdist.sh ;;
    baseline) TENON_CPU=baseline sh scripts/test.sh release -R "$values" ;;
    *) echo "no part '$1'; there are clang, asan, tsan, serial, baseline, sdist" >&2; exit 2 ;;
    esac
}

[ $# -gt 0 ] || set -- clang asan tsan serial baseline sdist
for name; do
    part "$name"
done
