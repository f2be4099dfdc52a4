# SPDX-License-Identifier: MIT
"""Runs the console blocks of a page: lines "$ command", each followed by what it prints (stdout and stderr).

As a program it writes the page anew with the present output:
    TENON_BIN=build/release/bin/tenon python3 tests/cli/console.py docs/cli.md
"""
import os
import re
import subprocess
import sys
import tempfile

import numpy

# What differs from machine to machine and from run to run.
VARYING = [
    (r"\d+\.\d{3} s: load \d+\.\d+, read \d+\.\d+, compute \d+\.\d+, write \d+\.\d+", "SECONDS"),
    (r"in \d+\.\d s on", "in SECONDS on"),
    (r'("(load|read|compute|write|total)"): [0-9.e-]+', r"\1: SECONDS"),
    (r"cpu \(\w+\)", "cpu (LEVEL)"),
    (r'"cpu": "(?!cpu)\w+"', '"cpu": "LEVEL"'),
    (r"\bbaseline[,\w]*", "LEVELS"),
    (r"[0-9.]+ [KM]iB$", "WORKSPACE"),
    (r"\b\d\.\d{4,}(e-\d+)?|\b\d\.\d+e-\d+", "NUMBER"),
    (r"in row \[[\d, ]*\]", "in row [INDEX]"),
    (r"[ \t]+", " "),
]


def settle(text):
    for pattern, to in VARYING:
        text = re.sub(pattern, to, text, flags=re.MULTILINE)
    return text


def run_page(text, binary, folder):
    """Returns the page with the output of every command put in."""
    numpy.save(os.path.join(folder, "features.npy"),
               numpy.random.default_rng(1).normal(size=(4, 729, 1152)).astype(numpy.float32))
    os.makedirs(os.path.join(folder, ".bin"))
    os.symlink(os.path.abspath(binary), os.path.join(folder, ".bin", "tenon"))
    env = {**os.environ, "PATH": os.path.join(folder, ".bin") + os.pathsep + os.environ["PATH"]}
    out, inside = [], False
    for line in text.split("\n"):
        if line.startswith("```"):
            inside = line == "```console"
        if inside and not line.startswith(("$ ", "```")):
            continue
        out.append(line)
        if inside and line.startswith("$ "):
            done = subprocess.run(["sh", "-c", line[2:]], cwd=folder, env=env, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
            out += [part.rstrip() for part in done.stdout.rstrip("\n").split("\n")] if done.stdout else []
    return "\n".join(out)


if __name__ == "__main__":
    page = open(sys.argv[1]).read()
    with tempfile.TemporaryDirectory() as scratch:
        new = run_page(page, os.environ["TENON_BIN"], scratch)
    open(sys.argv[1], "w").write(new)
