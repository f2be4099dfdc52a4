#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that every report that docs/reliability.md calls a test has one that carries its number."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(?:\b|_)([BbCc]\d+)(?=_|\b)")


def listed_reports() -> set[str]:
    page = (ROOT / "docs/reliability.md").read_text()
    tests = page.split("## Tests", 1)[1].split("## Not tests yet", 1)[0]
    return set(re.findall(r"^\| ([BC]\d+) \|", tests, flags=re.MULTILINE))


def tested_reports() -> set[str]:
    folders = (ROOT / "tests", ROOT / "python/tests")
    sources = [p for folder in folders for p in folder.rglob("*") if p.suffix in (".c", ".py")]
    return {number.upper() for path in sources for number in NUMBER.findall(path.read_text())}


def main() -> int:
    listed = listed_reports()
    missing = listed - tested_reports()
    for number in sorted(missing):
        print(f"{number} is listed in docs/reliability.md but no test carries its number")
    print(f"{len(listed)} reports are tests, {len(missing)} of them missing")
    return 1 if missing or not listed else 0


if __name__ == "__main__":
    sys.exit(main())
