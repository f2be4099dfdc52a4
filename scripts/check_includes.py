#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks which room of src/ includes which, and who may know of threads, instruction sets and JSON.

    check_includes.py [REPOSITORY]

A room sees itself and the rooms listed for it; every room sees tenon.h. The command and the Python module see tenon.h
and their own headers.
"""
import re
import sys
from pathlib import Path

ROOMS = {
    "core": [],
    "ops": ["core"],
    "graph": ["core", "ops"],
    "layers": ["core", "ops", "graph"],
    "formats": ["core"],
    "connectors": ["core", "graph", "layers"],
    "families": ["core", "graph", "layers", "connectors", "formats"],
    "engine": ["core", "ops", "graph", "layers"],
    "adapter": ["core", "ops", "graph", "layers", "connectors", "families", "formats", "engine"],
    "train": ["core", "ops", "graph", "layers", "connectors", "families", "formats", "engine", "adapter"],
}
# System headers that only some files may include: pattern of the header, pattern of the files.
RESERVED = [
    (r"omp\.h|pthread\.h|threads\.h", r"src/core/(mutex|parallel)\.c|cli/.*"),
    (r"unistd\.h|fcntl\.h|dirent\.h|sys/.*", r"src/core/.*|cli/.*|python/.*"),
    (r"\w*intrin\.h|cpuid\.h|arm_.*|sys/auxv\.h|cuda.*", r"src/ops/.*"),
    (r"jansson\.h", r"src/(core|formats|connectors|families|adapter)/.*|cli/.*"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def trouble_in_src(source, name, src):
    """Why a file of src/ may not include "name"; None when it may."""
    if name == "tenon/tenon.h":
        return None
    room, other = source.relative_to(src).parts[0], name.split("/")[0]
    if other not in ROOMS or not (src / name).is_file():
        return "write it as room/file.h"
    if other != room and other not in ROOMS[room]:
        return f"{room} sees only {', '.join([room, *ROOMS[room], 'tenon.h'])}"
    if name.startswith("ops/cpu/") and room != "ops":
        return "kernels are reached through ops/ops.h"
    return None


def trouble_outside(source, name, folder):
    """The same for the command and the Python module: headers beside the source, or under the part's own folder."""
    if name == "tenon/tenon.h" or (source.parent / name).is_file() or (folder / name).is_file():
        return None
    return f"{folder.name} sees only tenon/tenon.h and its own headers"


def trouble_with_system(place, name):
    for header, files in RESERVED:
        if re.fullmatch(header, name) and not re.fullmatch(files, place):
            return f"only {files} may"
    return None


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    sources = [path for folder in ("src", "cli", "python/src") for path in sorted((root / folder).rglob("*.[ch]"))]
    troubles = []
    for source in sources:
        place = source.relative_to(root).as_posix()
        for number, line in enumerate(source.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            bracket, name = match.groups()
            if bracket == "<":
                why = trouble_with_system(place, name)
            elif place.startswith("src/"):
                why = trouble_in_src(source, name, root / "src")
            else:
                why = trouble_outside(source, name, root / ("cli" if place.startswith("cli/") else "python/src"))
            if why:
                troubles.append(f"{place}:{number}: includes {name}: {why}")
    print("\n".join(troubles) if troubles else f"includes of {len(sources)} files are in order")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
