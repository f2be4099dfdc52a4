# SPDX-License-Identifier: MIT
"""tenon run on one file: the numbers, against float64; formats; masks; what it refuses."""
import json
import os

import numpy
import pytest
from safetensors.numpy import save_file

import reference
from conftest import load_tokens, worst_relative

KINDS = [
    ("linear", {}),
    ("mlp_2layer", {"hidden": 20}),
    ("mlp_2layer", {"activation": "gelu_tanh"}),
    ("mlp_2layer", {"activation": "quick_gelu"}),
    ("mlp_2layer", {"activation": "silu"}),
    ("mlp_2layer", {"activation": "relu"}),
    ("avgpool", {"window": 2}),
    ("avgpool", {"window": 3}),
    ("attentional_pool", {"window": 3, "heads": 4}),
    ("attentional_pool", {"window": 2, "heads": 3, "ragged": "partial"}),
]
# float32 arithmetic; the stored dtype of the tokens adds half a unit in its last place.
STORED = {"f32": 3e-6, "bf16": 3e-6 + 2.0**-8, "f16": 3e-6 + 2.0**-11}


def features(rng, *shape, dtype=numpy.float32):
    return rng.normal(size=shape).astype(dtype)


def kind_id(value):
    return "-".join([value[0], *map(str, value[1].values())])


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_tokens_equal_float64(tenon, make, rng, kind, dtype):
    adapter = make(kind[0], 24, 10, dtype=dtype, seed=3, **kind[1])
    x = features(rng, 4, 81, 24)
    numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy")
    expected, _ = adapter(x)
    got = load_tokens("y.npy", dtype)
    assert numpy.load("y.npy").dtype == {"f32": "float32", "bf16": "uint16", "f16": "float16"}[dtype]
    assert worst_relative(got, expected) <= STORED[dtype]
    counted = tenon("tokens", "--type", kind[0], "81", *sum(([f"--{k}", str(v)] for k, v in kind[1].items()
                    if k in ("window", "ragged")), [])).out.split()[-1]
    assert got.shape == (4, int(counted), 10)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_masks_prefix_grid_and_window(tenon, make, rng, kind):
    options = {**kind[1], "prefix_tokens": 2}
    if kind[0] == "attentional_pool":
        options["ragged"] = "partial"
    adapter = make(kind[0], 24, 10, **options)
    x = features(rng, 6, 2 + 5 * 7, 24)
    patch_mask = rng.random((6, 35)) < 0.6
    patch_mask[1] = False
    frame_mask = numpy.array([[1, 1, 1], [0, 1, 1]], numpy.uint8)
    x[:, 2:][~patch_mask] = numpy.nan
    x[3] = numpy.inf
    numpy.save("x.npy", x)
    numpy.save("p.npy", patch_mask)
    numpy.save("f.npy", frame_mask)
    pools = "pool" in kind[0]
    words = ["--grid", "5x7", "--window", "4"] if pools else []
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--patch-mask", "p.npy", "--frame-mask", "f.npy", *words)
    expected, _ = adapter(x, grid=(5, 7), window=4, frame_mask=frame_mask, patch_mask=patch_mask)
    got = load_tokens("y.npy")
    assert (got[3] == 0).all() and (got[1] == 0).all()
    assert worst_relative(got, expected) <= 3e-6


@pytest.mark.parametrize("kind", KINDS[1::5], ids=kind_id)
@pytest.mark.parametrize("stored, given", [(1, 0), (0, 3), (2, 2)])
def test_prefix_tokens_of_this_run(tenon, make, rng, kind, stored, given):
    adapter = make(kind[0], 24, 10, prefix_tokens=stored, **kind[1])
    x = features(rng, 3, given + 36, 24)
    numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--prefix-tokens", given)
    adapter.prefix_tokens = given
    assert worst_relative(load_tokens("y.npy"), adapter(x)[0]) <= 3e-6
    open("c.json", "w").write(json.dumps({"type": kind[0], "in_dim": 24, "out_dim": 10, "prefix_tokens": 9,
                                          **({"hidden_dim": 20} if "hidden" in kind[1] else {}),
                                          **({"pool_window": kind[1]["window"]} if "window" in kind[1] else {})}))
    tenon("run", "adapter.safetensors", "x.npy", "-o", "z.npy", "--prefix-tokens", given, "--config", "c.json")
    assert open("z.npy", "rb").read() == open("y.npy", "rb").read()
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--prefix-tokens", given + 40, code=1)
    assert str(given + 36) in result.err and str(given + 40) in result.err
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--prefix-tokens", "-1", code=2)


