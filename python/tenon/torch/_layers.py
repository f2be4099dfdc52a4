# SPDX-License-Identifier: MIT
"""What a layer type is in PyTorch: the submodules that hold its parameters, and its one plain form.

    linear            x W^T + b, also with W stored transposed
    activation        f(x)
    gate              f(a) b
    norm              layer norm or RMS norm over the width
    patch_merge       the patches of a window side by side, zeros for absent ones
    window_mean       sum of the valid patches / their count
    window_attention  per head h: softmax_j(q_h . k_hj / sqrt(d)) over the valid j, weighted sum of v_hj, with q from the mean
    attention         softmax(q . k / sqrt(d)) v of an image's rows, whose queries, keys and values are made already
    parameter         its rows, the same for all images
    sum, concat, concat_rows, copy of values

A form gets the layer, the values it reads (B, rows, width) and the call (`_plain.Run`), which gives it windows, and its
parts as callables: the submodules, so that wrapped and replaced ones take part, or functions of given tensors.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._graph import Layer, Parameter

if TYPE_CHECKING:
    from ._plain import Run


# ---- submodules ----


class Group(nn.Module):
    """Holds submodules whose names have a common first part."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) weight, or with `plus_one` times (1 + weight). Computed in float32 at least."""

    def __init__(self, width: int, eps: float, plus_one: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.plus_one = plus_one
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0 if self.plus_one else 1)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps, self.plus_one, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}" + (", plus_one=True" if self.plus_one else "")


