# SPDX-License-Identifier: MIT
"""The operators ``tenon::forward`` and ``tenon::backward``, which compile, export and the dispatcher see.

Both take the parameters as a list in declaration order, the config as JSON, and the settings of the call: `window` 0 is
the config's, `height` and `width` 0 mean a square. They have no visible state: reused packs (`_packs`) only save time.
Eager calls do not go through the dispatcher, whose Python code takes as long as a small connector when the caches are
cold. With gradients they save the values between the layers for the backward pass, which the operators recompute.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from tenon import _C

from . import _packs
from ._graph import graph_of

profiler = torch.autograd.profiler  # of which _is_profiler_enabled is a bool, for those who ask often
LARGE = 4 << 20  # bytes
_CPU = torch.device("cpu")  # whatever the default device is

Masks = tuple[Tensor | None, Tensor | None]  # of patches, of frames
Settings = tuple[int | None, tuple[int, int] | None]  # window and grid as the library takes them


def settings(window: int, height: int, width: int) -> Settings:
    """Settings of numbers in which 0 means the library's default."""
    return window or None, (height, width) if height or width else None


class Place(NamedTuple):
    """What decides the result of a call besides its tensors."""

    config: str  # JSON
    window: int
    height: int
    width: int
    out_dim: int  # 0: that of the last parameter

    def settings(self) -> Settings:
        return settings(self.window, self.height, self.width)

    def type(self) -> str:
        return json.loads(self.config)["type"]


class Call(NamedTuple):
    """How a call is computed."""

    dtype: torch.dtype  # of the tokens
    fresh: bool  # gradients are enabled: pack now
    train: bool  # something needs a gradient


def new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new tensor. Large ones get large pages if the system has them: in a training step with 84 MB of new gradients,
    20,000 page faults cost 8 %."""
    # The sizes one by one: a third less time than a tuple when the caches are cold.
    tensor = torch.empty(*shape, dtype=dtype, device=_CPU)
    if tensor.nbytes >= LARGE:
        _C.use_large_pages(tensor.data_ptr(), tensor.nbytes)
    return tensor


def _new_gradient(adapter: _C.Adapter, index: int, parameter: Tensor) -> Tensor:
    """A gradient in float32. A large one that needs no conversion reuses memory of the last step, if that was dropped:
    filling new memory with zeros costs the system 4 % of a step with 84 MB of gradients."""
    if parameter.dtype == torch.float32 and parameter.numel() * 4 >= LARGE:
        return torch.from_dlpack(adapter.lend_gradient(index))
    return new(parameter.shape, torch.float32)


NOTHING = contextlib.nullcontext()


def shown(what: str, kind: str) -> Any:
    """A range that a running profiler shows, such as ``tenon::forward(avgpool)``."""
    return torch._C._profiler._RecordFunctionFast(f"tenon::{what}({kind})")


def key(x: Tensor, parameters: Sequence[Tensor], place: Place) -> _packs.Key:
    """The key of the adapter for a call."""
    return (place.config, x.shape[-1], place.out_dim or parameters[-1].shape[0])


# ---- the library's calls ----


def run(
    adapter: _C.Adapter, x: Tensor, masks: Masks, settings: Settings, dtype: torch.dtype, saved: Tensor | None = None
) -> Tensor:
    """The tokens of a prepared adapter, in a new tensor."""
    window, grid = settings
    batch, tokens, _ = x.shape
    y = new((batch, adapter.output_num_tokens(tokens, window, grid), adapter.out_dim), dtype)
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
    """Tokens, and the values between the layers for the backward pass: about as much as PyTorch's layers save, once."""
    with _packs.training(key(x, parameters, place), parameters, fresh=True) as adapter:
        size = adapter.saved_size(x.shape[0], x.shape[1], *place.settings())
        saved = new((size,), torch.uint8)
        return run(adapter, x, masks, place.settings(), call.dtype, saved), saved


