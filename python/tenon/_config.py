# SPDX-License-Identifier: MIT
"""A connector's type and settings."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tenon import _C
from tenon._text import listed

_SEED_FIELDS = ("hidden_dim", "activation", "pool_window", "pool_heads")


def _plain(value: Any) -> Any:
    """The value as a type that JSON has; NumPy's scalars become Python's, sequences and arrays lists."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) > 0:
        return [_plain(item) for item in value]
    try:
        return operator.index(value)
    except TypeError:
        return float(value) if hasattr(value, "__float__") else value


def to_json(settings: Mapping[str, Any]) -> str:
    """The settings as JSON."""
    try:
        return json.dumps({name: _plain(value) for name, value in settings.items()})
    except TypeError as error:
        raise TypeError(
            f"a config holds integers, real numbers, strings, booleans and lists of integers: {error}"
        ) from None


class Config:
    """A connector's type and settings. The constructor checks the values, and that the type has these options.

    Every config has `type`, `hidden_dim` (0: the output width), `activation`, `pool_window`, `pool_heads`,
    `prefix_tokens` (the number of leading tokens, CLS and registers, that are no patches) and `ragged` (``"reject"``,
    ``"partial"``, ``"drop"``; unset: the type's default). Further options depend on the type: integers, real numbers,
    strings, booleans and lists of integers. None means that an option is not set.
    """

    __slots__ = ("_json",)
    _json: str

    def __init__(self, type: str = "mlp_2layer", **options: Any) -> None:
        object.__setattr__(self, "_json", _C.check_config(to_json({"type": type, **options})))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Reads JSON such as ``{"type": "avgpool", "pool_window": 3}``."""
        made = cls.__new__(cls)
        object.__setattr__(made, "_json", _C.check_config(text))
        return made

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Config:
        """Reads a mapping with the same fields."""
        return cls.from_json(to_json(settings))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Config:
        """Reads the ``[adapter]`` table of a TOML file and ignores other tables.

        Raises NotFoundError if there is no such table. Python 3.10 needs the package tomli.
        """
        tables = _read_toml(path)
        if not isinstance(tables.get("adapter"), dict):
            found = listed(f"[{name}]" for name, value in tables.items() if isinstance(value, dict)) or "none"
            raise _C.NotFoundError(f"{os.fspath(path)} has no table [adapter]; its tables: {found}")
        return cls.from_dict(tables["adapter"])

    def to_json(self) -> str:
        """One line of JSON with the type and the options that are set."""
        return self._json

    def to_dict(self) -> dict[str, Any]:
        """The type and the options that are set."""
        return json.loads(self._json)

    def extra_kwargs(self) -> dict[str, Any]:
        """The arguments that a builder of KempnerForge gets besides the widths: four fields and all options that are
        set."""
        settings = self.to_dict()
        del settings["type"]
        return {name: getattr(self, name) for name in _SEED_FIELDS} | settings

    def output_num_tokens(
        self, num_input_tokens: int, *, pool_window: int | None = None, grid: tuple[int, int] | None = None
    ) -> int:
        """The number of tokens per image that the built adapter returns.

        A count that is not positive is returned unchanged: it means "not known yet".
        """
        return _C.config_output_num_tokens(self._json, num_input_tokens, pool_window, grid)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "type":
            return self.to_dict()["type"]
        try:
            return _C.config_field(self._json, name)
        except KeyError:
            if name == "ragged":
                return None
        raise AttributeError(f"{self!r} has no option {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Config cannot be changed; make a new one to set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Config cannot be changed; make a new one without {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset((name, str(value)) for name, value in self.to_dict().items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_json, (self._json,)

    def __repr__(self) -> str:
        return "Config(" + ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items()) + ")"


def _read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[import-not-found,no-redef]
        except ModuleNotFoundError:
            raise ImportError("reading TOML needs Python 3.11 or later, or the package tomli") from None
    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None


def as_config(config: Any) -> Config:
    """The Config that is given as a Config, a mapping, a type's name, or an object with `type` and `extra_kwargs()`."""
    if isinstance(config, Config):
        return config
    if isinstance(config, str):
        return Config(config)
    if isinstance(config, Mapping):
        return Config.from_dict(config)
    if hasattr(config, "type") and hasattr(config, "extra_kwargs"):
        return Config.from_dict({"type": config.type, **config.extra_kwargs()})
    raise TypeError(f"config is of type {type(config).__name__}; expected a Config, a mapping or a type's name")
