#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the README's table of public models from the library's own, which `tenon families` prints.

    TENON_BIN=build/release/bin/tenon scripts/families_table.py README.md

The table stands between two lines that are comments; the rest of the page stays. Exit code 1: it had to be changed.
"""
import json
import os
import pathlib
import subprocess
import sys

BEGIN, END = "<!-- families: scripts/families_table.py -->\n", "<!-- end of families -->\n"


def table(binary):
    done = subprocess.run([binary, "families", "--json"], capture_output=True, text=True, check=True)
    rows = ["| family | connector | `model_type` of config.json, `clip.projector_type` of a GGUF file |\n", "|---|---|---|\n"]
    for row in json.loads(done.stdout)["families"]:
        types = ", ".join(f"`{name}`" for name in row["model_types"])
        rows.append(f"| {row['family']} | `{row['type']}` | {types} |\n")
    return "".join(rows)


def main(path):
    page = path.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    fresh = before + BEGIN + table(os.environ.get("TENON_BIN", "tenon")) + END + after
    if fresh != page:
        path.write_text(fresh)
    return int(fresh != page)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
