"""The operators ``tenon::forward`` and ``tenon::backward``: what compile, export, autograd and the dispatcher see.

Both take the parameters as a list in declaration order, the config as JSON, and the settings of the call: ``window`` 0
is the config's, ``height`` and ``width`` 0 are a square. They hold no state that a caller could see: packs that are
reused (`_packs`) change the time and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenon import _C

from . import _packs

DTYPES = _packs.DTYPES


class Call(NamedTuple):
    """What a call says beside its tensors."""

    config: str  # JSON
    window: int
    height: int
    width: int
    dtype: torch.dtype  # of the tokens
    fresh: bool  # gradients are on: pack now
    train: bool  # something needs a gradient


def _array(tensor: Tensor) -> tuple:
    return (tensor.data_ptr(), DTYPES[tensor.dtype], tuple(tensor.shape), tensor.stride())


def _mask(tensor: Tensor | None) -> tuple | None:
    return None if tensor is None else (tensor.data_ptr(), _C.MASK, tuple(tensor.shape), tensor.stride())


def _grid(height: int, width: int) -> tuple[int, int] | None:
    return (height, width) if height or width else None


def _key(config: str, x: Tensor, parameters: Sequence[Tensor]) -> _packs.Key:
    return (config, x.shape[2], parameters[-1].shape[0])


def _count(config: str, tokens: int, window: int, height: int, width: int) -> int:
    """Tokens of an image; of a count that is not known yet only where no grid has to be found in it."""
    options = json.loads(config)
    if isinstance(tokens, torch.SymInt) and not _C.type_pools(options["type"]):
        return tokens - options.get("strip", 0)
    return _C.config_output_num_tokens(config, int(tokens), window or None, _grid(height, width))


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
    key = _key(config, x, parameters)
    window_or_none, grid = window or None, _grid(height, width)

    def run(adapter: _C.Adapter) -> Tensor:
        tokens = adapter.output_num_tokens(x.shape[1], window_or_none, grid)
        y = torch.empty((x.shape[0], tokens, key[2]), dtype=dtype)
        masks = _mask(patch_mask), _mask(frame_mask)
        adapter.forward(_array(y), _array(x), window_or_none, grid, *masks, None, torch.get_num_threads())
        return y

    if not train:
        return run(_packs.inference(key, parameters, fresh))
    with _packs.training(key, parameters, fresh=True) as adapter:
        return run(adapter)


@forward.register_fake
def _(x, parameters, patch_mask, frame_mask, config, window, height, width, dtype, fresh, train):
    tokens = _count(config, x.shape[1], window, height, width)
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
    """The gradients of sum(y * dy) that are `wanted`, of x and of each parameter."""
    want_x, *want_parameters = wanted
    dx = torch.empty(x.shape, dtype=x.dtype) if want_x else None
    grads = [torch.zeros(p.shape) if want else None for p, want in zip(parameters, want_parameters, strict=True)]
    with _packs.training(_key(config, x, parameters), parameters, fresh=False) as adapter:
        adapter.backward(
            _array(dy),
            _array(x),
            None if dx is None else _array(dx),
            [None if grad is None else _array(grad) for grad in grads],
            window or None,
            _grid(height, width),
            _mask(patch_mask),
            _mask(frame_mask),
            torch.get_num_threads(),
            None,
        )
    found = [grad.to(p.dtype) for grad, p in zip(grads, parameters, strict=True) if grad is not None]
    return found if dx is None else [dx, *found]


@backward.register_fake
def _(dy, x, parameters, patch_mask, frame_mask, config, window, height, width, wanted):
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t, w in zip((x, *parameters), wanted, strict=True) if w]


def _gradients(
    dy: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    patch_mask: Tensor | None,
    frame_mask: Tensor | None,
    call: Call,
    wanted: list[bool],
) -> list[Tensor | None]:
    """Of x and of each parameter; None where it is not wanted."""
    place = (call.config, call.window, call.height, call.width)
    found = iter(torch.ops.tenon.backward.default(dy, x, parameters, patch_mask, frame_mask, *place, wanted))
    return [next(found) if want else None for want in wanted]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, parameters, patch_mask, frame_mask, *call = inputs
    ctx.call = Call(*call)
    ctx.save_for_backward(x, patch_mask, frame_mask, *parameters)


def _differentiate(ctx: Any, dy: Tensor) -> tuple:
    x, patch_mask, frame_mask, *parameters = ctx.saved_tensors
    want_x, want_parameters, *_ = ctx.needs_input_grad
    dx, *grads = _gradients(dy, x, parameters, patch_mask, frame_mask, ctx.call, [want_x, *want_parameters])
    return dx, grads, None, None, *(None for _ in ctx.call)


forward.register_autograd(_differentiate, setup_context=_save)


class _Connect(torch.autograd.Function):
    """``tenon::forward`` with its gradient, for eager calls: a third of the time that the operator's own registration
    takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, patch_mask: Tensor | None, frame_mask: Tensor | None, call: Call, *parameters):
        ctx.call = call
        ctx.save_for_backward(x, patch_mask, frame_mask, *parameters)
        return torch.ops.tenon.forward.default(x, list(parameters), patch_mask, frame_mask, *call)

    @staticmethod
    def backward(ctx: Any, dy: Tensor):
        x, patch_mask, frame_mask, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad
        dx, *grads = _gradients(dy, x, parameters, patch_mask, frame_mask, ctx.call, [needed[0], *needed[4:]])
        return dx, None, None, None, *grads


def connect(
    x: Tensor, parameters: list[Tensor], patch_mask: Tensor | None, frame_mask: Tensor | None, call: Call
) -> Tensor:
    """x (B, N, in_dim) -> (B, M, out_dim), differentiable."""
    if call.train and not torch.compiler.is_compiling():
        return _Connect.apply(x, patch_mask, frame_mask, call, *parameters)
    return torch.ops.tenon.forward.default(x, parameters, patch_mask, frame_mask, *call)
