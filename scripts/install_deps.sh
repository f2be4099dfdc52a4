#!/bin/sh
# Installs what is missing on Debian: scripts/install_deps.sh build|test|ci
# As root it installs; else it prints the one line to run as root, and exits with 1. Silent when nothing is missing.
set -eu
here=$(dirname "$0")

build="build-essential cmake ninja-build pkg-config libdlpack-dev libjansson-dev libxxhash-dev"
tests="libcmocka-dev python3 python3-dev python3-venv"
checks="clang libclang-rt-dev libomp-dev clang-format shellcheck git"
case ${1:-} in
build) packages=$build ;;
test) packages="$build $tests" ;;
ci) packages="$build $tests $checks" ;;
*) echo "usage: scripts/install_deps.sh build|test|ci" >&2; exit 2 ;;
esac

# Whether what a package is for is there already, from wherever it came.
have() {
    case $1 in
    build-essential) command -v cc && command -v c++ && command -v make ;;
    ninja-build) command -v ninja ;;
    libdlpack-dev) echo '#include <dlpack/dlpack.h>' | cc -E -x c - ;;
    libjansson-dev) pkg-config --exists 'jansson >= 2.13' ;;
    libxxhash-dev) pkg-config --exists libxxhash ;;
    libcmocka-dev) pkg-config --exists cmocka ;;
    python3-dev) python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' ;;
    python3-venv) python3 -c 'import ensurepip, venv' ;;
    libclang-rt-dev) echo 'int main(void) { return 0; }' | clang -fsanitize=address -x c -o /dev/null - ;;
    libomp-dev) echo 'int main(void) { return 0; }' | clang -fopenmp -x c -o /dev/null - ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

missing=
for package in $packages; do
    have "$package" || missing="$missing $package"
done

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "tenon: missing; install what your system calls these Debian packages:$missing" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "tenon: some packages are missing; as root, run this and try again:" >&2
        echo "    apt-get update && apt-get install -y$missing" >&2
        exit 1
    fi
    echo "installing:$missing"
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of words
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
        >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
    rm -f "$log"
fi
[ "$1" != build ] || exit 0
sh "$here/test_python.sh" >/dev/null
sh "$here/test_python.sh" "$here/../python/requirements-test.txt" >/dev/null
