# SPDX-License-Identifier: MIT
"""What an adapter takes and gives back, and what it says to what it does not take."""

import array
import re

import ml_dtypes
import numpy as np
import pytest
from others import other

import tenon
from tenon import _C

jnp, torch = other("jax.numpy"), other("torch")


@pytest.fixture(scope="module")
def adapter():
    return tenon.build_adapter(tenon.Config("avgpool", pool_window=3), 8, 16, seed=7)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 81, 8)).astype(np.float32)


def test_the_callers_kind_comes_back(adapter, x):
    y = adapter(x)
    assert type(y) is np.ndarray and y.shape == (2, 9, 16) and y.flags.writeable and y.flags.c_contiguous
    assert adapter(memoryview(x)).tobytes() == y.tobytes()
    assert adapter(memoryview(x.tobytes()).cast("f", x.shape)).tobytes() == y.tobytes()  # a read-only buffer
    assert adapter(_C.copy(x)).tobytes() == y.tobytes()
    tensor = adapter(torch.from_numpy(x))
    assert type(tensor) is torch.Tensor and tensor.numpy().tobytes() == y.tobytes()
    jax_tokens = adapter(jnp.asarray(x))
    assert isinstance(jax_tokens, jnp.ndarray) and np.asarray(jax_tokens).tobytes() == y.tobytes()


def test_dtype_of_tokens(x):
    half = tenon.build_adapter("linear", 8, 4, seed=1, dtype="f16")
    brain = tenon.build_adapter("linear", 8, 4, seed=1, dtype="bf16")
    assert half(x).dtype == np.float16
    assert brain(x).dtype == np.float32  # NumPy has no bfloat16 ...
    assert brain(x.astype(ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16  # ... unless the caller has
    for asked in ("f16", "float16", np.float16, np.dtype(np.float16)):
        assert brain(x, dtype=asked).dtype == np.float16
    for asked in ("bf16", "bfloat16", ml_dtypes.bfloat16):
        assert half(x, dtype=asked).dtype == ml_dtypes.bfloat16
    assert brain(torch.from_numpy(x)).dtype == torch.bfloat16
    assert brain(jnp.asarray(x)).dtype == jnp.bfloat16
    for of in (torch, jnp):
        assert brain(x, dtype=of.float16).dtype == np.float16
        assert half(x, dtype=of.bfloat16).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (2, 1)])
def test_legacy_and_versioned_dlpack(adapter, x, version):
    """An exporter that speaks DLPack as `version` says: old ones do not know the argument."""
    if version is not None and version[0] > 0 and np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("this NumPy exports no versioned tensors")

    class Exporter:
        def __dlpack__(self, **options):
            if version is None and options:
                raise TypeError("unexpected keyword argument 'max_version'")
            return x.__dlpack__() if version is None or version[0] == 0 else x.__dlpack__(max_version=(1, 0))

        def __dlpack_device__(self):
            return (1, 0)

    assert adapter(Exporter()).tobytes() == adapter(x).tobytes()


def test_our_arrays_go_to_everybody(x):
    made = _C.copy(x)
    assert made.shape == x.shape and made.dtype == "f32" and made.__dlpack_device__() == (1, 0)
    assert np.asarray(made).tobytes() == np.from_dlpack(made).tobytes() == x.tobytes()
    assert "dltensor_versioned" in repr(made.__dlpack__(max_version=(1, 1)))
    assert "dltensor_versioned" not in repr(made.__dlpack__(max_version=(0, 8)))
    assert "dltensor_versioned" not in repr(made.__dlpack__())
    assert np.asarray(jnp.from_dlpack(made)).tobytes() == x.tobytes()
    tensor = torch.from_dlpack(made)
    del made
    assert tensor.numpy().tobytes() == x.tobytes()


def test_read_only_features_and_outs(adapter, x):
    y = adapter(x)
    x.flags.writeable = False
    assert adapter(x).tobytes() == y.tobytes()
    y.flags.writeable = False
    for kind in (lambda: y, lambda: memoryview(y), lambda: jnp.zeros(y.shape)):
        out = kind()
        with pytest.raises(ValueError, match="out is read-only; it must be writable"):
            adapter(x, out=out)


