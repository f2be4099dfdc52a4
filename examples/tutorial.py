# SPDX-License-Identifier: MIT
"""From a photograph to tokens of a language model, and a connector that learns to look: the Python package in one go.

    pip install '.[torch,plot]'
    python examples/tutorial.py [--output FOLDER] [--steps N]

A vision encoder would see the photograph; a stub stands in for it. Between its 729 patches and the language model sits
an attentional pooling connector that makes one token of each 3 x 3 window. We teach it, in a few seconds, to make that
token of the most colourful patch of each window, and draw where it looks before and after.
"""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

import tenon
import tenon.plot
from tenon.torch import AdapterConfig, build_adapter

HERE = pathlib.Path(__file__).parent
GRID, PATCH, WINDOW = 27, 14, 3
FEATURES, MODEL_DIM = 96, 64


def photograph():
    """(729, 588) pixels of the patches in [-1, 1], and the picture they are cut from, (378, 378, 3) in [0, 1]."""
    patches = np.load(HERE / "data/coffee.npy")[0].astype(np.float32)
    picture = patches.reshape(GRID, GRID, PATCH, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(GRID * PATCH, GRID * PATCH, 3)
    return patches, (picture + 1) / 2


def stub_encoder(patches):
    """What a vision encoder would give: (1, 729, 96) features, here random projections of pixels and their colours."""
    rng = np.random.default_rng(0)
    pixels = np.tanh(patches @ rng.standard_normal((patches.shape[1], FEATURES - 32), dtype=np.float32) / 12)
    colours = patches.reshape(-1, PATCH * PATCH, 3).mean(axis=1) @ rng.standard_normal((3, 32), dtype=np.float32)
    return np.concatenate([pixels, np.tanh(2 * colours)], axis=1)[None]


def windows_of(values):
    """(729, ...) -> (81, 9, ...): the patches of each window."""
    side = GRID // WINDOW
    tiled = values.reshape(side, WINDOW, side, WINDOW, *values.shape[1:])
    return np.moveaxis(tiled, 2, 1).reshape(side * side, WINDOW * WINDOW, *values.shape[1:])


def lesson(patches, features):
    """The token that each window should give: a fixed map of its most colourful patch. (1, 81, 64)"""
    colour = patches.reshape(len(patches), -1, 3).mean(axis=1)
    best = windows_of(colour.max(axis=1) - colour.min(axis=1)).argmax(axis=1)
    chosen = windows_of(features[0])[np.arange(len(best)), best]
    teacher = np.random.default_rng(1).standard_normal((FEATURES, MODEL_DIM), dtype=np.float32) / FEATURES**0.5
    return (chosen @ teacher)[None]


def train(module, features, targets, steps):
    """Ordinary PyTorch: the connector's forward and backward run in the C library."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    log = []
    for step in range(1, steps + 1):
        loss = torch.nn.functional.mse_loss(module(features), targets)
        optimizer.zero_grad()
        loss.backward()
        log.append({"step": step, "loss": loss.item(), "lr": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
    return log


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/tutorial"))
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)

    # 1. Counts come before anything is built.
    config = tenon.Config("attentional_pool", pool_window=WINDOW, pool_heads=4)
    print(f"{GRID * GRID} patches -> {config.output_num_tokens(GRID * GRID)} tokens")

    # 2. The photograph through the encoder, the connector as it is born.
    patches, picture = photograph()
    features = stub_encoder(patches)
    torch.manual_seed(0)
    module = build_adapter(AdapterConfig(**config.to_dict()), FEATURES, MODEL_DIM)
    adapter = tenon.build_adapter(config, FEATURES, MODEL_DIM)
    adapter.load_state_dict(module.state_dict())
    before = adapter.attention(features)

    # 3. Training steps, in PyTorch.
    log = train(module, torch.from_numpy(features), torch.from_numpy(lesson(patches, features)), given.steps)
    print(f"loss {log[0]['loss']:.4f} -> {log[-1]['loss']:.4f} in {given.steps} steps")

    # 4. The trained connector as a file that `tenon run`, and this package without PyTorch, can use.
    adapter.load_state_dict(module.state_dict())
    adapter.save(given.output / "connector.safetensors")
    adapter = tenon.load(given.output / "connector.safetensors")
    tokens = adapter(features)
    with torch.no_grad():
        difference = np.abs(module(torch.from_numpy(features)).numpy() - tokens).max()
    print(f"tokens {tokens.shape}, at most {difference:.1e} from PyTorch's; {adapter.flops(GRID * GRID) / 1e6:.0f} MFLOP")

    # 5. Where it looks, and how it learned to.
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    tenon.plot.attention(before, picture, ax=axes[0])
    tenon.plot.attention(adapter.attention(features), picture, ax=axes[1])
    tenon.plot.losses(log, ax=axes[2])
    for ax, title in zip(axes, ("before", "after", "in between"), strict=True):
        ax.set_title(title)
    figure.savefig(given.output / "attention.png", dpi=80)
    print(f"{given.output / 'attention.png'}")


if __name__ == "__main__":
    main()
