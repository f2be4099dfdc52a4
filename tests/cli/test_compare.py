# SPDX-License-Identifier: MIT
"""tenon compare: the numbers, the verdict, the trouble."""
import numpy
import pytest
from safetensors.numpy import load_file, save_file

import reference


def save(name, array):
    numpy.save(name, array)
    return name


def test_equal(tenon, rng):
    save("a.npy", rng.normal(size=(2, 5, 8)).astype(numpy.float32))
    result = tenon("compare", "a.npy", "a.npy", "--tol", "0")
    assert "equal" in result.out and "the same" in result.out and result.err == ""
    got = tenon("compare", "a.npy", "a.npy", "--json").json
    assert got["within"] is True and got["changed"] == 0 and got["tensors"][0]["tokens"] == 10


def test_numbers_against_numpy(tenon, rng):
    b = rng.normal(size=(3, 7, 16)).astype(numpy.float32)
    a = (b + 1e-3 * rng.normal(size=b.shape)).astype(numpy.float32)
    a[2, 4] *= 1.5
    save("a.npy", a)
    save("b.npy", b)
    got = tenon("compare", "a.npy", "b.npy", "--json", code=1).json["tensors"][0]
    a, b = a.astype(float), b.astype(float)
    relative = numpy.linalg.norm(a - b, axis=-1) / numpy.linalg.norm(b, axis=-1)
    cosine = 1 - (a * b).sum(-1) / numpy.linalg.norm(a, axis=-1) / numpy.linalg.norm(b, axis=-1)
    assert got["relative"]["value"] == pytest.approx(relative.max(), rel=1e-12)
    assert got["relative"]["index"] == [2, 4] and got["relative"]["token"] == 18
    assert got["relative_overall"] == pytest.approx(numpy.linalg.norm(a - b) / numpy.linalg.norm(b), rel=1e-12)
    assert got["absolute"]["value"] == pytest.approx(numpy.abs(a - b).max(), rel=1e-12)
    assert got["cosine"]["value"] == pytest.approx(cosine.max(), rel=1e-6)
    assert got["cosine_mean"] == pytest.approx(cosine.mean(), rel=1e-6)


def test_B66_the_verdict_follows_the_worst_token(tenon, rng):
    b = rng.normal(size=(576, 64)).astype(numpy.float32)
    a = b.copy()
    v = rng.normal(size=64)
    v -= v @ b[313] / (b[313] @ b[313]) * b[313]
    a[313] = v / numpy.linalg.norm(v) * numpy.linalg.norm(b[313])
    save("a.npy", a)
    save("b.npy", b)
    result = tenon("compare", "a.npy", "b.npy", "--tol", "0.1", code=1)
    assert "[313]" in result.out and "different" in result.out
    got = tenon("compare", "a.npy", "b.npy", "--json", "--tol", "0.1", code=1).json["tensors"][0]
    assert 1 - got["cosine_mean"] == pytest.approx(0.998264, abs=1e-6)
    assert got["cosine"]["value"] == pytest.approx(1, abs=1e-6) and got["cosine"]["index"] == [313]
    assert got["relative_overall"] < 0.1


def test_tolerance(tenon):
    save("b.npy", numpy.full((3, 4), 2, numpy.float32))
    save("a.npy", numpy.full((3, 4), 2.02, numpy.float32))
    tenon("compare", "a.npy", "b.npy", "--tol", "0.011")
    tenon("compare", "a.npy", "b.npy", "--tol", "0.009", code=1)
    tenon("compare", "a.npy", "b.npy", code=1)
    for bad in ("x", "-1", "nan", "inf", "1e999", ""):
        assert "--tol" in tenon("compare", "a.npy", "b.npy", "--tol", bad, code=2).err


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_not_a_number_and_infinity(tenon, value):
    b = numpy.ones((3, 4), numpy.float32)
    a = b.copy()
    a[1, 2] = value
    save("a.npy", a)
    save("b.npy", b)
    result = tenon("compare", "a.npy", "b.npy", "--tol", "1e30", code=1)
    assert "[1]" in result.out
    tenon("compare", "b.npy", "a.npy", "--tol", "1e30", code=1)
    same = tenon("compare", "a.npy", "a.npy", "--tol", "1e30", code=1 if numpy.isnan(value) else 0)
    assert ("NaN" in same.out) == bool(numpy.isnan(value))
    tenon("compare", "a.npy", "b.npy", "--json", code=1).json


def test_zero_tokens_and_empty_tensors(tenon):
    b = numpy.ones((3, 4), numpy.float32)
    b[1] = 0
    a = b.copy()
    save("a.npy", a)
    save("b.npy", b)
    tenon("compare", "a.npy", "b.npy", "--tol", "0")
    a[1, 0] = 1e-30
    save("a.npy", a)
    tenon("compare", "a.npy", "b.npy", "--tol", "1e9", code=1)
    for shape in ((0, 4), (3, 0), (0,), ()):
        save("a.npy", numpy.zeros(shape, numpy.float32))
        tenon("compare", "a.npy", "a.npy")


