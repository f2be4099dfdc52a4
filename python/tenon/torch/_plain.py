# SPDX-License-Identifier: MIT
"""The connectors in plain PyTorch, for devices and dtypes that the library has no kernel for.

Windows are cut out of the padded grid, with a mask of the valid patches:

    cut      (B, H W, C) -> patches (B, M, k, C), valid (B or 1, M, k)
    mean     sum of the valid patches / their count
    attend   per head h: softmax_j(q_h . k_hj / sqrt(d)) over the valid j, weighted sum of v_hj, with q from the mean

Layers are callables: the submodules, so that wrapped and replaced layers take part, or products with given weights. A
token without valid patches is zero and has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tiling:
    """Windows on a grid of patches; `whole` leaves out incomplete windows."""

    height: int
    width: int
    window: int
    whole: bool

    def axis(self, length: int) -> tuple[int, int]:
        """(number of windows, patches of a window) along one side."""
        side = min(self.window, length)
        return (length // side if self.whole else -(-length // side)), side


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


def _windows(grid: Tensor, tiling: Tiling) -> Tensor:
    """(B, H, W, C) -> (B, M, k, C), with zeros outside the grid."""
    rows, high = tiling.axis(tiling.height)
    columns, wide = tiling.axis(tiling.width)
    grid = grid[:, : rows * high, : columns * wide]
    below, right = rows * high - grid.shape[1], columns * wide - grid.shape[2]
    if below or right:
        grid = F.pad(grid, (0, 0, 0, right, 0, below))
    cells = grid.unflatten(2, (columns, wide)).unflatten(1, (rows, high))
    return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def cut(x: Tensor, tiling: Tiling, there: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(B, H W, C) -> (B, M, k, C), and which of them are valid patches: (B or 1, M, k), or None if all are."""
    shape = (tiling.height, tiling.width)
    patches = _windows(blank(x, there).unflatten(1, shape), tiling)
    full = patches.shape[1] * patches.shape[2] <= tiling.height * tiling.width
    if there is None and full:
        return patches, None
    if there is None:
        there = torch.ones((1, tiling.height * tiling.width), dtype=torch.bool, device=x.device)
    valid = _windows(there.unflatten(1, shape)[..., None].to(torch.uint8), tiling)[..., 0] != 0
    return patches, valid


def mean(patches: Tensor, valid: Tensor | None) -> Tensor:
    """(B, M, k, C) -> (B, M, C)"""
    if valid is None:
        return patches.mean(dim=2)
    count = valid.sum(dim=2, keepdim=True).clamp(min=1)
    return patches.sum(dim=2) / count.to(patches.dtype)


def attend(patches: Tensor, valid: Tensor | None, heads: int, q_proj: Layer, k_proj: Layer, v_proj: Layer) -> Tensor:
    """(B, M, k, C) -> (B, M, C), each window's heads side by side."""
    query = q_proj(mean(patches, valid)).unflatten(-1, (heads, -1))
    keys = k_proj(patches).unflatten(-1, (heads, -1))
    values = v_proj(patches).unflatten(-1, (heads, -1))
    scores = torch.einsum("bmhd,bmkhd->bmhk", query, keys) / math.sqrt(query.shape[-1])
    if valid is not None:
        empty = ~valid.any(dim=2, keepdim=True)  # the softmax would be 0/0: it gets the zeros of the padding
        scores = scores.masked_fill(~(valid | empty)[:, :, None, :], -math.inf)
    wide = torch.promote_types(scores.dtype, torch.float32)
    shares = scores.softmax(dim=-1, dtype=wide).to(values.dtype)
    return torch.einsum("bmhk,bmkhd->bmhd", shares, values).flatten(-2)


def drop_empty(y: Tensor, valid: Tensor | None) -> Tensor:
    """y with zeros for windows without a valid patch; valid is (B or 1, M, k)."""
    return blank(y, None if valid is None else valid.any(dim=2))
