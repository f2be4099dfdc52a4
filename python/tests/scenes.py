# SPDX-License-Identifier: MIT
"""Random connectors and calls, and what they must give, by plain PyTorch in float64."""

import dataclasses

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from others import other

import tenon

torch, torch_connectors = other("torch"), other("torch_connectors")

NUMPY_DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
ACTIVATIONS = ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
BOUND = {"f32": 2e-6, "f16": 6e-4, "bf16": 5e-3}  # rounding of the tokens' own dtype, a few units at most


@dataclasses.dataclass
class Scene:
    config: dict
    in_dim: int
    out_dim: int
    batch: int
    grid: tuple
    pool_window: int | None
    x_dtype: str
    parameter_dtype: str
    y_dtype: str
    masked: str
    seed: int

    @property
    def tokens(self):
        return self.grid[0] * self.grid[1] + self.config.get("prefix_tokens", 0)

    def adapter(self):
        return tenon.build_adapter(self.config, self.in_dim, self.out_dim, seed=self.seed, dtype=self.parameter_dtype)

    def features(self):
        rng = np.random.default_rng(self.seed)
        return rng.standard_normal((self.batch, self.tokens, self.in_dim)).astype(NUMPY_DTYPES[self.x_dtype])

    def masks(self):
        rng = np.random.default_rng(self.seed + 1)
        patch = rng.random((self.batch, self.grid[0] * self.grid[1])) < 0.6 if "patch" in self.masked else None
        frame = rng.random(self.batch) < 0.6 if "frame" in self.masked else None
        return {"patch_mask": patch, "frame_mask": frame}

    def call(self):
        return {"pool_window": self.pool_window, "grid": self.grid, **self.masks()}

    def expected(self, adapter, x):
        """float64, (batch, out_tokens, out_dim)."""
        if self.batch == 0:  # PyTorch cannot reshape nothing
            return np.zeros((0, adapter.output_num_tokens(self.tokens, pool_window=self.pool_window, grid=self.grid), self.out_dim))
        state = adapter.state_dict("float64")
        names = dict.fromkeys(name.rpartition(".")[0] for name in state)
        layers = []
        for name in names:
            weight, bias = torch.tensor(state[f"{name}.weight"]), torch.tensor(state[f"{name}.bias"])
            layer = torch.nn.Linear(*weight.shape[::-1], dtype=torch.float64)
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers.append(layer)
        masks = self.masks()
        patches = self.grid[0] * self.grid[1]
        patch = np.ones((self.batch, patches), bool) if masks["patch_mask"] is None else masks["patch_mask"]
        frame = np.ones(self.batch, bool) if masks["frame_mask"] is None else masks["frame_mask"]
        features = torch.tensor(x.astype(np.float64)[:, self.config.get("prefix_tokens", 0) :])
        with torch.no_grad():
            y = torch_connectors.forward(
                self.config, layers, features, torch.tensor(patch), torch.tensor(frame), self.maps()
            )
        return y.numpy()

    def maps(self):
        window = self.pool_window or self.config.get("pool_window", 2)
        height, width = self.grid
        drop = self.config.get("ragged") == "drop"
        rows = range(0, height - window + 1 if drop else height, window)
        columns = range(0, width - window + 1 if drop else width, window)
        return [
            [y * width + x for y in range(r, min(r + window, height)) for x in range(c, min(c + window, width))]
            for r in rows
            for c in columns
        ]


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(["linear", "mlp_2layer", "avgpool", "attentional_pool"]))
    config = {"type": kind}
    if draw(st.booleans()):
        config["prefix_tokens"] = draw(st.integers(1, 3))
    if kind == "mlp_2layer":
        config["hidden_dim"] = draw(st.integers(0, 20))
        config["activation"] = draw(st.sampled_from(ACTIVATIONS))
    if kind in tenon.POOLING_ADAPTER_TYPES:
        config["pool_window"] = draw(st.integers(1, 3))
        config["ragged"] = draw(st.sampled_from(["partial", "drop"]))
    if kind == "attentional_pool":
        config["pool_heads"] = draw(st.sampled_from([1, 2, 4]))
    return config


@st.composite
def scenes(draw):
    config = draw(configs())
    heads = config.get("pool_heads", 1)
    pools = "pool_window" in config
    override = draw(st.none() | st.integers(1, 3)) if pools else None
    least = (override or config["pool_window"]) if config.get("ragged") == "drop" else 1
    return Scene(
        config=config,
        in_dim=heads * draw(st.integers(1, 40 // heads)),
        out_dim=draw(st.integers(1, 40)),
        batch=draw(st.integers(0, 3)),
        grid=(draw(st.integers(least, 7)), draw(st.integers(least, 7))),
        pool_window=override,
        x_dtype=draw(st.sampled_from(list(NUMPY_DTYPES))),
        parameter_dtype=draw(st.sampled_from(list(NUMPY_DTYPES))),
        y_dtype=draw(st.sampled_from(list(NUMPY_DTYPES))),
        masked=draw(st.sampled_from(["", "patch", "frame", "patch and frame"])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def assert_close(y, expected, dtype):
    """Token by token, relative to the token's own size; exact zeros stay exact."""
    assert y.shape == expected.shape
    found = y.astype(np.float64)
    size = np.linalg.norm(expected, axis=-1)
    error = np.linalg.norm(found - expected, axis=-1)
    assert (error <= BOUND[dtype] * np.maximum(size, 1e-3)).all(), (error / np.maximum(size, 1e-3)).max()
    assert (found[size == 0] == 0).all()
