#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks what no compiler says: form, blanks, lengths, and conditions on the machine outside src/ops.

    check_style.py [REPOSITORY]

clang-format is asked where version 14 is installed, since versions differ in taste.
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

MAX_FUNCTION, MAX_FILE, MAX_COLUMN = 100, 700, 120
SPDX = "SPDX-License-Identifier: MIT"
SOURCE = {".c", ".h", ".py", ".pyi", ".sh", ".cmake"}
TEXT = {".c", ".h", ".py", ".pyi", ".sh", ".md", ".txt", ".cmake", ".json", ".in", ".1", ".bash", ".rst", ".toml", ""}
MACHINE = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*\b(__(?:x86|amd64|i386|AVX|SSE|FMA|F16C|ARM|arm|aarch64|CUDA|HIP)"
                     r"\w*|TN_HAVE_(?:AVX|CUDA)\w*)")

# On PyPI `tenon` is somebody else's; this distribution is tenon-vlm.
FOREIGN = re.compile(r"\b(?:pip3?|pipx|uv|poetry|conda|mamba)\s+(?:install|add|run|tool install)(?:\s+-\S+)*"
                     r"\s+['\"]?tenon(?![\w-]|\.\w)|\btenon\[[a-z]")


def tracked(root):
    listing = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True)
    if listing.returncode == 0:
        return [root / name for name in listing.stdout.split("\0") if name and (root / name).is_file()]
    folders = ["src", "cli", "include", "tests", "bench", "examples", "scripts", "docs", "cmake"]
    return [path for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file()]


def functions(lines):
    """(first line, length) of each block that starts and ends in the first column and is no declaration."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start:
            yield start, number - start + 1
            start = None


def check_text(place, lines):
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield f"{place}:{number}: blanks at the end of the line"
        if FOREIGN.search(line):
            yield f"{place}:{number}: names another project's package; this one is tenon-vlm"
        if "\t" in line and not place.endswith("Makefile"):
            yield f"{place}:{number}: a tab"


def check_source(place, lines):
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMN:
            yield f"{place}:{number}: {len(line)} columns; expected at most {MAX_COLUMN}"
        found = MACHINE.match(line)
        if found and place.startswith(("src/", "cli/")) and not place.startswith("src/ops/"):
            yield f"{place}:{number}: asks for {found.group(1)}; only src/ops knows machines"
    if not place.startswith(("src/", "cli/", "python/")):
        return
    if len(lines) > MAX_FILE:
        yield f"{place}: {len(lines)} lines; expected at most {MAX_FILE}"
    for start, length in functions(lines):
        if length > MAX_FUNCTION:
            yield f"{place}:{start}: a function of {length} lines; expected at most {MAX_FUNCTION}"


def check_format(root, sources):
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool or "version 14." not in subprocess.run([tool, "--version"], capture_output=True, text=True).stdout:
        print("clang-format 14 is not here: formatting not checked")
        return
    done = subprocess.run([tool, "--dry-run", "--Werror", *sources], capture_output=True, text=True, cwd=root)
    for line in done.stderr.splitlines():
        if ": error:" in line or ": warning:" in line:
            yield line.replace(f"{root}/", "").split(" [")[0] + " (run `make format`)"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    troubles, sources = [], []
    for path in tracked(root):
        place = path.relative_to(root).as_posix()
        if path.suffix not in TEXT or place.startswith(("tests/data/", "tests/fuzz/corpus/", "tests/golden/")):
            continue
        lines = path.read_text().splitlines()
        troubles += check_text(place, lines)
        if path.suffix in SOURCE and not any(SPDX in line for line in lines[:2]):
            troubles.append(f"{place}: no line '{SPDX}' at its head")
        if path.suffix in (".c", ".h"):
            sources.append(place)
            troubles += check_source(place, lines)
    troubles += check_format(root, sources)
    print("\n".join(troubles) if troubles else f"style of {len(sources)} sources is in order")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