OPTIONS = [  # of a connector of each kind, and what is said where the option cannot apply to it; None: it can
    (["--window", "3"], {"linear": "no pooling window", "mlp_2layer": "no pooling window"}),
    (["--attention", "a.npy"], {"linear": "no layer of attention", "mlp_2layer": "no layer of attention",
                                "avgpool": "no layer of attention"}),
    (["--grid", "6x6"], {}),
    (["--grid", "3x12"], {}),
    (["--patch-mask", "p.npy"], {}),
    (["--frame-mask", "f.npy"], {}),
    (["--prefix-tokens", "0"], {}),
    (["--dtype", "f16"], {}),
    (["--cpu", "baseline", "--device", "cpu", "--threads", "2"], {}),
    (["--tensor", "x"], "--tensor x: x.npy is npy"),
    (["--npy-bf16"], "--npy-bf16: x.npy holds no npy array of uint16"),
    (["--force"], "--force: x.npy is one file"),
    (["--frame-mask", "d"], "--frame-mask d: is a folder, but x.npy is one file"),
    (["--patch-mask", "d"], "--patch-mask d: is a folder, but x.npy is one file"),
    (["--grid", "5x7"], "5x7"),
]


@pytest.mark.parametrize("kind", ["linear", "mlp_2layer", "avgpool", "attentional_pool"])
def test_options_that_cannot_apply_are_refused(tenon, make, rng, kind):
    make(kind, 8, 6, **({"heads": 2, "window": 3} if "att" in kind else {}))
    os.mkdir("d")
    numpy.save("x.npy", features(rng, 2, 36, 8))
    numpy.save("p.npy", numpy.ones((2, 36), bool))
    numpy.save("f.npy", numpy.ones(2, bool))
    for words, refused in OPTIONS:
        says = refused if isinstance(refused, str) else refused.get(kind)
        result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", *words, code=1 if says else 0)
        assert says is None or (says in result.err and not os.path.exists("y.npy")), words
        if not says:
            os.remove("y.npy")


def test_attention_weights(tenon, make, rng):
    adapter = make("attentional_pool", 24, 10, window=3, heads=4, ragged="partial")
    x = features(rng, 3, 64, 24)
    mask = rng.random((3, 64)) < 0.7
    numpy.save("x.npy", x)
    numpy.save("p.npy", mask)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--patch-mask", "p.npy", "--attention", "a.npy")
    expected_y, expected = adapter(x, patch_mask=mask)
    got = numpy.load("a.npy")
    assert got.dtype == numpy.float32 and got.shape == (3, 9, 4, 9)
    assert numpy.abs(got - expected).max() < 1e-6
    assert ((got == 0) == (expected == 0)).all()
    assert worst_relative(load_tokens("y.npy"), expected_y) <= 3e-6
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--window", "2", "--attention", "a.safetensors")
    assert reference.load_safetensors("a.safetensors")["attention"].shape == (3, 16, 4, 4)
    make("linear", 24, 10, name="linear.safetensors")
    result = tenon("run", "linear.safetensors", "x.npy", "-o", "z.npy", "--attention", "b.npy", code=1)
    assert "attention" in result.err and not os.path.exists("z.npy") and not os.path.exists("b.npy")


@pytest.mark.parametrize("stored", ["float16", "float64", "bf16", ">f4"])
def test_feature_dtypes(tenon, make, rng, stored):
    adapter = make("mlp_2layer", 24, 10)
    x = features(rng, 2, 9, 24)
    words = []
    if stored == "bf16":
        numpy.save("x.npy", reference.to_bf16(x))
        x, words = reference.from_bf16(reference.to_bf16(x)), ["--npy-bf16"]
        result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1)
        assert "u16" in result.err and "--npy-bf16" in result.err
    else:
        x = x.astype(stored)
        numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", *words)
    assert worst_relative(load_tokens("y.npy"), adapter(x)[0]) <= 3e-6


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_dtype_of_the_tokens(tenon, make, rng, dtype):
    adapter = make("avgpool", 24, 10)
    x = features(rng, 2, 16, 24)
    numpy.save("x.npy", x)
    for name in ("y.npy", "y.safetensors"):
        tenon("run", "adapter.safetensors", "x.npy", "-o", name, "--dtype", dtype)
        assert worst_relative(load_tokens(name, dtype), adapter(x)[0]) <= STORED[dtype]


