# SPDX-License-Identifier: MIT
"""The registry of connector types: that of the C library, to which Python functions can be added."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tenon import _C

if TYPE_CHECKING:
    from tenon._adapter import Adapter

BuilderFunction = Callable[["_C.Builder"], None]


class Registry:
    """The list of connector types. ``tenon.registry`` is the only instance."""

    def list_adapters(self) -> list[str]:
        """The registered names, sorted."""
        return _C.list_adapters()

    def get_adapter(self, name: str) -> Callable[..., Adapter]:
        """A function ``(in_dim, out_dim, **options)`` that builds an adapter of this type.

        Raises NotFoundError, with the registered names, if there is no such type.
        """
        from tenon._adapter import build_adapter

        _C.find_adapter(name)

        def build(in_dim: int, out_dim: int, **options: Any) -> Adapter:
            return build_adapter({"type": name, **options}, in_dim, out_dim)

        return build

    def register_adapter(self, name: str) -> Callable[[BuilderFunction], BuilderFunction]:
        """A decorator that registers a function which lists the layers of a connector, for the rest of the process::

            @tenon.registry.register_adapter("bottleneck")
            def bottleneck(builder):
                builder.linear("down", builder.option_int("rank", 64), bias=False)
                builder.activation("silu")
                builder.linear("up", builder.out_dim)

        The library calls the function whenever it needs the list, which must always be the same. The widths of the
        builder are 0 when only tokens are counted or options are checked. Raises ValueError if the name is taken.
        """

        def register(function: BuilderFunction) -> BuilderFunction:
            _C.register_adapter(name, function)
            return function

        return register

    def __contains__(self, name: object) -> bool:
        return name in _C.list_adapters()


registry = Registry()
