# SPDX-License-Identifier: MIT
"""Connectors of every type, made from the library's graph: names, initial values, forward and backward in the kernels
and in plain PyTorch, masks, grids, packed batches, further inputs and outputs, compile, export and copies."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from oracle import agree
from torch import nn

import tenon
import tenon.torch as tt
from tenon.torch import _layers, _packs
from tenon.torch._connector import Connector

# Configs with the grid of a call; types of which there are several kinds are there several times.
CONFIGS = {
    "linear": ({"type": "linear", "prefix_tokens": 1}, None),
    "mlp_2layer": ({"type": "mlp_2layer", "hidden_dim": 7, "activation": "quick_gelu"}, None),
    "mlp_2layer rmsnorm": ({"type": "mlp_2layer", "pre_norm": "rmsnorm"}, None),
    "mlp_2layer layernorm": ({"type": "mlp_2layer", "pre_norm": "layernorm"}, None),
    "avgpool": ({"type": "avgpool", "pool_window": 3, "prefix_tokens": 2}, (4, 6)),
    "avgpool drop": ({"type": "avgpool", "pool_window": 3, "ragged": "drop"}, (4, 6)),
    "attentional_pool": ({"type": "attentional_pool", "pool_heads": 4, "ragged": "partial", "pool_window": 4}, (4, 6)),
    "idefics2": ({"type": "idefics2", "resampler_depth": 2, "resampler_n_latents": 4, "resampler_n_heads": 4, "num_key_value_heads": 2, "resampler_head_dim": 3}, None),
    "aya": ({"type": "aya", "hidden_dim": 10}, (4, 6)),
    "gemma3": ({"type": "gemma3", "pool_window": 3}, (6, 6)),
    "idefics3": ({"type": "idefics3"}, (4, 6)),
    "internvl": ({"type": "internvl"}, (4, 6)),
    "internvl v1": ({"type": "internvl", "ps_version": "v1"}, (4, 6)),
    "llama4": ({"type": "llama4"}, (4, 6)),
    "llava": ({"type": "llava", "depth": 3, "prefix_tokens": 1}, None),
    "llava norm": ({"type": "llava", "norm": True, "bias": False}, None),
    "mistral3": ({"type": "mistral3"}, (4, 6)),
    "qwen2_vl": ({"type": "qwen2_vl"}, (4, 6)),
    "qwen2_vl rmsnorm": ({"type": "qwen2_vl", "norm": "rmsnorm", "activation": "silu"}, None),
    "qwen3_vl": ({"type": "qwen3_vl"}, (4, 6)),
    "qwen3_vl taps": ({"type": "qwen3_vl", "deepstack": 2}, (4, 6)),
    "vip_llava": ({"type": "vip_llava", "hidden_dim": 7}, None),
}


CASES = list(CONFIGS)
SINGLE = [name for name in CASES if name != "qwen3_vl taps"]
SEVERAL = [name for name in CASES if name not in SINGLE]


def make(name, in_dim=8, out_dim=6, seed=3):
    """A connector whose norms and biases count."""
    config, grid = CONFIGS[name]
    torch.manual_seed(seed)
    made = Connector(config, in_dim, out_dim)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-0.5, 1.5)
    return made, grid


def features(name, batch=2, in_dim=8, seed=1, dtype=torch.float32):
    config, grid = CONFIGS[name]
    rows = (grid[0] * grid[1] if grid else 24) + config.get("prefix_tokens", 0)
    return torch.randn(batch, rows, in_dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def native(connector):
    """The library's adapter with the same parameters."""
    adapter = tenon.build_adapter(connector.config, connector.in_dim, connector.out_dim)
    adapter.load_state_dict({name: value.detach().numpy() for name, value in connector.state_dict().items()})
    return adapter


def further(connector, x):
    """The further inputs of a call."""
    names = list(connector._graph.inputs)[1:]
    return {name: torch.randn(x.shape, generator=torch.Generator().manual_seed(7 + i)).to(x.dtype) for i, name in enumerate(names)}