def test_safetensors_features(tenon, make, rng):
    adapter = make("linear", 24, 10)
    x = features(rng, 2, 5, 24)
    save_file({"x": x, "ids": numpy.arange(4)}, "one.safetensors")
    tenon("run", "adapter.safetensors", "one.safetensors", "-o", "y.npy")
    assert worst_relative(load_tokens("y.npy"), adapter(x)[0]) <= 3e-6
    save_file({"a": x, "b": 2 * x}, "two.safetensors")
    result = tenon("run", "adapter.safetensors", "two.safetensors", "-o", "z.npy", code=1)
    assert "a, b" in result.err and "--tensor" in result.err
    tenon("run", "adapter.safetensors", "two.safetensors", "-o", "z.npy", "--tensor", "b")
    assert worst_relative(load_tokens("z.npy"), adapter(2 * x)[0]) <= 3e-6
    assert "'c'" in tenon("run", "adapter.safetensors", "two.safetensors", "-o", "q.npy", "--tensor", "c", code=1).err.replace('"', "'")
    save_file({"ids": numpy.arange(4)}, "none.safetensors")
    tenon("run", "adapter.safetensors", "none.safetensors", "-o", "q.npy", code=1)
    assert not os.path.exists("q.npy")


def test_C36_every_frame_of_a_clip_is_pooled(tenon, make, rng):
    adapter = make("avgpool", 8, 6, window=3)
    x = features(rng, 16, 729, 8)
    numpy.save("x.npy", x)
    assert tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--json").json["tokens"] == 1296
    assert tenon("tokens", "--type", "avgpool", "--window", 3, 729, "--frames", 16, "--json").json["visual"] == 1296
    got = load_tokens("y.npy")
    assert got.shape == (16, 81, 6) and worst_relative(got, adapter(x)[0]) <= 3e-6
    numpy.save("f.npy", numpy.arange(16).reshape(2, 8) % 3 > 0)  # two clips
    tenon("run", "adapter.safetensors", "x.npy", "-o", "z.npy", "--frame-mask", "f.npy")
    masked = load_tokens("z.npy")
    assert (masked[::3] == 0).all() and numpy.array_equal(masked[1::3], got[1::3]) and numpy.array_equal(masked[2::3], got[2::3])


def test_B133_one_image_without_a_batch_axis(tenon, make, rng):
    adapter = make("avgpool", 24, 10, window=3)
    x = features(rng, 81, 24)
    mask = rng.random(81) < 0.5
    numpy.save("x.npy", x)
    numpy.save("p.npy", mask)
    numpy.save("f.npy", numpy.array([True]))
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--patch-mask", "p.npy", "--frame-mask", "f.npy")
    got = load_tokens("y.npy")
    assert got.shape == (9, 10)
    assert worst_relative(got, adapter(x[None], patch_mask=mask[None])[0][0]) <= 3e-6


@pytest.mark.parametrize("name", ["y.npy", "y.safetensors"])
def test_zero_images_give_zero_images(tenon, make, name):
    make("attentional_pool", 24, 10, window=3, heads=4)
    numpy.save("x.npy", numpy.zeros((0, 81, 24), numpy.float32))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", name, "--attention", "a.npy", "--json")
    assert result.json["images"] == 0
    assert load_tokens(name).shape == (0, 9, 10) and numpy.load("a.npy").shape == (0, 9, 4, 9)


def test_B17_pixels_are_no_features(tenon, make):
    make("linear", 336, 10)
    numpy.save("x.npy", numpy.zeros((1, 3, 336, 336), numpy.float32))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1)
    assert "4 axes" in result.err and "(1, 3, 336, 336)" in result.err and not os.path.exists("y.npy")
    numpy.save("x.npy", numpy.zeros(336, numpy.float32))
    assert "1 axes" in tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1).err


