# SPDX-License-Identifier: MIT
"""Reports about checkpoints, at tenon.load and at tenon.convert: one rule, whatever the form and the door."""

import json
import os
import pickle
import stat
import struct
import sys

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import save_file

import tenon
import tenon.convert

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled", "ignore:Validating sparse tensor invariants"
)

DOORS = [tenon.load, tenon.convert.load]


def linear(value, columns=3):
    return {"mm.proj.weight": torch.full((2, columns), float(value)), "mm.proj.bias": torch.full((2,), float(value))}


def weight(adapter):
    return float(adapter.state_dict("float32")["proj.weight"].flat[0])


def write_index(folder, where, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder / name


# ---- folders and indexes ----


@pytest.mark.parametrize("load", DOORS)
def test_C6_a_stray_file_does_not_win_over_the_index(tmp_path, load):
    save_file(linear(1), tmp_path / "a.safetensors")
    save_file({"mm.proj.weight": linear(2)["mm.proj.weight"]}, tmp_path / "b.safetensors")
    write_index(tmp_path, dict.fromkeys(linear(1), "a.safetensors"))
    assert weight(load(tmp_path, "linear")) == 1
    assert weight(load(tmp_path, "linear", 3, 2)) == 1


@pytest.mark.parametrize("load", DOORS)
def test_C6_model_safetensors_is_what_is_meant(tmp_path, load):
    save_file(linear(1), tmp_path / "model.safetensors")
    save_file(linear(2), tmp_path / "old_backup.safetensors")
    assert weight(load(tmp_path, "linear")) == 1
    os.rename(tmp_path / "model.safetensors", tmp_path / "x1.safetensors")
    with pytest.raises(ValueError, match="holds 2 safetensors files.*name the (file|one) to read"):
        load(tmp_path, "linear")


@pytest.mark.parametrize("load", DOORS)
def test_C6_of_two_indexes_the_usual_one_is_taken(tmp_path, load):
    save_file(linear(1), tmp_path / "a.safetensors")
    save_file(linear(2), tmp_path / "b.safetensors")
    write_index(tmp_path, dict.fromkeys(linear(1), "a.safetensors"))
    write_index(tmp_path, dict.fromkeys(linear(1), "b.safetensors"), "a.safetensors.index.json")
    assert weight(load(tmp_path, "linear")) == 1


@pytest.mark.parametrize("load", DOORS)
@pytest.mark.parametrize("name", ["../secret/x.safetensors", "/{}/secret/x.safetensors", "sub/../../secret/x.safetensors"])
def test_C10_B93_names_of_shards_stay_inside_the_folder(tmp_path, load, name):
    for folder in ("secret", "model"):
        os.mkdir(tmp_path / folder)
    save_file(linear(7), tmp_path / "secret/x.safetensors")
    index = write_index(tmp_path / "model", dict.fromkeys(linear(1), name.format(tmp_path)))
    for path in (index, tmp_path / "model"):
        with pytest.raises(ValueError, match="only plain names inside the folder are opened"):
            load(path, "linear")
    os.symlink(tmp_path / "secret/x.safetensors", tmp_path / "model/link.safetensors")
    write_index(tmp_path / "model", dict.fromkeys(linear(1), "link.safetensors"))
    with pytest.raises(ValueError, match="leads out of the folder"):
        load(index, "linear")


def write_shards(folder, how, suffix):
    """The connector in shards 1 and 2, a language model in shard 3."""
    state = linear(1)
    shards = [{"mm.proj.weight": state["mm.proj.weight"]}, {"mm.proj.bias": state["mm.proj.bias"]}, {"lm.x": torch.ones(5)}]
    where = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number}{suffix}"
        how(shard, folder / name)
        where |= dict.fromkeys(shard, name)
    return write_index(folder, where, f"{'pytorch_model' if suffix == '.bin' else 'model'}{suffix}.index.json")


FORMS = [(save_file, ".safetensors"), (torch.save, ".bin")]


