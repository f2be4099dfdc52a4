#!/bin/sh
# Builds the benchmarks and times the kernels: scripts/bench.sh [ARGUMENTS OF bench_ops]
set -eu
cd "$(dirname "$0")/.."
sh scripts/build.sh release -DTENON_TESTS=OFF -DTENON_BENCH=ON
exec build/release/bench/bench_ops "$@"
