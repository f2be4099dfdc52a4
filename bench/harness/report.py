# SPDX-License-Identifier: MIT
"""Tables, the results file and the page in docs/."""

from __future__ import annotations

import json
import pathlib

from .environment import ROOT

DOCS = ROOT / "docs/performance.md"


class Disagreement(Exception):
    """Contenders that do not compute the same are not compared."""


def markdown(title: str, head: list[str], rows: list[list[str]], note: str = "") -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([f"### {title}", "", *([note, ""] if note else []), *lines, ""])


def cell_ms(seconds: dict | None) -> str:
    if seconds is None:
        return "-"
    median, low, high = (1e3 * seconds[key] for key in ("median", "low", "high"))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def mark(passed: bool) -> str:
    return "met" if passed else "**missed**"


def mark_ratio(passed: bool, ratio: float | None, bar: float) -> str:
    """The mark of a row that passes beside its limit too: who is slower than a peer has not met a bar of the peers."""
    if ratio is None or not passed or ratio <= bar:
        return mark(passed)
    return "**behind**" if ratio > 1 else "at the limit"


def mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def write_json(path: pathlib.Path, document: dict) -> None:
    """Sections that this run did not measure stay what they were."""
    old = json.loads(path.read_text()) if path.exists() else {}
    both = {key: {**old.get(key, {}), **document[key]} for key in ("versions", "sections")}
    merged = {**old, **document, **both}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(merged, indent=1) + "\n")


def insert(page: str, name: str, fragment: str) -> str:
    """The page with what stands between the name's markers replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin} ... {end}")
    return f"{head}{begin}\n{fragment.strip()}\n{end}{tail}"


def write_docs(fragments: dict[str, str]) -> None:
    """Each fragment between the markers of its name."""
    page = DOCS.read_text()
    for name, fragment in fragments.items():
        page = insert(page, name, fragment)
    DOCS.write_text(page)
