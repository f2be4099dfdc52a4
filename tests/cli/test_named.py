# SPDX-License-Identifier: MIT
"""tenon run on files of named tensors: features among others, grids of packed batches, masks, further inputs and
outputs."""
import json
import os
import subprocess

import numpy
import pytest
from safetensors.numpy import load, load_file, save, save_file

from conftest import BINARY

GRIDS = numpy.array([[4, 4], [3, 5], [1, 1], [6, 2]])


def alone(tenon, x, grid, *words):
    """The tokens of one image, run by itself."""
    numpy.save("one.npy", x)
    tenon("run", "adapter.safetensors", "one.npy", "-o", "one-tokens.npy", "--grid", f"{grid[0]}x{grid[1]}", *words)
    return numpy.load("one-tokens.npy")


def packed(rng, grids=GRIDS, prefix=0, width=8):
    rows = [int(numpy.prod(grid)) + prefix for grid in grids]
    return [rng.normal(size=(n, width)).astype(numpy.float32) for n in rows]


@pytest.mark.parametrize("kind, options", [("avgpool", {}), ("avgpool", {"prefix-tokens": 2}), ("linear", {}),
                                           ("attentional_pool", {"heads": 2, "ragged": "partial"})])
@pytest.mark.parametrize("dtype", [numpy.int32, numpy.int64])
def test_images_of_several_grids(tenon, make, rng, kind, options, dtype):
    make(kind, 8, 6, **options)
    images = packed(rng, prefix=options.get("prefix-tokens", 0))
    save_file({"features": numpy.concatenate(images), "grid_hw": GRIDS.astype(dtype)}, "x.safetensors")
    result = tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors")
    assert f": 4 images, " in result.err and result.err.count("\n") == 1
    got = load_file("y.safetensors")
    expected = [alone(tenon, x, grid) for x, grid in zip(images, GRIDS)]
    assert set(got) == {"tokens", "token_counts"} and got["token_counts"].dtype == numpy.int64
    assert got["token_counts"].tolist() == [len(y) for y in expected]
    assert numpy.array_equal(got["tokens"], numpy.concatenate(expected))


def test_grids_with_time(tenon, make, rng):
    make("avgpool", 8, 6)
    x = rng.normal(size=(2 * 12 + 6, 8)).astype(numpy.float32)
    save_file({"features": x, "grid_thw": numpy.array([[2, 3, 4], [1, 2, 3]])}, "x.safetensors")
    tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors")
    got = load_file("y.safetensors")
    parts = [alone(tenon, x[:12], (3, 4)), alone(tenon, x[12:24], (3, 4)), alone(tenon, x[24:], (2, 3))]
    assert got["token_counts"].tolist() == [8, 2] and numpy.array_equal(got["tokens"], numpy.concatenate(parts))


def test_grids_that_are_all_alike(tenon, make, rng):
    make("avgpool", 8, 6)
    x = rng.normal(size=(3, 12, 8)).astype(numpy.float32)
    save_file({"features": x, "spatial_shapes": numpy.array([[2, 6]] * 3)}, "x.safetensors")
    numpy.save("x.npy", x)
    for name in ("y.npy", "y.safetensors"):
        tenon("run", "adapter.safetensors", "x.safetensors", "-o", name)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "z.npy", "--grid", "2x6")
    assert numpy.array_equal(numpy.load("y.npy"), numpy.load("z.npy"))
    assert list(load_file("y.safetensors")) == ["tokens"]


@pytest.mark.parametrize("dtype", [bool, numpy.int8, numpy.uint8, numpy.int32, numpy.int64])
def test_a_mask_of_the_file(tenon, make, rng, dtype):
    make("avgpool", 8, 6, prefix_tokens=1)
    images = packed(rng, prefix=1)
    masks = [rng.random(len(x) - 1) < 0.6 for x in images]
    save_file({"features": numpy.concatenate(images), "grid_hw": GRIDS, "mask": numpy.concatenate(masks).astype(dtype)},
              "x.safetensors")
    tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors")
    expected = []
    for x, grid, mask in zip(images, GRIDS, masks):
        numpy.save("p.npy", mask)
        expected.append(alone(tenon, x, grid, "--patch-mask", "p.npy"))
    assert numpy.array_equal(load_file("y.safetensors")["tokens"], numpy.concatenate(expected))
    x = rng.normal(size=(3, 17, 8)).astype(numpy.float32)
    mask = rng.random((3, 16)) < 0.6
    save_file({"features": x, "mask": mask.astype(dtype)}, "x.safetensors")
    numpy.save("p.npy", mask)
    numpy.save("x.npy", x)
    numpy.save("f.npy", numpy.array([1, 0, 1], bool))
    tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.npy", "--frame-mask", "f.npy")
    tenon("run", "adapter.safetensors", "x.npy", "--patch-mask", "p.npy", "-o", "z.npy", "--frame-mask", "f.npy")
    assert numpy.array_equal(numpy.load("y.npy"), numpy.load("z.npy"))


