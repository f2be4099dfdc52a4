# SPDX-License-Identifier: MIT
"""Checkpoints that PyTorch alone can read: files of torch.save, indexes of them, distributed checkpoints.

A :class:`Checkpoint` describes its tensors for the C library, which finds the connector among them, and reads those
that were chosen. A checkpoint is not trusted: no object but tensors and plain containers is made of it, and no file
outside its folder is opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import pickle
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tenon import _C

if TYPE_CHECKING:
    import torch

Row = tuple[str, str, int, int, tuple[int, ...], "str | None"]
"""Of a tensor: name, what its type is called, DLPack's code and bits of what can be delivered, shape, and the shard that
holds it where that is not there."""

KINDS = ("PyTorch checkpoint (zip)", "PyTorch checkpoint (pickle)")
SUFFIXES = (".pt", ".pth", ".bin")


class Checkpoint(NamedTuple):
    names: list[str]
    rows: list[Row]
    read: Callable[[list[str]], dict[str, torch.Tensor]]
    """Dense tensors of these names, in float32, bfloat16 or float16."""


def shown(path: pathlib.Path) -> str:
    """A path in a sentence, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportError(f"{shown(path)}: this form needs PyTorch, which is not installed") from None
    return torch


# ---- tensors ----

_INT, _UINT, _FLOAT, _OPAQUE, _BFLOAT = range(5)


def _code(dtype: torch.dtype) -> tuple[int, int]:
    """What tenon can take a tensor of this dtype for: other floating-point numbers are converted to float32."""
    name = str(dtype).removeprefix("torch.")
    if name in ("float32", "float16"):
        return _FLOAT, int(name[5:])
    if name == "bfloat16":
        return _BFLOAT, 16
    if dtype.is_floating_point:
        return _FLOAT, 32
    found = re.fullmatch(r"(u?)int(8|16|32|64)", name)
    return (_UINT if found[1] else _INT, int(found[2])) if found else (_OPAQUE, 8)


def _fault(tensor: torch.Tensor) -> str | None:
    """Why a tensor has no numbers of its own in a row; None: it has."""
    import torch

    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"a quantized tensor ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_meta:
        return "a tensor on the meta device, without values"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", torch.Tensor)):
        return f"of the class {type(tensor).__name__}"
    return None


def _text(name: str) -> str:
    """A pickle's strings may hold what C's cannot."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _row(name: str, tensor: torch.Tensor) -> Row:
    fault = _fault(tensor)
    shape = () if tensor.is_nested else tuple(tensor.shape)
    if fault is not None:
        return _text(name), fault, _OPAQUE, 8, shape, None
    return _text(name), str(tensor.dtype).removeprefix("torch."), *_code(tensor.dtype), shape, None


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Without a gradient, negative and conjugate bits resolved, in a dtype that tenon takes."""
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    return tensor if tensor.dtype in (torch.float32, torch.bfloat16, torch.float16) else tensor.float()


# ---- files of torch.save ----


def open_file(path: pathlib.Path) -> Checkpoint:
    tensors = _load(path)
    rows = [_row(*item) for item in tensors.items()]
    return Checkpoint(list(tensors), rows, lambda names: {name: _dense(tensors[name]) for name in names})


def _load(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """The tensors of nested mappings under their names joined by dots."""
    torch = import_torch(path)
    try:
        with open(path, "rb") as file:
            # Zip archives alone can be mapped: then only the tensors that are used are read. PyTorch maps files by their
            # names, of which it wants UTF-8, and none that end in .safetensors.
            mapped = _C.identify(path) == "PyTorch checkpoint (zip)" and str(path) == shown(path)
            mapped = mapped and path.suffix != ".safetensors"
            tree = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"{shown(path)}: {_reason(error)}") from None
    if not isinstance(tree, Mapping):
        raise ValueError(f"{shown(path)}: holds an object of type {type(tree).__name__}; expected a state dict")
    return _flatten(tree, path)