def test_masks_of_every_kind(adapter, x):
    mask = np.random.default_rng(1).random((2, 81)) < 0.5
    expected = adapter(x, patch_mask=mask)
    assert (adapter(x, frame_mask=np.array([0, 1], np.uint8))[0] == 0).all()
    for kind in (np.int8, np.uint8, memoryview, lambda m: torch.from_numpy(m), lambda m: jnp.asarray(m)):
        assert adapter(x, patch_mask=kind(mask)).tobytes() == expected.tobytes()
    for dtype in ("i2", "i4", "i8", "u2", "u4", "u8"):
        wide = (mask * np.array(0x100, dtype))[::-1, ::-1]  # any value but 0, under any strides
        for kind in (np.asarray, memoryview):
            assert adapter(x, patch_mask=kind(wide[::-1, ::-1])).tobytes() == expected.tobytes()
    for wide in (torch.from_numpy(mask).to(torch.int64), jnp.asarray(mask, jnp.int32)):
        assert adapter(x, patch_mask=wide).tobytes() == expected.tobytes()


def test_nan_in_masked_patches_is_not_read(adapter, x):
    mask = np.ones((2, 81), bool)
    mask[:, :3] = False
    x[:, :3] = np.nan
    assert np.isfinite(adapter(x, patch_mask=mask)).all()


SENTENCES = [
    (lambda a, x: a([1.0]), TypeError, r"x is of type list; expected an array with __dlpack__"),
    (lambda a, x: a(3.0), TypeError, r"x is of type float"),
    (lambda a, x: a(None), TypeError, r"x is of type NoneType"),
    (lambda a, x: a(), TypeError, r"takes one positional argument, x \(got 0\)"),
    (lambda a, x: a(x, x), TypeError, r"takes one positional argument, x \(got 2\)"),
    (lambda a, x: a(x, windows=2), TypeError, r"takes no argument 'windows'; it takes x, out, dtype, grid"),
    (lambda a, x: a(x.astype("f8")), ValueError, r"x is float64; expected float32, bfloat16 or float16"),
    (lambda a, x: a(x.astype("i4")), ValueError, r"x is int32; expected float32, bfloat16 or float16"),
    (lambda a, x: a(x.astype(">f4")), ValueError, r"x is >f4, in the byte order of other machines"),
    (lambda a, x: a(x.astype("U5")), ValueError, r"x is <U5; expected float32"),
    (lambda a, x: a(x[0, 0]), ValueError, r"x has 1 dimension; expected 3: \(batch, tokens, in_dim\), or 2 for one image"),
    (lambda a, x: a(x[None]), ValueError, r"x has 4 dimensions; expected 3"),
    (lambda a, x: a(np.zeros((1,) * 9, "f4")), ValueError, r"x has 9 dimensions"),
    (lambda a, x: a(x[..., :7]), ValueError, r"x has width 7; the adapter's in_dim is 8"),
    (lambda a, x: a(x[:, :80]), ValueError, r"num_tokens=80 is not a perfect square"),
    (lambda a, x: a(x, grid=(8, 10)), ValueError, r"8 ?x ?10|80"),
    (lambda a, x: a((x, x)), TypeError, r"x is \(array\(\[\[\[ ?[0-9., ]*.*\.\.\.; expected an array or \(address"),
    (lambda a, x: a(x, grid=x), TypeError, r"grid rows is of type ndarray; expected an integer"),
    (lambda a, x: a(x, grid=x[0]), TypeError, r"grid is array\(.*\.\.\.; expected a pair"),
    (lambda a, x: a(x, pool_window=10**30), ValueError, r"pool_window is 1000000000000000000000000000000; it must fit 64"),
    (lambda a, x: a(x, grid=9), TypeError, r"grid is 9; expected a pair \(rows, columns\)"),
    (lambda a, x: a(x, grid=(9, 9.0)), TypeError, r"grid columns is of type float; expected an integer"),
    (lambda a, x: a(x, pool_window=0), ValueError, r"pool_window must be positive \(got 0\)"),
    (lambda a, x: a(x, pool_window=True), TypeError, r"pool_window is of type bool; expected an integer"),
    (lambda a, x: a(x, pool_window=2**63), ValueError, r"pool_window is 9223372036854775808; it must fit 64 bits"),
    (lambda a, x: a(x, dtype="f64"), ValueError, r"dtype is 'f64'; expected f32, bf16 or f16"),
    (lambda a, x: a(x, dtype=np.float64), ValueError, r"expected f32, bf16 or f16"),
    (lambda a, x: a(x, threads=-1), ValueError, r"threads is -1; expected 0 \(automatic\) to 4096"),
    (lambda a, x: a(x, patch_mask=x), ValueError, r"patch_mask is float32; expected bool or integers"),
    (lambda a, x: a(x, patch_mask=np.ones((2, 80), bool)), ValueError, r"patch_mask has shape \[2, 80\]; expected \[2, 81\]"),
    (lambda a, x: a(x, frame_mask=np.ones(3, bool)), ValueError, r"frame_mask has shape \[3\]; expected \[2\]"),
    (lambda a, x: a(x, out=np.zeros((2, 9, 15), "f4")), ValueError, r"out has shape \[2, 9, 15\]; expected \[2, 9, 16\]"),
    (lambda a, x: a(x, out=np.zeros((2, 9, 32), "f4")[..., ::2]), ValueError, r"out has stride 2 on its last axis"),
    (lambda a, x: a(x, out=np.zeros((2, 9, 16), "f4"), dtype="f32"), TypeError, r"give out or dtype, not both"),
    (lambda a, x: a.attention(x), ValueError, r"'avgpool' has no pooling weights"),
    (lambda a, x: a.prepare("avx1024"), ValueError, r"avx1024"),
    (lambda a, x: a.parameter("proj.wait"), KeyError, r"there is no parameter 'proj.wait'; the adapter has proj.weight, proj.bias"),
    (lambda a, x: a(torch.zeros(2, 81, 8, requires_grad=True)), ValueError, r"x requires a gradient, which tenon.Adapter does not compute; pass x.detach\(\)"),
    (lambda a, x: a(torch.zeros(2, 81, 8, device="meta")), ValueError, r"x"),
]


