# SPDX-License-Identifier: MIT
"""Gradients against PyTorch's autograd in float64."""

import numpy as np
import pytest
from hypothesis import given
from others import other
from scenes import scenes

import tenon
from tenon import _C

torch, torch_connectors = other("torch"), other("torch_connectors")


def autograd(scene, adapter, x, dy):
    """Gradients of sum(y * dy): of the parameters, in order, and of x; float64."""
    if scene.batch == 0:  # PyTorch cannot reshape nothing
        return [*[np.zeros(shape) for _, _, shape, _ in adapter.parameters()], np.zeros(x.shape)]
    state = {name: torch.tensor(value) for name, value in adapter.state_dict("float64").items()}
    names = dict.fromkeys(name.rpartition(".")[0] for name in state)
    layers = [torch.nn.Linear(*state[f"{n}.weight"].shape[::-1], dtype=torch.float64) for n in names]
    for name, layer in zip(names, layers, strict=True):
        layer.load_state_dict({"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]})
    masks = scene.masks()
    patches = scene.grid[0] * scene.grid[1]
    patch = np.ones((scene.batch, patches), bool) if masks["patch_mask"] is None else masks["patch_mask"]
    frame = np.ones(scene.batch, bool) if masks["frame_mask"] is None else masks["frame_mask"]
    leaf = torch.tensor(x.astype(np.float64), requires_grad=True)
    y = torch_connectors.forward(
        scene.config,
        layers,
        leaf[:, scene.config.get("prefix_tokens", 0) :],
        torch.tensor(patch),
        torch.tensor(frame),
        scene.maps(),
    )
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    found = torch.autograd.grad((y * torch.tensor(dy)).sum(), [*parameters, leaf], allow_unused=True)
    return [np.zeros(p.shape) if g is None else g.numpy() for g, p in zip(found, [*parameters, leaf], strict=True)]


@given(scenes())
def test_against_autograd(scene):
    adapter, x = scene.adapter(), scene.features()
    adapter.prepare(train=True)
    settings = (scene.pool_window, scene.grid, *scene.masks().values())
    tokens = adapter.output_num_tokens(scene.tokens, pool_window=scene.pool_window, grid=scene.grid)
    dy = np.random.default_rng(scene.seed).standard_normal((scene.batch, tokens, scene.out_dim)).astype(np.float32)
    gradients = [np.zeros(shape, np.float32) for _, _, shape, _ in adapter.parameters()]
    dx = np.full(x.shape, np.nan, np.float32)
    adapter.backward(dy, x, dx, gradients, *settings)
    for ours, expected in zip([*gradients, dx], autograd(scene, adapter, x, dy), strict=True):
        scale = max(np.linalg.norm(expected), 1e-2 * np.sqrt(expected.size))
        assert np.linalg.norm(ours - expected) <= 2e-5 * scale

    size = adapter.saved_size(scene.batch, scene.tokens, scene.pool_window, scene.grid)
    saved = np.zeros(size, np.uint8)
    y = np.empty(dy.shape, np.float32)
    adapter.forward(y, x, *settings, None, 0, saved)
    saved.flags.writeable = False
    again = [None, *[np.zeros_like(g) for g in gradients[1:]]]  # the first is frozen
    adapter.backward(dy, x, None, again, *settings, 0, saved)
    assert all(a.tobytes() == g.tobytes() for a, g in zip(again[1:], gradients[1:], strict=True))


@given(scenes())
def test_two_axes_are_one_image(scene):
    """Of which the gradients are those of a batch of one, in two axes."""
    adapter, x = scene.adapter(), scene.features()
    adapter.prepare(train=True)
    mask = scene.masks()["patch_mask"]
    tokens = adapter.output_num_tokens(scene.tokens, pool_window=scene.pool_window, grid=scene.grid)
    dy = np.random.default_rng(scene.seed).standard_normal((scene.batch, tokens, scene.out_dim)).astype(np.float32)
    size = adapter.saved_size(1, scene.tokens, scene.pool_window, scene.grid)
    for i in range(scene.batch):
        found = []
        for image in (slice(i, i + 1), i):
            settings = (scene.pool_window, scene.grid, None if mask is None else mask[image], None)
            dx = np.full(x[image].shape, np.nan, np.float32)
            gradients = [np.zeros(shape, np.float32) for _, _, shape, _ in adapter.parameters()]
            saved, y = np.zeros(size, np.uint8), np.empty(dy[image].shape, np.float32)
            adapter.forward(y, x[image], *settings, None, 0, saved)
            adapter.backward(dy[image], x[image], dx, gradients, *settings, 0, saved)
            found.append([dx, y, *gradients])
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*found, strict=True))


def test_gradients_are_added_to():
    adapter = tenon.build_adapter("linear", 3, 2, seed=1)
    adapter.prepare(train=True)
    x, dy = np.ones((1, 4, 3), np.float32), np.ones((1, 4, 2), np.float32)
    gradients = [np.full((2, 3), 5, np.float32), np.full(2, 7, np.float32)]
    raw = [(g.ctypes.data, _C.F32, g.shape, None) for g in gradients]
    adapter.backward(dy, x, None, raw)
    assert (gradients[0] == 9).all() and (gradients[1] == 11).all()
    assert adapter.backward(dy, x, None, None) is None


def test_sentences():
    adapter = tenon.build_adapter("linear", 3, 2, seed=1)
    x, dy = np.ones((1, 4, 3), np.float32), np.ones((1, 4, 2), np.float32)
    with pytest.raises(ValueError, match="prepare"):
        adapter.backward(dy, x, np.empty_like(x), None)
    adapter.prepare(train=True)
    for gradients in (3, [None], [x] * 3):
        with pytest.raises(TypeError, match="a sequence of 2 arrays or Nones, one for each parameter"):
            adapter.backward(dy, x, None, gradients)
    with pytest.raises(ValueError, match="gradient of 'proj.weight'"):
        adapter.backward(dy, x, None, [np.zeros((2, 3), np.float16), None])
    with pytest.raises(ValueError, match="dx is read-only"):
        adapter.backward(dy, x, np.broadcast_to(np.float32(0), x.shape), None)
    wide = np.zeros(129, np.uint8)
    for saved in (x, wide[::2], wide[64::-1], wide[None], np.broadcast_to(wide[:1], 64)):
        with pytest.raises(ValueError, match="saved must be a dense array of bytes|saved is read-only"):
            adapter.forward(dy, x, None, None, None, None, None, 0, saved)
    assert not wide.any()
    saved = wide[:64]
    saved.flags.writeable = False
    with pytest.raises(ValueError, match="saved is read-only; it must be writable"):
        adapter.forward(dy, x, None, None, None, None, None, 0, saved)
    with pytest.raises(TypeError, match=r"expected backward\(dy, x, dx, gradients"):
        adapter.backward(dy, x)
