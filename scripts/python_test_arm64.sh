#!/bin/sh
# SPDX-License-Identifier: MIT
# Cross-compiles the Python wheel for 64-bit ARM, checks it, and runs python/tests on it in qemu, those of PyTorch where
# that is there or can be downloaded: scripts/python_test_arm64.sh [PYTEST OPTIONS]
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
export TENON_SOURCE="$root" TENON_ABSENT="jax torch torch_connectors"
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2
# Left out: what is minutes of arithmetic, to see whether others run meanwhile; inductor, which compiles C++ for the machine
# that its compiler is of; forks beside threads, which qemu does not do well; the files about pictures, types and
# documents, to which the CPU makes no difference.
set -- -k 'not gil and not inductor and not forks_while' "$@"
for name in arrays configs gradients life parameters reports values; do
    set -- "$@" "$root/python/tests/test_$name.py"
done
if torch=$(sh scripts/test_python_arm64.sh torch); then
    PYTHONPATH=$PYTHONPATH:$torch TENON_ABSENT=jax
    set -- "$@" "$root/python/tests/test_convert.py" "$root/python/tests/torch"
else
    echo "left out: tenon.torch, and what PyTorch judges" >&2
fi
cd $folder
exec "$python" -m pytest -q -rs -p no:cacheprovider "$@"
