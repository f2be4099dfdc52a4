# SPDX-License-Identifier: MIT
"""llama.cpp's mmproj files, made by the PyPI package gguf: inspected, run, read in every type."""
import json

import numpy
import pytest
from safetensors.numpy import load_file, save_file

gguf = pytest.importorskip("gguf")

KINDS = gguf.GGMLQuantizationType


def stored(values, kind):
    """The array as the writer wants it."""
    return gguf.quants.quantize(values, KINDS[kind]) if kind not in ("F32", "F16") else values.astype(
        {"F32": "f4", "F16": "f2"}[kind])


def write(path, tensors, keys=(), architecture="clip", kinds=()):
    """A GGUF file of {name: f32 array}; keys: (method of the writer, key, value); kinds: {name: type}, by default F32."""
    writer = gguf.GGUFWriter(path, architecture)
    for method, key, value in keys:
        getattr(writer, f"add_{method}")(key, value)
    for name, values in tensors.items():
        kind = dict(kinds).get(name, "F32")
        writer.add_tensor(name, stored(values, kind), raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    """{name: f32 array} of a GGUF file, as the package gguf reads it."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        for tensor in gguf.GGUFReader(path).tensors
    }


LLAVA_KEYS = [
    ("string", "general.type", "mmproj"),
    ("bool", "clip.has_vision_encoder", True),
    ("string", "clip.projector_type", "mlp"),
    ("bool", "clip.use_gelu", False),
    ("uint32", "clip.vision.embedding_length", 64),
    ("uint32", "clip.vision.projection_dim", 768),
    ("float32", "clip.vision.attention.layer_norm_epsilon", 1e-5),
    ("array", "clip.vision.image_mean", [0.5, 0.25, 0.125]),
]


def llava_tensors(rng, in_dim=64, hidden=96, out_dim=96):
    def draw(*shape):
        return rng.standard_normal(shape).astype(numpy.float32) * 0.2

    return {
        "v.class_embd": draw(in_dim),
        "v.blk.0.ffn_up.weight": draw(32, in_dim),
        "mm.0.weight": draw(hidden, in_dim),
        "mm.0.bias": draw(hidden),
        "mm.2.weight": draw(out_dim, hidden),
        "mm.2.bias": draw(out_dim),
    }


@pytest.fixture
def llava(tenon, rng):
    tensors = llava_tensors(rng)
    write("mmproj.gguf", tensors, LLAVA_KEYS)
    return tensors


def tanh_gelu(x):
    return 0.5 * x * (1 + numpy.tanh(numpy.sqrt(2 / numpy.pi) * (x + 0.044715 * x**3)))


def erf_gelu(x):
    from math import erf

    return 0.5 * x * (1 + numpy.vectorize(erf)(x / numpy.sqrt(2)))


def tokens(tensors, features, activation):
    """LLaVA's projector in float64, without the class row."""
    t = {name: value.astype(numpy.float64) for name, value in tensors.items()}
    hidden = activation(features[:, 1:].astype(numpy.float64) @ t["mm.0.weight"].T + t["mm.0.bias"])
    return hidden @ t["mm.2.weight"].T + t["mm.2.bias"]


def worst(got, want):
    error = numpy.linalg.norm(got - want, axis=-1) / numpy.linalg.norm(want, axis=-1)
    return error.max()


def test_inspect_says_what_is_inside(tenon, llava):
    out = tenon("inspect", "mmproj.gguf").out
    assert "mmproj.gguf: llava, 64 -> 96" in out
    assert "family      gguf_mlp\n" in out
    assert "activation  gelu_tanh, as the file asks for; the model was trained with gelu (--activation gelu)\n" in out
    assert "class row first" in out and "drops 1 of them" in out
    lines = out.splitlines()
    assert any(line.split()[:3] == ["linear_1.weight", "mm.0.weight", "F32"] for line in lines)
    keys = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[lines.index("key" + " " * 38 + "value") :]
            if len(line.split()) > 1}
    assert keys["clip.projector_type"] == "mlp" and keys["general.architecture"] == "clip"
    assert keys["clip.vision.attention.layer_norm_epsilon"] == "1e-05"
    assert keys["clip.vision.image_mean"] == "[0.5, 0.25, 0.125]"
    found = tenon("inspect", "mmproj.gguf", "--json").json
    assert found["family"] == "gguf_mlp" and found["trained_activation"] == "gelu"
    assert found["config"]["activation"] == "gelu_tanh" and found["config"]["prefix_tokens"] == 1
    assert found["metadata"]["clip.has_vision_encoder"] == "true"
    assert found["sources"]["linear_2.bias"]["tensor"] == "mm.2.bias"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_B40_runs_in_every_type(tenon, rng, kind):
    tensors = llava_tensors(rng)
    kinds = {"mm.0.weight": kind, "mm.2.weight": kind}
    write("mmproj.gguf", tensors, LLAVA_KEYS, kinds=kinds)
    features = rng.standard_normal((2, 10, 64)).astype(numpy.float32)
    numpy.save("features.npy", features)
    weights = read("mmproj.gguf")
    for words, activation in (((), tanh_gelu), (("--activation", "gelu"), erf_gelu)):
        tenon("run", "mmproj.gguf", "features.npy", "-o", "tokens.npy", "--dtype", "f32", *words)
        assert worst(numpy.load("tokens.npy"), tokens(weights, features, activation)) < 1e-6
    shown = tenon("inspect", "mmproj.gguf").out
    assert f"mm.0.weight {kind} (96, 64)" in shown and "mm.0.bias F32 (96)" in shown


