# SPDX-License-Identifier: MIT
"""Parts of messages."""

from __future__ import annotations

from collections.abc import Iterable

_MOST = 8


def listed(names: Iterable[object]) -> str:
    """The first names, and how many more there are. Escapes characters that are not printable, as names come from
    files."""
    every = [str(name) for name in names]
    shown = [name if name.isprintable() else repr(name)[1:-1] for name in every[:_MOST]]
    return ", ".join(shown) + (f" and {len(every) - _MOST} more" if len(every) > _MOST else "")
