# SPDX-License-Identifier: MIT
"""tenon compare: the numbers, the verdict, the trouble."""
import os

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
    assert got["within"] is True and got["changed"] == 0 and got["tensors"][0]["rows"] == 10


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
    assert got["relative"]["index"] == [2, 4] and got["relative"]["row"] == 18
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
    tenon("compare", "a.npy", "a.npy", "--equal-nan", "--tol", "0")
    tenon("compare", "a.npy", "b.npy", "--equal-nan", "--tol", "1e30", code=1)
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


def test_NaN_is_counted_and_the_rest_is_compared(tenon, rng):
    a = rng.normal(size=(4, 6))
    b = a * (1 + 1e-7)
    a[0, 1] = a[3, 3] = b[3, 3] = b[3, 4] = b[2, 0] = numpy.nan
    save("a.npy", a)
    save("b.npy", b)
    result = tenon("compare", "a.npy", "b.npy", code=1)
    assert "1 only in A, 2 only in B, 1 in both; the first in row [0]" in result.out and "a.npy has NaN in row [0]" in result.out
    got = tenon("compare", "a.npy", "b.npy", "--json", code=1).json["tensors"][0]
    assert [got[k] for k in ("nans", "nans_only_a", "nans_only_b", "nans_both")] == [4, 1, 2, 1]
    assert got["relative"]["value"] == pytest.approx(1e-7, rel=1e-3) and got["unequal"] == 20 and not got["within"]
    a[0, 1] = b[3, 4] = b[2, 0] = 1
    a[3, 4] = a[2, 0] = b[0, 1] = 1
    save("a.npy", a)
    save("b.npy", b)
    tenon("compare", "a.npy", "b.npy", code=1)
    tenon("compare", "a.npy", "b.npy", "--equal-nan")


@pytest.mark.parametrize("size", [1.0, 1e200, 1e-300])
def test_f64_is_compared_as_f64(tenon, rng, size):
    a = rng.normal(size=(3, 5)) * size
    b = a.copy()
    b[1, 2] *= 1 + 1e-12
    save("a.npy", a)
    save_file({"x": b}, "b.safetensors")
    expected = abs(a[1, 2] - b[1, 2]) / size / numpy.linalg.norm(b[1] / size)
    got = tenon("compare", "a.npy", "b.safetensors", "--json").json["tensors"][0]
    assert got["dtypes"] == ["f64", "f64"] and got["unequal"] == 1 and got["relative"]["index"] == [1]
    assert got["relative"]["value"] == pytest.approx(expected, rel=1e-9)
    for tolerance, code in (("1e-11", 0), ("1e-14", 1), ("0", 1)):
        tenon("compare", "a.npy", "b.safetensors", "--tol", tolerance, code=code)
    tiny = numpy.zeros((2, 2))
    save("z.npy", tiny)
    tiny[0, 0] = 5e-324
    save("t.npy", tiny)
    tenon("compare", "z.npy", "t.npy", "--tol", "0", code=1)


INTEGERS = [
    (numpy.int64, 2**53, 2**53 + 1), (numpy.int64, -(2**63), -(2**63) + 1), (numpy.uint64, 2**64 - 1, 2**64 - 2),
    (numpy.int32, 2**31 - 1, 2**31 - 2), (numpy.uint32, 2**32 - 1, 0), (numpy.int16, -1, 0), (numpy.uint16, 65535, 65534),
    (numpy.int8, -128, 127), (numpy.uint8, 255, 254), (numpy.bool_, True, False),
]  # fmt: skip


@pytest.mark.parametrize("kind, one, other", INTEGERS)
def test_integers_are_compared_exactly(tenon, kind, one, other):
    save("a.npy", numpy.array([[one, one], [one, one]], kind))
    save("b.npy", numpy.array([[one, one], [other, one]], kind))
    tenon("compare", "a.npy", "a.npy", "--tol", "0")
    result = tenon("compare", "a.npy", "b.npy", "--tol", "10", code=1)
    assert "1 of the 4 integers of a.npy are unequal" in result.out
    got = tenon("compare", "a.npy", "b.npy", "--json", code=1).json["tensors"][0]
    assert got["unequal"] == 1 and got["absolute"] == {"value": abs(int(one) - int(other)), "row": 1, "index": [1]}


def test_integers_against_floats(tenon):
    save("i.npy", numpy.array([2**53 + 1, 2**62]))
    save("f.npy", numpy.array([2**53, 2**62], float))
    assert tenon("compare", "i.npy", "f.npy", "--json").json["tensors"][0]["unequal"] == 1
    tenon("compare", "i.npy", "f.npy", "--tol", "0", code=1)


def test_a_scaled_tensor_is_recognised(tenon, rng):
    b = rng.normal(size=(8, 32)).astype(numpy.float32)
    for factor in (0.5, 3.0, -1.0):
        save("b.npy", b)
        save("a.npy", (factor * b).astype(numpy.float32))
        result = tenon("compare", "a.npy", "b.npy", code=1)
        assert f"A is about {factor:g} times B" in result.out
        got = tenon("compare", "a.npy", "b.npy", "--json", code=1).json["tensors"][0]["norm_ratio"]
        assert got["factor"] == pytest.approx(factor) and got["overall"] == pytest.approx(abs(factor))
        assert got["lowest"] == pytest.approx(abs(factor)) == pytest.approx(got["highest"])
    a = b.copy()
    a[5] *= 4  # one row alone
    save("a.npy", a)
    result = tenon("compare", "a.npy", "b.npy", code=1)
    assert "times B" not in result.out and "rows from 1 to 4" in result.out
    save("a.npy", b.astype(numpy.float16))  # rounding is no scale
    assert "times B" not in tenon("compare", "a.npy", "b.npy", code=1).out