def test_other_names_are_ignored_and_named_once(tenon, make, rng):
    make("linear", 8, 6)
    x = rng.normal(size=(2, 4, 8)).astype(numpy.float32)
    numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "z.npy")
    save_file({"features": x, "other": x + 1, "ids": numpy.arange(3)}, "x.safetensors")
    said = tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.npy").err
    note = "tensors that a connector of type linear does not take are ignored: "
    assert said.startswith(f"tenon: note: x.safetensors: {note}") and "ids" in said and "other" in said.splitlines()[0]
    assert said.count("note") == 1 and numpy.array_equal(numpy.load("y.npy"), numpy.load("z.npy"))
    assert tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.npy", "--json").err == ""
    assert "note" not in tenon("run", "adapter.safetensors", "x.safetensors", "--tensor", "other", "-o", "y.npy").err
    os.mkdir("in")
    for i in range(3):
        save_file({"features": x, f"other{i % 2}": x}, f"in/{i}.safetensors")
    said = tenon("run", "adapter.safetensors", "in", "-o", "out").err
    assert said.count("note") == 1 and f"in: {note}other0, other1\n" in said


@pytest.mark.parametrize("change, words, says", [
    ({"grid_hw": GRIDS[:3]}, [], "the features have 44 rows, but the grids of its 3 images make 32"),
    ({"grid_hw": GRIDS * [[1, 0]]}, [], "the grid of image 0 has a side that is not positive"),
    ({"grid_hw": GRIDS * (1 << 40)}, [], "too many rows"),
    ({"grid_hw": GRIDS.astype("f4")}, [], "grid_hw is f32 (4, 2); expected i32 or i64 of (images, 2)"),
    ({"grid_hw": GRIDS[:, :1]}, [], "grid_hw is i64 (4, 1); expected"),
    ({"features": numpy.zeros((44, 9), "f4")}, [], "have width 9"),
    ({"features": numpy.zeros((44, 8), "i4")}, [], "features are i32"),
    ({"mask": numpy.ones(43, bool)}, [], "the mask has shape (43); expected 44 values, one for each patch"),
    ({"mask": numpy.full(44, 2)}, [], "the mask has the value 2; a mask is of 0 and 1"),
    ({"mask": numpy.ones(44, "f4")}, [], "the mask is f32"),
    ({}, ["--grid", "4x11"], "has a grid for each image in grid_hw; omit --grid"),
    ({}, ["--attention", "a.npy"], "--attention: x.safetensors has grids"),
    ({}, ["-o", "y.npy"], "-o y.npy: token_counts is written beside the tokens, which takes a .safetensors file"),
    ({"mask": numpy.ones(44, bool)}, ["--patch-mask", "p.npy"], "has a tensor 'mask' too; give one of them"),
])
def test_named_tensors_that_do_not_fit(tenon, make, change, words, says):
    make("attentional_pool", 8, 6, heads=2, ragged="partial")
    numpy.save("p.npy", numpy.ones(44, bool))
    tensors = {"features": numpy.ones((44, 8), "f4"), "grid_hw": GRIDS, **change}
    save_file({name: numpy.ascontiguousarray(value) for name, value in tensors.items()}, "x.safetensors")
    words = words if "-o" in words else [*words, "-o", "y.safetensors"]
    result = tenon("run", "adapter.safetensors", "x.safetensors", *words, code=1)
    assert says in result.err and not os.path.exists("y.safetensors") and not os.path.exists("y.npy")


