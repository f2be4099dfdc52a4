# SPDX-License-Identifier: MIT
"""The chart of README.md, docs/pictures/performance.svg: times of a forward pass beside the peers, and memory. Written by
`run.py --write-docs` from a results file alone, so that the same results give the same bytes."""

from __future__ import annotations

import json
import pathlib
import re
from xml.sax.saxutils import escape

from .environment import ROOT
from .session import LABELS, PEERS

PICTURE = ROOT / "docs/pictures/performance.svg"
NAMES = ("tenon", *PEERS)
LABEL = LABELS | {"eager": "PyTorch", "compile": "torch.compile"}
COLOUR = {
    "tenon": "#c2410c",
    "eager": "#334155",
    "compile": "#64748b",
    "onnxruntime": "#94a3b8",
    "openvino": "#cbd5e1",
}
WIDTH, LEFT, RIGHT = 880, 285, 95  # of the picture; of the names' column; kept for numbers behind the bars
BAR, GAP, TEXT = 10, 10, 12  # heights: of a bar, between groups, of a line of text


class Drawing:
    """SVG from top to bottom."""

    def __init__(self) -> None:
        self.y = 0.0
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, size: int = TEXT, anchor: str = "start", bold: bool = False) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def heading(self, words: str, note: str) -> None:
        self.y += 26
        self.text(16, self.y, words, 15, bold=True)
        self.y += 17
        self.text(16, self.y, note)
        self.y += 10

    def group(self, name: str, bars: list[tuple[str, float, str]], scale: float) -> None:
        """A name, and a bar for each (contender, length, number behind it)."""
        self.y += GAP
        self.text(LEFT - 12, self.y + len(bars) * BAR / 2 + 4, name, anchor="end")
        for contender, length, number in bars:
            width = max(1.0, length * scale)
            self.rectangle(LEFT, self.y, width, BAR - 1, COLOUR[contender])
            self.text(LEFT + width + 5, self.y + BAR - 2, number, 9, bold=contender == "tenon")
            self.y += BAR

    def legend(self, names: list[str]) -> None:
        self.y += 14
        x = float(LEFT)
        for name in names:
            self.rectangle(x, self.y - 9, 10, 10, COLOUR[name])
            self.text(x + 15, self.y, LABEL[name])
            x += 30 + 7.2 * len(LABEL[name])
        self.y += 4

    def document(self, title: str, source: str) -> str:
        height = self.y + 16
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="Helvetica, Arial, sans-serif" fill="#0f172a">'
        )
        paper = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
        return "\n".join([head, f"<title>{escape(title)}</title>", f"<!-- {source} -->", paper, *self.parts, "</svg>", ""])


def _milliseconds(seconds: float) -> str:
    number = 1e3 * seconds
    return f"{number:.0f} ms" if number >= 100 else f"{number:.1f} ms"


def _times(drawing: Drawing, rows: list[dict]) -> None:
    shown = [name for name in NAMES if any(name in row["seconds"] for row in rows)]
    drawing.heading("Time of a forward pass", "each contender's median over tenon's; shorter is faster")
    drawing.legend(shown)
    groups = []
    for row in rows:
        ours = row["seconds"]["tenon"]["median"]
        medians = {name: row["seconds"][name]["median"] for name in shown if name in row["seconds"]}
        number = lambda n, m: _milliseconds(m) if n == "tenon" else f"{m / ours:.2f} ({_milliseconds(m)})"
        groups.append((row["title"], [(n, m / ours, number(n, m)) for n, m in medians.items()]))
    longest = max(length for _, bars in groups for _, length, _ in bars)
    for name, bars in groups:
        drawing.group(name, bars, (WIDTH - LEFT - RIGHT) / longest)


def _memory(drawing: Drawing, rows: list[dict]) -> None:
    drawing.y += 14
    drawing.heading(
        "Memory of a forward pass", "mlp_2layer, frames of 729 x 1152 -> 4096; beyond features, tokens and the weights; MiB"
    )
    groups = []
    for row in rows:
        sizes = {"tenon": row["extra"]} | ({"eager": row["eager"]} if "eager" in row else {})
        groups.append((f"{row['frames']} frames", [(n, s / 2**20, f"{s / 2**20:.0f} MiB") for n, s in sizes.items()]))
    largest = max(length for _, bars in groups for _, length, _ in bars)
    for name, bars in groups:
        drawing.group(name, bars, (WIDTH - LEFT - RIGHT) / largest)


def draw(path: pathlib.Path) -> str:
    """The picture of a results file, as text."""
    document = json.loads(path.read_text())
    sections, versions, machine = document["sections"], document["versions"], document["machine"]
    drawing = Drawing()
    _times(drawing, sections["connectors"]["results"]["rows"])
    _memory(drawing, sections["memory"]["results"]["rows"])
    named = [n for n in PEERS if n != "compile" and n in versions]  # which has PyTorch's version
    peers = ", ".join(f"{LABEL[n]} {versions[n].split('+')[0]}" for n in named)
    drawing.y += 26
    drawing.text(16, drawing.y, f"{machine['cpu']}, {machine['cores']} cores, {document['level']}; tenon "
                 f"{sections['connectors']['commit'].rstrip('+')}; {peers}; docs/measuring.md says how it is measured", 10)
    return drawing.document("tenon beside PyTorch, ONNX Runtime and OpenVINO: time and memory", f"bench/results/{path.name}")


def source(picture: str) -> pathlib.Path:
    """The results file that a picture names."""
    return ROOT / re.search(r"<!-- (bench/results/[\w.-]+\.json) -->", picture)[1]


def write(path: pathlib.Path) -> None:
    PICTURE.write_text(draw(path))