def flat(found):
    """All outputs in one tensor."""
    return torch.cat(list(found.values()), dim=-1) if isinstance(found, dict) else found


def run_of(connector, grid):
    """x -> all outputs; the further inputs are made of x, so that they have gradients."""
    names = list(connector._graph.inputs)[1:]

    def run(x, **masks):
        inputs = {name: x * (0.5 + i) for i, name in enumerate(names)}
        given = {"inputs": inputs} if names else {}
        return flat(connector(x, grid=grid, **given, **masks))

    return run


def gradients(run, connector, x):
    x = x.clone().requires_grad_()
    y = run(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y.dtype)
    return torch.autograd.grad((y * weight).sum(), (x, *connector.parameters()))


# ---- what it is made of ----


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_the_librarys(name):
    connector, _ = make(name)
    wanted = {name: shape for name, _, shape, _ in tenon.Adapter(connector.config, 8, 6).parameters()}
    found = {name: tuple(value.shape) for name, value in connector.state_dict().items()}
    assert found == wanted
    other = Connector(CONFIGS[name][0], 8, 6)
    assert not any(other.load_state_dict(connector.state_dict(), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_initial_values_are_the_librarys(name):
    config, _ = CONFIGS[name]
    torch.manual_seed(11)
    connector = Connector(config, 8, 6)
    after = torch.rand(1)
    wanted = tenon.build_adapter(config, 8, 6, seed=11).state_dict()
    for again in (False, True):
        if again:
            torch.manual_seed(11)
            for value in connector.parameters():
                value.detach().fill_(7)
            connector.reset_parameters()
            assert torch.equal(torch.rand(1), after)
        for key, value in connector.state_dict().items():
            assert torch.equal(value, torch.from_numpy(wanted[key])), key


@pytest.mark.parametrize("name", CASES)
def test_the_config_has_all_options(name):
    connector, _ = make(name)
    config = tenon.Adapter(CONFIGS[name][0], 8, 6).config
    assert connector.config.to_dict() == {"prefix_tokens": 0} | config.to_dict()
    assert connector.in_dim == 8 and connector.out_dim == 6


def test_dots_make_submodules():
    connector, _ = make("qwen2_vl")
    assert type(connector.mlp) is _layers.Group and type(connector.mlp.get_submodule("0")) is nn.Linear
    assert repr(connector) == (
        "Connector(\n  (ln_q): LayerNorm((8,), eps=1e-06, elementwise_affine=True, bias=True)\n  (mlp): Group(\n"
        "    (0): Linear(in_features=32, out_features=32, bias=True)\n"
        "    (2): Linear(in_features=32, out_features=6, bias=True)\n  )\n)"
    )


def test_any_config_will_do():
    for config in ("linear", {"type": "linear"}, tenon.Config("linear"), tt.AdapterConfig(type="linear")):
        assert list(Connector(config, 8, 5).state_dict()) == ["proj.weight", "proj.bias"]
    with pytest.raises(KeyError, match="no_such"):
        Connector("no_such", 8, 5)
    with pytest.raises(ValueError, match="in_dim"):
        Connector("linear", 0, 5)
    with pytest.raises(ValueError, match="did you mean 'ragged'"):
        Connector({"type": "avgpool", "raged": "drop"}, 8, 5)


def test_the_registries_are_one():
    assert set(tenon.registry.list_adapters()) <= set(tt.registry.list_adapters())
    assert type(tt.build_adapter(tt.AdapterConfig(type="linear"), 8, 5)) is tt.LinearAdapter


# ---- values ----


@pytest.mark.parametrize("name", SINGLE)
def test_the_kernels_and_the_plain_form_agree_with_the_library(name, monkeypatch):
    connector, grid = make(name)
    x = features(name)
    adapter = native(connector)
    wanted = torch.from_numpy(np.asarray(adapter(x.numpy(), grid=grid)))
    with torch.no_grad():
        found = connector(x, grid=grid)
        assert torch.equal(found, wanted) and connector._last is not None
        assert torch.equal(connector(x, grid=grid), wanted)
        assert torch.equal(connector(x[0], grid=grid), wanted[0])
    assert found.shape[1] == connector.output_num_tokens(x.shape[1], grid=grid)
    agree(connector(x, grid=grid), wanted)  # with gradients nothing is folded
    monkeypatch.setattr(_packs._Pack, "fill", None)
    double = copy.deepcopy(connector).double()
    agree(double(x.double(), grid=grid), wanted)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("grad", (False, True))
def test_masked_patches_are_absent_in_both(name, grad):
    connector, grid = make(name)
    x = features(name)
    prefix = CONFIGS[name][0].get("prefix_tokens", 0)
    patch_mask = torch.rand(2, x.shape[1] - prefix, generator=torch.Generator().manual_seed(2)) < 0.5
    patch_mask[0, :13] = False
    x[:, prefix:][~patch_mask] = float("nan")
    wanted = native(connector)(x.numpy(), grid=grid, patch_mask=patch_mask.numpy())
    with torch.set_grad_enabled(grad):
        for module in (connector, copy.deepcopy(connector).double()):
            y = module(x.to(next(module.parameters()).dtype), grid=grid, patch_mask=patch_mask)
            agree(y, torch.from_numpy(np.asarray(wanted)))
            assert not module(x.to(y.dtype), grid=grid, frame_mask=torch.tensor([0, 1]), patch_mask=patch_mask)[0].any()
    if grad:
        x = x.requires_grad_()
        y.sum().backward()
        assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_kernels_and_plain_form(name):
    connector, grid = make(name)
    x = features(name)
    double = copy.deepcopy(connector).double()
    wanted = gradients(run_of(double, grid), double, x.double())
    for found, want in zip(gradients(run_of(connector, grid), connector, x), wanted, strict=True):
        assert found.dtype == torch.float32
        assert float((found - want).norm()) <= 1e-5 * (1 + float(want.norm()))


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_of_the_plain_form(name):
    connector, grid = make(name, 4, 3) if "attentional" in name else make(name, 2, 3)
    connector = connector.double()
    x = features(name, 1, connector.in_dim, dtype=torch.float64).requires_grad_()
    run = run_of(connector, grid)
    names = [key for key, _ in connector.named_parameters()]

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = connector

        def forward(self, x):
            return run(x)

    def call(x, *values):
        state = {f"inner.{key}": value for key, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Around(), state, (x,))

    assert torch.autograd.gradcheck(call, (x, *connector.parameters()))


@pytest.mark.parametrize("name", SINGLE)
def test_second_derivatives_of_the_kernels(name):
    connector, grid = make(name)
    double = copy.deepcopy(connector).double()
    found = []
    for module in (connector, double):
        x = features(name).to(next(module.parameters()).dtype).requires_grad_()
        (first,) = torch.autograd.grad(module(x, grid=grid).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), list(module.parameters()), allow_unused=True))
    for ours, want in zip(*found, strict=True):
        if want is not None:
            assert float((ours - want).norm()) <= 1e-3 * (1 + float(want.norm()))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", SINGLE)
