# SPDX-License-Identifier: MIT
"""The cases of tests/golden: what is run. make_golden.py runs them."""


def case(
    name, kind, dims, grid, batch=1, *, features="f32", weights="f32", call=None, masked=None, frames=None, **more
):
    """dims (in, out); grid (height, width), or a count of tokens for connectors without one. `masked` is the share of
    masked patches, or a set of (image, patch); `frames` a string of 0 and 1. What is left over: fields of the config,
    and `inputs` ("value" or "outlier") and `scale`."""
    how = {key: more.pop(key) for key in ("inputs", "scale") if key in more}
    return {
        "name": name,
        "config": {"type": kind, **more},
        "dims": dims,
        "grid": grid,
        "batch": batch,
        "features": features,
        "weights": weights,
        "call": call or {},
        "masked": masked,
        "frames": frames,
        "inputs": how.get("inputs", "value"),
        "scale": how.get("scale", 1.0),
    }


def _projections():
    yield case("linear", "linear", (33, 17), 5, 2)
    yield case("linear-one", "linear", (1, 1), 1)
    yield case("linear-prefix", "linear", (20, 24), 10, prefix_tokens=1)
    yield case("linear-bf16", "linear", (65, 30), 4, features="bf16", weights="bf16")
    yield case("linear-f16", "linear", (65, 30), 4, features="f16", weights="f16")
    yield case("linear-f16-f32", "linear", (65, 30), 4, features="f16")
    yield case("linear-f32-bf16", "linear", (65, 30), 4, weights="bf16")
    yield case("linear-bf16-f16", "linear", (65, 30), 4, features="bf16", weights="f16")
    yield case("linear-masks", "linear", (20, 24), 6, 3, masked=0.4, frames="101")
    yield case("linear-outliers", "linear", (130, 19), 7, inputs="outlier")
    yield case("linear-long", "linear", (1501, 9), 6, inputs="outlier")
    for activation in ("gelu", "silu", "relu", "gelu_tanh", "quick_gelu"):
        name = activation.replace("_", "-")
        yield case(f"mlp-{name}", "mlp_2layer", (20, 24), 9, hidden_dim=40, activation=activation)
        yield case(f"mlp-{name}-tails", "mlp_2layer", (20, 24), 9, inputs="outlier", scale=4.0, activation=activation)
    yield case("mlp-default", "mlp_2layer", (33, 17), 4, 2)
    yield case("mlp-narrow", "mlp_2layer", (33, 17), 4, hidden_dim=1)
    yield case("mlp-bf16", "mlp_2layer", (48, 32), 9, hidden_dim=72, features="bf16", weights="bf16")
    yield case("mlp-f16", "mlp_2layer", (48, 32), 9, hidden_dim=72, features="f16", weights="f16", activation="silu")
    yield case("mlp-bf16-f32", "mlp_2layer", (48, 32), 9, features="bf16")
    masks = {"masked": 0.3, "frames": "011"}
    yield case("mlp-masks-prefix", "mlp_2layer", (20, 24), 13, 3, prefix_tokens=4, activation="relu", **masks)


def _pools(kind, short, heads):
    def pool(name, *arguments, **more):
        extra = {"pool_heads": heads} if kind == "attentional_pool" else {}
        return case(f"{short}-{name}", kind, *arguments, **{**extra, **more})

    dims = (24, 20)
    reject = kind == "attentional_pool"
    partial = {"ragged": "partial"} if reject else {}
    for window in (1, 2, 3):
        yield pool(f"w{window}", dims, (6, 6), pool_window=window)
    yield pool("default", (48, 20), (4, 4), 2, **({"pool_heads": 16} if reject else {}))
    yield pool("w2-ragged", dims, (3, 3), 2, pool_window=2, **partial)
    yield pool("w3-ragged", dims, (7, 7), pool_window=3, **partial)
    yield pool("w5-larger", dims, (3, 3), pool_window=5, **partial)
    yield pool("w4-larger-wide", dims, (2, 7), pool_window=4, **partial)
    yield pool("one-patch", dims, (1, 1), pool_window=2, **partial)
    yield pool("wide", dims, (2, 6), 2, pool_window=2)
    yield pool("tall-ragged", dims, (7, 5), pool_window=3, **partial)
    yield pool("drop", dims, (7, 5), 2, pool_window=3, ragged="drop")
    yield pool("drop-whole", dims, (4, 4), pool_window=2, ragged="drop")
    yield pool("override", dims, (6, 6), pool_window=2, call={"pool_window": 3})
    yield pool("override-ragged", dims, (5, 5), pool_window=5, call={"pool_window": 2}, **partial)
    yield pool("prefix", dims, (4, 4), 2, pool_window=2, prefix_tokens=1)
    yield pool("prefix-wide", dims, (2, 4), 2, pool_window=2, prefix_tokens=5)
    yield pool("mask", dims, (6, 6), 2, pool_window=3, masked=0.5)
    whole = {(1, patch) for patch in (0, 1, 4, 5)}
    yield pool("mask-whole-window", dims, (4, 4), 2, pool_window=2, masked=whole | {(0, 3)})
    yield pool("mask-ragged-prefix", dims, (5, 6), 3, pool_window=4, prefix_tokens=2, masked=0.6, frames="110", **partial)
    yield pool("mask-drop", dims, (5, 5), 2, pool_window=2, masked=0.5, ragged="drop")
    yield pool("frames", dims, (4, 4), 5, pool_window=4, frames="01011")
    yield pool("outliers", dims, (6, 6), pool_window=2, inputs="outlier", scale=0.5)
    yield pool("bf16", (48, 32), (6, 6), pool_window=3, features="bf16", weights="bf16")
    yield pool("f16", (48, 32), (6, 6), pool_window=3, features="f16", weights="f16")
    yield pool("f16-bf16", (48, 32), (4, 4), pool_window=2, features="f16", weights="bf16")
    yield pool("bf16-mask-ragged", (48, 32), (5, 5), pool_window=3, features="bf16", masked=0.4, **partial)


