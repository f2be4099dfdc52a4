# SPDX-License-Identifier: MIT
"""The registry of connector types: the C library's own, with Python's functions in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tenon import _C

if TYPE_CHECKING:
    from tenon._adapter import Adapter

BuilderFunction = Callable[["_C.Builder"], None]


class Registry:
    """The one list of connector types; ``tenon.registry`` is its only instance."""

    def list_adapters(self) -> list[str]:
        """The names there are, sorted."""
        return _C.list_adapters()

    def get_adapter(self, name: str) -> Callable[..., Adapter]:
        """A function ``(in_dim, out_dim, **options)`` that builds an adapter of this type.

        NotFoundError, with the names there are: there is no such type.
        """
        from tenon._adapter import build_adapter

        _C.find_adapter(name)

        def build(in_dim: int, out_dim: int, **options: Any) -> Adapter:
            return build_adapter({"type": name, **options}, in_dim, out_dim)

        return build

    def register_adapter(self, name: str) -> Callable[[BuilderFunction], BuilderFunction]:
        """A decorator for a function that lists the layers of a connector, for the rest of the process::

            @tenon.registry.register_adapter("bottleneck")
            def bottleneck(builder):
                builder.linear("down", builder.option_int("rank", 64), bias=False)
                builder.activation("silu")
                builder.linear("up", builder.out_dim)

        The library calls it whenever it needs the list; it must always list the same. While tokens are only counted,
        the builder's widths are 0. ValueError: the name is taken.
        """

        def register(function: BuilderFunction) -> BuilderFunction:
            _C.register_adapter(name, function)
            return function

        return register

    def __contains__(self, name: object) -> bool:
        return name in _C.list_adapters()


registry = Registry()
