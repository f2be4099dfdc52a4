# SPDX-License-Identifier: MIT
"""What JSON cannot say, in the results and records of every subcommand: bytes that are not UTF-8, infinities, NaN."""
import json
import os

import numpy
import pytest
from safetensors.numpy import save_file

ODD, WRITTEN = os.fsdecode(b"caf\xe9"), "caf\\xe9"


@pytest.fixture
def odd(make, rng):
    """A connector and features whose names are Latin-1."""
    make("avgpool", 8, 6, name=f"{ODD}.safetensors")
    numpy.save(f"{ODD}.npy", rng.normal(size=(2, 16, 8)).astype(numpy.float32))


def test_C30_file_names_in_results(tenon, odd):
    words = ["init", "--type", "linear", "--in-dim", 4, "--out-dim", 3, "-o", f"{ODD}2.safetensors", "--json"]
    assert tenon(*words).json["file"] == WRITTEN + "2.safetensors"
    assert tenon("inspect", f"{ODD}.safetensors", "--json").json["file"] == WRITTEN + ".safetensors"
    assert tenon("inspect", f"{ODD}.npy", "--json", code=1).json["file"] == WRITTEN + ".npy"
    result = tenon("run", f"{ODD}.safetensors", f"{ODD}.npy", "-o", f"{ODD}3.npy", "--json").json
    assert [result[k] for k in ("model", "features", "output")] == [WRITTEN + end for end in (".safetensors", ".npy", "3.npy")]
    result = tenon("compare", f"{ODD}.npy", f"{ODD}.npy", "--json").json
    assert result["a"] == result["b"] == WRITTEN + ".npy"
    words = ["bench", f"{ODD}.safetensors", "--tokens", 16, "--repeat", 1, "--threads", 1, "--json"]
    assert tenon(*words).json["model"] == WRITTEN + ".safetensors"


def test_C30_shards_in_the_manifest(tenon, odd, rng):
    os.mkdir("in")
    for name in (ODD, "caf\u00e9", "a\\b"):
        numpy.save(f"in/{name}.npy", rng.normal(size=(1, 16, 8)).astype(numpy.float32))
    save_file({"caf\u00e9": rng.normal(size=(1, 16, 8)).astype(numpy.float32)}, "in/z.safetensors")
    words = ["run", f"{ODD}.safetensors", "in", "-o", "out", "--tensor", "caf\u00e9", "--json"]
    assert tenon(*words).json["shards"] == {"done": 4, "skipped": 0}
    manifest = json.load(open("out/manifest.json"))
    assert sorted(manifest["shards"]) == ["a\\b.npy", "caf\\xe9.npy", "caf\u00e9.npy", "z.safetensors"]
    assert manifest["options"]["tensor"] == "caf\u00e9"
    assert tenon(*words).json["shards"] == {"done": 0, "skipped": 4}
    assert sorted(os.listdir("out")) == sorted([*os.listdir("in"), "manifest.json"])


def test_C30_differences_that_are_no_numbers(tenon):
    for name, value in (("a", numpy.inf), ("b", 0), ("c", numpy.nan)):
        numpy.save(f"{name}.npy", numpy.array([[1, value]], numpy.float32))
    got = tenon("compare", "a.npy", "b.npy", "--json", code=1).json["tensors"][0]
    assert got["absolute"]["value"] == "inf"
    got = tenon("compare", "c.npy", "b.npy", "--json", code=1).json["tensors"][0]
    assert got["nans"] == 1
