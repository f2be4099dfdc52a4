# SPDX-License-Identifier: MIT
"""Connectors of public models, each judged by its own class in transformers, with random weights.

A case is a module of the original, features, and how our connector is told of them. The module in float64 is the truth.
Tokens: the worst relative error of a row is at most max(1e-6, 1.25 times that of the module in float32). Gradients:
1e-5, relative to the larger of the tensor's own norm and 1e-3 of that of all parameters.
"""

import contextlib
import copy
import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import tenon

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@dataclass
class Case:
    kind: str
    options: dict[str, Any]
    modules: dict[str, Any]
    """Our prefix of the parameters' names: a module."""
    features: list[Any]
    """(rows, width) or (images, rows, width): the first is x, the others are the taps."""
    run: Any
    """Of (modules, features): the outputs in our order."""
    out_dim: int
    call: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Parts of the original's names and what stands for them in ours."""


def model(name, attribute):
    """A class or function of a model's own module alone."""
    return getattr(importlib.import_module(f"transformers.models.{name}.modeling_{name}"), attribute)


def config_of(name, attribute, **values):
    return getattr(importlib.import_module(f"transformers.models.{name}.configuration_{name}"), attribute)(**values)


def randomise(module, generator):
    with torch.no_grad():
        for name, value in module.named_parameters():
            spread = 0.3 if value.ndim == 1 else 1 / value.shape[-1] ** 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * spread)
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1)
    return module


class Plain:
    """A config of nothing but what a small module reads."""

    def __init__(self, **values):
        self.__dict__.update(values)


# ---- the cases ----


