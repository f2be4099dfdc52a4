"""Token counts. The rule is the C library's; nothing is counted a second time here."""

from __future__ import annotations

from tenon import _C

# What the layers of each registered type say. Those that take any grid come first.
POOLING_ADAPTER_TYPES: tuple[str, ...] = tuple(
    sorted(filter(_C.type_pools, _C.list_adapters()), key=lambda name: (_C.type_needs_divisible(name), name))
)
DIVISIBLE_ONLY_POOL_TYPES: tuple[str, ...] = tuple(filter(_C.type_needs_divisible, POOLING_ADAPTER_TYPES))


def pooled_token_count(num_input_tokens: int, window: int, *, require_divisible: bool = False) -> int:
    """Tokens that a ``window`` x ``window`` pool makes of a square grid of patches: ``ceil(grid / window) ** 2``.

    ValueError: a window or a count that is not positive, a count that is not a square, or, with
    ``require_divisible``, a window that does not divide the grid.
    """
    return _C.pooled_token_count(num_input_tokens, window, require_divisible)
