# SPDX-License-Identifier: MIT
"""The four connectors as anyone would write them in eager PyTorch, in any dtype: whose rounding error we judge ours by.

All windows of all images at once: gather by a window map, masked mean, scaled_dot_product_attention. Weights are a list
of nn.Linear in declaration order.
"""

import math

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
}

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def shapes(config, in_dim, out_dim):
    """(name, out, in) of the linear layers in declaration order."""
    kind = config["type"]
    if kind == "mlp_2layer":
        hidden = config.get("hidden_dim", 0) or out_dim
        return [("proj1", hidden, in_dim), ("proj2", out_dim, hidden)]
    if kind == "attentional_pool":
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        return [(name, in_dim, in_dim) for name in names] + [("out_proj", out_dim, in_dim)]
    return [("proj", out_dim, in_dim)]


def default_init(config, in_dim, out_dim, dtype, seed):
    """nn.Linear's own initialisation, in that dtype, one generator through all layers."""
    torch.manual_seed(seed)
    return [torch.nn.Linear(i, o, dtype=dtype) for _, o, i in shapes(config, in_dim, out_dim)]


def cast(layers, dtype):
    result = []
    for layer in layers:
        copy = torch.nn.Linear(layer.in_features, layer.out_features, dtype=dtype, device="meta").to_empty(device="cpu")
        copy.load_state_dict(layer.state_dict())
        result.append(copy)
    return result


def _attend(gathered, mean, valid, layers, heads):
    """(B M, k, C) patches, (B M, C) means, (B M, k) -> (B M, C)."""
    m, k, c = gathered.shape
    split = lambda t, n: t.view(m, n, heads, c // heads).transpose(1, 2)
    q, key, v = split(layers[0](mean), 1), split(layers[1](gathered), k), split(layers[2](gathered), k)
    mask = None if bool(valid.all()) else valid.view(m, 1, 1, k)
    return F.scaled_dot_product_attention(q, key, v, attn_mask=mask).transpose(1, 2).reshape(m, c)


def forward(config, layers, x, patch_mask, frame_mask, maps):
    """x (B, N, in) without the prefix tokens; masks are bool tensors -> (B, M, out) in x's dtype."""
    kind = config["type"]
    present = patch_mask & frame_mask[:, None]
    x = torch.where(present[..., None], x, 0)
    if kind == "mlp_2layer":
        y, alive = layers[1](ACTIVATIONS[config.get("activation", "gelu")](layers[0](x))), present
    elif kind == "linear":
        y, alive = layers[0](x), present
    else:
        k = max(len(window) for window in maps)
        index = torch.tensor([window + [-1] * (k - len(window)) for window in maps])
        valid = present[:, index.clamp(min=0)] & (index >= 0)  # (B, M, k)
        alive = valid.any(dim=-1)
        gathered = torch.where(valid[..., None], x[:, index.clamp(min=0)], 0)
        mean = gathered.sum(dim=2) / valid.sum(dim=-1, keepdim=True).clamp(min=1).to(x.dtype)
        if kind == "avgpool":
            y = layers[0](mean)
        else:
            b, m, _, c = gathered.shape
            safe = valid | ~alive[..., None]  # a window without a patch would be 0/0 in the softmax
            heads = config.get("pool_heads", 16)
            pooled = _attend(gathered.view(b * m, k, c), mean.view(b * m, c), safe.view(b * m, k), layers, heads)
            y = layers[4](layers[3](pooled)).view(b, m, -1)
    return torch.where(alive[..., None], y, 0)


def square(tokens):
    side = math.isqrt(tokens)
    return (side, side)
