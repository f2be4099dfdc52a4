# SPDX-License-Identifier: MIT
"""A connector in plain PyTorch, interpreted from its graph: for devices and dtypes that the library has no kernel for,
for further inputs and outputs, and under transforms.

Rows of a space are (B, rows, width). Windows are cut out of the padded grid, with a mask of the valid patches:

    windows  (B, t H W, C) -> patches (B, M, k, C), valid (B or 1, M, k)

A masked patch is absent in means and attention and zero in merges. A row without valid patches is zero in an output and
has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._graph import Graph, Layer, Space
from ._layers import Part, form_of, parts_of

Shape = tuple[int, int, int]  # time, height and width of an image's rows


class Tiling(NamedTuple):
    """Windows on a grid of patches; `whole` leaves out incomplete windows."""

    height: int
    width: int
    window: int
    whole: bool
    is_cut: bool  # windows larger than the grid have its size

    def axis(self, length: int) -> tuple[int, int]:
        """(number of windows, patches of a window) along one side."""
        side = min(self.window, length) if self.is_cut else self.window
        return (length // side if self.whole else -(-length // side)), side


class Settings(NamedTuple):
    """What a call says besides its tensors."""

    window: int = 0  # instead of that of the pooling windows; 0: that of the graph
    grid: tuple[int, int] | None = None
    frames: int = 1  # grids, one behind the other
    integers: dict[str, Tensor] = {}  # by name, (B, rows, columns)
    overrides: dict[str, Any] = {}  # settings of the module that replace those of the graph


def without_prefix(x: Tensor, count: int) -> Tensor:
    """x (B, N, C) without its leading `count` prefix tokens."""
    return x[:, count:] if count else x


def present(x: Tensor, patch_mask: Tensor | None, frame_mask: Tensor | None) -> Tensor | None:
    """Which patches of x (B, N, C) are valid, (B, N); None: all."""
    if patch_mask is None and frame_mask is None:
        return None
    there = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if patch_mask is not None:
        there = there & (patch_mask != 0)
    if frame_mask is not None:
        there = there & (frame_mask != 0)[:, None]
    return there


def blank(x: Tensor, there: Tensor | None) -> Tensor:
    """x with zeros in invalid places, also where it is NaN."""
    return x if there is None else torch.where(there[..., None], x, 0)


def _cut(grid: Tensor, tiling: Tiling) -> Tensor:
    """(B, H, W, C) -> (B, rows, columns, k, C) of windows, with zeros outside the grid."""
    rows, high = tiling.axis(tiling.height)
    columns, wide = tiling.axis(tiling.width)
    grid = grid[:, : rows * high, : columns * wide]
    below, right = rows * high - grid.shape[1], columns * wide - grid.shape[2]
    if below or right:
        grid = F.pad(grid, (0, 0, 0, right, 0, below))
    cells = grid.unflatten(2, (columns, wide)).unflatten(1, (rows, high))
    return cells.transpose(2, 3).flatten(3, 4)


def _side(count: int) -> int:
    """Of a square of this many patches."""
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} patches are no square; set grid")
    return side


class Modules:
    """The parts of a connector are its submodules."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root

    def part(self, part: Part) -> Callable[[Tensor], Tensor]:
        return self._module(part) if part.kind is not None else part.function(self.parameters(part))

    def parameters(self, part: Part) -> list[Tensor]:
        module = self._module(part)
        return [getattr(module, name) for name in part.names]

    def _module(self, part: Part) -> nn.Module:
        module = self.root
        for name in part.path:
            module = getattr(module, name)
        return module


