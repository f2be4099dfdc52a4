# SPDX-License-Identifier: MIT
"""What broke elsewhere, as tests under the numbers of the collected reports (docs/reliability.md): arrays that are not
what their memory says."""

import array
import ctypes
import io
import re

import ml_dtypes
import numpy as np
import pytest
from others import other

import tenon
from tenon import _C

jnp, torch = other("jax.numpy"), other("torch")


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 16, 8)).astype(np.float32)


@pytest.fixture
def adapter():
    return tenon.build_adapter(tenon.Config("attentional_pool", pool_heads=2), 8, 8, seed=7)


def negated(values):
    """The same values, with PyTorch's negative bit: in memory they have the other sign."""
    tensor = torch.as_tensor(values)
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg() and torch.equal(view, tensor)
    return view


# ---- C19: tensors whose sign is a bit ----


def test_C19_features(adapter, x):
    class Named(torch.Tensor):
        pass

    view = negated(x)
    for seen in (view, view.as_subclass(Named)):
        assert np.array_equal(adapter(seen), adapter(x))
        assert np.array_equal(adapter.attention(seen), adapter.attention(x))
    y, expected = np.zeros((2, 4, 8), np.float32), adapter(x)
    adapter.forward(y, view)
    assert np.array_equal(y, expected)


def test_C19_outputs(adapter, x):
    """They are refused: what is written would have the other sign."""

    class Named(torch.Tensor):
        pass

    out = negated(np.zeros((2, 4, 8), np.float32))
    before = out.clone()
    for view in (out, out.as_subclass(Named)):
        with pytest.raises(ValueError, match="out has PyTorch's negative bit set and cannot be written"):
            adapter(x, out=view)
    adapter.prepare(train=True)
    with pytest.raises(ValueError, match="dx has PyTorch's negative bit set"):
        adapter.backward(np.zeros((2, 4, 8), np.float32), x, negated(x), None)
    assert torch.equal(out, before)


def test_C19_gradients():
    adapter = tenon.build_adapter("linear", 3, 2, seed=1)
    adapter.prepare(train=True)
    x, dy = torch.randn(1, 4, 3), torch.randn(1, 4, 2)
    found = []
    for seen in (torch.clone, negated):
        gradients = [torch.zeros(2, 3), torch.zeros(2)]
        dx = torch.zeros(1, 4, 3)
        adapter.backward(seen(dy), seen(x), dx, gradients)
        found.append([dx, *gradients])
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(*found, strict=True))


def test_C19_parameters(x, tmp_path):
    adapter = tenon.build_adapter("mlp_2layer", 8, 8, seed=7)
    state, expected = adapter.state_dict(), adapter(x)

    def fresh():
        return tenon.build_adapter("mlp_2layer", 8, 8, seed=1)

    views = {name: negated(value) for name, value in state.items()}
    buffer = io.BytesIO()
    torch.save(views, buffer)
    buffer.seek(0)
    pickled = torch.load(buffer, weights_only=True)
    assert all(value.is_neg() for value in pickled.values())
    wanting = {name: torch.nn.Parameter(value) for name, value in views.items()}
    for given in (views, pickled, wanting):
        other = fresh()
        other.load_state_dict(given)
        assert np.array_equal(other(x), expected)
        other = fresh()
        for name, value in given.items():
            other.set_parameter(name, value)
        assert np.array_equal(other(x), expected)
        other = fresh()
        _C.Adapter.set_parameters(other, list(given.values()))
        assert np.array_equal(other(x), expected)
        other = fresh()
        _C.Adapter.set_parameters(other, list(given.values()), "an owner, beside which the copies must stay")
        assert np.array_equal(other(x), expected)


def test_C19_borrowed_parameters_are_held():
    """Whatever becomes of the tensor: it may be given other memory."""
    adapter = tenon.build_adapter("linear", 64, 64, seed=1)
    weight, bias = torch.zeros(64, 64), torch.zeros(64)
    _C.Adapter.set_parameters(adapter, [weight, bias])
    weight.data, bias.data = torch.ones(64, 64), torch.ones(64)
    rubbish = [torch.full((64, 64), 3.0) for _ in range(10)]
    assert (adapter(np.ones((1, 1, 64), np.float32)) == 0).all() and len(rubbish) == 10