def test_half_precision(name, dtype):
    connector, grid = make(name)
    x = features(name)
    with torch.no_grad():
        wanted = connector(x, grid=grid)
        half = copy.deepcopy(connector).to(dtype)
        found = half(x.to(dtype), grid=grid)
        assert found.dtype == dtype
        agree(found, wanted, 0.05)
        hook = half.get_submodule(half._linears[0] or "").register_forward_pre_hook(lambda *_: None)
        agree(half(x.to(dtype), grid=grid), wanted, 0.1)
        hook.remove()
    with torch.autocast("cpu", dtype=dtype):
        agree(connector(x, grid=grid), wanted, 0.1)


# ---- several inputs and outputs, packed batches ----


@pytest.mark.parametrize("name", SEVERAL)
def test_further_inputs_and_outputs(name):
    connector, grid = make(name)
    x = features(name)
    inputs = further(connector, x)
    found = connector(x, grid=grid, inputs=inputs)
    assert list(found) == list(connector._graph.outputs)
    alone = connector(x[1], grid=grid, inputs={key: value[1] for key, value in inputs.items()})
    for key, value in found.items():
        agree(alone[key], value[1])
    first = next(iter(inputs))
    with pytest.raises(ValueError, match=f"also needs the input '{first}'"):
        connector(x, grid=grid)
    with pytest.raises(ValueError, match="has no input 'x'; beside the features it takes: "):
        connector(x, grid=grid, inputs={**inputs, "x": x})
    with pytest.raises(ValueError, match=f"{first} has width 7"):
        connector(x, grid=grid, inputs={**inputs, first: x[..., :7]})
    with pytest.raises(ValueError, match=f"'{first}' has 23 rows an image, the features have 24"):
        connector(x, grid=grid, inputs={**inputs, first: x[:, :23]})


