#!/bin/sh
# SPDX-License-Identifier: MIT
# One version everywhere: the macros of tenon.h, the file name and SONAME of the shared library, tenon.pc, the change log.
#     scripts/check_version.sh BUILD_FOLDER
set -eu
root=$(dirname "$0")/..
macro() { sed -n "s/^#define TENON_VERSION_$1 \"\{0,1\}\([0-9.]*\)\"\{0,1\}$/\1/p" "$root/include/tenon/tenon.h"; }
version=$(macro STRING)

expect() { # WHAT FOUND
    [ "$2" = "$version" ] || { echo "$1 says '$2', TENON_VERSION_STRING '$version'" >&2; exit 1; }
}
expect "tenon.h's numbers" "$(macro MAJOR).$(macro MINOR).$(macro PATCH)"
expect tenon.pc "$(sed -n 's/^Version: //p' "$1/tenon.pc")"
[ -e "$1/src/libtenon.so.$version" ] || expect "the file name of libtenon.so" "$(ls "$1"/src/libtenon.so.*)"
case $(macro MAJOR) in
0) abi=0.$(macro MINOR) ;;
*) abi=$(macro MAJOR) ;;
esac
readelf -d "$1/src/libtenon.so" | grep -q "SONAME.*\[libtenon\.so\.$abi\]" ||
    { echo "the SONAME is not libtenon.so.$abi: $(readelf -d "$1/src/libtenon.so" | grep SONAME)" >&2; exit 1; }
[ ! -e "$root/CHANGELOG.md" ] || expect CHANGELOG.md "$(sed -n 's/^## \[\{0,1\}\([0-9][0-9.]*\).*/\1/p' "$root/CHANGELOG.md" | head -n 1)"
[ ! -x "$1/bin/tenon" ] || expect 'tenon --version' "$("$1/bin/tenon" --version | sed -n '1s/^tenon \([0-9.]*\).*/\1/p')"
echo "version $version everywhere"