@pytest.mark.parametrize(("how", "suffix"), FORMS)
def test_C11_shards_that_are_not_needed_need_not_be_there(tmp_path, how, suffix):
    index = write_shards(tmp_path, how, suffix)
    for path in (index, tmp_path):
        assert weight(tenon.convert.load(path, "linear")) == 1
    os.remove(tmp_path / f"model-3{suffix}")
    assert weight(tenon.convert.load(index, "linear")) == 1
    (tmp_path / f"model-3{suffix}").write_bytes(NOT_WEIGHTS["Git LFS pointer"])
    assert weight(tenon.convert.load(index, "linear")) == 1
    os.remove(tmp_path / f"model-2{suffix}")
    with pytest.raises((KeyError, FileNotFoundError), match=rf"index.json.*model-2{suffix}.*mm.proj.bias"):
        tenon.convert.load(index, "linear")


@pytest.mark.parametrize(("how", "suffix"), FORMS)
def test_C11_indexes_that_do_not_fit_their_shards(tmp_path, how, suffix):
    index = write_shards(tmp_path, how, suffix)
    how(linear(2), tmp_path / f"model-2{suffix}")
    with pytest.raises(ValueError, match=f"maps tensor 'mm.proj.weight' to the shard 'model-1{suffix}', but"):
        tenon.convert.load(index, "linear")
    how({"other": torch.ones(1)}, tmp_path / f"model-2{suffix}")
    with pytest.raises(ValueError, match="'mm.proj.bias' to the shard 'model-2.*', which does not hold it"):
        tenon.convert.load(index, "linear")


@pytest.mark.parametrize("name", ["../secret/x.bin", "/{}/secret/x.bin", "C:x.bin", "sub/../../secret/x.bin", "link.bin"])
def test_C10_B93_indexes_of_pytorch_files_stay_inside_the_folder(tmp_path, name):
    for folder in ("secret", "model"):
        os.mkdir(tmp_path / folder)
    torch.save(linear(7), tmp_path / "secret/x.bin")
    os.symlink(tmp_path / "secret/x.bin", tmp_path / "model/link.bin")
    where = dict.fromkeys(linear(1), name.format(tmp_path))
    index = write_index(tmp_path / "model", where, "pytorch_model.bin.index.json")
    for path in (index, tmp_path / "model"):
        with pytest.raises(ValueError, match="only plain names inside the folder are opened|leads out of the folder"):
            tenon.convert.load(path, "linear")


@pytest.mark.parametrize(("how", "suffix"), FORMS)
@pytest.mark.parametrize("sub", ["", "connector"])
def test_C8_links_of_a_cache(tmp_path, how, suffix, sub):
    """snapshots/REVISION/any/sub/folder/x -> blobs/ of the same model is inside."""
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/abc" / sub
    os.makedirs(blobs)
    os.makedirs(snapshot)
    write_shards(blobs, how, suffix)
    for number, file in enumerate(sorted(blobs.iterdir())):
        os.rename(file, blobs / str(number))
        os.symlink(os.path.relpath(blobs / str(number), snapshot), snapshot / file.name)
    assert weight(tenon.convert.load(snapshot, "linear")) == 1
    index = next(file for file in snapshot.iterdir() if file.suffix == ".json")
    assert weight(tenon.convert.load(index, "linear")) == 1


FILES = [(torch.save, "pytorch_model.bin"), (save_file, "model.safetensors")]