def llava(g, **options):
    layers = [-2, -5] if options.pop("two", False) else -2
    cfg = Plain(
        vision_config=Plain(hidden_size=6),
        text_config=Plain(hidden_size=9),
        vision_feature_layer=layers,
        multimodal_projector_bias=options.get("bias", True),
        projector_hidden_act={"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[options.get("activation", "gelu")],
    )
    module = model("llava", "LlavaMultiModalProjector")(cfg)
    width = 12 if isinstance(layers, list) else 6
    x = torch.randn(2, 10, width, generator=g)  # a class row and 9 patches
    return Case("llava", {"prefix_tokens": 1, **options}, {"": module}, [x], lambda m, f: [m[""](f[0][:, 1:])], 9)


def vip_llava(g):
    cfg = Plain(
        vision_config=Plain(hidden_size=4),
        text_config=Plain(hidden_size=9),
        vision_feature_layers=[-2, -5, -8, -11, 6],
        vision_feature_layer=[-2, -5, -8, -11, 6],
        projector_layernorm_eps=1e-5,
        projector_hidden_act="gelu",
    )
    module = model("vipllava", "VipLlavaMultiModalProjector")(cfg)
    x = torch.randn(2, 7, 20, generator=g)
    return Case("vip_llava", {}, {"": module}, [x], lambda m, f: [m[""](f[0])], 9)


def qwen2(g, norm):
    name, attribute = ("qwen2_vl", "PatchMerger") if norm == "layernorm" else ("qwen2_5_vl", "Qwen2_5_VLPatchMerger")
    module = model(name, attribute)(9, 6, spatial_merge_size=2)
    grids = [[1, 2, 6], [2, 4, 2], [1, 6, 4]]  # ragged: 12, 16 and 24 rows
    x = torch.randn(52, 6, generator=g)
    return Case("qwen2_vl", {"norm": norm}, {"": module}, [x], lambda m, f: [m[""](f[0])], 9, {"grids": grids})


def qwen3(g):
    cfg = Plain(hidden_size=6, spatial_merge_size=2, out_hidden_size=9)
    cls = model("qwen3_vl", "Qwen3VLVisionPatchMerger")
    modules = {"merger.": cls(cfg)} | {f"deepstack_merger_list.{i}.": cls(cfg, use_postshuffle_norm=True) for i in range(2)}
    features = [torch.randn(28, 6, generator=g) for _ in range(3)]
    return Case(
        "qwen3_vl", {"deepstack": 2}, modules, features, lambda m, f: [one(x) for one, x in zip(m.values(), f)], 9,
        {"grids": np.array([[1, 2, 6], [1, 4, 4]], np.int32)},
    )  # fmt: skip


def internvl(g, version="v2"):
    cfg = Plain(
        vision_config=Plain(hidden_size=5),
        text_config=Plain(hidden_size=9),
        downsample_ratio=0.5,
        projector_hidden_act="gelu",
    )
    module = model("internvl", "InternVLMultiModalProjector")(cfg)
    shuffle = model("internvl", "InternVLModel").pixel_shuffle
    height, width = 4, 6
    x = torch.randn(2, 1 + height * width, 5, generator=g)

    def run(m, f):
        grid = f[0][:, 1:].reshape(2, height, width, 5)
        if version == "v1":  # the original repository's first form ends before the grid is turned back
            merged = shuffle(None, grid, 0.5).permute(0, 2, 1, 3)
        else:
            merged = shuffle(None, grid, 0.5)
        return [m[""](merged.reshape(2, -1, merged.shape[-1]))]

    options = {"prefix_tokens": 1} | ({"ps_version": "v1"} if version == "v1" else {})
    return Case("internvl", options, {"": module}, [x], run, 9, {"grid": (height, width)})


def idefics3(g):
    cfg = Plain(scale_factor=3, vision_config=Plain(hidden_size=5), text_config=Plain(hidden_size=9))
    module = model("idefics3", "Idefics3Connector")(cfg)
    x = torch.randn(2, 81, 5, generator=g)
    return Case(
        "idefics3", {"scale_factor": 3}, {"": module}, [x], lambda m, f: [m[""](f[0])], 9,
        names={"modality_projection.": ""},
    )  # fmt: skip


def gemma3(g, side, tokens):
    cfg = Plain(
        vision_config=Plain(hidden_size=7, layer_norm_eps=1e-6, image_size=side * 14, patch_size=14),
        text_config=Plain(hidden_size=9),
        mm_tokens_per_image=tokens,
    )
    module = model("gemma3", "Gemma3MultiModalProjector")(cfg)
    x = torch.randn(2, side * side, 7, generator=g)
    window = {} if module.kernel_size == 4 else {"pool_window": module.kernel_size}
    return Case("gemma3", window, {"": module}, [x], lambda m, f: [m[""](f[0])], 9)


def mistral3(g, bias=False):
    cfg = Plain(
        vision_config=Plain(hidden_size=5, patch_size=14),
        text_config=Plain(hidden_size=9, rms_norm_eps=1e-5),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        multimodal_projector_bias=bias,
        projector_hidden_act="gelu",
    )
    module = model("mistral3", "Mistral3MultiModalProjector")(cfg)
    grids = [(4, 6), (3, 5), (2, 7)]  # odd rows and columns are dropped
    x = torch.randn(sum(h * w for h, w in grids), 5, generator=g)
    sizes = [(14 * h, 14 * w) for h, w in grids]
    options = {"bias": True} if bias else {}
    return Case("mistral3", options, {"": module}, [x], lambda m, f: [m[""](f[0], sizes)], 9, {"grids": grids_of(grids)})


def grids_of(pairs):
    return np.array(pairs, np.int64)


def aya(g):
    cfg = Plain(
        vision_config=Plain(hidden_size=5),
        text_config=Plain(hidden_size=9),
        downsample_factor=2,
        alignment_intermediate_size=14,
        adapter_layer_norm_eps=1e-6,
    )
    module = model("aya_vision", "AyaVisionMultiModalProjector")(cfg)
    x = torch.randn(2, 36, 5, generator=g)
    return Case("aya", {"hidden_dim": 14}, {"": module}, [x], lambda m, f: [m[""](f[0]).reshape(2, 9, 9)], 9)


def llama4(g):
    vision = Plain(
        hidden_size=5, intermediate_size=20, pixel_shuffle_ratio=0.5, projector_input_dim=8, projector_output_dim=8,
        projector_dropout=0.0, vision_output_dim=8,
    )  # fmt: skip
    modules = {
        "vision_adapter.": model("llama4", "Llama4VisionPixelShuffleMLP")(vision),
        "": model("llama4", "Llama4MultiModalProjector")(Plain(vision_config=vision, text_config=Plain(hidden_size=9))),
    }
    x = torch.randn(2, 36, 5, generator=g)
    return Case(
        "llama4", {"hidden_dim": 8}, modules, [x], lambda m, f: [m[""](m["vision_adapter."](f[0]))], 9,
        names={"vision_adapter.": ""},
    )  # fmt: skip


def pre_norm(g, norm):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_q = torch.nn.LayerNorm(6, eps=1e-5) if norm == "layernorm" else torch.nn.RMSNorm(6, eps=1e-5)
            self.proj1, self.proj2 = torch.nn.Linear(6, 11), torch.nn.Linear(11, 9)

        def forward(self, x):
            return self.proj2(torch.nn.functional.gelu(self.proj1(self.ln_q(x))))

    x = torch.randn(2, 7, 6, generator=g)
    options = {"pre_norm": norm, "hidden_dim": 11}
    return Case("mlp_2layer", options, {"": Module()}, [x], lambda m, f: [m[""](f[0])], 9)


CASES = {
    "llava": llava,
    "llava-two-layers-no-bias": lambda g: llava(g, two=True, bias=False),
    "llava-tanh": lambda g: llava(g, activation="gelu_tanh"),
    "vip_llava": vip_llava,
    "qwen2_vl": lambda g: qwen2(g, "layernorm"),
    "qwen2_5_vl": lambda g: qwen2(g, "rmsnorm"),
    "qwen3_vl": qwen3,
    "internvl": internvl,
    "internvl-v1": lambda g: internvl(g, "v1"),
    "idefics3": idefics3,
    "gemma3": lambda g: gemma3(g, 8, 4),
    "gemma3-odd": lambda g: gemma3(g, 7, 4),
    "mistral3": mistral3,
    "mistral3-bias": lambda g: mistral3(g, True),
    "aya": aya,
    "llama4": llama4,
    "pre_norm-layernorm": lambda g: pre_norm(g, "layernorm"),
    "pre_norm-rmsnorm": lambda g: pre_norm(g, "rmsnorm"),
}


# ---- judging ----


def doubled(modules):
    """The modules in float64; what some of them cast to float32 on the way stays in float64 too."""
    return {prefix: copy.deepcopy(module).double() for prefix, module in modules.items()}


@contextlib.contextmanager
def all_in_double():
    """Within this, `.float()` and `.to(torch.float32)` of float64 tensors change nothing: the original as maths."""
    to, as_float = torch.Tensor.to, torch.Tensor.float

    def kept(tensor, *args, **options):
        return tensor if tensor.dtype == torch.float64 and args[:1] == (torch.float32,) else to(tensor, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else as_float(t))
        patch.setattr(torch.Tensor, "to", kept)
        yield


def our_name(case, prefix, name):
    name = prefix + name
    for theirs, ours in case.names.items():
        name = name.replace(theirs, ours)
    return name


def state_of(case):
    """The original's parameters under our names."""
    return {
        our_name(case, prefix, name): value.detach().numpy()
        for prefix, module in case.modules.items()
        for name, value in module.named_parameters()
    }


def adapter_of(case):
    adapter = tenon.build_adapter({"type": case.kind, **case.options}, case.features[0].shape[-1], case.out_dim, seed=1)
    state = state_of(case)
    assert set(state) == {name for name, *_ in adapter.parameters()}
    assert adapter.load_state_dict(state) == ([], [])
    return adapter


def worst_row(found, exact):
    exact = exact.reshape(-1, exact.shape[-1])
    difference = np.linalg.norm(found.reshape(exact.shape).astype(np.float64) - exact, axis=-1)
    return (difference / np.linalg.norm(exact, axis=-1)).max()


def gradients(case, modules, features, dys):
    """Of sum(outputs . dys): of the features, and of our parameters."""
    features = [x.detach().requires_grad_() for x in features]
    outputs = case.run(modules, features)
    torch.autograd.backward(outputs, [dy.to(outputs[0].dtype).reshape(o.shape) for o, dy in zip(outputs, dys)])
    parameters = {our_name(case, p, n): v.grad.numpy() for p, m in modules.items() for n, v in m.named_parameters()}
    return [x.grad.numpy() for x in features], parameters


def our_gradients(case, adapter, dys):
    x, *taps = (f.numpy() for f in case.features)
    adapter.prepare(train=True)
    made = [np.zeros(shape, np.float32) for _, _, shape, _ in adapter.parameters()]
    dx, *dtaps = (np.full(f.shape, 7, np.float32) for f in (x, *taps))
    names = [f"tap.{i}" for i in range(len(taps))]
    super(tenon.Adapter, adapter).backward(
        dys[0], x, dx, made, None, case.call.get("grid"), None, None, 0, None, False, case.call.get("grids"),
        dict(zip(names, taps)), dict(zip(names, dtaps)), {n: d for (n, _), d in zip(adapter.outputs[1:], dys[1:])},
    )  # fmt: skip
    return [dx, *dtaps], dict(zip([name for name, *_ in adapter.parameters()], made))


def random_case(name):
    """The case of that name with random parameters, and the generator that made them."""
    g = torch.Generator().manual_seed(1000 + list(CASES).index(name))
    case = CASES[name](g)
    for module in case.modules.values():
        randomise(module, g).eval()
    return case, g


def truth(case, g):
    """Outputs of the original in float64 and in float32; random dys; in float64 the gradients of the sum of outputs times
    these, of the features and of the parameters."""
    exact_modules, wide = doubled(case.modules), [x.double() for x in case.features]
    with torch.no_grad():
        exact = [y.numpy() for y in case.run(exact_modules, wide)]
        single = [y.numpy() for y in case.run(case.modules, case.features)]
    assert all(y.dtype == np.float64 for y in exact)
    dys = [torch.randn(y.shape, generator=g) for y in exact]
    return exact, single, dys, *gradients(case, exact_modules, wide, dys)


@pytest.mark.parametrize("name", CASES)
def test_the_models_own_class(name):
    case, g = random_case(name)
    with all_in_double():
        exact, single, dys, exact_dx, exact_dw = truth(case, g)
    adapter = adapter_of(case)
    x, *taps = (f.numpy() for f in case.features)
    inputs = {f"tap.{i}": tap for i, tap in enumerate(taps)}
    found = adapter(x, **case.call, **({"inputs": inputs} if inputs else {}))
    ours = [found[name] for name, _ in adapter.outputs] if inputs else [found]
    assert [y.shape for y in ours] == [y.shape for y in exact]
    for mine, true, other in zip(ours, exact, single):
        assert worst_row(mine, true) <= max(1e-6, 1.25 * worst_row(other, true))

    our_dx, our_dw = our_gradients(case, adapter, [dy.numpy() for dy in dys])
    whole = np.sqrt(sum((v**2).sum() for v in exact_dw.values()))
    for key, true in exact_dw.items():
        assert np.linalg.norm(our_dw[key] - true) <= 1e-5 * max(np.linalg.norm(true), 1e-3 * whole), key
    for mine, true in zip(our_dx, exact_dx):
        assert np.linalg.norm(mine - true) <= 1e-5 * np.linalg.norm(true)


@pytest.mark.parametrize("name", CASES)
def test_widths_follow_from_the_tensors(name, tmp_path):
    """A bare file of the original's parameters opens by the type and its options without widths; half widths too."""
    safetensors = pytest.importorskip("safetensors.numpy")
    case = CASES[name](torch.Generator().manual_seed(1))
    state = adapter_of(case).state_dict()
    safetensors.save_file(state, tmp_path / "x.safetensors")
    options = {key: value for key, value in case.options.items() if key != "hidden_dim"}
    loaded = tenon.load(tmp_path / "x.safetensors", config={"type": case.kind, **options})
    assert (loaded.in_dim, loaded.out_dim) == (case.features[0].shape[-1], case.out_dim)
    assert all(np.array_equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_wrong_settings_are_refused():
    for options, says in (
        ({"type": "llava", "depth": -1}, "depth must be from 0 to 1000"),
        ({"type": "llava", "norm": 1}, "is an integer; expected a boolean"),
        ({"type": "llava", "depth": 0}, "tokens of width 8; expected out_dim 16"),
        ({"type": "internvl", "ps_version": "v3"}, "unknown ps_version 'v3'; options: v1, v2"),
        ({"type": "qwen2_vl", "norm": "batchnorm"}, "unknown norm 'batchnorm'; options: layernorm, rmsnorm"),
        ({"type": "mlp_2layer", "pre_norm": "batchnorm"}, "unknown pre_norm 'batchnorm'"),
        ({"type": "qwen3_vl", "deepstack": -1}, "deepstack must be from 0 to 1000"),
        ({"type": "aya", "hidden_dim": 21}, r"even width \(got 21\)"),
        ({"type": "mistral3", "merge_size": 2}, "has no option 'merge_size'"),
    ):
        with pytest.raises(ValueError, match=says):
            tenon.build_adapter(options, 8, 16, seed=1)
    shuffles = tenon.build_adapter("internvl", 8, 16, seed=1)
    with pytest.raises(ValueError, match=r"merges 2x2 patches into one token.* \(3x5\)"):
        shuffles(np.zeros((1, 15, 8), np.float32), grid=(3, 5))
    with pytest.raises(ValueError, match="no whole number of blocks of 2x2"):
        tenon.build_adapter("qwen2_vl", 8, 16, seed=1)(np.zeros((1, 15, 8), np.float32))


def test_defaults_are_those_of_the_type():
    assert tenon.Config("gemma3").pool_window == 4 and tenon.Config("aya").activation == "silu"
    assert tenon.Config("mlp_2layer").pool_window == 2 and tenon.Config("avgpool").pool_window == 2


def test_a_model_without_pre_norm_is_saved_as_ever(tmp_path):
    tenon.build_adapter("mlp_2layer", 4, 5, seed=1).save(tmp_path / "x.safetensors")
    assert b"pre_norm" not in (tmp_path / "x.safetensors").read_bytes()
    assert tenon.Config("mlp_2layer", pre_norm=None) == tenon.Config("mlp_2layer")
    for norm, names in (("layernorm", ["ln_q.weight", "ln_q.bias"]), ("rmsnorm", ["ln_q.weight"]), ("", [])):
        adapter = tenon.build_adapter({"type": "mlp_2layer", "pre_norm": norm}, 4, 5, seed=1)
        adapter.save(tmp_path / "x.safetensors")
        loaded = tenon.load(tmp_path / "x.safetensors")
        assert loaded.config.pre_norm == norm and [n for n in loaded.state_dict() if n.startswith("ln_q")] == names
