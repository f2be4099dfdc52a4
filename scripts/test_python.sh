#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the Python that tests run on: an environment in the cache folder, made on the first call, one for each version
# of its list of requirements. `sh scripts/test_python.sh [REQUIREMENTS]`; by default those of the C tests.
set -eu
requirements=${1:-$(dirname "$0")/requirements-test.txt}
key=$({ cat "$requirements"; python3 --version; } | cksum | cut -d' ' -f1)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/tenon/python-$key

if [ ! -e "$folder/ready" ]; then
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
    touch "$folder/ready"
fi
echo "$folder/bin/python"
