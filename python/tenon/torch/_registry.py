# SPDX-License-Identifier: MIT
"""The registry of module builders, with the interface of KempnerForge's."""

from __future__ import annotations

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
        if name not in builders:
            raise _C.NotFoundError(f"unknown {category}: {name!r}. Available: {', '.join(sorted(builders)) or 'none'}")
        return builders[name]

    def register_adapter(self, name: str) -> Callable[[Builder], Builder]:
        return self.register("adapter", name)

    def get_adapter(self, name: str) -> Builder:
        return self.get("adapter", name)

    def list_adapters(self) -> list[str]:
        return self.list("adapter")

    def list(self, category: str) -> list[str]:  # last: what follows would take `list` for this
        return sorted(self._builders.get(category, {}))


registry = Registry()
