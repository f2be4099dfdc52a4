# SPDX-License-Identifier: MIT
"""Checkpoints of other forms: PyTorch's .pt and .bin files, its distributed checkpoints, safetensors.

::

    adapter = tenon.convert.load("pytorch_model.bin", tenon.Config("mlp_2layer"))     # finds widths and prefix itself
    tenon.convert.save(adapter, "adapter.safetensors")
    tenon.convert.save(adapter, "checkpoint/", prefix="model.adapter.")               # a distributed checkpoint

or ``python -m tenon.convert pytorch_model.bin adapter.safetensors --type mlp_2layer``.

The form is told by the name: ``.pt``, ``.pth`` and ``.bin`` are files of ``torch.save``, ``.safetensors`` and index files
are safetensors, a folder with ``.metadata`` in it, or a new one, is a distributed checkpoint. PyTorch is needed where it
has to read or write, and files of ``torch.save`` are read with ``weights_only=True``: they run no code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tenon._adapter import Adapter, build_adapter
from tenon._adapter import load as load_safetensors
from tenon._config import Config, as_config

if TYPE_CHECKING:
    import torch

_TORCH_SUFFIXES = (".pt", ".pth", ".bin")

# What DDP, torch.compile, FSDP and activation checkpointing put between the names of modules.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def load(
    path: str | os.PathLike[str],
    config: Any = None,
    in_dim: int | None = None,
    out_dim: int | None = None,
    prefix: str | None = None,
) -> Adapter:
    """The adapter in a checkpoint of any form.

    `config` may be left out for safetensors files that describe themselves. Widths that are not given are the tensors'.
    Tensors may sit at any depth and under any one prefix, with the names that DDP, FSDP and torch.compile put in between;
    `prefix` ("model.adapter.") chooses where several fit. KeyError: the connector is not there, or several are.
    """
    path = pathlib.Path(path)
    if _form(path) == "safetensors" and (config is None or (in_dim is not None and out_dim is not None)):
        return load_safetensors(path, config, in_dim, out_dim, prefix)
    if config is None:
        raise TypeError(f"{path} does not describe itself; give a config")
    config = as_config(config)
    names = _parameter_names(config)
    tensors = _reader(path)(path, lambda keys: _find(keys, names, prefix, path))
    widths = _widths(tensors, names, path)
    adapter = build_adapter(config, in_dim or widths[0], out_dim or widths[1])
    hidden = tensors[names[0]].shape[0]
    if not config.hidden_dim and adapter.parameters()[0][2][0] != hidden:
        adapter = build_adapter({**config.to_dict(), "hidden_dim": hidden}, adapter.in_dim, adapter.out_dim)
    try:
        adapter.load_state_dict({name: _readable(tensor, name, path) for name, tensor in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return adapter


def save(adapter: Adapter, path: str | os.PathLike[str], prefix: str = "") -> None:
    """Writes an adapter in the form that the name asks for, its tensors named prefix + parameter.

    A safetensors file describes itself, so that ``tenon run`` needs nothing else; with a prefix it needs the package
    safetensors. A file appears under its name when it is whole.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors" and not prefix:
        adapter.save(path)
    elif path.suffix == ".safetensors":
        _write_whole(path, lambda target: _save_prefixed(adapter, target, prefix))
    elif path.suffix in _TORCH_SUFFIXES:
        torch = _torch(path)
        _write_whole(path, lambda target: torch.save(_tensors(adapter, prefix), target))
    elif path.suffix:
        raise ValueError(f"{path}: files end in .safetensors, .pt, .pth or .bin; a distributed checkpoint is a folder")
    else:
        with _alone(path) as dcp:
            dcp.save(_tensors(adapter, prefix), checkpoint_id=str(path), no_dist=True)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: Any = None,
    *,
    prefix: str | None = None,
    target_prefix: str = "",
) -> Adapter:
    """Reads one form, writes another, and returns the adapter."""
    adapter = load(source, config, prefix=prefix)
    save(adapter, target, target_prefix)
    return adapter


# ---- finding the connector among a checkpoint's tensors ----


