# SPDX-License-Identifier: MIT
"""Connectors that pool a grid of patches window by window."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from tenon import _C
from tenon._counts import pooled_token_count

from . import _plain
from ._connector import Connector, Grid, Masks, Plainly, Reader, check_settings
from ._plain import Layer
from ._registry import registry


def _read_grid(grid: Any) -> Grid:
    """Checks a grid as the library does. Inside this package (0, 0) means a square."""
    try:
        height, width = map(operator.index, grid)
    except (TypeError, ValueError):
        raise TypeError(f"grid is {grid!r}; expected a pair (rows, columns) of integers") from None
    if height <= 0 or width <= 0:
        raise ValueError(f"grid {height}x{width}: height and width must be positive")
    return height, width


class Pool(Connector):
    """A connector that pools in windows. ``prefix_tokens`` is the number of leading tokens that are no patches.
    ``ragged`` is what to do with incomplete windows at the edge: "reject" refuses the grid, "partial" pools the patches
    they have, "drop" leaves them out.
    """

    def _setup_pool(self, in_dim: int, out_dim: int, pool_window: int, prefix_tokens: int, ragged: str) -> None:
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.pool_window = pool_window
        self.ragged = ragged
        self._setup(prefix_tokens)

    def output_num_tokens(
        self, num_input_tokens: int, pool_window: int | None = None, *, grid: Grid | None = None
    ) -> int:
        """The number of tokens that ``forward`` returns for an image of ``num_input_tokens`` tokens.

        Raises ValueError if no grid is given and the patches are no square, and if the grid is ragged and refused.
        """
        window = self.pool_window if pool_window is None else pool_window
        if num_input_tokens <= 0 or window <= 0:
            return pooled_token_count(num_input_tokens, window)  # which says what is wrong
        return _C.config_output_num_tokens(self._config(), num_input_tokens, window, grid)

    def forward(
        self,
        x: Tensor,
        pool_window: int | None = None,
        *,
        grid: Grid | None = None,
        patch_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        """Maps ``(B, N, in_dim)`` to ``(B, M, out_dim)``, or one image ``(N, in_dim)`` to ``(M, out_dim)``. The patches
        lie row by row on ``grid`` (height, width), by default a square. ``pool_window`` replaces the module's for this
        call.

        Patches that are 0 in ``patch_mask`` (B, N - prefix_tokens), and images that are 0 in ``frame_mask`` (B), are
        not read. A window without valid patches gives a zero token. The ``patch_mask`` of one image may have one axis.
        """
        window = self.pool_window if pool_window is None else pool_window
        if window <= 0:
            raise ValueError(f"pool_window must be positive (got {window})")
        if grid is not None:
            grid = _read_grid(grid)
        run = self._run if x.dim() == 3 else self._run_image
        try:
            return run(x, window, grid, (patch_mask, frame_mask))
        except ValueError:
            if grid is None and 2 <= x.dim() <= 3:
                self._refuse_square(x.shape[-2], window)
            raise

    def _run_image(self, x: Tensor, window: int, grid: Grid | None, masks: Masks) -> Tensor:
        """One image, x (N, in_dim) -> (M, out_dim)."""
        if x.dim() != 2:
            try:
                _, _, _ = x.shape  # fails with the sentence of KempnerForge's module
            except ValueError as error:
                expected = "(batch, tokens, in_dim), frames and crops in the batch, or one image (tokens, in_dim)"
                raise ValueError(f"{error}: x is {tuple(x.shape)}; expected {expected}") from None
        return self._run_reshaped(x, window, grid, masks)

    def _refuse_square(self, tokens: int, window: int) -> None:
        """Raises the type's own sentence, if it has one, for a grid that the library has refused. Called afterwards, so
        that it costs valid calls nothing."""

    def _tiling(self, tokens: int, window: int, grid: Grid | None) -> _plain.Tiling:
        """The windows of a call, after the library's checks."""
        if not is_compiling():
            self.output_num_tokens(tokens, window, grid=grid)
        height, width = grid or (math.isqrt(tokens - self.prefix_tokens),) * 2
        return _plain.Tiling(height, width, window, self.ragged == "drop")

    def _plain(self, layers: Sequence[Layer], x: Tensor, window: int, grid: Grid | None, masks: Masks) -> Tensor:
        tiling = self._tiling(x.shape[1], window, grid)
        x = _plain.without_prefix(x, self.prefix_tokens)
        patches, valid = _plain.cut(x, tiling, _plain.present(x, *masks))
        return _plain.drop_empty(self._pool(layers, patches, valid), valid)

    def _pool(self, layers: Sequence[Layer], patches: Tensor, valid: Tensor | None) -> Tensor:
        """patches (B, M, k, C), valid (B or 1, M, k) or None -> (B, M, out_dim)"""
        raise NotImplementedError


