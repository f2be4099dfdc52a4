# SPDX-License-Identifier: MIT
"""The ``[adapter]`` table of a training config, and the module that is built from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tenon import _C
from tenon._config import to_json

from ._connector import VisionAdapter
from ._errors import OptionError
from ._registry import registry


@dataclass
class AdapterConfig:
    """The type of a connector and its settings. Fields that the type does not use are ignored, except ``ragged``.

    ``hidden_dim`` 0 is the output width. ``prefix_tokens`` is the number of leading tokens (CLS, registers) that are no
    patches. ``ragged`` is what to do with incomplete windows at the edge: "reject", "partial" or "drop"; None is the
    type's default. Raises ValueError for a wrong value, an unknown field and an unknown type.
    """

    type: str = "mlp_2layer"
    hidden_dim: int = 0
    activation: str = "gelu"
    pool_window: int = 2
    pool_heads: int = 16
    prefix_tokens: int = 0
    ragged: str | None = None

    def __new__(cls, *args: Any, **settings: Any) -> AdapterConfig:
        """Refuses unknown fields as the library refuses unknown options, before the dataclass does."""
        known = [field.name for field in fields(AdapterConfig)]
        unknown = [name for name in settings if name not in known]
        if unknown and cls is AdapterConfig:
            kind = settings.get("type", args[0] if args else cls.type)
            _check_type(kind)
            raise OptionError(_refusal(kind, settings, unknown, known))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        _check_type(self.type)
        _C.check_config(self._json())

    def _is_native(self) -> bool:
        return self.type in _C.list_adapters()

    def _json(self) -> str:
        """The fields as the library's JSON. A type of the user's is replaced by a type that has every field."""
        options = {field.name: getattr(self, field.name) for field in fields(AdapterConfig)}
        return to_json(options if self._is_native() else options | {"type": "avgpool"})

    def extra_kwargs(self) -> dict[str, Any]:
        """The arguments of the builder besides the widths. The two newer fields are there only if they are set."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "type"}
        if found["prefix_tokens"] == 0:
            del found["prefix_tokens"]
        if found["ragged"] is None:
            del found["ragged"]
        return found

    def output_num_tokens(self, num_input_tokens: int) -> int:
        """The token count of the built adapter. A count that is not positive means "not known yet" and is returned."""
        if num_input_tokens <= 0 or not self._is_native():
            return num_input_tokens
        return _C.config_output_num_tokens(self._json(), num_input_tokens, None, None)


def _check_type(kind: Any) -> None:
    names = registry.names("adapter")
    if kind not in names:
        raise _C.NotFoundError(f"Unknown adapter type: {kind!r}. Options: {', '.join(names)}")


def _refusal(kind: Any, settings: dict[str, Any], unknown: list[str], known: list[str]) -> str:
    """Why the settings are refused; the library's sentence, if it has the type."""
    if kind in _C.list_adapters():
        try:
            _C.check_config(to_json({**settings, "type": kind}))
        except ValueError as error:
            return str(error)
    return f"AdapterConfig has no field {unknown[0]!r}; it has {', '.join(known)}"


def build_adapter(adapter_config: Any, in_dim: int, out_dim: int) -> VisionAdapter:
    """Builds the module for ``adapter_config``, an object with ``type`` and ``extra_kwargs()``.

    It maps ``(B, N, in_dim)`` to ``(B, M, out_dim)`` with ``M == adapter.output_num_tokens(N)``. Raises NotFoundError,
    a KeyError, if the type is not registered.
    """
    builder = registry.get_adapter(adapter_config.type)
    return builder(in_dim=in_dim, out_dim=out_dim, **adapter_config.extra_kwargs())