def _parameter_names(config: Config) -> list[str]:
    """A connector's names do not depend on its widths; heads must divide the one made up here."""
    return [name for name, *_ in build_adapter(config, config.pool_heads, 1).parameters()]


def _find(keys: Iterable[str], names: list[str], prefix: str | None, path: pathlib.Path) -> dict[str, str]:
    """The checkpoint's key of each parameter."""
    plain = {_WRAPPERS.sub("", key): key for key in keys}
    if prefix is not None:
        prefixes = [_WRAPPERS.sub("", prefix)]
    else:
        ends = [key[: -len(names[0])] for key in plain if key == names[0] or key.endswith("." + names[0])]
        prefixes = [end for end in ends if all(end + name in plain for name in names)]
    if len(prefixes) > 1:
        raise KeyError(f"{path} has the connector under {', '.join(map(repr, prefixes))}; choose one with prefix")
    if not prefixes or any(prefixes[0] + name not in plain for name in names):
        wanted = names if prefix is None else [prefixes[0] + name for name in names if prefixes[0] + name not in plain]
        raise KeyError(f"{path} has no connector with the tensors {', '.join(wanted)}; it has {_summary(plain)}")
    return {name: plain[prefixes[0] + name] for name in names}


def _summary(keys: Iterable[str]) -> str:
    """The most frequent beginnings of names, for who looks for the right one."""
    counts = Counter(".".join(key.split(".")[:2]) for key in keys)
    if not counts:
        return "no tensors"
    return ", ".join(f"{name}... ({count})" for name, count in counts.most_common(8))


def _widths(tensors: Mapping[str, Any], names: list[str], path: pathlib.Path) -> tuple[int, int]:
    for name in names:
        if tensors[name].numel() == 0:
            shape = tuple(tensors[name].shape)
            raise ValueError(f"{path}: tensor '{name}' is empty, {shape}: saved from one rank of a sharded run?")
    weights = [tensors[name] for name in names if len(tensors[name].shape) == 2]
    if not weights:
        raise ValueError(f"{path}: no weight has two dimensions; give in_dim and out_dim")
    return weights[0].shape[1], weights[-1].shape[0]


# ---- forms ----

_Chooser = Callable[[Iterable[str]], "dict[str, str]"]


def _form(path: pathlib.Path) -> str:
    if path.suffix in _TORCH_SUFFIXES:
        return "torch"
    return "distributed" if (path / ".metadata").exists() else "safetensors"


def _reader(path: pathlib.Path) -> Callable[[pathlib.Path, _Chooser], dict[str, Any]]:
    return {"torch": _read_torch, "distributed": _read_distributed, "safetensors": _read_safetensors}[_form(path)]


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportError(f"{path}: this form needs PyTorch: pip install 'tenon-vlm[torch]'") from None
    return torch


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[Any]:
    """torch.distributed.checkpoint, without its warning that there is one process."""
    _torch(path)
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield dcp


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The tensors of nested mappings under their names joined by dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flatten(value, f"{prefix}{key}.")
        elif hasattr(value, "numel"):
            found[f"{prefix}{key}"] = value
    return found


def _read_torch(path: pathlib.Path, choose: _Chooser) -> dict[str, Any]:
    torch = _torch(path)
    import pickle

    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: PyTorch cannot read it as weights alone: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} holds an object of type {type(tree).__name__}; expected a state dict")
    tensors = _flatten(tree)
    return {name: tensors[key] for name, key in choose(tensors).items()}