def test_the_activation_is_the_callers(tenon, llava):
    out = tenon("inspect", "mmproj.gguf", "--activation", "gelu").out
    assert "activation  gelu, with which the model was trained; llama.cpp computes gelu_tanh\n" in out
    said = tenon("inspect", "mmproj.gguf", "--activation", "gelux", code=1).err
    assert "gelux" in said and "gelu" in said


def test_a_file_without_a_projector_type_is_told_by_its_tensors(tenon, rng):
    keys = [key for key in LLAVA_KEYS if key[1] != "clip.projector_type"]
    write("old.gguf", llava_tensors(rng), keys)
    assert "family      gguf_mlp\n" in tenon("inspect", "old.gguf").out


def test_vision_and_audio_files_name_the_type_of_each(tenon, rng):
    keys = [key for key in LLAVA_KEYS if key[1] != "clip.projector_type"]
    keys += [("string", "clip.vision.projector_type", "mlp"), ("string", "clip.audio.projector_type", "qwen2a")]
    write("both.gguf", llava_tensors(rng), keys)
    assert "family      gguf_mlp\n" in tenon("inspect", "both.gguf").out


def test_B32_what_is_no_known_projector_is_named(tenon, rng):
    write("other.gguf", llava_tensors(rng), [("string", "clip.projector_type", "ldpv9")])
    said = tenon("inspect", "other.gguf", code=1).err
    assert "its projector type 'ldpv9' is none that this version knows (mlp" in said
    write("llama.gguf", {"token_embd.weight": numpy.zeros((4, 8), numpy.float32)},
          [("array", "tokenizer.ggml.tokens", ["a"] * 9)], architecture="llama")
    result = tenon("inspect", "llama.gguf", code=1)
    assert "architecture 'llama', not the mmproj file" in result.err
    assert "[9 strings]" in result.out and "token_embd.weight" in result.out
    write("bare.gguf", {"x.weight": numpy.zeros((4, 8), numpy.float32)}, [])
    assert "without 'clip.projector_type'" in tenon("inspect", "bare.gguf", code=1).err


