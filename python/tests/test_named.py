# SPDX-License-Identifier: MIT
"""Packed batches, further inputs and outputs by name."""

import numpy as np
import pytest

import tenon

GRIDS = np.array([[1, 2, 6], [2, 4, 2]])


@pytest.fixture
def features(rng):
    return [rng.standard_normal((28, 6), np.float32) for _ in range(3)]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def adapter():
    return tenon.build_adapter({"type": "qwen3_vl", "deepstack": 2}, 6, 5, seed=1)


def inputs_of(features):
    return {"tap.0": features[1], "tap.1": features[2]}


def test_a_packed_batch_is_its_images_alone(adapter, features):
    assert adapter.outputs == [("tokens", 5), ("deepstack.0", 5), ("deepstack.1", 5)]
    whole = adapter(features[0], grids=GRIDS, inputs=inputs_of(features))
    assert list(whole) == [name for name, _ in adapter.outputs]
    assert adapter.output_offsets(grids=GRIDS) == adapter.output_offsets(grids=GRIDS, output="deepstack.1") == [0, 3, 7]
    for rows, tokens in ((slice(0, 12), slice(0, 3)), (slice(12, 28), slice(3, 7))):
        one = adapter(features[0][rows], inputs=inputs_of([x[rows] for x in features]))  # blocks need no grid
        for name, value in one.items():
            assert np.array_equal(value, whole[name][tokens])


def test_no_image_is_a_legal_call(adapter, features):
    none = np.zeros((0, 2), np.int64)
    made = adapter(features[0][:0], grids=none, inputs=inputs_of([x[:0] for x in features]))
    assert [value.shape for value in made.values()] == [(0, 5)] * 3 and adapter.output_offsets(grids=none) == [0]


def test_grids_of_any_integer_array(adapter, features):
    torch = pytest.importorskip("torch")
    first = adapter(features[0], grids=GRIDS, inputs=inputs_of(features))["tokens"]
    for grids in (GRIDS.tolist(), GRIDS.astype(np.int32), torch.from_numpy(GRIDS), np.asfortranarray(GRIDS)):
        assert np.array_equal(adapter(features[0], grids=grids, inputs=inputs_of(features))["tokens"], first)
    tensors = [torch.from_numpy(x) for x in features]
    found = adapter(tensors[0], grids=GRIDS, inputs=inputs_of(tensors), dtype="bf16")
    assert all(isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 for value in found.values())


def test_out_holds_every_output(adapter, features):
    out = {name: np.zeros((7, width), np.float32) for name, width in adapter.outputs}
    assert adapter(features[0], grids=GRIDS, inputs=inputs_of(features), out=out) is out
    fresh = adapter(features[0], grids=GRIDS, inputs=inputs_of(features))
    assert all(np.array_equal(out[name], value) for name, value in fresh.items())
    with pytest.raises(ValueError, match="out has no array 'deepstack.1'"):
        adapter(features[0], grids=GRIDS, inputs=inputs_of(features), out={k: out[k] for k in ("tokens", "deepstack.0")})
    with pytest.raises(ValueError, match="out has no array 'tokens'"):
        adapter(features[0], grids=GRIDS, inputs=inputs_of(features), out=out["tokens"])


def test_what_does_not_fit_is_said(adapter, features):
    x, taps = features[0], inputs_of(features)
    for sentence, call in {
        "also needs the input 'tap.0'": {"grids": GRIDS},
        "has no input 'tap.7'; beside the features it takes: tap.0, tap.1": {"inputs": taps | {"tap.7": x}},
        "x has 28 rows; the grids of its 2 images make 24": {"grids": [[2, 6], [2, 6]], "inputs": taps},
        "tap.1 has 12 rows": {"grids": GRIDS, "inputs": taps | {"tap.1": x[:12]}},
        "grids has 1 columns": {"grids": [[28]], "inputs": taps},
        "'grids' must be a tensor of int32 or int64": {"grids": GRIDS.astype(np.float32), "inputs": taps},
        "'grids' must be a tensor of int32": {"grids": [[1.5, 2]], "inputs": taps},
        "the grid of image 0 is 1x0x3": {"grids": [[0, 3]], "inputs": taps},
    }.items():
        with pytest.raises(ValueError, match=sentence):
            adapter(x, **call)
    with pytest.raises(TypeError, match="inputs is .* expected a mapping of names to arrays"):
        adapter(x, inputs=[x])
    with pytest.raises(ValueError, match="no output 'deepstack.9'"):
        adapter.output_offsets(grids=GRIDS, output="deepstack.9")


def test_saved_activations_and_named_gradients(adapter, features, rng):
    """What forward saved gives the bits that backward recomputes; outputs without a gradient count as zero."""
    low = super(tenon.Adapter, adapter)
    adapter.prepare(train=True)
    x, taps = features[0], inputs_of(features)
    saved = np.zeros(low.saved_size(2, 0, None, None, GRIDS), np.uint8)
    made = {name: np.zeros((7, 5), np.float32) for name, _ in adapter.outputs}
    low.forward(made["tokens"], x, None, None, None, None, None, 0, saved, GRIDS, taps, {k: made[k] for k in list(made)[1:]})
    plain = adapter(x, grids=GRIDS, inputs=taps)
    assert all(np.array_equal(made[name], value) for name, value in plain.items())
    dys = {name: rng.standard_normal((7, 5), np.float32) for name in made}
    results = []
    for kept, outputs in ((saved, ("deepstack.0", "deepstack.1")), (None, ("deepstack.0", "deepstack.1")), (None, ("deepstack.0",))):
        dx, dtaps = np.zeros_like(x), {name: np.ones_like(x) for name in taps}
        dw = [np.zeros(shape, np.float32) for _, _, shape, _ in adapter.parameters()]
        low.backward(
            dys["tokens"], x, dx, dw, None, None, None, None, 0, kept, False, GRIDS, taps, dtaps,
            {name: dys[name] for name in outputs},
        )  # fmt: skip
        results.append([dx, dtaps["tap.0"], dtaps["tap.1"], *dw])
    for a, b in zip(results[0], results[1]):
        assert np.array_equal(a, b) and a.any()
    assert not results[2][2].any() and np.array_equal(results[2][1], results[0][1])