class Tensors:
    """The parts of a connector are functions of these tensors, its parameters by name."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def part(self, part: Part) -> Callable[[Tensor], Tensor]:
        return part.function(self.parameters(part))

    def parameters(self, part: Part) -> list[Tensor]:
        return [self.tensors[parameter.name] for parameter in part.parameters]


Source = Modules | Tensors


class Run:
    """One call."""

    def __init__(
        self,
        graph: Graph,
        source: Modules | Tensors,
        activation: Callable[[str], Callable[[Tensor], Tensor]],
        settings: Settings,
    ) -> None:
        self.graph = graph
        self.source = source
        self.activation = activation  # by name
        self.settings = settings
        self.valid: dict[int, Tensor | None] = {}  # by space, (B or 1, rows); None: all
        self.counts: dict[int, int] = {}  # rows of an image in the spaces of inputs

    # ---- what a layer asks ----

    def parts(self, layer: Layer) -> list[Callable[[Tensor], Tensor]]:
        return [self.source.part(part) for part in parts_of(layer)]

    def tensors(self, layer: Layer) -> list[Tensor]:
        """Its parameters as they are."""
        return [tensor for part in parts_of(layer) for tensor in self.source.parameters(part)]

    def valid_of(self, value: int) -> Tensor | None:
        """Which rows of a value are valid, (B or 1, rows); None: all."""
        return self.valid.get(self.graph.values[value].space)

    def set_valid(self, layer: Layer, valid: Tensor | None) -> None:
        """Says the same of a layer's result."""
        self.valid[self.graph.values[layer.output].space] = valid

    def makes_space(self, layer: Layer) -> bool:
        """Whether the rows of its result are its own."""
        return self.graph.spaces[self.graph.values[layer.output].space].kind == "layer"

    def setting(self, layer: Layer, name: str) -> Any:
        overrides = self.settings.overrides
        return overrides[name] if name in overrides else layer.settings[name]

    def windows(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, rows, C) -> the patches (B, M, k, C) of the windows of the layer's result, and which of them are valid:
        (B or 1, M, k), or None if all are."""
        number = self.graph.values[layer.output].space
        space = self.graph.spaces[number]
        if space.kind == "map":
            return self._mapped(number, x)
        shape = self._shape(space.parent)
        there = self.valid.get(space.parent)
        patches = self._cut(space, shape, blank(x, there))
        if there is None and patches.shape[1] * patches.shape[2] <= shape[0] * shape[1] * shape[2]:
            self.valid[number] = None
            return patches, None
        if there is None:
            self.valid[number] = None  # there is a patch in each window
            there = torch.ones((1, x.shape[1]), dtype=torch.bool, device=x.device)
            return patches, self._cut(space, shape, there[..., None].to(torch.uint8))[..., 0] != 0
        valid = self._cut(space, shape, there[..., None].to(torch.uint8))[..., 0] != 0
        self.valid[number] = valid.any(dim=2)
        return patches, valid

    def _mapped(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that a map (B, M, k) names, -1: none."""
        space = self.graph.spaces[number]
        rows = self.settings.integers[space.integers].to(x.device)
        there = self.valid.get(space.parent)
        index, valid = rows.clamp(min=0).flatten(1), rows >= 0
        if there is not None:
            valid = valid & there.expand(x.shape[0], -1).gather(1, index).unflatten(1, rows.shape[1:])
        patches = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])).unflatten(1, rows.shape[1:])
        self.valid[number] = valid.any(dim=2)
        return blank(patches, valid), valid

    # ---- spaces ----

    def _cut(self, space: Space, shape: Shape, x: Tensor) -> Tensor:
        """(B, t H W, C) -> (B, M, k, C)"""
        frames, height, width = shape
        tiling = self._tiling(space, height, width)
        if self.graph.spaces[space.parent].order == "blocks":
            rows, columns = height // tiling.window, width // tiling.window
            cells = x.unflatten(1, (frames * rows, columns, tiling.window**2))
        else:
            grids = x.unflatten(1, (height, width)) if frames == 1 else x.reshape(-1, height, width, x.shape[-1])
            cells = _cut(grids, tiling)
            if space.transposed:
                cells = cells.transpose(1, 2)
            if frames > 1:
                cells = cells.unflatten(0, (-1, frames)).flatten(1, 2)
        return cells.flatten(1, 2)

    def _tiling(self, space: Space, height: int, width: int) -> Tiling:
        side, ragged = space.side, space.ragged
        if space.is_pool:
            side = self.settings.window or side
            ragged = self.settings.overrides.get("ragged", ragged)
        return Tiling(height, width, side, ragged == "drop", space.is_pool)

    def _shape(self, number: int) -> Shape:
        """Of an image's rows in a space."""
        space = self.graph.spaces[number]
        if space.kind == "windows":
            frames, height, width = self._shape(space.parent)
            tiling = self._tiling(space, height, width)
            rows, columns = tiling.axis(height)[0], tiling.axis(width)[0]
            return (frames, columns, rows) if space.transposed else (frames, rows, columns)
        if space.kind != "input":
            raise NotImplementedError(f"tenon.torch has no windows over rows of kind {space.kind!r} in this version")
        features = self.graph.values[0].space
        count = self.counts[number]
        if number == features and self.settings.grid is not None:
            return (self.settings.frames, *self.settings.grid)
        if number == features and space.order == "blocks" and (side := self._block_side()):
            return 1, count // side, side
        side = math.isqrt(count) if number != features else _side(count)
        return (1, side, side) if side * side == count else (1, count, 1)

    def _block_side(self) -> int:
        """Rows in blocks need no grid if windows of one side over them are all there is; that side, else 0."""
        features, spaces = self.graph.values[0].space, self.graph.spaces
        sides = {space.side for space in spaces if space.kind == "windows"}
        over = all(s.parent == features and not s.is_pool and not s.transposed for s in spaces if s.kind == "windows")
        return sides.pop() if over and len(sides) == 1 else 0

    # ---- all layers ----

    def run(self, inputs: Sequence[Tensor], there: Tensor | None, frames: Tensor | None) -> dict[str, Tensor]:
        """The outputs by name, of inputs (B, rows, width) without prefix tokens. `there`: the valid patches, (B, N);
        `frames`: the valid images, (B)."""
        graph = self.graph
        values: list[Tensor | None] = [None] * len(graph.values)
        for x, value in zip(inputs, graph.inputs.values(), strict=True):
            space = graph.values[value].space
            if space not in self.counts:
                self.counts[space] = x.shape[1]
                is_first = space == graph.values[0].space
                self.valid[space] = there if is_first else present(x, None, frames)
            values[value] = blank(x, self.valid[space])
        for layer in graph.layers:
            read = [values[value] for value in layer.inputs]
            values[layer.output] = form_of(layer).run(layer, read, self)
        return {name: self._finish(values[value], value, frames) for name, value in graph.outputs.items()}

    def _finish(self, y: Tensor, value: int, frames: Tensor | None) -> Tensor:
        """An output with zeros where nothing is; of an image that is not there, everywhere."""
        y = blank(y, self.valid_of(value))
        return y if frames is None else torch.where((frames != 0)[:, None, None], y, 0)
