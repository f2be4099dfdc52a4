# SPDX-License-Identifier: MIT
"""Connectors that pool a grid of patches window by window."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tenon import _C
from tenon._config import to_json
from tenon._counts import pooled_token_count

from ._arguments import Grid, read_grid
from ._connector import Plainly, Reader, check_settings
from ._ops import Masks
from ._registry import registry
from ._seed import SeedConnector


class Pool(SeedConnector):
    """A connector that pools in windows. ``prefix_tokens`` is the number of leading tokens that are no patches.
    ``ragged`` is what to do with incomplete windows at the edge: "reject" refuses the grid, "partial" pools the patches
    they have, "drop" leaves them out.
    """

    def _build_pool(self, kind: str, in_dim: int, out_dim: int, **settings: Any) -> None:
        self.pool_window, self.ragged = settings["pool_window"], settings["ragged"]
        self._build(to_json({"type": kind, **settings}), in_dim, out_dim)

    def _overrides(self) -> dict[str, Any]:
        return {"ragged": self.ragged}

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
            grid = read_grid(grid)
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


class AvgPoolAdapter(Pool):
    """``proj`` of the mean of each ``pool_window`` x ``pool_window`` window. Windows at the edge average the patches
    they have."""

    def __init__(
        self, in_dim: int, out_dim: int, pool_window: int = 2, *, prefix_tokens: int = 0, ragged: str = "partial"
    ) -> None:
        super().__init__()
        if in_dim <= 0 or out_dim <= 0:
            raise ValueError("AvgPoolAdapter in_dim and out_dim must be positive")
        if pool_window <= 0:
            raise ValueError(f"AvgPoolAdapter pool_window must be positive (got {pool_window})")
        settings = {"pool_window": pool_window, "prefix_tokens": prefix_tokens, "ragged": ragged}
        self._build_pool("avgpool", in_dim, out_dim, **settings)

    def _config(self, read: Reader = Plainly) -> str:
        ragged, prefix_tokens = read.attribute(self, "ragged"), read.attribute(self, "prefix_tokens")
        return f'{{"type":"avgpool","ragged":"{ragged}","prefix_tokens":{prefix_tokens}}}'


class AttentionalPoolAdapter(Pool):
    """Multi-head attention inside each window (Molmo2): the query is the mean of the patches, keys and values are the
    patches; then ``o_proj`` and ``out_proj``. A grid that is not divisible by the window is refused unless ``ragged``
    allows it."""

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
        settings = {"pool_window": pool_window, "prefix_tokens": prefix_tokens, "ragged": ragged}
        self._build_pool("attentional_pool", in_dim, out_dim, pool_heads=pool_heads, **settings)

    def _overrides(self) -> dict[str, Any]:
        return {"ragged": self.ragged, "heads": self.pool_heads}

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
