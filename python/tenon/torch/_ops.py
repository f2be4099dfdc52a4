# SPDX-License-Identifier: MIT
"""The operators ``tenon::forward`` and ``tenon::backward``: what compile, export and the dispatcher see of a call.

Both take the parameters as a list in declaration order, the config as JSON, and the settings of the call: `window` 0 is
the config's, `height` and `width` 0 are a square. They hold no state that a caller could see: packs that are reused
(`_packs`) change the time and nothing else. Eager calls go past the dispatcher, whose Python costs as much as a small
connector when it comes out of cold caches; with gradients they keep what is between the layers for the backward pass,
which the operators make anew.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from tenon import _C

from . import _packs
from ._plain import Layer


LARGE = 4 << 20  # bytes
_CPU = torch.device("cpu")  # whatever the default is

Masks = tuple[Tensor | None, Tensor | None]  # of patches, of frames
Settings = tuple[int | None, tuple[int, int] | None]  # window and grid as the library takes them


def settings(window: int, height: int, width: int) -> Settings:
    """Of numbers that are 0 where the library shall choose."""
    return window or None, (height, width) if height or width else None


class Place(NamedTuple):
    """What makes the products of a call what they are, beside its tensors."""

    config: str  # JSON
    window: int
    height: int
    width: int

    def settings(self) -> Settings:
        return settings(self.window, self.height, self.width)


class Call(NamedTuple):
    """How they are to be computed."""

    dtype: torch.dtype  # of the tokens
    fresh: bool  # gradients are on: pack now
    train: bool  # something needs a gradient


def _new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """New memory; a large one in large pages, where the system has them: a training step with new gradients of 84 MB
    takes 8 % longer with their 20,000 page faults."""
    # One by one: a third less time than a tuple when the caches are cold.
    tensor = torch.empty(*shape, dtype=dtype, device=_CPU)
    if tensor.nbytes >= LARGE:
        _C.use_large_pages(tensor.data_ptr(), tensor.nbytes)
    return tensor


def _new_gradient(adapter: _C.Adapter, index: int, parameter: Tensor) -> Tensor:
    """In float32. A large one that is handed on as it is lies in memory of the last step's, where that was dropped: the
    system fills new memory with zeros first, which is 4 % of a step with 84 MB of gradients."""
    if parameter.dtype == torch.float32 and parameter.numel() * 4 >= LARGE:
        return torch.from_dlpack(adapter.lend_gradient(index))
    return _new(parameter.shape, torch.float32)


def key(x: Tensor, parameters: Sequence[Tensor], place: Place) -> _packs.Key:
    """Of the adapter that a call needs."""
    return (place.config, x.shape[2], parameters[-1].shape[0])


# ---- the library's calls ----


def run(
    adapter: _C.Adapter, x: Tensor, masks: Masks, settings: Settings, dtype: torch.dtype, saved: Tensor | None = None
) -> Tensor:
    """New tokens of a prepared adapter."""
    window, grid = settings
    batch, tokens, _ = x.shape
    y = _new((batch, adapter.output_num_tokens(tokens, window, grid), adapter.out_dim), dtype)
    adapter.forward(y, x, window, grid, *masks, None, torch.get_num_threads(), saved)
    return y


def _forward(x: Tensor, parameters: Sequence[Tensor], masks: Masks, place: Place, call: Call) -> Tensor:
    if not call.train:
        adapter = _packs.inference(key(x, parameters, place), parameters, call.fresh)
        return run(adapter, x, masks, place.settings(), call.dtype)
    with _packs.training(key(x, parameters, place), parameters, fresh=True) as adapter:
        return run(adapter, x, masks, place.settings(), call.dtype)


def _forward_saving(
    x: Tensor, parameters: Sequence[Tensor], masks: Masks, place: Place, call: Call
) -> tuple[Tensor, Tensor]:
    """Tokens, and what is between the layers, for the backward pass: about what PyTorch's own layers keep, once."""
    with _packs.training(key(x, parameters, place), parameters, fresh=True) as adapter:
        size = adapter.saved_size(x.shape[0], x.shape[1], *place.settings())
        saved = _new((size,), torch.uint8)
        return run(adapter, x, masks, place.settings(), call.dtype, saved), saved


def _backward(
    dy: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    masks: Masks,
    place: Place,
    wanted: Sequence[bool],
    saved: Tensor | None = None,
) -> list[Tensor]:
    """The gradients of sum(y * dy) that are wanted, of x and of each parameter, in the dtype of each."""
    want_x, *want_parameters = wanted
    dx = _new(x.shape, x.dtype) if want_x else None
    window, grid = place.settings()
    with _packs.training(key(x, parameters, place), parameters, fresh=False) as adapter:
        grads = [_new_gradient(adapter, i, p) if want_parameters[i] else None for i, p in enumerate(parameters)]
        adapter.backward(dy, x, dx, grads, window, grid, *masks, torch.get_num_threads(), saved, True)
    found = [grad.to(p.dtype) for grad, p in zip(grads, parameters, strict=True) if grad is not None]
    return found if dx is None else [dx, *found]


# ---- operators ----


