#!/bin/sh
# SPDX-License-Identifier: MIT
# Checks a wheel's tag, its files, and what its extension module needs and shows: scripts/check_wheel.sh WHEEL MACHINE
set -eu
wheel=$1
machine=$2
case $wheel in
*-cp310-abi3-linux_"$machine".whl) ;;
*) echo "the wheel is $wheel; expected the stable ABI of Python 3.10 and linux_$machine" >&2; exit 1 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m zipfile -e "$wheel" "$folder"
module=$folder/tenon/_C.abi3.so
for file in tenon/__init__.py tenon/torch/__init__.py tenon/py.typed tenon/_C.pyi; do
    [ -e "$folder/$file" ] || { echo "the wheel has no $file" >&2; exit 1; }
done
if [ "$(find "$folder" -name '*.so*')" != "$module" ]; then
    echo "the wheel bundles libraries of the system:" >&2
    find "$folder" -name '*.so*' >&2
    exit 1
fi
readelf -h "$module" | grep -qi "machine:.*$(echo "$machine" | tr _ -)" || { echo "the module is not for $machine" >&2; exit 1; }
readelf -d "$module" | grep -q 'NEEDED.*\[libgomp\.so\.1\]' || { echo "the module does not need libgomp.so.1" >&2; exit 1; }

# Columns: number, value, size, type, binding, visibility, section, name[@version].
names() {
    readelf -W --dyn-syms "$module" |
        awk -v undefined="$1" '$5 ~ /GLOBAL|WEAK/ && ($7 == "UND") == undefined { sub("@.*", "", $8); print $8 }'
}
[ "$(names 0)" = PyInit__C ] || { echo "the module shows more than PyInit__C: $(names 0)" >&2; exit 1; }
foreign=$(names 1 | grep -oE '^_Py[A-Za-z_]+' | grep -vE '^_Py_(Dealloc|NoneStruct|TrueStruct|FalseStruct)$|_SizeT$' || true)
[ -z "$foreign" ] || { echo "outside the stable ABI: $foreign" >&2; exit 1; }
echo "$wheel: in order"