class AvgPoolAdapter(Pool):
    """``proj`` of the mean of each ``pool_window`` x ``pool_window`` window. Windows at the edge average the patches
    they have."""

    _type = "avgpool"
    _linears = ("proj",)

    def __init__(
        self, in_dim: int, out_dim: int, pool_window: int = 2, *, prefix_tokens: int = 0, ragged: str = "partial"
    ) -> None:
        super().__init__()
        if in_dim <= 0 or out_dim <= 0:
            raise ValueError("AvgPoolAdapter in_dim and out_dim must be positive")
        if pool_window <= 0:
            raise ValueError(f"AvgPoolAdapter pool_window must be positive (got {pool_window})")
        self.proj = nn.Linear(in_dim, out_dim)
        self._setup_pool(in_dim, out_dim, pool_window, prefix_tokens, ragged)

    def _config(self, read: Reader = Plainly) -> str:
        ragged, prefix_tokens = read.attribute(self, "ragged"), read.attribute(self, "prefix_tokens")
        return f'{{"type":"avgpool","ragged":"{ragged}","prefix_tokens":{prefix_tokens}}}'

    def _pool(self, layers: Sequence[Layer], patches: Tensor, valid: Tensor | None) -> Tensor:
        (proj,) = layers
        return proj(_plain.mean(patches, valid))


class AttentionalPoolAdapter(Pool):
    """Multi-head attention inside each window (Molmo2): the query is the mean of the patches, keys and values are the
    patches; then ``o_proj`` and ``out_proj``. A grid that is not divisible by the window is refused unless ``ragged``
    allows it."""

    _type = "attentional_pool"
    _linears = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        pool_window: int = 2,
        pool_heads: int = 16,
        *,
        prefix_tokens: int = 0,
        ragged: str = "reject",
    ) -> None:
        super().__init__()
        if in_dim <= 0 or out_dim <= 0:
            raise ValueError("AttentionalPoolAdapter in_dim and out_dim must be positive")
        if pool_window <= 0:
            raise ValueError(f"AttentionalPoolAdapter pool_window must be positive (got {pool_window})")
        if pool_heads <= 0:
            raise ValueError(f"AttentionalPoolAdapter pool_heads must be positive (got {pool_heads})")
        if in_dim % pool_heads != 0:
            raise ValueError(f"AttentionalPoolAdapter in_dim ({in_dim}) must be divisible by pool_heads ({pool_heads})")
        self.pool_heads = pool_heads
        self.head_dim = in_dim // pool_heads
        self.q_proj = nn.Linear(in_dim, in_dim)
        self.k_proj = nn.Linear(in_dim, in_dim)
        self.v_proj = nn.Linear(in_dim, in_dim)
        self.o_proj = nn.Linear(in_dim, in_dim)
        self.out_proj = nn.Linear(in_dim, out_dim)
        self._setup_pool(in_dim, out_dim, pool_window, prefix_tokens, ragged)

    def _config(self, read: Reader = Plainly) -> str:
        heads, ragged = read.attribute(self, "pool_heads"), read.attribute(self, "ragged")
        prefix_tokens = read.attribute(self, "prefix_tokens")
        return f'{{"type":"attentional_pool","pool_heads":{heads},"ragged":"{ragged}","prefix_tokens":{prefix_tokens}}}'

    def _refuse_square(self, tokens: int, window: int) -> None:
        patches = max(tokens - self.prefix_tokens, 0)
        side = math.isqrt(patches)
        if self.ragged == "reject" and side * side == patches and side % window != 0:
            raise ValueError(
                f"attentional_pool v1 requires the patch grid ({side}x{side}) be divisible by the pool window "
                f"({window}); ragged edge windows are not yet supported. Use avgpool for ragged grids, or pick a "
                "divisible window. Or set ragged to 'partial'."
            ) from None

    def _pool(self, layers: Sequence[Layer], patches: Tensor, valid: Tensor | None) -> Tensor:
        q_proj, k_proj, v_proj, o_proj, out_proj = layers
        return out_proj(o_proj(_plain.attend(patches, valid, self.pool_heads, q_proj, k_proj, v_proj)))


@registry.register_adapter("avgpool")
def _build_avgpool(in_dim: int, out_dim: int, pool_window: int = 2, **settings: Any) -> Pool:
    check_settings("avgpool", settings)
    return AvgPoolAdapter(in_dim, out_dim, pool_window, **_set(settings))


@registry.register_adapter("attentional_pool")
def _build_attentional_pool(
    in_dim: int, out_dim: int, pool_window: int = 2, pool_heads: int = 16, **settings: Any
) -> Pool:
    check_settings("attentional_pool", settings)
    return AttentionalPoolAdapter(in_dim, out_dim, pool_window, pool_heads, **_set(settings))


def _set(settings: dict[str, Any]) -> dict[str, Any]:
    """The other fields of a config that a pool uses, if they are set."""
    return {name: settings[name] for name in ("prefix_tokens", "ragged") if settings.get(name) is not None}
