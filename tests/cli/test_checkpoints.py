# SPDX-License-Identifier: MIT
"""Connectors in checkpoints of other programs: what the command finds by itself, and what it has to be told."""
import json

import numpy
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def bare(tenon, make, rng):
    """A checkpoint with a wrapped connector under other names, a config that tells the type alone, and features."""
    adapter = make("mlp_2layer", 8, 6, hidden=10, seed=3)
    tensors = load_file("adapter.safetensors")
    names = {"proj1": "linear_1", "proj2": "linear_2"}

    def write(pattern, rename):
        state = {}
        for name, tensor in tensors.items():
            layer, kind = name.split(".")
            state[pattern.format(names[layer] if rename else layer) + "." + kind] = tensor
        save_file(state | {"lm.head.weight": numpy.zeros((2, 3), numpy.float32)}, "model.safetensors")
        with open("config.json", "w") as file:
            json.dump({"type": "mlp_2layer"}, file)
        numpy.save("x.npy", rng.standard_normal((2, 4, 8)).astype(numpy.float32))
        tenon("run", "adapter.safetensors", "x.npy", "-o", "expected.npy")
        return adapter

    return write


def commands(more):
    return [
        ["inspect", "model.safetensors", "--json", *more],
        ["run", "model.safetensors", "x.npy", "-o", "y.npy", *more],
        ["bench", "model.safetensors", "--tokens", 4, "--batch", 1, "--repeat", 1, *more],
        ["fit", "--model", "model.safetensors", "--features", "x.npy", "--targets", "expected.npy", "--steps", 1,
         "-o", "fitted.safetensors", *more],
    ]


def check(tenon, more):
    inspected, *_ = [tenon(*words) for words in commands(more)]
    described = inspected.json
    assert (described["in_dim"], described["out_dim"], described["config"]["hidden_dim"]) == (8, 6, 10)
    assert numpy.array_equal(numpy.load("y.npy"), numpy.load("expected.npy"))
    assert tenon("inspect", "fitted.safetensors", "--json").json["config"]["hidden_dim"] == 10
    return described


@pytest.mark.parametrize("pattern", ["{}", "mm.{}", "module.mm.{}._orig_mod", "model._fsdp_wrapped_module.mm.module.{}"])
def test_a_type_is_enough(tenon, bare, pattern):
    bare(pattern, False)
    if pattern == "{}":  # a connector without a prefix among other tensors
        tenon("inspect", "model.safetensors", "--config", "config.json", code=1)
        state = load_file("model.safetensors")
        del state["lm.head.weight"]
        save_file(state, "model.safetensors")
    described = check(tenon, ["--config", "config.json"])
    assert described["tensors_used"] == 4 and described["tensors_unused"] == (pattern != "{}")


@pytest.mark.parametrize(
    "renames",
    [
        ["--rename", "mm.linear_1=proj1,mm.linear_2=proj2"],
        ["--rename", "mm.linear_1=proj1", "--rename", "mm.linear_2=proj2"],
        ["--rename=module.mm.linear_1=x.proj1", "--rename", "module.mm.linear_2.=x.proj2.", "--prefix", "x"],
        ["--rename", "mm=,mm.linear_1=proj1,mm.linear_2=proj2"],
    ],
)
def test_names_are_mapped(tenon, bare, renames):
    bare("module.mm.{}", True)
    check(tenon, ["--config", "config.json", *renames])


def test_names_that_cannot_be_mapped(tenon, bare):
    bare("mm.{}", True)
    for words in commands(["--config", "config.json", "--rename", "linear_1=proj1"]):
        refused = tenon(*words, code=1)
        assert "no tensor is named 'linear_1' or begins with 'linear_1.'" in refused.err
        assert "nearest: 'mm.linear_1'" in refused.err
        for wrong in ("linear_1", "=proj1", "a=b,c", ""):
            assert "--rename takes OLD=NEW, got '" in tenon(*words[:-1], wrong, code=2).err
    twice = tenon("inspect", "model.safetensors", "--config", "config.json", "--rename", "mm=a", "--rename", "mm=b", code=1)
    assert "maps 'mm' twice, to 'a' and to 'b'" in twice.err


def test_C40_many_unmatched_tensors(tenon, bare):
    bare("mm.{}", True)
    state = {f"model.layers.{i}.weight": numpy.zeros(1, numpy.float32) for i in range(528)}
    save_file(load_file("adapter.safetensors") | state, "model.safetensors")
    refused = tenon("run", "model.safetensors", "x.npy", "-o", "y.npy", "--config", "config.json", code=1)
    assert " and 520 more; prefixes seen: 'model.layers.' (528 tensors)" in refused.err and len(refused.err) < 700


def test_C37_names_are_escaped(tenon, bare):
    bare("mm.{}", True)
    save_file({"a\x1b[31m\n.proj.weight": numpy.zeros((2, 3), numpy.float32)}, "model.safetensors")
    refused = tenon("run", "model.safetensors", "x.npy", "-o", "y.npy", "--config", "config.json", code=1)
    assert "\x1b" not in refused.err and "a\\x1b[31m\\x0a." in refused.err
