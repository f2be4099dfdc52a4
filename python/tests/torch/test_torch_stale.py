# SPDX-License-Identifier: MIT
"""A pack is never older than the parameters. Every way to change a parameter that PyTorch has, and then a call."""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest
import torch
from oracle import TYPES, agree, build, expected, features
from torch import nn

import tenon.torch as tt
from tenon.torch import _packs

X = features()


@pytest.fixture
def fills(monkeypatch):
    """Counts packings."""
    count = []
    fill = _packs._Pack.fill

    def counting(self, parameters, stamp, train):
        count.append(train)
        return fill(self, parameters, stamp, train)

    monkeypatch.setattr(_packs._Pack, "fill", counting)
    return count


def config_of(kind):
    return tt.AdapterConfig(type=kind, pool_heads=4)


def is_right(kind, adapter, parameters=None, x=X):
    """An inference call answers with the parameters as they are."""
    with torch.no_grad():
        parameters = list(adapter.parameters()) if parameters is None else parameters
        agree(adapter(x), expected(config_of(kind), parameters, x))


@pytest.mark.parametrize("kind", TYPES)
def test_a_pack_is_used_again(kind, fills):
    adapter = build(kind)
    for _ in range(3):
        is_right(kind, adapter)
    with torch.inference_mode():
        adapter(X)
        adapter(features(5))
    assert fills == [False]


@pytest.mark.parametrize("kind", TYPES)
def test_gradients_on_packs_in_the_call(kind, fills):
    adapter = build(kind)
    for _ in range(3):
        adapter(X)
    assert fills == [True] * 3
    for parameter in adapter.parameters():
        parameter.requires_grad_(False)
    for _ in range(2):
        adapter(X)
    assert fills == [True] * 3 + [False] * 2


def in_inference_mode(p):
    with torch.inference_mode():
        p.mul_(1.5)


def through_view(p):
    p.detach().view(-1)[::2] *= 3


def assigned_data(p):
    p.data = p.data * 2 + 1


def assigned_data_twice(p):
    """The second storage may come to lie where the first was."""
    p.data = torch.zeros_like(p)
    p.data = torch.ones_like(p)


def set_storage(p):
    p.set_(torch.full_like(p, 0.25))


IN_PLACE = {
    "add_": lambda p: p.add_(1),
    "inference mode": in_inference_mode,
    "copy_": lambda p: p.copy_(torch.arange(p.numel()).view_as(p) / 10),
    "indexing": lambda p: p.__setitem__(0, 7),
    "view": through_view,
    "foreach": lambda p: torch._foreach_mul_([p], 2.0),
    "lerp_": lambda p: p.lerp_(torch.ones_like(p), 0.5),
    "init": lambda p: nn.init.constant_(p, 0.125),
    "data =": assigned_data,
    "data = twice": assigned_data_twice,
    "set_": set_storage,
    "transposed memory": lambda p: setattr(p, "data", torch.randn(*reversed(p.shape)).mT if p.dim() == 2 else p + 1),
}


@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("kind", TYPES)
def test_a_change_in_place_is_seen(kind, change):
    adapter = build(kind)
    is_right(kind, adapter)
    for parameter in adapter.parameters():
        with torch.no_grad():
            IN_PLACE[change](parameter)
        is_right(kind, adapter)
        is_right(kind, adapter)


WITHOUT_A_TRACE = {
    "averaged weights": lambda p: p.data.copy_(torch.randn(p.shape)),
    "scaled": lambda p: p.data.mul_(0.999),
    "drawn": lambda p: p.data.normal_(),
    "NumPy": lambda p: np.copyto(p.detach().numpy(), 0.5),
    "storage": lambda p: p.untyped_storage().copy_(torch.randn(p.shape).untyped_storage()),
}


@pytest.mark.parametrize("change", WITHOUT_A_TRACE)
@pytest.mark.parametrize("kind", TYPES)
def test_a_change_of_all_values_is_seen_without_a_trace(kind, change):
    adapter = build(kind)
    is_right(kind, adapter)
    for parameter in adapter.parameters():
        seen = parameter.data_ptr(), parameter._version
        WITHOUT_A_TRACE[change](parameter)
        assert (parameter.data_ptr(), parameter._version) == seen
        is_right(kind, adapter)