def test_B22_B108_another_width(tenon, make):
    make("mlp_2layer", 1024, 16)
    numpy.save("x.npy", numpy.zeros((1, 4, 1664), numpy.float32))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1)
    for part in ("x.npy", "1664", "1024", "in_dim", "adapter.safetensors"):
        assert part in result.err
    assert os.listdir(".") == ["adapter.safetensors", "x.npy"] or sorted(os.listdir(".")) == ["adapter.safetensors", "x.npy"]


def test_B9_weights_of_another_input_width(tenon):
    """A 32x32 grid, C = 768, factor 4: the linear layer must take 12288; weights of 3072 are refused with both."""
    weights = {"proj.weight": numpy.zeros((8, 3072), numpy.float32), "proj.bias": numpy.zeros(8, numpy.float32)}
    save_file(weights, "x.safetensors")
    open("c.json", "w").write('{"type": "linear", "in_dim": 12288, "out_dim": 8}')
    result = tenon("inspect", "x.safetensors", "--config", "c.json", code=1)
    assert "12288" in result.err and "3072" in result.err and "proj.weight" in result.err


def test_B25_a_missing_tensor_is_an_error(tenon, make):
    make("mlp_2layer", 8, 6)
    tensors = reference.load_safetensors("adapter.safetensors")
    del tensors["proj2.bias"]
    save_file({k: numpy.ascontiguousarray(v) for k, v in tensors.items()}, "x.safetensors")
    open("c.json", "w").write('{"type": "mlp_2layer", "in_dim": 8, "out_dim": 6}')
    numpy.save("f.npy", numpy.zeros((1, 1, 8), numpy.float32))
    result = tenon("run", "x.safetensors", "f.npy", "-o", "y.npy", "--config", "c.json", code=1)
    assert "proj2.bias" in result.err and "proj1.bias" not in result.err.replace("proj1.bias (6)", "")


def test_B2_B82_grids_that_do_not_fit_the_tokens(tenon, make):
    make("avgpool", 8, 6)
    numpy.save("x.npy", numpy.zeros((1, 577, 8), numpy.float32))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1)
    assert "x.npy" in result.err and "577" in result.err
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--grid", "24x24", code=1)
    assert "577" in result.err and "576" in result.err
    assert not os.path.exists("y.npy")


def test_B80_one_patch(tenon, make, rng):
    adapter = make("avgpool", 8, 6)
    x = features(rng, 1, 1, 8)
    numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy")
    assert worst_relative(load_tokens("y.npy"), adapter(x)[0]) <= 3e-6


def test_B45_file_names_carry_no_meaning(tenon, make, rng):
    make("linear", 8, 6)
    numpy.save("x.npy", features(rng, 2, 3, 8))
    os.mkdir("llava-lora")
    os.link("adapter.safetensors", "llava-lora/x")
    tenon("run", "adapter.safetensors", "x.npy", "-o", "a.npy")
    tenon("run", "llava-lora/x", "x.npy", "-o", "b.npy")
    assert open("a.npy", "rb").read() == open("b.npy", "rb").read()


def test_B56_B112_bits_do_not_depend_on_threads_or_batch(tenon, make, rng):
    make("attentional_pool", 48, 40, window=3, heads=12)
    x = features(rng, 9, 81, 48)
    numpy.save("x.npy", x)
    numpy.save("one.npy", x[4:5])
    outputs = set()
    for threads in (1, 2, 7):
        tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--threads", threads)
        outputs.add(numpy.load("y.npy").tobytes())
    tenon("run", "adapter.safetensors", "one.npy", "-o", "z.npy")
    assert len(outputs) == 1 and numpy.load("z.npy").tobytes() == numpy.load("y.npy")[4:5].tobytes()


def test_B110_the_device_and_the_level_are_reported(tenon, make, rng):
    make("linear", 8, 6)
    numpy.save("x.npy", features(rng, 2, 3, 8))
    words = ["run", "adapter.safetensors", "x.npy", "-o", "y.npy"]
    assert "on cpu (baseline)" in tenon(*words, "--cpu", "baseline").err
    got = tenon(*words, "--json", "--device", "cpu", env={"TENON_CPU": "baseline"})
    assert (got.json["device"], got.json["cpu"], got.err) == ("cpu", "baseline", "")
    assert "cuda" in tenon(*words, "--device", "cuda", code=2).err
    assert "sse9" in tenon(*words, "--cpu", "sse9", code=2).err


