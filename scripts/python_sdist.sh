#!/bin/sh
# Makes the Python package's sdist, the wheel from it alone, and checks both: scripts/python_sdist.sh
set -eu
cd "$(dirname "$0")/.."
PATH=$(dirname "$(sh scripts/test_python.sh python/requirements-test.txt)"):$PATH
folder=build/python/sdist
rm -rf $folder
mkdir -p $folder

if ! python -m build --no-isolation -o $folder . >$folder/log 2>&1; then
    tail -n 40 $folder/log >&2
    exit 1
fi
wheel=$(ls $folder/*.whl)
case $wheel in
*-cp310-abi3-linux_*.whl) ;;
*) echo "the wheel is $wheel; expected the stable ABI of Python 3.10" >&2; exit 1 ;;
esac
python -m zipfile -e "$wheel" $folder/wheel
module=$folder/wheel/tenon/_C.abi3.so
for file in tenon/__init__.py tenon/torch/__init__.py tenon/py.typed tenon/_C.pyi; do
    [ -e "$folder/wheel/$file" ] || { echo "the wheel has no $file" >&2; exit 1; }
done
if find $folder/wheel | grep -E 'libgomp|libjansson'; then
    echo "the wheel bundles libraries of the system" >&2
    exit 1
fi
readelf -d $module | grep -q 'NEEDED.*\[libgomp\.so\.1\]' || { echo "the module does not need libgomp.so.1" >&2; exit 1; }
names=$(nm -D --defined-only $module | awk '{ print $3 }')
[ "$names" = PyInit__C ] || { echo "the module shows more than PyInit__C: $names" >&2; exit 1; }
foreign=$(nm -D --undefined-only $module | grep -oE '_Py[A-Za-z_]+' | grep -vE '^_Py_(Dealloc|NoneStruct|TrueStruct|FalseStruct)$|_SizeT$' || true)
[ -z "$foreign" ] || { echo "outside the stable ABI: $foreign" >&2; exit 1; }
PYTHONPATH=$folder/wheel python -c 'import numpy, tenon
tenon.build_adapter("linear", 4, 4, seed=1)(numpy.zeros((1, 1, 4), numpy.float32))'
echo "$wheel: in order"
