# SPDX-License-Identifier: MIT
"""Pictures of connectors, drawn with matplotlib: ``pip install 'tenon-vlm[plot]'``.

Each function draws into the given axes, or into new ones, and returns them. It does not show or save the picture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tenon import _C
from tenon._config import as_config

try:
    import matplotlib.pyplot as plt
    from matplotlib import colors, patches, ticker
except ModuleNotFoundError:
    raise ImportError("tenon.plot needs matplotlib: pip install 'tenon-vlm[plot]'") from None

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#22313f", "#9aa7b2"
_PATCH_COLOURS = ("#cfe3f5", "#e6f0d4")  # of neighbouring windows
_PARTIAL_COLOURS = ("#f8d9b0", "#fbe8c9")
_LINES = ("#1f6fb2", "#c8552b", "#3d8b4f", "#8b5fb0", "#b8860b", "#5c6b73")

# Dark below an even share, clear at it, orange above.
_SHARES = colors.LinearSegmentedColormap.from_list(
    "shares",
    [(0.0, (0.05, 0.08, 0.16, 0.72)), (0.5, (0.05, 0.08, 0.16, 0.0)), (0.5, (1.0, 0.6, 0.0, 0.0)), (1.0, (1.0, 0.6, 0.0, 0.9))],
)


def window_layout(
    grid: tuple[int, int], window: int, *, ragged: str = "partial", numbers: bool = True, ax: Axes | None = None
) -> Axes:
    """The windows on a grid of (rows, columns) patches, with the numbers of their tokens.

    With `ragged` "partial", incomplete windows at the edge have another colour. With "drop", patches outside complete
    windows are hatched. With "reject", raises ValueError for such a grid, as an adapter does.
    """
    rows, columns = grid
    count = _C.pooled_grid_count(rows, columns, window, ragged)
    ax = _axes(ax, (4.2, 4.2 * rows / columns + 0.5))
    across = columns // window if ragged == "drop" else -(-columns // window)
    for token in range(count):
        row, column = divmod(token, across)
        _draw_window(ax, row, column, window, grid, str(token) if numbers else "")
    if ragged == "drop":
        _hatch_dropped(ax, rows // window * window, columns // window * window, grid)
    for line in range(rows + 1):
        ax.plot([0, columns], [line, line], color=_GRID, linewidth=0.5, zorder=2)
    for line in range(columns + 1):
        ax.plot([line, line], [0, rows], color=_GRID, linewidth=0.5, zorder=2)
    ax.set(xlim=(-0.1, columns + 0.1), ylim=(rows + 0.1, -0.1), aspect="equal", xticks=[], yticks=[])
    ax.set_title(f"{rows} x {columns} patches, window {window}: {count} tokens", fontsize=10, color=_INK)
    ax.set_frame_on(False)
    return ax


def attention(
    weights: Any,
    picture: Any = None,
    *,
    grid: tuple[int, int] | None = None,
    window: int | None = None,
    image: int = 0,
    head: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The attention of each window to its patches, drawn over the picture.

    `weights` is what ``adapter.attention(x)`` returns, or the name of the npy file that ``tenon run --attention`` wrote:
    (batch, out_tokens, heads, window ** 2). `picture` (height, width, 3) is stretched over the grid; None draws the
    weights only. `grid` and `window` need not be given for a square grid. `head` selects one head; the default is the
    mean of all. The picture shows each weight times the number of patches in the window: below 1, an even share, is
    dark; above is bright.
    """
    values = _weights(weights)
    window = round(values.shape[3] ** 0.5) if window is None else window
    shares, (rows, columns) = _on_grid(values[image], grid, window, head)
    ax = _axes(ax, (4.8, 4.8 * rows / columns))
    if picture is not None:
        ax.imshow(np.asarray(picture), extent=(0, columns, rows, 0), interpolation="bilinear")
    top = max(2.0, float(np.nanmax(shares, initial=1.0)))
    scale = colors.TwoSlopeNorm(1.0, 0.0, top)
    drawn = ax.imshow(shares, extent=(0, columns, rows, 0), cmap=_SHARES, norm=scale)
    for line in range(0, rows + 1, window):
        ax.plot([0, columns], [line, line], color="white", linewidth=0.8)
    for line in range(0, columns + 1, window):
        ax.plot([line, line], [0, rows], color="white", linewidth=0.8)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.8, ticks=[0, 1, top], format="%.2g")
    bar.set_label("share of the window's attention, 1 = even", fontsize=8)
    which = "mean of the heads" if head is None else f"head {head}"
    ax.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    ax.set_title(f"{rows} x {columns} patches, window {window}, {which}", fontsize=10, color=_INK)
    return ax


