# SPDX-License-Identifier: MIT
"""What a call from Python costs beyond the C call, on an input so small that nothing else counts.

    sh scripts/python_test.sh -k nothing; build/python/venv/bin/python bench/python_overhead.py TENON_BIN

TENON_BIN: the C command; `tenon bench` times its side. Microseconds, the best of several repetitions.
"""

import json
import subprocess
import sys
import tempfile
import timeit

import numpy as np

import tenon

NUMBER = 50_000


def best(statement, **names):
    return min(timeit.repeat(statement, globals=names, number=NUMBER, repeat=7)) / NUMBER * 1e6


def main():
    adapter = tenon.build_adapter("linear", 8, 8, seed=1)
    x = np.zeros((1, 1, 8), np.float32)
    y = adapter(x)
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(f"{folder}/a.safetensors")
        words = [sys.argv[1], "bench", f"{folder}/a.safetensors", "--tokens", "1", "--batch", "1", "--json"]
        c_call = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["median_ms"] * 1e3
    print(f"the C call                 {c_call:6.2f}")
    for name, statement in (("adapter(x)", "a(x)"), ("adapter(x, out=y)", "a(x, out=y)")):
        taken = best(statement, a=adapter, x=x, y=y)
        print(f"{name:26s} {taken:6.2f}, {taken - c_call:+.2f}")


if __name__ == "__main__":
    main()