def test_a_packed_folder(tenon, make, rng):
    make("avgpool", 8, 6)
    os.mkdir("in")
    for i in range(3):
        save_file({"features": numpy.concatenate(packed(rng)), "grid_hw": GRIDS}, f"in/{i}.safetensors")
    save_file({"features": rng.normal(size=(2, 16, 8)).astype("f4")}, "in/1b.safetensors")
    words = ["run", "adapter.safetensors", "in", "-o", "out", "--json"]
    first = tenon(*words).json
    assert first["shards"] == {"done": 4, "skipped": 0} and first["images"] == 14
    for name in ("0.safetensors", "1b.safetensors"):
        tenon("run", "adapter.safetensors", f"in/{name}", "-o", "z.safetensors")
        got, expected = load_file(f"out/{name}"), load_file("z.safetensors")
        assert all(numpy.array_equal(got[key], expected[key]) for key in expected) and set(got) == set(expected)
    assert tenon(*words).json["shards"] == {"done": 0, "skipped": 4}
    x = load_file("in/1.safetensors")
    save_file({**x, "grid_hw": GRIDS[::-1].copy()}, "in/1.safetensors")  # the same features, other grids
    result = tenon(*words).json
    assert result["shards"] == {"done": 1, "skipped": 3} and result["changed_shards"] == ["1.safetensors"]
    save_file({**x, "grid_hw": GRIDS[:2]}, "in/2.safetensors")
    result = tenon(*words, code=1, lines=2)
    assert "in/2.safetensors: the features have 44 rows" in result.err


def test_a_packed_pipe(tenon, make, rng):
    make("avgpool", 8, 6)
    tensors = {"features": numpy.concatenate(packed(rng)), "grid_hw": GRIDS}
    save_file(tensors, "x.safetensors")
    tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors")
    done = subprocess.run([BINARY, "run", "adapter.safetensors", "-", "-o", "-"], input=save(tensors), capture_output=True)
    got, expected = load(done.stdout), load_file("y.safetensors")
    assert done.returncode == 0 and all(numpy.array_equal(got[name], expected[name]) for name in expected), done.stderr


def test_more_than_one_group(tenon, make, rng):
    """Groups are cut between images, and the tokens are those of one forward."""
    make("avgpool", 512, 4)
    grids = numpy.array([[32, 32 + i % 3] for i in range(40)])
    images = packed(rng, grids, width=512)
    images[17][5, 3] = numpy.nan
    save_file({"features": numpy.concatenate(images), "grid_hw": grids}, "x.safetensors")
    got = tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors", "--json").json
    assert got["images"] == 40 and got["nonfinite"]["features"]["count"] == 1
    assert got["nonfinite"]["features"]["first"] == {"file": "x.safetensors", "image": 17, "token": 5, "column": 3, "value": "nan"}
    assert got["nonfinite"]["tokens"]["count"] == 4 and got["nonfinite"]["tokens"]["first"]["image"] == 17
    tokens = load_file("y.safetensors")["tokens"]
    at = 0
    for i, count in enumerate(load_file("y.safetensors")["token_counts"]):
        if i in (0, 16, 17, 18, 39):
            assert numpy.array_equal(tokens[at : at + count], alone(tenon, images[i], grids[i]), equal_nan=True)
        at += count
    said = tenon("run", "adapter.safetensors", "x.safetensors", "-o", "w.safetensors", "--check-finite", code=1).err
    assert "in the features, image 17, token 5, column 3 is nan" in said and not os.path.exists("w.safetensors")


def test_no_image_at_all(tenon, make):
    make("avgpool", 8, 6)
    save_file({"features": numpy.zeros((0, 8), "f4"), "grid_hw": numpy.zeros((0, 2), "i8")}, "x.safetensors")
    tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors")
    got = load_file("y.safetensors")
    assert got["tokens"].shape == (0, 6) and got["token_counts"].shape == (0,)


# ---- further inputs and outputs ----


def has_type(name):
    said = subprocess.run([BINARY, "--print-values", "types"], capture_output=True, text=True).stdout
    return name in said.split()


