# SPDX-License-Identifier: MIT
"""Files of other programs, as those programs write them, in place of a file of tensors."""
import collections
import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile

import numpy
import pytest
from safetensors.numpy import load_file, save_file

WEIGHTS = {
    "dict": {"proj.weight": [[1.0, 2.0]], "step": 7},
    "arrays": collections.OrderedDict(weight=numpy.arange(5000.0), bias=numpy.ones(3)),
    "text": ["a" * 9000],
    "nested": {"model": {"x": (1, None, True, b"bytes")}},
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", WEIGHTS)
def test_C14_pickles_of_every_protocol(tenon, protocol, name):
    whole = pickle.dumps(WEIGHTS[name], protocol)
    for data in (whole, whole[2:] if protocol >= 2 else whole):  # with the opcode PROTO, and without
        open("model.safetensors", "wb").write(data)
        said = tenon("inspect", "model.safetensors", code=1).err
        assert "model.safetensors: is a Python pickle" in said and "save its tensors as safetensors" in said
        assert "weights_only" not in said and "allow_pickle" not in said


def archive(kind):
    inner, out = io.BytesIO(), io.BytesIO()
    numpy.save(inner, numpy.ones(3, numpy.float32))
    if kind == "npz":
        numpy.savez(out, x=numpy.ones(3))
    elif kind == "zip":
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("weights/a.safetensors", b"x" * 100)
    elif kind == "torch":  # torch.save names its first file so
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps({}, 2))
    elif kind == "gzip":
        out.write(gzip.compress(inner.getvalue()))
    else:
        with tarfile.open(fileobj=out, mode="w", format=getattr(tarfile, kind)) as file:
            info = tarfile.TarInfo("a.npy")
            info.size = len(inner.getvalue())
            file.addfile(info, io.BytesIO(inner.getvalue()))
    return out.getvalue()


@pytest.mark.parametrize(
    "kind, words",
    [
        ("npz", "is an npz, a zip archive of npy files; unpack it"),
        ("zip", "is a zip archive; unpack it"),
        ("torch", "is a PyTorch checkpoint (a zip archive); tenon.convert"),
        ("gzip", "is compressed with gzip; unpack it with 'gunzip'"),
        ("USTAR_FORMAT", "is a tar archive; unpack it with 'tar -xf'"),
        ("GNU_FORMAT", "is a tar archive"),
        ("PAX_FORMAT", "is a tar archive"),
    ],
)
def test_C14_archives(tenon, make, kind, words):
    open("x.npy", "wb").write(archive(kind))
    assert f"x.npy: {words}" in tenon("inspect", "x.npy", code=1).err
    make("linear", 4, 3)
    assert f"x.npy: {words}" in tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1).err
    assert f"x.npy: {words}" in tenon("run", "x.npy", "adapter.safetensors", "-o", "y.npy", code=1).err


@pytest.mark.parametrize(
    "text, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer: the file itself was not"),
        (b"<!doctype html><html><title>Sign in</title>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "<Code>AccessDenied</Code>"),
        (b'{"error":"Repository not found"}', "Repository not found"),
        (b"Entry not found", "a text file, which begins 'Entry not found'"),
        ('{"weight_map":{}}'.encode("utf-16"), "text in UTF-16"),
        ('{"weight_map":{}}'.encode("utf-8-sig"), "byte order mark"),
    ],
)
def test_C14_pages_and_pointers(tenon, make, text, words):
    open("model.safetensors", "wb").write(text)
    for words_of in (["inspect", "."], ["inspect", "model.safetensors"], ["run", "model.safetensors", "x.npy", "-o", "y.npy"]):
        numpy.save("x.npy", numpy.ones((1, 4, 4), numpy.float32))
        said = tenon(*words_of, code=1).err
        assert words in said and "model.safetensors: " in said


@pytest.fixture
def part(make):
    """A checkpoint of three shards: the connector in the first two, a language model in the third. Its tensors."""
    make("linear", 4, 3)
    tensors = load_file("adapter.safetensors")
    os.mkdir("part")
    save_file({"model.proj.weight": tensors["proj.weight"]}, "part/m-1.safetensors")
    save_file({"model.proj.bias": tensors["proj.bias"]}, "part/m-2.safetensors")
    places = {"model.proj.weight": "m-1.safetensors", "model.proj.bias": "m-2.safetensors"}
    places |= {f"lm.{i}": "m-3.safetensors" for i in range(9)}
    json.dump({"weight_map": places}, open("part/model.safetensors.index.json", "w"))
    json.dump({"type": "linear", "in_dim": 4, "out_dim": 3}, open("config.json", "w"))
    numpy.save("x.npy", numpy.ones((1, 4, 4), numpy.float32))
    return tensors


def test_C11_shards_that_nobody_asks_for_need_not_be_there(tenon, part):
    tenon("run", "adapter.safetensors", "x.npy", "-o", "whole.npy")
    tenon("run", "part", "x.npy", "-o", "part.npy", "--config", "config.json")
    assert open("part.npy", "rb").read() == open("whole.npy", "rb").read()
    assert "absent      shard m-3.safetensors, of 9 tensors" in tenon("inspect", "part", "--config", "config.json").out
    shown = tenon("inspect", "part", "--config", "config.json", "--json").json
    assert shown["absent_shards"] == {"m-3.safetensors": 9}
    tenon("compare", "part", "part", "--tensor", "model.proj.bias")
    said = tenon("compare", "part", "part", "--tensor", "lm.4", code=2).err
    assert "the shard 'm-3.safetensors' was not found beside the index" in said


@pytest.mark.parametrize("what", ["absent", "pointer", "link"])
def test_C11_a_shard_that_is_wanted_is_named(tenon, part, what):
    os.remove("part/m-2.safetensors")
    if what == "pointer":
        open("part/m-2.safetensors", "w").write("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    if what == "link":
        os.symlink("../blobs/gone", "part/m-2.safetensors")
    said = tenon("run", "part", "x.npy", "-o", "y.npy", "--config", "config.json", code=1).err
    assert "part/model.safetensors.index.json: the shard 'm-2.safetensors'" in said
    assert ("is a Git LFS pointer" if what == "pointer" else "was not found beside the index; download it") in said
    assert "it holds tensor 'model.proj.bias'" in said and "1 more shard is absent: 'm-3.safetensors'" in said
    assert not os.path.exists("y.npy")