@pytest.mark.parametrize("call, kind, sentence", SENTENCES)
def test_sentences(adapter, x, call, kind, sentence):
    with pytest.raises(kind, match=sentence) as caught:
        call(adapter, x)
    assert re.search(r"\S", str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", (np.asarray, memoryview, torch.as_tensor, jnp.asarray, _C.copy))
def test_two_axes_are_one_image(x, kind):
    adapter = tenon.build_adapter(tenon.Config("attentional_pool", pool_window=3, pool_heads=2), 8, 16, seed=7)
    mask = np.random.default_rng(1).random((2, 81)) < 0.5
    expected, weights = adapter(x, patch_mask=mask), adapter.attention(x, patch_mask=mask)
    for i in range(2):
        image = np.ascontiguousarray(x[i])
        for given in (mask[i], mask[i].astype(np.int64), mask[i][None]):
            y = adapter(kind(image), patch_mask=given)
            assert y.shape == (9, 16) and np.asarray(y).tobytes() == expected[i].tobytes()
            shares = adapter.attention(kind(image), patch_mask=given)
            assert shares.shape == (9, 2, 9) and np.asarray(shares).tobytes() == weights[i].tobytes()
        strided = np.asfortranarray(x[i])
        assert adapter(strided, patch_mask=mask[i]).tobytes() == expected[i].tobytes()
        out = np.zeros((9, 16), np.float32)
        assert adapter(strided, out=out, patch_mask=mask[i]) is out
        assert out.tobytes() == expected[i].tobytes()
        with pytest.raises(ValueError, match="out has 3 dimensions; expected 2, because x is one image"):
            adapter(strided, out=out[None])
    assert (adapter(x[0], frame_mask=np.zeros(1, bool)) == 0).all()
    with pytest.raises(ValueError, match=r"patch_mask has shape .*80\]; expected .*81\]"):
        adapter(x[0], patch_mask=mask[0, :80])
    with pytest.raises(ValueError, match=r"patch_mask has 1 dimensions"):
        adapter(x, patch_mask=mask[0])


def test_out_overlapping_x():
    square = tenon.build_adapter("linear", 8, 8, seed=1)
    x = np.zeros((1, 4, 8), np.float32)
    with pytest.raises(ValueError, match="x and out overlap in memory"):
        square(x, out=x)


def test_a_packed_struct_is_refused():
    packed = np.zeros((2, 81, 8), np.dtype([("flag", "u1"), ("value", "<f4")]))["value"]
    adapter = tenon.build_adapter("linear", 8, 8, seed=1)
    with pytest.raises(ValueError, match="stride of 5 bytes, no multiple of its element size 4"):
        adapter(packed)


def test_buffers_without_a_shape(adapter):
    with pytest.raises(ValueError, match="x has 1 dimension"):
        adapter(array.array("f", [1, 2]))
    with pytest.raises(ValueError, match="x is uint8|x has 1 dimension"):
        adapter(b"abc")


def test_raw_tuples(adapter, x):
    y = np.zeros((2, 9, 16), np.float32)
    adapter.prepare()
    adapter.forward((y.ctypes.data, _C.F32, y.shape, None), (x.ctypes.data, _C.F32, x.shape, (648, 8, 1)))
    assert y.tobytes() == adapter(x).tobytes()
    for bad, kind in (((1, 2), TypeError), ((0, _C.F32, (1,) * 9, None), ValueError), ((0, 1, (1, 2), (1,)), ValueError)):
        with pytest.raises(kind):
            adapter.forward(y, bad)
