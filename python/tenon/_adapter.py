# SPDX-License-Identifier: MIT
"""Adapters: connectors with parameters."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tenon import _C
from tenon._config import Config, as_config
from tenon._text import listed


class LoadReport(NamedTuple):
    """What an adapter loaded from a file."""

    prefix: str
    """The prefix of the adapter's names in the file."""
    num_used: int
    """How many tensors were loaded."""
    num_unused: int
    """How many other tensors the file has."""


class Incompatible(NamedTuple):
    """Parameters that a state dict lacks, and names in it that are no parameters."""

    missing: list[str]
    unexpected: list[str]


def _to_numpy(array: _C.Array, dtype: Any = None) -> np.ndarray:
    """A NumPy array that shares the memory. bf16 becomes ml_dtypes.bfloat16, or is widened if `dtype` is another."""
    values = np.asarray(array)
    if array.dtype != "bf16":
        return values if dtype is None else values.astype(dtype)
    if dtype is not None and str(dtype) not in ("bfloat16", "bf16"):
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(dtype)
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise ValueError(
            "NumPy has no bfloat16; pass dtype='float32', or install the package ml_dtypes"
        ) from None
    return values.view(ml_dtypes.bfloat16)


class Adapter(_C.Adapter):
    """A connector: ``adapter(features)`` maps (batch, tokens, in_dim) to (batch, out_tokens, out_dim).

    :func:`build_adapter` and :func:`load` make adapters. A call takes an array on the CPU that has ``__dlpack__`` or
    the buffer protocol (NumPy, PyTorch, JAX; also read-only and strided) in float32, bfloat16 or float16, and returns
    an array of the same kind. Features (tokens, in_dim) are one image; the tokens are (out_tokens, out_dim) then. No
    gradients are computed: use ``tenon.torch`` for those. Several threads may call one adapter at the same time; the
    GIL is released while it computes.

    ``adapter(x, grids=grids)`` takes a packed batch: images of grids of their own, one row of ``grids`` an image,
    (height, width) or (time, height, width) in patches; x is (rows, in_dim), image after image, and so are the tokens,
    whose places :meth:`output_offsets` tells. ``inputs`` maps the names of further inputs and integer tensors of the
    connector to arrays: ``inputs={"tap.0": features_of_another_layer}``. A connector with several outputs
    (:attr:`outputs`) returns a dict of all by name, ``"tokens"`` first; ``out`` is then a mapping too.
    """

    def __new__(cls, config: Any, in_dim: int, out_dim: int) -> Adapter:
        return super().__new__(cls, as_config(config).to_json(), in_dim, out_dim)

    @property
    def config(self) -> Config:
        """The config, with all options of the type and their values."""
        return Config.from_json(self.config_json)

    @property
    def graph(self) -> dict[str, Any]:
        """What the connector computes: its inputs, outputs, spaces, values, layers and parameters.

        ``tenon_adapter_graph_json`` in ``tenon.h`` describes the fields. ``tenon inspect`` draws the graph of a file.
        """
        return json.loads(self.graph_json)

    def output_num_tokens(
        self, num_input_tokens: int, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> int:
        """The number of tokens that a call returns for each image."""
        return super().output_num_tokens(num_input_tokens, pool_window, grid)

    def output_offsets(
        self,
        num_input_tokens: int = 0,
        images: int | None = None,
        *,
        output: str = "tokens",
        pool_window: int | None = None,
        grid: tuple[int, int] | None = None,
        grids: Any = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Where each image's rows begin in an output of a call with these settings; the last number is the row count.

        With `grids` the images are theirs; else there are `images` of `num_input_tokens` tokens each.
        """
        if images is None:
            images = 1 if grids is None else len(grids)
        return super().output_offsets(output, images, num_input_tokens, pool_window, grid, grids, inputs)

    def flops(
        self, num_input_tokens: int, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> float:
        """Floating-point operations for one image (a multiply-add counts as two)."""
        return super().flops(num_input_tokens, pool_window, grid)

    def workspace_size(
        self, num_input_tokens: int, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> int:
        """Bytes of the workspace of a call. The adapter keeps it for the next call."""
        return super().workspace_size(num_input_tokens, pool_window, grid)

    def prepare(self, cpu: str | None = None, threads: int = 0, train: bool = False) -> None:
        """Packs the parameters for a CPU level; with `train` also for :meth:`backward`.

        A call packs them if this was not done, for the best level of the machine. The environment variable
        ``TENON_CPU`` limits the level.
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
        """The pooling weights (batch, out_tokens, heads, window ** 2), float32; 0 where a window has no patch.

        For one image (tokens, in_dim) they have no axis of the batch. The patches of a window are numbered row by row.
        Raises ValueError if the type has no attention.
        """
        return super().pooling_weights(x, pool_window, grid, patch_mask, frame_mask, threads)

    # ---- parameters ----

    def state_dict(self, dtype: Any = None) -> dict[str, np.ndarray]:
        """Copies of the parameters as NumPy arrays, under the names of the PyTorch module's state dict.

        For bfloat16 parameters, install the package ml_dtypes or pass a `dtype`.
        """
        return {name: _to_numpy(self.parameter(name), dtype) for name, *_ in self.parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, prefix: str = "") -> Incompatible:
        """Sets the parameters to copies of the arrays in `state`. After an exception none has changed.

        `prefix` is that of the adapter's names in `state`; names without it are ignored. With `strict`, raises
        NotFoundError if a parameter is missing or a name is no parameter.
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
        """Sets one parameter, given by name or number, to a copy of an array."""
        super().set_parameter(name, _C.copy(array, f"parameter {name!r}"))

    def reset_parameters(self, seed: int = 0, dtype: Any = "f32") -> None:
        """Initialises the parameters to the values that PyTorch draws after ``torch.manual_seed(seed)``, bit for bit.
        """
        super().reset_parameters(dtype, seed)

    @property
    def num_parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(int(np.prod(shape, dtype=np.int64)) for _, _, shape, _ in self.parameters())

    def load(  # type: ignore[override]  # _C's takes pairs
        self, path: str | os.PathLike[str], prefix: str | None = None, rename: Mapping[str, str] | None = None
    ) -> LoadReport:
        """Loads all parameters from safetensors: a file, an index of shards, or a folder.

        The names may have a prefix and the parts that DDP, FSDP and torch.compile insert; if several prefixes fit, pass
        `prefix`. `rename` maps names, or their beginnings up to a dot, before the search:
        ``{"mm.linear_1": "proj1"}``. After an exception no parameter has changed.
        """
        return LoadReport(*super().load(path, prefix, rename_pairs(rename)))

    def save(
        self, path: str | os.PathLike[str], prefix: str | None = None, allow_nonfinite: bool = False
    ) -> None:
        """Writes a safetensors file that describes itself, atomically; the mode of a file that it replaces is kept.

        `prefix` ("model.adapter.") stands in front of the tensors' names, and transformers can then load the file.
        ValueError: parameters are infinite or NaN, unless `allow_nonfinite`.
        """
        super().save(path, prefix, allow_nonfinite)

    def check_finite(self) -> None:
        """Raises ValueError, with the first and how many there are, when parameters are infinite or NaN."""
        super().check_finite()

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
    """Unpickles what Adapter.__reduce__ returned."""
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
    """Builds an adapter from a Config, a mapping, a type's name, or an object with `type` and `extra_kwargs()`.

    With a `seed` the parameters are initialised. Without one they take no memory until they are loaded, reset or set.
    """
    adapter = Adapter(config, in_dim, out_dim)
    if seed is not None:
        adapter.reset_parameters(seed, dtype)
    return adapter


def rename_pairs(rename: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    """The pairs that the C library takes."""
    if rename is None:
        return None
    if not isinstance(rename, Mapping):
        raise TypeError(f"rename is of type {type(rename).__name__}; expected a mapping of old names to new ones")
    return tuple(rename.items())


def _width(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is of type {type(value).__name__}; expected an integer") from None


def config_text(config: Any, in_dim: int | None, out_dim: int | None) -> str:
    """A config with what is known of the widths, as JSON; a mapping may hold them too."""
    widths = {"in_dim": in_dim, "out_dim": out_dim}
    if isinstance(config, Mapping):
        config = dict(config)
        for name in widths:
            own = config.pop(name, None)
            if widths[name] is None:
                widths[name] = own
    known = {name: _width(value, name) for name, value in widths.items() if value is not None}
    return json.dumps({**as_config(config).to_dict(), **known})


def load(
    path: str | os.PathLike[str],
    config: Any = None,
    in_dim: int | None = None,
    out_dim: int | None = None,
    prefix: str | None = None,
    rename: Mapping[str, str] | None = None,
    family: str | None = None,
    activation: str | None = None,
) -> Adapter:
    """Loads the adapter that a safetensors file, an index of shards, a folder or a GGUF mmproj file describes.

    A folder in Hugging Face's format (or a file or index beside a config.json) may be that of a whole model: its
    connector is found and its tensors alone are read. `Adapter.family` and `Adapter.feeding` say what it is and what the
    encoder must deliver; `family` names the family where config.json does not tell it. An mmproj file is such a model
    too: llama.cpp computes the tanh form of GELU, and so does its adapter, unless `activation` says what to compute
    instead ("gelu", with which most of these models were trained).

    For files that do not describe themselves `config` does. `in_dim`, `out_dim` and the config's hidden_dim are the
    tensors' where they are not given; a mapping may hold the widths too. `prefix` and `rename`: see
    :meth:`Adapter.load`.
    """
    text = None if config is None else config_text(config, in_dim, out_dim)
    adapter = Adapter.open(path, text, prefix, rename_pairs(rename), family, activation)
    for name, wanted in (("in_dim", in_dim), ("out_dim", out_dim)):
        if wanted is not None and _width(wanted, name) != getattr(adapter, name):
            raise ValueError(f"{os.fspath(path)} has {name} {getattr(adapter, name)}; expected {wanted}")
    return adapter
