# SPDX-License-Identifier: MIT
"""The ``[adapter]`` table of a training config, and the module that it asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from tenon import _C

from ._connector import VisionAdapter
from ._registry import registry


@dataclass
class AdapterConfig:
    """Which connector, and its settings; a field that the type does not use is carried and ignored.

    ``hidden_dim`` 0 is the output width. ``prefix_tokens`` leading tokens (CLS, registers) are no patches. ``ragged`` says what
    becomes of windows that the grid does not fill: "reject", "partial" or "drop"; None is the type's own choice.
    ValueError when a field is wrong.
    """

    type: str = "mlp_2layer"
    hidden_dim: int = 0
    activation: str = "gelu"
    pool_window: int = 2
    pool_heads: int = 16
    prefix_tokens: int = 0
    ragged: str | None = None

    def __post_init__(self) -> None:
        names = registry.list_adapters()
        if self.type not in names:
            raise ValueError(f"Unknown adapter type: {self.type!r}. Options: {', '.join(names)}")
        _C.check_config(self._json())

    def _is_native(self) -> bool:
        return self.type in _C.list_adapters()

    def _json(self) -> str:
        """What the library reads; the type of a builder of the user's own stays here."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self._is_native():
            del options["type"]
        return json.dumps({name: value for name, value in options.items() if value is not None})

    def extra_kwargs(self) -> dict[str, Any]:
        """What the builder gets beside the widths: every field, the two that came later only where they are set."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "type"}
        if found["prefix_tokens"] == 0:
            del found["prefix_tokens"]
        if found["ragged"] is None:
            del found["ragged"]
        return found

    def output_num_tokens(self, num_input_tokens: int) -> int:
        """What the built adapter answers; a count that is not positive means "not known yet" and passes through."""
        if num_input_tokens <= 0 or not self._is_native():
            return num_input_tokens
        return _C.config_output_num_tokens(self._json(), num_input_tokens, None, None)


def build_adapter(adapter_config: Any, in_dim: int, out_dim: int) -> VisionAdapter:
    """The module that ``adapter_config`` asks for: any object with ``type`` and ``extra_kwargs()``.

    It maps ``(B, N, in_dim)`` to ``(B, M, out_dim)`` with ``M == adapter.output_num_tokens(N)``. KeyError when nobody
    registered the type.
    """
    builder = registry.get_adapter(adapter_config.type)
    return builder(in_dim=in_dim, out_dim=out_dim, **adapter_config.extra_kwargs())