DATA = {
    "transposed": lambda p: p.data.t(),
    "negated": lambda p: torch._neg_view(p.data),
    "cut": lambda p: p.data.view(-1)[:8].view(8, 1).expand(8, 8) if p.dim() == 2 else p.data,
    "another dtype": lambda p: p.data.view(torch.float16),
}


@pytest.mark.parametrize("gradients", (False, True))
@pytest.mark.parametrize("change", DATA)
@pytest.mark.parametrize("kind", TYPES)
def test_the_same_memory_read_otherwise_is_seen(kind, change, gradients):
    """The data pointer and the version stay."""
    adapter = build(kind, out_dim=8)
    dtype = torch.bfloat16 if change == "another dtype" else torch.float32
    adapter.to(dtype)
    for parameter in [None, *adapter.parameters()]:
        if parameter is not None:
            seen = parameter.data_ptr(), parameter._version
            parameter.data = DATA[change](parameter)
            assert (parameter.data_ptr(), parameter._version) == seen
        with torch.set_grad_enabled(gradients):
            for _ in range(2):
                parameters = [p.detach().resolve_neg() for p in adapter.parameters()]
                agree(adapter(X), expected(config_of(kind), parameters, X), 1e-5 if dtype is torch.float32 else 0.05)


def train_a_step(adapter, optimizer):
    optimizer.zero_grad()
    adapter(X).square().sum().backward()
    optimizer.step()


OPTIMIZERS = {
    f"{kind.__name__} {options}": (kind, options)
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
    for options in ({}, {"foreach": True}, {"fused": True})
} | {
    kind.__name__: (kind, {})
    for kind in (torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax, torch.optim.Rprop)
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ("mlp_2layer", "attentional_pool"))
def test_an_optimizer_is_seen(kind, name):
    """Fused ones write without moving the version counter."""
    adapter = build(kind)
    maker, options = OPTIMIZERS[name]
    optimizer = maker(adapter.parameters(), lr=0.05, **options)
    is_right(kind, adapter)
    for _ in range(2):
        before = [p.detach().clone() for p in adapter.parameters()]
        train_a_step(adapter, optimizer)
        assert any(not torch.equal(a, b) for a, b in zip(before, adapter.parameters(), strict=True))
        is_right(kind, adapter)


@pytest.mark.parametrize("kind", TYPES)
def test_transposed_parameters_train(kind):
    """The library reads a dense copy of them, which must be new in every step."""
    adapter = build(kind)
    for name in adapter._linears:
        layer = getattr(adapter, name)
        layer.weight = nn.Parameter(torch.randn(layer.in_features, layer.out_features).mT)
    adapter.refresh()
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.01)
    for _ in range(3):
        agree(adapter(X), expected(config_of(kind), list(adapter.parameters()), X))
        train_a_step(adapter, optimizer)
        is_right(kind, adapter)


def test_lbfgs_is_seen():
    adapter = build("linear")
    optimizer = torch.optim.LBFGS(adapter.parameters(), lr=0.1)
    is_right("linear", adapter)

    def closure():
        optimizer.zero_grad()
        loss = adapter(X).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    is_right("linear", adapter)


@pytest.mark.parametrize("kind", TYPES)
def test_loading_is_seen(kind):
    adapter, other = build(kind), build(kind, seed=3)
    is_right(kind, adapter)
    adapter.load_state_dict(other.state_dict())
    is_right(kind, adapter)
    state = {name: torch.full_like(value, 0.1) for name, value in other.state_dict().items()}
    adapter.load_state_dict(state, assign=True)
    is_right(kind, adapter)
    adapter.reset_parameters()
    is_right(kind, adapter)
    torch.nn.utils.vector_to_parameters(torch.linspace(-1, 1, 10_000), adapter.parameters())
    is_right(kind, adapter)


@pytest.mark.parametrize("kind", TYPES)
def test_what_assign_brings_is_kept_packed(kind, fills):
    adapter = nn.Sequential(build(kind))
    adapter.load_state_dict({name: value.clone() for name, value in adapter.state_dict().items()}, assign=True)
    for _ in range(3):
        is_right(kind, adapter)
    assert fills == [False]