@pytest.mark.skipif(not has_type("qwen3_vl"), reason="no connector with taps and outputs")
def test_taps_and_outputs(tenon, rng):
    """Packed, uniform and alone, with taps and DeepStack outputs."""
    config = json.dumps({"type": "qwen3_vl", "deepstack": 2, "in_dim": 8, "out_dim": 6})
    done = tenon("init", "--type", "qwen3_vl", "--in-dim", 8, "--out-dim", 6, "--option", "deepstack=2", "-o", "adapter.safetensors")
    assert done.code == 0, config
    grids = numpy.array([[1, 4, 4], [2, 2, 6], [1, 2, 2]])
    rows = [int(numpy.prod(grid)) for grid in grids]
    names = ["features", "tap.0", "tap.1"]
    tensors = {name: rng.normal(size=(sum(rows), 8)).astype("f4") for name in names}
    save_file({**tensors, "grid_thw": grids, "unknown": numpy.zeros(3, "f4")}, "x.safetensors")
    said = tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors").err
    assert "are ignored: unknown" in said.splitlines()[0]
    got = load_file("y.safetensors")
    assert set(got) == {"tokens", "deepstack.0", "deepstack.1", "token_counts"}
    assert got["token_counts"].tolist() == [n // 4 for n in rows]
    at = 0
    for grid, n in zip(grids, rows):
        save_file({**{k: v[at : at + n].copy() for k, v in tensors.items()}, "grid_thw": grid[None].copy()}, "one.safetensors")
        tenon("run", "adapter.safetensors", "one.safetensors", "-o", "z.safetensors")
        one = load_file("z.safetensors")
        for name in ("tokens", "deepstack.0", "deepstack.1"):
            assert numpy.array_equal(got[name][at // 4 : (at + n) // 4], one[name])
        at += n
    uniform = {name: rng.normal(size=(3, 16, 8)).astype("f4") for name in names}
    save_file(uniform, "x.safetensors")
    tenon("run", "adapter.safetensors", "x.safetensors", "-o", "y.safetensors")
    assert {k: v.shape for k, v in load_file("y.safetensors").items()} == dict.fromkeys(
        ("tokens", "deepstack.0", "deepstack.1"), (3, 4, 6))
    for wrong, says in (({"tap.1": None}, "has no tensor 'tap.1', which qwen3_vl takes beside the features"),
                        ({"tap.0": numpy.zeros((3, 16, 7), "f4")}, "tap.0 is f32 (3, 16, 7); expected"),
                        ({"tap.0": numpy.zeros((2, 16, 8), "f4")}, "tap.0 is of 2 images, the features of 3")):
        save_file({k: v for k, v in {**uniform, **wrong}.items() if v is not None}, "x.safetensors")
        assert says in tenon("run", "adapter.safetensors", "x.safetensors", "-o", "w.safetensors", code=1).err
    save_file(uniform, "x.safetensors")
    said = tenon("run", "adapter.safetensors", "x.safetensors", "-o", "w.npy", code=1).err
    assert "deepstack.0 is written beside the tokens, which takes a .safetensors file" in said
    numpy.save("x.npy", uniform["features"])
    said = tenon("run", "adapter.safetensors", "x.npy", "-o", "w.safetensors", code=1).err
    assert "is npy, whose one array leaves no place for 'tap.0'" in said


def test_integers_that_the_connector_takes(tenon, rng):
    """Pictures of tiles: how many tokens there are depends on an integer tensor."""
    tenon("init", "--type", "llava_next", "--in-dim", 8, "--out-dim", 6, "--option", "image_size=28", "--option",
          "image_grid_pinpoints=[28,56]", "-o", "m.safetensors")
    tensors = {"features": rng.normal(size=(6 * 16, 8)).astype(numpy.float32), "grid_thw": numpy.array([[3, 4, 4]] * 2),
               "image_sizes": numpy.array([[28, 56], [28, 28]])}
    save_file(tensors, "x.safetensors")
    tenon("run", "m.safetensors", "x.safetensors", "-o", "y.safetensors")
    got = load_file("y.safetensors")
    # The whole picture, then rows of both tiles, or of the half that is no padding, with a newline each.
    assert got["token_counts"].tolist() == [16 + 4 * (8 + 1), 16 + 4 * (4 + 1)]
    newline = load_file("m.safetensors")["image_newline"]
    assert numpy.array_equal(got["tokens"][16 + 8], newline) and numpy.array_equal(got["tokens"][-1], newline)
    del tensors["image_sizes"]
    save_file(tensors, "x.safetensors")
    assert "needs the integer tensor 'image_sizes'" in tenon("run", "m.safetensors", "x.safetensors", "-o", "z.safetensors",
                                                              code=1).err
    tensors["image_sizes"] = numpy.array([[28, 56]])
    save_file(tensors, "x.safetensors")
    assert "image_sizes is i64 (1, 2); expected i32 or i64 with 2 images" in tenon(
        "run", "m.safetensors", "x.safetensors", "-o", "z.safetensors", code=1).err
