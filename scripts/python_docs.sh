#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the reference of the Python package into build/python/reference, from the environment that scripts/python_test.sh
# makes: scripts/python_docs.sh
set -eu
cd "$(dirname "$0")/.."
python=$PWD/build/python/venv/bin/python
[ -x "$python" ] || { echo "tenon: run scripts/python_test.sh first" >&2; exit 1; }
"$python" -m sphinx -q -W --keep-going -b html docs/reference build/python/reference
echo build/python/reference/index.html