@pytest.mark.parametrize("form", ["bin", "safetensors", "index", "distributed"])
def test_the_root_of_a_cache(tmp_path, form):
    """The snapshot that refs/main names, or the only one, in every form."""

    def write(state, snapshot):
        os.makedirs(snapshot)
        if form == "distributed":
            save_distributed(state, snapshot / "x")
            for file in (snapshot / "x").iterdir():
                os.rename(file, snapshot / file.name)
            os.rmdir(snapshot / "x")
        elif form == "index":
            torch.save(state, snapshot / "part-1.bin")
            index = {"weight_map": dict.fromkeys(state, "part-1.bin")}
            (snapshot / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        else:
            how, name = FILES[form == "safetensors"]
            how(state, snapshot / name)

    root = tmp_path / "models--a--b"
    write(linear(1), root / "snapshots" / "abc")
    assert weight(tenon.convert.load(root, "linear")) == 1
    write(linear(2), root / "snapshots" / "def")
    with pytest.raises(ValueError, match="2 snapshots, and refs/main names none of them"):
        tenon.convert.load(root, "linear")
    os.mkdir(root / "refs")
    (root / "refs" / "main").write_text("def\n")
    assert weight(tenon.convert.load(root, "linear")) == 2
    (root / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(ValueError, match="refs/main names none of them"):
        tenon.convert.load(root, "linear")


@pytest.mark.parametrize(("how", "suffix"), FORMS)
def test_C13_an_index_that_is_a_link(tmp_path, how, suffix):
    for folder in ("here", "there"):
        os.mkdir(tmp_path / folder)
    index = write_shards(tmp_path / "there", how, suffix)
    os.symlink(index, tmp_path / "here" / index.name)
    assert weight(tenon.convert.load(tmp_path / "here" / index.name, "linear")) == 1


def test_C6_two_models_of_pytorch_in_a_folder(tmp_path):
    write_shards(tmp_path, torch.save, ".bin")
    torch.save(linear(2), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="these are two models"):
        tenon.convert.load(tmp_path, "linear")
    os.remove(tmp_path / "pytorch_model.bin.index.json")
    assert weight(tenon.convert.load(tmp_path, "linear")) == 2
    save_file(linear(3), tmp_path / "model.safetensors")
    assert weight(tenon.convert.load(tmp_path, "linear")) == 3


# ---- what a file is ----

NOT_WEIGHTS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "HTML page": b"<!DOCTYPE html><html><body>Access denied</body></html>",
    "XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "error message in JSON": b'{"error": "Repository not found"}',
    "is empty": b"",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3",
    "Python pickle": pickle.dumps({"a": 1}, 4),
    "GGUF": b"GGUF\3\0\0\0",
}


@pytest.mark.parametrize("load", DOORS)
@pytest.mark.parametrize("what", NOT_WEIGHTS)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "pytorch_model.bin"])
def test_C14_files_are_named_for_what_they_are(tmp_path, load, what, name):
    (tmp_path / name).write_bytes(NOT_WEIGHTS[what])
    with pytest.raises(ValueError, match=what) as caught:
        load(tmp_path / name, "linear")
    assert "weights_only" not in str(caught.value)


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


class Nested:
    pass


@pytest.mark.parametrize("legacy", [False, True])
def test_C14_nothing_advises_to_load_code(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    for content in ({"x": Command()}, Nested(), {"x": Nested(), **linear(1)}):
        torch.save(content, tmp_path / "code.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match="code.pt: holds an object of class .*, which would run code") as caught:
            tenon.convert.load(tmp_path / "code.pt", "linear")
        assert "weights_only" not in str(caught.value) and "safe_globals" not in str(caught.value)
    assert not os.path.exists("ran")


def test_B45_the_content_tells_the_form(tmp_path):
    torch.save(linear(1), tmp_path / "a.safetensors")
    torch.save(linear(1), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(linear(1), tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt", "old.pt"):
        assert weight(tenon.convert.load(tmp_path / name, "linear")) == 1


def test_damaged_files_get_a_sentence(tmp_path):
    """Cut and flipped at many places: ValueError and one line, or the right weights."""
    torch.save(linear(1), tmp_path / "a.pt")
    torch.save(linear(1), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(3)
    for name in ("a.pt", "old.pt"):
        whole = (tmp_path / name).read_bytes()
        for turn in range(60):
            damaged = bytearray(whole)
            if turn % 2:
                del damaged[int(rng.integers(1, len(whole))) :]
            else:
                damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
            (tmp_path / "damaged.pt").write_bytes(damaged)
            try:
                tenon.convert.load(tmp_path / "damaged.pt", "linear")
            except ValueError as error:
                assert "\n" not in str(error) and "weights_only" not in str(error)


# ---- tensors as PyTorch means them ----


def test_C19_negative_and_conjugate_bits_are_resolved(tmp_path):
    z = torch.complex(torch.arange(6.0).reshape(2, 3), torch.arange(1.0, 7.0).reshape(2, 3))
    state = {"proj.weight": z.conj().imag, "proj.bias": z.conj().imag[:, 0]}
    assert state["proj.weight"].is_neg()
    torch.save(state, tmp_path / "a.pt")
    expected = state["proj.weight"].resolve_neg().numpy()
    assert np.array_equal(tenon.convert.load(tmp_path / "a.pt", "linear").state_dict()["proj.weight"], expected)
    strided = {"proj.weight": torch.arange(24.0).reshape(4, 6).t()[::2, 1:], "proj.bias": torch.arange(6.0)[::2]}
    torch.save(strided, tmp_path / "strided.pt")
    loaded = tenon.convert.load(tmp_path / "strided.pt", "linear").state_dict()
    assert np.array_equal(loaded["proj.weight"], strided["proj.weight"].numpy())


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, 3).to_sparse(), r"a sparse tensor \(sparse_coo\)"),
        (torch.zeros(2, 3).to_sparse_csr(), r"a sparse tensor \(sparse_csr\)"),
        (torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8), r"a quantized tensor \(qint8\)"),
        (torch.zeros(2, 3, device="meta"), "a tensor on the meta device, without values"),
        (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 3, dtype=torch.int8), "int8"),
        (torch.zeros(2, 3, dtype=torch.bool), "bool"),
    ],
)
def test_tensors_without_numbers_of_their_own(tmp_path, tensor, said):
    torch.save({"proj.weight": tensor, "proj.bias": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"proj.weight is {said}, expected F32, BF16 or F16"):
        tenon.convert.load(tmp_path / "a.pt", "linear")
    torch.save({**linear(1), "lm.weight": tensor}, tmp_path / "beside.pt")
    assert weight(tenon.convert.load(tmp_path / "beside.pt", "linear")) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_other_floats_become_f32(tmp_path, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in linear(1.5).items()}, tmp_path / "a.pt")
    adapter = tenon.convert.load(tmp_path / "a.pt", "linear")
    assert adapter.dtype == "f32" and weight(adapter) == 1.5


