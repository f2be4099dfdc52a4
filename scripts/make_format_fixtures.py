#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes tests/data/formats: small files by the reference implementations, which the C tests read.

    make_format_fixtures.py FOLDER

Needs numpy, safetensors and gguf, and torch for what the 8-bit floats mean. Element i of every array is `pattern(dtype)[i]`;
tests/test_format_fixtures.c has the same formula. Where tenon delivers another dtype than the stored one, the file also
holds what it must deliver, under the name + ".f32".
"""
import json
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import safetensors.torch
import torch


def pattern(dtype, count):
    """0.75 (i - 2) for floats, 7 i - 5 for signed and 7 i for unsigned integers, odd i for bool."""
    i = np.arange(count)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return ((i - 2) * 0.75).astype(dtype)
    if dtype.kind == "b":
        return i % 2 == 1
    return (7 * i - 5 * (dtype.kind == "i")).astype(dtype)


def write_safetensors(folder):
    tensors = {}
    names = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
        "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }
    for name, dtype in names.items():
        kind = {"F": "f8", "B": "f8", "I": "i8", "U": "u8"}[name[0]]
        kind = "?" if name == "BOOL" else kind
        tensors[name] = torch.from_numpy(pattern(kind, 6).reshape(2, 3)).to(dtype)
        tensors[name + ".scalar"] = torch.from_numpy(pattern(kind, 4))[3].to(dtype)
        tensors[name + ".empty"] = torch.zeros(2, 0, dtype=dtype)
    for name, dtype in {"U16": np.uint16, "U32": np.uint32, "U64": np.uint64}.items():
        tensors[name] = torch.from_numpy(pattern(dtype, 6).reshape(2, 3))
    every = torch.arange(256, dtype=torch.uint8)
    tensors["F8_E4M3"] = every.view(torch.float8_e4m3fn)
    tensors["F8_E5M2"] = every.clone().view(torch.float8_e5m2)
    for name in ["F8_E4M3", "F8_E5M2", "F64", "F64.scalar", "F64.empty"]:
        tensors[name + ".f32"] = tensors[name].to(torch.float32).clone()
    # Metadata of an odd length, so that the reference has to pad.
    safetensors.torch.save_file(tensors, folder / "dtypes.safetensors", {"format": "pt", "note": "caf\u00e9 \"q\"\n"})
    safetensors.torch.save_file({}, folder / "empty.safetensors")
    # The reference reads this one too: nothing demands that the data is aligned.
    header = b'{"u":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"f":{"dtype":"F32","shape":[2],"data_offsets":[3,11]}}'
    header += b" " * ((5 - len(header)) % 8)
    data = struct.pack("<Q", len(header)) + header + pattern("u1", 3).tobytes() + pattern("<f4", 2).tobytes()
    assert safetensors.torch.load(data)["f"].tolist() == pattern("f4", 2).tolist()
    (folder / "unaligned.safetensors").write_bytes(data)


def write_shards(folder):
    shards = folder / "sharded"
    shards.mkdir(exist_ok=True)
    a, b = torch.from_numpy(pattern("f4", 6).reshape(2, 3)), torch.from_numpy(pattern("i8", 4))
    safetensors.torch.save_file({"a": a}, shards / "model-00001-of-00002.safetensors", {"format": "pt"})
    safetensors.torch.save_file({"b": b}, shards / "model-00002-of-00002.safetensors", {"format": "pt"})
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 56}, "weight_map": weight_map}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_npy(folder, name, array, version=None):
    with open(folder / f"{name}.npy", "wb") as out:
        np.lib.format.write_array(out, array, version=version)


def write_npy(folder):
    for dtype in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]:
        for order in ["<", ">"] if dtype[1] != "1" else ["|"]:
            array = pattern(dtype, 6).reshape(2, 3).astype(order.replace("|", "=") + dtype)
            save_npy(folder, {"<": "little-", ">": "big-", "|": "byte-"}[order] + dtype, array)
    array = pattern("f4", 6).reshape(2, 3)
    for version in [1, 2, 3]:
        save_npy(folder, f"version{version}", array, (version, 0))
    save_npy(folder, "fortran", np.asfortranarray(array))
    with open(folder / "fortran-vector.npy", "wb") as out:  # numpy reads such a header, but never writes it
        np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": True, "shape": (6,)})
        out.write(array.tobytes())
    save_npy(folder, "scalar", array[0, 2])
    save_npy(folder, "empty", array[:0])
    save_npy(folder, "structured", np.zeros(2, dtype=[("a", "<f4"), ("b", "<i2")]))
    save_npy(folder, "complex", np.zeros(2, dtype="<c8"))


QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}  # where the f16 numbers of a block are


def random_blocks(name, rows, row, rng):
    """Rows of blocks with any bits, whose scales are finite."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    data = rng.integers(0, 256, (rows * row // block, size), dtype=np.uint8)
    for at in SCALES[name]:
        scale = rng.standard_normal(len(data)).astype("<f2") * np.float16(0.1)
        data[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


def write_gguf(folder):
    rng = np.random.default_rng(15)
    writer = gguf.GGUFWriter(folder / "types.gguf", "clip")
    writer.add_string("general.name", "caf\u00e9 \"q\"\n")
    for name, value in {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4000000000,
                        "int32": -2000000000, "uint64": 2**64 - 1, "int64": -(2**63), "float32": 1e-5,
                        "float64": 0.1, "bool": True}.items():
        getattr(writer, f"add_{name}")(f"value.{name}", value)
    writer.add_array("array.floats", [0.5, 0.25, 1.0])
    writer.add_array("array.bools", [True, False])
    writer.add_array("array.integers", [-1, 2, 3])
    writer.add_array("array.strings", ["a", "b", "longer"])
    for name, dtype in {"F32": "f4", "F16": "f2", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4",
                        "I64": "i8"}.items():
        writer.add_tensor(name, pattern(dtype, 6).reshape(2, 3))
    bits = (pattern("f4", 6).view("u4") >> 16).astype("u2")
    writer.add_tensor("BF16", bits.view("u1").reshape(2, 6), raw_dtype=gguf.GGMLQuantizationType.BF16)
    values = {}
    for name in QUANTISED:
        kind = gguf.GGMLQuantizationType[name]
        data = random_blocks(name, 3, 256, rng)
        writer.add_tensor(name, data, raw_dtype=kind)
        values[name] = torch.from_numpy(gguf.quants.dequantize(data, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    safetensors.torch.save_file(values, folder / "types-gguf.safetensors")


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder)
    write_shards(folder)
    write_npy(folder)
    write_gguf(folder)


main()
