# SPDX-License-Identifier: MIT
"""Calls with several inputs or outputs, and packed batches, in the library's kernels. They are eager only: compiled
calls run in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenon import _C

from . import _ops, _packs
from ._ops import Call, Masks, Place


class Named(NamedTuple):
    """What a call says besides its differentiable tensors, which are x, the further inputs and the parameters."""

    place: Place
    call: Call
    further: tuple[str, ...]  # names of the further inputs
    integers: dict[str, Tensor]
    outputs: tuple[tuple[str, int], ...]  # name and width, the tokens first
    masks: Masks
    grids: Tensor | None  # of a packed batch, (images, 2 or 3)

    def inputs(self, further: Sequence[Tensor]) -> dict[str, Tensor]:
        """All that is given by name."""
        return {**dict(zip(self.further, further, strict=True)), **self.integers}


Plain = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]  # parameters, inputs -> outputs


def _tokens(adapter: _C.Adapter, named: Named, x: Tensor, inputs: dict[str, Tensor]) -> list[Tensor]:
    """New tensors for the outputs."""
    images, count = (x.shape[0], x.shape[1]) if named.grids is None else (named.grids.shape[0], 0)
    made = []
    for name, width in named.outputs:
        rows = adapter.output_offsets(name, images, count, *named.place.settings(), named.grids, inputs)[-1]
        shape = (rows, width) if named.grids is not None else (images, rows // images, width)
        made.append(_ops.new(shape, named.call.dtype))
    return made


def _run(adapter: _C.Adapter, named: Named, values: Sequence[Tensor], saves: bool) -> tuple[list[Tensor], Tensor | None]:
    """The outputs of inputs `values`, and what the backward pass needs."""
    x, *further = values
    inputs = named.inputs(further)
    settings = named.place.settings()
    found, saved = _tokens(adapter, named, x, inputs), None
    if saves:
        images, count = (x.shape[0], x.shape[1]) if named.grids is None else (named.grids.shape[0], 0)
        size = adapter.saved_size(images, count, *settings, named.grids, inputs)
        saved = _ops.new((size,), torch.uint8)
    outputs = {name: y for (name, _), y in zip(named.outputs[1:], found[1:], strict=True)}
    threads = torch.get_num_threads()
    adapter.forward(
        found[0], x, *settings, *named.masks, None, threads, saved, named.grids, inputs or None, outputs or None
    )
    return found, saved


class _Connect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, named: Named, plain: Plain, *tensors: Tensor):
        count = 1 + len(named.further)
        values, parameters = tensors[:count], tensors[count:]
        with _packs.training(_ops.key(values[0], parameters, named.place), parameters, fresh=True) as adapter:
            found, saved = _run(adapter, named, values, True)
        ctx.named, ctx.plain = named, plain
        ctx.save_for_backward(saved, *tensors)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor):
        saved, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        inside = torch.is_grad_enabled() or _ops.is_inside_transform()
        if inside or not all(torch._C._has_storage(one) for one in dy):
            found = _differentiable(dy, tensors, wanted, ctx.named, ctx.plain)
        else:
            found = _backward(dy, tensors, wanted, ctx.named, saved)
        rest = iter(found)
        return None, None, *(next(rest) if want else None for want in wanted)


def _backward(
    dy: Sequence[Tensor], tensors: Sequence[Tensor], wanted: Sequence[bool], named: Named, saved: Tensor
) -> list[Tensor]:
    """The gradients that are wanted, in the dtype of each."""
    count = 1 + len(named.further)
    (x, *further), parameters = tensors[:count], tensors[count:]
    dx = [_ops.new(t.shape, t.dtype) if want else None for t, want in zip(tensors[:count], wanted[:count], strict=True)]
    inputs = {name: d for name, d in zip(named.further, dx[1:], strict=True) if d is not None}
    outputs = {name: d for (name, _), d in zip(named.outputs[1:], dy[1:], strict=True)}
    shown = _ops.shown("backward", named.place.type()) if _ops.profiler._is_profiler_enabled else _ops.NOTHING
    with shown, _packs.training(_ops.key(x, parameters, named.place), parameters, fresh=False) as adapter:
        grads = [
            _ops.new(p.shape, torch.float32) if want else None
            for p, want in zip(parameters, wanted[count:], strict=True)
        ]
        threads, settings = torch.get_num_threads(), named.place.settings()
        named_inputs = named.inputs(further) or None
        adapter.backward(
            dy[0], x, dx[0], grads, *settings, *named.masks, threads, saved, True,
            named.grids, named_inputs, inputs or None, outputs or None,
        )  # fmt: skip
    found = [grad.to(p.dtype) for grad, p in zip(grads, parameters, strict=True) if grad is not None]
    return [d for d in dx if d is not None] + found


def _differentiable(
    dy: Sequence[Tensor], tensors: Sequence[Tensor], wanted: Sequence[bool], named: Named, plain: Plain
) -> Sequence[Tensor]:
    """The same in plain PyTorch, for second derivatives and batches of gradients."""
    count = 1 + len(named.further)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = plain(tensors[count:], tensors[:count])
    inputs = [t for t, want in zip(tensors, wanted, strict=True) if want]
    like = [one.to(out.dtype) for one, out in zip(dy, y, strict=True)]
    return torch.autograd.grad(y, inputs, like, create_graph=again, materialize_grads=True)


def connect(values: Sequence[Tensor], parameters: Sequence[Tensor], named: Named, plain: Plain) -> Sequence[Tensor]:
    """Inputs (B, N, C), or (rows, C) of a packed batch -> outputs, differentiable."""
    if named.call.train:
        return _Connect.apply(named, plain, *values, *parameters)
    adapter = _packs.inference(_ops.key(values[0], parameters, named.place), parameters, named.call.fresh)
    return _run(adapter, named, values, False)[0]
