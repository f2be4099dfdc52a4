#!/bin/sh
# SPDX-License-Identifier: MIT
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
sh scripts/check_wheel.sh "$wheel" "$(uname -m)"
python -m zipfile -e "$wheel" $folder/wheel
PYTHONPATH=$folder/wheel python -c 'import numpy, tenon
tenon.build_adapter("linear", 4, 4, seed=1)(numpy.zeros((1, 1, 4), numpy.float32))'
python -m venv --without-pip $folder/venv
python -m pip --python $folder/venv/bin/python install --quiet --no-deps --no-index "$wheel"
$folder/venv/bin/tenon tokens --type avgpool --window 3 729