def test_B109_seconds_of_each_stage(tenon, make, rng):
    make("linear", 8, 6)
    numpy.save("x.npy", features(rng, 2, 3, 8))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--json")
    assert set(result.json["seconds"]) == {"load", "read", "compute", "write", "total"}
    assert (result.json["images"], result.json["tokens"]) == (2, 6)
    text = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy")
    assert text.out == "" and text.err.count("\n") == 1
    for word in ("load", "read", "compute", "write", "2 images", "6 tokens"):
        assert word in text.err


def test_B134_tokens_say_what_made_them(tenon, make, rng):
    make("avgpool", 8, 6, name="a.safetensors", seed=1)
    make("avgpool", 8, 6, name="b.safetensors", seed=2)
    numpy.save("x.npy", features(rng, 2, 16, 8))
    hashes = []
    for name in "ab":
        result = tenon("run", f"{name}.safetensors", "x.npy", "-o", f"t{name}.safetensors", "--grid", "2x8", "--json")
        header, _ = reference.read_header(f"t{name}.safetensors")
        meta = header["__metadata__"]
        assert meta["tenon.connector"] == "avgpool" and meta["tenon.grid"] == "2x8"
        assert meta["tenon.weights"] == result.json["weights"]
        hashes.append(meta["tenon.weights"])
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    "mask, shape, dtype, says",
    [
        ("--frame-mask", (3,), bool, "(2)"),
        ("--frame-mask", (2, 3), bool, "(2)"),
        ("--frame-mask", (2,), numpy.int64, "astype(bool)"),
        ("--patch-mask", (2, 15), bool, "(2, 16)"),
        ("--patch-mask", (16,), bool, "(2, 16)"),
        ("--patch-mask", (2, 16), numpy.float32, "astype(bool)"),
    ],
)
def test_masks_that_do_not_fit(tenon, make, mask, shape, dtype, says):
    make("avgpool", 8, 6)
    numpy.save("x.npy", numpy.zeros((2, 16, 8), numpy.float32))
    numpy.save("m.npy", numpy.ones(shape, dtype))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", mask, "m.npy", code=1)
    assert "m.npy" in result.err and says in result.err and not os.path.exists("y.npy")


@pytest.mark.parametrize(
    "words, says",
    [
        (["adapter.safetensors", "x.npy"], "-o"),
        (["adapter.safetensors", "-o", "y.npy"], "FEATURES"),
        (["-o", "y.npy"], "MODEL"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "--threads", "0"], "--threads must be positive"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "--threads", "4097"], "--threads is at most 4096"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "--window", "0"], "--window must be positive"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "--dtype", "f64"], "f64"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "--dtype", ""], "--dtype"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "--fast"], "'--fast'"),
        (["adapter.safetensors", "x.npy", "-o", "y.npy", "-q"], "'-q'"),
    ],
)
def test_usage_errors(tenon, words, says):
    result = tenon("run", *words, code=2)
    assert says in result.err and "tenon run --help" in result.err and os.listdir(".") == []


def test_same_file_in_and_out(tenon, make, rng):
    make("linear", 8, 8)
    numpy.save("x.npy", features(rng, 2, 3, 8))
    numpy.save("m.npy", numpy.ones(2, bool))
    os.symlink("x.npy", "link.npy")
    os.link("adapter.safetensors", "hard.safetensors")
    os.mkdir("d")
    before = {name: open(name, "rb").read() for name in ("x.npy", "m.npy", "adapter.safetensors")}
    run = ["run", "adapter.safetensors", "x.npy", "--frame-mask", "m.npy"]
    for target in ("x.npy", "./x.npy", "d/../x.npy", "link.npy", "m.npy", "adapter.safetensors", "hard.safetensors"):
        assert target in tenon(*run, "-o", target, code=1).err
    assert {name: open(name, "rb").read() for name in before} == before
    make("attentional_pool", 8, 8, name="p.safetensors", heads=2)
    numpy.save("q.npy", features(rng, 2, 4, 8))
    result = tenon("run", "p.safetensors", "q.npy", "-o", "y.npy", "--attention", "d/../y.npy", code=1)
    assert "-o y.npy and --attention d/../y.npy" in result.err and not os.path.exists("y.npy")


