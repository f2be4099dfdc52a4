# SPDX-License-Identifier: MIT
"""What is measured: the rows of the tables and their bars."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Connector:
    """One row: a connector, its widths and its input. `bar` is the largest passing quotient of our time and the best
    peer's; `flops` is what the connector needs (a multiply-add is two), attention in its absorbed, folded form."""

    kind: str
    batch: int
    tokens: int
    in_dim: int
    out_dim: int
    bar: float = 0.0
    window: int = 0
    heads: int = 16
    dtype: str = "f32"  # of the weights
    features: str = "f32"

    @property
    def title(self) -> str:
        kind = f"{self.kind} w{self.window}" if self.window else self.kind
        return f"{kind} {self.batch}x{self.tokens}x{self.in_dim} -> {self.out_dim}{self._storage}"

    @property
    def _storage(self) -> str:
        return "" if self.dtype == "f32" else f", {self.dtype}"

    @property
    def out_tokens(self) -> int:
        return self.tokens // self.window**2 if self.window else self.tokens

    @property
    def layers(self) -> list[tuple[str, int, int]]:
        """(name, out, in) of the linear layers in declaration order."""
        c, d = self.in_dim, self.out_dim
        if self.kind == "mlp_2layer":
            return [("proj1", d, c), ("proj2", d, d)]
        if self.kind == "attentional_pool":
            return [(name, c, c) for name in ("q_proj", "k_proj", "v_proj", "o_proj")] + [("out_proj", d, c)]
        return [("proj", d, c)]

    @property
    def flops(self) -> float:
        rows, c, d = self.batch * self.out_tokens, self.in_dim, self.out_dim
        if self.kind == "mlp_2layer":
            return 2.0 * rows * d * (c + d)
        if self.kind == "linear":
            return 2.0 * rows * d * c
        patches = self.batch * self.tokens
        if self.kind == "avgpool":
            return 2.0 * rows * d * c + patches * c
        # per token q, q W_k and W_v (C C each), the folded output (C D); per patch heads scores and weighted sums of
        # length C, and the mean
        return 2.0 * rows * (3 * c * c + c * d) + patches * c * (4.0 * self.heads + 1)

    @property
    def fold_flops(self) -> float:
        """What prepare spends on o_proj and out_proj becoming one."""
        if self.kind != "attentional_pool":
            return 0.0
        return 2.0 * self.out_dim * self.in_dim * self.in_dim

    @property
    def weight_elements(self) -> int:
        return sum(out * (fan_in + 1) for _, out, fan_in in self.layers)

    @property
    def bytes(self) -> float:
        """Features, weights and tokens, each once."""
        size = {"f32": 4, "bf16": 2, "f16": 2}
        x = self.batch * self.tokens * self.in_dim * size[self.features]
        y = self.batch * self.out_tokens * self.out_dim * 4
        return float(x + y + self.weight_elements * size[self.dtype])

    def fields(self) -> dict[str, object]:
        """As a contender's `prepare` takes it."""
        pool = {"window": self.window} if self.window else {}
        heads = {"heads": self.heads} if self.kind == "attentional_pool" else {}
        return {
            "type": self.kind,
            "in": self.in_dim,
            "out": self.out_dim,
            "tokens": self.tokens,
            "batch": self.batch,
            "dtype": self.dtype,
            "features": self.features,
            **pool,
            **heads,
        }

    def stored(self, dtype: str) -> Connector:
        return replace(self, dtype=dtype, features=dtype)


CONNECTORS = (
    Connector("mlp_2layer", 1, 576, 1024, 4096, 0.88),
    Connector("mlp_2layer", 1, 196, 768, 4096, 0.88),
    Connector("linear", 1, 576, 1024, 4096, 0.85),
    Connector("avgpool", 8, 196, 768, 1024, 0.75, window=2),
    Connector("avgpool", 8, 729, 1152, 4096, 0.82, window=3),
    Connector("attentional_pool", 8, 729, 1152, 4096, 0.30, window=3),
    Connector("attentional_pool", 1, 196, 768, 4096, 0.50, window=2),
)
# Peers that run bf16 on any CPU: PyTorch eager.
CONNECTOR_BF16 = Connector("mlp_2layer", 1, 576, 1024, 4096, 0.13, dtype="bf16", features="bf16")
# Forward and backward: gradients of all weights and of the features.
TRAINING = (
    Connector("mlp_2layer", 1, 576, 1024, 4096, 0.90),
    Connector("avgpool", 8, 729, 1152, 4096, 0.85, window=3),
    Connector("attentional_pool", 8, 729, 1152, 4096, 0.40, window=3),
)
NEAR_TRAINING_LIMIT = 1.15
# A row this close to its limit passes whatever the peers do.
NEAR_LIMIT = 1.12
# Half-width storage may cost that much of our own f32 time.
STORAGE_BAR = 1.05


@dataclass(frozen=True)
class Product:
    """Y = X W^T + b: X (m, k), W (n, k)."""

    m: int
    n: int
    k: int

    @property
    def title(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def copies(self) -> int:
        """Sets of weights that are used in turn: at a few rows memory is what is measured, not a cache."""
        return max(2, round(384e6 / (4.0 * self.n * self.k))) if self.is_skinny else 1

    @property
    def is_skinny(self) -> bool:
        return self.m <= 4

    def fields(self) -> dict[str, object]:
        return {"m": self.m, "n": self.n, "k": self.k, "copies": self.copies}


PRODUCTS = tuple(
    Product(*shape)
    for shape in (
        (576, 4096, 1024),
        (576, 4096, 4096),
        (729, 1152, 1152),
        (648, 4096, 1152),
        (196, 4096, 768),
        (81, 4096, 1152),
        (49, 4096, 768),
        (49, 1024, 768),
        (1, 4096, 4096),
        (4, 4096, 4096),
    )
)
PRODUCT_BAR = 0.99  # times faster than the best library, each shape
PRODUCT_MEAN_BAR = 1.12  # geometric mean
PEAK_BAR = 0.90  # share of the FMA peak
PEAK_SHAPES = ("576x4096x4096", "648x4096x1152")  # the two largest
READ_BAR = 0.85  # share of plain reads, one to four rows
# Relative error of the worst token against float64: f32 results, and results rounded to bf16 somewhere on the way.
TOLERANCE = {"f32": 1e-5, "bf16": 3e-2}
