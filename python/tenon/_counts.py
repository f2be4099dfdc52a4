# SPDX-License-Identifier: MIT
"""Token arithmetic that needs no adapter, and what the registered types say of themselves."""

from __future__ import annotations

from tenon import _C

#: Types that pool the patch grid, those that take any grid first.
POOLING_ADAPTER_TYPES: tuple[str, ...] = tuple(
    sorted((name for name in _C.list_adapters() if _C.type_pools(name)), key=_C.type_needs_divisible)
)

#: Pooling types that refuse a grid which their window does not divide, unless their config says otherwise.
DIVISIBLE_ONLY_POOL_TYPES: tuple[str, ...] = tuple(name for name in POOLING_ADAPTER_TYPES if _C.type_needs_divisible(name))


def pooled_token_count(num_input_tokens: int, window: int, *, require_divisible: bool = False) -> int:
    """Tokens that a window x window pool makes of a square grid of patches: ceil(grid / window) ** 2.

    ValueError: a count or window that is not positive, a count that is no square, or, where `require_divisible`, a
    grid that the window does not divide.
    """
    return _C.pooled_token_count(num_input_tokens, window, require_divisible)


def pooled_grid_count(height: int, width: int, window: int, *, ragged: str = "partial") -> int:
    """The same on any grid. `ragged` says what becomes of windows that the grid does not fill: reject, partial, drop."""
    return _C.pooled_grid_count(height, width, window, ragged)


def tokens_per_frame(num_tokens: int, num_frames: int) -> int:
    """Tokens of one frame; ValueError, naming both numbers, when they do not divide."""
    return _C.tokens_per_frame(num_tokens, num_frames)


def sequence_length(num_frames: int, tokens_per_frame: int, max_text_len: int) -> int:
    """Length of a sequence of `num_frames` frames and `max_text_len` tokens of text."""
    return _C.sequence_length(num_frames, tokens_per_frame, max_text_len)


def cpu_levels() -> tuple[str, ...]:
    """CPU levels that this build has and this machine can run, lowest first."""
    return tuple(_C.cpu_levels().split(","))
