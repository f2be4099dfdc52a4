# SPDX-License-Identifier: MIT
"""A call without gradients goes where the one before it went, unless anything that decided the way is another by now."""

import copy
import gc
import weakref

import pytest
import torch
from oracle import TYPES, agree, build, expected, features
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import tenon.torch as tt
from tenon import _C
from tenon.torch import _packs
from tenon.torch._projections import QuickGELU

X = features()


def answer(adapter, x=X):
    with torch.no_grad():
        return adapter(x)


def travelled(kind, **options):
    """An adapter that knows its way."""
    adapter = build(kind, **options)
    answer(adapter)
    assert adapter._last is not None and adapter._last.watch.holds(adapter, X)
    return adapter


def wanted(kind, adapter, x=X, **options):
    config = tt.AdapterConfig(type=kind, pool_heads=4, **options)
    return expected(config, [p.detach() for p in adapter.parameters()], x)


def first_layer(adapter):
    return getattr(adapter, adapter._linears[0])


@pytest.mark.parametrize("kind", TYPES)
def test_the_way_is_decided_once(kind, monkeypatch):
    adapter = travelled(kind)
    monkeypatch.setattr(type(adapter), "_native_parameters", None)
    agree(answer(adapter), wanted(kind, adapter))
    with torch.inference_mode():
        agree(adapter(features(3)), wanted(kind, adapter, features(3)))
    frames = torch.tensor([1, 0])
    with torch.no_grad():
        assert not adapter(X, frame_mask=frames)[1].any()


