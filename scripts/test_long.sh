#!/bin/sh
# SPDX-License-Identifier: MIT
# The checks that take minutes: scripts/test_long.sh [PART ...]; all parts by default.
set -eu
cd "$(dirname "$0")/.."

# Tests that compare values, for which a CPU level or a compiler can make a difference.
values='^test_(core|golden|init|properties|reports|sample|adapter|layers|ops|train)'
# Of these, what an emulator runs in a minute or two; and the C tests, all of which it runs in about ten.
few_values='^test_(core|golden_(references|recorded|small|gradients)|models_golden|init|properties|sample|adapter|graph|layers|map_layers|connectors|ops|backward|gguf)'
unit_tests='^(test_|replay)'
# Tests whose threads are pthreads of their own, or of the command.
threads='^test_(core|adapter|fork|quota|properties|reports|registry|threads)|^replay|cli'

# The tests of the neon preset, a program at a time on each core: qemu runs threads, but slowly.
emulated() {
    OMP_NUM_THREADS=2 sh scripts/test.sh neon --timeout 1800 "$@"
}

part() {
    echo "== $1 =="
    case $1 in
    clang) sh scripts/test.sh clang ;;
    asan) sh scripts/test.sh asan --timeout 600 ;;
    tsan) PYTEST_ADDOPTS='-k "not memory"' sh scripts/test.sh tsan -R "$threads" --timeout 600 ;;
    serial) sh scripts/test.sh serial ;;
    sdist) sh scripts/python_sdist.sh ;;
    oldest)
        TENON_REQUIREMENTS=python/requirements-oldest.txt TENON_FOLDER=build/python-oldest sh scripts/python_test.sh ;;
    mpi)
        sh scripts/build.sh mpi -DTENON_TESTS=ON -DPython3_EXECUTABLE="$(sh scripts/test_python.sh)"
        PYTEST_ADDOPTS='-k "mpi or folder"' ctest --test-dir build/release -R '^cli' --output-on-failure ;;
    kills) TENON_KILLS=100 PYTEST_ADDOPTS='-k "killed_at_any_moment"' sh scripts/test.sh release -R '^cli' ;;
    forks)
        TENON_FORKS=3000 sh scripts/test.sh release -R '^test_fork' --timeout 600
        TENON_FORKS=3000 TENON_PREBUILT=$PWD/build/release/src/libtenon.a sh scripts/python_test.sh -k forks_while ;;
    baseline | avx2) TENON_CPU=$1 sh scripts/test.sh release -R "$values" ;;
    neon) emulated -R "$few_values" ;;
    neon-all) emulated -R "$unit_tests" -E '_py$|manifest|fork' ;;
    wheel-arm64) sh scripts/python_test_arm64.sh ;;
    *) echo "no part '$1'; there are clang, asan, tsan, serial, baseline, avx2, sdist, oldest, mpi, kills, forks, neon, neon-all, wheel-arm64" >&2; exit 2 ;;
    esac
}

# What is not everybody's: left out of "all parts" where it is not installed.
if [ $# -eq 0 ]; then
    set -- clang asan tsan serial baseline avx2 sdist oldest mpi kills forks
    if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
        set -- "$@" neon-all
    else
        echo "left out: neon-all (sh scripts/install_deps.sh arm64)"
    fi
    if sh scripts/test_python_arm64.sh >/dev/null; then
        set -- "$@" wheel-arm64
    else
        echo "left out: wheel-arm64"
    fi
fi
for name; do
    part "$name"
done