def test_folders_of_shards(tenon, rng):
    os.mkdir("a")
    os.mkdir("b")
    for i in range(4):
        x = rng.normal(size=(2, 3, 4)).astype(numpy.float32)
        save(f"a/s{i}.npy", x)
        save(f"b/s{i}.npy", x)
    assert "4 shards, 4 tensors: 0 changed" in tenon("compare", "a", "b").out
    os.remove("b/s2.npy")
    save_file({"tokens": 2 * x}, "b/s2.safetensors")  # a suffix may differ
    result = tenon("compare", "a", "b/", code=1)
    assert "s2.npy, tokens" not in result.out and "s2.npy, f32 (2, 3, 4)" in result.out and "s1" not in result.out
    assert "4 shards, 4 tensors: 1 changed, 1 beyond" in result.out and "of s2.npy" in result.out
    got = tenon("compare", "a", "b", "--json", code=1).json
    assert [s["name"] for s in got["shards"]] == [f"s{i}.npy" for i in range(4)] and got["changed"] == 1
    assert [s["tensors"][0]["within"] for s in got["shards"]] == [True, True, False, True]


def test_what_one_folder_lacks_is_named_and_the_rest_compared(tenon):
    os.mkdir("a")
    os.mkdir("b")
    for i in range(9):
        save(f"{'ab'[i % 2]}/s{i}.npy", numpy.ones((2, 3)))
    for name in "ab":
        save(f"{name}/both.npy", numpy.ones((2, 3)))
    result = tenon("compare", "a", "b", code=2)
    assert "the same within" in result.out and "1 shard, 1 tensor: 0 changed" in result.out
    assert "b lacks 5 shards of a: s0.npy, s2.npy, s4.npy, s6.npy and 1 more" in result.err
    assert "a lacks 4 shards of b: s1.npy, s3.npy, s5.npy, s7.npy" in result.err
    got = tenon("compare", "a", "b", "--json", code=2)
    assert got.json["within"] is False and "lacks 5 shards" in got.json["trouble"]
    assert "a is a folder of 6 shards, but a/both.npy is not one" in tenon("compare", "a", "a/both.npy", code=2).err
    open("b/both.npy", "wb").write(b"")
    result = tenon("compare", "a", "b", code=2)  # a shard that cannot be read is trouble, and not the end
    assert "b/both.npy" in result.err and "lacks 5 shards" in result.err


def test_folders_of_checkpoints_are_files(tenon):
    for name, value in (("a", 1), ("b", 2)):
        os.mkdir(name)
        save_file({"x": numpy.full(3, value, numpy.float32)}, f"{name}/model.safetensors")
        save(f"{name}/other.npy", numpy.ones(2))
    result = tenon("compare", "a", "b", code=1)
    assert "x, f32 (3)" in result.out and "shard" not in result.out


def test_C40_long_lists_are_cut_with_a_count(tenon):
    tensors = {f"layer.{i}.weight": numpy.full((2, 2), i, numpy.float32) for i in range(100)}
    save_file(tensors, "a.safetensors")
    save_file({k: v + 1 for k, v in tensors.items()}, "b.safetensors")
    result = tenon("compare", "a.safetensors", "b.safetensors", code=1)
    assert result.out.count("relative difference  overall") == 40
    assert "... and 60 more that changed (--json lists all)" in result.out
    assert len(tenon("compare", "a.safetensors", "b.safetensors", "--json", code=1).json["tensors"]) == 100
    save_file({f"other.{k}": v for k, v in tensors.items()}, "c.safetensors")
    result = tenon("compare", "a.safetensors", "c.safetensors", code=2)
    assert result.out == "" and "c.safetensors lacks 100 tensors of a.safetensors: layer.0.weight" in result.err
    assert result.err.count("and 96 more") == 2 and len(result.err) < 600


def test_what_can_be_compared_is_compared(tenon):
    a = {"same": numpy.ones(3, numpy.float32), "shape": numpy.ones(3, numpy.float32), "only": numpy.ones(3, numpy.float32)}
    save_file(a, "a.safetensors")
    save_file({"same": 2 * a["same"], "shape": numpy.ones(4, numpy.float32)}, "b.safetensors")
    result = tenon("compare", "a.safetensors", "b.safetensors", code=2)
    assert "same, f32 (3)" in result.out and "1 tensor" not in result.out
    assert "b.safetensors lacks 1 tensor of a.safetensors: only" in result.err
    assert "shapes differ for shape: (3) and (4)" in result.err


def test_options_that_do_not_apply(tenon):
    save("a.npy", numpy.ones((2, 2), numpy.float32))
    save_file({"x": numpy.ones((2, 2), numpy.float32)}, "a.safetensors")
    assert "--tensor does not apply" in tenon("compare", "a.npy", "a.npy", "--tensor", "x", code=2).err
    tenon("compare", "a.npy", "a.safetensors", "--tensor", "x")
    assert "--npy-bf16 does not apply" in tenon("compare", "a.safetensors", "a.safetensors", "--npy-bf16", code=2).err
    tenon("compare", "a.npy", "a.safetensors", "--npy-bf16")


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