def token_budget(
    num_input_tokens: int,
    *,
    windows: Sequence[int] = (1, 2, 3, 4),
    frames: Iterable[int] = (1, 2, 4, 8, 16, 32, 64, 128),
    config: Any = "avgpool",
    grid: tuple[int, int] | None = None,
    max_text_len: int = 0,
    max_seq_len: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The length of a sequence for each number of frames and several windows, compared with the maximum.

    The counts are those of `config` with each window. Windows that the type refuses for this grid are left out.
    """
    settings = as_config(config)
    counted = list(frames)
    ax = _axes(ax, (5.6, 3.8))
    for number, window in enumerate(windows):
        try:
            tokens = settings.output_num_tokens(num_input_tokens, pool_window=window, grid=grid)
        except ValueError:
            continue
        lengths = [_C.sequence_length(count, tokens, max_text_len) for count in counted]
        colour = _LINES[number % len(_LINES)]
        ax.plot(counted, lengths, "o-", color=colour, markersize=3.5, linewidth=1.5)
        ax.annotate(f" window {window}: {tokens}", (counted[-1], lengths[-1]), fontsize=8, color=colour, va="center")
    if max_seq_len is not None:
        ax.axhline(max_seq_len, color=_INK, linewidth=1, linestyle="--")
        ax.annotate(f"max_seq_len {max_seq_len:,}", (counted[0], max_seq_len * 1.08), fontsize=8, color=_INK)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlim(counted[0] * 0.9, counted[-1] * (counted[-1] / counted[0]) ** 0.28 * 1.1)
    text = f" + {max_text_len} of text" if max_text_len else ""
    ax.set(xlabel="frames", ylabel=f"tokens in the sequence{text}")
    ax.set_title(f"{num_input_tokens} patches a frame, {settings.type}", fontsize=10, color=_INK)
    ax.grid(True, color="#e3e8ec", linewidth=0.6)
    return ax


def losses(log: Any, *, ax: Axes | None = None) -> Axes:
    """The curves of a log of ``tenon fit --log``: training and validation loss, and the learning rate on the right.

    `log` is the name of the log or a list of its records. Skipped steps and losses that are not finite leave gaps.
    """
    records = _records(log)
    steps = [record for record in records if "loss" in record]
    checks = [record for record in records if "validation_loss" in record]
    if not steps and not checks:
        raise ValueError("log has no record with a loss")
    ax = _axes(ax, (5.6, 3.6))
    ax.plot([r["step"] for r in steps], [_number(r["loss"]) for r in steps], color=_LINES[0], linewidth=1.2, label="loss")
    if checks:
        values = [_number(r["validation_loss"]) for r in checks]
        ax.plot([r["step"] for r in checks], values, "o-", color=_LINES[1], markersize=4, linewidth=1.2, label="validation")
    ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss")
    ax.grid(True, which="both", color="#e3e8ec", linewidth=0.6)
    rates = [(r["step"], r["lr"]) for r in steps if "lr" in r]
    lines = ax.get_lines()
    if rates:
        right = ax.twinx()
        lines = [*lines, *right.plot(*zip(*rates, strict=True), color=_GRID, linewidth=1, linestyle=":", label="learning rate")]
        right.set_ylabel("learning rate", color="#6b7983")
        right.set_ylim(bottom=0)
    ax.legend(lines, [str(line.get_label()) for line in lines], frameon=False, fontsize=8)
    return ax


# ---- parts ----


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _draw_window(ax: Axes, row: int, column: int, window: int, grid: tuple[int, int], text: str) -> None:
    height, width = min(window, grid[0] - row * window), min(window, grid[1] - column * window)
    whole = height == window and width == window
    colour = (_PATCH_COLOURS if whole else _PARTIAL_COLOURS)[(row + column) % 2]
    corner = (column * window, row * window)
    ax.add_patch(patches.Rectangle(corner, width, height, facecolor=colour, zorder=1))
    ax.add_patch(patches.Rectangle(corner, width, height, fill=False, edgecolor=_INK, linewidth=1.4, zorder=3))
    centre = (corner[0] + width / 2, corner[1] + height / 2)
    ax.annotate(text, centre, ha="center", va="center", fontsize=7, color=_INK, zorder=4)


def _hatch_dropped(ax: Axes, whole_rows: int, whole_columns: int, grid: tuple[int, int]) -> None:
    rows, columns = grid
    for corner, width, height in (
        ((0, whole_rows), columns, rows - whole_rows),
        ((whole_columns, 0), columns - whole_columns, whole_rows),
    ):
        if width and height:
            ax.add_patch(
                patches.Rectangle(corner, width, height, facecolor="#f2f4f5", edgecolor=_GRID, hatch="////", zorder=1)
            )


def _weights(weights: Any) -> np.ndarray:
    if isinstance(weights, (str, os.PathLike)):
        weights = np.load(weights)
    values = np.asarray(weights, dtype=np.float64)
    if values.ndim != 4:
        raise ValueError(f"weights have shape {values.shape}; expected (batch, out_tokens, heads, window ** 2)")
    return values


def _on_grid(
    weights: np.ndarray, grid: tuple[int, int] | None, window: int, head: int | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """(out_tokens, heads, window ** 2) as shares on the patch grid; NaN where there is no patch."""
    tokens = weights.shape[0]
    if window * window != weights.shape[2]:
        raise ValueError(f"window {window} has {window * window} patches; the weights have {weights.shape[2]} for each window")
    side = round(tokens**0.5)
    if grid is None and side * side != tokens:
        raise ValueError(f"{tokens} windows are no square grid; pass grid")
    rows, columns = grid if grid is not None else (side * window, side * window)
    across = -(-columns // window)
    if tokens != -(-rows // window) * across:
        raise ValueError(f"the weights have {tokens} windows; a grid of {rows} x {columns} has {-(-rows // window) * across}")
    chosen = weights.mean(axis=1) if head is None else weights[:, head]
    shares = np.full((rows, columns), np.nan)
    for token in range(tokens):
        top, left = token // across * window, token % across * window
        cells = [(s, top + s // window, left + s % window) for s in range(window * window)]
        there = [(s, r, c) for s, r, c in cells if r < rows and c < columns]
        for s, r, c in there:
            shares[r, c] = chosen[token, s] * len(there)
    return shares, (rows, columns)


def _records(log: Any) -> list[dict[str, Any]]:
    if not isinstance(log, (str, os.PathLike)):
        return list(log)
    with open(log, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