@pytest.mark.parametrize("kind", TYPES)
def test_moving_is_seen(kind, fills):
    adapter = build(kind)
    is_right(kind, adapter)
    adapter.bfloat16()
    with torch.no_grad():
        agree(adapter(X), expected(config_of(kind), list(adapter.parameters()), X), 0.02)
    adapter.float()
    is_right(kind, adapter)
    adapter.to("meta")
    assert adapter(X.to("meta")).device.type == "meta"
    adapter.to_empty(device="cpu")
    adapter.reset_parameters()
    is_right(kind, adapter)
    is_right(kind, adapter)
    assert fills == [False] * 4


@pytest.mark.parametrize("kind", TYPES)
def test_swapping_is_seen(kind, fills, monkeypatch):
    """Moving and loading may swap what two tensor objects are."""
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    adapter = build(kind)
    is_right(kind, adapter)
    adapter.bfloat16().float()
    is_right(kind, adapter)
    adapter.load_state_dict(build(kind, seed=3).state_dict())
    is_right(kind, adapter)
    is_right(kind, adapter)
    assert fills == [False] * 3


def test_another_parameter_or_layer_is_seen(fills):
    adapter = build("mlp_2layer")
    is_right("mlp_2layer", adapter)
    adapter.proj1.weight = nn.Parameter(torch.ones_like(adapter.proj1.weight))
    is_right("mlp_2layer", adapter)
    adapter.proj2 = nn.Linear(5, 5)
    is_right("mlp_2layer", adapter)
    is_right("mlp_2layer", adapter)
    assert fills == [False] * 4  # not ours: packed each time
    adapter.refresh()
    is_right("mlp_2layer", adapter)
    is_right("mlp_2layer", adapter)
    assert fills == [False] * 5


def test_another_width_is_seen():
    adapter = build("mlp_2layer", hidden_dim=6)
    is_right("mlp_2layer", adapter)
    adapter.proj1, adapter.proj2 = nn.Linear(8, 11), nn.Linear(11, 3)
    is_right("mlp_2layer", adapter)


def test_another_setting_is_seen():
    adapter = build("attentional_pool")
    with torch.no_grad():
        adapter(X)
        adapter.pool_heads = 2
        config = tt.AdapterConfig(type="attentional_pool", pool_heads=2)
        agree(adapter(X), expected(config, list(adapter.parameters()), X))
        adapter.pool_window = 4
        agree(adapter(X), expected(config, list(adapter.parameters()), X, window=4))


@pytest.mark.parametrize("kind", TYPES)
def test_functional_call_is_never_kept(kind, fills):
    adapter = build(kind)
    is_right(kind, adapter)
    names = [name for name, _ in adapter.named_parameters()]
    for step in range(3):
        values = [torch.full_like(p, 0.1 * step) for p in adapter.parameters()]  # memory that the last step freed
        state = dict(zip(names, values, strict=True))
        for _ in range(2):
            with torch.no_grad():
                found = torch.func.functional_call(adapter, state, X)
            agree(found, expected(config_of(kind), values, X))
    assert fills == [False] * 7
    is_right(kind, adapter)
    assert fills == [False] * 7


@pytest.mark.parametrize("kind", TYPES)
def test_inference_tensors_are_never_kept(kind, fills):
    with torch.inference_mode():
        adapter = build(kind)
    assert next(adapter.parameters()).is_inference()
    with torch.inference_mode():
        for value in (1.0, 2.0):
            for parameter in adapter.parameters():
                parameter.fill_(value)
            agree(adapter(X), expected(config_of(kind), list(adapter.parameters()), X))
    assert fills == [False] * 2


def test_a_parameter_that_became_an_inference_tensor_is_never_kept(fills):
    adapter = build("linear")
    is_right("linear", adapter)
    with torch.inference_mode():
        adapter.proj.weight.data = torch.ones(5, 8)
        for value in (2.0, 3.0):
            adapter.proj.weight.fill_(value)
            is_right("linear", adapter)
    assert fills == [False] * 3