def _reason(error: Exception) -> str:
    """PyTorch's own sentence advises to trust the file, which nobody should."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        return (
            f"holds an object of class {found[1]}, which would run code of the file's to be loaded, so tenon does not; "
            "save a state dict, of tensors alone, where it was made"
        )
    first = (text.splitlines() or [""])[0]
    if "weights_only" in first or "safe_globals" in first:
        first = "it is no state dict of tensors"
    return f"PyTorch cannot read it: {first or type(error).__name__}"


def _flatten(tree: Mapping[Any, Any], path: pathlib.Path) -> dict[str, torch.Tensor]:
    import torch

    found: dict[str, torch.Tensor] = {}
    seen = {id(tree)}
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        prefix, node = waiting.pop()
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{name}.", value))
            elif isinstance(value, torch.Tensor) and name in found:
                raise ValueError(f"{shown(path)}: two tensors are named {name!r} when the names of nested mappings are joined")
            elif isinstance(value, torch.Tensor):
                found[name] = value
    return found


# ---- indexes of such files: pytorch_model.bin.index.json ----


def is_index(path: pathlib.Path) -> bool:
    """Whether an index names files of torch.save: by the first shard that is there, or else by the names."""
    shards = dict.fromkeys(shard for _, shard in _C.read_index(path))
    for shard in shards:
        with contextlib.suppress(FileNotFoundError):
            return _C.identify(_C.file_beside(path, shard)) in KINDS
    return any(shard.endswith(SUFFIXES) for shard in shards)


def _load_shard(path: pathlib.Path, shard: str) -> dict[str, torch.Tensor] | None:
    """None: it was not downloaded."""
    try:
        file = pathlib.Path(_C.file_beside(path, shard))
    except FileNotFoundError:
        return None
    kind = _C.identify(file)
    if kind in ("Git LFS pointer", "git-annex pointer"):
        return None
    if kind not in KINDS:
        raise ValueError(f"{shown(file)}: is {kind}; the other shards of {shown(path)} are files of torch.save")
    return _load(file)


def open_index(path: pathlib.Path) -> Checkpoint:
    """By the rules of an index of safetensors: the map decides, and shards that are not needed need not be there."""
    where = dict(_C.read_index(path))
    tensors: dict[str, torch.Tensor] = {}
    absent: dict[str, str] = {}
    for shard in dict.fromkeys(where.values()):
        loaded = _load_shard(path, shard)
        if loaded is None:
            absent |= {name: shard for name, mapped in where.items() if mapped == shard}
            continue
        for name, tensor in loaded.items():
            mapped = where.get(name, shard)
            if mapped != shard:
                raise ValueError(f"{shown(path)}: maps tensor '{name}' to the shard '{mapped}', but it is in '{shard}'")
            if name in where:
                tensors[name] = tensor
    for name, shard in where.items():
        if name not in tensors and name not in absent:
            raise ValueError(f"{shown(path)}: maps tensor '{name}' to the shard '{shard}', which does not hold it")
    rows = [_row(*item) for item in tensors.items()]
    rows += [(_text(name), "", _OPAQUE, 8, (), shard) for name, shard in absent.items()]
    return Checkpoint([*tensors, *absent], rows, lambda names: {name: _dense(tensors[name]) for name in names})


def find_snapshot(folder: pathlib.Path) -> pathlib.Path:
    """The snapshot that a repository of a Hugging Face cache means, chosen as the C library does for safetensors: the one
    that refs/main names, or the only one. Any other folder is itself."""
    snapshots, main = folder / "snapshots", folder / "refs" / "main"
    if not snapshots.is_dir():
        return folder
    commit = ""
    if main.is_file():
        with open(main, encoding="ascii", errors="replace") as file:
            commit = file.read(128).strip()
    if re.fullmatch(r"[\w-]+", commit) and (snapshots / commit).is_dir():
        return snapshots / commit
    names = os.listdir(snapshots)
    return snapshots / names[0] if len(names) == 1 else folder  # of several the C library says that it cannot tell


def find_in_folder(folder: pathlib.Path) -> pathlib.Path | None:
    """What a folder holds, where it holds no safetensors, which go before."""
    names = set(os.listdir(folder))
    index, file = "pytorch_model.bin.index.json", "pytorch_model.bin"
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return None
    if index in names and file in names and file not in {shard for _, shard in _C.read_index(folder / index)}:
        raise ValueError(
            f"{shown(folder / index)}: does not name {file}, which lies beside it: these are two models; name the one to "
            "read, or remove the other"
        )
    return folder / index if index in names else folder / file if file in names else None


def write_file(state: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    torch = import_torch(path)
    sink = _Sink(_C.AtomicFile(path))
    try:
        torch.save(state, sink)
        sink.file.commit()
    finally:
        sink.file.discard()


class _Sink:
    """What torch.save writes to; a piece at a time, because each is copied once."""

    def __init__(self, file: _C.AtomicFile) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), 1 << 20):
            self.file.write(view[start : start + (1 << 20)])
        return len(view)

    def flush(self) -> None:
        pass


# ---- distributed checkpoints ----


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[Any]:
    """torch.distributed.checkpoint, without its warning that there is one process."""
    import_torch(path)
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield dcp


class _Unpickler(pickle.Unpickler):
    """Reads the .metadata of a distributed checkpoint, which PyTorch itself would unpickle whatever is in it."""

    _CLASSES = {
        "torch.distributed.checkpoint.metadata": {
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.serialization": {"_get_layout"},
        "collections": {"OrderedDict"},
        "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    }

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        if name in self._CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def _read_metadata(path: pathlib.Path) -> Any:
    import torch.distributed.checkpoint.metadata as form

    try:
        with open(path / ".metadata", "rb") as file:
            metadata = _Unpickler(file).load()
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"{shown(path / '.metadata')}: {_reason(error)}") from None
    entries, places = getattr(metadata, "state_dict_metadata", None), getattr(metadata, "storage_data", None)
    if not isinstance(metadata, form.Metadata) or not isinstance(entries, dict) or not isinstance(places, dict):
        raise ValueError(f"{shown(path / '.metadata')}: is not the metadata of a distributed checkpoint")
    return metadata


def open_distributed(path: pathlib.Path) -> Checkpoint:
    import_torch(path)
    import torch.distributed.checkpoint.metadata as form

    metadata = _read_metadata(path)
    names: list[str] = []
    rows: list[Row] = []
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(name, str) and isinstance(entry, form.TensorStorageMetadata):
            dtype = entry.properties.dtype
            names.append(name)
            rows.append((_text(name), str(dtype).removeprefix("torch."), *_code(dtype), tuple(entry.size), None))
    return Checkpoint(names, rows, lambda names: _read_distributed(path, metadata, names))


def _check_places(path: pathlib.Path, metadata: Any, names: list[str]) -> None:
    """Every file of the tensors is inside the folder and as long as the metadata says."""
    stored = dict.fromkeys(names, 0)
    packed = set()
    for index, info in metadata.storage_data.items():
        if index.fqn not in stored:
            continue
        file = _C.file_beside(path / ".metadata", info.relative_path)
        if info.offset < 0 or info.length < 0 or info.offset + info.length > os.path.getsize(file):
            raise ValueError(f"{file}: is shorter than {shown(path / '.metadata')} says; it is truncated, or of another save")
        stored[index.fqn] += info.length
        if getattr(info, "transform_descriptors", None):
            packed.add(index.fqn)
    for name, length in stored.items():
        entry = metadata.state_dict_metadata[name]
        size = entry.size.numel() * entry.properties.dtype.itemsize
        if name not in packed and size > length:
            raise ValueError(f"{shown(path)}: tensor '{name}' takes {size} bytes, but is not stored whole: {length} are there")


def _load_distributed(path: pathlib.Path, metadata: Any, names: list[str]) -> dict[str, torch.Tensor]:
    import torch
    import torch.distributed.checkpoint.metadata as form

    _check_places(path, metadata, names)
    entries = metadata.state_dict_metadata
    state = {name: torch.empty(entries[name].size, dtype=entries[name].properties.dtype) for name in names}
    if getattr(metadata, "storage_meta", None) is None:
        metadata.storage_meta = form.StorageMeta()
    with _alone(path) as dcp:

        class Reader(dcp.FileSystemReader):  # type: ignore[misc,name-defined]
            def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
                return metadata

        dcp.load(state, storage_reader=Reader(str(path)), no_dist=True)
    return {name: _dense(tensor) for name, tensor in state.items()}


def _read_distributed(path: pathlib.Path, metadata: Any, names: list[str]) -> dict[str, torch.Tensor]:
    try:
        return _load_distributed(path, metadata, names)
    except (ValueError, MemoryError, OSError):
        raise
    except Exception as error:  # whatever PyTorch raises where the metadata and the files disagree
        raise ValueError(f"{shown(path)}: {_reason(error)}") from None


def write_distributed(state: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    """Written beside its place, which it takes when it is whole and on the disk."""
    target = pathlib.Path(os.path.realpath(path))
    _check_folder(target)
    fresh = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    os.mkdir(fresh)
    try:
        with _alone(path) as dcp:
            dcp.save(state, checkpoint_id=str(fresh), no_dist=True)
        if target.exists():
            _keep_modes(target, fresh)
        _sync_folder(fresh)
        if not target.exists():
            os.rename(fresh, target)
        elif not _exchange(fresh, target):
            _replace(fresh, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # what was there before, or what was not finished


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two folders have changed places, at once: there is always a whole one under either name."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _replace(fresh: pathlib.Path, target: pathlib.Path) -> None:
    """On file systems and kernels that cannot exchange folders, nothing replaces one at once: for a moment there is none
    under the name, and the old one has another."""
    old = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    os.rename(target, old)
    try:
        os.rename(fresh, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)


def _sync_folder(folder: pathlib.Path) -> None:
    """Names are on the disk too. Some file systems cannot sync a folder; there is nothing better to be had."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_folder(target: pathlib.Path) -> None:
    """A folder that is there is another such checkpoint, and nothing of anybody's is lost with it."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target}: is a file; a distributed checkpoint is a folder, and files end in .safetensors or .pt")
    for entry in sorted(os.listdir(target)):
        if entry != ".metadata" and not entry.endswith(".distcp"):
            raise ValueError(
                f"{target}: holds '{entry}', which is no part of a distributed checkpoint; name a folder that is new, "
                "empty or such a checkpoint"
            )


def _keep_modes(target: pathlib.Path, fresh: pathlib.Path) -> None:
    shutil.copymode(target, fresh)
    for file in fresh.iterdir():
        if (target / file.name).exists():
            shutil.copymode(target / file.name, file)
