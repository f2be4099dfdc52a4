#!/bin/sh
# SPDX-License-Identifier: MIT
# The names that the libraries give away are the functions of tenon.h, all of them and no other.
#     scripts/check_symbols.sh libtenon.so libtenon.a
set -eu
header=$(dirname "$0")/../include/tenon/tenon.h
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tr '\n' ' ' <"$header" | grep -oP 'TENON_API[^;(]*?\b\Ktenon_\w+(?= ?\()' | LC_ALL=C sort >"$folder/declared"
names() { awk 'NF == 3 { print $3 }' | LC_ALL=C sort -u; }
nm -D --defined-only "$1" | names >"$folder/shared"
nm -g --defined-only "$2" | names >"$folder/static"

status=0
for library in shared static; do
    LC_ALL=C comm -13 "$folder/declared" "$folder/$library" >"$folder/extra"
    LC_ALL=C comm -23 "$folder/declared" "$folder/$library" >"$folder/absent"
    [ ! -s "$folder/extra" ] || { echo "$library library: not in tenon.h:" "$(paste -sd" " "$folder/extra")"; status=1; }
    [ ! -s "$folder/absent" ] || { echo "$library library: not defined:" "$(paste -sd" " "$folder/absent")"; status=1; }
done
[ $status = 0 ] && echo "$(wc -l <"$folder/declared") names in both libraries"
exit $status
