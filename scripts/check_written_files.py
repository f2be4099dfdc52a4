#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads what tenon writes with the reference implementations and compares every element.

    check_written_files.py WRITE_FILES    the program built from tests/write_files.c

Exits with 77 (skipped) where gguf, numpy or safetensors is not installed.
"""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import gguf
    import numpy as np
    import safetensors
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TYPES = {"bool": "?", "u8": "u1", "i8": "i1", "f16": "f2", "bf16": "u2", "u16": "u2", "i16": "i2", "f32": "f4",
         "u32": "u4", "i32": "i4", "u64": "u8", "i64": "i8"}
SHAPES = {"matrix": (3, 5), "vector": (7,), "scalar": (), "empty": (2, 0, 4)}
STORED = {"bool": "BOOL", **{name: name.upper() for name in TYPES if name != "bool"}}


def pattern(name, shape):
    count = int(np.prod(shape))
    i = np.arange(count)
    if name == "bf16":  # exact in bfloat16, so its bits are the upper half of float32's
        return (((i - 2) * 0.75).astype("<f4").view("<u4") >> 16).astype("u2").reshape(shape)
    if name[0] == "f":
        return ((i - 2) * 0.75).astype(TYPES[name]).reshape(shape)
    if name == "bool":
        return (i % 2 == 1).reshape(shape)
    return (7 * i - 5 * (name[0] == "i")).astype(TYPES[name]).reshape(shape)


def check_equal(what, got, expected):
    assert got.dtype == expected.dtype, (what, got.dtype, expected.dtype)
    assert got.shape == expected.shape, (what, got.shape, expected.shape)
    assert got.tobytes() == expected.tobytes(), (what, got, expected)


def check_npy(folder):
    for name in TYPES:
        for shape in SHAPES:
            path = folder / f"{name}-{shape}.npy"
            check_equal(path.name, np.load(path), pattern(name, SHAPES[shape]))
            assert (path.stat().st_size - pattern(name, SHAPES[shape]).nbytes) % 64 == 0, path


def check_safetensors(path):
    expected = {f"{name}-{shape}": (name, SHAPES[shape]) for name in TYPES for shape in SHAPES}
    # deserialize gives every dtype as bytes, bfloat16 included.
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for key, (name, shape) in expected.items():
        assert found[key]["dtype"] == STORED[name], (key, found[key]["dtype"])
        assert tuple(found[key]["shape"]) == shape, (key, found[key]["shape"])
        assert bytes(found[key]["data"]) == pattern(name, shape).tobytes(), key
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt", "note": "caf\u00e9 \"q\"\n\t\\"}, file.metadata()
        check_equal("f32-matrix", file.get_tensor("f32-matrix"), pattern("f32", (3, 5)))


def check_gguf(path):
    reader = gguf.GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert keys == {"general.architecture": "clip", "note": "caf\u00e9 \"q\"\n\t\\"}, keys
    found = {tensor.name: tensor for tensor in reader.tensors}
    names = [name for name in TYPES if name[0] in "fi" or name == "bf16"]
    expected = {f"{name}-{shape}": (name, SHAPES[shape]) for name in names for shape in SHAPES}
    assert found.keys() == expected.keys() | {"q8_0"}, found.keys() ^ expected.keys()
    for key, (name, shape) in expected.items():
        tensor = found[key]
        assert tensor.tensor_type.name == name.upper(), (key, tensor.tensor_type)
        assert tuple(reversed(tensor.shape.tolist())) == (shape or (1,)), (key, tensor.shape)
        assert tensor.data.tobytes() == pattern(name, shape).tobytes(), key
        assert tensor.data_offset % 32 == 0, key
    i = np.arange(512)
    block = i // 32 % 5
    values = (i * 7919 % 1009 - 504).astype("f4") * np.where(block == 3, np.float32(1e-6), np.float32(0.0137))
    values = np.where(block == 4, np.float32(0), values).reshape(8, 64)
    check_equal("q8_0", found["q8_0"].data, gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0))
    assert path.stat().st_size % 32 == 0


def check_alignment(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0, length
    header = json.loads(data[8:8 + length])
    del header["__metadata__"]
    for key, tensor in header.items():
        begin = tensor["data_offsets"][0]
        assert begin % np.dtype(TYPES[key.split("-")[0]]).itemsize == 0, key


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([sys.argv[1], temporary], check=True)
        check_npy(folder)
        check_safetensors(folder / "all.safetensors")
        check_alignment(folder / "all.safetensors")
        check_gguf(folder / "all.gguf")
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert not left, left
    print(f"{len(TYPES) * len(SHAPES)} arrays in each format read back equal")


main()
