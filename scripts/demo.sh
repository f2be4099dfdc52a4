#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds tenon and turns a photograph into tokens of a language model, twice: see README.md.
set -eu
cd "$(dirname "$0")/.."
sh scripts/install_deps.sh build
[ -x build/release/bin/tenon ] || echo "building tenon (a minute) ..."
sh scripts/build.sh release -DTENON_TESTS=OFF

tenon=build/release/bin/tenon
photo=examples/data/coffee.npy
mkdir -p build/demo

run() { # TYPE WINDOW WHAT IT DOES, OPTIONS OF init...
    type=$1
    window=$2
    what=$3
    shift 3
    "$tenon" init --type "$type" --in-dim 588 --out-dim 4096 --window "$window" "$@" -o "build/demo/$type.safetensors" >build/demo/log
    begin=$(date +%s%N)
    "$tenon" run "build/demo/$type.safetensors" $photo -o "build/demo/$type.npy" >build/demo/log 2>&1 ||
        { cat build/demo/log >&2; exit 1; }
    end=$(date +%s%N)
    "$tenon" tokens --type "$type" --window "$window" 729 >build/demo/log
    printf '  %-18s 729 patches of 588 numbers -> %3d tokens of 4096, %d ms (reading and writing included)\n' \
        "$type" "$(awk 'END { print $NF }' build/demo/log)" $(((end - begin) / 1000000))
    printf '  %-18s %s\n' "" "$what"
}

cat <<END

A vision-language model sees a picture as tokens. Between its vision encoder and its language model sits a connector:
features of patches go in, tokens as wide as the language model's come out. Here are two, with random weights, on the
729 patches (27 x 27) of a photograph of a cup of coffee:

END
run mlp_2layer 1 "two layers for each patch alone: as many tokens as patches"
run attentional_pool 3 "each 3 x 3 window of patches becomes one token: a ninth of the tokens" --heads 12
cat <<END

Weights are in build/demo/*.safetensors, tokens in build/demo/*.npy (numpy.load reads them). What next:

  what is in a connector, and what it costs:
      $tenon inspect build/demo/attentional_pool.safetensors
  count tokens before building anything:
      $tenon tokens --type avgpool --window 3 729
  everything else:
      $tenon --help
  check this build:
      make test
END