@pytest.mark.parametrize("kind", TYPES)
def test_shared_memory_is_never_kept(kind, fills):
    """Another process moves no version counter of ours."""
    adapter = build(kind)
    is_right(kind, adapter)
    adapter.share_memory()
    for value in (1.0, 2.0):
        for parameter in adapter.parameters():
            parameter.data.fill_(value)
        is_right(kind, adapter)
    assert fills == [False] * 3


@pytest.mark.parametrize("kind", TYPES)
def test_refresh_covers_data(kind):
    adapter = build(kind)
    for _ in range(3):
        for parameter in adapter.parameters():
            is_right(kind, adapter)
            parameter.data.mul_(1.5)
            adapter.refresh()
        is_right(kind, adapter)


@pytest.mark.parametrize("kind", TYPES)
def test_copies_are_their_own(kind, fills):
    adapter = build(kind)
    is_right(kind, adapter)
    for other in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        is_right(kind, other)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
        is_right(kind, other)
        is_right(kind, other)
        is_right(kind, adapter)
    assert fills == [False] * 5


def test_two_modules_may_share_parameters():
    first, second = build("mlp_2layer"), build("mlp_2layer", seed=1)
    second.proj1.weight = first.proj1.weight
    for _ in range(2):
        is_right("mlp_2layer", first)
        is_right("mlp_2layer", second)
        with torch.no_grad():
            first.proj1.weight.mul_(2)


@pytest.mark.parametrize("kind", TYPES)
def test_memory_that_comes_back_is_not_taken_for_the_old(kind):
    for seed in range(100):
        is_right(kind, build(kind, seed=seed))


def test_nothing_is_kept_of_a_module_that_is_gone():
    gc.collect()
    before = len(_packs._known), len(_packs._slots)
    for _ in range(200):
        adapter = build("mlp_2layer")
        with torch.no_grad():
            adapter(X)
        adapter(X).sum().backward()
    del adapter
    gc.collect()
    assert (len(_packs._known), len(_packs._slots)) == before


@pytest.mark.parametrize("kind", TYPES)
def test_backward_sees_what_forward_saw(kind):
    """A second forward with other weights between forward and backward of the first, on other tensors."""
    adapter = build(kind)
    first = adapter(X)
    values = {name: p.detach().clone().requires_grad_() for name, p in adapter.named_parameters()}
    torch.func.functional_call(adapter, {name: value * 3 for name, value in values.items()}, X).sum().backward()
    first.square().sum().backward()
    wanted = [p.detach().double().requires_grad_() for p in adapter.parameters()]
    expected(config_of(kind), wanted, X).square().sum().backward()
    for parameter, want in zip(adapter.parameters(), wanted, strict=True):
        agree(parameter.grad, want.grad)


def test_a_change_between_forward_and_backward_is_an_error():
    """As PyTorch's own layers have it."""
    adapter = build("mlp_2layer")
    y = adapter(X)
    with torch.no_grad():
        adapter.proj1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_threads_refresh_at_once():
    """Values only grow; what a call answers is no older than what was published before it began."""
    adapter = tt.LinearAdapter(4, 3)
    x = torch.zeros(1, 2, 4)
    published, stop, wrong = [0], threading.Event(), []
    adapter.proj.bias.data.fill_(0)
    adapter.refresh()

    def read():
        while not stop.is_set():
            at_least = published[0]
            with torch.no_grad():
                y = adapter(x)
            if float(y.min()) < at_least:
                wrong.append((float(y.min()), at_least))
                stop.set()

    def refresh():
        while not stop.is_set():
            adapter.refresh()

    threads = [threading.Thread(target=read) for _ in range(3)] + [threading.Thread(target=refresh) for _ in range(2)]
    for thread in threads:
        thread.start()
    for value in range(1, 1500):
        adapter.proj.bias.data.fill_(value)
        adapter.refresh()
        published[0] = value
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_train_at_once():
    """Each call has weights of its own packed."""
    adapters = [build("mlp_2layer", seed=seed) for seed in range(2)] * 3
    wrong = []

    def work(adapter):
        for _ in range(50):
            y = adapter(X)
            y.sum().backward()
            want = expected(config_of("mlp_2layer"), [p.detach() for p in adapter.parameters()], X)
            if not torch.allclose(y.double(), want, atol=1e-5):
                wrong.append(adapter)

    threads = [threading.Thread(target=work, args=(adapter,)) for adapter in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