def test_B33_widths_are_the_tensors(tenon, rng):
    """clip.vision.projection_dim of LLaVA's files is the vision model's own; embedding_length is the rows' width."""
    assert dict((key[1], key[2]) for key in LLAVA_KEYS)["clip.vision.projection_dim"] == 768
    write("mmproj.gguf", llava_tensors(rng), LLAVA_KEYS)
    assert "64 -> 96" in tenon("inspect", "mmproj.gguf").out
    write("wrong.gguf", llava_tensors(rng, in_dim=48), LLAVA_KEYS)
    said = tenon("inspect", "wrong.gguf", code=1).err
    assert "clip.vision.embedding_length is 64, but tensor 'mm.0.weight' of shape [96, 48] takes a width of 48" in said


@pytest.mark.parametrize("value, method", [("x", "string"), (0, "uint32"), (-1, "int32"), (0.5, "float32"), (2**40, "uint64")])
def test_hostile_values_are_named(tenon, rng, value, method):
    keys = [key for key in LLAVA_KEYS if key[1] != "clip.vision.embedding_length"]
    write("mmproj.gguf", llava_tensors(rng), keys + [(method, "clip.vision.embedding_length", value)])
    assert "clip.vision.embedding_length is" in tenon("inspect", "mmproj.gguf", code=1).err


def test_types_that_are_not_read_are_named(tenon, rng):
    tensors = llava_tensors(rng, in_dim=256, hidden=256)
    writer = gguf.GGUFWriter("mmproj.gguf", "clip")
    writer.add_string("clip.projector_type", "mlp")
    for name, values in tensors.items():
        if name == "mm.0.weight":
            writer.add_tensor(name, numpy.zeros((256, 136), numpy.uint8), raw_dtype=KINDS.IQ4_XS)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    said = tenon("inspect", "mmproj.gguf", code=1).err
    assert "mm.0.weight is IQ4_XS" in said


def test_missing_and_misshapen_tensors_are_named(tenon, rng):
    tensors = llava_tensors(rng)
    del tensors["mm.2.bias"]
    write("mmproj.gguf", tensors, LLAVA_KEYS)
    assert "missing: mm.2.bias" in tenon("inspect", "mmproj.gguf", code=1).err


# ---- extract ----


def test_extract_and_run_give_the_same_tokens(tenon, llava, rng):
    numpy.save("features.npy", rng.standard_normal((2, 10, 64)).astype(numpy.float32))
    said = tenon("extract", "mmproj.gguf", "-o", "c.safetensors").out
    assert said == ("llava 64 -> 96 of a model of family gguf_mlp: 15,552 parameters, 60.8 KiB in c.safetensors\n")
    tensors = load_file("c.safetensors")
    for ours, theirs in (("linear_1", "mm.0"), ("linear_2", "mm.2")):
        for part in ("weight", "bias"):
            assert tensors[f"{ours}.{part}"].tobytes() == llava[f"{theirs}.{part}"].tobytes()
    tenon("run", "mmproj.gguf", "features.npy", "-o", "a.npy")
    tenon("run", "c.safetensors", "features.npy", "-o", "b.npy")
    assert open("a.npy", "rb").read() == open("b.npy", "rb").read()
    found = tenon("extract", "mmproj.gguf", "-o", "d.safetensors", "--activation", "gelu", "--json").json
    assert found["config"]["activation"] == "gelu" and found["family"] == "gguf_mlp" and found["parameters"] == 15552


def test_extract_says_what_is_wrong(tenon, llava):
    assert "extract needs -o FILE" in tenon("extract", "mmproj.gguf", code=2).err
    assert "written as .safetensors" in tenon("extract", "mmproj.gguf", "-o", "c.gguf", code=2).err
    assert "no-such" in tenon("extract", "no-such", "-o", "c.safetensors", code=1).err


# ---- graft ----


def header_and_data(path):
    """Bytes before the data, {name: (type, offset, bytes)}."""
    reader = gguf.GGUFReader(path)
    data = open(path, "rb").read()
    return data[: reader.data_offset], {
        tensor.name: (tensor.tensor_type.name, tensor.data_offset, data[tensor.data_offset :][: tensor.n_bytes])
        for tensor in reader.tensors
    }


