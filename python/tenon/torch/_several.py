# SPDX-License-Identifier: MIT
"""Calls of a connector with several inputs or outputs, and of packed batches. They run in the kernels or in plain PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _named, _ops, _plain
from ._arguments import Grid, as_given, as_images, expect_tensor, read_grids, token_dtype
from ._errors import FeaturesError
from ._ops import Masks
from ._plain import Modules, Source

if TYPE_CHECKING:
    from ._connector import Connector


def run_several(
    connector: Connector, x: Tensor, window: int, grid: Grid | None, grids: Any, inputs: Mapping[str, Tensor], masks: Masks
) -> Tensor | dict[str, Tensor]:
    with _ops.shown("forward", connector._type) if _ops.profiler._is_profiler_enabled else contextlib.nullcontext():
        found = _run(connector, x, window, grid, grids, inputs, masks)
    return found if len(found) > 1 else found["tokens"]


def _run(
    connector: Connector, x: Tensor, window: int, grid: Grid | None, grids: Any, inputs: Mapping[str, Tensor], masks: Masks
) -> dict[str, Tensor]:
    """The outputs by name."""
    graph = connector._graph
    further = list(graph.inputs)[1:]
    known = [*further, *graph.integers]
    for name in inputs:
        if name not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"adapter type '{graph.type}' has no input '{name}'; beside the features it takes: {names}")
    for name in known:
        if name not in inputs:
            raise ValueError(f"adapter type '{graph.type}' also needs the input '{name}'")
    is_one = grids is None and x.dim() == 2
    maps = graph.maps
    integers = {name: _read_integers(name, inputs[name], name in maps, is_one) for name in graph.integers}
    every = [x, *(inputs[name] for name in further)]
    if grids is not None:
        if grid is not None:
            raise ValueError("a call has grids, one for each image, or one grid for all, not both")

        def run_packed(source: Source, values: Sequence[Tensor]) -> dict[str, Tensor]:
            return _run_packed(connector, source, values, window, grids, masks, integers)

        shape = torch.as_tensor(read_grids(grids), dtype=torch.int64, device="cpu").reshape(-1, 3)
        return _run_somewhere(connector, every, (window, None, shape), masks, integers, run_packed)
    patch_mask, frame_mask = masks
    if x.dim() == 2 and isinstance(patch_mask, Tensor) and patch_mask.dim() == 1:
        masks = (patch_mask[None], frame_mask)

    def run_images(source: Source, values: Sequence[Tensor]) -> dict[str, Tensor]:
        return _run_images(connector, source, values, _plain.Settings(window, grid, 1, integers), masks)

    values = [as_images(value) for value in every]
    found = _run_somewhere(connector, values, (window, grid, None), masks, integers, run_images)
    return {name: as_given(y, x) for name, y in found.items()}


def _run_somewhere(
    connector: Connector,
    values: Sequence[Tensor],
    where: tuple[int, Grid | None, Tensor | None],
    masks: Masks,
    integers: dict[str, Tensor],
    plain: Callable[[Source, Sequence[Tensor]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """In the kernels where all tensors have one, else in plain PyTorch."""
    graph = connector._graph
    parameters = connector._kernel_parameters(values, integers.values(), masks)
    widths = [graph.values[number].width for number in graph.inputs.values()]
    if parameters is None or [value.shape[-1] for value in values] != widths:
        return plain(Modules(connector), values)  # which says what is wrong
    window, grid, grids = where
    place = _ops.Place(connector._config(), window, *(grid or (0, 0)), graph.out_dim)
    fresh = torch.is_grad_enabled()
    train = fresh and any(tensor.requires_grad for tensor in (*values, *parameters))
    outputs = tuple((name, graph.values[number].width) for name, number in graph.outputs.items())
    named = _named.Named(
        place, _ops.Call(token_dtype(parameters[-1]), fresh, train), tuple(list(graph.inputs)[1:]), integers, outputs, masks, grids
    )

    def again(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        return list(plain(connector._tensors(tensors), values).values())

    found = _named.connect(values, parameters, named, again)
    return {name: y for (name, _), y in zip(outputs, found, strict=True)}


def _without_prefix(connector: Connector, values: Sequence[Tensor]) -> list[Tensor]:
    """Inputs whose rows are those of the features have their prefix tokens too."""
    graph = connector._graph
    spaces = [graph.values[number].space for number in graph.inputs.values()]
    return [
        _plain.without_prefix(value, connector.prefix_tokens if space == spaces[0] else 0)
        for value, space in zip(values, spaces, strict=True)
    ]


def _read_integers(name: str, given: Any, is_map: bool, is_one: bool) -> Tensor:
    """A map (images, rows, columns), or an integer tensor (images, columns) or (images); of one image it may lack the
    first axis."""
    values = torch.as_tensor(given)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"'{name}' must be a tensor of int32 or int64")
    if is_one and values.dim() == (2 if is_map else 1):
        values = values[None]
    if values.dim() not in ((3,) if is_map else (1, 2, 3)):
        expected = "(images, rows, columns)" if is_map else "1 to 3"
        raise ValueError(f"'{name}' has {values.dim()} axes; expected {expected}")
    return values.long()


def _check_integers(connector: Connector, integers: dict[str, Tensor], images: int, rows: int) -> None:
    """Maps name rows of their image's features, or -1."""
    maps = connector._graph.maps
    for name, values in integers.items():
        if values.shape[0] != images:
            raise ValueError(f"'{name}' is of {values.shape[0]} images, the features of {images}")
        wrong = (values < -1) | (values >= rows)
        if name in maps and bool(wrong.any()):
            image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
            row = int(values[image][wrong[image]][0])
            raise ValueError(f"'{name}' names row {row} of image {image}, which has {rows}")


