# SPDX-License-Identifier: MIT
"""What broke elsewhere, as tests under the numbers of the collected reports (docs/reliability.md), through the modules:
tensors that are not what their memory says, masks that mean something else."""

import copy

import pytest
import torch
from oracle import TYPES, agree, build, expected, features
from test_torch_tensors import negated

import tenon.torch as tt
from tenon import _C

X = features()
ADDITIVE = torch.where(torch.arange(16) % 3 == 0, -torch.inf, 0.0).expand(2, 16).contiguous()
SENTENCE = _C.MASK_SENTENCE % ("patch_mask", "float32")


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", TYPES)
def test_C19_negated_features_and_parameters(kind):
    adapter = build(kind)
    other = copy.deepcopy(adapter)
    for parameter in other.parameters():
        parameter.data = negated(parameter.data)
        assert parameter.is_neg()
    loaded = build(kind, seed=3)
    loaded.load_state_dict({name: negated(value) for name, value in adapter.state_dict().items()})
    assigned = build(kind, seed=4)
    assigned.load_state_dict({name: negated(value) for name, value in adapter.state_dict().items()}, assign=True)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for module in (adapter, other, loaded, assigned):
                assert torch.equal(module(negated(X)), adapter(X))
    state = {name: negated(value) for name, value in adapter.state_dict().items()}
    agree(torch.func.functional_call(build(kind, seed=5), state, negated(X)), adapter(X))


@pytest.mark.parametrize("kind", TYPES)
def test_C24_zeros_without_memory(kind):
    adapter = build(kind)
    zeros = torch._efficientzerotensor(X.shape)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(adapter(zeros), adapter(torch.zeros_like(X)))


def run_fast(adapter, **masks):
    with torch.no_grad():
        adapter(X)  # so that it knows its way
        return adapter(X, **masks)


def run_with_gradients(adapter, **masks):
    return adapter(X, **masks)


def run_plain(adapter, **masks):
    return copy.deepcopy(adapter).double()(X.double(), **masks)


def run_transformed(adapter, **masks):
    return torch.vmap(lambda x: adapter(x, **masks))(X[None])[0]


def run_compiled(adapter, **masks):
    return torch.compile(adapter, backend="aot_eager")(X, **masks)


def run_exported(adapter, **masks):
    return torch.export.export(adapter, (X,), masks, strict=False).module()(X, **masks)


def run_operator(adapter, patch_mask=None, frame_mask=None):
    window = 2 if hasattr(adapter, "pool_window") else 0
    place = (adapter._config(), window, 0, 0)
    how = (torch.float32, False, False)
    parameters = [p.detach() for p in adapter.parameters()]
    return torch.ops.tenon.forward.default(X, parameters, patch_mask, frame_mask, *place, *how)


WAYS = [(kind, run) for kind in TYPES for run in (run_fast, run_with_gradients, run_plain, run_transformed, run_operator)]
WAYS += [("mlp_2layer", run_compiled), ("avgpool", run_exported)]  # which take a second each


@pytest.mark.parametrize("kind, run", WAYS)
def test_C22_floating_point_masks_are_refused(kind, run):
    adapter = build(kind)
    with pytest.raises(ValueError) as told:
        run(adapter, patch_mask=ADDITIVE)
    assert str(told.value) == SENTENCE
    with pytest.raises(ValueError, match="frame_mask is float64; expected bool or integers"):
        run(adapter, frame_mask=torch.zeros(2, dtype=torch.float64))
    want = expected(tt.AdapterConfig(type=kind, pool_heads=4), list(adapter.parameters()), X, patch_mask=ADDITIVE == 0)
    for mask in (ADDITIVE == 0, (ADDITIVE == 0).to(torch.int64), -(ADDITIVE == 0).to(torch.int32)):
        agree(run(adapter, patch_mask=mask), want)


@pytest.mark.parametrize("kind", ("avgpool",))
def test_C22_the_sentence_of_a_whole_graph(kind):
    """PyTorch's own exception has ours in it."""
    adapter = build(kind)
    with pytest.raises(Exception, match="patch_mask is float32; expected bool or integers"):
        torch.compile(adapter, fullgraph=True, backend="aot_eager")(X, patch_mask=ADDITIVE)
    with torch.no_grad(), pytest.raises(Exception, match="patch_mask is float32; expected bool or integers"):
        torch.export.export(adapter, (X,), {"patch_mask": ADDITIVE}, strict=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
@pytest.mark.parametrize("kind", TYPES)
def test_C22_masked_tensors_are_refused(kind):
    masked = torch.masked.masked_tensor(X, X > 0)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="x is masked .*pass a plain array"):
            build(kind)(masked)


def test_C34_the_setting_for_newer_revisions_of_kempnerforge():
    """A window at the edge attends to the patches it has."""
    config = tt.AdapterConfig(type="attentional_pool", pool_window=3, pool_heads=4, ragged="partial")
    adapter, x = tt.build_adapter(config, 8, 5), features(tokens=196)
    assert config.output_num_tokens(196) == adapter.output_num_tokens(196) == adapter(x).shape[1] == 25
    agree(adapter(x), expected(config, list(adapter.parameters()), x))
    with pytest.raises(ValueError, match="divisible by the pool window"):
        tt.AdapterConfig(type="attentional_pool", pool_window=3).output_num_tokens(196)