def trained(tenon, rng, name="trained.safetensors", dtype=numpy.float32, **widths):
    """A connector of other numbers, in tenon's own file."""
    tenon("init", "--type", "llava", "--in-dim", widths.get("in_dim", 64), "--out-dim", widths.get("out_dim", 96),
          "--activation", "gelu", "--seed", 5, "-o", name)
    return load_file(name)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_graft_keeps_types_and_all_other_bytes(tenon, rng, kind):
    kinds = {"mm.0.weight": kind, "mm.2.weight": kind}
    write("base.gguf", llava_tensors(rng), LLAVA_KEYS, kinds=kinds)
    new = trained(tenon, rng)
    said = tenon("graft", "base.gguf", "trained.safetensors", "-o", "new.gguf")
    assert said.out.startswith("4 tensors of base.gguf replaced in new.gguf")
    assert ("2 rounded, by at most" in said.out) == (kind != "F32") and "another type" not in said.out
    assert "the file asks for gelu_tanh, as llama.cpp computes it; the connector was trained with gelu" in said.err
    before, after = header_and_data("base.gguf"), header_and_data("new.gguf")
    assert before[0] == after[0]
    names = {"mm.0.weight": "linear_1.weight", "mm.0.bias": "linear_1.bias", "mm.2.weight": "linear_2.weight",
             "mm.2.bias": "linear_2.bias"}
    for name, (theirs, offset, data) in after[1].items():
        assert before[1][name][:2] == (theirs, offset)
        if name in names:
            assert data == stored(new[names[name]], theirs).tobytes()
        else:
            assert data == before[1][name][2]
    outside = bytearray(open("new.gguf", "rb").read())
    for name in names:
        _, offset, data = before[1][name]
        outside[offset : offset + len(data)] = data
    assert bytes(outside) == open("base.gguf", "rb").read()


@pytest.mark.parametrize("kind, words, theirs", [("Q4_0", (), "F16"), ("Q5_1", ("--type", "Q8_0"), "Q8_0"),
                                                 ("F16", ("--type", "F32"), "F32"), ("F32", ("--type", "BF16"), "BF16")])
def test_graft_into_another_type(tenon, rng, kind, words, theirs):
    write("base.gguf", llava_tensors(rng), LLAVA_KEYS, kinds={"mm.0.weight": kind, "mm.2.weight": kind})
    new = trained(tenon, rng)
    said = tenon("graft", "base.gguf", "trained.safetensors", "-o", "new.gguf", *words).out
    assert "2 of them in another type" in said
    before, after = header_and_data("base.gguf"), header_and_data("new.gguf")
    assert before[1].keys() == after[1].keys() and len(before[0]) == len(after[0])
    for name, (found, _, data) in after[1].items():
        if name.startswith("mm."):
            assert found == (theirs if name.endswith("weight") else "F32")
        else:
            assert (found, data) == (before[1][name][0], before[1][name][2])
    assert after[1]["mm.0.weight"][2] == stored(new["linear_1.weight"], theirs).tobytes()
    keys = [{field.name: field.contents() for field in gguf.GGUFReader(path).fields.values()} for path in
            ("base.gguf", "new.gguf")]
    assert keys[0] == keys[1]
    assert tenon("inspect", "new.gguf").out.count(theirs) >= 2


def test_graft_of_an_extract_changes_nothing(tenon, rng):
    write("base.gguf", llava_tensors(rng), LLAVA_KEYS, kinds={"mm.0.weight": "Q8_0", "mm.2.weight": "F16"})
    tenon("extract", "base.gguf", "-o", "c.safetensors")
    found = tenon("graft", "base.gguf", "c.safetensors", "-o", "new.gguf", "--json").json
    assert found["tensors"] == 4 and found["retyped"] == 0 and found["base_activation"] is None
    got, want = read("new.gguf"), read("base.gguf")
    assert all((got[name] == want[name]).all() for name in ("mm.0.bias", "mm.2.weight", "mm.2.bias"))
    assert numpy.abs(got["mm.0.weight"] - want["mm.0.weight"]).max() <= found["largest_error"] < 1e-3


