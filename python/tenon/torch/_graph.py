# SPDX-License-Identifier: MIT
"""The graph of a connector as the library describes it (``tenon_adapter_graph_json``)."""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

from tenon import _C


class Space(NamedTuple):
    """What the rows of a value are."""

    kind: str
    parent: int = -1
    order: str = "raster"
    side: int = 0
    ragged: str = ""
    is_pool: bool = False
    transposed: bool = False
    integers: str = ""


class Value(NamedTuple):
    space: int
    width: int


class Parameter(NamedTuple):
    name: str
    shape: tuple[int, ...]
    rule: str  # how it is initialised
    number: float  # fan_in, value or std of the rule


class Layer(NamedTuple):
    type: str
    inputs: tuple[int, ...]
    output: int
    settings: dict[str, Any]
    parameters: tuple[Parameter, ...]


class Graph(NamedTuple):
    type: str
    config: dict[str, Any]  # the type and all options that its builder reads
    in_dim: int
    out_dim: int
    prefix_tokens: int
    inputs: dict[str, int]  # values by name, the features first
    outputs: dict[str, int]  # the tokens first
    integers: tuple[str, ...]
    spaces: tuple[Space, ...]
    values: tuple[Value, ...]
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> list[Parameter]:
        """In declaration order."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    @property
    def has_grid(self) -> bool:
        """Whether the patches must lie on a grid."""
        return any(space.kind != "input" and space.kind != "shared" for space in self.spaces)

    @property
    def maps(self) -> frozenset[str]:
        """The integer tensors whose rows are windows."""
        return frozenset(space.integers for space in self.spaces if space.kind == "map")

    @property
    def has_one_space(self) -> bool:
        """Whether the features alone say how many tokens there are."""
        return all(space.kind == "windows" or number == self.values[0].space for number, space in enumerate(self.spaces))


def _read_space(found: dict[str, Any]) -> Space:
    return Space(**{name: found[name] for name in Space._fields if name in found})


def _read_parameter(found: dict[str, Any]) -> Parameter:
    initial = dict(found["initial"])
    rule = initial.pop("rule")
    (number,) = initial.values()
    return Parameter(found["name"], tuple(found["shape"]), rule, number)


@functools.lru_cache(maxsize=256)
def graph_of(config: str, in_dim: int, out_dim: int) -> Graph:
    """The graph of a config (JSON) for these widths."""
    adapter = _C.Adapter(config, in_dim, out_dim)
    found = json.loads(adapter.graph_json)
    parameters = {entry["name"]: _read_parameter(entry) for entry in found["parameters"]}
    layers = [
        Layer(
            entry["type"],
            tuple(entry["inputs"]),
            entry["output"],
            entry["settings"],
            tuple(parameters[name] for name in entry["parameters"]),
        )
        for entry in found["layers"]
    ]
    return Graph(
        found["type"],
        json.loads(adapter.config_json),
        found["in_dim"],
        found["out_dim"],
        found["prefix_tokens"],
        {entry["name"]: entry["value"] for entry in found["inputs"]},
        {entry["name"]: entry["value"] for entry in found["outputs"]},
        tuple(entry["name"] for entry in found["integers"]),
        tuple(_read_space(entry) for entry in found["spaces"]),
        tuple(Value(entry["space"], entry["width"]) for entry in found["values"]),
        tuple(layers),
    )
