# SPDX-License-Identifier: MIT
"""Files of other programs, as those programs write them, in place of a file of tensors."""
import collections
import gzip
import io
import pickle
import tarfile
import zipfile

import numpy
import pytest

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