def _backward(
    dy: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    masks: Masks,
    place: Place,
    wanted: Sequence[bool],
    saved: Tensor | None = None,
    is_shown: bool = False,
) -> list[Tensor]:
    """The gradients of sum(y * dy) that are wanted, of x and of each parameter, in the dtype of each."""
    if profiler._is_profiler_enabled and not is_shown:
        with shown("backward", place.type()):
            return _backward(dy, x, parameters, masks, place, wanted, saved, True)
    want_x, *want_parameters = wanted
    dx = new(x.shape, x.dtype) if want_x else None
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
    out_dim: int = 0,
) -> Tensor:
    """x (B, N, in_dim) -> (B, M, out_dim)."""
    place, call = Place(config, window, height, width, out_dim), Call(dtype, fresh, train)
    with shown("forward", place.type()) if profiler._is_profiler_enabled else NOTHING:
        return _forward(x, parameters, (patch_mask, frame_mask), place, call)


def _count(x: Tensor, out_dim: int, place: Place) -> int:
    """The token count of an image. A symbolic count is possible only for types without a grid."""
    tokens = x.shape[1]
    if isinstance(tokens, torch.SymInt):
        graph = graph_of(place.config, int(x.shape[2]), int(out_dim))
        if not graph.has_grid:
            return tokens - graph.prefix_tokens
    return _C.config_output_num_tokens(place.config, int(tokens), *place.settings())


@forward.register_fake
def _(x, parameters, patch_mask, frame_mask, config, window, height, width, dtype, fresh, train, out_dim=0):
    out_dim = out_dim or parameters[-1].shape[0]
    tokens = _count(x, out_dim, Place(config, window, height, width, out_dim))
    return x.new_empty((x.shape[0], tokens, out_dim), dtype=dtype)


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
    out_dim: int = 0,
) -> list[Tensor]:
    """The gradients of sum(y * dy) that are wanted, of x and of each parameter."""
    return _backward(dy, x, parameters, (patch_mask, frame_mask), Place(config, window, height, width, out_dim), wanted)


@backward.register_fake
def _(dy, x, parameters, patch_mask, frame_mask, config, window, height, width, wanted, out_dim=0):
    tensors = zip((x, *parameters), wanted, strict=True)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t, want in tensors if want]


def _spread(found: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradients, with None for those that were not wanted."""
    rest = iter(found)
    return [next(rest) if want else None for want in wanted]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, parameters, patch_mask, frame_mask, *settings = inputs
    ctx.place, ctx.out_dim = settings[:4], settings[7]
    ctx.save_for_backward(x, patch_mask, frame_mask, *parameters)


def _differentiate(ctx: Any, dy: Tensor) -> tuple:
    x, patch_mask, frame_mask, *parameters = ctx.saved_tensors
    want_x, want_parameters, *others = ctx.needs_input_grad
    wanted = [want_x, *want_parameters]
    found = torch.ops.tenon.backward.default(dy, x, parameters, patch_mask, frame_mask, *ctx.place, wanted, ctx.out_dim)
    dx, *grads = _spread(found, wanted)
    return dx, grads, *(None for _ in others)


forward.register_autograd(_differentiate, setup_context=_save)


# ---- eager calls ----

# Looked up once: every step of the interpreter is slow when the caches are cold.
_peek_interpreter_stack = torch._C._functorch.peek_interpreter_stack
_get_tracing_state = torch._C._get_tracing_state


def is_inside_transform() -> bool:
    """Whether the call is inside grad, vmap, jvp and the like, where a tensor stands for several or has a tangent, or
    inside torch.jit.trace, which records only PyTorch's operators. Compiled calls go through the dispatcher instead."""
    if _peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return True
    return _get_tracing_state() is not None


Plain = Callable[[Sequence[Tensor], Tensor], Tensor]  # of parameters and x


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
        # A batch of gradients has no storage.
        if torch.is_grad_enabled() or is_inside_transform() or not torch._C._has_storage(dy):
            found = _differentiable(dy, x, parameters, wanted, ctx.plain)
        else:
            found = _backward(dy, x, parameters, (patch_mask, frame_mask), ctx.place, wanted, saved)
        dx, *grads = _spread(found, wanted)
        return dx, None, None, None, None, *grads


def _differentiable(
    dy: Tensor, x: Tensor, parameters: Sequence[Tensor], wanted: Sequence[bool], plain: Plain
) -> Sequence[Tensor]:
    """The same gradients in plain PyTorch, for second derivatives (create_graph=True) and batches of gradients
    (is_grads_batched=True)."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = plain(parameters, x)
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
        return torch.ops.tenon.forward.default(x, parameters, *masks, *place[:4], *call, place.out_dim)
    if call.train:
        return _Connect.apply(x, masks, place, call, plain, *parameters)
    return _forward(x, parameters, masks, place, call)
