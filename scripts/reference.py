# SPDX-License-Identifier: MIT
"""The four connectors in float64, straight from their maths, window by window (NumPy only).

    linear            y = x W^T + b
    mlp_2layer        y = act(x W1^T + b1) W2^T + b2
    avgpool           y = mean(window) W^T + b
    attentional_pool  y = (o Wo^T + bo) Wout^T + bout;  per head o_h = sum_j a_j v_hj,
                      a = softmax_j(q_h . k_hj / sqrt(d)), q from the window's mean, k and v from its patches

Masked patches leave mean and softmax; a token that reads no patch, and every token of a masked frame, is zero.
Weights are a list of (W, b) in declaration order, W (out, in).
"""

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
}


def windows(height, width, window, ragged):
    """Lists of patch numbers, one list a window, row-major; ragged is "partial" or "drop"."""
    whole = ragged == "drop"
    rows = height // window if whole else -(-height // window)
    columns = width // window if whole else -(-width // window)
    result = []
    for i in range(rows):
        for j in range(columns):
            result.append(
                [
                    y * width + x
                    for y in range(i * window, min((i + 1) * window, height))
                    for x in range(j * window, min((j + 1) * window, width))
                ]
            )
    return result


def linear(x, layer):
    return x @ layer[0].T + layer[1]


def _attend(patches, weights, heads):
    """One window: (n, C) patches -> (C) pooled, before o_proj."""
    channels = patches.shape[1]
    size = channels // heads
    query = linear(patches.mean(axis=0), weights[0])
    keys, values = linear(patches, weights[1]), linear(patches, weights[2])
    out = np.empty(channels)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        score = keys[:, part] @ query[part] / math.sqrt(size)
        share = np.exp(score - score.max())
        out[part] = (share / share.sum()) @ values[:, part]
    return out


def _pool(kind, patches, present, maps, weights, heads):
    """(N, C) -> pooled (M, C) and which of the windows have a patch."""
    pooled = np.zeros((len(maps), patches.shape[1]))
    alive = np.zeros(len(maps), bool)
    for m, window in enumerate(maps):
        chosen = patches[[p for p in window if present[p]]]
        alive[m] = len(chosen) > 0
        if alive[m]:
            pooled[m] = chosen.mean(axis=0) if kind == "avgpool" else _attend(chosen, weights, heads)
    return pooled, alive


def image(config, weights, patches, present, maps):
    """(N, in) patches of one image, prefix_tokens already gone -> (M, out)."""
    kind = config["type"]
    if kind in ("linear", "mlp_2layer"):
        rows, alive = patches[present], present
    else:
        rows, alive = _pool(kind, patches, present, maps, weights, config.get("pool_heads", 16))
        rows = rows[alive]
    if kind == "mlp_2layer":
        rows = linear(ACTIVATIONS[config.get("activation", "gelu")](linear(rows, weights[0])), weights[1])
    elif kind == "attentional_pool":
        rows = linear(linear(rows, weights[3]), weights[4])
    else:
        rows = linear(rows, weights[0])
    out = np.zeros((len(alive), rows.shape[1]))
    out[alive] = rows
    return out