@torch.library.custom_op("tenon::forward", mutates_args=(), device_types="cpu")
def forward(
    x: Tensor,
    parameters: Sequence[Tensor],
    patch_mask: Tensor | None,
    frame_mask: Tensor | None,
    config: str,
    window: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    fresh: bool,
    train: bool,
) -> Tensor:
    """x (B, N, in_dim) -> (B, M, out_dim)."""
    place = Place(config, window, height, width)
    return _forward(x, parameters, (patch_mask, frame_mask), place, Call(dtype, fresh, train))


def _count(tokens: int, place: Place) -> int:
    """Tokens of an image; of a count that is not known yet only where no grid has to be found in it."""
    options = json.loads(place.config)
    if isinstance(tokens, torch.SymInt) and not _C.type_pools(options["type"]):
        return tokens - options.get("prefix_tokens", 0)
    return _C.config_output_num_tokens(place.config, int(tokens), *place.settings())


@forward.register_fake
def _(x, parameters, patch_mask, frame_mask, config, window, height, width, dtype, fresh, train):
    tokens = _count(x.shape[1], Place(config, window, height, width))
    return x.new_empty((x.shape[0], tokens, parameters[-1].shape[0]), dtype=dtype)


@torch.library.custom_op("tenon::backward", mutates_args=(), device_types="cpu")
def backward(
    dy: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    patch_mask: Tensor | None,
    frame_mask: Tensor | None,
    config: str,
    window: int,
    height: int,
    width: int,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The gradients of sum(y * dy) that are wanted, of x and of each parameter."""
    return _backward(dy, x, parameters, (patch_mask, frame_mask), Place(config, window, height, width), wanted)


@backward.register_fake
def _(dy, x, parameters, patch_mask, frame_mask, config, window, height, width, wanted):
    tensors = zip((x, *parameters), wanted, strict=True)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t, want in tensors if want]


def _spread(found: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """None where nothing was wanted."""
    rest = iter(found)
    return [next(rest) if want else None for want in wanted]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, parameters, patch_mask, frame_mask, *settings = inputs
    ctx.place = settings[:4]
    ctx.save_for_backward(x, patch_mask, frame_mask, *parameters)


def _differentiate(ctx: Any, dy: Tensor) -> tuple:
    x, patch_mask, frame_mask, *parameters = ctx.saved_tensors
    want_x, want_parameters, *others = ctx.needs_input_grad
    wanted = [want_x, *want_parameters]
    found = torch.ops.tenon.backward.default(dy, x, parameters, patch_mask, frame_mask, *ctx.place, wanted)
    dx, *grads = _spread(found, wanted)
    return dx, grads, *(None for _ in others)


forward.register_autograd(_differentiate, setup_context=_save)


# ---- eager calls ----

# Looked up once: each step of the interpreter is dear where the caches are cold.
_peek_interpreter_stack = torch._C._functorch.peek_interpreter_stack
_get_tracing_state = torch._C._get_tracing_state


def is_inside_transform() -> bool:
    """Inside grad, vmap, jvp, ..., where tensors stand for several or carry tangents, or torch.jit.trace, which sees
    PyTorch's own operators alone. What is compiled goes through the dispatcher, which sees to that."""
    if _peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return True
    return _get_tracing_state() is not None


Plain = Callable[[Sequence[Layer], Tensor], Tensor]


class _Connect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, masks: tuple, place: Place, call: Call, plain: Plain, *parameters: Tensor):
        y, saved = _forward_saving(x, parameters, masks, place, call)
        ctx.place, ctx.plain = place, plain
        ctx.save_for_backward(saved, x, *masks, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor):
        saved, x, patch_mask, frame_mask, *parameters = ctx.saved_tensors
        want_x, _, _, _, _, *want_parameters = ctx.needs_input_grad
        wanted = [want_x, *want_parameters]
        # A batch of gradients has no storage of its own.
        if torch.is_grad_enabled() or is_inside_transform() or not torch._C._has_storage(dy):
            found = _differentiable(dy, x, parameters, wanted, ctx.plain)
        else:
            found = _backward(dy, x, parameters, (patch_mask, frame_mask), ctx.place, wanted, saved)
        dx, *grads = _spread(found, wanted)
        return dx, None, None, None, None, *grads


def _differentiable(
    dy: Tensor, x: Tensor, parameters: Sequence[Tensor], wanted: Sequence[bool], plain: Plain
) -> Sequence[Tensor]:
    """The same gradients as plain PyTorch has them, for who differentiates again (create_graph=True) or several ways at
    once (is_grads_batched=True)."""
    layers = [
        functools.partial(F.linear, weight=weight, bias=bias)
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True)
    ]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = plain(layers, x)
    inputs = [t for t, want in zip((x, *parameters), wanted, strict=True) if want]
    return torch.autograd.grad(y, inputs, dy.to(y.dtype), create_graph=again, materialize_grads=True)


def connect(
    x: Tensor,
    parameters: list[Tensor],
    masks: Masks,
    place: Place,
    call: Call,
    plain: Plain,
) -> Tensor:
    """x (B, N, in_dim) -> (B, M, out_dim), differentiable."""
    if is_compiling() or torch._C._len_torch_dispatch_stack():
        return torch.ops.tenon.forward.default(x, parameters, *masks, *place, *call)
    if call.train:
        return _Connect.apply(x, masks, place, call, plain, *parameters)
    return _forward(x, parameters, masks, place, call)
