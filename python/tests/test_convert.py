# SPDX-License-Identifier: MIT
"""Checkpoints of other forms: there, back, and what they say when something is wrong."""

import collections
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

import tenon
import tenon.convert

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled", "ignore:Validating sparse tensor invariants"
)

CONFIG = tenon.Config("attentional_pool", pool_heads=4, pool_window=2)


def make(dtype="f32"):
    return tenon.build_adapter(CONFIG, 24, 10, seed=1, dtype=dtype)


def tensors(adapter, prefix=""):
    return {prefix + name: torch.from_dlpack(adapter.parameter(name)) for name, *_ in adapter.parameters()}


def same(a, b):
    x = np.random.default_rng(0).standard_normal((2, 16, 24)).astype(np.float32)
    return a(x).tobytes() == b(x).tobytes() and a.dtype == b.dtype and a.config == b.config


@pytest.mark.parametrize("target", ["a.pt", "a.pth", "pytorch_model.bin", "a.safetensors", "folder"])
@pytest.mark.parametrize("prefix", ["", "model.adapter."])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_there_and_back(tmp_path, target, prefix, dtype):
    adapter = make(dtype)
    tenon.convert.save(adapter, tmp_path / target, prefix)
    assert os.listdir(tmp_path) == [target]
    assert same(tenon.convert.load(tmp_path / target, CONFIG), adapter)
    if target == "a.safetensors":
        assert same(tenon.convert.load(tmp_path / target), adapter)
        assert list(load_file(tmp_path / target))[0].startswith(prefix)
    elif target != "folder":
        assert list(torch.load(tmp_path / target, weights_only=True))[0] == prefix + "q_proj.weight"
        with pytest.raises(TypeError, match="does not describe itself; give a config"):
            tenon.convert.load(tmp_path / target)


WRAPPED = ["module.{}", "_orig_mod.model.{}", "a.b._fsdp_wrapped_module.{}", "module.adapter._checkpoint_wrapped_module.{}"]


