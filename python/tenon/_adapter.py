# SPDX-License-Identifier: MIT
"""Adapters: connectors with parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tenon import _C
from tenon._config import Config, as_config
from tenon._text import listed


class LoadReport(NamedTuple):
    """What a file had for an adapter."""

    prefix: str
    """In front of the adapter's own names."""
    num_used: int
    """Tensors that the adapter took."""
    num_unused: int
    """The file's other tensors."""


class Incompatible(NamedTuple):
    """Names that a state dict lacks, and names that the adapter has no parameter for."""

    missing: list[str]
    unexpected: list[str]


def _to_numpy(array: _C.Array, dtype: Any = None) -> np.ndarray:
    """Our memory as a NumPy array; bf16 as ml_dtypes has it, or widened where another dtype is asked for."""
    values = np.asarray(array)
    if array.dtype != "bf16":
        return values if dtype is None else values.astype(dtype)
    if dtype is not None and str(dtype) not in ("bfloat16", "bf16"):
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(dtype)
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise ValueError(
            "NumPy has no bfloat16 of its own; ask for dtype='float32', or install the package ml_dtypes"
        ) from None
    return values.view(ml_dtypes.bfloat16)


class Adapter(_C.Adapter):
    """A connector: ``adapter(features)`` maps (batch, tokens, in_dim) to (batch, out_tokens, out_dim).

    Made by :func:`build_adapter` and :func:`load`. A call takes any array on the CPU that has ``__dlpack__`` or the
    buffer protocol (NumPy, PyTorch, JAX; read-only and strided ones too) in float32, bfloat16 or float16, and returns
    an array of the same kind. Nothing is differentiated: that is ``tenon.torch``. Threads may call one adapter at once;
    the GIL is given back while it computes.
    """

    def __new__(cls, config: Any, in_dim: int, out_dim: int) -> Adapter:
        return super().__new__(cls, as_config(config).to_json(), in_dim, out_dim)

    @property
    def config(self) -> Config:
        """The config, with the options that the type's builder read."""
        return Config.from_json(self.config_json)

    def output_num_tokens(
        self, num_input_tokens: int, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> int:
        """Tokens per image, exactly as many as a call makes."""
        return super().output_num_tokens(num_input_tokens, pool_window, grid)

    def flops(
        self, num_input_tokens: int, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> float:
        """Floating-point operations of one image (a multiply-add is two)."""
        return super().flops(num_input_tokens, pool_window, grid)

    def workspace_size(
        self, num_input_tokens: int, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> int:
        """Bytes that a call works in; they stay with the adapter for the next call."""
        return super().workspace_size(num_input_tokens, pool_window, grid)

    def prepare(self, cpu: str | None = None, threads: int = 0, train: bool = False) -> None:
        """Packs the parameters, with `train` for :meth:`backward` too.

        Calls do it themselves where it was not done, with the best level of the machine. ``TENON_CPU`` caps it.
        """
        super().prepare(cpu, threads, train)

    def attention(
        self,
        x: Any,
        *,
        pool_window: int | None = None,
        grid: tuple[int, int] | None = None,
        patch_mask: Any = None,
        frame_mask: Any = None,
        threads: int = 0,
    ) -> Any:
        """The pooling weights (batch, out_tokens, heads, window ** 2), float32, 0 for patches that are not there; of one
        image (tokens, in_dim) without the axis of the batch.

        The patches of a window are numbered row by row. ValueError: the type has no attention.
        """
        return super().pooling_weights(x, pool_window, grid, patch_mask, frame_mask, threads)

    # ---- parameters ----

    def state_dict(self, dtype: Any = None) -> dict[str, np.ndarray]:
        """Copies of the parameters, as NumPy arrays under the names that PyTorch's module has for them.

        bfloat16 needs the package ml_dtypes, or a `dtype` to be widened to.
        """
        return {name: _to_numpy(self.parameter(name), dtype) for name, *_ in self.parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, prefix: str = "") -> Incompatible:
        """Sets parameters to copies of `state`'s arrays, all of them or, after an exception, none.

        NotFoundError, if `strict`: a parameter is missing, or a name belongs to no parameter. `prefix` stands in front
        of the adapter's names; names without it are ignored.
        """
        wanted = {name: tuple(shape) for name, _, shape, _ in self.parameters()}
        given = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        lacking = Incompatible([n for n in wanted if n not in given], [n for n in given if n not in wanted])
        if strict and (lacking.missing or lacking.unexpected):
            raise _C.NotFoundError(_sentence(lacking, wanted))
        arrays = {name: _C.copy(given[name], f"parameter '{name}'") for name in wanted if name in given}
        for name, array in arrays.items():
            if array.shape != wanted[name]:
                raise ValueError(f"parameter '{name}' has shape {array.shape}; expected {wanted[name]}")
        for name, array in arrays.items():
            super().set_parameter(name, array)
        return lacking

    def set_parameter(self, name: str | int, array: Any) -> None:  # type: ignore[override]  # _C's borrows the array
        """Sets one parameter to a copy of an array."""
        super().set_parameter(name, _C.copy(array, f"parameter {name!r}"))

    def reset_parameters(self, seed: int = 0, dtype: Any = "f32") -> None:
        """Draws every parameter as PyTorch does after ``torch.manual_seed(seed)``, bit for bit."""
        super().reset_parameters(dtype, seed)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters are."""
        return sum(int(np.prod(shape, dtype=np.int64)) for _, _, shape, _ in self.parameters())

    def load(self, path: str | os.PathLike[str], prefix: str | None = None) -> LoadReport:
        """Reads every parameter from safetensors: a file, an index of shards, or a folder of one.

        Names may have any one prefix; `prefix` chooses where there are several. After an exception the parameters are
        what they were.
        """
        return LoadReport(*super().load(path, prefix))

    # ---- the object itself ----

    def __reduce__(self) -> tuple[Any, ...]:
        tensors = [
            (name, dtype, shape, np.asarray(self.parameter(name)).tobytes()) if has_storage else (name, None, None, None)
            for name, dtype, shape, has_storage in self.parameters()
        ]
        return _rebuild, (type(self), self.config_json, self.in_dim, self.out_dim, tensors)

    def __repr__(self) -> str:
        state = self.dtype or "without parameters"
        prepared = f", prepared for {self.cpu}" if self.cpu else ""
        return f"<tenon.Adapter {self.config.type} {self.in_dim} -> {self.out_dim}, {state}{prepared}>"


def _sentence(lacking: Incompatible, wanted: Iterable[str]) -> str:
    parts = []
    if lacking.missing:
        parts.append(f"missing: {listed(lacking.missing)}")
    if lacking.unexpected:
        parts.append(f"unexpected: {listed(lacking.unexpected)}")
    return f"{'; '.join(parts)}; the adapter has {', '.join(wanted)}"


def _rebuild(
    cls: type[Adapter], config_json: str, in_dim: int, out_dim: int, tensors: list[tuple[Any, ...]]
) -> Adapter:
    """The other half of Adapter.__reduce__."""
    made = cls(Config.from_json(config_json), in_dim, out_dim)
    codes = {"f32": _C.F32, "bf16": _C.BF16, "f16": _C.F16}
    for name, dtype, shape, data in tensors:
        if data is not None:
            values = np.frombuffer(data, np.uint8)
            _C.Adapter.set_parameter(made, name, (values.ctypes.data, codes[dtype], shape, None), values)
    return made


def build_adapter(
    config: Any, in_dim: int, out_dim: int, *, seed: int | None = None, dtype: Any = "f32"
) -> Adapter:
    """An adapter of this config: a Config, a mapping, a type's name, or an object with `type` and `extra_kwargs()`.

    With a seed its parameters are drawn; without one it has none until it loads, resets or is given some, and takes no
    memory.
    """
    adapter = Adapter(config, in_dim, out_dim)
    if seed is not None:
        adapter.reset_parameters(seed, dtype)
    return adapter


def load(
    path: str | os.PathLike[str],
    config: Any = None,
    in_dim: int | None = None,
    out_dim: int | None = None,
    prefix: str | None = None,
) -> Adapter:
    """The adapter that a safetensors file (an index of shards, a folder) describes, loaded.

    For files that do not describe themselves, `config`, `in_dim` and `out_dim` do; a mapping may hold the widths too.
    """
    text = None
    if isinstance(config, Mapping):
        config = dict(config)
        own_in, own_out = config.pop("in_dim", None), config.pop("out_dim", None)
        in_dim = own_in if in_dim is None else in_dim
        out_dim = own_out if out_dim is None else out_dim
    if config is not None:
        if in_dim is None or out_dim is None:
            raise TypeError("load: a config needs in_dim and out_dim beside it")
        text = json.dumps({**as_config(config).to_dict(), "in_dim": in_dim, "out_dim": out_dim})
    return Adapter.open(path, text, prefix)
