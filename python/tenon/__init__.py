# SPDX-License-Identifier: MIT
"""Connectors between vision encoders and language models: the C library tenon for NumPy arrays and any array with
DLPack.

A connector maps patch features (batch, tokens, in_dim) to tokens of a language model (batch, out_tokens, out_dim)::

    import numpy, tenon

    adapter = tenon.build_adapter(tenon.Config("avgpool", pool_window=3), 1152, 4096, seed=7)
    tokens = adapter(features)              # (batch, 81, 4096) out of (batch, 729, 1152)
    adapter.save("adapter.safetensors")
    adapter = tenon.load("adapter.safetensors")

``tenon.torch`` has the same connectors as PyTorch modules, ``tenon.convert`` reads and writes checkpoints of other
formats, ``tenon.plot`` draws pictures. Each must be imported by name and needs its packages only then.
"""

from tenon._adapter import Adapter, LoadReport, build_adapter, load
from tenon._C import Builder, NotFoundError
from tenon._C import build_info as build_info
from tenon._C import version as __version__
from tenon._config import Config
from tenon._counts import (
    DIVISIBLE_ONLY_POOL_TYPES,
    POOLING_ADAPTER_TYPES,
    FamilyModule,
    cpu_levels,
    families,
    family_modules,
    pooled_grid_count,
    pooled_token_count,
    sequence_length,
    tokens_per_frame,
)
from tenon._registry import Registry, registry

__all__ = [
    "DIVISIBLE_ONLY_POOL_TYPES",
    "POOLING_ADAPTER_TYPES",
    "Adapter",
    "Builder",
    "Config",
    "FamilyModule",
    "LoadReport",
    "NotFoundError",
    "Registry",
    "__version__",
    "build_adapter",
    "build_info",
    "cpu_levels",
    "families",
    "family_modules",
    "load",
    "pooled_grid_count",
    "pooled_token_count",
    "registry",
    "sequence_length",
    "tokens_per_frame",
]