class TransposedLinear(nn.Module):
    """x W + b, with W (in, out)."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[0])
        draw(self.weight, "kaiming_uniform", self.weight.shape[0])
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return _transposed_linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[0]}, out_features={self.weight.shape[1]}, bias={self.bias is not None}"


def draw(tensor: Tensor, rule: str, number: float) -> None:
    """Initialises a parameter by a rule of the library."""
    if rule == "constant":
        nn.init.constant_(tensor, number)
    elif rule == "normal":
        nn.init.normal_(tensor, 0, number)
    else:  # the order of operations of nn.init.kaiming_uniform_
        gain = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5) ** 2)) / math.sqrt(number))
        bound = gain if rule == "kaiming_uniform" else 1 / math.sqrt(number)
        nn.init.uniform_(tensor, -bound, bound)


class Part(NamedTuple):
    """A submodule of a connector, or, if `kind` is None, a parameter of the module at `path` itself."""

    path: tuple[str, ...]
    kind: type[nn.Module] | None
    names: tuple[str, ...]  # of its parameters in it
    parameters: tuple[Parameter, ...]
    settings: dict[str, Any]  # attributes of it that decide its result

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def lacks_bias(self) -> bool:
        """Whether it is a linear layer without a bias."""
        return len(self.names) == 1 and self.kind in (nn.Linear, TransposedLinear)

    @property
    def draws_itself(self) -> bool:
        """Whether its own reset_parameters draws by the rules of the graph, as those of linear layers usually do."""
        rules = [parameter.rule for parameter in self.parameters]
        return self.kind in (nn.Linear, TransposedLinear) and rules == ["kaiming_uniform", "uniform"][: len(rules)]

    def reset(self, module: nn.Module) -> None:
        """Initialises its parameters, in `module`."""
        if self.draws_itself:
            module.reset_parameters()
            return
        for name, parameter in zip(self.names, self.parameters, strict=True):
            draw(module._parameters[name], parameter.rule, parameter.number)

    def make(self) -> nn.Module:
        """The submodule, with initial values."""
        if self.draws_itself:
            return self._construct()
        makes_draws = self.kind in (nn.Linear, TransposedLinear)
        with torch.random.fork_rng(devices=[]) if makes_draws else contextlib.nullcontext():
            module = self._construct()
        self.reset(module)
        return module

    def _construct(self) -> nn.Module:
        shape = self.parameters[0].shape
        if self.kind is nn.Linear:
            return nn.Linear(shape[1], shape[0], bias=len(self.names) > 1)
        if self.kind is TransposedLinear:
            return TransposedLinear(*shape, bias=len(self.names) > 1)
        if self.kind is nn.LayerNorm:
            return nn.LayerNorm(shape[0], **self.settings)
        return RMSNorm(shape[0], **self.settings)

    def function(self, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """Its result as a function of its input, with these parameters."""
        if self.kind is nn.Linear:
            return functools.partial(F.linear, weight=tensors[0], bias=tensors[1] if len(tensors) > 1 else None)
        if self.kind is nn.LayerNorm:
            return lambda x: F.layer_norm(x, tensors[0].shape, *tensors, **self.settings)
        if self.kind is RMSNorm:
            return lambda x: rms_norm(x, weight=tensors[0], **self.settings)
        if self.kind is None and not self.settings["transposed"]:
            return functools.partial(F.linear, weight=tensors[0])
        return lambda x: _transposed_linear(x, *tensors)


def _transposed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.T, bias)


def rms_norm(x: Tensor, eps: float, plus_one: bool = False, weight: Tensor | None = None) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    if weight is not None:
        y = y * (1 + weight.to(y.dtype) if plus_one else weight.to(y.dtype))
    return y.to(x.dtype)


def _module(kind: type[nn.Module], parameters: Sequence[Parameter], settings: dict[str, Any] | None = None) -> Part:
    """The submodule that these parameters are of."""
    paths = [parameter.name.split(".") for parameter in parameters]
    names = tuple(path[-1] for path in paths)
    return Part(tuple(paths[0][:-1]), kind, names, tuple(parameters), settings or {})


# ---- the layer types ----


def _linear_parts(layer: Layer) -> list[Part]:
    *path, last = layer.parameters[0].name.split(".")
    if last != "weight":  # a parameter of the module around it
        if len(layer.parameters) > 1:
            name = layer.parameters[0].name
            raise ValueError(f"PyTorch cannot have a parameter '{name}' and another one inside it; name it '{name}.weight'")
        return [Part(tuple(path), None, (last,), layer.parameters, {"transposed": layer.settings["transposed"]})]
    return [_module(TransposedLinear if layer.settings["transposed"] else nn.Linear, layer.parameters)]


def _linear(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    (linear,) = run.parts(layer)
    return linear(values[0])


def _norm_parts(layer: Layer) -> list[Part]:
    if not layer.parameters:
        return []
    settings = {"eps": layer.settings["eps"]}
    if layer.settings["center"]:
        return [_module(nn.LayerNorm, layer.parameters, settings)]
    return [_module(RMSNorm, layer.parameters, {**settings, "plus_one": layer.settings["plus_one"]})]


def _norm(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    for norm in run.parts(layer):
        return norm(values[0])
    if layer.settings["center"]:
        return F.layer_norm(values[0], values[0].shape[-1:], eps=layer.settings["eps"])
    return rms_norm(values[0], layer.settings["eps"])


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


def _activation(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    return run.activation(layer.settings["activation"])(values[0])


def _gate(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    gate, value = values[0], values[-1]
    if len(values) == 1:  # the halves of one value's columns
        halves = values[0].chunk(2, dim=-1)
        gate, value = reversed(halves) if layer.settings["second_is_gate"] else halves
    return run.activation(layer.settings["activation"])(gate) * value


def _sum(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _concat(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    images, rows = max(value.shape[0] for value in values), max(value.shape[1] for value in values)
    return torch.cat([value.expand(images, rows, -1) for value in values], dim=-1)


def _concat_rows(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    images = max(value.shape[0] for value in values)
    there = [run.valid_of(number) for number in layer.inputs]
    if any(valid is not None for valid in there):
        everywhere = [value.new_ones((images, value.shape[1]), dtype=torch.bool) for value in values]
        pairs = zip(everywhere, there, strict=True)
        run.set_valid(layer, torch.cat([one if valid is None else one & valid for one, valid in pairs], dim=1))
    return torch.cat([value.expand(images, -1, -1) for value in values], dim=1)


def _parameter_parts(layer: Layer) -> list[Part]:
    *path, last = layer.parameters[0].name.split(".")
    return [Part(tuple(path), None, (last,), layer.parameters, {})]


def _parameter(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    (rows,) = run.tensors(layer)
    return rows.reshape(1, -1, rows.shape[-1])


def _attention(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    """Queries (B or 1, Q, H d), keys (B, n, G d), values (B, n, G e) -> (B, Q, H e); a masked row is no key."""
    keys, inner, queries = values
    heads, key_heads = layer.settings["heads"], layer.settings["key_heads"]
    queries = queries.unflatten(-1, (key_heads, heads // key_heads, -1))
    keys, inner = (value.unflatten(-1, (key_heads, -1)) for value in (keys, inner))
    queries = queries.expand(keys.shape[0], -1, -1, -1, -1)
    scores = torch.einsum("bqghd,bngd->bghqn", queries, keys) / math.sqrt(keys.shape[-1])
    valid = run.valid_of(layer.inputs[0])
    if valid is not None:
        some = valid.any(dim=1)
        scores = scores.masked_fill(~(valid | ~some[:, None])[:, None, None, None, :], -math.inf)
        if run.makes_space(layer):
            run.set_valid(layer, some[:, None].expand(-1, queries.shape[1]))
    wide = torch.promote_types(scores.dtype, torch.float32)
    shares = scores.softmax(dim=-1, dtype=wide).to(inner.dtype)
    found = torch.einsum("bghqn,bnge->bqghe", shares, inner).flatten(2)
    return found if valid is None else torch.where(some[:, None, None], found, 0)


def _copy(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    return values[0]


def _patch_merge(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    patches, _ = run.windows(layer, values[0])
    if layer.settings["order"] == "c_dy_dx":
        patches = patches.transpose(2, 3)
    return patches.flatten(2, 3)


def mean(patches: Tensor, valid: Tensor | None) -> Tensor:
    """(B, M, k, C) -> (B, M, C)"""
    if valid is None:
        return patches.mean(dim=2)
    count = valid.sum(dim=2, keepdim=True).clamp(min=1)
    return patches.sum(dim=2) / count.to(patches.dtype)


def _window_mean(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    return mean(*run.windows(layer, values[0]))


def _window_attention_parts(layer: Layer) -> list[Part]:
    step = 2 if layer.settings["bias"] else 1
    return [_module(nn.Linear, layer.parameters[i : i + step]) for i in range(0, 3 * step, step)]


def _window_attention(layer: Layer, values: list[Tensor], run: Run) -> Tensor:
    """(B, M, k, C) -> (B, M, C), each window's heads side by side."""
    patches, valid = run.windows(layer, values[0])
    q_proj, k_proj, v_proj = run.parts(layer)
    heads = run.setting(layer, "heads")
    query = q_proj(mean(patches, valid)).unflatten(-1, (heads, -1))
    keys = k_proj(patches).unflatten(-1, (heads, -1))
    inner = v_proj(patches).unflatten(-1, (heads, -1))
    scores = torch.einsum("bmhd,bmkhd->bmhk", query, keys) / math.sqrt(query.shape[-1])
    if valid is not None:
        empty = ~valid.any(dim=2, keepdim=True)  # the softmax would be 0/0: it gets the zeros of the padding
        scores = scores.masked_fill(~(valid | empty)[:, :, None, :], -math.inf)
    wide = torch.promote_types(scores.dtype, torch.float32)
    shares = scores.softmax(dim=-1, dtype=wide).to(inner.dtype)
    return torch.einsum("bmhk,bmkhd->bmhd", shares, inner).flatten(-2)


