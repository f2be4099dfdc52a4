# SPDX-License-Identifier: MIT
"""Token counts without an adapter, and properties of the registered types."""

from __future__ import annotations

from typing import NamedTuple

from tenon import _C

_SEED_TYPES = ("attentional_pool", "avgpool", "linear", "mlp_2layer")

#: Types of KempnerForge's adapter module that pool the patch grid. Those that accept any grid come first.
POOLING_ADAPTER_TYPES: tuple[str, ...] = tuple(
    sorted((name for name in _SEED_TYPES if _C.type_pools(name)), key=_C.type_needs_divisible)
)

#: Pooling types that refuse a grid that is not divisible by the window, unless their config allows it.
DIVISIBLE_ONLY_POOL_TYPES: tuple[str, ...] = tuple(name for name in POOLING_ADAPTER_TYPES if _C.type_needs_divisible(name))


def pooled_token_count(num_input_tokens: int, window: int, *, require_divisible: bool = False) -> int:
    """The number of tokens of a square grid pooled in windows of window x window patches: ceil(grid / window) ** 2.

    Raises ValueError if the count or the window is not positive, if the count is not a square, or, with
    `require_divisible`, if the grid is not divisible by the window.
    """
    return _C.pooled_token_count(num_input_tokens, window, require_divisible)


def pooled_grid_count(height: int, width: int, window: int, *, ragged: str = "partial") -> int:
    """The same for any grid. `ragged` is what to do with incomplete windows at the edge: reject, partial or drop."""
    return _C.pooled_grid_count(height, width, window, ragged)


def tokens_per_frame(num_tokens: int, num_frames: int) -> int:
    """Tokens of one frame. Raises ValueError if `num_tokens` is not divisible by `num_frames`."""
    return _C.tokens_per_frame(num_tokens, num_frames)


def sequence_length(num_frames: int, tokens_per_frame: int, max_text_len: int) -> int:
    """Length of a sequence of `num_frames` frames and `max_text_len` text tokens."""
    return _C.sequence_length(num_frames, tokens_per_frame, max_text_len)


def cpu_levels() -> tuple[str, ...]:
    """The CPU levels of this build that this machine supports, lowest first."""
    return tuple(_C.cpu_levels().split(","))


def families() -> tuple[str, ...]:
    """The families of public models whose folders :func:`tenon.load` takes."""
    return tuple(_C.list_families())


class FamilyModule(NamedTuple):
    """A module of a family's class in transformers that computes a part of the connector."""

    path: str
    """The end of its path in the model; ``{i}`` stands for each number."""
    arguments: str
    """Of its forward: ``"image_features, image_sizes"``."""
    first: str
    """The layer of the connector that it begins with, by the name of its parameters; empty: the first."""
    last: str
    """The layer that it ends with, the activation behind it included; empty: the last."""


def family_modules(family: str) -> tuple[FamilyModule, ...]:
    """What of the connector each module of the model's class computes. Raises NotFoundError for an unknown family."""
    if family not in families():
        raise _C.NotFoundError(f"there is no family {family!r}; the families are {', '.join(families())}")
    return tuple(FamilyModule(*row) for row in _C.family_modules(family))