def _run_images(
    connector: Connector, source: Source, values: Sequence[Tensor], settings: _plain.Settings, masks: Masks
) -> dict[str, Tensor]:
    """Inputs (B, N, C) -> outputs (B, M, D) by name."""
    x = values[0]
    if not is_compiling():
        connector._check(x, masks)
        _check_further(connector, values, 2)
        connector._check_grid(x.shape[1], settings.window, settings.grid)
        _check_integers(connector, settings.integers, x.shape[0], x.shape[1] - connector.prefix_tokens)
    x, *further = _without_prefix(connector, [connector._in_their_dtype(value) for value in values])
    there = _plain.present(x, *masks)
    return connector._interpret(source, [x, *further], there, masks[1], settings)


def _check_further(connector: Connector, values: Sequence[Tensor], axes: int) -> None:
    """Inputs in the space of the features have as many rows; all have as many images, and their own width."""
    graph, x = connector._graph, values[0]
    for (name, number), value in list(zip(graph.inputs.items(), values, strict=True))[1:]:
        width, space = graph.values[number].width, graph.values[number].space
        if value.shape[-1] != width:
            raise FeaturesError(f"{name} has width {value.shape[-1]}; the adapter's width of it is {width}")
        if axes == 2 and value.shape[0] != x.shape[0]:
            raise ValueError(f"x is of {x.shape[0]} images, '{name}' of {value.shape[0]}")
        if space == graph.values[0].space and value.shape[-2] != x.shape[-2]:
            raise ValueError(f"'{name}' has {value.shape[-2]} rows an image, the features have {x.shape[-2]}")


def _run_packed(
    connector: Connector,
    source: Source,
    values: Sequence[Tensor],
    window: int,
    grids: Any,
    masks: Masks,
    integers: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Inputs (rows, C) -> outputs (rows, D) by name, image by image."""
    shapes = read_grids(grids)
    patch_mask, frame_mask = masks
    patches = [t * height * width for t, height, width in shapes]
    rows = sum(patches) + connector.prefix_tokens * len(shapes)
    graph = connector._graph
    if any(graph.values[number].space != graph.values[0].space for number in graph.inputs.values()):
        raise NotImplementedError(f"tenon.torch packs no batch of '{graph.type}', whose inputs have rows of their own")
    for name, value in zip(("x", *list(connector._graph.inputs)[1:]), values, strict=True):
        if value.dim() != 2:
            raise ValueError(f"{name} has {value.dim()} dimensions; expected 2 beside grids: (rows, width)")
        if value.shape[0] != rows:
            raise ValueError(f"{name} has {value.shape[0]} rows; the grids of its {len(shapes)} images make {rows}")
    for name, mask, size in (("patch_mask", patch_mask, sum(patches)), ("frame_mask", frame_mask, len(shapes))):
        expect_tensor(name, mask)
        if mask is not None and tuple(mask.shape) != (size,):
            raise ValueError(f"{name} has shape {tuple(mask.shape)}; expected {(size,)}")
    if values[0].shape[-1] != connector._graph.in_dim:
        raise FeaturesError(f"x has width {values[0].shape[-1]}; the adapter's in_dim is {connector._graph.in_dim}")
    _check_further(connector, values, 1)
    values = [connector._in_their_dtype(value) for value in values]
    found: list[dict[str, Tensor]] = []
    row = patch = 0
    for image, (t, height, width) in enumerate(shapes):
        connector._check_grid(connector.prefix_tokens + height * width, window, (height, width))
        end = row + connector.prefix_tokens + patches[image]
        x, *further = _without_prefix(connector, [value[None, row:end] for value in values])
        mask = None if patch_mask is None else patch_mask[None, patch : patch + patches[image]]
        frames = None if frame_mask is None else frame_mask[image : image + 1]
        own = {name: numbers[image : image + 1] for name, numbers in integers.items()}
        _check_integers(connector, own, 1, patches[image])
        settings = _plain.Settings(window, (height, width), t, own)
        there = _plain.present(x, mask, frames)
        found.append(connector._interpret(source, [x, *further], there, frames, settings))
        row, patch = end, patch + patches[image]
    widths = {name: connector._graph.values[number].width for name, number in connector._graph.outputs.items()}
    return {
        name: torch.cat([y[name][0] for y in found]) if found else values[0].new_zeros((0, width))
        for name, width in widths.items()
    }