def test_names_that_meet_when_they_are_joined(tmp_path):
    torch.save({"mm": {"proj.weight": torch.zeros(2, 3)}, **linear(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="two tensors are named 'mm.proj.weight'"):
        tenon.convert.load(tmp_path / "a.pt", "linear")
    torch.save(linear(1) | {"a\0b\ud800": torch.ones(1)}, tmp_path / "odd.pt")
    assert weight(tenon.convert.load(tmp_path / "odd.pt", "linear")) == 1
    tree = {"model": linear(1)}
    tree["model"]["itself"] = tree
    torch.save(tree, tmp_path / "circle.pt")
    assert weight(tenon.convert.load(tmp_path / "circle.pt", "linear")) == 1
    deep = linear(1)
    for _ in range(400):
        deep = {"a": deep}
    torch.save(deep, tmp_path / "deep.pt")
    with pytest.raises(ValueError, match="at most 255"):
        tenon.convert.load(tmp_path / "deep.pt", "linear")


# ---- distributed checkpoints ----


def save_distributed(state, folder):
    dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return folder


def change_metadata(folder, change):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_C10_files_of_a_distributed_checkpoint_stay_inside_its_folder(tmp_path):
    secret = save_distributed(linear(7), tmp_path / "secret")
    for where in ("../secret/__0_0.distcp", f"{secret}/__0_0.distcp"):
        folder = save_distributed(linear(1), tmp_path / "model")

        def move(metadata, where=where):
            for info in metadata.storage_data.values():
                info.relative_path = where

        change_metadata(folder, move)
        with pytest.raises(ValueError, match="only plain names inside the folder are opened"):
            tenon.convert.load(folder, "linear")
    folder = save_distributed(linear(1), tmp_path / "model")
    os.remove(folder / "__0_0.distcp")
    os.symlink(secret / "__0_0.distcp", folder / "__0_0.distcp")
    with pytest.raises(ValueError, match="leads out of the folder"):
        tenon.convert.load(folder, "linear")


def test_C14_the_metadata_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_distributed(linear(1), tmp_path / "model")
    for content in (Command(), {"x": Command()}, [1, 2]):
        (folder / ".metadata").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=r"\.metadata: (holds an object of class|is not the metadata)"):
            tenon.convert.load(folder, "linear")
    assert not os.path.exists("ran")
    for content in (b"", b"\x80", b"noise", pickle.dumps(Nested())[:-3]):
        (folder / ".metadata").write_bytes(content)
        with pytest.raises(ValueError, match=r"\.metadata: ") as caught:
            tenon.convert.load(folder, "linear")
        assert "\n" not in str(caught.value)


def test_distributed_checkpoints_that_are_not_whole(tmp_path):
    folder = save_distributed(linear(1), tmp_path / "model")
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated, or of another save"):
        tenon.convert.load(folder, "linear")
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(FileNotFoundError, match="__0_0.distcp"):
        tenon.convert.load(folder, "linear")
    (folder / "__0_0.distcp").write_bytes(data)
    assert weight(tenon.convert.load(folder, "linear")) == 1

    def grow(metadata):
        entry = metadata.state_dict_metadata["mm.proj.weight"]
        entry.size = torch.Size([2, 1 << 40])
        entry.chunks[0].sizes = entry.size

    change_metadata(folder, grow)
    with pytest.raises(ValueError, match="not stored whole"):
        tenon.convert.load(folder, "linear")


# ---- writing ----


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("prefix", ["", "model.adapter."])
def test_C3_modes_and_links_are_kept(tmp_path, name, prefix):
    adapter = tenon.build_adapter("linear", 3, 2, seed=1)
    path = tmp_path / name
    old = os.umask(0o022)
    try:
        tenon.convert.save(adapter, path, prefix)
        assert mode(path) == 0o644
        os.chmod(path, 0o640)
        tenon.convert.save(adapter, path, prefix)
        assert mode(path) == 0o640
        os.umask(0o077)
        tenon.convert.save(adapter, path, prefix)
        assert mode(path) == 0o640
        path.unlink()
        tenon.convert.save(adapter, path, prefix)
        assert mode(path) == 0o600
    finally:
        os.umask(old)
    link = tmp_path / f"link.{name.rpartition('.')[2]}"
    os.symlink(name, link)
    other = tenon.build_adapter("linear", 3, 2, seed=2)
    tenon.convert.save(other, link, prefix)
    assert link.is_symlink() and weight(tenon.convert.load(path, "linear")) == weight(other)
    assert sorted(os.listdir(tmp_path)) == sorted([name, link.name])


def test_C3_a_distributed_checkpoint_is_replaced_whole(tmp_path):
    adapters = [tenon.build_adapter("linear", 3, 2, seed=seed) for seed in (1, 2)]
    folder = tmp_path / "step"
    old = os.umask(0o027)
    try:
        tenon.convert.save(adapters[0], folder)
        assert mode(folder) == 0o750
        os.chmod(folder, 0o700)
        os.chmod(folder / ".metadata", 0o600)
        os.symlink("step", tmp_path / "last")
        tenon.convert.save(adapters[1], tmp_path / "last", "mm")
    finally:
        os.umask(old)
    assert mode(folder) == 0o700 and mode(folder / ".metadata") == 0o600 and (tmp_path / "last").is_symlink()
    assert weight(tenon.convert.load(folder, "linear")) == weight(adapters[1])
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds 'notes.txt', which is no part of a distributed checkpoint"):
        tenon.convert.save(adapters[0], folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        tenon.convert.save(adapters[0], tmp_path / "file")
    assert weight(tenon.convert.load(folder, "linear")) == weight(adapters[1])
    assert sorted(os.listdir(tmp_path)) == ["file", "last", "step"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_C3_a_reader_finds_a_whole_distributed_checkpoint(tmp_path, monkeypatch, exchanges):
    """Where folders can change places, one is there at any time; where they cannot, a failure puts the old one back."""
    adapters = [tenon.build_adapter("linear", 3, 2, seed=seed) for seed in (1, 2)]
    folder = tmp_path / "step"
    tenon.convert.save(adapters[0], folder)
    moved, rename = [], os.rename

    def watched(one, other):
        if folder in (one, other):
            moved.append((one, other))
            if len(moved) == 2:
                raise OSError("not now")
        rename(one, other)

    monkeypatch.setattr(os, "rename", watched)
    if not exchanges:
        monkeypatch.setattr(tenon._torch_files, "_exchange", lambda one, other: False)
        with pytest.raises(OSError, match="not now"):
            tenon.convert.save(adapters[1], folder)
        assert len(moved) == 3 and weight(tenon.convert.load(folder, "linear")) == weight(adapters[0])
    elif tenon._torch_files._exchange(folder, folder):
        tenon.convert.save(adapters[1], folder)
        assert not moved and weight(tenon.convert.load(folder, "linear")) == weight(adapters[1])
    assert os.listdir(tmp_path) == ["step"]


def test_a_prefix_needs_no_other_package_and_is_for_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    adapter = tenon.build_adapter("linear", 3, 2, seed=1, dtype="bf16")
    for save in (tenon.Adapter.save, tenon.convert.save):
        save(adapter, tmp_path / "a.safetensors", "model.mm")
        with open(tmp_path / "a.safetensors", "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        assert header["__metadata__"]["format"] == "pt" and "model.mm.proj.weight" in header
        assert weight(tenon.load(tmp_path / "a.safetensors")) == weight(adapter)
    tenon.convert.save(adapter, tmp_path / "a.safetensors")
    monkeypatch.undo()
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert "format" not in file.metadata()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "folder"])
def test_C29_nothing_nonfinite_is_written_without_a_word(tmp_path, name):
    adapter = tenon.build_adapter("linear", 3, 2, seed=1)
    tenon.convert.save(adapter, tmp_path / name)
    bad = adapter.state_dict()
    bad["proj.weight"][1, 2] = np.nan
    bad["proj.bias"][0] = -np.inf
    broken = tenon.build_adapter("linear", 3, 2)
    broken.load_state_dict(bad)
    with pytest.raises(ValueError, match=r"'proj.weight' at \[1, 2\]"):
        broken.check_finite()
    sentence = rf"{name}: is not written: 2 of the parameters' numbers, in 2 of the tensors, are infinite or NaN"
    with pytest.raises(ValueError, match=sentence):
        tenon.convert.save(broken, tmp_path / name)
    assert weight(tenon.convert.load(tmp_path / name, "linear")) == weight(adapter)
    tenon.convert.save(broken, tmp_path / name, allow_nonfinite=True)
    again = tenon.convert.load(tmp_path / name, "linear").state_dict()
    assert all(np.array_equal(again[key], bad[key], equal_nan=True) for key in bad)
    assert os.listdir(tmp_path) == [name]


# ---- names ----


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "folder"])
def test_renames_in_every_form(tmp_path, name, capsys):
    state = {
        "module.mm.linear_1.weight": torch.ones(4, 3),
        "module.mm.linear_1.bias": torch.ones(4),
        "module.mm.linear_2.weight": torch.ones(2, 4),
        "module.mm.linear_2.bias": torch.ones(2),
        "lm.weight": torch.ones(2),
    }
    write = {"a.pt": torch.save, "a.safetensors": save_file, "folder": lambda s, p: save_distributed(s, p)}[name]
    write(state, tmp_path / name)
    rename = {"mm.linear_1": "proj1", "mm.linear_2": "proj2"}
    adapter = tenon.convert.load(tmp_path / name, "mlp_2layer", rename=rename)
    assert (adapter.in_dim, adapter.config.hidden_dim, adapter.out_dim) == (3, 4, 2)
    with pytest.raises(KeyError, match="no tensor is named 'linear_1'.*nearest: 'module.mm.linear_1'"):
        tenon.convert.load(tmp_path / name, "mlp_2layer", rename={"linear_1": "proj1"})
    words = [str(tmp_path / name), str(tmp_path / "out.safetensors"), "--type", "mlp_2layer"]
    tenon.convert.main([*words, "--rename", "mm.linear_1=proj1,mm.linear_2=proj2"])
    tenon.convert.main([*words, "--rename", "mm.linear_1=proj1", "--rename", "mm.linear_2=proj2"])
    assert tenon.load(tmp_path / "out.safetensors").config.hidden_dim == 4
    for wrong in ("mm.linear_1", "=x", "a=b,a=c"):
        with pytest.raises(SystemExit) as caught:
            tenon.convert.main([*words, "--rename", wrong])
        assert caught.value.code == 2
    assert "--rename maps 'a' twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "folder"])
def test_C40_long_lists_are_cut_with_a_count(tmp_path, name):
    state = {f"model.layers.{i}.proj.weight": torch.ones(1) for i in range(528)} | {"proj.weight": torch.ones(2, 3)}
    write = {"a.pt": torch.save, "a.safetensors": save_file, "folder": lambda s, p: save_distributed(s, p)}[name]
    write(state | {"proj.bias": torch.ones(2)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"unexpected: model.layers.0.proj.weight, .* and 520 more; prefixes seen") as caught:
        tenon.convert.load(tmp_path / name, "linear")
    assert len(str(caught.value)) < 800


def test_paths_that_are_no_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.pt"
    with open(path, "wb") as file:
        torch.save({"x": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"\\xff.pt does not fit"):
        tenon.convert.load(os.fsdecode(path), "linear")
    with pytest.raises(FileNotFoundError, match=r"\\xfe.pt"):
        tenon.convert.load(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.pt"), "linear")
