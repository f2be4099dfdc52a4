# SPDX-License-Identifier: MIT
"""What a module should answer: the same connector in plain PyTorch, in float64, from the module's own parameters."""

import math

import reference
import torch
import torch.nn.functional as F
import torch_connectors

import tenon.torch as tt

TYPES = ("attentional_pool", "avgpool", "linear", "mlp_2layer")
POOLS = ("attentional_pool", "avgpool")


def build(kind, in_dim=8, out_dim=5, seed=0, **options):
    """A small connector of this type."""
    torch.manual_seed(seed)
    if kind == "attentional_pool":
        options.setdefault("pool_heads", 4)
    return tt.build_adapter(tt.AdapterConfig(type=kind, **options), in_dim, out_dim)


def features(batch=2, tokens=16, in_dim=8, seed=1, dtype=torch.float32):
    return torch.randn(batch, tokens, in_dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(config, parameters, x, window=None, grid=None, patch_mask=None, frame_mask=None):
    """`parameters` in declaration order; differentiable; float64 whatever comes in."""
    config = {key: value for key, value in vars(config).items() if value is not None}
    pairs = [p.double() for p in parameters]
    layers = [
        lambda t, weight=weight, bias=bias: F.linear(t, weight, bias)
        for weight, bias in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    x = x.double()[:, config["prefix_tokens"] :]
    batch, patches = x.shape[:2]
    everything = torch.ones(batch, patches, dtype=torch.bool)
    patch_mask = everything if patch_mask is None else patch_mask != 0
    frame_mask = everything[:, 0] if frame_mask is None else frame_mask != 0
    maps = None
    if config["type"] in POOLS:
        height, width = grid or (math.isqrt(patches),) * 2
        maps = reference.windows(height, width, window or config["pool_window"], config.get("ragged", "partial"))
    return torch_connectors.forward(config, layers, x, patch_mask, frame_mask, maps)


def agree(found, wanted, tolerance=1e-5):
    """In norm, each token or row by itself."""
    found, wanted = found.detach().double(), wanted.detach().double()
    assert found.shape == wanted.shape
    assert torch.equal(found.isnan(), wanted.isnan())
    error = (found - wanted).nan_to_num().norm(dim=-1)
    assert bool((error <= tolerance * (1 + wanted.nan_to_num().norm(dim=-1))).all()), float(error.max())
