#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds tenon and turns a photograph into tokens of a language model, twice: see README.md. Tests name a built command in
# TENON_BIN and the folder to write in as TENON_DEMO.
set -eu
cd "$(dirname "$0")/.."
tenon=${TENON_BIN:-build/release/bin/tenon}
folder=${TENON_DEMO:-build/demo}
if [ -z "${TENON_BIN:-}" ]; then
    sh scripts/install_deps.sh build
    [ -x "$tenon" ] || echo "building tenon (a minute) ..."
    sh scripts/build.sh release -DTENON_TESTS=OFF
fi
photo=examples/data/coffee.npy
mkdir -p "$folder"

run() { # TYPE, WHAT IT DOES, OPTIONS OF init...
    type=$1
    what=$2
    shift 2
    "$tenon" init --type "$type" --in-dim 588 --out-dim 4096 "$@" -o "$folder/$type.safetensors" >"$folder/log"
    begin=$(date +%s%N)
    "$tenon" run "$folder/$type.safetensors" $photo -o "$folder/$type.npy" >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; exit 1; }
    end=$(date +%s%N)
    tokens=$(sed -n 's/.* \([0-9]*\) tokens of width .*/\1/p' "$folder/log")
    printf '  %-18s 729 patches of 588 numbers -> %3d tokens of 4096, %d ms (reading and writing included)\n' \
        "$type" "$tokens" $(((end - begin) / 1000000))
    printf '  %-18s %s\n' "" "$what"
}

cat <<END

A vision-language model sees a picture as tokens. Between its vision encoder and its language model sits a connector:
features of patches go in, tokens as wide as the language model's come out. Here are two, with random weights, on the
729 patches (27 x 27) of a photograph of a cup of coffee:

END
run mlp_2layer "two layers for each patch alone: as many tokens as patches"
run attentional_pool "each 3 x 3 window of patches becomes one token: a ninth of the tokens" --window 3 --heads 12
cat <<END

Weights are in $folder/*.safetensors, tokens in $folder/*.npy (numpy.load reads them). What next:

  what is in a connector, and what it costs:
      $tenon inspect $folder/attentional_pool.safetensors
  count tokens before building anything:
      $tenon tokens --type avgpool --window 3 729
  everything else:
      $tenon --help
  check this build:
      make test
END