def test_C19_complex_tensors_are_refused(adapter, x):
    state = adapter.state_dict()
    wide = torch.as_tensor(x).to(torch.complex64)
    for value in (wide, wide.conj(), wide.numpy(), jnp.asarray(x, jnp.complex64)):
        with pytest.raises(ValueError, match="x is complex64; expected float32, bfloat16 or float16"):
            adapter(value)
    complex_bias = torch.as_tensor(state["q_proj.bias"]).to(torch.complex64)
    for value in (complex_bias, complex_bias.conj(), complex_bias.numpy()):
        with pytest.raises(ValueError, match="parameter 'q_proj.bias' is complex64; expected float32"):
            adapter.load_state_dict(state | {"q_proj.bias": value})
        with pytest.raises(ValueError, match="parameter 'q_proj.bias' is complex64; expected float32"):
            adapter.set_parameter("q_proj.bias", value)
    for mask in (wide[..., 0], wide[..., 0].conj()):
        with pytest.raises(ValueError, match="patch_mask is complex64; expected bool or integers"):
            adapter(x, patch_mask=mask)


def test_C24_zeros_without_memory(adapter, x):
    """PyTorch's derivatives make them; a copy of them is an ordinary tensor."""
    zeros = torch._efficientzerotensor(x.shape)
    assert np.array_equal(adapter(zeros), adapter(np.zeros_like(x)))
    state = adapter.state_dict()
    bias = torch._efficientzerotensor(state["q_proj.bias"].shape)
    adapter.load_state_dict(state | {"q_proj.bias": bias})
    assert not adapter.state_dict()["q_proj.bias"].any()
    _C.Adapter.set_parameter(adapter, "k_proj.bias", bias)
    assert not adapter.state_dict()["k_proj.bias"].any()
    with pytest.raises(ValueError, match="out has shape .* but no data"):
        adapter(x, out=torch._efficientzerotensor((2, 4, 8)))


# ---- masked arrays ----


MASKED = "is masked .*, and the mask would not be read; pass a plain array in which missing values are filled in"


def test_C22_masked_arrays_are_refused(adapter, x):
    masked = np.ma.masked_array(x, mask=x > 0)
    state = adapter.state_dict()
    for value in (masked, memoryview(masked), torch.masked.masked_tensor(torch.as_tensor(x), torch.as_tensor(x > 0))):
        with pytest.raises(ValueError, match="x " + MASKED):
            adapter(value)
        with pytest.raises(ValueError, match="x " + MASKED):
            adapter.attention(value)
    with pytest.raises(ValueError, match="out " + MASKED):
        adapter(x, out=np.ma.zeros((2, 4, 8), np.float32))
    with pytest.raises(ValueError, match="patch_mask " + MASKED):
        adapter(x, patch_mask=np.ma.masked_array(x[..., 0] > 0, mask=x[..., 0] > 1))
    bias = np.ma.masked_array(state["q_proj.bias"], mask=True)
    for change in (lambda: adapter.load_state_dict(state | {"q_proj.bias": bias}),
                   lambda: adapter.set_parameter("q_proj.bias", bias)):  # fmt: skip
        with pytest.raises(ValueError, match="parameter 'q_proj.bias' " + MASKED):
            change()
    assert np.array_equal(adapter(masked.filled(0)), adapter(np.where(x > 0, 0, x)))
    assert np.array_equal(adapter(masked.data), adapter(x))


# ---- C21: producers that say strange things ----


class Described:
    """An object of this __array_interface__."""

    def __init__(self, values, **changes):
        self.values = values
        data = (values.ctypes.data, not values.flags.writeable)
        self.interface = {"shape": values.shape, "typestr": values.dtype.str, "data": data, "version": 3} | changes

    @property
    def __array_interface__(self):
        return self.interface


