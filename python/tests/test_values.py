# SPDX-License-Identifier: MIT
"""Tokens against plain PyTorch in float64, against the command, and against themselves under other strides."""

import json
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from others import other
from scenes import ACTIVATIONS, NUMPY_DTYPES, assert_close, scenes

import tenon

torch, torch_connectors = other("torch"), other("torch_connectors")


@given(scenes())
def test_against_pytorch_in_double(scene):
    adapter, x = scene.adapter(), scene.features()
    y = adapter(x, dtype=scene.y_dtype, **scene.call())
    assert type(y) is np.ndarray and y.dtype == NUMPY_DTYPES[scene.y_dtype]
    assert y.shape[1] == adapter.output_num_tokens(scene.tokens, pool_window=scene.pool_window, grid=scene.grid)
    config = tenon.Config.from_dict(scene.config)
    assert y.shape[1] == config.output_num_tokens(scene.tokens, pool_window=scene.pool_window, grid=scene.grid)
    assert_close(y, scene.expected(adapter, x), scene.y_dtype)


def test_every_activation_is_drawn():
    assert sorted(torch_connectors.ACTIVATIONS) == ACTIVATIONS


@given(scenes(), st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1, 2, -1, -3])] * 3))
def test_strides_do_not_matter(scene, order, steps):
    adapter, x = scene.adapter(), scene.features()
    expected = adapter(x, **scene.call())
    wide = np.zeros([n * abs(step) for n, step in zip(x.shape, steps, strict=True)], x.dtype)
    wide = wide.transpose(order).copy().transpose(np.argsort(order))
    strided = wide[tuple(slice(None, None, step) for step in steps)]
    assert strided.shape == x.shape
    strided[...] = x
    strided.flags.writeable = False
    masks = {
        name: mask if mask is None else np.repeat(mask, 2, axis=-1)[..., ::2] for name, mask in scene.masks().items()
    }
    tokens = adapter(strided, **{**scene.call(), **masks})
    assert tokens.tobytes() == expected.tobytes()


@given(scenes())
def test_out_may_be_a_view(scene):
    adapter, x = scene.adapter(), scene.features()
    expected = adapter(x, dtype=scene.y_dtype, **scene.call())
    room = np.full((expected.shape[1] + 2, scene.batch, expected.shape[2]), 7, NUMPY_DTYPES[scene.y_dtype])
    out = room[1:-1].transpose(1, 0, 2)
    assert adapter(x, out=out, **scene.call()) is out
    assert out.tobytes() == expected.tobytes()
    assert (room[[0, -1]] == 7).all()


@given(scenes())
def test_threads_give_the_same_bits(scene):
    adapter, x = scene.adapter(), scene.features()
    expected = adapter(x, dtype="f32", **scene.call())
    assert adapter(x, dtype="f32", threads=3, **scene.call()).tobytes() == expected.tobytes()


@given(scenes())
def test_tensors_of_pytorch_give_the_same_bits(scene):
    adapter, x = scene.adapter(), scene.features()
    expected = adapter(x, dtype="f32", **scene.call())
    tensor = torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16) if scene.x_dtype == "bf16" else torch.from_numpy(x)
    masks = {name: mask if mask is None else torch.from_numpy(mask) for name, mask in scene.masks().items()}
    y = adapter(tensor, dtype=torch.float32, **{**scene.call(), **masks})
    assert isinstance(y, torch.Tensor) and y.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["linear", "mlp_2layer", "avgpool", "attentional_pool"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_the_command_gives_the_same_bits(command, tmp_path, kind, dtype):
    config = tenon.Config(kind, pool_heads=4, pool_window=3)
    adapter = tenon.build_adapter(config, 24, 40, seed=3, dtype=dtype)
    x = np.random.default_rng(1).standard_normal((2, 81, 24)).astype(np.float32)
    adapter.save(tmp_path / "a.safetensors")
    np.save(tmp_path / "x.npy", x)
    words = [command, "run", tmp_path / "a.safetensors", tmp_path / "x.npy", "-o", tmp_path / "y.npy"]
    if kind == "attentional_pool":
        words += ["--attention", tmp_path / "w.npy"]
        subprocess.run(words, check=True, capture_output=True)
        assert adapter.attention(x).tobytes() == np.load(tmp_path / "w.npy").tobytes()
    subprocess.run(words, check=True, capture_output=True)
    assert adapter(x).tobytes() == np.load(tmp_path / "y.npy").tobytes()
    shown = subprocess.run([command, "inspect", "--json", tmp_path / "a.safetensors"], check=True, capture_output=True)
    assert json.loads(shown.stdout)["config"]["type"] == kind


def draws_in_f32(dtype):
    """Of a few numbers, which the upper bound is not among."""
    drawn = [torch.empty(8, dtype=kind).uniform_(generator=torch.manual_seed(7)) for kind in (dtype, torch.float32)]
    return torch.equal(drawn[0], drawn[1].to(dtype))


@pytest.mark.parametrize("kind", ["linear", "mlp_2layer", "avgpool", "attentional_pool"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_initial_values_are_pytorchs(kind, dtype):
    if not draws_in_f32(torch_connectors.DTYPES[dtype]):
        pytest.skip(f"this PyTorch does not draw {dtype} as it draws f32; newer ones do")
    config = {"type": kind, "pool_heads": 2}
    layers = torch_connectors.default_init(config, 30, 50, torch_connectors.DTYPES[dtype], 12345)
    state = tenon.build_adapter(config, 30, 50, seed=12345, dtype=dtype).state_dict("float32")
    theirs = [p.detach().float().numpy() for layer in layers for p in (layer.weight, layer.bias)]
    assert len(theirs) == len(state)
    for ours, expected in zip(state.values(), theirs, strict=True):
        assert ours.tobytes() == expected.tobytes()


def test_attention_weights():
    """softmax of q.k over the patches that are there, by NumPy in float64."""
    adapter = tenon.build_adapter(tenon.Config("attentional_pool", pool_heads=2, ragged="partial"), 6, 5, seed=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 15, 6)).astype(np.float32)
    mask = rng.random((2, 15)) < 0.8
    weights = adapter.attention(x, grid=(3, 5), patch_mask=mask, pool_window=2)
    assert weights.shape == (2, 6, 2, 4) and weights.dtype == np.float32
    state = adapter.state_dict("float64")
    q_weight, k_weight = state["q_proj.weight"], state["k_proj.weight"]
    for image in range(2):
        for window in range(6):
            rows, columns = divmod(window, 3)
            cells = [(2 * rows + i, 2 * columns + j) for i in range(2) for j in range(2)]
            slots = [s for s, (r, c) in enumerate(cells) if r < 3 and c < 5 and mask[image, r * 5 + c]]
            expected = np.zeros((2, 4))
            if slots:
                patches = x[image, [cells[s][0] * 5 + cells[s][1] for s in slots]].astype(np.float64)
                query = q_weight @ patches.mean(0) + state["q_proj.bias"]
                keys = patches @ k_weight.T + state["k_proj.bias"]
                scores = np.einsum("hd,shd->hs", query.reshape(2, 3), keys.reshape(-1, 2, 3)) / np.sqrt(3)
                powers = np.exp(scores - scores.max(-1, keepdims=True))
                expected[:, slots] = powers / powers.sum(-1, keepdims=True)
            assert np.abs(weights[image, window] - expected).max() < 1e-6
    assert isinstance(adapter.attention(torch.tensor(x), grid=(3, 5)), torch.Tensor)
