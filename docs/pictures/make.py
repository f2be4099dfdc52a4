# SPDX-License-Identifier: MIT
"""Draws the pictures of docs/python.md: python docs/pictures/make.py, with the package and its extras installed.

The losses are those of `tenon fit`, which $TENON_BIN names: a small pooling connector learns the tokens of a large one.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

import tenon
import tenon.plot
from tenon.torch import AdapterConfig, build_adapter

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "examples"))
import tutorial


def keep(ax, name):
    """A small picture: a few colours, no more."""
    path = HERE / name
    ax.figure.savefig(path, dpi=80)
    plt.close(ax.figure)
    from PIL import Image

    Image.open(path).convert("RGB").quantize(64 if "attention" not in name else 256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


def window_layouts():
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), layout="constrained")
    tenon.plot.window_layout((9, 9), 3, ax=axes[0])
    tenon.plot.window_layout((8, 10), 3, ax=axes[1])
    tenon.plot.window_layout((8, 10), 3, ragged="drop", ax=axes[2])
    for ax, ragged in zip(axes, ("", "\nragged: partial", "\nragged: drop"), strict=True):
        ax.set_title(ax.get_title() + ragged, fontsize=9)
    keep(axes[0], "window_layout.png")


def attention():
    """The tutorial's connector, trained."""
    patches, picture = tutorial.photograph()
    features = tutorial.stub_encoder(patches)
    config = tenon.Config("attentional_pool", pool_window=tutorial.WINDOW, pool_heads=4)
    torch.manual_seed(0)
    module = build_adapter(AdapterConfig(**config.to_dict()), tutorial.FEATURES, tutorial.MODEL_DIM)
    tutorial.train(module, torch.from_numpy(features), torch.from_numpy(tutorial.lesson(patches, features)), 150)
    adapter = tenon.build_adapter(config, tutorial.FEATURES, tutorial.MODEL_DIM)
    adapter.load_state_dict(module.state_dict())
    keep(tenon.plot.attention(adapter.attention(features), picture), "attention.png")


def token_budget():
    keep(tenon.plot.token_budget(729, max_text_len=512, max_seq_len=32768), "token_budget.png")


def losses():
    """A distillation by the command: attentional pooling learns what two layers and a window mean give."""
    patches = np.load(HERE.parents[1] / "examples/data/coffee.npy").astype(np.float32)
    teacher = tenon.build_adapter("mlp_2layer", 588, 64, seed=1)
    rng = np.random.default_rng(0)
    images = np.concatenate([patches + 0.2 * rng.standard_normal(patches.shape, dtype=np.float32) for _ in range(24)])
    targets = teacher(images).reshape(-1, 9, 3, 9, 3, 64).mean((2, 4)).reshape(-1, 81, 64)
    student = tenon.build_adapter(tenon.Config("attentional_pool", pool_window=3, pool_heads=12), 588, 64, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, values in (("features", images), ("targets", targets)):
            (root / name).mkdir()
            np.save(root / name / "0.npy", values)
        student.save(root / "start.safetensors")
        words = [os.environ["TENON_BIN"], "fit", "--model", root / "start.safetensors", "--features", root / "features"]
        words += ["--targets", root / "targets", "--steps", "120", "--batch", "4", "--lr", "1e-3", "--warmup", "10"]
        words += ["--val-fraction", "0.2", "--log", root / "log.jsonl", "-o", root / "fitted.safetensors"]
        subprocess.run(words, check=True)
        keep(tenon.plot.losses(root / "log.jsonl"), "losses.png")


if __name__ == "__main__":
    for draw in (window_layouts, attention, token_budget, losses):
        if not sys.argv[1:] or draw.__name__ in sys.argv[1:]:
            draw()