@pytest.mark.parametrize("target", ["/dev/full", "missing/y.npy", "y.bin", "d"])
def test_unwritable_targets(tenon, make, target):
    make("linear", 8, 6)
    os.mkdir("d")
    numpy.save("x.npy", numpy.zeros((2, 3, 8), numpy.float32))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", target, code=1)
    assert target in result.err and sorted(os.listdir(".")) == ["adapter.safetensors", "d", "x.npy"]


def test_a_full_disk_leaves_the_old_file(tenon, make, rng):
    import resource

    make("linear", 8, 64)
    numpy.save("x.npy", features(rng, 200, 9, 8))
    open("y.npy", "w").write("old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
    result = tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy", code=1, preexec_fn=limit)
    assert "y.npy" in result.err and open("y.npy").read() == "old"
    assert sorted(os.listdir(".")) == ["adapter.safetensors", "x.npy", "y.npy"]


def test_bad_feature_files(tenon, make):
    make("linear", 8, 6)
    numpy.save("good.npy", numpy.zeros((2, 3, 8), numpy.float32))
    data = open("good.npy", "rb").read()
    cases = {
        "empty.npy": b"",
        "cut.npy": data[:-1],
        "header.npy": data[:40],
        "magic.npy": b"\x93NUMPZ" + data[6:],
        "text.npy": b"hello, world\n" * 9,
        "long.npy": data.replace(b"(2, 3, 8)", b"(1099511627776, 1099511627776, 8)".ljust(9)) [: len(data)],
        "lie.safetensors": (2**63).to_bytes(8, "little") + b"{}",
    }
    for name, content in cases.items():
        open(name, "wb").write(content)
        result = tenon("run", "adapter.safetensors", name, "-o", "y.npy", code=1)
        assert name in result.err and not os.path.exists("y.npy"), name
    numpy.save("i.npy", numpy.zeros((2, 3, 8), numpy.int32))
    said = tenon("run", "adapter.safetensors", "i.npy", "-o", "y.npy", code=1).err
    assert "features are i32; expected f32, bf16, f16, or f64, which is read as f32" in said and "astype" in said
    assert "gone.npy" in tenon("run", "adapter.safetensors", "gone.npy", "-o", "y.npy", code=1).err


def test_nan_and_infinity_reach_their_tokens_and_no_others(tenon, make, rng):
    make("avgpool", 8, 6)
    x = features(rng, 3, 16, 8)
    numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "clean.npy")
    x[1, 5, 2] = numpy.nan
    x[2, 0, 0] = numpy.inf
    numpy.save("x.npy", x)
    tenon("run", "adapter.safetensors", "x.npy", "-o", "y.npy")
    clean, got = numpy.load("clean.npy"), numpy.load("y.npy")
    touched = numpy.zeros((3, 4), bool)
    touched[1, 0] = touched[2, 0] = True
    assert numpy.isnan(got[1, 0]).all() and not numpy.isfinite(got[2, 0]).any()
    assert (got[~touched].view(numpy.uint32) == clean[~touched].view(numpy.uint32)).all()


CLEAN = {name: {"count": 0} for name in ("features", "tokens", "overflow")}
RUN = ["run", "adapter.safetensors", "x.npy", "-o", "y.npy"]


def bits_of(x, dtype):
    return reference.to_bf16(x) if dtype == "bf16" else x.astype({"f32": "f4", "f16": "f2", "f64": "f8"}[dtype])