@pytest.mark.parametrize(
    "hook",
    (
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ),
)
@pytest.mark.parametrize("kind", TYPES)
def test_a_hook_on_any_layer(kind, hook):
    adapter = travelled(kind)
    for name in adapter._linears:
        assert adapter._last is not None
        handle = getattr(getattr(adapter, name), hook)(lambda *_: None)
        agree(answer(adapter), wanted(kind, adapter))
        assert adapter._last is None
        handle.remove()
        answer(adapter)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("hook", ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"))
def test_a_hook_on_all_modules(kind, hook):
    adapter, seen = travelled(kind), set()
    x = X.clone().requires_grad_()
    handle = getattr(nn.modules.module, f"register_module_{hook}")(lambda module, *_: seen.add(module) or None)
    try:
        agree(answer(adapter), wanted(kind, adapter))
        assert adapter._last is None
        adapter(x).sum().backward()
    finally:
        handle.remove()
    assert seen.issuperset(getattr(adapter, name) for name in adapter._linears)
    answer(adapter)
    assert adapter._last is not None


def test_a_hook_on_the_activation():
    adapter, seen = travelled("mlp_2layer"), []
    adapter.act.register_forward_hook(lambda *_: seen.append(1))
    answer(adapter)
    assert seen


@pytest.mark.parametrize("kind", TYPES)
def test_a_forward_of_the_layers_own(kind):
    """As tools that wrap layers in place set it."""
    adapter = travelled(kind)
    layer, seen = first_layer(adapter), []
    forward = layer.forward
    layer.forward = lambda x: seen.append(1) or forward(x)
    agree(answer(adapter), wanted(kind, adapter))
    assert seen
    del layer.forward
    answer(adapter)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", TYPES)
def test_a_layer_of_another_class(kind):
    class Louder(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 100

    adapter = travelled(kind)
    plain = answer(adapter)
    layer = getattr(adapter, adapter._linears[-1])
    layer.__class__ = Louder
    agree(answer(adapter), plain + 100)
    layer.__class__ = nn.Linear
    agree(answer(adapter), plain)
    with torch.no_grad():
        nn.utils.parametrizations.weight_norm(layer)
        layer.parametrizations.weight.original0.mul_(2)
        assert not torch.allclose(answer(adapter), plain)


def test_another_activation():
    adapter = travelled("mlp_2layer")
    adapter.act.approximate = "tanh"
    agree(answer(adapter), wanted("mlp_2layer", adapter, activation="gelu_tanh"), 1e-6)
    for act, name in ((nn.ReLU(), "relu"), (QuickGELU(), "quick_gelu"), (nn.SiLU(), "silu")):
        adapter.act = act
        agree(answer(adapter), wanted("mlp_2layer", adapter, activation=name), 1e-6)
    adapter.act = nn.Identity()
    agree(answer(adapter), adapter.proj2(adapter.proj1(X)))


@pytest.mark.parametrize("kind", TYPES)
def test_another_setting(kind):
    x = features(tokens=17)
    adapter = build(kind, prefix_tokens=1)
    agree(answer(adapter, x), wanted(kind, adapter, x, prefix_tokens=1))
    adapter.prefix_tokens = 0
    agree(answer(adapter), wanted(kind, adapter))
    if hasattr(adapter, "ragged"):
        adapter.ragged, adapter.pool_window = "drop", 3
        agree(answer(adapter), wanted(kind, adapter, ragged="drop", pool_window=3))


@pytest.mark.parametrize("kind", TYPES)
def test_another_width_or_dtype_of_features(kind):
    adapter = travelled(kind)
    with pytest.raises(RuntimeError, match="x has width 9; the adapter's in_dim is 8"):
        answer(adapter, features(in_dim=9))
    for dtype in (torch.bfloat16, torch.float64):
        agree(answer(adapter, X.to(dtype)), wanted(kind, adapter, X.to(dtype)))
    assert answer(adapter, X[:0]).shape[0] == 0


@pytest.mark.parametrize("kind", TYPES)
def test_another_mode(kind):
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    adapter, seen = travelled(kind), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert answer(adapter).dtype == torch.bfloat16
    assert answer(adapter).dtype == torch.float32
    with Names():
        answer(adapter)
    assert "tenon.forward.default" in seen
    answer(adapter)
    assert adapter._last is not None
    assert adapter(X).requires_grad
    assert adapter._last is None  # what is trained may be sharded, moved, ...: nothing of it is kept alive


@pytest.mark.parametrize("kind", TYPES)
def test_transforms(kind):
    adapter = travelled(kind)
    with torch.no_grad():
        several = torch.vmap(lambda x: adapter(x[None])[0])(X)
        agree(several, answer(adapter))
        agree(torch.func.functionalize(adapter)(X), answer(adapter))
        answer(adapter)
        torch.func.grad(lambda scale: (adapter(X) * scale).sum())(torch.ones(()))  # nothing of it is transformed
        with forward_ad.dual_level():
            dual = adapter(forward_ad.make_dual(X, torch.ones_like(X)))
            assert forward_ad.unpack_dual(dual).tangent is not None


@pytest.mark.parametrize("kind", TYPES)
def test_a_copy_goes_its_own_way(kind):
    adapter = travelled(kind)
    before = answer(adapter)
    for other in (copy.copy(adapter), copy.deepcopy(adapter)):
        assert other._last is None
    other = type(adapter).__new__(type(adapter))  # as nn.DataParallel makes its replicas
    other.__dict__ = adapter.__dict__.copy()
    other._modules = dict(adapter._modules)
    other._modules[adapter._linears[-1]] = nn.Linear(5 if kind == "mlp_2layer" else 8, 5)
    agree(answer(other), wanted(kind, other))
    agree(answer(adapter), before)


def test_a_step_elsewhere_packs_nothing(monkeypatch):
    adapter, other = travelled("linear"), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    monkeypatch.setattr(_packs._Pack, "fill", None)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    build("linear")
    agree(answer(adapter), wanted("linear", adapter))
    assert adapter._last.watch.holds(adapter, X)


def test_the_way_keeps_no_module_alive():
    gc.collect()
    gc.disable()
    try:
        adapter = travelled("attentional_pool")
        gone, weight = weakref.ref(adapter), weakref.ref(adapter.q_proj.weight)
        del adapter
        assert gone() is None and weight() is None
        adapter = travelled("linear")
        object.__setattr__(adapter.proj, "around", adapter)  # a cycle of somebody else's
        gone = weakref.ref(adapter)
        del adapter
    finally:
        gc.enable()
    gc.collect()
    assert gone() is None


# ---- the notes themselves ----


class Root:
    pass


def noted(**attributes):
    root = Root()
    vars(root).update(attributes)
    return root, _C.Watch(root, X)


def test_a_watch_compares_what_was_read():
    inner, table = Root(), {"a": object()}
    inner.there = 1000
    root, watch = noted(inner=inner, table=table, empty=[])
    assert watch.attribute(root, "inner") is inner
    assert watch.attribute(inner, "there") == 1000
    assert not watch.has_own(inner, "absent")
    assert watch.item(table, "a") is table["a"] and watch.item(table, "b") is None
    assert watch.is_empty(root.empty)
    assert watch.type_of(inner) is Root
    assert watch.holds(root, X) and not watch.holds(inner, X)

    def changes():
        yield lambda: setattr(inner, "there", 1001), lambda old=inner.there: setattr(inner, "there", old)
        yield lambda: setattr(inner, "absent", None), lambda: delattr(inner, "absent")
        yield lambda: table.update(b=None), lambda: table.pop("b")
        yield lambda: table.update(a=None), lambda old=table["a"]: table.update(a=old)
        yield lambda: root.empty.append(1), lambda: root.empty.clear()
        yield lambda: setattr(inner, "__class__", Other), lambda: setattr(inner, "__class__", Root)
        yield lambda: setattr(root, "__class__", Other), lambda: setattr(root, "__class__", Root)
        yield lambda: setattr(root, "inner", Root()), lambda: setattr(root, "inner", inner)
        yield lambda: delattr(root, "inner"), lambda: setattr(root, "inner", inner)

    for change, undo in changes():
        change()
        assert not watch.holds(root, X)
        undo()
        assert watch.holds(root, X)


class Other(Root):
    here = 1


def test_a_watch_that_cannot_compare_never_holds():
    root, watch = noted(full=[1])
    assert not watch.is_empty(root.full)
    assert not watch.holds(root, X)
    root, watch = noted(other=Other())
    assert watch.attribute(root.other, "here") == 1  # of its class
    assert not watch.holds(root, X)
    with pytest.raises(AttributeError):
        watch.attribute(root, "absent")
    with pytest.raises(TypeError, match="reads dictionaries"):
        watch.item([], 0)
    with pytest.raises(TypeError):
        _C.Watch(1)
    root, watch = noted()
    with torch.inference_mode():
        watch.tensor(torch.ones(2))
    assert not watch.holds(root, X)


def test_a_watch_sees_a_tensor_change():
    complex_ = torch.ones(3, 3, dtype=torch.complex64)
    for change in (
        lambda t: t.add_(0),
        lambda t: setattr(t, "data", torch.ones(3, 3)),
        lambda t: setattr(t, "data", t.data.T),
        lambda t: setattr(t, "data", t.data.view(9)),
        lambda t: setattr(t, "data", complex_.imag),
        lambda t: setattr(t, "data", torch._neg_view(t.data)),
        lambda t: t.resize_(2, 2),
    ):
        t = torch.ones(3, 3)
        root, watch = noted()
        assert watch.tensor(t) is t
        assert watch.holds(root, X)
        change(t)
        assert not watch.holds(root, X)
    assert _C.tensor_state(torch.ones(2)) is not None
    with pytest.raises(TypeError, match="expected a torch.Tensor or Parameter; got .*NoneType"):
        _C.tensor_state(None)