class Form(NamedTuple):
    """A layer type."""

    run: Callable[[Layer, list[Tensor], Any], Tensor]
    parts: Callable[[Layer], list[Part]] = lambda layer: []


FORMS: dict[str, Form] = {
    "activation": Form(_activation),
    "attention": Form(_attention),
    "concat": Form(_concat),
    "concat_rows": Form(_concat_rows),
    "copy": Form(_copy),
    "gate": Form(_gate),
    "linear": Form(_linear, _linear_parts),
    "norm": Form(_norm, _norm_parts),
    "parameter": Form(_parameter, _parameter_parts),
    "patch_merge": Form(_patch_merge),
    "sum": Form(_sum),
    "window_attention": Form(_window_attention, _window_attention_parts),
    "window_mean": Form(_window_mean),
}


def parts_of(layer: Layer) -> list[Part]:
    """The submodules of a layer; of a type that has no form here, its parameters alone."""
    if layer.type in FORMS:
        return FORMS[layer.type].parts(layer)
    paths = [(parameter, parameter.name.split(".")) for parameter in layer.parameters]
    return [Part(tuple(path[:-1]), None, (path[-1],), (parameter,), {}) for parameter, path in paths]


def form_of(layer: Layer) -> Form:
    if layer.type not in FORMS:
        raise NotImplementedError(f"tenon.torch has no PyTorch form of layer type {layer.type!r} in this version")
    return FORMS[layer.type]
