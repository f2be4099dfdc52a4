# SPDX-License-Identifier: MIT
"""What PyTorch does with modules: compile, export, autocast, functional calls, moving, copying, saving."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from oracle import POOLS, TYPES, agree, build, expected, features
from torch import nn

import tenon.torch as tt
from tenon.torch import _connector

X = features()


def config_of(kind):
    return tt.AdapterConfig(type=kind, pool_heads=4)


def wanted(kind, adapter, x=X):
    return expected(config_of(kind), list(adapter.parameters()), x)


def gradients(adapter, x, run):
    """Of x and every parameter."""
    adapter.zero_grad()
    x = x.detach().requires_grad_()
    run(x).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in adapter.parameters())]


# ---- compile and export ----


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("kind", TYPES)
def test_compile_without_a_break(kind, backend):
    if backend == "inductor" and kind != "mlp_2layer":
        pytest.skip("one is enough: the graph is one operator")
    adapter = build(kind)
    compiled = torch.compile(adapter, fullgraph=True, backend=backend)
    for found, want in zip(gradients(adapter, X, compiled), gradients(adapter, X, adapter), strict=True):
        assert torch.equal(found, want)
    with torch.no_grad():
        assert torch.equal(compiled(X), adapter(X))
        adapter.reset_parameters()
        agree(compiled(X), wanted(kind, adapter))


@pytest.mark.parametrize("kind", TYPES)
def test_compile_with_changing_batches(kind):
    adapter = build(kind)
    compiled = torch.compile(adapter, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3, 5):
        x = features(batch)
        agree(compiled(x), wanted(kind, adapter, x))


@pytest.mark.parametrize("kind", TYPES)
def test_compile_of_the_plain_path(kind):
    adapter = build(kind).double()
    compiled = torch.compile(adapter, fullgraph=True, backend="aot_eager")
    agree(compiled(X.double()), wanted(kind, adapter, X.double()), 1e-12)


def test_compiled_inference_uses_the_pack_again(monkeypatch):
    adapter = build("mlp_2layer")
    compiled = torch.compile(adapter, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(X)
        monkeypatch.setattr("tenon.torch._packs._Pack.fill", None)
        compiled(X)


def test_a_compiled_optimizer_is_seen():
    adapter = build("mlp_2layer")
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    adapter(X).sum().backward()
    with torch.no_grad():
        adapter(X)
    torch.compile(optimizer.step, backend="aot_eager")()
    with torch.no_grad():
        agree(adapter(X), wanted("mlp_2layer", adapter))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_export(kind, strict):
    adapter = build(kind)
    with torch.no_grad():
        program = torch.export.export(adapter, (X,), strict=strict)
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [torch.ops.tenon.forward.default]
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    for found in (program, torch.export.load(buffer)):
        with torch.no_grad():
            agree(found.module()(X), wanted(kind, adapter))


def test_export_with_any_batch():
    adapter = build("mlp_2layer")
    program = torch.export.export(adapter, (X,), dynamic_shapes=({0: torch.export.Dim("b"), 1: torch.export.Dim("n")},))
    x = features(3, 7)
    agree(program.module()(x), wanted("mlp_2layer", adapter, x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_opcheck(kind, masked):
    adapter = build(kind)
    masks = (torch.rand(2, 16) < 0.5, torch.tensor([1, 0], dtype=torch.uint8)) if masked else (None, None)
    place = (adapter._config(), 2 if kind in POOLS else 0, 0, 0)
    parameters = list(adapter.parameters())
    x = X.clone().requires_grad_()
    torch.library.opcheck(torch.ops.tenon.forward.default, (x, parameters, *masks, *place, torch.float32, True, True))
    values = [p.detach() for p in parameters]
    for dtype in (torch.float32, torch.bfloat16):
        torch.library.opcheck(torch.ops.tenon.forward.default, (X, values, *masks, *place, dtype, False, False))
    dy = torch.randn(2, adapter.output_num_tokens(16), 5)
    some = [number % 3 != 1 for number in range(len(values) + 1)]
    torch.library.opcheck(torch.ops.tenon.backward.default, (dy, X, values, *masks, *place, some))


@pytest.mark.parametrize("kind", TYPES)
def test_gradcheck(kind):
    adapter = build(kind, 4, 3, pool_heads=2).double()
    x = features(1, 9, 4, dtype=torch.float64).requires_grad_()
    window = {"pool_window": 3} if kind in POOLS else {}
    names = [name for name, _ in adapter.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(adapter, dict(zip(names, values, strict=True)), (x,), window)

    assert torch.autograd.gradcheck(run, (x, *adapter.parameters()))
    assert torch.autograd.gradgradcheck(run, (x, *adapter.parameters()))


# ---- profiler and ONNX ----


def seen_by_profiler(run):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events() if event.name.startswith("tenon::")]


@pytest.mark.parametrize("kind", TYPES)
def test_a_profiler_shows_the_connector(kind):
    adapter, x = build(kind), X.clone().requires_grad_()
    forward, backward = f"tenon::forward({kind})", f"tenon::backward({kind})"
    for module, features in ((adapter, X), (copy.deepcopy(adapter).double(), X.double())):
        with torch.no_grad():
            module(features)
            assert seen_by_profiler(lambda: module(features)) == [forward]
    assert seen_by_profiler(lambda: adapter(x).sum().backward()) == [forward, backward]
    compiled = torch.compile(adapter, backend="aot_eager", fullgraph=True)
    compiled(x).sum().backward()
    names = seen_by_profiler(lambda: compiled(x).sum().backward())
    assert names == ["tenon::forward", forward, "tenon::backward", backward]
    assert not seen_by_profiler(lambda: torch.ones(1).add(1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_onnx(kind, masked):
    """The line of docs/pytorch.md. The model consists of ONNX's own operators and runs anywhere."""
    onnx = pytest.importorskip("onnx", reason="ONNX is left out")
    pytest.importorskip("onnxscript", reason="ONNX is left out")
    from onnx.reference import ReferenceEvaluator

    adapter = build(kind).eval()
    masks = {"patch_mask": torch.rand(2, 16) < 0.5} if masked else {}
    any_batch = {name: {0: torch.export.Dim("batch")} for name in ("x", *masks)}
    program = torch.onnx.export(adapter, (X,), kwargs=masks, dynamo=True, dynamic_shapes=any_batch, verbose=False)
    model = program.model_proto
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    for x, given in ((X, masks), (features(3), {name: torch.rand(3, 16) < 0.5 for name in masks})):
        values = [x.numpy(), *(mask.numpy() for mask in given.values())]
        feeds = {entry.name: value for entry, value in zip(model.graph.input, values, strict=True)}
        (y,) = ReferenceEvaluator(model).run(None, feeds)
        agree(torch.from_numpy(y), adapter(x, **given))


