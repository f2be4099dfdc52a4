#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs the libraries of a build into other layouts than the default (lib64, deeper folders, absolute paths of
# GNUInstallDirs) and builds an example there through pkg-config and CMake; the relative ones are moved first.
#     scripts/check_layouts.sh BUILD_FOLDER COMPILER
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
compiler=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
option() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }

quietly() {
    "$@" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
}

# Configures anew and takes the libraries of the build, which do not depend on where they are installed.
install_as() { # NAME CMAKE_OPTION...
    name=$1
    shift
    quietly cmake -S "$root" -B "$folder/$name-build" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release \
        -DTENON_CLI=OFF -DTENON_TESTS=OFF -DTENON_OPENMP="$(option TENON_OPENMP)" "$@"
    cp -P "$build"/src/libtenon.* "$folder/$name-build/src/"
    quietly cmake --install "$folder/$name-build" --prefix "$folder/$name-first"
    [ ! -e "$folder/$name-first" ] || mv "$folder/$name-first" "$folder/$name"
}

# An example through pkg-config and through CMake, against the libraries of that folder.
check() { # NAME LIBRARY_FOLDER PREFIX
    export PKG_CONFIG_PATH="$2/pkgconfig"
    # shellcheck disable=SC2046 # lists of words
    quietly "$compiler" "$root/examples/03_own_connector.c" -o "$folder/$1-pc" $(pkg-config --cflags --libs tenon) \
        -Wl,-rpath,"$2"
    quietly "$folder/$1-pc"
    readelf -d "$folder/$1-pc" | grep -q "NEEDED.*libtenon\.so\." || { echo "$1: not linked to libtenon.so" >&2; exit 1; }
    quietly cmake -S "$root/examples" -B "$folder/$1-cmake" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$3" \
        -Dtenon_DIR="$2/cmake/tenon"
    quietly cmake --build "$folder/$1-cmake" --target 03_own_connector-tenon 03_own_connector-tenon_static
    quietly "$folder/$1-cmake/03_own_connector-tenon"
    quietly "$folder/$1-cmake/03_own_connector-tenon_static"
}

install_as lib64 -DCMAKE_INSTALL_LIBDIR=lib64
check lib64 "$folder/lib64/lib64" "$folder/lib64"
install_as deep -DCMAKE_INSTALL_LIBDIR=lib/some-linux-gnu -DCMAKE_INSTALL_INCLUDEDIR=include/vlm
check deep "$folder/deep/lib/some-linux-gnu" "$folder/deep"
install_as absolute -DCMAKE_INSTALL_LIBDIR="$folder/libraries" -DCMAKE_INSTALL_INCLUDEDIR="$folder/headers"
check absolute "$folder/libraries" "$folder/absolute"
echo "three layouts: in order"
