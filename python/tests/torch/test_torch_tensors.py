# SPDX-License-Identifier: MIT
"""Where the C code finds a tensor's values: through PyTorch's table of C functions, and without it."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
from oracle import TYPES, agree, build, features
from test_life import grown

from tenon import _C

X = features()


def negated(values):
    """The same values as their negatives with the negative bit set."""
    view = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert view.is_neg() and torch.equal(view, values)
    return view


class Root:
    pass


class Named(torch.Tensor):
    pass


LIKE = {
    "the same": X,
    "other values": features(seed=2),
    "another batch": features(5),
    "another grid": features(tokens=9),
    "strided": features(in_dim=16)[:, ::2, ::2],
    "with gradients": features().requires_grad_(),
    "negated": negated(X),
}
UNLIKE = {
    "empty": X[:0],
    "another width": features(in_dim=9),
    "another dtype": X.to(torch.bfloat16),
    "another rank": X[0],
    "of a class": X.as_subclass(Named),
    "a parameter": torch.nn.Parameter(X),
    "without memory": X.to("meta"),
    "sparse": X.to_sparse(),
    "no tensor": X.numpy(),
}


def test_a_watch_knows_the_kind_of_features():
    root = Root()
    watch = _C.Watch(root, X)
    for x in LIKE.values():
        assert watch.holds(root, x)
    for name, x in UNLIKE.items():
        assert not watch.holds(root, x), name
    assert watch.holds(root, X)


@pytest.mark.parametrize("name", ("empty", "without memory", "sparse", "no tensor"))
def test_a_watch_of_what_has_no_memory_never_holds(name):
    root = Root()
    assert not _C.Watch(root, UNLIKE[name]).holds(root, UNLIKE[name])


def test_tensors_are_read_where_they_lie():
    adapter = _C.Adapter('{"type":"avgpool"}', 8, 5)
    adapter.reset_parameters("f32", 1)
    adapter.prepare()
    wide = torch.full((2, 9, 7), torch.nan)[..., 1:6]
    x = torch.randn(3, 36, 16)[1:, :, 3:11].requires_grad_()
    mask = torch.ones(2, 36, dtype=torch.bool)
    mask[:, ::3] = False
    for patches in (None, mask, mask.to(torch.int8), mask.to(torch.uint8), mask.mT.contiguous().mT):
        adapter.forward(wide, x, 2, None, patches)
        want = adapter(x.detach().numpy(), pool_window=2, patch_mask=None if patches is None else patches.numpy())
        assert torch.equal(wide, torch.from_numpy(want))
    adapter.forward(wide, negated(x.detach()), 2)
    assert torch.equal(wide, torch.from_numpy(adapter(x.detach().numpy(), pool_window=2)))
    with pytest.raises(ValueError, match="y has PyTorch's negative bit set and cannot be written"):
        adapter.forward(negated(wide), x, 2)
    for bad in (x.double(), x.to("meta"), x.to_sparse(), x.to(torch.complex64), x.to(torch.complex64).conj()):
        with pytest.raises(ValueError, match="^x .*") as told:
            adapter.forward(wide, bad.detach(), 2)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="9 dimensions"):
        adapter.forward(wide, torch.ones((1,) * 9))
    memory = torch.zeros(200, dtype=torch.uint8)
    for saved in (memory[::2], memory[:1].expand(200), memory.view(2, 100), memory.to("meta"), memory.float()):
        with pytest.raises(ValueError, match="saved"):
            adapter.forward(wide, x, 2, None, None, None, None, 0, saved)
    assert not memory.any()


def test_classes_of_tensors_go_their_own_way():
    """They may lie about their memory."""
    adapter = _C.Adapter('{"type":"linear"}', 8, 5)
    adapter.reset_parameters("f32", 1)
    adapter.prepare()
    y = torch.zeros(2, 16, 5)
    adapter.forward(y, X.as_subclass(Named))
    assert torch.equal(y, torch.from_numpy(adapter(X.numpy())))
    with pytest.raises(ValueError, match="x cannot be read: .*grad"):
        adapter.forward(y, X.as_subclass(Named).requires_grad_())
    with pytest.raises(TypeError, match="expected a torch.Tensor or Parameter; got <class '.*Named'>"):
        _C.tensor_state(X.as_subclass(Named))
    values, place = _C.tensor_state(torch.nn.Parameter(X))
    assert isinstance(values, bytes) and isinstance(place, bytes)


def test_something_else_of_that_name():
    program = (
        "import sys, types\n"
        "sys.modules['torch'] = types.SimpleNamespace(Tensor=lambda: 0)\n"
        "import numpy, tenon\n"
        "adapter = tenon.build_adapter('linear', 8, 4, seed=1)\n"
        "x, mask = numpy.zeros((1, 2, 8), numpy.float32), numpy.ones((1, 2), bool)\n"
        "adapter(x, patch_mask=mask)\n"
        "del sys.modules['torch']\n"
        "import torch\n"
        "assert len(tenon._C.tensor_state(torch.ones(2))) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", TYPES)
def test_a_gradient_that_is_negated_on_paper(kind):
    """As the imaginary part of a conjugate comes back."""
    adapter = build(kind)
    found = []
    for seen in (negated, torch.clone):
        x = X.clone().requires_grad_()
        y = adapter(x)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        found.append(torch.autograd.grad(y, (x, *adapter.parameters()), seen(dy)))
    for ours, wanted in zip(*found, strict=True):
        agree(ours, wanted, 1e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_training_does_not_grow(kind):
    """What a forward saves goes with its backward, or with the tokens."""
    adapter, x = build(kind, 64, 64), torch.randn(64, 16, 64).requires_grad_()

    def work():
        adapter(x).sum().backward()
        adapter(x)
        with torch.no_grad():
            adapter(x)

    assert grown(work, 100, 10) < 4 << 20


def test_without_the_table():
    """PyTorch before 2.10 has none. All of this, and all that decides about packs, once more."""
    if "TENON_TEST_NO_TABLE" in os.environ:
        assert not hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
        return
    here = pathlib.Path(__file__).parent
    files = [here / f"test_torch_{name}.py" for name in ("tensors", "routes", "stale")]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = os.environ | {"TENON_TEST_NO_TABLE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