@pytest.mark.parametrize("pattern", WRAPPED)
def test_names_that_wrappers_leave(tmp_path, pattern):
    adapter = make()
    state = {pattern.format(name): tensor for name, tensor in tensors(adapter).items()}
    tree = {"model": collections.OrderedDict(state, **{"lm.weight": torch.zeros(3)}), "step": 7, "optimizer": {"lr": 0.1}}
    torch.save(tree, tmp_path / "a.pt")
    assert same(tenon.convert.load(tmp_path / "a.pt", CONFIG), adapter)
    save_file(state, tmp_path / "a.safetensors")
    assert same(tenon.convert.load(tmp_path / "a.safetensors", CONFIG), adapter)
    dcp.save({"app": state}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    assert same(tenon.convert.load(tmp_path / "dcp", CONFIG), adapter)


def test_shards(tmp_path):
    adapter = make()
    items = list(tensors(adapter, "mm.").items())
    where = {}
    for number in range(2):
        shard = dict(items[number::2])
        save_file(shard, tmp_path / f"model-{number}.safetensors")
        where |= dict.fromkeys(shard, f"model-{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    for path in (index, tmp_path):
        assert same(tenon.convert.load(path, CONFIG), adapter)
        assert same(tenon.convert.load(path, CONFIG, 24, 10), adapter)


def test_the_hidden_width_is_the_tensors(tmp_path):
    adapter = tenon.build_adapter(tenon.Config("mlp_2layer", hidden_dim=20), 24, 10, seed=1)
    torch.save(tensors(adapter, "mm."), tmp_path / "a.pt")
    found = tenon.convert.load(tmp_path / "a.pt", "mlp_2layer")
    assert same(found, adapter) and found.config == adapter.config
    with pytest.raises(ValueError, match=r"proj1.weight is \[20, 24\], expected \[21, 24\]"):
        tenon.convert.load(tmp_path / "a.pt", tenon.Config("mlp_2layer", hidden_dim=21))


def test_several_connectors(tmp_path):
    first, second = make(), tenon.build_adapter(CONFIG, 24, 10, seed=2)
    torch.save(tensors(first, "image.") | tensors(second, "video."), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="under 2 prefixes: 'image.', 'video.'; choose one with prefix"):
        tenon.convert.load(tmp_path / "a.pt", CONFIG)
    assert same(tenon.convert.load(tmp_path / "a.pt", CONFIG, prefix="video."), second)
    with pytest.raises(ValueError, match=r"prefix 'audio.'; missing: q_proj.weight, .*seen: 'image.k_proj.' \(2 tensors\)"):
        tenon.convert.load(tmp_path / "a.pt", CONFIG, prefix="audio.")


def test_what_is_no_checkpoint_of_this_connector(tmp_path):
    torch.save({"lm.weight": torch.zeros(2)}, tmp_path / "lm.pt")
    with pytest.raises(ValueError, match=r"missing: proj.weight, proj.bias; prefixes seen: 'lm.' \(1 tensors\)"):
        tenon.convert.load(tmp_path / "lm.pt", "linear")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds an object of type list; expected a state dict"):
        tenon.convert.load(tmp_path / "list.pt", "linear")
    torch.save({"x": subprocess.Popen}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"code.pt: holds an object of class \w+.Popen, which would run code"):
        tenon.convert.load(tmp_path / "code.pt", "linear")
    (tmp_path / "noise.bin").write_bytes(b"noise")
    with pytest.raises(ValueError, match="noise.bin"):
        tenon.convert.load(tmp_path / "noise.bin", "linear")
    torch.save({"proj.weight": torch.zeros(0), "proj.bias": torch.zeros(3)}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match=r"proj.weight is \[0\], expected \[3, \?\] \(empty: saved from a sharded run\?\)"):
        tenon.convert.load(tmp_path / "empty.pt", "linear")
    torch.save({"proj.weight": torch.zeros(2, 3), "proj.bias": torch.zeros(3)}, tmp_path / "shape.pt")
    with pytest.raises(ValueError, match=r"shape.pt does not fit.*proj.bias is \[3\], expected \[2\]"):
        tenon.convert.load(tmp_path / "shape.pt", "linear")
    with pytest.raises(ValueError, match=r"proj.weight is \[2, 3\], expected \[2, 8\]"):
        tenon.convert.load(tmp_path / "shape.pt", "linear", in_dim=8)
    torch.save({"proj.weight": torch.zeros(2, 3).to_sparse(), "proj.bias": torch.zeros(2)}, tmp_path / "sparse.pt")
    with pytest.raises(ValueError, match=r"proj.weight is a sparse tensor \(sparse_coo\), expected F32, BF16 or F16"):
        tenon.convert.load(tmp_path / "sparse.pt", "linear")
    for missing in ("none.pt", "none.safetensors"):
        with pytest.raises(FileNotFoundError):
            tenon.convert.load(tmp_path / missing, "linear")
    with pytest.raises(ValueError, match="files end in .safetensors, .pt, .pth or .bin"):
        tenon.convert.save(make(), tmp_path / "a.gguf")


def test_doubles_are_narrowed(tmp_path):
    adapter = make()
    torch.save({name: tensor.double() for name, tensor in tensors(adapter).items()}, tmp_path / "a.pt")
    assert same(tenon.convert.load(tmp_path / "a.pt", CONFIG), adapter)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    adapter = make()
    tenon.convert.save(adapter, tmp_path / "a.pt")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        tenon.convert.save(adapter, tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]
    assert same(tenon.convert.load(tmp_path / "a.pt", CONFIG), adapter)


def test_the_command(tmp_path, capsys, monkeypatch):
    adapter = make()
    tenon.convert.save(adapter, tmp_path / "a.pt", "x.")
    words = [str(tmp_path / "a.pt"), str(tmp_path / "a.safetensors")]
    command = [sys.executable, "-m", "tenon.convert", *words, "--config", CONFIG.to_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "attentional_pool 24 -> 10, f32" in done.stdout and not done.stderr, done
    assert same(tenon.load(tmp_path / "a.safetensors"), adapter)
    for options, sentence in ((["--type", "linear"], "missing: proj.weight, proj.bias"), (["--toml", "none"], "none")):
        with pytest.raises(SystemExit) as caught:
            tenon.convert.main([*words, *options])
        said = capsys.readouterr().err
        assert caught.value.code == 1 and said.startswith("tenon.convert: ") and said.count("\n") == 1
        assert sentence in said
    with pytest.raises(SystemExit):
        tenon.convert.main([*words, "--type", "linear", "--config", "{}"])
    assert "give one of --type, --config and --toml" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    for wrong in (["-", "b.pt"], ["a.pt", "-"], ["a.pt", "b.pt", "--toml", "-"]):
        with pytest.raises(SystemExit) as caught:
            tenon.convert.main(wrong)
        assert caught.value.code == 2 and "takes a file, not '-'" in capsys.readouterr().err
    assert not (tmp_path / "-").exists()
