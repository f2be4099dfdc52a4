# SPDX-License-Identifier: MIT
"""What a call is given: axes, grids and masks, checked with the library's sentences."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from tenon import _C

Grid = tuple[int, int]


def patches_left(tokens: int, prefix_tokens: int) -> int:
    """The number of patches. Raises the library's ValueError if there are fewer tokens than prefix tokens."""
    if tokens < prefix_tokens:
        raise ValueError(f"num_tokens={tokens} leaves no patches after prefix_tokens={prefix_tokens}")
    return tokens - prefix_tokens


def as_images(x: Tensor) -> Tensor:
    """Features (..., N, C), with any number of leading axes, as (B, N, C)."""
    if x.dim() > 3:
        return x.flatten(0, -3)
    return x[(None,) * (3 - x.dim())]


def as_given(y: Tensor, x: Tensor) -> Tensor:
    """Tokens (B, M, D) with the leading axes of x."""
    if x.dim() > 3:
        return y.unflatten(0, x.shape[:-2])
    return y[(0,) * (3 - x.dim())]


def read_grid(grid: Any) -> Grid:
    """Checks a grid as the library does. Inside this package (0, 0) means a square."""
    try:
        height, width = map(operator.index, grid)
    except (TypeError, ValueError):
        raise TypeError(f"grid is {grid!r}; expected a pair (rows, columns) of integers") from None
    if height <= 0 or width <= 0:
        raise ValueError(f"grid {height}x{width}: height and width must be positive")
    return height, width


def read_grids(grids: Any) -> list[tuple[int, int, int]]:
    """(t, height, width) of each image."""
    rows = grids.tolist() if hasattr(grids, "tolist") else [list(row) for row in grids]
    shapes: list[tuple[int, int, int]] = []
    for image, row in enumerate(rows):
        if not isinstance(row, list) or len(row) not in (2, 3):
            raise ValueError("grids has another shape than (images, 2) or (images, 3): height and width, or time, height "
                             "and width")
        t, height, width = (1, *map(operator.index, row)) if len(row) == 2 else map(operator.index, row)
        if min(t, height, width) <= 0:
            raise ValueError(f"the grid of image {image} is {t}x{height}x{width}; its sides must be positive")
        shapes.append((t, height, width))
    return shapes


def expect_tensor(name: str, mask: Any) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} is of type {type(mask).__name__}; expected a torch.Tensor")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(_C.MASK_SENTENCE % (name, str(mask.dtype).removeprefix("torch.")))


def token_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the result of nn.Linear."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else parameter.dtype