def test_dtypes_and_formats_mix(tenon, rng):
    b = rng.normal(size=(2, 300, 16)).astype(numpy.float32)
    save("b.npy", b)
    save("h.npy", b.astype(numpy.float16))
    save("bf.npy", reference.to_bf16(b))
    save_file({"tokens": b}, "b.safetensors")
    tenon("compare", "h.npy", "b.npy", "--tol", "5e-4")
    tenon("compare", "bf.npy", "b.npy", "--tol", "4e-3", "--npy-bf16")
    tenon("compare", "b.safetensors", "b.npy", "--tol", "0")
    half = numpy.array([[0, -0.0, 6e-8, 65504, 1e-5, -3.5]], numpy.float16)
    save("h.npy", half)
    save("f.npy", half.astype(numpy.float32))
    tenon("compare", "h.npy", "f.npy", "--tol", "0")
    save("i.npy", numpy.arange(-6, 6).reshape(3, 4))
    save("j.npy", numpy.arange(-6, 6).reshape(3, 4).astype(numpy.float32))
    tenon("compare", "i.npy", "j.npy", "--tol", "0")


def test_B131_how_many_tensors_changed(tenon, make):
    make("mlp_2layer", 8, 6)
    tensors = {k: v.copy() for k, v in load_file("adapter.safetensors").items()}
    save_file(tensors, "old.safetensors")
    tensors["proj2.weight"][3, 2] += 1e-9
    tensors["proj1.bias"][0] += 1
    save_file(tensors, "new.safetensors")
    result = tenon("compare", "new.safetensors", "old.safetensors", code=1)
    assert "4 tensors: 2 changed, 1 beyond" in result.out or "4 tensors: 1 changed, 1 beyond" in result.out
    assert "proj1.bias" in result.out and "proj1.weight" not in result.out
    tensors["proj1.bias"][0] -= 1
    tensors["proj1.bias"] = load_file("old.safetensors")["proj1.bias"]
    tensors["proj2.weight"][3, 2] = 7
    save_file(tensors, "new.safetensors")
    got = tenon("compare", "new.safetensors", "old.safetensors", "--json", "--tol", "0", code=1).json
    assert got["changed"] == got["beyond"] == 1
    worst = next(t for t in got["tensors"] if not t["within"])
    assert worst["name"] == "proj2.weight" and worst["relative"]["index"] == [3]
    tenon("compare", "new.safetensors", "old.safetensors", "--tensor", "proj1.weight", "--tol", "0")


def test_B134_tokens_of_other_weights_are_told(tenon, make, rng):
    make("linear", 8, 6, name="a.safetensors", seed=1)
    make("linear", 8, 6, name="b.safetensors", seed=2)
    save("x.npy", rng.normal(size=(1, 4, 8)).astype(numpy.float32))
    for name in "ab":
        tenon("run", f"{name}.safetensors", "x.npy", "-o", f"t{name}.safetensors")
    assert "different weights" in tenon("compare", "ta.safetensors", "tb.safetensors", code=1).err
    assert tenon("compare", "ta.safetensors", "ta.safetensors").err == ""


def test_trouble(tenon, rng):
    save("a.npy", numpy.ones((3, 4), numpy.float32))
    save("b.npy", numpy.ones((4, 3), numpy.float32))
    result = tenon("compare", "a.npy", "b.npy", code=2)
    assert "(3, 4)" in result.err and "(4, 3)" in result.err and result.out == ""
    assert "gone.npy" in tenon("compare", "a.npy", "gone.npy", code=2).err
    save_file({"x": numpy.ones(3, numpy.float32), "y": numpy.ones(3, numpy.float32)}, "xy.safetensors")
    save_file({"x": numpy.ones(3, numpy.float32), "z": numpy.ones(3, numpy.float32)}, "xz.safetensors")
    result = tenon("compare", "xy.safetensors", "xz.safetensors", code=2)
    assert "xz.safetensors" in result.err and "y" in result.err
    tenon("compare", "xy.safetensors", "xz.safetensors", "--tensor", "x")
    tenon("compare", "xy.safetensors", "xz.safetensors", "--tensor", "y", code=2)
    tenon("compare", "xy.safetensors", "a.npy", code=2)
    save("c.npy", numpy.ones((3, 4), numpy.complex64))
    tenon("compare", "c.npy", "c.npy", code=2)
    open("t.npy", "wb").write(open("a.npy", "rb").read()[:-1])
    tenon("compare", "a.npy", "t.npy", code=2)


@pytest.mark.parametrize("words", [[], ["a.npy"], ["a.npy", "b.npy", "c.npy"], ["--tol"], ["--fuzzy", "a.npy", "b.npy"]])
def test_usage(tenon, words):
    assert "tenon compare --help" in tenon("compare", *words, code=2).err


def test_output_that_cannot_be_written_is_trouble(tenon):
    import subprocess

    from conftest import BINARY

    save("a.npy", numpy.ones((3, 4), numpy.float32))
    with open("/dev/full", "w") as full:
        done = subprocess.run([BINARY, "compare", "a.npy", "a.npy"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