# ---- dtypes and devices ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", TYPES)
def test_autocast(kind, dtype):
    """Tokens come in autocast's dtype, gradients in that of what they are of; nothing is rounded in between."""
    adapter = build(kind)
    x = X.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = adapter(x)
        assert nn.Linear(8, 5)(X).dtype == y.dtype == dtype
        with torch.no_grad():
            assert torch.equal(adapter(x), y)
    agree(y, wanted(kind, adapter), 1e-2)
    y.square().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in (x, *adapter.parameters()))
    found = [p.grad.clone() for p in adapter.parameters()]
    for half, whole in zip(found, gradients(adapter, X, adapter)[1:], strict=True):
        assert float((half - whole).norm()) <= 0.05 * (1 + float(whole.norm()))


@pytest.mark.parametrize("kind", TYPES)
def test_autocast_of_the_plain_path(kind):
    adapter = build(kind)
    for name in adapter._linears:
        getattr(adapter, name).register_forward_hook(lambda module, args, output: None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = adapter(X)
    assert y.dtype == torch.bfloat16
    agree(y, wanted(kind, adapter), 3e-2)


@pytest.mark.parametrize("kind", TYPES)
def test_features_of_another_dtype(kind):
    """The tokens' dtype is the parameters'."""
    adapter = build(kind)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        y = adapter(X.to(dtype))
        assert y.dtype == torch.float32
        agree(y, wanted(kind, adapter, X.to(dtype)))


@pytest.mark.parametrize("kind", TYPES)
def test_without_a_kernel_it_says_so_once(kind):
    _connector._said.clear()
    adapter = build(kind).double()
    with pytest.warns(UserWarning, match="no kernel for torch.float64 on cpu") as told:
        adapter(X.double())
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(adapter(X.double()), wanted(kind, adapter, X.double()), 1e-12)
        build(kind)(X)
        build(kind).to("meta")(X.to("meta"))


@pytest.mark.parametrize("kind", TYPES)
def test_meta(kind):
    with torch.device("meta"):
        adapter = build(kind)
    assert all(p.is_meta for p in adapter.parameters())
    assert adapter(X.to("meta")).shape == (2, adapter.output_num_tokens(16), 5)
    adapter.to_empty(device="cpu")
    torch.manual_seed(0)
    adapter.reset_parameters()
    assert torch.equal(adapter(X), build(kind)(X))


@pytest.mark.parametrize("kind", TYPES)
def test_fake_tensors(kind):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        y = build(kind)(torch.empty(2, 16, 8))
        y.sum().backward()
    assert y.shape[0] == 2 and y.shape[2] == 5


@pytest.mark.parametrize("grad", (False, True))
@pytest.mark.parametrize("kind", TYPES)
def test_a_trace_holds_the_layers(kind, grad):
    """And no memory that nobody writes."""
    adapter, other = build(kind), features(seed=5)
    with torch.set_grad_enabled(grad):
        answer = adapter(features())
        traced = torch.jit.trace(adapter, features(), check_trace=False)
        agree(traced(features()), answer)
        agree(traced(other), wanted(kind, adapter, other))


@pytest.mark.parametrize("kind", TYPES)
def test_several_gradients_at_once(kind):
    adapter = build(kind)
    x = features().requires_grad_()
    inputs = (x, *adapter.parameters())
    y = adapter(x)
    several = torch.randn(3, *y.shape)
    for again in (False, True):
        found = torch.autograd.grad(y, inputs, several, is_grads_batched=True, retain_graph=True, create_graph=again)
        for i, dy in enumerate(several):
            one = torch.autograd.grad(y, inputs, dy, retain_graph=True)
            for ours, want in zip(found, one, strict=True):
                agree(ours[i], want)
        assert found[0].requires_grad == again


@pytest.mark.parametrize("kind", TYPES)
def test_operations_are_counted(kind):
    from torch.utils.flop_counter import FlopCounterMode

    adapter, rows = build(kind), 2 * (4 if kind in POOLS else 16)
    with FlopCounterMode(display=False) as counter:
        y = adapter(X)
    patches = 2 * 16 if kind == "attentional_pool" else 0  # of which keys and values are made
    maps = [layer.weight.numel() for layer in adapter.modules() if isinstance(layer, nn.Linear)]
    least = 2 * (sum(maps) * rows if not patches else (maps[0] + sum(maps[3:])) * rows + sum(maps[1:3]) * patches)
    assert least <= counter.get_total_flops() <= 1.5 * least
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
        adapter(X).sum().backward()
    assert counter.get_total_flops() >= 3 * least
    agree(y, wanted(kind, adapter))


def test_another_default_device():
    with torch.device("meta"):
        adapter, x = build("mlp_2layer"), features()
    adapter = adapter.to_empty(device="cpu")
    adapter.reset_parameters()
    x = torch.ones(2, 16, 8, requires_grad=True)
    torch.set_default_device("meta")
    try:
        with torch.no_grad():
            y = adapter(x)
            assert y.device.type == "cpu" and torch.equal(adapter(x), y)
        adapter(x).sum().backward()
    finally:
        torch.set_default_device(None)
    assert x.grad.device.type == "cpu"
    agree(y, wanted("mlp_2layer", adapter, x))


@pytest.mark.parametrize("kind", TYPES)
def test_features_without_memory_are_not_asked_for_it(kind):
    """Which PyTorch warns of."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(features())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(kind).to("meta")(features().to("meta")).is_meta
        assert build(kind)(fake).shape == build(kind)(features()).shape


def test_a_negative_view_is_resolved():
    adapter = build("linear")
    x = torch.randn(2, 16, 8, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            agree(adapter(x), wanted("linear", adapter, x.resolve_neg()))


# ---- functional transforms ----


@pytest.mark.parametrize("kind", TYPES)
def test_functional_call(kind):
    adapter, other = build(kind), build(kind, seed=4)
    state = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    y = torch.func.functional_call(adapter, state, X)
    agree(y, wanted(kind, other))
    y.square().sum().backward()
    for found, want in zip(state.values(), gradients(other, X, other)[1:], strict=True):
        assert torch.equal(found.grad, want)
    assert all(p.grad is None for p in adapter.parameters())


@pytest.mark.parametrize("kind", TYPES)
def test_transforms(kind):
    adapter = build(kind)
    state = {name: p.detach() for name, p in adapter.named_parameters()}

    def loss(state, x):
        return torch.func.functional_call(adapter, state, x).square().sum()

    found = torch.func.grad(loss)(state, X)
    for value, want in zip(found.values(), gradients(adapter, X, adapter)[1:], strict=True):
        agree(value, want)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, X[:, None])
    for value, want in zip(each.values(), found.values(), strict=True):
        agree(value.sum(dim=0), want)


@pytest.mark.parametrize("kind", TYPES)
def test_forward_mode(kind):
    adapter = build(kind)
    tangent = features(seed=9)
    _, found = torch.func.jvp(adapter, (X,), (tangent,))
    step = 1e-6
    high, low = (wanted(kind, adapter, X.double() + sign * step * tangent.double()) for sign in (1, -1))
    agree(found, (high - low) / (2 * step), 1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_activation_checkpoints(kind, reentrant):
    adapter = build(kind)

    def run(x):
        return torch.utils.checkpoint.checkpoint(adapter, x, use_reentrant=reentrant)

    for found, want in zip(gradients(adapter, X, run), gradients(adapter, X, adapter), strict=True):
        if reentrant:  # its forward runs without gradients, and so through folded layers
            agree(found, want)
        else:
            assert torch.equal(found, want)


# ---- copies and files ----


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_copies(kind, used):
    adapter = build(kind)
    if used:
        adapter(X).sum().backward()
        with torch.no_grad():
            adapter(X)
    buffer = io.BytesIO()
    torch.save(adapter, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(adapter), copy.copy(adapter), pickle.loads(pickle.dumps(adapter)), loaded):
        with torch.no_grad():
            assert torch.equal(other(X), adapter(X))
        assert repr(other) == repr(adapter)
    assert adapter.proj.weight is copy.copy(adapter).proj.weight if kind in ("linear", "avgpool") else True


@pytest.mark.parametrize("kind", TYPES)
def test_checkpoints_hold_nothing_of_ours(kind):
    """weights_only=True reads them anywhere."""
    adapter = build(kind)
    with torch.no_grad():
        adapter(X)
    buffer = io.BytesIO()
    torch.save({"state": adapter.state_dict(), "parameters": list(adapter.parameters())}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)["state"]
    other = build(kind, seed=5)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(X), adapter(X))


def test_parameters_are_shared_without_a_copy():
    adapter = build("linear")
    memory = adapter.proj.weight.detach().numpy()
    memory[:] = 2
    adapter.refresh()
    agree(adapter(X), wanted("linear", adapter))
    assert bool((adapter.proj.weight == 2).all())