@pytest.mark.parametrize("kind", KINDS[::3], ids=kind_id)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_values_that_are_not_finite_are_counted(tenon, make, rng, kind, dtype, value):
    make(kind[0], 24, 10, prefix_tokens=1, **kind[1])
    x = features(rng, 5, 37, 24)
    words = ["--npy-bf16"] if dtype == "bf16" else []
    numpy.save("x.npy", bits_of(x, dtype))
    assert tenon(*RUN, *words, "--json").json["nonfinite"] == CLEAN
    assert "not finite" not in tenon(*RUN, *words, "--check-finite").err
    x[3, 9, 23] = x[3, 9, 2] = x[4, 36, 0] = value
    x[2, 0, 5] = value  # of a prefix token, which nothing reads
    numpy.save("x.npy", bits_of(x, dtype))
    got = tenon(*RUN, *words, "--json").json["nonfinite"]
    name = {numpy.inf: "inf", -numpy.inf: "-inf"}.get(value, "nan")
    assert got["features"] == {"count": 3, "first": {"file": "x.npy", "image": 3, "token": 9, "column": 2, "value": name}}
    bad = ~numpy.isfinite(numpy.load("y.npy"))
    assert got["tokens"]["count"] == bad.sum() > 0 and got["overflow"] == {"count": 0}
    first = got["tokens"]["first"]
    assert [first["image"], first["token"], first["column"]] == numpy.argwhere(bad)[0].tolist() and first["file"] == "y.npy"
    said = tenon(*RUN, *words).err
    assert f"; 3 values of the features not finite (first: x.npy, image 3, token 9, column 2 is {name})" in said
    assert f"{bad.sum()} values of the tokens not finite (first: y.npy, image 3, token " in said and said.count("\n") == 1
    old = open("y.npy", "rb").read()
    said = tenon(*RUN, *words, "--check-finite", code=1).err
    assert f"x.npy: in the features, image 3, token 9, column 2 is {name}; correct them" in said
    assert open("y.npy", "rb").read() == old
    os.remove("y.npy")
    tenon(*RUN, *words, "--check-finite", code=1)
    assert sorted(os.listdir(".")) == ["adapter.safetensors", "x.npy"]


@pytest.mark.parametrize("kind", ["avgpool", "attentional_pool", "linear"])
def test_values_that_nothing_reads_are_not_counted(tenon, make, rng, kind):
    make(kind, 8, 6, **({} if kind == "linear" else {"ragged": "drop", "window": 3}), **({"heads": 2} if "att" in kind else {}))
    x = features(rng, 4, 56, 8)
    patches, frames = numpy.ones((4, 56), bool), numpy.ones(4, bool)
    patches[0, 9], frames[1] = False, False
    x[0, 9] = x[1] = numpy.nan
    if kind != "linear":  # 7 x 8 patches by window 3: the last row and the last two columns are dropped
        x.reshape(4, 7, 8, 8)[:, 6] = x.reshape(4, 7, 8, 8)[:, :, 6:] = numpy.inf
    numpy.save("x.npy", x)
    numpy.save("p.npy", patches)
    numpy.save("f.npy", frames)
    words = [*RUN, "--patch-mask", "p.npy", "--frame-mask", "f.npy", *([] if kind == "linear" else ["--grid", "7x8"])]
    assert tenon(*words, "--json", "--check-finite").json["nonfinite"] == CLEAN
    x[2, 45, 7] = numpy.nan  # row 5, column 5 of the grid
    x[0, 9, 1] = numpy.inf
    numpy.save("x.npy", x)
    got = tenon(*words, "--json").json["nonfinite"]["features"]
    assert got == {"count": 1, "first": {"file": "x.npy", "image": 2, "token": 45, "column": 7, "value": "nan"}}