def _is_zip(path: pathlib.Path) -> bool:
    """Files of torch.save since 1.6 are zip archives, which alone may be mapped."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _read_distributed(path: pathlib.Path, choose: _Chooser) -> dict[str, Any]:
    torch = _torch(path)
    with _alone(path) as dcp:
        entries = dcp.FileSystemReader(str(path)).read_metadata().state_dict_metadata
        stored = {key: entry for key, entry in entries.items() if hasattr(entry, "chunks")}  # of tensors
        chosen = choose(stored)
        state = {key: torch.empty(stored[key].size, dtype=stored[key].properties.dtype) for key in chosen.values()}
        dcp.load(state, checkpoint_id=str(path), no_dist=True)
    return {name: state[key] for name, key in chosen.items()}


def _read_safetensors(path: pathlib.Path, choose: _Chooser) -> dict[str, Any]:
    """Where the C library cannot do it alone: names are to be unwrapped, or widths to be found."""
    try:
        from safetensors import safe_open
    except ModuleNotFoundError:
        raise ImportError(f"{path}: give in_dim and out_dim, or install the package safetensors") from None
    _torch(path)
    files = _shards(path)
    where: dict[str, pathlib.Path] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            where |= dict.fromkeys(opened.keys(), file)
    found = {}
    for name, key in choose(where).items():
        with safe_open(where[key], "pt") as opened:
            found[name] = opened.get_tensor(key)
    return found


def _shards(path: pathlib.Path) -> list[pathlib.Path]:
    """The files that an index, a folder or a single file stands for."""
    if path.is_dir():
        indexes = sorted(path.glob("*.safetensors.index.json"))
        return _shards(indexes[0]) if indexes else sorted(path.glob("*.safetensors"))
    if path.suffix == ".json":
        names = json.loads(path.read_text())["weight_map"].values()
        return [path.parent / name for name in sorted(set(names))]
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return [path]


def _readable(tensor: torch.Tensor, name: str, path: pathlib.Path) -> torch.Tensor:
    if str(tensor.layout) != "torch.strided" or hasattr(tensor, "device_mesh"):
        raise ValueError(f"{path}: tensor '{name}' is {type(tensor).__name__}, {tensor.layout}; expected a plain one")
    tensor = tensor.detach()
    return tensor.float() if str(tensor.dtype) == "torch.float64" else tensor


def _tensors(adapter: Adapter, prefix: str) -> dict[str, torch.Tensor]:
    import torch

    return {prefix + name: torch.from_dlpack(adapter.parameter(name)) for name, *_ in adapter.parameters()}


def _save_prefixed(adapter: Adapter, path: pathlib.Path, prefix: str) -> None:
    try:
        from safetensors import safe_open
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        raise ImportError(f"{path}: a prefix in safetensors needs PyTorch and the package safetensors") from None
    adapter.save(path)
    with safe_open(path, "pt") as plain:
        metadata = plain.metadata()  # the config, which the names of tensors do not touch
    save_file(_tensors(adapter, prefix), path, metadata=metadata)


def _write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """A hidden file beside the target takes its name when it is written."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        target = pathlib.Path(folder) / path.name
        write(target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
        os.replace(target, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tenon.convert", description="Converts checkpoints of connectors.")
    parser.add_argument("source", help=".pt, .bin, .safetensors, an index of shards, a distributed checkpoint's folder")
    parser.add_argument("target", help=".pt, .bin, .safetensors, or a folder for a distributed checkpoint")
    parser.add_argument("--type", help="the connector's type, where the source does not tell")
    parser.add_argument("--config", help='more than a type: \'{"type": "avgpool", "pool_window": 3}\'')
    parser.add_argument("--toml", help="a file with an [adapter] table")
    parser.add_argument("--prefix", help="in front of the names in the source, where several connectors fit")
    parser.add_argument("--target-prefix", default="", help="in front of the names in the target")
    given = parser.parse_args(arguments)
    if sum(value is not None for value in (given.type, given.config, given.toml)) > 1:
        parser.error("give one of --type, --config and --toml")
    try:
        config = given.type
        if given.config is not None:
            config = Config.from_json(given.config)
        if given.toml is not None:
            config = Config.from_toml(given.toml)
        adapter = convert(
            given.source, given.target, config, prefix=given.prefix, target_prefix=given.target_prefix
        )
    except (KeyError, TypeError, ValueError, OSError, ImportError) as error:
        parser.exit(1, f"tenon.convert: {error.args[0] if isinstance(error, KeyError) else error}\n")
    print(f"{given.target}: {adapter.config.type} {adapter.in_dim} -> {adapter.out_dim}, {adapter.dtype}")


if __name__ == "__main__":
    main()