def small():
    yield from _projections()
    yield from _pools("avgpool", "avgpool", None)
    yield from _pools("attentional_pool", "attention", 4)
    for heads in (1, 2, 3, 8, 24):
        yield case(f"attention-h{heads}", "attentional_pool", (24, 20), (4, 4), pool_heads=heads, scale=8.0)
    # Nearly one-hot, and no near tie among its scores: where two scores of thousands differ by about one, float32
    # leaves every form of the attention an error past 1e-6, and whether ours or PyTorch's is larger is luck.
    yield case("attention-sharp", "attentional_pool", (24, 20), (4, 6), pool_heads=4, scale=32.0, inputs="outlier")
    yield case("attention-odd", "attentional_pool", (35, 11), (6, 9), pool_heads=5, pool_window=3)


# The small cases whose gradients are stored too.
GRADIENTS = (
    ("linear", "linear-prefix", "linear-bf16", "linear-masks", "mlp-gelu", "mlp-silu", "mlp-relu", "mlp-gelu-tanh")
    + ("mlp-quick-gelu", "mlp-f16", "mlp-masks-prefix", "avgpool-w2", "avgpool-w3-ragged", "avgpool-drop")
    + ("avgpool-override", "avgpool-mask-ragged-prefix", "avgpool-bf16-mask-ragged", "attention-w3", "attention-w2-ragged")
    + ("attention-w5-larger", "attention-drop", "attention-override-ragged", "attention-prefix-wide", "attention-f16")
    + ("attention-mask-whole-window", "attention-mask-ragged-prefix", "attention-h1", "attention-h24", "attention-odd")
)


# name, in_dim, grid side, window: SigLIP-base, CLIP-L/14-336, SigLIP-so400m/14-384.
REAL = (("768", 768, 14, 2), ("1024", 1024, 24, 2), ("1152", 1152, 27, 3))


def real():
    for name, width, side, window in REAL:
        grid = (side, side)
        yield case(f"linear-{name}", "linear", (width, 4096), side * side)
        yield case(f"mlp-{name}", "mlp_2layer", (width, 4096), side * side)
        yield case(f"avgpool-{name}", "avgpool", (width, 4096), grid, pool_window=window)
        yield case(f"attention-{name}", "attentional_pool", (width, 4096), grid, pool_window=window, pool_heads=16)
    half = {"features": "bf16", "weights": "bf16"}
    yield case("mlp-1152-bf16", "mlp_2layer", (1152, 4096), 729, inputs="outlier", **half)
    yield case("attention-1152-bf16", "attentional_pool", (1152, 4096), (27, 27), pool_window=3, pool_heads=16, **half)


# config, in_dim, out_dim: awkward sizes, the last ones large enough for values that round onto the upper bound.
INIT = (
    ({"type": "linear"}, 5, 3),
    ({"type": "linear"}, 1, 1),
    ({"type": "linear"}, 61, 67),
    ({"type": "mlp_2layer", "hidden_dim": 3}, 5, 7),
    ({"type": "mlp_2layer"}, 37, 53),
    ({"type": "avgpool"}, 19, 23),
    ({"type": "attentional_pool", "pool_heads": 3}, 12, 5),
    ({"type": "attentional_pool", "pool_heads": 4}, 36, 29),
)
INIT_SEEDS = (0, 7, 2**32 + 7, 123456789)