PACKED = [name for name in CASES if CONFIGS[name][1]]
ROWS = {  # how a packed batch or a call with further inputs is made: (x, what else the call is given)
    **{f"{name} packed": (name, True) for name in PACKED},
    **{name: (name, False) for name in SEVERAL},
}


def named_call(which):
    """A connector, x, and what else a call of it is given."""
    name, packed = ROWS[which]
    connector, grid = make(name)
    grids = [(6, 6), (12, 6)] if name in ("gemma3", "avgpool drop") else [(4, 6), (6, 4)]
    if not packed:
        x = features(name)
        return connector, x, {"grid": grid, "inputs": further(connector, x)}
    rows = sum(h * w + connector.prefix_tokens for h, w in grids)
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(6))
    return connector, x, {"grids": torch.tensor(grids), "inputs": further(connector, x)}


def numbers(given, dtype):
    """The same for the NumPy door or in another dtype."""
    inputs = {key: value.to(dtype) for key, value in given["inputs"].items()}
    return {**given, "inputs": inputs}


@pytest.mark.parametrize("which", ROWS)
def test_the_kernels_take_further_inputs_and_packed_batches(which, monkeypatch):
    connector, x, given = named_call(which)
    double = copy.deepcopy(connector).double()
    plain = flat(double(x.double(), **numbers(given, torch.float64)))
    masks = {"frame_mask": torch.tensor([1, 0])}
    if "grids" in given:
        patches = int(given["grids"].prod(dim=1).sum())
        masks["patch_mask"] = torch.rand(patches, generator=torch.Generator().manual_seed(4)) < 0.5
    blank = flat(double(x.double(), **numbers(given, torch.float64), **masks))
    shown = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in given.items()}
    shown["inputs"] = {key: value.numpy() for key, value in given["inputs"].items()}
    wanted = native(connector)(x.numpy(), **shown)
    monkeypatch.setattr("tenon.torch._plain.Run", None)
    with torch.no_grad():
        found = connector(x, **given)
        assert torch.equal(flat(connector(x, **given)), flat(found))
    for key, value in (wanted if isinstance(wanted, dict) else {"tokens": wanted}).items():
        assert torch.equal(found[key] if isinstance(found, dict) else found, torch.from_numpy(np.asarray(value)))
    agree(flat(found), plain)
    agree(flat(connector(x, **given)), plain)
    agree(flat(connector(x, **given, **masks)), blank)


@pytest.mark.parametrize("which", ROWS)
def test_gradients_of_further_inputs_and_packed_batches(which, monkeypatch):
    connector, x, given = named_call(which)
    double = copy.deepcopy(connector).double()
    found, second = [], []
    for module, dtype in ((double, torch.float64), (connector, torch.float32)):
        if module is connector:
            monkeypatch.setattr("tenon.torch._plain.Run", None)
        own = numbers(given, dtype)
        leaves = [x.to(dtype).requires_grad_(), *own["inputs"].values()]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        own["inputs"] = dict(zip(own["inputs"], leaves[1:], strict=True))
        y = flat(module(leaves[0], **own))
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)
        found.append(torch.autograd.grad((y * weight).sum(), [*leaves, *module.parameters()], retain_graph=True))
        monkeypatch.undo()
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        total = sum(one.square().sum() for one in first)
        second.append(torch.autograd.grad(total, list(module.parameters()), allow_unused=True))
    for want, ours in zip(*found, strict=True):
        assert ours.dtype == torch.float32 and float((ours - want).norm()) <= 1e-5 * (1 + float(want.norm()))
    for want, ours in zip(*second, strict=True):
        assert want is None or float((ours - want).norm()) <= 1e-3 * (1 + float(want.norm()))


