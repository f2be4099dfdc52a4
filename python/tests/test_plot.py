# SPDX-License-Identifier: MIT
"""Pictures: what is drawn where, and that they can be saved."""

import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle

import tenon
import tenon.plot


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def outlines(ax):
    """(x, y, width, height) of the windows' outlines."""
    found = [p for p in ax.patches if isinstance(p, Rectangle) and not p.get_fill() and p.get_hatch() is None]
    return [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in found]


def test_window_layout(tmp_path):
    ax = tenon.plot.window_layout((5, 7), 3)
    assert outlines(ax) == [(0, 0, 3, 3), (3, 0, 3, 3), (6, 0, 1, 3), (0, 3, 3, 2), (3, 3, 3, 2), (6, 3, 1, 2)]
    assert [t.get_text() for t in ax.texts] == list("012345") and "6 tokens" in ax.get_title()
    ax.figure.savefig(tmp_path / "a.png")
    dropped = tenon.plot.window_layout((5, 7), 3, ragged="drop")
    assert outlines(dropped) == [(0, 0, 3, 3), (3, 0, 3, 3)]
    assert sum(p.get_hatch() is not None for p in dropped.patches) == 2
    with pytest.raises(ValueError, match="divisible"):
        tenon.plot.window_layout((5, 7), 3, ragged="reject")


@pytest.mark.parametrize("grid", [None, (4, 6), (5, 7)])
def test_attention_is_drawn_where_its_patches_are(tmp_path, grid):
    config = tenon.Config("attentional_pool", pool_heads=2, pool_window=2, ragged="partial")
    adapter = tenon.build_adapter(config, 8, 4, seed=1)
    rows, columns = grid or (6, 6)
    x = np.random.default_rng(0).standard_normal((2, rows * columns, 8)).astype(np.float32)
    weights = adapter.attention(x, grid=grid)
    np.save(tmp_path / "w.npy", weights)
    picture = np.zeros((30, 20, 3))
    ax = tenon.plot.attention(tmp_path / "w.npy", picture, grid=grid, image=1, head=1)
    shares = np.asarray(ax.images[-1].get_array())
    assert shares.shape == (rows, columns) and len(ax.images) == 2
    across = -(-columns // 2)
    for row, column in ((0, 0), (0, 1), (rows - 1, columns - 1), (2, 3)):
        token, slot = row // 2 * across + column // 2, row % 2 * 2 + column % 2
        there = min(2, rows - row // 2 * 2) * min(2, columns - column // 2 * 2)
        assert shares[row, column] == pytest.approx(weights[1, token, 1, slot] * there)
    assert np.isclose(shares.mean(), 1)
    ax.figure.savefig(tmp_path / "a.png")


def test_attention_that_does_not_fit():
    weights = np.full((1, 6, 2, 4), 0.25)
    with pytest.raises(ValueError, match="6 windows are no square grid; pass grid"):
        tenon.plot.attention(weights)
    with pytest.raises(ValueError, match="the weights have 6 windows; a grid of 4 x 4 has 4"):
        tenon.plot.attention(weights, grid=(4, 4))
    with pytest.raises(ValueError, match="window 3 has 9 patches; the weights have 4 for each window"):
        tenon.plot.attention(weights, grid=(4, 6), window=3)
    with pytest.raises(ValueError, match=r"expected \(batch, out_tokens, heads, window \*\* 2\)"):
        tenon.plot.attention(weights[0])


def test_token_budget():
    ax = tenon.plot.token_budget(729, windows=(1, 2, 3), frames=(1, 4), max_text_len=100, max_seq_len=2048)
    lines = [line.get_ydata() for line in ax.get_lines()]
    assert [list(line) for line in lines[:3]] == [[829, 3016], [296, 884], [181, 424]]
    refusing = tenon.plot.token_budget(729, windows=(2, 3), config=tenon.Config("attentional_pool"))
    assert len(refusing.get_lines()) == 1  # 27 is not divisible by 2


def test_losses(tmp_path):
    records = [{"step": s, "loss": 1 / s, "lr": 0.1, "gradient_norm": 1.0, "skipped": False} for s in range(1, 6)]
    records[2]["loss"] = "nan"
    records.insert(3, {"step": 3, "validation_loss": 0.4, "seconds": 1.5})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    ax = tenon.plot.losses(tmp_path / "log.jsonl")
    training, validation = ax.get_lines()
    assert list(training.get_xdata()) == [1, 2, 3, 4, 5] and np.isnan(training.get_ydata()[2])
    assert list(validation.get_xdata()) == [3] and list(validation.get_ydata()) == [0.4]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["loss", "validation", "learning rate"]
    ax.figure.savefig(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no record with a loss"):
        tenon.plot.losses([{"step": 1}])
