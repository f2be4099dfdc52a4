# SPDX-License-Identifier: MIT
"""Weights, features and float64 references; the twin of bench/workers/inputs.h, bit for bit."""

from __future__ import annotations

import math
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import counter_rng  # noqa: E402

from .cases import Connector, Product  # noqa: E402

SEED_FEATURES, SEED_TOKEN_GRADIENTS, SEED_PARAMETERS = 1, 2, 100


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that the storage type can hold, rounded to nearest even."""
    if dtype == "f32":
        return array
    if dtype == "f16":
        return array.astype(np.float16).astype(np.float32)
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _drawn(seed: int, shape: tuple[int, ...], fan_in: int, dtype: str) -> np.ndarray:
    scale = np.float32(1.0 / math.sqrt(fan_in))
    return rounded(counter_rng.array(seed, shape) * scale, dtype)


def parameters(case: Connector) -> dict[str, np.ndarray]:
    """float32 arrays of the values that the case's dtype holds, in declaration order."""
    result = {}
    for number, (name, out, fan_in) in enumerate(case.layers):
        seed = SEED_PARAMETERS + 2 * number
        result[f"{name}.weight"] = _drawn(seed, (out, fan_in), fan_in, case.dtype)
        result[f"{name}.bias"] = _drawn(seed + 1, (out,), fan_in, case.dtype)
    return result


def features(case: Connector) -> np.ndarray:
    return rounded(counter_rng.array(SEED_FEATURES, (case.batch, case.tokens, case.in_dim)), case.features)


def token_gradients(case: Connector) -> np.ndarray:
    """What backward starts from, (B, M, out)."""
    return counter_rng.array(SEED_TOKEN_GRADIENTS, (case.batch, case.out_tokens, case.out_dim))


def split_gradients(flat: np.ndarray, case: Connector) -> dict[str, np.ndarray]:
    """A step's output by name: the features' gradient, then the parameters'."""
    sizes = {"x": case.batch * case.tokens * case.in_dim}
    for name, out, fan_in in case.layers:
        sizes |= {f"{name}.weight": out * fan_in, f"{name}.bias": out}
    if flat.size != sum(sizes.values()):
        raise ValueError(f"{flat.size} numbers, expected {sum(sizes.values())}")
    ends = np.cumsum(list(sizes.values()))
    return {name: flat[end - size : end] for (name, size), end in zip(sizes.items(), ends, strict=True)}


_ERF = np.frompyfunc(math.erf, 1, 1)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1.0 + _ERF(x / math.sqrt(2.0)).astype(np.float64))


def windows(x: np.ndarray, window: int) -> np.ndarray:
    """(B, N, C) -> (B, M, window^2, C), for grids that the window divides."""
    b, n, c = x.shape
    grid = math.isqrt(n)
    per = grid // window
    cut = x.reshape(b, per, window, per, window, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(b, per * per, window * window, c)


def _attend(pooled: np.ndarray, p: dict[str, np.ndarray], heads: int) -> np.ndarray:
    b, m, k, c = pooled.shape
    rows = pooled.reshape(b * m, k, c)
    q = rows.mean(axis=1) @ p["q_proj.weight"].T + p["q_proj.bias"]
    keys = rows @ p["k_proj.weight"].T + p["k_proj.bias"]
    values = rows @ p["v_proj.weight"].T + p["v_proj.bias"]
    d = c // heads
    scores = np.einsum("rhd,rjhd->rhj", q.reshape(-1, heads, d), keys.reshape(-1, k, heads, d)) / math.sqrt(d)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("rhj,rjhd->rhd", weights, values.reshape(-1, k, heads, d)).reshape(b, m, c)


def reference(case: Connector) -> np.ndarray:
    """The tokens in float64, (B, M, out)."""
    p = {name: array.astype(np.float64) for name, array in parameters(case).items()}
    x = features(case).astype(np.float64)
    if case.kind == "mlp_2layer":
        return gelu(x @ p["proj1.weight"].T + p["proj1.bias"]) @ p["proj2.weight"].T + p["proj2.bias"]
    if case.kind == "linear":
        return x @ p["proj.weight"].T + p["proj.bias"]
    if case.kind == "avgpool":
        return windows(x, case.window).mean(axis=2) @ p["proj.weight"].T + p["proj.bias"]
    pooled = _attend(windows(x, case.window), p, case.heads)
    joined = pooled @ p["o_proj.weight"].T + p["o_proj.bias"]
    return joined @ p["out_proj.weight"].T + p["out_proj.bias"]


def product_reference(shape: Product, dtype: str = "f32") -> tuple[np.ndarray, np.ndarray]:
    """X W^T in float64, (m, n), and the bias."""
    x = counter_rng.array(SEED_FEATURES, (shape.m, shape.k)).astype(np.float64)
    w = _drawn(SEED_PARAMETERS, (shape.n, shape.k), shape.k, dtype).astype(np.float64)
    return x @ w.T, _drawn(SEED_PARAMETERS + 1, (shape.n,), shape.k, "f32").astype(np.float64)


def worst_token(y: np.ndarray, ref: np.ndarray) -> float:
    """Largest ||y - ref|| / ||ref|| of a token (the last axis); infinite where y is not finite."""
    width = ref.shape[-1]
    y, ref = np.asarray(y, dtype=np.float64).reshape(-1, width), ref.reshape(-1, width)
    error = np.linalg.norm(y - ref, axis=-1) / np.linalg.norm(ref, axis=-1)
    return float(error.max()) if np.isfinite(error).all() else math.inf