def test_graft_refuses_what_does_not_fit(tenon, rng):
    write("base.gguf", llava_tensors(rng), LLAVA_KEYS)
    base = open("base.gguf", "rb").read()
    trained(tenon, rng, "narrow.safetensors", in_dim=48)
    said = tenon("graft", "base.gguf", "narrow.safetensors", "-o", "new.gguf", code=1).err
    assert "tensor 'mm.0.weight' is [96, 64], but 'linear_1.weight' of the connector to graft is [96, 48]" in said
    assert "48 -> 96, the file's is 64 -> 96" in said and "belongs to another model" in said
    tenon("init", "--type", "linear", "--in-dim", 64, "--out-dim", 96, "-o", "linear.safetensors")
    said = tenon("graft", "base.gguf", "linear.safetensors", "-o", "new.gguf", code=1).err
    assert "holds a connector of type 'llava', but the one to graft is of type 'linear'" in said
    said = tenon("graft", "linear.safetensors", "linear.safetensors", "-o", "new.gguf", code=1).err
    assert "is safetensors; this version grafts into mmproj files (GGUF)" in said
    assert "are the same file" in tenon("graft", "base.gguf", "narrow.safetensors", "-o", "base.gguf", code=1).err
    assert open("base.gguf", "rb").read() == base
    import os
    assert not os.path.exists("new.gguf")
    tensors = load_file("narrow.safetensors")
    assert tensors["linear_1.weight"].shape == (96, 48)


def test_graft_refuses_numbers_that_are_not_finite(tenon, rng):
    write("base.gguf", llava_tensors(rng), LLAVA_KEYS)
    new = trained(tenon, rng)
    from safetensors import safe_open
    with safe_open("trained.safetensors", "np") as file:
        metadata = file.metadata()
    new["linear_1.bias"] = new["linear_1.bias"].copy()
    new["linear_1.bias"][3] = numpy.nan
    save_file(new, "trained.safetensors", metadata)
    assert "'linear_1.bias' at [3]" in tenon("graft", "base.gguf", "trained.safetensors", "-o", "new.gguf", code=1).err


def test_fit_and_graft(tenon, rng):
    """Extract, fit, graft: three commands."""
    write("base.gguf", llava_tensors(rng), LLAVA_KEYS, kinds={"mm.0.weight": "F16", "mm.2.weight": "F16"})
    numpy.save("x.npy", rng.standard_normal((8, 10, 64)).astype(numpy.float32))
    numpy.save("y.npy", rng.standard_normal((8, 9, 96)).astype(numpy.float32))
    tenon("fit", "--model", "base.gguf", "--features", "x.npy", "--targets", "y.npy", "--epochs", 2, "--lr", 0.01,
          "--batch", 4, "-o", "fitted.safetensors", lines=None)
    tenon("graft", "base.gguf", "fitted.safetensors", "-o", "new.gguf")
    tenon("run", "new.gguf", "x.npy", "-o", "a.npy", "--dtype", "f32")
    tenon("run", "fitted.safetensors", "x.npy", "-o", "b.npy", "--dtype", "f32")
    assert worst(numpy.load("a.npy"), numpy.load("b.npy")) < 2e-3


def test_a_connector_alone_is_no_mmproj_file(tenon, tmp_path):
    for name in ("new.gguf", "new.npy"):
        words = ("init", "--type", "linear", "--in-dim", 4, "--out-dim", 4, "-o", name)
        assert f"{name}: a connector is written as .safetensors" in tenon(*words, code=1).err
        assert not list(tmp_path.iterdir())
