#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs a build into an empty folder, moves that, and builds and runs the installed examples from there: with each
# compiler that is here, through pkg-config (shared and static) and through CMake. Then removes it again.
#     scripts/check_install.sh BUILD_FOLDER
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
folder=$(mktemp -d)
# The list of what an installation by hand wrote stays what it was, for `make uninstall`.
manifest=$build/install_manifest.txt
[ ! -e "$manifest" ] || cp "$manifest" "$folder/manifest"
finish() {
    rm -f "$manifest"
    [ ! -e "$folder/manifest" ] || cp "$folder/manifest" "$manifest"
    rm -rf "$folder"
}
trap finish EXIT

cmake --install "$build" --prefix "$folder/first" >"$folder/log"
mv "$folder/first" "$folder/usr"
libraries=$(dirname "$(find "$folder/usr" -name libtenon.a)")
examples=$folder/usr/share/doc/tenon/examples
export PKG_CONFIG_PATH="$libraries/pkgconfig"
pc() { pkg-config "$@" tenon; }

# Where both libraries lie the linker takes the shared one; here it finds the static one first.
mkdir "$folder/static"
ln -s "$libraries/libtenon.a" "$folder/static"

"$folder/usr/bin/tenon" init --type avgpool --window 3 --in-dim 588 --out-dim 64 -o "$folder/adapter.safetensors" \
    >"$folder/log"

run() { # PROGRAM EXAMPLE
    case $2 in
    01_*) "$1" "$folder/adapter.safetensors" "$examples/data/coffee.npy" ;;
    *) "$1" ;;
    esac >"$folder/out" || { echo "$1 failed" >&2; exit 1; }
    grep -q '[0-9] tokens' "$folder/out" || { echo "$1 printed no count of tokens" >&2; cat "$folder/out" >&2; exit 1; }
    # All ways to build an example give the same numbers.
    [ -e "$folder/$2.expected" ] || cp "$folder/out" "$folder/$2.expected"
    cmp "$folder/out" "$folder/$2.expected" || exit 1
    ran=$((ran + 1))
}

ran=0
for compiler in gcc clang; do
    command -v $compiler >/dev/null || continue
    warnings="-std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wpedantic -Werror"
    for source in "$examples"/*.c; do
        example=$(basename "$source" .c)
        program=$folder/$example-$compiler
        # shellcheck disable=SC2046,SC2086 # lists of words
        {
            $compiler $warnings "$source" -o "$program-shared" $(pc --cflags --libs) -pthread -Wl,-rpath,"$libraries"
            $compiler $warnings "$source" -o "$program-static" -L"$folder/static" $(pc --static --cflags --libs) -pthread
        }
        run "$program-shared" "$example"
        run "$program-static" "$example"
    done
    cmake -S "$examples" -B "$folder/$compiler" -DCMAKE_C_COMPILER=$compiler -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_PREFIX_PATH="$folder/usr" -DCMAKE_C_FLAGS="-Wall -Wextra -Werror" >"$folder/log"
    cmake --build "$folder/$compiler" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
    for source in "$examples"/*.c; do
        example=$(basename "$source" .c)
        run "$folder/$compiler/$example-tenon" "$example"
        run "$folder/$compiler/$example-tenon_static" "$example"
    done
done
[ "$ran" -gt 0 ] || { echo "neither gcc nor clang is here" >&2; exit 1; }

for file in bin/tenon include/tenon/tenon.h share/man/man1/tenon.1 share/bash-completion/completions/tenon \
    share/doc/tenon/LICENSE share/doc/tenon/docs/cli.md share/doc/tenon/examples/README.md; do
    [ -s "$folder/usr/$file" ] || { echo "$file was not installed" >&2; exit 1; }
done

# Staged under another root, as packagers do; and nothing of it is left by the removal.
DESTDIR=$folder/stage cmake --install "$build" --prefix /opt/vlm >"$folder/log"
PKG_CONFIG_PATH=$(dirname "$(find "$folder/stage" -name tenon.pc)") pkg-config --cflags tenon |
    grep -q "^-I$folder/stage/opt/vlm/" || { echo "tenon.pc does not follow DESTDIR" >&2; exit 1; }
uninstall() { cmake -DMANIFEST="$manifest" -DPREFIX="$1" -P "$root/cmake/uninstall.cmake" >"$folder/log" 2>&1; }
if DESTDIR=$folder/stage uninstall /opt/other; then
    echo "another prefix was taken for the one of the installation" >&2
    exit 1
fi
DESTDIR=$folder/stage uninstall /opt/vlm || { cat "$folder/log" >&2; exit 1; }
left=$(find "$folder/stage" ! -type d -o -name tenon)
[ -z "$left" ] || { echo "not removed: $left" >&2; exit 1; }
echo "$ran runs of the examples against the installed library, all alike"
