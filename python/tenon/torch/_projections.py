# SPDX-License-Identifier: MIT
"""Connectors that keep the token count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tenon._config import to_json

from ._arguments import Grid, patches_left
from ._connector import Plainly, Reader, check_settings, is_bare
from ._graph import Layer
from ._layers import quick_gelu
from ._registry import registry
from ._seed import SeedConnector


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)"""

    def forward(self, x: Tensor) -> Tensor:
        return quick_gelu(x)


_ADAPTER_ACTIVATIONS: dict[str, Any] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
}


_NAMES: dict[type, str] = {nn.SiLU: "silu", nn.ReLU: "relu", QuickGELU: "quick_gelu"}


def _activation_name(module: nn.Module | None, read: Reader) -> str | None:
    """The library's name of an activation; None if it does not have it."""
    kind = read.type_of(module)
    if kind is nn.GELU:
        return "gelu" if read.attribute(module, "approximate") == "none" else "gelu_tanh"
    return _NAMES.get(kind)


class Projection(SeedConnector):
    """A connector that maps each patch by itself. ``prefix_tokens`` is the number of leading tokens that are no
    patches."""

    def output_num_tokens(self, num_input_tokens: int) -> int:
        """The number of tokens for an image of ``num_input_tokens`` tokens: as many, minus ``prefix_tokens``.

        A count that is not positive means "not known yet" and is returned. Raises ValueError if it is less than
        ``prefix_tokens``.
        """
        return patches_left(num_input_tokens, self.prefix_tokens) if num_input_tokens > 0 else num_input_tokens

    def _check_grid(self, tokens: int, window: int, grid: Grid | None) -> None:
        """Any number of patches will do."""

    def forward(self, x: Tensor, *, patch_mask: Tensor | None = None, frame_mask: Tensor | None = None) -> Tensor:
        """Maps ``(..., N, in_dim)`` to ``(..., N - prefix_tokens, out_dim)``.

        Patches that are 0 in ``patch_mask`` (B, N - prefix_tokens), and images that are 0 in ``frame_mask`` (B), are
        not read and give zero tokens. B is the product of the leading axes. The ``patch_mask`` of one image (N, in_dim)
        may have one axis.
        """
        if x.dim() == 3:
            return self._run(x, 0, None, (patch_mask, frame_mask))
        return self._run_reshaped(x, 0, None, (patch_mask, frame_mask))


class MLP2LayerAdapter(Projection):
    """``proj2(act(proj1(x)))``, the two-layer MLP of the LLaVA family.

    ``hidden_dim`` None or 0 is ``out_dim``; ``activation`` is "gelu" (the erf form), "silu", "relu", "gelu_tanh" or
    "quick_gelu"; ``pre_norm`` is "layernorm" or "rmsnorm" for a norm ``ln_q`` before ``proj1``, "" for none.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        activation: str = "gelu",
        *,
        prefix_tokens: int = 0,
        pre_norm: str = "",
    ) -> None:
        super().__init__()
        if in_dim <= 0 or out_dim <= 0:
            raise ValueError("MLP2LayerAdapter in_dim and out_dim must be positive")
        if activation not in _ADAPTER_ACTIVATIONS:
            raise ValueError(f"Unknown adapter activation: {activation!r}. Options: {list(_ADAPTER_ACTIVATIONS)}")
        hidden = hidden_dim if hidden_dim and hidden_dim > 0 else out_dim
        self.pre_norm = pre_norm
        settings = {"hidden_dim": hidden, "activation": activation, "prefix_tokens": prefix_tokens, "pre_norm": pre_norm}
        self._build(to_json({"type": "mlp_2layer", **settings}), in_dim, out_dim)

    def _add(self, layer: Layer) -> None:
        """The activation is a submodule too."""
        if layer.type == "activation":
            self.act = _ADAPTER_ACTIVATIONS[layer.settings["activation"]]()
        super()._add(layer)

    def _activation(self, name: str) -> Callable[[Tensor], Tensor]:
        return self.act

    def _config(self, read: Reader = Plainly) -> str:
        layers = read.attribute(self, "_modules")
        weight = read.item(read.attribute(read.item(layers, "proj1"), "_parameters"), "weight")
        name, prefix_tokens = _activation_name(read.item(layers, "act"), read), read.attribute(self, "prefix_tokens")
        hidden, norm = weight.shape[0], read.attribute(self, "pre_norm")
        head = f'{{"type":"mlp_2layer","hidden_dim":{hidden},"activation":"{name}","prefix_tokens":{prefix_tokens}'
        return f'{head},"pre_norm":"{norm}"}}' if norm else f"{head}}}"

    def _native_parameters(self, read: Reader) -> list[Tensor] | None:
        act = read.item(read.attribute(self, "_modules"), "act")
        if _activation_name(act, read) is None or not is_bare(act, read):
            return None
        return super()._native_parameters(read)


class LinearAdapter(Projection):
    """``proj(x)``: one linear layer, a baseline."""

    def __init__(self, in_dim: int, out_dim: int, *, prefix_tokens: int = 0) -> None:
        super().__init__()
        if in_dim <= 0 or out_dim <= 0:
            raise ValueError("LinearAdapter in_dim and out_dim must be positive")
        self._build(to_json({"type": "linear", "prefix_tokens": prefix_tokens}), in_dim, out_dim)

    def _config(self, read: Reader = Plainly) -> str:
        return f'{{"type":"linear","prefix_tokens":{read.attribute(self, "prefix_tokens")}}}'


@registry.register_adapter("mlp_2layer")
def _build_mlp_2layer(
    in_dim: int,
    out_dim: int,
    hidden_dim: int | None = None,
    activation: str = "gelu",
    prefix_tokens: int = 0,
    pre_norm: str | None = None,
    **others: Any,
) -> Projection:
    check_settings("mlp_2layer", others)
    settings = {} if pre_norm is None else {"pre_norm": pre_norm}
    return MLP2LayerAdapter(in_dim, out_dim, hidden_dim, activation, prefix_tokens=prefix_tokens, **settings)


@registry.register_adapter("linear")
def _build_linear(in_dim: int, out_dim: int, prefix_tokens: int = 0, **others: Any) -> Projection:
    check_settings("linear", others)
    return LinearAdapter(in_dim, out_dim, prefix_tokens=prefix_tokens)
