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
