# SPDX-License-Identifier: MIT
"""Checkpoints of other forms: PyTorch's .pt and .bin files, its distributed checkpoints, safetensors.

::

    adapter = tenon.convert.load("pytorch_model.bin", tenon.Config("mlp_2layer"))     # finds widths and prefix itself
    tenon.convert.save(adapter, "adapter.safetensors")
    tenon.convert.save(adapter, "checkpoint/", prefix="model.adapter.")               # a distributed checkpoint

or ``python -m tenon.convert pytorch_model.bin adapter.safetensors --type mlp_2layer``.

What a file is is told by its content. The C library opens safetensors, finds the connector among the tensors of every
form, and writes every file. PyTorch is needed where it has to read or write: files of ``torch.save``, read with
``weights_only=True``, and distributed checkpoints, of whose metadata only known classes are read. Neither runs code.
"""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tenon import _C
from tenon._adapter import Adapter, config_text, rename_pairs
from tenon._adapter import load as load_safetensors
from tenon._config import Config
from tenon._torch_files import (
    KINDS,
    SUFFIXES,
    Checkpoint,
    find_in_folder,
    find_snapshot,
    import_torch,
    is_index,
    open_distributed,
    open_file,
    open_index,
    shown,
    write_distributed,
    write_file,
)


def load(
    path: str | os.PathLike[str],
    config: Any = None,
    in_dim: int | None = None,
    out_dim: int | None = None,
    prefix: str | None = None,
    rename: Mapping[str, str] | None = None,
    family: str | None = None,
) -> Adapter:
    """The adapter in a checkpoint of any form, found as :func:`tenon.load` finds it.

    `config` may be left out for safetensors files that describe themselves, and for public models with their config.json
    (`family`: see :func:`tenon.load`). Widths that are not given are the tensors'.
    Tensors may sit at any depth and under any one prefix, with the names that DDP, FSDP and torch.compile put in between;
    `prefix` ("model.adapter.") chooses where several fit, `rename` maps names or their beginnings. ValueError: the
    connector is not there, or several are.
    """
    path = pathlib.Path(path)
    checkpoint = _open(path)
    if checkpoint is None:
        return load_safetensors(path, config, in_dim, out_dim, prefix, rename, family)
    text = _model_config(path) if config is None else config_text(config, in_dim, out_dim)
    if text is None and family is None:
        raise TypeError(f"{shown(path)} does not describe itself; give a config, or put the model's config.json beside it")
    adapter, numbers, _ = Adapter.match(path, checkpoint.rows, text, prefix, rename_pairs(rename), family)
    names = [checkpoint.names[number] for number in numbers]
    tensors = checkpoint.read(names)
    adapter.load_state_dict({row[0]: tensors[name] for row, name in zip(adapter.parameters(), names, strict=True)})
    return adapter


def _model_config(path: pathlib.Path) -> str | None:
    """The text of the config.json of a model of transformers, in the folder or beside the file; None where there is none.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    if file.stat().st_size > 1 << 24:
        raise ValueError(f"{shown(file)} has more than 16 MiB; it is no config of a model")
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def save(
    adapter: Adapter, path: str | os.PathLike[str], prefix: str = "", allow_nonfinite: bool = False
) -> None:
    """Writes an adapter in the form that the name asks for, its tensors named prefix + parameter.

    A safetensors file describes itself, so that ``tenon run`` needs nothing else; with a prefix transformers loads it
    too. A file appears under its name when it is whole, with the mode of the one that it replaces; symbolic links stay.
    ValueError: parameters are infinite or NaN, unless `allow_nonfinite`.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        adapter.save(path, prefix, allow_nonfinite)
        return
    if path.suffix and path.suffix not in SUFFIXES:
        raise ValueError(f"{shown(path)}: files end in .safetensors, .pt, .pth or .bin; a distributed checkpoint is a folder")
    if not allow_nonfinite:
        try:
            adapter.check_finite()
        except ValueError as error:
            raise ValueError(f"{shown(path)}: is not written: {error}") from None
    torch = import_torch(path)
    before = prefix + "." if prefix and not prefix.endswith(".") else prefix
    state = {before + name: torch.from_dlpack(adapter.parameter(name)) for name, *_ in adapter.parameters()}
    if path.suffix:
        write_file(state, path)
    else:
        write_distributed(state, path)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: Any = None,
    *,
    prefix: str | None = None,
    target_prefix: str = "",
    rename: Mapping[str, str] | None = None,
) -> Adapter:
    """Reads one form, writes another, and returns the adapter."""
    adapter = load(source, config, prefix=prefix, rename=rename)
    save(adapter, target, target_prefix)
    return adapter


def _open(path: pathlib.Path) -> Checkpoint | None:
    """What PyTorch has to read; None: the C library reads it, or says what it is."""
    if path.is_dir():
        path = find_snapshot(path)
        if (path / ".metadata").exists():
            return open_distributed(path)
        found = find_in_folder(path)
        if found is None:
            return None
        path = found
    kind = _C.identify(path)
    if kind == "safetensors index" and is_index(path):
        return open_index(path)
    return open_file(path) if kind in KINDS else None


# ---- the command ----


def _parse_renames(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, str] | None:
    """OLD=NEW,OLD=NEW"""
    found: dict[str, str] = {}
    for word in ",".join(words).split(",") if words else ():
        old, equals, new = word.partition("=")
        if not equals or not old:
            parser.error(f"--rename takes OLD=NEW, got {word!r}")
        if old in found:
            parser.error(f"--rename maps {old!r} twice")
        found[old] = new
    return found or None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tenon.convert", description="Converts checkpoints of connectors.")
    parser.add_argument("source", help=".pt, .bin, .safetensors, an index of shards, a folder that holds one of them")
    parser.add_argument("target", help=".pt, .bin, .safetensors, or a folder for a distributed checkpoint")
    parser.add_argument("--type", help="the connector's type, where the source does not tell")
    parser.add_argument("--config", help='more than a type: \'{"type": "avgpool", "pool_window": 3}\'')
    parser.add_argument("--toml", help="a file with an [adapter] table")
    parser.add_argument("--prefix", help="in front of the names in the source, where several connectors fit")
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="what names of the source, or their beginnings, are called; may be repeated",
    )
    parser.add_argument("--target-prefix", default="", help="in front of the names in the target")
    given = parser.parse_args(arguments)
    for name in ("source", "target", "toml"):
        if getattr(given, name) == "-":
            parser.error(f"{'--toml' if name == 'toml' else name} takes a file, not '-'")
    if sum(value is not None for value in (given.type, given.config, given.toml)) > 1:
        parser.error("give one of --type, --config and --toml")
    rename = _parse_renames(parser, given.rename)
    try:
        config = given.type
        if given.config is not None:
            config = Config.from_json(given.config)
        if given.toml is not None:
            config = Config.from_toml(given.toml)
        adapter = convert(
            given.source, given.target, config, prefix=given.prefix, target_prefix=given.target_prefix, rename=rename
        )
    except (KeyError, TypeError, ValueError, OSError, ImportError) as error:
        parser.exit(1, f"tenon.convert: {error.args[0] if isinstance(error, KeyError) else error}\n")
    print(f"{given.target}: {adapter.config.type} {adapter.in_dim} -> {adapter.out_dim}, {adapter.dtype}")


if __name__ == "__main__":
    main()
