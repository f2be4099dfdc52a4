#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs what is missing on Debian: scripts/install_deps.sh build|test|mpi|ci|arm64
# arm64 is for a part of scripts/test_long.sh: a cross compiler, an emulator and libraries of 64-bit ARM.
# As root it installs; else it prints the one line to run as root, and exits with 1. Silent when nothing is missing.
set -eu
here=$(dirname "$0")

build="build-essential cmake ninja-build pkg-config libdlpack-dev libjansson-dev libxxhash-dev"
tests="libcmocka-dev python3 python3-dev python3-venv"
mpi="libopenmpi-dev openmpi-bin"
checks="clang libclang-rt-dev libomp-dev clang-format shellcheck git $mpi"
arm64="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
    libgomp1:arm64 libjansson-dev:arm64 libxxhash-dev:arm64 libcmocka-dev:arm64"
architecture=
case ${1:-} in
build) packages=$build ;;
test) packages="$build $tests" ;;
mpi) packages="$build $tests $mpi" ;;
ci) packages="$build $tests $checks" ;;
arm64) packages="$build $tests $arm64" architecture=arm64 ;;
*) echo "usage: scripts/install_deps.sh build|test|mpi|ci|arm64" >&2; exit 2 ;;
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
    libopenmpi-dev) command -v mpicc ;;
    openmpi-bin) command -v mpirun ;;
    python3-dev) python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' ;;
    python3-venv) python3 -c 'import ensurepip, venv' ;;
    libclang-rt-dev) echo 'int main(void) { return 0; }' | clang -fsanitize=address -x c -o /dev/null - ;;
    gcc-aarch64-linux-gnu) command -v aarch64-linux-gnu-gcc ;;
    libc6-dev-arm64-cross) echo '#include <stdio.h>' | aarch64-linux-gnu-gcc -E -x c - ;;
    qemu-user) command -v qemu-aarch64 ;;
    *:arm64) dpkg-query --show --showformat='${Status}' "$1" | grep -q 'ok installed' ;;
    libomp-dev) echo 'int main(void) { return 0; }' | clang -fopenmp -x c -o /dev/null - ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

# The first failure is the function's: set -e does not work within a condition.
install() {
    [ -z "$architecture" ] || dpkg --add-architecture "$architecture" || return
    apt-get update || return
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
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
        echo "    ${architecture:+dpkg --add-architecture $architecture && }apt-get update && apt-get install -y$missing" >&2
        exit 1
    fi
    echo "installing:$missing"
    log=$(mktemp)
    if ! install >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
    rm -f "$log"
fi
[ "$1" != build ] || exit 0
sh "$here/test_python.sh" >/dev/null
sh "$here/test_python.sh" "$here/../python/requirements-test.txt" >/dev/null