LLAVA_NEXT = {"type": "llava_next", "image_size": 42, "image_grid_pinpoints": [42, 84, 84, 42, 84, 84]}


def test_layers_without_a_plain_form_run_in_the_kernels():
    """Forward and backward; the gradient by a difference along one direction."""
    torch.manual_seed(2)
    connector = Connector(LLAVA_NEXT, 8, 6)
    given = {"grids": [(5, 3, 3), (3, 3, 3)], "inputs": {"image_sizes": torch.tensor([[50, 80], [30, 30]])}}
    x = torch.randn(72, 8)
    shown = {"grids": np.array(given["grids"]), "inputs": {"image_sizes": given["inputs"]["image_sizes"].numpy()}}
    with torch.no_grad():
        assert torch.equal(connector(x, **given), torch.from_numpy(np.asarray(native(connector)(x.numpy(), **shown))))
    y = connector(x.requires_grad_(), **given)
    leaves, weight = [x, *connector.parameters()], torch.randn_like(y)
    way = [torch.randn_like(leaf) for leaf in leaves]
    slope = sum(float((g * d).sum()) for g, d in zip(torch.autograd.grad((y * weight).sum(), leaves), way, strict=True))
    found = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            for leaf, d in zip(leaves, way, strict=True):
                leaf.add_(step * d)
            found.append(float((connector(x, **given) * weight).double().sum()))
    assert abs((found[0] - found[1]) / 2e-2 - slope) <= 1e-2 * (1 + abs(slope))
    with pytest.raises(NotImplementedError, match="no PyTorch form of layer type 'unpad_tiles'"):
        connector.double()(x.detach().double(), **given)


MOLMO2 = {"type": "molmo2", "num_attention_heads": 2, "head_dim": 3, "hidden_dim": 7}


def test_a_map_of_windows(monkeypatch):
    """Rows may repeat, -1 is nothing, and a window of nothing has a zero token."""
    torch.manual_seed(2)
    connector = Connector(MOLMO2, 8, 6)
    double = copy.deepcopy(connector).double()
    x, name = torch.randn(2, 9, 8), "pooled_patches_idx"
    maps = torch.tensor([[[0, 1, 1, -1], [8, -1, 3, 2]], [[-1, -1, -1, -1], [4, 5, 6, 7]]])
    wanted = torch.from_numpy(np.asarray(native(connector)(x.numpy(), inputs={name: maps.numpy()})))
    plain = double(x.double(), inputs={name: maps})
    agree(plain, wanted)
    assert not plain[1, 0].any()
    agree(double(x[0].double(), inputs={name: maps[0]}), wanted[0])
    slopes = [gradients(lambda x, m=m: m(x, inputs={name: maps}), m, x.to(p.dtype)) for m, p in ((double, plain),)]
    for mistake, message in (
        (maps[:1], "is of 1 images, the features of 2"),
        (maps + 5, "names row 13 of image 0, which has 9"),
        (maps[0], "has 2 axes; expected"),
        (maps.float(), "must be a tensor of int32 or int64"),
    ):
        with pytest.raises(ValueError, match=message):
            double(x.double(), inputs={name: mistake})
    with pytest.raises(ValueError, match=f"also needs the input '{name}'"):
        connector(x)
    monkeypatch.setattr("tenon.torch._plain.Run", None)
    with torch.no_grad():
        assert torch.equal(connector(x, inputs={name: maps}), wanted)
    agree(connector(x, inputs={name: maps}), wanted)
    for ours, want in zip(gradients(lambda x: connector(x, inputs={name: maps}), connector, x), slopes[0], strict=True):
        assert float((ours - want).norm()) <= 1e-5 * (1 + float(want.norm()))


