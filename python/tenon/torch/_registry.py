# SPDX-License-Identifier: MIT
"""The registry of module builders, with the interface of KempnerForge's. Every type of the library is in it too: what
has no builder of its own here is built as a :class:`Connector`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tenon import _C

Builder = Callable[..., Any]


class Registry:
    """Builders by category and name."""

    def __init__(self) -> None:
        self._builders: dict[str, dict[str, Builder]] = {}

    def register(self, category: str, name: str) -> Callable[[Builder], Builder]:
        """A decorator that registers a builder. Raises ValueError if the name is taken."""

        def add(builder: Builder) -> Builder:
            builders = self._builders.setdefault(category, {})
            if name in builders:
                raise ValueError(f"{category}/{name} is already registered")
            builders[name] = builder
            return builder

        return add

    def get(self, category: str, name: str) -> Builder:
        """The builder of that name. Raises NotFoundError, a KeyError, with the registered names if there is none."""
        builders = self._builders.get(category, {})
        if name in builders:
            return builders[name]
        if category == "adapter" and name in _C.list_adapters():
            return functools.partial(_build, name)
        raise _C.NotFoundError(f"unknown {category}: {name!r}. Available: {', '.join(self.names(category)) or 'none'}")

    def names(self, category: str) -> tuple[str, ...]:
        """What is there, for messages: builders of this registry, then the other types of the library."""
        own = sorted(self._builders.get(category, {}))
        library = _C.list_adapters() if category == "adapter" else []
        return (*own, *(name for name in library if name not in own))

    def register_adapter(self, name: str) -> Callable[[Builder], Builder]:
        return self.register("adapter", name)

    def get_adapter(self, name: str) -> Builder:
        return self.get("adapter", name)

    def list_adapters(self) -> list[str]:
        return self.list("adapter")

    def list(self, category: str) -> list[str]:  # last: what follows would take `list` for this
        return sorted(self.names(category))


def _build(kind: str, in_dim: int, out_dim: int, **settings: Any) -> Any:
    """A connector of a type of the library. None: a setting is not given."""
    from ._connector import Connector

    given = {name: value for name, value in settings.items() if value is not None}
    return Connector({"type": kind, **given}, in_dim, out_dim)


registry = Registry()
