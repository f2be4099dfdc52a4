#!/bin/sh
# SPDX-License-Identifier: MIT
# Writes docs/tenon.1 and cli/completion/tenon.bash from the option tables of a built command:
#     scripts/make_cli_docs.sh build/release/bin/tenon [FOLDER]
# FOLDER is the repository by default; tests/cli writes elsewhere and compares.
set -eu
tenon=$1
folder=${2:-$(dirname "$0")/..}
mkdir -p "$folder/docs" "$folder/cli/completion"
"$tenon" --print-man >"$folder/docs/tenon.1"
"$tenon" --print-completion >"$folder/cli/completion/tenon.bash"
