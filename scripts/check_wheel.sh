#!/bin/sh
# SPDX-License-Identifier: MIT
# Checks a wheel's name and tag, its files, what its two programs need, and what its extension module shows:
#     scripts/check_wheel.sh WHEEL MACHINE
set -eu
wheel=$1
machine=$2
case $wheel in
*tenon_vlm-*-cp310-abi3-linux_"$machine".whl) ;;
*) echo "the wheel is $wheel; expected tenon_vlm, the stable ABI of Python 3.10 and linux_$machine" >&2; exit 1 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m zipfile -e "$wheel" "$folder"
module=$folder/tenon/_C.abi3.so
command=$(find "$folder" -path '*.data/scripts/tenon')
[ -n "$command" ] || { echo "the wheel has no command" >&2; exit 1; }
for file in tenon/__init__.py tenon/__main__.py tenon/torch/__init__.py tenon/py.typed tenon/_C.pyi; do
    [ -e "$folder/$file" ] || { echo "the wheel has no $file" >&2; exit 1; }
done
if [ "$(find "$folder" -name '*.so*')" != "$module" ]; then
    echo "the wheel bundles libraries of the system:" >&2
    find "$folder" -name '*.so*' >&2
    exit 1
fi
for program in "$module" "$command"; do
    readelf -h "$program" | grep -qi "machine:.*$(echo "$machine" | tr _ -)" || { echo "$program is not for $machine" >&2; exit 1; }
    needed=$(readelf -d "$program" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | LC_ALL=C sort | paste -sd' ')
    case $needed in
    "libc.so.6 libgomp.so.1 libjansson.so.4 libm.so.6" | *"ld-linux-aarch64.so.1 libc.so.6 libgomp.so.1 libjansson.so.4 libm.so.6") ;;
    *) echo "$program needs other libraries than expected: $needed" >&2; exit 1 ;;
    esac
    readelf -d "$program" | grep -E 'R(UN)?PATH' && { echo "$program looks for libraries where it was built" >&2; exit 1; }
done

# Columns: number, value, size, type, binding, visibility, section, name[@version].
names() {
    readelf -W --dyn-syms "$module" |
        awk -v undefined="$1" '$5 ~ /GLOBAL|WEAK/ && ($7 == "UND") == undefined { sub("@.*", "", $8); print $8 }'
}
[ "$(names 0)" = PyInit__C ] || { echo "the module shows more than PyInit__C: $(names 0)" >&2; exit 1; }
foreign=$(names 1 | grep -oE '^_Py[A-Za-z_]+' | grep -vE '^_Py_(Dealloc|NoneStruct|TrueStruct|FalseStruct)$|_SizeT$' || true)
[ -z "$foreign" ] || { echo "outside the stable ABI: $foreign" >&2; exit 1; }
echo "$wheel: in order"
