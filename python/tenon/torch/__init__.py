# SPDX-License-Identifier: MIT
"""Connectors as PyTorch modules, with the interface of KempnerForge's adapter module.

    from tenon.torch import AdapterConfig, build_adapter

    adapter = build_adapter(AdapterConfig(type="avgpool", pool_window=3), in_dim=1152, out_dim=4096)
    tokens = adapter(features)  # (B, 729, 1152) -> (B, 81, 4096)

:class:`Connector` is a connector of any type of the library. The classes of KempnerForge's four types are connectors too.

Forward and backward run in the C library on CPUs in float32, bfloat16 and float16. On other devices and in other dtypes
the same modules run in plain PyTorch. docs/pytorch.md says when weights are packed.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("tenon.torch needs PyTorch: pip install 'tenon-vlm[torch]'", name="torch") from None

from tenon._counts import DIVISIBLE_ONLY_POOL_TYPES, POOLING_ADAPTER_TYPES, pooled_token_count

from ._config import AdapterConfig, build_adapter
from ._connector import Connector, VisionAdapter
from ._pools import AttentionalPoolAdapter, AvgPoolAdapter
from ._projections import LinearAdapter, MLP2LayerAdapter, QuickGELU
from ._registry import registry

__all__ = [
    "DIVISIBLE_ONLY_POOL_TYPES",
    "POOLING_ADAPTER_TYPES",
    "AdapterConfig",
    "AttentionalPoolAdapter",
    "AvgPoolAdapter",
    "Connector",
    "LinearAdapter",
    "MLP2LayerAdapter",
    "QuickGELU",
    "VisionAdapter",
    "build_adapter",
    "pooled_token_count",
    "registry",
]
