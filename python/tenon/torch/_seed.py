# SPDX-License-Identifier: MIT
"""What the four connectors of KempnerForge's module have in common beyond every connector: their settings are
attributes and their layers submodules, all of which may be replaced after construction, by layers of other widths too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ._connector import Connector, VisionAdapter


class SeedConnector(Connector):
    """A connector whose widths are those of its layers."""

    def __init__(self) -> None:
        VisionAdapter.__init__(self)

    def _in_width(self) -> int | None:
        first = self._modules.get(next(part.name for part in self._parts if part.kind is nn.Linear))
        return first.in_features if type(first) is nn.Linear else None

    def _widths(self, parameters: Sequence[Tensor]) -> tuple[int, int] | None:
        first = next(parameter for parameter in parameters if parameter.dim() == 2)
        return first.shape[1], parameters[-1].shape[0]