STRIDES = "x: the tuple of strides is {}; expected a tuple of 3 integers, one for each axis"
INTERFACES = [
    ({"strides": (512, 32)}, ValueError, re.escape(STRIDES.format("(512, 32)"))),
    ({"strides": (512, 32, 4, 4)}, ValueError, re.escape(STRIDES.format("(512, 32, 4, 4)"))),
    ({"strides": [512, 32, 4]}, ValueError, re.escape(STRIDES.format("[512, 32, 4]"))),
    ({"strides": ()}, ValueError, re.escape(STRIDES.format("()"))),
    ({"strides": (512, 32, 4.0)}, ValueError, "the tuple of strides is"),
    ({"strides": (2**64, 32, 4)}, ValueError, "the tuple of strides is"),
    ({"shape": (4, 16, 8), "strides": (2**62, 32, 4)}, ValueError, "strides that reach past 64 bits"),
    ({"strides": (511, 32, 4)}, ValueError, "stride of 511 bytes, no multiple of its element size 4"),
    ({"shape": [2, 16, 8]}, ValueError, r"x: the shape is \[2, 16, 8\]; expected a tuple of at most 8 integers"),
    ({"shape": (2, 16, 8.0)}, ValueError, "x: the shape is"),
    ({"shape": (2, 16, 2**80)}, ValueError, "x: the shape is"),
    ({"shape": (1,) * 9}, ValueError, "x: the shape is"),
    ({"shape": (2, -16, 8)}, ValueError, "-16|negative"),
    ({"shape": (2**40, 2**40, 8)}, ValueError, "x has|not a perfect square|too"),
    ({"data": (0, False)}, ValueError, "x has shape .* but no data"),
    ({"data": (2**80, False)}, ValueError, "x: the address is .*; expected an integer of 64 bits"),
    ({"data": ("here", False)}, ValueError, "x: the address is 'here'"),
    ({"data": None}, TypeError, "without shape, typestr or an address in data"),
    ({"mask": np.zeros((2, 16, 8), bool)}, ValueError, "x " + MASKED),
    ({"typestr": 4}, TypeError, "typestr is 4; expected a string"),
    ({"typestr": "<f"}, ValueError, "x is of typestr '<f'; expected float32"),
    ({"typestr": "<f0"}, ValueError, "x is of typestr '<f0'; expected float32"),
    ({"typestr": "|V2"}, ValueError, r"x is of typestr '\|V2'; expected float32"),
    ({"typestr": "<c8"}, ValueError, "x is complex64; expected float32"),
]


@pytest.mark.parametrize("changes, kind, sentence", INTERFACES)
def test_C21_array_interfaces_that_lie(adapter, x, changes, kind, sentence):
    with pytest.raises(kind, match=sentence) as told:
        adapter(Described(x, **changes))
    assert "\n" not in str(told.value)


def test_C21_array_interfaces_that_tell_the_truth(adapter, x):
    expected = adapter(x)
    wide = np.zeros((2, 16, 16), np.float32)
    wide[..., ::2] = x
    seen = Described(wide, shape=x.shape, strides=(1024, 64, 8))
    assert np.array_equal(adapter(seen), expected)
    assert np.array_equal(adapter(Described(x, mask=None, strides=None)), expected)
    assert np.array_equal(adapter(Described(x[:1].repeat(2, 0), strides=(0, 32, 4)))[0], expected[0])
    half = Described(x.astype(ml_dtypes.bfloat16))
    half.dtype = np.dtype(ml_dtypes.bfloat16)
    assert np.array_equal(adapter(half), adapter(half.values).astype(np.float32))
    half.interface["typestr"] = "|V0"  # of no size at all: nothing is divided by it
    with pytest.raises(ValueError, match="x"):
        adapter(half)


