# SPDX-License-Identifier: MIT
"""State dicts, files, copies."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from others import other
from safetensors.numpy import load_file, save_file

import tenon
from tenon import _C

torch = other("torch")


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 16, 8)).astype(np.float32)


def test_a_state_dict_goes_round(x):
    adapter = tenon.build_adapter("mlp_2layer", 8, 6, seed=2)
    state = adapter.state_dict()
    assert list(state) == ["proj1.weight", "proj1.bias", "proj2.weight", "proj2.bias"]
    assert adapter.num_parameters == sum(value.size for value in state.values())
    other = tenon.build_adapter("mlp_2layer", 8, 6)
    assert other.dtype is None and "without parameters" in repr(other)
    other.load_state_dict(state)
    expected = adapter(x)
    assert other(x).tobytes() == expected.tobytes()
    state["proj1.bias"][:] = 9  # copies, on the way out and on the way in
    assert adapter(x).tobytes() == other(x).tobytes() == expected.tobytes()
    other.load_state_dict({f"model.{name}": torch.tensor(value) for name, value in state.items()}, prefix="model.")
    assert other(x).tobytes() != expected.tobytes()


def test_new_parameters_are_used_at_once(x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    adapter(x)
    adapter.set_parameter("proj.weight", np.zeros((6, 8), np.float32))
    adapter.set_parameter("proj.bias", np.arange(6, dtype=np.float16))
    assert (adapter(x) == np.arange(6)).all()
    assert adapter.dtype == "f32" and adapter.state_dict()["proj.bias"].dtype == np.float16


def test_strided_parameters_are_copied_dense(x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    state, expected = adapter.state_dict(), adapter(x)
    state["proj.weight"] = np.asfortranarray(state["proj.weight"])
    adapter.load_state_dict(state)
    assert adapter(x).tobytes() == expected.tobytes()


def test_bad_state_dicts_change_nothing(x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    good, expected = adapter.state_dict(), adapter(x)
    with pytest.raises(KeyError, match="missing: proj.bias; unexpected: bias; the adapter has proj.weight, proj.bias"):
        adapter.load_state_dict({"proj.weight": good["proj.weight"], "bias": good["proj.bias"]})
    with pytest.raises(ValueError, match=r"parameter 'proj.bias' has shape \(7,\); expected \(6,\)"):
        adapter.load_state_dict({"proj.weight": good["proj.weight"] + 1, "proj.bias": np.zeros(7, np.float32)})
    with pytest.raises(ValueError, match="parameter 'proj.bias' is .*; expected float32, bfloat16 or float16"):
        adapter.load_state_dict({"proj.weight": good["proj.weight"] + 1, "proj.bias": np.zeros(6)})
    assert adapter(x).tobytes() == expected.tobytes()
    lacking = adapter.load_state_dict({"proj.weight": good["proj.weight"] * 0, "other": x}, strict=False)
    assert lacking.missing == ["proj.bias"] and lacking.unexpected == ["other"]
    assert (adapter(x) == good["proj.bias"]).all()


def test_bfloat16_parameters():
    adapter = tenon.build_adapter("linear", 8, 6, seed=2, dtype="bf16")
    state = adapter.state_dict()
    assert state["proj.weight"].dtype == ml_dtypes.bfloat16
    wide = adapter.state_dict("float32")
    assert wide["proj.weight"].dtype == np.float32
    assert (wide["proj.weight"] == state["proj.weight"].astype(np.float32)).all()
    tensor = torch.from_dlpack(adapter.parameter("proj.weight"))
    assert tensor.dtype == torch.bfloat16 and (tensor.float().numpy() == wide["proj.weight"]).all()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_files(tmp_path, x, dtype):
    adapter = tenon.build_adapter(tenon.Config("attentional_pool", pool_heads=2), 8, 6, seed=2, dtype=dtype)
    adapter.save(tmp_path / "a.safetensors")
    loaded = tenon.load(str(tmp_path / "a.safetensors"))
    assert loaded.config == adapter.config and loaded.dtype == dtype
    assert loaded(x).tobytes() == adapter(x).tobytes()
    fresh = tenon.build_adapter(adapter.config, 8, 6)
    assert fresh.load(tmp_path / "a.safetensors") == ("", 10, 0)
    assert fresh(x).tobytes() == adapter(x).tobytes()


def test_files_of_others(tmp_path, x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    state = {f"model.adapter.{name}": value for name, value in adapter.state_dict().items()}
    save_file(state | {"lm.weight": x}, tmp_path / "m.safetensors")
    loaded = tenon.load(tmp_path / "m.safetensors", config="linear", in_dim=8, out_dim=6)
    assert loaded(x).tobytes() == adapter(x).tobytes()
    described = {"type": "linear", "in_dim": 8, "out_dim": 6}  # as the sentence below advises
    assert tenon.load(tmp_path / "m.safetensors", described)(x).tobytes() == adapter(x).tobytes()
    report = loaded.load(tmp_path / "m.safetensors", prefix="model.adapter.")
    assert report.prefix == "model.adapter." and (report.num_used, report.num_unused) == (2, 1)
    with pytest.raises(KeyError, match="carries no adapter config"):
        tenon.load(tmp_path / "m.safetensors")
    assert tenon.load(tmp_path / "m.safetensors", config="linear")(x).tobytes() == adapter(x).tobytes()
    with pytest.raises(ValueError, match=r"proj.weight is \[6, 8\], expected \[6, 9\]"):
        tenon.load(tmp_path / "m.safetensors", config="linear", in_dim=9)
    renamed = {"model.adapter": "mm"}
    assert tenon.load(tmp_path / "m.safetensors", "linear", rename=renamed)(x).tobytes() == adapter(x).tobytes()
    assert loaded.load(tmp_path / "m.safetensors", rename=renamed).prefix == "mm."
    with pytest.raises(KeyError, match="no tensor is named 'adapter' or begins with 'adapter.'.*nearest: 'model.adapter'"):
        tenon.load(tmp_path / "m.safetensors", "linear", rename={"adapter": "mm"})
    with pytest.raises(TypeError, match="rename is of type list; expected a mapping"):
        tenon.load(tmp_path / "m.safetensors", "linear", rename=["adapter=mm"])
    loaded.save(tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="out.safetensors has out_dim 6; expected 7"):
        tenon.load(tmp_path / "out.safetensors", out_dim=7)
    assert load_file(tmp_path / "out.safetensors")["proj.bias"].tobytes() == state["model.adapter.proj.bias"].tobytes()


def test_files_that_fail(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors: cannot open it: No such file or directory"):
        tenon.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="bad.safetensors"):
        tenon.load(tmp_path / "bad.safetensors")
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    with pytest.raises(OSError, match="none"):
        adapter.save(tmp_path / "none" / "a.safetensors")
    with pytest.raises(ValueError, match="safetensors"):
        adapter.save(tmp_path / "a.pt")
    with pytest.raises(TypeError):
        tenon.load(3)


def test_no_parameters():
    adapter = tenon.build_adapter("linear", 8, 6)
    for call in (lambda: adapter(np.zeros((1, 1, 8), np.float32)), adapter.prepare, adapter.state_dict):
        with pytest.raises(ValueError, match="parameter 'proj.weight' has no storage; reset, load or set"):
            call()


def test_released_parameters(x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    expected = adapter(x)
    adapter.release_parameters()
    assert adapter(x).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="no storage"):
        adapter.state_dict()


@pytest.mark.parametrize("clone", [lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_copies(x, clone, dtype):
    adapter = tenon.build_adapter("mlp_2layer", 8, 6, seed=2, dtype=dtype)
    expected = adapter(x)
    other = clone(adapter)
    assert type(other) is tenon.Adapter and other(x).tobytes() == expected.tobytes()
    other.reset_parameters(3)
    assert adapter(x).tobytes() == expected.tobytes() != other(x).tobytes()
    assert clone(tenon.build_adapter("linear", 8, 6)).dtype is None


def test_borrowed_parameters_stay_alive(x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    expected = adapter(x)
    arrays = list(adapter.state_dict().values())
    _C.Adapter.set_parameters(adapter, arrays)
    del arrays
    rubbish = [np.full((6, 8), 3, np.float32) for _ in range(10)]
    assert adapter(x).tobytes() == expected.tobytes()
    assert len(rubbish) == 10
    owner = adapter.state_dict()
    raw = [(value.ctypes.data, _C.F32, value.shape, None) for value in owner.values()]
    _C.Adapter.set_parameters(adapter, raw, owner)
    owner["proj.bias"][:] += 1
    adapter.prepare()
    assert np.allclose(adapter(x), expected + 1, atol=1e-6)


def test_the_cpu_level(x):
    adapter = tenon.build_adapter("linear", 8, 6, seed=2)
    assert adapter.cpu is None
    adapter.prepare("baseline")
    assert adapter.cpu == "baseline"
    adapter(x)
    assert adapter.cpu == "baseline"
    adapter.prepare(threads=1)
    assert adapter.cpu == tenon.cpu_levels()[-1]
    assert adapter.flops(16) == 2 * 16 * 8 * 6
    assert adapter.workspace_size(16) > 0
    assert [layer[:2] for layer in adapter.layers] == [("linear", "proj")]


def test_the_graph():
    graph = tenon.Adapter({"type": "avgpool", "pool_window": 3, "prefix_tokens": 1}, 8, 6).graph
    assert (graph["type"], graph["in_dim"], graph["out_dim"], graph["prefix_tokens"]) == ("avgpool", 8, 6, 1)
    assert graph["inputs"] == [{"name": "features", "value": 0}] and graph["integers"] == []
    assert graph["spaces"][1] == {"kind": "windows", "parent": 0, "side": 3, "ragged": "partial", "is_pool": True, "transposed": False}
    assert [layer["type"] for layer in graph["layers"]] == ["window_mean", "linear"]
    assert graph["layers"][1] == {
        "type": "linear", "name": "proj", "reach": "row", "inputs": [1], "output": 2,
        "settings": {"bias": True, "transposed": False}, "parameters": ["proj.weight", "proj.bias"],
    }  # fmt: skip
    assert graph["values"][2] == {"space": 1, "width": 6, "layer": 1}
    assert graph["outputs"] == [{"name": "tokens", "value": 2}]
    assert graph["parameters"][0] == {
        "name": "proj.weight", "shape": [6, 8], "initial": {"rule": "kaiming_uniform", "fan_in": 8}, "decays": True,
    }  # fmt: skip
