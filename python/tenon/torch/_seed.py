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
        first = self._modules.get(self._linears[0])
        return first.in_features if type(first) is nn.Linear else None

    def _widths(self, parameters: Sequence[Tensor]) -> tuple[int, int] | None:
        return parameters[0].shape[1], parameters[-1].shape[0]