def test_outputs_are_those_of_connectors_of_their_own():
    connector, grid = make("qwen3_vl taps")
    x = features("qwen3_vl taps")
    inputs = further(connector, x)
    found = connector(x, grid=grid, inputs=inputs)
    alone = Connector({"type": "qwen3_vl"}, 8, 6)
    state = {key: value for key, value in connector.state_dict().items() if key.startswith("merger.")}
    alone.load_state_dict(state, strict=True)
    agree(found["tokens"], alone(x, grid=grid))


def test_a_connector_without_parameters():
    connector = Connector({"type": "llava", "depth": 0, "prefix_tokens": 1}, 8, 8)
    x = torch.randn(2, 5, 8)
    assert not connector.state_dict() and torch.equal(connector(x), x[:, 1:])
    assert torch.equal(connector(x[0].double()), x[0, 1:].double())


def test_features_of_a_wrong_dtype():
    with pytest.raises(RuntimeError, match="x is int64; expected float32, bfloat16, float16 or another floating-point"):
        Connector("avgpool", 8, 5)(torch.ones(1, 4, 8, dtype=torch.int64))
    for name in SEVERAL:
        connector, grid = make(name)
        x = features(name)
        with pytest.raises(RuntimeError, match="x is int64; expected float32, bfloat16, float16 or another floating-point"):
            connector(x.long(), grid=grid, inputs=further(connector, x))


def test_an_input_that_no_type_has():
    connector, _ = make("linear")
    with pytest.raises(ValueError, match="adapter type 'linear' has no input 'tap.0'; beside the features it takes: none"):
        connector(features("linear"), inputs={"tap.0": features("linear")})


@pytest.mark.parametrize("name", [name for name in CASES if CONFIGS[name][1]])
def test_packed_batches(name):
    connector, _ = make(name)
    grids = [(6, 6), (12, 6)] if name in ("gemma3", "avgpool drop") else [(4, 6), (6, 4), (2, 4)]
    prefix = connector.prefix_tokens
    images = [torch.randn(1, prefix + h * w, 8) for h, w in grids]
    inputs = [further(connector, image) for image in images]
    names = list(inputs[0])
    alone = [connector(x, grid=grid, inputs=taps) for x, grid, taps in zip(images, grids, inputs, strict=True)]
    wanted = torch.cat([flat(y)[0] for y in alone])
    packed = {key: torch.cat([taps[key][0] for taps in inputs]) for key in names}
    x = torch.cat([image[0] for image in images])
    for given in (grids, torch.tensor(grids), np.array(grids)):
        agree(flat(connector(x, grids=given, inputs=packed)), wanted)
    if prefix == 0 and not names:  # two frames of one image are as two images
        twice = connector(torch.cat([images[0][0], images[0][0]]), grids=[(2, *grids[0])])
        agree(twice, torch.cat([flat(alone[0])[0]] * 2))
    first = flat(alone[0]).shape[1]
    frames = torch.ones(len(grids), dtype=torch.uint8)
    frames[0] = 0
    masked = flat(connector(x, grids=grids, inputs=packed, frame_mask=frames))
    assert not masked[:first].any()
    agree(masked[first:], wanted[first:])


def test_no_patches():
    for module in (Connector("avgpool", 8, 5), Connector("avgpool", 8, 5).double(), tt.AvgPoolAdapter(8, 5).double()):
        with pytest.raises(ValueError, match="num_input_tokens must be positive"):
            module(torch.ones(1, 0, 8, dtype=next(module.parameters()).dtype))