class Legacy(ctypes.Structure):
    """DLManagedTensor of 64-bit systems."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    )  # fmt: skip


class Exporter:
    """An object whose legacy capsule says what it is told to say."""

    def __init__(self, values, **changes):
        self.values = values
        shape = changes.pop("shape", values.shape)
        self.axes = (ctypes.c_int64 * max(len(shape), 1))(*shape)
        strides = changes.pop("strides", None)
        self.strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        self.managed = Legacy(
            data=values.ctypes.data, device=(1, 0), ndim=len(shape), code=2, bits=32, lanes=1,
            shape=ctypes.addressof(self.axes), strides=self.strides and ctypes.addressof(self.strides),
        )  # fmt: skip
        for name, value in changes.items():
            setattr(self.managed, name, value)

    def __dlpack__(self, **options):
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self.managed), b"dltensor", None)

    def __dlpack_device__(self):
        return (1, 0)


def test_C21_capsules_by_hand(adapter, x):
    expected = adapter(x)
    assert np.array_equal(adapter(Exporter(x)), expected)
    longer = np.concatenate([np.full(13, np.nan, np.float32), x.reshape(-1)])
    assert np.array_equal(adapter(Exporter(longer, shape=x.shape, byte_offset=52)), expected)
    assert np.array_equal(adapter(Exporter(x, strides=(128, 8, 1))), expected)
    state = adapter.state_dict()
    for changes in (
        {"lanes": 2}, {"ndim": 0}, {"ndim": -1}, {"ndim": 200}, {"shape": (2, -16, 8)}, {"data": None}, {"bits": 64},
        {"code": 5, "bits": 64}, {"code": 0, "bits": 4}, {"device": (2, 0)}, {"code": 99},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="^x ") as told:
            adapter(Exporter(x, **changes))
        assert "\n" not in str(told.value)
        with pytest.raises(ValueError, match="parameter 'q_proj.weight' "):
            adapter.load_state_dict(state | {"q_proj.weight": Exporter(state["q_proj.weight"], **changes)})
    for shape, strides in (((2**40, 2**40, 8), None), ((4, 16, 8), (2**62, 8, 1))):
        with pytest.raises(ValueError, match="x has strides that reach past 64 bits|too big|64 bits"):
            adapter(Exporter(x, shape=shape, strides=strides))
    nowhere = Exporter(x)
    nowhere.managed.shape = None
    with pytest.raises(ValueError, match="x is exported with 3 dimensions and without a shape"):
        adapter(nowhere)


# ---- C22: masks that mean something else ----


def test_C22_floating_point_masks_are_refused(adapter, x):
    additive = np.zeros((2, 16), np.float32)
    additive[:, ::3] = -np.inf
    sentence = (
        "{} is float{}; expected bool or integers, nonzero for what is valid. Convert an additive mask (0 keeps, -inf "
        "drops) with mask == 0, and one of ones (keep) and zeros (drop) with mask != 0"
    )
    for kind in (np.asarray, memoryview, torch.as_tensor, jnp.asarray, lambda m: Exporter(m)):
        with pytest.raises(ValueError) as told:
            adapter(x, patch_mask=kind(additive))
        assert str(told.value) == sentence.format("patch_mask", 32)
        with pytest.raises(ValueError) as told:
            adapter(x, frame_mask=kind(additive[:, 0].copy()))
        assert str(told.value) == sentence.format("frame_mask", 32)
    for dtype in (np.float16, np.float64, ml_dtypes.bfloat16):
        with pytest.raises(ValueError, match="expected bool or integers"):
            adapter.attention(x, patch_mask=additive.astype(dtype))
    valid = adapter(x, patch_mask=additive == 0)  # as the sentence says
    assert np.array_equal(adapter(x, patch_mask=np.where(additive == 0, 1, 0)), valid)
    ones = (additive == 0).astype(np.float32)
    assert np.array_equal(adapter(x, patch_mask=ones != 0), valid)


def test_C22_any_integer_but_zero_is_valid(adapter, x):
    mask = np.zeros((2, 16), np.int8)
    mask[:, ::2], mask[:, 1] = -1, 2
    expected = adapter(x, patch_mask=mask != 0)
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        assert np.array_equal(adapter(x, patch_mask=mask.astype(dtype)), expected)
    assert np.array_equal(adapter(x, patch_mask=mask.astype(np.int64) << 40), expected)
    wrong = np.ones((2, 17), np.int64)
    with pytest.raises(ValueError, match=r"patch_mask has shape \[2, 17\]; expected \[2, 16\]"):
        adapter(x, patch_mask=wrong)
    with pytest.raises(ValueError, match="frame_mask has 2 dimensions"):
        adapter(x, frame_mask=wrong)
    with pytest.raises(ValueError, match="patch_mask has .*9.*dimensions"):
        adapter(x, patch_mask=np.ones((1,) * 9, np.int64))
    empty = tenon.build_adapter("linear", 8, 8, seed=1)(x[:0], patch_mask=np.ones((0, 16), np.int64))
    assert empty.shape == (0, 16, 8)
    assert array.array("q", [1, 0]).itemsize == 8
    frames = adapter(x, frame_mask=array.array("q", [1, 0]))
    assert frames[0].any() and not frames[1].any()
