#!/bin/sh
# SPDX-License-Identifier: MIT
# Configures where nothing that tenon is built with can be found: CMake's one error names every Debian package.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Looks in no folder of the system for headers, lets pkg-config see no module, and CMake none of its own packages.
if PKG_CONFIG_PATH='' PKG_CONFIG_LIBDIR=$folder cmake -S "$root" -B "$folder/build" -DTENON_MPI=ON -DTENON_PYTHON=ON \
    -DCMAKE_IGNORE_PATH="/usr/include;/usr/local/include" -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON \
    -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON -DCMAKE_DISABLE_FIND_PACKAGE_Python3=ON >"$folder/log" 2>&1; then
    echo "it was configured without anything that it needs" >&2
    exit 1
fi
line=$(grep 'apt-get install' "$folder/log") || { cat "$folder/log" >&2; exit 1; }
for package in libdlpack-dev libjansson-dev libxxhash-dev OpenMP libopenmpi-dev libcmocka-dev python3-dev; do
    case $package$line in
    *" $package"* | OpenMP*" libgomp1 "* | OpenMP*" libomp-dev "*) ;;
    *) echo "$package is not named: $line" >&2; exit 1 ;;
    esac
done
echo "seven missing packages are named"