def test_mistakes_in_grids():
    connector = Connector({"type": "avgpool"}, 8, 5)
    x = torch.ones(24, 8)
    for grids, message in (
        ([(4, 5)], "x has 24 rows; the grids of its 1 images make 20"),
        ([(4, 6, 1, 1)], "grids has another shape than"),
        ([4, 6], "grids has another shape than"),
        ([(0, 6)], "the grid of image 0 is 1x0x6; its sides must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            connector(x, grids=torch.tensor(grids))
    with pytest.raises(ValueError, match="not both"):
        connector(x, grid=(4, 6), grids=[(4, 6)])
    with pytest.raises(ValueError, match="patch_mask has shape"):
        connector(x, grids=[(4, 6)], patch_mask=torch.ones(23, dtype=torch.bool))
    with pytest.raises(ValueError, match="pool_window must be positive"):
        connector(x[None], pool_window=0, grid=(4, 6))
    with pytest.raises(ValueError, match="grid 4x5"):
        connector.double()(x[None].double(), grid=(4, 5))
    assert connector(torch.ones(0, 8).double(), grids=torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 5)


# ---- PyTorch around it ----


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_compile(name):
    torch._dynamo.reset()
    connector, grid = make(name)
    run = run_of(connector, grid)
    x = features(name)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        agree(compiled(x), run(x))
    for found, want in zip(gradients(compiled, connector, x), gradients(run, connector, x), strict=True):
        assert float((found - want).norm()) <= 1e-5 * (1 + float(want.norm()))
    double = copy.deepcopy(connector).double()
    plain = torch.compile(run_of(double, grid), backend="aot_eager", fullgraph=True)
    agree(plain(x.double()), run(x))


@pytest.mark.parametrize("name", SINGLE)
def test_export(name):
    connector, grid = make(name)
    x = features(name)
    with torch.no_grad():
        program = torch.export.export(connector, (x,), {"grid": grid})
        assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [torch.ops.tenon.forward.default]
        agree(program.module()(x, grid=grid), connector(x, grid=grid))


@pytest.mark.parametrize("name", SINGLE)
def test_opcheck(name):
    connector, grid = make(name)
    x = features(name).requires_grad_()
    parameters = connector._native_parameters(tt._connector.Plainly)
    place = (connector._config(), 0, *(grid or (0, 0)))
    more = (torch.float32, True, True, connector.out_dim)
    torch.library.opcheck(torch.ops.tenon.forward.default, (x, parameters, None, None, *place, *more))


@pytest.mark.parametrize("name", CASES)
def test_copies(name):
    connector, grid = make(name)
    run, x = run_of(connector, grid), features(name)
    with torch.no_grad():
        wanted = run(x)
        buffer = io.BytesIO()
        torch.save(connector, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        for other in (copy.deepcopy(connector), pickle.loads(pickle.dumps(connector)), loaded):
            assert torch.equal(run_of(other, grid)(x), wanted)
            assert repr(other) == repr(connector)


@pytest.mark.parametrize("name", CASES)
def test_meta(name):
    with torch.device("meta"):
        connector = Connector(CONFIGS[name][0], 8, 6)
    grid = CONFIGS[name][1]
    assert run_of(connector, grid)(features(name).to("meta")).is_meta
    connector.to_empty(device="cpu")
    torch.manual_seed(0)
    connector.reset_parameters()
    torch.manual_seed(0)
    wanted = Connector(CONFIGS[name][0], 8, 6)
    assert torch.equal(run_of(connector, grid)(features(name)), run_of(wanted, grid)(features(name)))


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_seen_by_the_next_call(name):
    connector, grid = make(name)
    run, x = run_of(connector, grid), features(name)
    optimizer = torch.optim.AdamW(connector.parameters(), lr=0.1)
    with torch.no_grad():
        before = run(x)
    run(x).square().sum().backward()
    optimizer.step()
    double = copy.deepcopy(connector).double()
    with torch.no_grad():
        agree(run(x), run_of(double, grid)(x.double()))
        assert not torch.allclose(run(x), before)


# ---- files and the profiler ----


@pytest.mark.parametrize("name", CASES)
def test_files(name, tmp_path):
    connector, grid = make(name)
    connector.bfloat16().save(tmp_path / "a.safetensors", "model.")
    loaded = Connector.load(tmp_path / "a.safetensors")
    assert loaded.config == connector.config and loaded.out_dim == 6
    for (key, value), (other, found) in zip(connector.named_parameters(), loaded.named_parameters(), strict=True):
        assert key == other and torch.equal(value, found) and found.requires_grad and found.dtype == torch.bfloat16
    x = features(name).bfloat16()
    assert torch.equal(run_of(loaded, grid)(x), run_of(connector, grid)(x))
    with pytest.raises(TypeError, match="LinearAdapter cannot be loaded from a file; use Connector.load"):
        tt.LinearAdapter.load(tmp_path / "a.safetensors")
    next(loaded.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        loaded.save(tmp_path / "b.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_profiler_shows_the_connector(name):
    connector, grid = make(name)
    run, x = run_of(connector, grid), features(name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(x)
    shown = [event.name for event in profile.events() if event.name.startswith("tenon::")]
    assert shown == [f"tenon::forward({CONFIGS[name][0]['type']})"]


# ---- what is put in place of a part ----


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_put_around_a_part_takes_part(name):
    connector, grid = make(name)
    x = features(name)
    for part in connector._parts:
        if part.kind is None:
            continue
        seen = []
        with torch.no_grad():
            wanted = connector(x, grid=grid)
            handle = connector.get_submodule(part.name).register_forward_hook(lambda *_, seen=seen: seen.append(1))
            agree(connector(x, grid=grid), wanted)
            assert seen
            handle.remove()
            assert torch.equal(connector(x, grid=grid), wanted)
            around, _, last = part.name.rpartition(".")
            whole, old = connector.get_submodule(around), connector.get_submodule(part.name)
            setattr(whole, last, nn.Sequential(old, Twice()))
            assert not torch.allclose(connector(x, grid=grid), wanted)
            setattr(whole, last, old)
            assert torch.equal(connector(x, grid=grid), wanted)


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x + 1


@pytest.mark.parametrize("name", [name for name in SINGLE if "norm" in name or name in ("gemma3", "mistral3")])
def test_another_eps(name):
    connector, grid = make(name)
    x = features(name)
    norms = [module for module in connector.modules() if hasattr(module, "eps")]
    with torch.no_grad():
        before = connector(x, grid=grid)
        for norm in norms:
            norm.eps = 0.5
        assert not torch.allclose(connector(x, grid=grid), before, atol=1e-3)
        assert connector._last is None


@pytest.mark.parametrize("name", SINGLE)
def test_a_bias_that_the_type_has_not(name):
    connector, grid = make(name)
    x = features(name)
    for part in connector._parts:
        if part.kind is not nn.Linear or not part.lacks_bias or part.name.endswith("k_proj"):
            continue  # the same for all keys, it drops out of the softmax
        with torch.no_grad():
            before = connector(x, grid=grid)
            layer = connector.get_submodule(part.name)
            layer.bias = nn.Parameter(torch.arange(float(layer.out_features)))
            assert not torch.allclose(connector(x, grid=grid), before)
            layer.bias = None
            assert torch.equal(connector(x, grid=grid), before)


def test_a_layer_type_without_a_form(monkeypatch):
    """Its parameters are there, and the kernels compute it; plain PyTorch says what is missing."""
    forms = {name: form for name, form in _layers.FORMS.items() if name != "linear"}
    monkeypatch.setattr(_layers, "FORMS", forms)
    connector, _ = make("mlp_2layer")
    assert sorted(connector.state_dict()) == ["proj1.bias", "proj1.weight", "proj2.bias", "proj2.weight"]
    x = features("mlp_2layer")
    with torch.no_grad():
        wanted = torch.from_numpy(np.asarray(native(connector)(x.numpy())))
        assert torch.equal(connector(x), wanted)
    with pytest.raises(NotImplementedError, match="no PyTorch form of layer type 'linear'"):
        connector.double()(x.double())
