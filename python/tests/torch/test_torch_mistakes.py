# SPDX-License-Identifier: MIT
"""One mistake, one type of exception: at every door that it can be made at."""

import os

import numpy as np
import pytest
import tenon.convert
import tenon.plot
import torch
from safetensors.numpy import save_file

import tenon
import tenon.torch as tt

CONFIG = {"type": "avgpool", "pool_window": 2}
X = np.zeros((2, 16, 8), np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same connector in files of every form, without a description."""
    folder = tmp_path_factory.mktemp("files")
    state = tenon.build_adapter(CONFIG, 8, 5, seed=1).state_dict()
    save_file(state, folder / "a.safetensors")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(tensors, folder / "a.pt")
    for name, text in {"type": 'type = "avgpol"', "option": 'type = "avgpool"\npool_windw = 3'}.items():
        (folder / f"{name}.toml").write_text(f"[adapter]\n{text}\n")
    return folder


class Settings:
    """A config of somebody else's."""

    def __init__(self, type, **settings):
        self.type, self.settings = type, settings

    def extra_kwargs(self):
        return self.settings


def native(**options):
    return tenon.build_adapter({**CONFIG, **options}, 8, 5, seed=1)


def module(**options):
    return tt.build_adapter(tt.AdapterConfig(**{**CONFIG, **options}), 8, 5)


def modules(call):
    """A call of the module at each of its doors: without gradients, with them, and through plain PyTorch."""

    def run_fast(files):
        with torch.no_grad():
            made = module()
            made(torch.from_numpy(X))
            call(made, torch.float32)

    def run_with_gradients(files):
        call(module(), torch.float32)

    def run_plain(files):
        call(module().double(), torch.float64)

    return [run_fast, run_with_gradients, run_plain]


def features(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


TYPE = [
    lambda f: tenon.Config("avgpol"),
    lambda f: tenon.Config.from_json('{"type": "avgpol"}'),
    lambda f: tenon.Config.from_dict({"type": "avgpol"}),
    lambda f: tenon.Config.from_toml(f / "type.toml"),
    lambda f: tenon.build_adapter("avgpol", 8, 5),
    lambda f: tenon.build_adapter({"type": "avgpol"}, 8, 5),
    lambda f: tenon.build_adapter(Settings("avgpol"), 8, 5),
    lambda f: tenon.registry.get_adapter("avgpol"),
    lambda f: tenon.load(f / "a.safetensors", "avgpol", 8, 5),
    lambda f: tenon.convert.load(f / "a.safetensors", "avgpol"),
    lambda f: tenon.convert.load(f / "a.pt", "avgpol"),
    lambda f: tt.AdapterConfig("avgpol"),
    lambda f: tt.AdapterConfig(type="avgpol", pool_windw=3),
    lambda f: tt.registry.get_adapter("avgpol"),
    lambda f: tt.build_adapter(Settings("avgpol"), 8, 5),
]
OPTION = [
    lambda f: tenon.Config("avgpool", pool_windw=3),
    lambda f: tenon.Config.from_json('{"type": "avgpool", "pool_windw": 3}'),
    lambda f: tenon.Config.from_dict({"type": "avgpool", "pool_windw": 3}),
    lambda f: tenon.Config.from_toml(f / "option.toml"),
    lambda f: tenon.build_adapter({"type": "avgpool", "pool_windw": 3}, 8, 5),
    lambda f: tenon.build_adapter(Settings("avgpool", pool_windw=3), 8, 5),
    lambda f: tenon.registry.get_adapter("avgpool")(8, 5, pool_windw=3),
    lambda f: tenon.load(f / "a.safetensors", {"type": "avgpool", "pool_windw": 3}, 8, 5),
    lambda f: tenon.convert.load(f / "a.safetensors", {"type": "avgpool", "pool_windw": 3}),
    lambda f: tenon.convert.load(f / "a.pt", {"type": "avgpool", "pool_windw": 3}),
    lambda f: tt.AdapterConfig(type="avgpool", pool_windw=3),
    lambda f: tt.AdapterConfig("avgpool", pool_windw=3),
    lambda f: tt.registry.get_adapter("avgpool")(8, 5, pool_windw=3),
    lambda f: tt.build_adapter(Settings("avgpool", pool_windw=3), 8, 5),
]
FILE = [
    lambda f: tenon.load(f / "none.safetensors"),
    lambda f: native().load(f / "none.safetensors"),
    lambda f: tenon.Config.from_toml(f / "none.toml"),
    lambda f: tenon.convert.load(f / "none.safetensors", CONFIG),
    lambda f: tenon.convert.load(f / "none.pt", CONFIG),
    lambda f: tenon.convert.load(f / "none", CONFIG),
    lambda f: tenon.plot.losses(f / "none.jsonl"),
    lambda f: tenon.plot.attention(os.fspath(f / "none.npy")),
]


def calls(array_call, tensor_call):
    """Of tenon.Adapter, and of the modules."""
    return [lambda f: array_call(native()), lambda f: native_attention(array_call), *modules(tensor_call)]


def native_attention(call):
    """The same call of adapter.attention, which takes all but `out`."""
    adapter = tenon.build_adapter({"type": "attentional_pool", "pool_heads": 2}, 8, 5, seed=1)
    call(adapter.attention)


MISTAKES = {
    "an unknown type": (KeyError, "avgpol", TYPE),
    "an unknown type, as a value": (ValueError, "avgpol", TYPE),
    "an unknown option": (ValueError, "'pool_windw'", OPTION),
    "a file that is not there": (FileNotFoundError, "none", FILE),
    "a bad value": (
        ValueError,
        "pool_window must be positive|pool_window",
        [
            lambda f: tenon.Config("avgpool", pool_window=0),
            lambda f: tenon.Config("avgpool", pool_window="3"),
            lambda f: tenon.build_adapter({"type": "avgpool", "pool_window": -1}, 8, 5),
            lambda f: tt.AdapterConfig("avgpool", pool_window=0),
            lambda f: tt.AdapterConfig("avgpool", pool_window="3"),
            lambda f: tt.registry.get_adapter("avgpool")(8, 5, pool_window=0),
            lambda f: tt.registry.get_adapter("linear")(8, 5, pool_window=0),
            lambda f: tt.AvgPoolAdapter(8, 5, 0),
            *calls(lambda a: a(X, pool_window=0), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), pool_window=0)),
        ],
    ),
    "a value of a kind that no config holds": (
        TypeError,
        "integers, real numbers, strings, booleans and lists of integers",
        [lambda f: tenon.Config("avgpool", pool_window=b"3"), lambda f: tt.AdapterConfig("avgpool", pool_window=b"3")],
    ),
    "an unknown activation": (
        ValueError,
        "(?i)unknown adapter activation: 'tanh'",
        [
            lambda f: tenon.Config("mlp_2layer", activation="tanh"),
            lambda f: tt.AdapterConfig("mlp_2layer", activation="tanh"),
            lambda f: tt.MLP2LayerAdapter(8, 5, activation="tanh"),
        ],
    ),
    "an option of other types": (
        ValueError,
        "'ragged'",
        [
            lambda f: tenon.Config("linear", ragged="drop"),
            lambda f: tt.AdapterConfig("linear", ragged="drop"),
            lambda f: tt.registry.get_adapter("linear")(8, 5, ragged="drop"),
        ],
    ),
    "widths that are not positive": (
        ValueError,
        "must be positive",
        [
            lambda f: tenon.build_adapter(CONFIG, 0, 5),
            lambda f: tenon.registry.get_adapter("avgpool")(8, -1),
            lambda f: tt.build_adapter(tt.AdapterConfig(**CONFIG), 0, 5),
            lambda f: tt.AvgPoolAdapter(8, -1),
        ],
    ),
    "features with other axes": (
        ValueError,
        "x has [14] dimension|expected [(]batch, tokens, in_dim[)]",
        [
            *calls(lambda a: a(X[0, 0]), lambda m, dtype: m(features(8, dtype=dtype))),
            *calls(lambda a: a(X[None]), lambda m, dtype: m(features(1, 2, 16, 8, dtype=dtype))),
        ],
    ),
    "features of another width": (
        ValueError,
        "x has width 7; the adapter's in_dim is 8",
        calls(lambda a: a(X[..., :7]), lambda m, dtype: m(features(2, 16, 7, dtype=dtype))),
    ),
    "features of integers": (
        ValueError,
        "x is int64; expected float32, bfloat16",
        calls(lambda a: a(X.astype(np.int64)), lambda m, dtype: m(features(2, 16, 8, dtype=torch.int64))),
    ),
    "complex features": (
        ValueError,
        "x is complex64; expected float32, bfloat16",
        calls(lambda a: a(X.astype(np.complex64)), lambda m, dtype: m(features(2, 16, 8, dtype=torch.complex64))),
    ),
    "patches that make no square": (
        ValueError,
        "num_tokens=15 is not a perfect square",
        calls(lambda a: a(X[:, :15]), lambda m, dtype: m(features(2, 15, 8, dtype=dtype))),
    ),
    "a grid of another size": (
        ValueError,
        "grid 3x5",
        calls(lambda a: a(X, grid=(3, 5)), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), grid=(3, 5))),
    ),
    "a grid of nothing": (
        ValueError,
        "grid 0x0: height and width must be positive",
        calls(lambda a: a(X, grid=(0, 0)), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), grid=(0, 0))),
    ),
    "a grid that is no pair": (
        TypeError,
        "grid is 4; expected a pair [(]rows, columns[)]",
        calls(lambda a: a(X, grid=4), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), grid=4)),
    ),
    "a grid of three": (
        TypeError,
        "grid is [(]4, 2, 2[)]; expected a pair",
        calls(lambda a: a(X, grid=(4, 2, 2)), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), grid=(4, 2, 2))),
    ),
    "a grid of real numbers": (
        TypeError,
        "grid",
        calls(lambda a: a(X, grid=(4.0, 4)), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), grid=(4.0, 4))),
    ),
    "a window that is no integer": (
        TypeError,
        "pool_window is of type float; expected an integer",
        calls(lambda a: a(X, pool_window=2.5), lambda m, dtype: m(features(2, 16, 8, dtype=dtype), 2.5)),
    ),
    "a mask of another shape": (
        ValueError,
        "patch_mask has",
        calls(
            lambda a: a(X, patch_mask=np.ones((2, 15), bool)),
            lambda m, dtype: m(features(2, 16, 8, dtype=dtype), patch_mask=torch.ones(2, 15, dtype=torch.bool)),
        ),
    ),
    "a mask of floating-point numbers": (
        ValueError,
        "patch_mask is float32; expected bool or integers",
        calls(
            lambda a: a(X, patch_mask=np.ones((2, 16), np.float32)),
            lambda m, dtype: m(features(2, 16, 8, dtype=dtype), patch_mask=torch.ones(2, 16)),
        ),
    ),
    "a mask that is no array": (
        TypeError,
        "patch_mask is of type list",
        calls(
            lambda a: a(X, patch_mask=[[1] * 16] * 2),
            lambda m, dtype: m(features(2, 16, 8, dtype=dtype), patch_mask=[[1] * 16] * 2),
        ),
    ),
    "a name that is taken": (
        ValueError,
        "adapter/avgpool is already registered",
        [
            lambda f: tenon.registry.register_adapter("avgpool")(lambda builder: None),
            lambda f: tt.registry.register_adapter("avgpool")(lambda in_dim, out_dim: None),
        ],
    ),
    "a parameter that is not there": (
        KeyError,
        "'wait'|wait",
        [lambda f: native().parameter("wait"), lambda f: native().load_state_dict({"wait": X}),
         lambda f: native().set_parameter("wait", X)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake, door", [(name, i) for name, row in MISTAKES.items() for i in range(len(row[2]))])
def test_one_mistake_one_exception(files, mistake, door):
    kind, sentence, doors = MISTAKES[mistake]
    with pytest.raises(kind, match=sentence) as told:
        doors[door](files)
    assert "\n" not in str(told.value)
    assert not str(told.value).startswith(("'", '"'))  # as a plain KeyError prints itself


def test_what_training_code_catches():
    """The seed's exceptions and PyTorch's, where they are not tenon's."""
    with pytest.raises(TypeError):
        tt.AdapterConfig(pool_windw=3)
    with pytest.raises(RuntimeError):
        module()(features(2, 16, 7))
    with pytest.raises(KeyError):
        tt.registry.get_adapter("avgpol")
    assert issubclass(tenon.NotFoundError, KeyError) and str(tenon.NotFoundError("it's not")) == "it's not"


def test_a_config_class_derived_from_ours():
    import dataclasses

    @dataclasses.dataclass
    class Longer(tt.AdapterConfig):
        depth: int = 2

    assert Longer(depth=3).depth == 3 and dataclasses.replace(Longer(), depth=4).depth == 4
    with pytest.raises(TypeError, match="dept"):
        Longer(dept=3)


def test_long_lists_of_names_are_cut_and_escaped():
    adapter = tenon.build_adapter("linear", 8, 5, seed=1)
    state = {f"other.{i}": X for i in range(100)} | {"line\nbreak": X}
    with pytest.raises(KeyError) as told:
        adapter.load_state_dict({**adapter.state_dict(), "line\nbreak\x1b[31m": X, **state})
    assert str(told.value) == (
        "unexpected: line\\nbreak\\x1b[31m, other.0, other.1, other.2, other.3, other.4, other.5, other.6 and 94 more; "
        "the adapter has proj.weight, proj.bias"
    )
