#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the Python wheel, installs it in a fresh environment on top of the cached one (scripts/test_python.sh), and runs
# python/tests from there: scripts/python_test.sh [PYTEST OPTIONS]
# TENON_PREBUILT: a libtenon.a of these sources, to save compiling them again.
# TENON_REQUIREMENTS, TENON_FOLDER: another list of what it is tested with, and the folder for that.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
cached=$(sh scripts/test_python.sh "${TENON_REQUIREMENTS:-python/requirements-test.txt}")
PATH=$(dirname "$cached"):$PATH
folder=${TENON_FOLDER:-build/python}
python=$root/$folder/venv/bin/python
mkdir -p "$folder"

rm -rf "$folder/dist" "$folder/venv"
if ! { python -m pip wheel . --no-build-isolation --no-deps --no-index -w "$folder/dist" \
    -C cmake.define.TENON_PREBUILT="${TENON_PREBUILT:-}" &&
    python -m venv --without-pip "$folder/venv" &&
    python -m pip --python "$python" install --no-deps --no-index "$folder"/dist/*.whl; } >"$folder/log" 2>&1; then
    tail -n 40 "$folder/log" >&2
    echo "tenon: building the Python package failed; all of it is in $folder/log" >&2
    exit 1
fi
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/cached.pth"

# Tests ask for more threads than there are cores: idle ones must sleep, not spin.
export OMP_WAIT_POLICY=passive
export TENON_SOURCE="$root"
[ -x "$root/build/release/bin/tenon" ] && export TENON_BIN="$root/build/release/bin/tenon"
cd "$root/$folder"
exec "$python" -m pytest -q -p no:cacheprovider "$root/python/tests" "$@"
