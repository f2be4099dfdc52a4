#!/bin/sh
# Cross-compiles the Python wheel for 64-bit ARM, checks it, and runs the NumPy part of python/tests on it in qemu:
# scripts/python_test_arm64.sh [PYTEST OPTIONS]
set -eu
cd "$(dirname "$0")/.."
root=$PWD
python=$(sh scripts/test_python_arm64.sh)
PATH=$(dirname "$(sh scripts/test_python.sh python/requirements-test.txt)"):$PATH
folder=build/python/arm64
mkdir -p $folder

headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
rm -rf $folder/dist $folder/site
# The variable that CPython's own cross-compilation sets decides the wheel's tag.
if ! { _PYTHON_HOST_PLATFORM=linux-aarch64 python -m pip wheel . --no-build-isolation --no-deps --no-index -w $folder/dist \
    -C build-dir=$folder/cmake \
    -C cmake.define.CMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64-linux-gnu.cmake" \
    -C cmake.define.CMAKE_C_FLAGS="-idirafter $(dirname "$headers")" \
    -C cmake.define.Python3_INCLUDE_DIR="$headers" &&
    python -m pip --python "$python" install --no-deps --no-index --target $folder/site $folder/dist/*.whl; } \
    >$folder/log 2>&1; then
    tail -n 40 $folder/log >&2
    echo "tenon: building the wheel for 64-bit ARM failed; all of it is in $folder/log" >&2
    exit 1
fi
sh scripts/check_wheel.sh $folder/dist/*.whl aarch64

export PYTHONPATH="$root/$folder/site"
export TENON_SOURCE="$root" TENON_NUMPY_ONLY=1
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2
cd $folder
set -- -k 'not gil' "$@" # minutes of arithmetic, to see whether others run meanwhile
for name in arrays configs gradients life parameters values; do
    set -- "$@" "$root/python/tests/test_$name.py"
done
exec "$python" -m pytest -q -rs -p no:cacheprovider "$@"
