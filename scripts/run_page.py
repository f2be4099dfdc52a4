#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs what a page shows: python3 scripts/run_page.py README.md, with the Python package installed, and the library and
the command built (TENON_BIN; default: build/release/bin/tenon).

Code blocks are taken by their language, all in one empty folder that holds features.npy and the folder features:
    console   lines "$ command", each with what it prints, which is compared
    sh        commands that must succeed; those of the repository (make, pip, git, ...) are looked up, not run
    c         a program, which is run, or a piece of one that uses the DLTensors `features` and `tokens`
    python    all blocks in one process, in which the array `features` is there
    text      not run
A block of another language, or of none, is an error.
"""
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/cli"))
import console  # noqa: E402

LANGUAGES = ("console", "sh", "c", "python", "text")
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PIECE = """#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tenon/tenon.h>

int main(void)
{{
    static int64_t x_shape[] = {{{x}}}, y_shape[] = {{{y}}};
    DLTensor features = {{.device = {{kDLCPU, 0}}, .ndim = 3, .dtype = {{kDLFloat, 32, 1}}, .shape = x_shape}};
    DLTensor tokens = {{.device = {{kDLCPU, 0}}, .ndim = 3, .dtype = {{kDLFloat, 32, 1}}, .shape = y_shape}};
    features.data = calloc((size_t)(x_shape[0] * x_shape[1] * x_shape[2]), sizeof(float));
    tokens.data = calloc((size_t)(y_shape[0] * y_shape[1] * y_shape[2]), sizeof(float));
{piece}
    return 0;
}}
"""


class Trouble(Exception):
    pass


def blocks(text):
    """(line, language, content) of each code block."""
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found[1] not in LANGUAGES:
            raise Trouble(f"line {line}: a block of '{found[1]}'; languages are {', '.join(LANGUAGES)}")
        yield line, found[1], found[2]


def run(words, folder, what, **options):
    done = subprocess.run(words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise Trouble(f"{what} fails with {done.returncode}:\n{done.stdout}")
    return done.stdout


def lines(content):
    """(line, [the words of each command that && joins]); continued lines are one, comments are left out."""
    for line in content.replace("\\\n", " ").split("\n"):
        found = [[]]
        for word in shlex.split(line, comments=True):
            if word == "&&":
                found.append([])
            else:
                found[-1].append(word)
        if found[0]:
            yield line, found


def look_up(words):
    """True for a command of the repository or the system, after a look at what it names; False for one to run."""
    name = words[0]
    if name == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
    elif name in ("pip", "pip3"):
        asked = " ".join(words)
        table = (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1]
        known = re.findall(r"^(\w+) = \[", table, re.MULTILINE)
        extras = [extra for some in re.findall(r"\[([\w,]+)\]", asked) for extra in some.split(",")]
        unknown = [extra for extra in extras if extra not in known]
        if not re.search(r"(^| )(\.|tenon-vlm)(\[|$| )", asked):
            unknown.append(asked)
    elif name == "apt-get":
        known = re.findall(r"[\w.:+-]+", (ROOT / "scripts/install_deps.sh").read_text())
        unknown = [word for word in words[2:] if not word.startswith("-") and word not in known]
    elif len(words) > 1 and name in ("sh", "python", "python3"):
        unknown = [] if (ROOT / words[1]).exists() else [words[1]]
    elif name in ("git", "cd", "cmake"):
        unknown = []
    else:
        return False
    if unknown:
        raise Trouble(f"'{' '.join(words)}': there is no {', '.join(unknown)}")
    return True


def run_shell(content, folder):
    path = os.pathsep.join([str(folder / ".bin"), os.environ["PATH"]])
    for line, found in lines(content):
        if not all([look_up(words) for words in found]):
            run(["sh", "-c", line], folder, f"'{line.strip()}'", env={**os.environ, "PATH": path})


def compile_c(content, folder):
    """A whole program is run; a piece too, where the page has made tokens.npy, which says how large tokens are."""
    whole = re.search(r"\bint main\b", content)
    tokens = folder / "tokens.npy"
    paths = (folder / "features.npy", tokens)
    shapes = [numpy.load(path, mmap_mode="r").shape if path.exists() else (1, 1, 1) for path in paths]
    x, y = (", ".join(map(str, shape)) for shape in shapes)
    (folder / "page.c").write_text(content if whole else PIECE.format(x=x, y=y, piece=content))
    libraries = Path(os.environ["TENON_BIN"]).resolve().parents[1] / "src"
    words = [os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}"]
    run([*words, "page.c", "-o", "page", f"-L{libraries}", "-ltenon", f"-Wl,-rpath,{libraries}"], folder, "compiling its C")
    if whole or tokens.exists():
        said = run(["./page"], folder, "its C program")
        if not whole and said:
            raise Trouble(f"its C says: {said}")


def run_page(path):
    text = Path(path).read_text()
    found = list(blocks(text))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        new = console.run_page(text, os.environ["TENON_BIN"], scratch)  # makes features.npy and .bin/tenon
        if console.settle(new) != console.settle(text):
            raise Trouble("the console prints something else; tests/cli/console.py writes it anew")
        (folder / "features").mkdir()
        for name in ("a", "b"):
            numpy.save(folder / "features" / name, numpy.load(folder / "features.npy")[:1])
        python = ["import numpy", "features = numpy.load('features.npy')"]
        for line, language, content in found:
            try:
                if language == "sh":
                    run_shell(content, folder)
                elif language == "c":
                    compile_c(content, folder)
            except Trouble as trouble:
                raise Trouble(f"the block at line {line}: {trouble}") from None
            if language == "python":
                python.append(content)
        run([sys.executable, "-c", "\n".join(python)], folder, "its Python")
    return len(found)


def main():
    command = os.environ.setdefault("TENON_BIN", str(ROOT / "build/release/bin/tenon"))
    if not Path(command).exists():
        sys.exit(f"there is no {command}: run `make build` first")
    try:
        for page in sys.argv[1:]:
            print(f"{page}: {run_page(page)} blocks run")
    except Trouble as trouble:
        sys.exit(f"{page}: {trouble}")


if __name__ == "__main__":
    main()