def test_values_dropped_by_another_window_and_a_square_grid(tenon, make, rng):
    make("avgpool", 8, 6, ragged="drop", window=3)
    x = features(rng, 1, 25, 8)
    x.reshape(5, 5, 8)[4] = x.reshape(5, 5, 8)[:, 4] = numpy.nan
    numpy.save("x.npy", x)
    assert tenon(*RUN, "--json", "--window", "2", "--check-finite").json["nonfinite"] == CLEAN
    assert tenon(*RUN, "--json", "--window", "5").json["nonfinite"]["features"]["count"] == 72


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_tokens_that_overflow_are_counted_apart(tenon, rng, dtype):
    """Finite in f32, infinite in the dtype they are written in; beside them NaN from a feature, infinite in f32 too."""
    tensors = {"proj.weight": numpy.ones((6, 8), "f4") / 8, "proj.bias": numpy.zeros(6, "f4")}
    save_file(tensors, "ones.safetensors")
    open("c.json", "w").write('{"type": "linear", "in_dim": 8, "out_dim": 6}')
    x = features(rng, 4, 5, 8)
    x[1, 2] = 1e6 if dtype == "f16" else 3.4e38
    x[2, 0, 0] = numpy.nan
    x[3, 1] = 3.4e38
    x[3, 1, 0] = numpy.inf
    numpy.save("x.npy", x)
    words = ["run", "ones.safetensors", "x.npy", "-o", "y.npy", "--config", "c.json", "--dtype", dtype]
    got = tenon(*words, "--json").json["nonfinite"]
    assert got["features"]["count"] == 2
    assert got["tokens"] == {"count": 12, "first": {"file": "y.npy", "image": 2, "token": 0, "column": 0, "value": "nan"}}
    assert got["overflow"] == {"count": 6, "first": {"file": "y.npy", "image": 1, "token": 2, "column": 0, "value": "inf"}}
    said = tenon(*words).err
    assert f"; 6 values of the tokens too large for {dtype} (first: y.npy, image 1, token 2, column 0 is inf)" in said
    x[2, 0, 0] = x[3, 1] = 0
    numpy.save("x.npy", x)
    os.remove("y.npy")
    said = tenon(*words, "--check-finite", code=1).err
    assert f"x.npy: in its tokens, image 1, token 2, column 0 is inf in {dtype} and finite in f32" in said
    assert "--dtype f32" in said and not os.path.exists("y.npy")
    tenon("run", "ones.safetensors", "x.npy", "-o", "y.npy", "--config", "c.json", "--dtype", "f32", "--check-finite")


def test_weights_that_are_not_finite_show_in_the_tokens(tenon, rng):
    tensors = {"proj.weight": numpy.ones((6, 8), "f4"), "proj.bias": numpy.zeros(6, "f4")}
    tensors["proj.weight"][2, 3] = numpy.inf
    save_file(tensors, "w.safetensors")
    open("c.json", "w").write('{"type": "linear", "in_dim": 8, "out_dim": 6}')
    numpy.save("x.npy", abs(features(rng, 2, 3, 8)) + 1)
    words = ["run", "w.safetensors", "x.npy", "-o", "y.npy", "--config", "c.json"]
    done = tenon(*words, "--json", code=None)
    if done.code == 0:  # unless loading has refused them
        assert done.json["nonfinite"]["tokens"] == {
            "count": 6, "first": {"file": "y.npy", "image": 0, "token": 0, "column": 2, "value": "inf"}}
        os.remove("y.npy")
        said = tenon(*words, "--check-finite", code=1).err
        assert "x.npy: in its tokens, image 0, token 0, column 2 is inf" in said and not os.path.exists("y.npy")


def test_f64_past_the_range_of_f32_is_not_finite(tenon, make):
    make("linear", 8, 6)
    numpy.save("x.npy", numpy.full((1, 2, 8), -1e300))
    assert tenon(*RUN, "--json").json["nonfinite"]["features"]["first"]["value"] == "-inf"


def test_a_chunk_further_on_is_looked_at_too(tenon, make, rng):
    make("linear", 512, 64)
    x = features(rng, 400, 64, 512)  # 52 MB: more than a chunk
    x[399, 63, 511] = numpy.nan
    numpy.save("x.npy", x)
    first = {"file": "x.npy", "image": 399, "token": 63, "column": 511, "value": "nan"}
    got = tenon(*RUN, "--json").json["nonfinite"]
    assert got["features"] == {"count": 1, "first": first} and got["tokens"]["count"] == 64
    os.remove("y.npy")
    assert "image 399" in tenon(*RUN, "--check-finite", code=1).err
    assert sorted(os.listdir(".")) == ["adapter.safetensors", "x.npy"]


@pytest.mark.parametrize("window", [2**31, 2**32, 3 * 10**9, 2**62, 2**63 - 1])
def test_attention_larger_than_any_memory(tenon, make, window):
    make("attentional_pool", 8, 6, heads=2, ragged="partial")
    numpy.save("x.npy", numpy.zeros((2, 16, 8), numpy.float32))
    words = ["run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--window", window]
    tenon(*words, "--attention", "a.npy", code=1)
    assert not os.path.exists("y.npy") and not os.path.exists("a.npy")
